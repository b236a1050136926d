"""The parts of a body that arrives: reading, skipping, saving, wrong uses, limits and cancellation.

RFC 7578, sections 4.1 to 4.4 and 5.1.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from humphrey_trio._http._errors import HttpError
from humphrey_trio._server._parts import Parts, ReceivedPart
from tests.support.cancellation import living_tasks, no_resource_warning, open_files
from tests.support.reads import cut, one_by_one
from tests.support.steps import cancelled_at

TYPE = "multipart/form-data; boundary=b"
MIB = 2**20


def part_bytes(name: str, content: bytes, parameters: str = "") -> bytes:
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"{parameters}\r\n\r\n'
    return head.encode() + content + b"\r\n"


FILE = bytes(range(256)) * 20
BODY = part_bytes("t", "caf\u00e9".encode()) + part_bytes("f", FILE, '; filename="f.bin"') + part_bytes("e", b"")
BODY += b"--b--\r\n"


class Body:
    """A body in pieces, and how many of them were taken."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self.taken = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        piece = next(self._pieces, None)
        if piece is None:
            raise StopAsyncIteration
        self.taken += 1
        return piece


def parts_of(body: bytes | Iterable[bytes] = BODY, **settings: Any) -> Parts:
    pieces = [body] if isinstance(body, bytes) else body
    return Parts(Body(pieces), TYPE, **settings)


async def test_parts_in_order() -> None:
    """Each part has its names, and its content can be read in pieces, whole, or as text."""
    found: list[tuple[str, str | None, object]] = []
    async for part in parts_of(one_by_one(BODY)):
        if part.name == "t":
            found.append((part.name, part.filename, await part.text()))
        elif part.name == "f":
            found.append((part.name, part.filename, b"".join([piece async for piece in part])))
        else:
            found.append((part.name, part.filename, await part.read()))
        assert part.content_type == "text/plain"
        assert part.headers["Content-Disposition"].startswith("form-data")
    assert found == [("t", None, "caf\u00e9"), ("f", "f.bin", FILE), ("e", None, b"")]


@settings(max_examples=50, deadline=None, database=None)
@given(st.lists(st.integers(min_value=0, max_value=2**14), max_size=8))
def test_splits(places: list[int]) -> None:
    """The parts do not depend on how the body is split into reads."""

    async def contents() -> list[bytes]:
        return [await part.read() async for part in parts_of(cut(BODY, places))]

    assert trio.run(contents) == ["caf\u00e9".encode(), FILE, b""]


async def test_unread_rests_are_skipped() -> None:
    """What is not read of a part is skipped when the next part is asked for."""
    names: list[str] = []
    async for part in parts_of(cut(BODY, range(0, len(BODY), 100))):
        names.append(part.name)
        async for _ in part:
            break
    assert names == ["t", "f", "e"]


async def test_parts_read_only_on_demand() -> None:
    """The body is read only as far as its parts are asked for."""
    body = Body([BODY[:10], BODY[10:100], *one_by_one(BODY[100:])])
    parts = Parts(body, TYPE)
    assert body.taken == 0
    await anext(parts)
    assert body.taken == 2


async def test_a_part_that_was_read_is_empty() -> None:
    """Until the next part is asked for, the rest of a part that was read is empty."""
    part = await anext(parts_of())
    assert await part.read()
    assert await part.read() == b""
    assert [piece async for piece in part] == []


async def test_an_old_part_cannot_be_read() -> None:
    """A part that was left behind is a clear error, and so is the last one after the end."""
    parts = parts_of()
    first = await anext(parts)
    await anext(parts)
    with pytest.raises(RuntimeError, match="this part is over, because the next one was asked for"):
        await first.read()
    last = [part async for part in parts][-1]
    with pytest.raises(RuntimeError, match="this part is over"):
        await anext(last)
    with pytest.raises(StopAsyncIteration):
        await anext(parts)


async def test_two_readers() -> None:
    """A second task that reads at the same time gets an error, and the first one is not disturbed."""

    async def endless() -> AsyncGenerator[bytes]:
        yield BODY[: BODY.index(b"caf") + 1]
        await trio.sleep_forever()

    pieces = endless()
    parts = Parts(pieces, TYPE)
    part = await anext(parts)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(part.read)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError, match="another task is reading"):
            await anext(parts)
        nursery.cancel_scope.cancel()
    await pieces.aclose()


class Reading:
    """Reads all parts of a body, and can go on after it was cancelled."""

    def __init__(self, parts: Parts) -> None:
        self.contents: list[bytes] = []
        self._parts = parts
        self._part: ReceivedPart | None = None

    async def run(self) -> None:
        while True:
            if self._part is None:
                self._part = await anext(self._parts, None)
                if self._part is None:
                    return
                self.contents.append(b"")
            async for piece in self._part:
                self.contents[-1] += piece
            self._part = None


@pytest.mark.parametrize("resumed", [False, True])
async def test_a_cancelled_read_can_be_continued(resumed: bool) -> None:
    """A read that is cancelled at any checkpoint loses nothing."""
    body = part_bytes("a", b"first" * 10) + part_bytes("b", b"") + part_bytes("c", b"third") + b"--b--"
    for step in itertools.count(1):
        reading = Reading(parts_of(cut(body, range(0, len(body), 7))))
        reached = await cancelled_at(step, reading.run, resumed=resumed)
        await reading.run()
        assert reading.contents == [b"first" * 10, b"", b"third"]
        if not reached:
            break
    assert step > 20


# ---------------------------------------------------------------------------------------------- limits


async def test_limit_of_a_read() -> None:
    """A part that is larger than the limit of a read is a 413."""
    parts = parts_of(part_bytes("n", b"12345") + b"--b--")
    assert await (await anext(parts)).read(limit=5) == b"12345"
    part = await anext(parts_of(one_by_one(part_bytes("n", b"12345") + b"--b--")))
    with pytest.raises(HttpError, match="the part 'n' is larger than 4 bytes") as caught:
        await part.read(limit=4)
    assert caught.value.status == 413


async def test_limit_of_parts() -> None:
    """More parts than allowed are a 413."""
    parts = parts_of(max_parts=1)
    await anext(parts)
    with pytest.raises(HttpError) as caught:
        await anext(parts)
    assert caught.value.status == 413


@pytest.mark.parametrize(
    ("content_type", "status"), [("", 415), ("text/plain", 415), ("multipart/form-data", 400)]
)
def test_types_that_are_refused(content_type: str, status: int) -> None:
    """Another media type, or none with a boundary, is an error at once."""
    with pytest.raises(HttpError) as caught:
        Parts(Body([]), content_type)
    assert caught.value.status == status


async def test_a_body_that_ends_early() -> None:
    """A body without its last boundary is a 400, at every further use, too."""
    part = await anext(parts := parts_of([BODY[:57]]))
    for _ in range(2):
        with pytest.raises(HttpError, match="ends before its last boundary"):
            await part.read()
    with pytest.raises(HttpError, match="ends before its last boundary"):
        await anext(parts)


async def test_text_that_is_not_utf_8() -> None:
    """A text in another encoding is a 400."""
    part = await anext(parts_of(part_bytes("n", b"\xff") + b"--b--"))
    with pytest.raises(HttpError, match="the field 'n' is not utf-8"):
        await part.text()


async def test_memory_is_bounded() -> None:
    """Of a part that is read in pieces, no piece is larger than those of the body."""
    body = part_bytes("f", bytes(MIB)) + b"--b--"
    part = await anext(parts_of(cut(body, range(0, len(body), 1000))))
    assert max([len(piece) async for piece in part]) <= 1000 + len("\r\n--b")


# ---------------------------------------------------------------------------------------------- saving


async def save_first(body: Iterable[bytes], path: Path, limit: int | None = None, *, replace: bool = False) -> int:
    async for part in parts_of(body):
        return await part.save(path, limit=limit, replace=replace)
    raise AssertionError


@pytest.mark.parametrize("size", [0, 1, 256 * 1024, MIB + 1])
async def test_save(tmp_path: Path, size: int) -> None:
    """A part is written to a new file, and its size is returned."""
    content = bytes(itertools.islice(itertools.cycle(range(256)), size))
    body = part_bytes("f", content) + b"--b--"
    path = tmp_path / "file"
    assert await save_first(cut(body, range(0, len(body), 50_000)), path) == size
    assert path.read_bytes() == content


async def test_save_replaces_nothing(tmp_path: Path) -> None:
    """A file that exists is an error, and stays as it is."""
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        await save_first([BODY], path)
    assert path.read_text() == "precious"


async def test_a_save_that_fails_leaves_no_file(tmp_path: Path) -> None:
    """If the body ends early, the file is removed and closed."""
    before = open_files()
    with no_resource_warning(), pytest.raises(HttpError):
        await save_first([BODY[:57]], tmp_path / "file")
    assert open_files() == before
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("size", [100, MIB])
async def test_a_save_has_a_limit(tmp_path: Path, size: int) -> None:
    """A part that is larger than the limit of ``save`` is a 413, and its file is removed."""
    body = part_bytes("f", bytes(size)) + b"--b--"
    pieces = cut(body, range(0, len(body), 50_000))
    assert await save_first(pieces, tmp_path / "file", size) == size
    before = open_files()
    with no_resource_warning(), pytest.raises(HttpError) as refused:
        await save_first(pieces, tmp_path / "larger", size - 1)
    assert (refused.value.status, refused.value.detail) == (413, f"the part 'f' is larger than {size - 1} bytes")
    assert open_files() == before
    assert os.listdir(tmp_path) == ["file"]


async def test_a_cancelled_save_leaves_no_file(tmp_path: Path) -> None:
    """Cancelled at any checkpoint, a save leaves no file, no descriptor and no task."""
    body = part_bytes("f", bytes(2 * MIB)) + b"--b--"
    pieces = cut(body, range(0, len(body), 300_000))
    path = tmp_path / "file"
    await save_first(pieces, path)  # which starts the worker thread that the later ones use
    path.unlink()
    before, tasks = open_files(), living_tasks()
    with no_resource_warning():
        for step in itertools.count(1):
            reached = await cancelled_at(step, lambda: save_first(pieces, path))
            assert open_files() == before
            assert living_tasks() == tasks
            if not reached:
                break
            # At the last checkpoints, the whole file was written before the cancellation.
            assert not path.exists() or path.stat().st_size == 2 * MIB
            path.unlink(missing_ok=True)
    assert step > 10
    assert path.stat().st_size == 2 * MIB


async def test_save_with_replace(tmp_path: Path) -> None:
    """With ``replace``, a save replaces a file, or creates it."""
    path = tmp_path / "file"
    for content in (b"old", b"new"):
        body = part_bytes("f", content) + b"--b--"
        assert await save_first([body], path, replace=True) == 3
        assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["file"]


async def test_a_cancelled_replacement(tmp_path: Path) -> None:
    """Cancelled at any checkpoint, a save with ``replace`` leaves the old file or the whole new one."""
    body = part_bytes("f", bytes(2 * MIB)) + b"--b--"
    pieces = cut(body, range(0, len(body), 300_000))
    path = tmp_path / "file"
    await save_first(pieces, path, replace=True)
    before = open_files()
    for step in itertools.count(1):
        path.write_bytes(b"old")
        reached = await cancelled_at(step, lambda: save_first(pieces, path, replace=True))
        assert (open_files(), os.listdir(tmp_path)) == (before, ["file"])
        if not reached:
            break
        assert path.stat().st_size in (3, 2 * MIB)
    assert step > 10
    assert path.stat().st_size == 2 * MIB


async def test_a_replacement_that_fails(tmp_path: Path) -> None:
    """If the body is larger than the limit or the path is a directory, what is there stays."""
    path, directory = tmp_path / "file", tmp_path / "directory"
    path.write_bytes(b"old")
    directory.mkdir()
    with pytest.raises(HttpError):
        await save_first([part_bytes("f", b"larger") + b"--b--"], path, 5, replace=True)
    with pytest.raises(IsADirectoryError):
        await save_first([part_bytes("f", b"") + b"--b--"], directory, replace=True)
    assert path.read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["directory", "file"]


async def test_parts_are_shown() -> None:
    """A part shows its names and its type."""
    part = await anext(parts_of())
    assert isinstance(part, ReceivedPart)
    assert repr(part) == "Part(name='t', filename=None, content_type='text/plain')"

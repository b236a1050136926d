"""Paths of requests below a directory: what names they are, and that nothing outside is opened.

RFC 3986, sections 2.4 and 5.2.4; RFC 3629, section 3.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from humphrey_trio.handlers import serve_as_file_path, serve_dir
from humphrey_trio.http import Request, Response
from tests.support.answers import answered

SECRET = b"secret"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory with a file in each of two levels, and a secret next to it."""
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "a.txt").write_bytes(b"a")
    (root / "sub" / "b.txt").write_bytes(b"b")
    (tmp_path / "secret.txt").write_bytes(SECRET)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_bytes(SECRET)
    return root


async def get(root: Path, path: str, pattern: str = "/*", **options: Any) -> Response:
    return await answered(serve_dir(root, **options)(Request(path=path), None, pattern))


class FileSystemCalls:
    """Counts the calls that name a file."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        for name in ("open", "stat", "readlink"):
            monkeypatch.setattr(os, name, self._counting(getattr(os, name)))

    def _counting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return function(*args, **kwargs)

        return counting


# ------------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize(
    ("pattern", "path", "content"),
    [
        ("/*", "/a.txt", b"a"),
        ("*", "/a.txt", b"a"),
        ("/static/*", "/static/a.txt", b"a"),
        ("/static/*", "/static/sub/b.txt", b"b"),
        ("/static*", "/static/a.txt", b"a"),
        ("/static/{path*}", "/static/sub/b.txt", b"b"),
        ("/caf\u00e9/*", "/caf%C3%A9/a.txt", b"a"),
        ("/caf%C3%A9/*", "/caf%C3%A9/a.txt", b"a"),
        ("/*.txt", "/a.txt", b"a"),
        ("/other/*", "/sub/b.txt", b"b"),
        ("/*", "/%61.txt", b"a"),
        ("/*", "/sub/%62%2etxt", b"b"),
    ],
)
async def test_path_follows_the_prefix(root: Path, pattern: str, path: str, content: bytes) -> None:
    """The path below the directory is what follows the literal prefix of the pattern, decoded."""
    response = await get(root, path, pattern)
    assert (response.status, response.content) == (200, content)


async def test_a_file_has_one_path(root: Path) -> None:
    """A path that continues the literal prefix of a pattern without a slash names no file, so a guard sees all."""
    assert (await get(root, "/statica.txt", "/static*")).status == 404
    assert (await get(root, "/staticsub/b.txt", "/static*")).status == 404


NAMES = {
    "nothing": "/none.txt",
    "parent": "/../secret.txt",
    "parent below": "/sub/../../secret.txt",
    "parent that returns": "/sub/../a.txt",
    "encoded parent": "/%2e%2e/secret.txt",
    "half encoded parent": "/.%2e/secret.txt",
    "parent at the end": "/sub/..",
    "parent with a slash": "/sub/../",
    "dot": "/./a.txt",
    "encoded dot": "/%2e/a.txt",
    "dot at the end": "/sub/.",
    "encoded slash": "/sub%2fb.txt",
    "encoded slashes": "/..%2fsecret.txt",
    "empty segment": "//a.txt",
    "empty segment inside": "/sub//b.txt",
    "empty segments at the end": "/sub//",
    "absolute": "//etc/passwd",
    "encoded absolute": "/%2fetc/passwd",
    "backslash": "/..\\secret.txt",
    "encoded backslash": "/..%5csecret.txt",
    "backslash in a name": "/sub%5cb.txt",
    "share": "/%5c%5chost/share",
    "drive": "/C:/a.txt",
    "encoded drive": "/c%3a/a.txt",
    "drive and name": "/c:a.txt",
    "NUL": "/a.txt%00",
    "NUL inside": "/a.txt%00.png",
    "raw NUL": "/a\0.txt",
    "decoded twice": "/%252e%252e/secret.txt",
    "slash decoded twice": "/sub%252fb.txt",
    "name decoded twice": "/%2561.txt",
    "overlong dot": "/%c0%ae%c0%ae/secret.txt",
    "overlong slash": "/..%c0%afsecret.txt",
    "longer overlong slash": "/..%e0%80%afsecret.txt",
    "not UTF-8": "/%ff.txt",
    "encoded surrogate": "/%ed%a0%80.txt",
    "raw surrogate": "/\udc80.txt",
    "cut escape": "/a.txt%",
    "half an escape": "/a.txt%2",
    "bad escape": "/%zz.txt",
    "unicode escape": "/%u002e%u002e/secret.txt",
    "fullwidth dots": "/%ef%bc%8e%ef%bc%8e/secret.txt",
    "division slash": "/sub%e2%88%95b.txt",
    "file with a slash": "/a.txt/",
    "file as a directory": "/a.txt/b.txt",
    "semicolons": "/..;/secret.txt",
    "long name": "/" + "a" * 300,
    "long path": "/a" * 3000,
    "long path of what exists": "/sub" * 3000,
    "hidden": "/.hidden",
    "hidden directory": "/.git/config",
    "encoded hidden": "/%2ehidden",
    "hidden below": "/sub/.hidden",
}


@pytest.mark.parametrize("name", NAMES)
async def test_not_found(root: Path, name: str) -> None:
    """What is not the path of a file below the directory is a 404."""
    for folder in (root, root / "sub"):
        (folder / ".hidden").write_bytes(SECRET)
    (root / ".git").mkdir()
    (root / ".git" / "config").write_bytes(SECRET)
    assert (await get(root, NAMES[name])).status == 404


#: These are legal names of files that happen not to exist.
LEGAL = {
    *("nothing", "file with a slash", "file as a directory", "long name", "long path", "long path of what exists"),
    *("decoded twice", "slash decoded twice", "name decoded twice", "fullwidth dots", "division slash"),
}


@pytest.mark.parametrize("name", NAMES)
async def test_no_file_system_call(root: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What cannot be the path of a file is a 404 without a look at the directory."""
    handler = serve_dir(root)
    calls = FileSystemCalls(monkeypatch)
    assert (await answered(handler(Request(path=NAMES[name]), None, "/*"))).status == 404
    assert (calls.count > 0) == (name in LEGAL)


@pytest.mark.parametrize(
    "name", ["a..b.txt", "10:30.txt", "...", "..;", "a b", "%41", "caf\u00e9", "\n", "~", "-", "*"]
)
async def test_unusual_names(root: Path, name: str) -> None:
    """A legal name is served, however unusual it is."""
    (root / name).write_bytes(b"content")
    path = "/" + "".join(f"%{byte:02x}" for byte in name.encode())
    response = await get(root, path, hidden=True)
    assert (response.status, response.content) == (200, b"content")


async def test_hidden_names(root: Path) -> None:
    """Names with a dot in front are served with ``hidden=True``, and .well-known always."""
    for folder in (".git", ".well-known"):
        (root / folder).mkdir()
        (root / folder / "file").write_bytes(b"content")
    assert (await get(root, "/.git/file")).status == 404
    assert (await get(root, "/.git/file", hidden=True)).content == b"content"
    assert (await get(root, "/.well-known/file")).content == b"content"


async def test_humphreys_file_paths(root: Path) -> None:
    """serve_as_file_path takes the whole path, or what follows the prefix; it knows no index, and stays inside."""
    handler = serve_as_file_path(root)
    (root / "sub" / "index.html").write_bytes(b"index")
    assert (await answered(handler(Request(path="/sub/b.txt"), None))).content == b"b"
    assert (await answered(handler(Request(path="/static/sub/b.txt"), None, "/static/*"))).content == b"b"
    for path in ("/sub", "/sub/", "/", "/sub/../../secret.txt", "/%2e%2e/secret.txt"):
        assert (await answered(handler(Request(path=path), None))).status == 404


@pytest.mark.parametrize(
    ("path", "query", "location"),
    [
        ("/sub", "", "sub/"),
        ("/sub", "a=b&c=%20?/", "sub/?a=b&c=%20?/"),
        ("/%73ub", "", "%73ub/"),
        ("/a%20b", "", "a%20b/"),
        ("/a%20b", "x\r\nSet-Cookie: y", "a%20b/?x%0D%0ASet-Cookie:%20y"),
        ("/http:", "", "http%3A/"),
        ("/a#b", "c#d", "a%23b/?c%23d"),
        ("/evil.example", "", "evil.example/"),
    ],
)
async def test_directories_get_a_slash(root: Path, path: str, query: str, location: str) -> None:
    """A directory without a slash is redirected to itself with one, relative to the path, with its query."""
    for name in ("a b", "http:", "a#b", "evil.example"):
        (root / name).mkdir()
    response = await answered(serve_dir(root)(Request(path=path, query=query), None, "/*"))
    assert (response.status, response.headers["Location"]) == (302, location)


async def test_the_directory_itself_gets_a_slash(root: Path) -> None:
    """The directory itself is redirected to its path with a slash, if the pattern allows the path without one."""
    response = await get(root, "/static", "/static*")
    assert (response.status, response.headers["Location"]) == (302, "static/")


async def test_index(root: Path) -> None:
    """The first index file that exists is sent for a directory; without one, it is a 404."""
    assert (await get(root, "/")).status == 404
    (root / "index.htm").write_bytes(b"old")
    (root / "index.html").mkdir()
    names = ("index.html", "index.htm")
    assert (await get(root, "/", index=names)).content == b"old"
    (root / "index.html").rmdir()
    (root / "index.html").write_bytes(b"new")
    response = await get(root, "/static/", "/static/*", index=names)
    assert (response.content, response.headers["Content-Type"]) == (b"new", "text/html; charset=utf-8")
    assert (await get(root, "/sub", index=())).status == 404


# ------------------------------------------------------------------------------------------------- links


def linked(root: Path, link: str, target: str | Path) -> None:
    (root / link).parent.mkdir(exist_ok=True, parents=True)
    (root / link).symlink_to(target)


@pytest.mark.parametrize(
    ("link", "target", "path", "content"),
    [
        ("link", "a.txt", "/link", b"a"),
        ("link", "sub/b.txt", "/link", b"b"),
        ("link", "sub", "/link/b.txt", b"b"),
        ("sub/link", "../a.txt", "/sub/link", b"a"),
        ("link", "./sub/../sub//b.txt", "/link", b"b"),
        ("x/y/link", "../../sub", "/x/y/link/b.txt", b"b"),
        ("x/link", "..", "/x/link/sub/b.txt", b"b"),
        ("link", ".", "/link/link/link/a.txt", b"a"),
    ],
)
async def test_links_inside(root: Path, link: str, target: str, path: str, content: bytes) -> None:
    """A link that stays inside the directory is followed."""
    linked(root, link, target)
    response = await get(root, path)
    assert (response.status, response.content) == (200, content)


async def test_absolute_links_inside(root: Path, tmp_path: Path) -> None:
    """An absolute link inside is followed, by the path of the argument and by the real path."""
    linked(tmp_path, "www", root)
    linked(root, "real", root / "sub" / "b.txt")
    linked(root, "given", tmp_path / "www" / "sub")
    linked(root, "chain", "given")
    served = tmp_path / "www"
    assert (await get(served, "/real")).content == b"b"
    assert (await get(served, "/given/b.txt")).content == b"b"
    assert (await get(served, "/chain/b.txt")).content == b"b"


OUTSIDE = [
    "../secret.txt",
    "sub/../../secret.txt",
    "../root2/secret.txt",
    "/etc/passwd",
    "/",
    "..",
    "{root}/../secret.txt",
]


@pytest.mark.parametrize("target", [*OUTSIDE, "{root}2/secret.txt", "../outside/secret.txt"])
async def test_links_outside(root: Path, tmp_path: Path, target: str) -> None:
    """A link that leads out of the directory is a 404, and so are the paths below it."""
    (tmp_path / "root2").mkdir()
    (tmp_path / "root2" / "secret.txt").write_bytes(SECRET)
    linked(root, "link", target.format(root=root))
    linked(root, "second", "link")
    for path in ("/link", "/second", "/link/secret.txt", "/link/outside/secret.txt"):
        assert (await get(root, path)).status == 404


async def test_outside_links(root: Path) -> None:
    """With ``outside_links=True``, links are followed wherever they lead."""
    linked(root, "file", "../secret.txt")
    linked(root, "directory", "../outside")
    for path in ("/file", "/directory/secret.txt"):
        assert (await get(root, path, outside_links=True)).content == SECRET
    assert (await get(root, "/../secret.txt", outside_links=True)).status == 404


@pytest.mark.parametrize("outside_links", [False, True])
@pytest.mark.parametrize("targets", [["l0"], ["l1", "l0"], ["./l0/l0"], ["l0/.."], ["l1/l1", "l0/l0"], ["none"]])
async def test_link_loops(root: Path, targets: list[str], outside_links: bool) -> None:
    """A link that never ends, or whose target does not exist, is a 404."""
    for at, target in enumerate(targets):
        linked(root, f"l{at}", target)
    assert (await get(root, "/l0", outside_links=outside_links)).status == 404
    assert (await get(root, "/l0/a.txt", outside_links=outside_links)).status == 404


async def test_precompressed_links_outside(root: Path) -> None:
    """A precompressed file is a file like any other: a link out of the directory is not followed."""
    linked(root, "a.txt.gz", "../secret.txt")
    request = Request(path="/a.txt", headers=_accepting_gzip())
    assert (await answered(serve_dir(root)(request, None, "/*"))).content == b"a"
    allowed = await answered(serve_dir(root, outside_links=True)(request, None, "/*"))
    assert (allowed.content, allowed.headers["Content-Encoding"]) == (SECRET, "gzip")


def _accepting_gzip() -> Any:
    return Request().headers.with_header("Accept-Encoding", "gzip")


# ------------------------------------------------------------------------------------- what is not a file


@pytest.mark.parametrize("outside_links", [False, True])
@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "device behind a link"])
async def test_special_files_are_not_opened(root: Path, kind: str, outside_links: bool) -> None:
    """A FIFO, a socket and a device are a 404 at once, and are not opened."""
    path = root / "special"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        short = tempfile.mkdtemp(dir="/tmp")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(f"{short}/s")
        os.rename(f"{short}/s", path)
        os.rmdir(short)
    else:
        path.symlink_to("/dev/zero")
    with trio.fail_after(10):
        assert (await get(root, "/special", outside_links=outside_links)).status == 404
        assert (await get(root, "/special/", outside_links=outside_links)).status == 404


def replaced_after(
    monkeypatch: pytest.MonkeyPatch, call: str, name: bytes, replace: Callable[[], object]
) -> Callable[[], bool]:
    """Replace a file right after a call that names it; what is returned tells whether it happened."""
    function = getattr(os, call)
    happened: list[object] = []

    def replacing(path: Any, *args: Any, **kwargs: Any) -> Any:
        result = function(path, *args, **kwargs)
        if path == name and not happened:
            happened.append(None)
            replace()
        return result

    monkeypatch.setattr(os, call, replacing)
    return lambda: bool(happened)


@pytest.mark.parametrize("replacement", ["link", "fifo", "nothing", "directory"])
async def test_a_file_is_replaced(root: Path, monkeypatch: pytest.MonkeyPatch, replacement: str) -> None:
    """A file that is replaced between two steps is not followed anywhere, and no step waits."""
    path = root / "a.txt"

    def replace() -> None:
        path.unlink()
        if replacement == "link":
            path.symlink_to("../secret.txt")
        elif replacement == "fifo":
            os.mkfifo(path)
        elif replacement == "directory":
            path.mkdir()

    handler = serve_dir(root)
    happened = replaced_after(monkeypatch, "stat", b"a.txt", replace)
    with trio.fail_after(10):
        assert (await answered(handler(Request(path="/a.txt"), None, "/*"))).status == 404
    assert happened()


@pytest.mark.parametrize("call", ["stat", "open"])
async def test_a_directory_is_replaced(root: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """A directory that is replaced is not followed; once it is open, its replacement does not matter."""

    def replace() -> None:
        (root / "sub").rename(root / "old")
        (root / "sub").symlink_to("../outside")
        (root / "old" / "secret.txt").write_bytes(b"inside")

    handler = serve_dir(root)
    happened = replaced_after(monkeypatch, call, b"sub", replace)
    response = await answered(handler(Request(path="/sub/secret.txt"), None, "/*"))
    assert happened()
    assert response.status == 404 if call == "stat" else response.content == b"inside"


async def test_a_link_is_replaced(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link inside that becomes a link outside before it is read is found to be one."""
    linked(root, "link", "a.txt")

    def replace() -> None:
        (root / "link").unlink()
        linked(root, "link", "../secret.txt")

    handler = serve_dir(root)
    happened = replaced_after(monkeypatch, "stat", b"link", replace)
    assert (await answered(handler(Request(path="/link"), None, "/*"))).status == 404
    assert happened()


async def test_the_directory_is_replaced(root: Path, tmp_path: Path) -> None:
    """The directory may be a link that is switched to another release while the server runs."""
    (tmp_path / "next").mkdir()
    (tmp_path / "next" / "a.txt").write_bytes(b"next")
    linked(tmp_path, "current", "root")
    handler = serve_dir(tmp_path / "current")
    assert (await answered(handler(Request(path="/a.txt"), None, "/*"))).content == b"a"
    (tmp_path / "current").unlink()
    assert (await answered(handler(Request(path="/a.txt"), None, "/*"))).status == 404
    linked(tmp_path, "current", "next")
    assert (await answered(handler(Request(path="/a.txt"), None, "/*"))).content == b"next"


# -------------------------------------------------------------------------------------------- properties

_NAMES = st.sampled_from(["a", "b", "c", "dir", "secret", ".x"])
_TARGET_PARTS = st.lists(
    st.sampled_from(["a", "b", "c", "dir", "..", ".", "secret", "out", "root", ""]), max_size=5
)
_TARGETS = st.builds(
    lambda start, parts: start + "/".join(parts),
    st.sampled_from(["", "", "", "/", "{base}/", "{base}/root/", "{base}/www/", "{base}/out/"]),
    _TARGET_PARTS,
)
_ENTRIES = st.one_of(
    st.tuples(st.just("file"), st.just("")),
    st.tuples(st.just("dir"), st.just("")),
    st.tuples(st.just("link"), _TARGETS),
)
_TREES = st.lists(st.tuples(st.lists(_NAMES, min_size=1, max_size=3), _ENTRIES), max_size=12)
_SEGMENTS = st.one_of(
    _NAMES,
    st.sampled_from(
        ["..", ".", "", "%2e%2e", "%2e", "%2f", "..%2f", "%5c", "\\", "%00", "%c0%ae", "%ff", "%252e"]
    ),
    st.text(alphabet=st.sampled_from("ab./\\%25c0e:~\0\u00e9\ud800"), max_size=6),
)
_PATHS = st.builds(lambda parts: "/" + "/".join(parts), st.lists(_SEGMENTS, max_size=6))


def grow(root: Path, tree: list[tuple[list[str], tuple[str, str]]]) -> None:
    """Create the files, directories and links of a tree, as far as they are possible."""
    for names, (kind, target) in tree:
        path = root.joinpath(*names)
        try:
            if any(parent.is_symlink() for parent in path.parents if parent != root):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "file":
                path.write_bytes(b"inside")
            elif kind == "dir":
                path.mkdir()
            elif target:
                path.symlink_to(target.format(base=root.parent))
        except OSError:
            continue


@pytest.fixture(scope="module")
def opened() -> Iterator[list[str]]:
    """The real paths of all that ``os.open`` opened."""
    paths: list[str] = []
    original = os.open

    def recording(*args: Any, **kwargs: Any) -> int:
        descriptor = original(*args, **kwargs)
        paths.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        return descriptor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", recording)
        yield paths


@pytest.mark.skipif(sys.platform != "linux", reason="the paths of descriptors are in /proc")
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tree=_TREES, paths=st.lists(_PATHS, min_size=1, max_size=8), hidden=st.booleans())
def test_paths_outside_are_not_opened(
    opened: list[str], tree: list[tuple[list[str], tuple[str, str]]], paths: list[str], hidden: bool
) -> None:
    """Whatever a directory contains and whatever is requested, nothing outside the directory is opened."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder).resolve()
        for name in ("root", "out"):
            (base / name).mkdir()
        for secret in ("secret", "out/secret", "out/a"):
            (base / secret).write_bytes(SECRET)
        (base / "www").symlink_to("root")
        grow(base / "root", tree)
        handler = serve_dir(base / "www", hidden=hidden, index=("a", "b"))

        async def request_all() -> list[Response]:
            return [
                await answered(handler(Request(path=path, headers=_accepting_gzip()), None, "/*"))
                for path in paths
            ]

        opened.clear()
        responses = trio.run(request_all)
        assert {
            path for path in opened if path != str(base / "root") and not path.startswith(f"{base}/root/")
        } == set()
        assert {response.status for response in responses} <= {200, 302, 404}
        assert {response.content for response in responses if response.status == 200} <= {b"inside"}

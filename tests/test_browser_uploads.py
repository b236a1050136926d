"""A browser uploads: forms with files and names in any script, and uploads that are refused early."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from humphrey_trio import App, Request, Response
from tests.support.browser import Browser, needs_chromium
from tests.support.http_clients import serving
from tests.support.visits import page

pytestmark = needs_chromium

MIB = 2**20
# Names with characters that browsers encode in forms (HTML standard, section 4.10.22.8), and others.
NAMES = ['Übersicht 2026 "neu".txt', "写真\U0001f984\\100%.png"]
FIELD = 'Grüße "you" 你'

# A text field, two files under one name, and a file input without a file.
SEND = """
    document.body.innerHTML = `<form><input type="file" name="none"></form>`
    const form = new FormData(document.forms[0])
    form.append(field, "one\\ntwo 😀")
    form.append("files", new File(["first"], names[0], {type: "text/plain"}))
    form.append("files", new File([new Uint8Array(size).fill(7)], names[1], {type: "image/png"}))
    const response = await fetch(url, {method: "POST", body: form})
    return [response.status, await response.json()]
"""
Entry = list[Any]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def whole_form(request: Request) -> Response:
    form = request.form()
    entries: list[Entry] = [[name, None, "text", digest(text.encode())] for name, text in form]
    for name, file in form.files:
        entries.append([name, file.filename, file.content_type, digest(file.content)])
    return Response.json(entries)


async def parts_of_a_form(request: Request) -> Response:
    entries: list[Entry] = []
    async for part in request.parts():
        if part.filename is None:
            entries.append([part.name, None, "text", digest((await part.text()).encode())])
            continue
        total = hashlib.sha256()
        async for piece in part:
            total.update(piece)
        if part.filename:
            entries.append([part.name, part.filename, part.content_type, total.hexdigest()])
    return Response.json(entries)


def form_app() -> App:
    return (
        App()
        .with_stateless_route("/", page)
        .with_stateless_route("/form", whole_form, methods=("POST",), max_body=10 * MIB)
        .with_stateless_route("/parts", parts_of_a_form, methods=("POST",), max_body=100 * MIB, stream=True)
    )


@pytest.mark.parametrize(
    ("path", "size"), [("/form", 3 * MIB), ("/parts", 3), ("/parts", 50 * MIB)], ids=["form", "parts", "big parts"]
)
async def test_form_with_files(browser: Browser, path: str, size: int) -> None:
    """The handler gets the names of fields and files, their types and their contents as the page has them."""
    async with serving(form_app()) as (address,), browser.profile() as profile:
        tab = await profile.open(f"http://{address}/")
        status, entries = await tab.run(SEND, url=path, field=FIELD, names=NAMES, size=size)
    assert status == 200
    assert entries == [
        [FIELD, None, "text", digest("one\r\ntwo \U0001f600".encode())],  # line ends are CRLF in forms
        ["files", NAMES[0], "text/plain", digest(b"first")],
        ["files", NAMES[1], "image/png", digest(bytes([7]) * size)],
    ]


async def test_urlencoded_form(browser: Browser) -> None:
    """The handler gets the fields of a form that the page submits without files."""
    pairs = [["name", "Grüße & 你 + 1 = 2%"], ["name", "a\r\nb"], ["ключ", ""]]
    app = (
        App()
        .with_stateless_route("/", page)
        .with_stateless_route("/form", lambda request: Response.json([list(pair) for pair in request.form()]))
    )
    async with serving(app) as (address,), browser.profile() as profile:
        tab = await profile.open(f"http://{address}/")
        found = await tab.run(
            "return await (await fetch('/form', {method: 'POST', body: new URLSearchParams(pairs)})).json()",
            pairs=pairs,
        )
    assert found == pairs


# The page sends as many uploads as a test wants, one after the other, and returns their statuses.
UPLOAD = """
    const body = new Blob([new Uint8Array(size)])
    const answers = []
    for (let number = 0; number < uploads; number++) {
        const response = await fetch(url, {method: "POST", body})
        answers.push([response.status, (await response.text()).trim()])
    }
    return answers
"""


async def refuse_at_once(request: Request) -> Response:
    return Response(403, "not you")


async def refuse_in_the_middle(request: Request) -> Response:
    received = 0
    async for piece in request.body:
        received += len(piece)
        if received > 5 * MIB:
            break
    return Response(422, "not this")


REFUSALS: list[tuple[str, int, str, int]] = [
    ("/form", 413, "413 ", 2 * MIB),
    ("/form", 413, "413 ", 40 * MIB),
    ("/parts", 413, "413 ", 2 * MIB),
    ("/parts", 413, "413 ", 40 * MIB),
    ("/at-once", 403, "not you", 2 * MIB),
    ("/at-once", 403, "not you", 40 * MIB),
    ("/in-the-middle", 422, "not this", 40 * MIB),
]


@pytest.mark.parametrize(("path", "status", "text", "size"), REFUSALS)
async def test_upload_that_is_refused(browser: Browser, path: str, status: int, text: str, size: int) -> None:
    """The page reads each response, although the server has not read the upload."""
    app = (
        App()
        .with_stateless_route("/", page)
        .with_stateless_route("/form", whole_form, methods=("POST",))
        .with_stateless_route("/parts", parts_of_a_form, methods=("POST",), stream=True)
        .with_stateless_route("/at-once", refuse_at_once, methods=("POST",), stream=True, max_body=100 * MIB)
        .with_stateless_route(
            "/in-the-middle", refuse_in_the_middle, methods=("POST",), stream=True, max_body=100 * MIB
        )
    )
    async with serving(app) as (address,), browser.profile() as profile:
        tab = await profile.open(f"http://{address}/")
        answers = await tab.run(UPLOAD, url=path, size=size, uploads=3)
    assert [answer[0] for answer in answers] == [status] * 3
    assert all(answer[1].startswith(text) for answer in answers)

"""Forms: bodies as browsers and other clients send them, limits, and the values that hold them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from humphrey_trio._http._errors import HttpError
from humphrey_trio._http._form import Files, Form
from humphrey_trio._http._form_parser import FormSettings, parse_form
from humphrey_trio.http import Headers, UploadedFile
from tests.support.cancellation import open_files

MULTIPART = "multipart/form-data; boundary=b"
URLENCODED = "application/x-www-form-urlencoded"
TWO_FIELDS = b'--b\r\nContent-Disposition: form-data; name="n"\r\n\r\n1\r\n' * 2 + b"--b--\r\n"


def files_of(form: Form) -> list[tuple[str, str, str, bytes]]:
    return [(file.name, file.filename, file.content_type, file.content) for _, file in form.files]


# --------------------------------------------------------------------------------------------- clients

#: Bodies that were recorded, with ``\\n`` for the line ends of the multipart format.
CHROME = """------WebKitFormBoundaryg5hscN2Vd10cn4p0
Content-Disposition: form-data; name="title"

caf\u00e9
line
------WebKitFormBoundaryg5hscN2Vd10cn4p0
Content-Disposition: form-data; name="q%22uote%0D%0A"

1
------WebKitFormBoundaryg5hscN2Vd10cn4p0
Content-Disposition: form-data; name="file"; filename="a%22b\\ \u00e9.txt"
Content-Type: text/plain

x
--y
------WebKitFormBoundaryg5hscN2Vd10cn4p0
Content-Disposition: form-data; name="blob"; filename="blob"
Content-Type: application/octet-stream

\0
------WebKitFormBoundaryg5hscN2Vd10cn4p0--
"""
CHROME_WITHOUT_FILES = """------WebKitFormBoundarys4WTrwIZc6EfEPNO
Content-Disposition: form-data; name="a"

1
------WebKitFormBoundarys4WTrwIZc6EfEPNO
Content-Disposition: form-data; name="f"; filename=""
Content-Type: application/octet-stream


------WebKitFormBoundarys4WTrwIZc6EfEPNO--
"""
FIREFOX = """-----------------------------9051914041544843365972754266
Content-Disposition: form-data; name="text"

text default
-----------------------------9051914041544843365972754266
Content-Disposition: form-data; name="file1"; filename="a.html"
Content-Type: text/html

<!DOCTYPE html><title>Content of a.html.</title>

-----------------------------9051914041544843365972754266--
"""
CURL_WITH_BACKSLASHES = """--------------------------0d01b9159330747b
Content-Disposition: form-data; name="f"; filename="q\\"s\\\\ \u00e9.txt"
Content-Type: text/plain

hello
--------------------------0d01b9159330747b--
"""
REQUESTS = """--bbbbbbbb
Content-Disposition: form-data; name="t"

caf\u00e9
--bbbbbbbb
Content-Disposition: form-data; name="f"; filename*=utf-8''na%C3%AFve.txt
Content-Type: text/plain

x
--bbbbbbbb--
"""
NO_FIELDS = "------WebKitFormBoundarysVs6BWmdLFzyaMQ2--\n"


@pytest.mark.parametrize(
    ("text", "fields", "files"),
    [
        pytest.param(
            CHROME,
            [("title", "caf\u00e9\r\nline"), ('q"uote\r\n', "1")],
            [
                ("file", 'a"b\\ \u00e9.txt', "text/plain", b"x\r\n--y"),
                ("blob", "blob", "application/octet-stream", b"\0"),
            ],
            id="chrome",
        ),
        pytest.param(CHROME_WITHOUT_FILES, [("a", "1")], [], id="chrome, no file chosen"),
        pytest.param(NO_FIELDS, [], [], id="chrome, no fields"),
        pytest.param(
            FIREFOX,
            [("text", "text default")],
            [("file1", "a.html", "text/html", b"<!DOCTYPE html><title>Content of a.html.</title>\r\n")],
            id="firefox",
        ),
        pytest.param(
            CURL_WITH_BACKSLASHES,
            [],
            [("f", 'q"s\\ \u00e9.txt', "text/plain", b"hello")],
            id="curl --form-escape",
        ),
        pytest.param(
            REQUESTS, [("t", "caf\u00e9")], [("f", "na\u00efve.txt", "text/plain", b"x")], id="requests, urllib3 1"
        ),
    ],
)
def test_recorded_bodies(text: str, fields: list[tuple[str, str]], files: list[Any]) -> None:
    """The bodies of browsers and other clients are what their users have entered."""
    boundary = text.partition("\n")[0].removeprefix("--").removesuffix("--")
    body = text.replace("\n", "\r\n").encode()
    form = parse_form(f"multipart/form-data; boundary={boundary}", body)
    assert list(form) == fields
    assert files_of(form) == files


def test_httpx() -> None:
    """A form of httpx, whose file has a quote in its name and nearly a delimiter in its content."""
    content = b"\r\n--" * 3 + bytes(range(256))
    request = httpx.Request(
        "POST",
        "http://a/",
        data={"t": "caf\u00e9", "n": ["1", "2"]},
        files={"f": ('a"b \u00e9.bin', content, "image/png")},
    )
    form = parse_form(request.headers["Content-Type"], request.read())
    assert list(form) == [("t", "caf\u00e9"), ("n", "1"), ("n", "2")]
    assert files_of(form) == [("f", 'a"b \u00e9.bin', "image/png", content)]


def test_httpx_urlencoded() -> None:
    """An urlencoded form has no files."""
    request = httpx.Request("POST", "http://a/", data={"t": "caf\u00e9 & b", "n": ["1", "2"]})
    form = parse_form(request.headers["Content-Type"], request.read())
    assert form == Form([("t", "caf\u00e9 & b"), ("n", "1"), ("n", "2")])


@contextmanager
def recording() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """A server that records types and bodies; with its URL."""
    recorded: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            recorded.append((self.headers["Content-Type"], self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", recorded
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(tmp_path: Path) -> None:
    """A form of curl, with a field, a field with a media type, and a file."""
    file = tmp_path / "caf\u00e9 1.bin"
    file.write_bytes(bytes(range(256)) * 1000)
    with recording() as (url, recorded):
        command = ["curl", "-sS", "--noproxy", "*", "-F", "t=caf\u00e9", "-F", 'j={"a":1};type=application/json']
        subprocess.run([*command, "-H", "Expect:", "-F", f"f=@{file}", url], check=True, timeout=60)
    ((content_type, body),) = recorded
    form = parse_form(content_type, body)
    assert list(form) == [("t", "caf\u00e9"), ("j", '{"a":1}')]
    assert files_of(form) == [("f", "caf\u00e9 1.bin", "application/octet-stream", file.read_bytes())]


# ----------------------------------------------------------------------------------------------- rules


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("", b"a=1", 415),
        ("application/json", b"{}", 415),
        ("text/plain", b"a=1", 415),
        ("multipart/mixed; boundary=b", TWO_FIELDS, 415),
        ("multipart/form-data", TWO_FIELDS, 400),
        (MULTIPART, b"", 400),
        (MULTIPART, TWO_FIELDS[:-4], 400),
        (MULTIPART, TWO_FIELDS.replace(b"\r\n1", b"\r\n\xff"), 400),
        (MULTIPART, TWO_FIELDS.replace(b"--b\r\nC", b"--b\r\nContent-Type:a/b;charset=koi8-r\r\nC"), 415),
    ],
)
def test_bodies_that_are_refused(content_type: str, body: bytes, status: int) -> None:
    """Another media type or charset is a 415, and a malformed body a 400."""
    with pytest.raises(HttpError) as caught:
        parse_form(content_type, body)
    assert caught.value.status == status


def test_a_415_says_what_is_accepted() -> None:
    """A 415 names the media types in Accept (RFC 9110, section 15.5.16)."""
    with pytest.raises(HttpError) as caught:
        parse_form("text/plain", b"")
    assert caught.value.headers["Accept"] == "application/x-www-form-urlencoded, multipart/form-data"


@pytest.mark.parametrize(("content_type", "body"), [(URLENCODED, b"n=1&n=1"), (MULTIPART, TWO_FIELDS)])
def test_too_many_fields(content_type: str, body: bytes) -> None:
    """A form with more fields than allowed is a 413."""
    assert parse_form(content_type, body, FormSettings(2)).get_all("n") == ("1", "1")
    with pytest.raises(HttpError) as caught:
        parse_form(content_type, body, FormSettings(1))
    assert caught.value.status == 413


def test_media_types_in_any_case() -> None:
    """Parameters of an urlencoded type are ignored, and letter case is."""
    assert parse_form("Application/X-WWW-Form-Urlencoded; charset=koi8-r", b"a=%C3%A9")["a"] == "\u00e9"


def test_a_file_with_content_but_no_name() -> None:
    """A file is kept if it has content and an empty name; only without content, no file was chosen."""
    body = TWO_FIELDS.replace(b'name="n"', b'name="n"; filename=""')
    assert files_of(parse_form(MULTIPART, body)) == [("n", "", "text/plain", b"1")] * 2


def test_urlencoded_forms_need_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library ``multipart``, urlencoded forms are parsed, and multipart is a clear error."""
    monkeypatch.setitem(sys.modules, "multipart", None)
    assert parse_form(URLENCODED, b"a=1")["a"] == "1"
    with pytest.raises(RuntimeError, match=r"pip install 'humphrey_trio\[forms\]'"):
        parse_form(MULTIPART, TWO_FIELDS)


def test_large_files_use_no_descriptors() -> None:
    """A form keeps its files in memory, however large, and opens nothing."""
    before = open_files()
    body = TWO_FIELDS.replace(b'name="n"', b'name="n"; filename="f"').replace(b"\r\n1", b"\r\n" + bytes(2**22))
    form = parse_form(MULTIPART, body)
    assert [file.size for _, file in form.files] == [2**22, 2**22]
    assert open_files() == before


# ---------------------------------------------------------------------------------------------- values


def uploaded(name: str = "f", content: bytes = b"content") -> UploadedFile:
    return UploadedFile(name, "f.txt", "text/plain", Headers([("X", "y")]), content)


def test_uploaded_file() -> None:
    """A file tells its size, opens as often as asked, and does not show its content."""
    file = uploaded()
    assert file.size == 7
    with file.open() as first, file.open() as second:
        assert first.read(3) == b"con"
        assert second.read() == b"content"
        assert first.read() == b"tent"
    assert "content=" not in repr(file)
    assert file == uploaded()
    assert hash(file) == hash(uploaded())
    with pytest.raises(AttributeError):
        file.filename = "other"  # type: ignore[misc]


def test_files() -> None:
    """Files are a multi-mapping in their order."""
    first, second, other = uploaded(content=b"1"), uploaded(content=b"2"), uploaded("o")
    files = Files([first, other, second])
    assert files["f"] is files.get("f") is first
    assert files.get_all("f") == (first, second)
    assert list(files) == [("f", first), ("o", other), ("f", second)]
    assert files.items() == tuple(files)
    assert files.values() == (first, other, second)
    assert files.keys() == ("f", "o")
    assert dict(files) == {"f": first, "o": other}
    assert len(files) == 3
    assert "o" in files
    assert "x" not in files
    assert files.get("x") is None
    assert files.get("x", first) is first
    assert files.get_all("x") == ()
    with pytest.raises(KeyError, match="x"):
        files["x"]


def test_forms_are_values() -> None:
    """Forms with the same fields and files are equal, and hash alike."""
    form = Form([("a", "1")], [uploaded()])
    same = Form({"a": "1"}, iter([uploaded()]))
    assert form == same
    assert hash(form) == hash(same)
    assert form != Form([("a", "1")])
    assert form != Form([("a", "2")], [uploaded()])
    assert form.files == same.files
    assert form.files != ()
    assert form != ()
    assert repr(Form([("a", "1")])) == "Form([('a', '1')], [])"
    assert repr(Files()) == "Files([])"

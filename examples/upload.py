"""Uploads of any number of files up to 1 GiB: each is hashed while it arrives, and nothing is stored.

The page shows the progress of the browser. The program prints the progress of the server.

python examples/upload.py [PORT]
"""

from __future__ import annotations

import hashlib
import sys

import trio

from humphrey_trio import App, Request, Response

MAX_BODY = 2**30
PAGE = """<!doctype html>
<meta charset="utf-8">
<title>Upload</title>
<form><input type="file" name="file" multiple> <button>Upload</button></form>
<progress value="0"></progress>
<pre></pre>
<script>
  const [form, bar, text] = ["form", "progress", "pre"].map(name => document.querySelector(name))
  form.onsubmit = event => {
    event.preventDefault()
    const request = new XMLHttpRequest()
    request.upload.onprogress = event => { bar.value = event.loaded / event.total }
    request.onload = () => { text.textContent = request.responseText }
    request.onerror = () => { text.textContent = "the upload has failed" }
    request.open("POST", "/upload")
    request.send(new FormData(form))
  }
</script>
"""


class Progress:
    """Prints how much of a request has been received, each time that it is another tenth."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._received = 0
        self._tenths = 0

    def add(self, name: str, size: int) -> None:
        self._received += size
        tenths = 10 * self._received // self._total if self._total else 0
        if tenths > self._tenths:
            self._tenths = tenths
            print(f"{name!a}: {tenths * 10} %", flush=True)


def page(_: Request) -> Response:
    return Response.html(PAGE)


async def upload(request: Request, state: None) -> Response:
    progress = Progress(int(request.headers.get("Content-Length", "0")))
    lines: list[str] = []
    async for part in request.parts():
        if not part.filename:
            continue
        digest = hashlib.sha256()
        async for piece in part:
            digest.update(piece)
            progress.add(part.filename, len(piece))
        lines.append(f"{digest.hexdigest()}  {part.filename}\n")
    return Response(200, "".join(lines))


async def main(port: int) -> None:
    app = (
        App()
        .with_stateless_route("/", page)
        .with_route("/upload", upload, methods=("POST",), stream=True, max_body=MAX_BODY)
    )
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(app.run, f"127.0.0.1:{port}")
        print(f"the page is at http://{address}/", flush=True)


if __name__ == "__main__":
    status = 0
    try:
        trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
    except* KeyboardInterrupt:
        status = 130  # the exit status of shells for SIGINT
    sys.exit(status)

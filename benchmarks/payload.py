"""What the servers serve, and the load generator expects: bodies, header fields, and a large file."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

HELLO = b"Hello, world!"

# A response as an application sends it: 1,000 bytes of JSON, and five fields besides those of the server.
_ITEMS = [{"id": number, "name": f"item {number}", "price": 9.5 + number, "stock": 40} for number in range(16)]
_START = json.dumps({"items": _ITEMS, "page": 1, "note": ""})
JSON = _START[:-2].encode() + b"." * (1000 - len(_START)) + b'"}'
JSON_FIELDS = {
    "Content-Type": "application/json",
    "Cache-Control": "private, max-age=60",
    "ETag": '"5d8c72a5edda8d6a"',
    "Vary": "Accept-Encoding",
    "X-Request-Id": "0d1a0c52-6f0e-4b36-9bd5-28d7f1f9e0c3",
}

FILE_NAME = "large.bin"
FILE_BYTES = 100_000_000
# A prime period: a piece of the file that is lost, repeated or moved by a power of two does not match.
PERIOD = 65_521
UNIT = (bytes(range(256)) * (PERIOD // 256 + 1))[:PERIOD]


@contextlib.contextmanager
def large_file() -> Iterator[Path]:
    """Create a temporary folder with the large file."""
    with tempfile.TemporaryDirectory() as folder:
        with (Path(folder) / FILE_NAME).open("wb") as file:
            left = FILE_BYTES
            while left:
                left -= file.write(UNIT[:left])
        yield Path(folder)

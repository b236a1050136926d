"""What a server is told on its command line: a port, and for TLS the files of a certificate and its key."""

from __future__ import annotations

import ssl
import sys
from typing import NamedTuple


class Arguments(NamedTuple):
    """Without `cert` and `key` the server is a plain one."""

    port: int
    cert: str | None = None
    key: str | None = None

    @classmethod
    def read(cls) -> Arguments:
        port, *files = sys.argv[1:]
        return cls(int(port), *files)

    def context(self) -> ssl.SSLContext | None:
        """As Python's documentation makes one for a server; None for a plain one."""
        if self.cert is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.cert, self.key)
        return context

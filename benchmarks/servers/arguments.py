"""The command line of a server: a port and, for TLS, the files of a certificate and of its key."""

from __future__ import annotations

import ssl
import sys
from typing import NamedTuple


class Arguments(NamedTuple):
    """The arguments. Without `cert` and `key`, the server does not use TLS."""

    port: int
    cert: str | None = None
    key: str | None = None

    @classmethod
    def read(cls) -> Arguments:
        port, *files = sys.argv[1:]
        return cls(int(port), *files)

    def context(self) -> ssl.SSLContext | None:
        """Create a context with the defaults of `ssl.create_default_context`; None without TLS."""
        if self.cert is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.cert, self.key)
        return context

"""The command line of a server: a port, for TLS a certificate and its key, for downloads a folder, an ASGI app."""

from __future__ import annotations

import argparse
import ssl
from typing import NamedTuple


class Arguments(NamedTuple):
    """The arguments.

    Attributes:
        port: the port on 127.0.0.1.
        cert, key: the files of a certificate and of its key. Without them, the server does not use TLS.
        folder: the directory that is served below ``/files/``. A server may write temporary files there.
        app: the name of the ASGI app to serve. Without it, the server serves the program of its module.
    """

    port: int
    cert: str | None = None
    key: str | None = None
    folder: str | None = None
    app: str | None = None

    @classmethod
    def read(cls) -> Arguments:
        parser = argparse.ArgumentParser()
        parser.add_argument("port", type=int)
        for name in ("cert", "key", "folder", "app"):
            parser.add_argument(f"--{name}")
        return cls(**vars(parser.parse_args()))

    def context(self) -> ssl.SSLContext | None:
        """Create a context with the defaults of `ssl.create_default_context`; None without TLS."""
        if self.cert is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.cert, self.key)
        return context

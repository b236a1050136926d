"""An authority for TLS, and contexts of servers and of clients that trust it."""

from __future__ import annotations

import ssl
from functools import cache
from pathlib import Path

import trustme


@cache
def authority() -> trustme.CA:
    """The certificate authority of all servers."""
    return trustme.CA()


@cache
def server_context() -> ssl.SSLContext:
    """A context for servers, with a certificate for 127.0.0.1 and localhost."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority().issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context


def write_certificate(folder: Path) -> Path:
    """Write a certificate for 127.0.0.1 and localhost, with its key, to a file."""
    file = folder / "certificate.pem"
    authority().issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(file)
    return file


@cache
def client_context() -> ssl.SSLContext:
    """A context for clients that trusts the authority."""
    context = ssl.create_default_context()
    authority().configure_trust(context)
    return context


def trusting_in_threads(authority: trustme.CA) -> ssl.SSLContext:
    """A context for clients that receive in one thread and send in another, such as those of ``websockets.sync``.

    OpenSSL does not support that. In TLS 1.3 such a client loses its first request now and then, when it receives
    the session ticket at the same time (5 of 6,000 connections, with servers of asyncio as well). In TLS 1.2 the
    server sends nothing between the handshake and the first response.
    """
    context = ssl.create_default_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    authority.configure_trust(context)
    return context

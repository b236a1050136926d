"""Certificates in files: errors of their content, and files that are replaced."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import re
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme
from cryptography.hazmat.primitives import serialization

from humphrey_trio._server._certificate import RELOAD_INTERVAL, CertificateFiles, server_context
from tests.support.certificates import authority
from tests.support.tls_peers import HOST, client_context, connection, shake_hands


def write_pair(folder: Path, name: str = HOST) -> trustme.LeafCert:
    """Write a new certificate and its key, as ``cert.pem`` and ``key.pem``."""
    issued = authority().issue_cert(HOST, name)
    folder.mkdir(exist_ok=True)
    (folder / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    (folder / "key.pem").write_bytes(issued.private_key_pem.bytes())
    return issued


def open_pair(folder: Path) -> CertificateFiles:
    """The files of ``write_pair``. Each reading of the clock is later by the interval between two checks."""
    return CertificateFiles(folder / "cert.pem", folder / "key.pem", clock=slow_clock())


def slow_clock() -> Callable[[], float]:
    return partial(next, itertools.count(step=RELOAD_INTERVAL))


async def shown(context: ssl.SSLContext) -> bytes | None:
    """The certificate that a new connection receives, in DER."""
    async with connection(context) as (transport, client):
        await shake_hands(transport, client, client_context())
        return client.tls.getpeercert(binary_form=True)


def der(issued: trustme.LeafCert) -> bytes:
    return ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())


def check_often(files: CertificateFiles, times: int = 5) -> int:
    """Check the files so many times. Returns how often there was a new context."""
    return sum(files.reload_if_changed() for _ in range(times))


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert all(record.name == "humphrey_trio.http" for record in caplog.records)
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# -------------------------------------------------------------------------------------------------- loading


async def test_context_of_files(tmp_path: Path) -> None:
    """The context has the pair, TLS 1.2 and 1.3, ``http/1.1``, one session ticket and no renegotiation."""
    issued = write_pair(tmp_path)
    context = server_context(tmp_path / "cert.pem", str(tmp_path / "key.pem"))
    assert await shown(context) == der(issued)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.num_tickets == 1
    wanted = client_context()
    wanted.set_alpn_protocols(["h2", "http/1.1"])
    async with connection(context) as (transport, client):
        await shake_hands(transport, client, wanted)
    assert transport.tls_info().alpn_protocol == "http/1.1"
    assert transport.tls_info().version == "TLSv1.3"


async def test_certificate_and_key_in_one_file(tmp_path: Path) -> None:
    """The certificate and the key may be in one file."""
    issued = write_pair(tmp_path)
    both = tmp_path / "both.pem"
    both.write_bytes((tmp_path / "key.pem").read_bytes() + (tmp_path / "cert.pem").read_bytes())
    assert await shown(server_context(both)) == der(issued)


@pytest.mark.parametrize(
    ("cert", "key", "message"),
    [
        ("missing.pem", "key.pem", "there is no certificate file '{}/missing.pem'"),
        ("cert.pem", "missing.pem", "there is no certificate file '{}/missing.pem'"),
        (".", "key.pem", "there is no certificate file '{}'"),
        ("cert.pem/file", "key.pem", "the certificate file '{}/cert.pem/file' cannot be read: Not a directory"),
        (
            "text.pem",
            "key.pem",
            "the certificate '{}/text.pem' cannot be used with the key '{}/key.pem': PEM lib;",
        ),
        (
            "cert.pem",
            "text.pem",
            "the certificate '{}/cert.pem' cannot be used with the key '{}/text.pem': PEM lib;",
        ),
        ("cert.pem", "other/key.pem", "cannot be used with the key '{}/other/key.pem': key values mismatch; both"),
        (
            "cert.pem",
            None,
            "the certificate '{}/cert.pem' cannot be used: PEM lib; '{}/cert.pem' contains no private key",
        ),
    ],
)
def test_invalid_files(tmp_path: Path, cert: str, key: str | None, message: str) -> None:
    """Files that are missing, not PEM or do not match are a ValueError with the name and the reason."""
    write_pair(tmp_path)
    write_pair(tmp_path / "other")
    (tmp_path / "text.pem").write_text("This is no certificate.")
    with pytest.raises(ValueError, match=re.escape(message.replace("{}", str(tmp_path)))):
        server_context(tmp_path / cert, None if key is None else tmp_path / key)


@pytest.mark.parametrize("error", [errno.EMFILE, errno.EACCES])
def test_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    """An error of the system is a ValueError with its text, without the content of the files."""
    write_pair(tmp_path)

    def fail(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", fail)
    with pytest.raises(ValueError, match=os.strerror(error)) as caught:
        server_context(tmp_path / "cert.pem", tmp_path / "key.pem")
    assert "PEM" not in str(caught.value)


def test_unwritable_key_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the file of SSLKEYLOGFILE cannot be opened, the ValueError names the variable."""
    write_pair(tmp_path)
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "absent" / "log"))
    with pytest.raises(ValueError, match="No such file or directory; SSLKEYLOGFILE must name a file"):
        server_context(tmp_path / "cert.pem", tmp_path / "key.pem")


def encrypt_key(folder: Path, issued: trustme.LeafCert) -> None:
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )


def test_encrypted_key(tmp_path: Path) -> None:
    """A key with a password is a ValueError that says what to do, and no password is requested."""
    encrypt_key(tmp_path, write_pair(tmp_path))
    with pytest.raises(ValueError, match=r"key\.pem' is encrypted: use a key without a password"):
        server_context(tmp_path / "cert.pem", tmp_path / "key.pem")


# --------------------------------------------------------------------------------------- replaced files


async def test_replaced_pair(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """New connections get a replaced certificate, which is loaded once; open connections continue."""
    caplog.set_level(logging.INFO)
    first = write_pair(tmp_path)
    files = open_pair(tmp_path)
    assert check_often(files) == 0
    async with connection(files.context) as (transport, client):
        await shake_hands(transport, client, client_context())
        second = write_pair(tmp_path)
        assert check_often(files) == 1
        transport.send_now(b"content")
        assert await client.read(7) == b"content"
        assert client.tls.getpeercert(binary_form=True) == der(first)
    assert await shown(files.context) == der(second)
    assert [record.getMessage() for record in caplog.records] == [
        f"the certificate '{tmp_path / 'cert.pem'}' was reloaded"
    ]


async def test_replaced_links(tmp_path: Path) -> None:
    """A symbolic link to another file is a change."""
    write_pair(tmp_path / "1")
    (tmp_path / "live").symlink_to(tmp_path / "1")
    files = open_pair(tmp_path / "live")
    second = write_pair(tmp_path / "2")
    (tmp_path / "new").symlink_to(tmp_path / "2")
    (tmp_path / "new").rename(tmp_path / "live")
    assert check_often(files) == 1
    assert await shown(files.context) == der(second)


async def test_files_replaced_one_after_the_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """While the files change between two checks, nothing is loaded and no error is logged."""
    write_pair(tmp_path)
    files = open_pair(tmp_path)
    second = write_pair(tmp_path / "new")
    new = (tmp_path / "new" / "cert.pem").read_bytes()
    for size in (0, len(new) // 2, len(new)):
        (tmp_path / "cert.pem").write_bytes(new[:size])
        assert not files.reload_if_changed()
    (tmp_path / "new" / "key.pem").replace(tmp_path / "key.pem")
    assert check_often(files) == 1
    assert await shown(files.context) == der(second)
    assert errors(caplog) == []


@pytest.mark.parametrize("spoil", ["other key", "half", "text", "missing", "encrypted"])
async def test_mismatched_pair(tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: str) -> None:
    """A pair that does not match keeps the context, is logged once, and the next change is tried again."""
    first = write_pair(tmp_path)
    files = open_pair(tmp_path)
    second = write_pair(tmp_path / "new")
    new, key = tmp_path / "new", tmp_path / "key.pem"
    (new / "cert.pem").replace(tmp_path / "cert.pem")
    if spoil == "half":
        key.write_bytes((new / "key.pem").read_bytes()[:100])
    elif spoil == "text":
        key.write_text("This is no key.")
    elif spoil == "missing":
        key.unlink()
    elif spoil == "encrypted":
        encrypt_key(tmp_path, second)
    assert check_often(files) == 0
    (error,) = errors(caplog)
    assert error.startswith("the certificate files have changed and cannot be used; the old certificate is kept: ")
    assert str(key) in error
    assert await shown(files.context) == der(first)
    (new / "key.pem").replace(key)
    assert check_often(files) == 1
    assert await shown(files.context) == der(second)
    assert len(errors(caplog)) == 1


async def test_temporary_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Files that the system could temporarily not open are loaded without another change."""
    write_pair(tmp_path)
    files = open_pair(tmp_path)
    second = write_pair(tmp_path)
    failures = itertools.cycle([errno.EMFILE, errno.ENFILE])

    def fail(*_: object) -> None:
        error = next(failures)
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patch:
        patch.setattr(ssl.SSLContext, "load_cert_chain", fail)
        assert check_often(files, 10) == 0
    # Each reason was logged once.
    assert [message.rpartition(": ")[2] for message in errors(caplog)] == [
        os.strerror(errno.EMFILE),
        os.strerror(errno.ENFILE),
    ]
    assert check_often(files) == 1
    assert await shown(files.context) == der(second)


def test_reload_with_an_unwritable_key_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A reload raises nothing if the file of SSLKEYLOGFILE cannot be opened."""
    write_pair(tmp_path)
    files = open_pair(tmp_path)
    write_pair(tmp_path)
    with monkeypatch.context() as patch:
        patch.setenv("SSLKEYLOGFILE", str(tmp_path / "absent" / "log"))
        assert check_often(files) == 0
    (error,) = errors(caplog)
    assert "SSLKEYLOGFILE" in error
    assert check_often(files) == 1


def test_checks_of_two_servers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Changed files are loaded after they were unchanged for the interval, however many checks there are."""
    now = 0.0
    write_pair(tmp_path)
    files = CertificateFiles(tmp_path / "cert.pem", tmp_path / "key.pem", clock=lambda: now)
    write_pair(tmp_path / "new")
    (tmp_path / "new" / "cert.pem").replace(tmp_path / "cert.pem")
    now = 100.0
    assert check_often(files) == 0
    now += RELOAD_INTERVAL - 0.1
    assert check_often(files) == 0
    (tmp_path / "new" / "key.pem").replace(tmp_path / "key.pem")
    now += 0.1
    assert check_often(files) == 0
    assert errors(caplog) == []
    now += RELOAD_INTERVAL
    assert check_often(files) == 1


def test_files_that_return_unchanged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Files that are missing for a moment and return unchanged are no change."""
    write_pair(tmp_path)
    files = open_pair(tmp_path)
    context = files.context
    away = tmp_path.with_name("away")
    tmp_path.rename(away)
    assert not files.reload_if_changed()
    away.rename(tmp_path)
    assert check_often(files) == 0
    assert files.context is context
    assert errors(caplog) == []


async def test_files_replaced_while_they_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair that is replaced while the previous one is loaded is loaded at the next check."""
    write_pair(tmp_path)
    files = open_pair(tmp_path)
    load = ssl.SSLContext.load_cert_chain
    second = write_pair(tmp_path)

    def load_and_replace(context: ssl.SSLContext, *args: object) -> None:
        nonlocal second
        load(context, *args)  # type: ignore[arg-type]
        monkeypatch.undo()
        second = write_pair(tmp_path)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", load_and_replace)
    assert check_often(files) == 2
    assert await shown(files.context) == der(second)


async def test_files_overwritten_in_place(tmp_path: Path) -> None:
    """A certificate of the same length that is written in place is a change."""
    pairs = [write_pair(tmp_path / "new") for _ in range(2)]
    cert = tmp_path / "both.pem"
    size = max(len(pair.private_key_and_cert_chain_pem.bytes()) for pair in pairs)
    cert.write_bytes(pairs[0].private_key_and_cert_chain_pem.bytes().ljust(size, b"\n"))
    before = cert.stat()
    files = CertificateFiles(cert, clock=slow_clock())
    cert.write_bytes(pairs[1].private_key_and_cert_chain_pem.bytes().ljust(size, b"\n"))
    os.utime(cert, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert (cert.stat().st_size, cert.stat().st_ino) == (before.st_size, before.st_ino)
    assert check_often(files) == 1
    assert await shown(files.context) == der(pairs[1])


def test_checks_in_two_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one thread loads a pair, a check in another thread does nothing."""
    write_pair(tmp_path)
    files = open_pair(tmp_path)
    load = ssl.SSLContext.load_cert_chain
    looked: list[bool] = []

    def load_and_look(context: ssl.SSLContext, *args: object) -> None:
        load(context, *args)  # type: ignore[arg-type]
        looked.append(files.reload_if_changed())

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", load_and_look)
    write_pair(tmp_path)
    assert check_often(files) == 1
    assert looked == [False]


async def test_check_in_a_worker_thread(tmp_path: Path) -> None:
    """A check may run in a worker thread."""
    write_pair(tmp_path)
    files = open_pair(tmp_path)
    second = write_pair(tmp_path)
    assert not await trio.to_thread.run_sync(files.reload_if_changed)
    assert await trio.to_thread.run_sync(files.reload_if_changed)
    assert await shown(files.context) == der(second)

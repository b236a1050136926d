"""A certificate for the servers that are measured over TLS."""

from __future__ import annotations

from pathlib import Path

#: The module that must be importable.
NEEDS = "trustme"


def make(folder: Path) -> tuple[Path, Path]:
    """Create a certificate (ECDSA, P-256). Returns the PEM files of the certificate and of its key."""
    import trustme

    pair = trustme.CA(key_type=trustme.KeyType.ECDSA).issue_cert("localhost", key_type=trustme.KeyType.ECDSA)
    cert, key = folder / "cert.pem", folder / "key.pem"
    pair.cert_chain_pems[0].write_to_path(cert)
    pair.private_key_pem.write_to_path(key)
    return cert, key

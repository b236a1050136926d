"""A certificate for the servers that are measured over TLS."""

from __future__ import annotations

from pathlib import Path

#: What must be importable to make one.
NEEDS = "trustme"


def make(folder: Path) -> tuple[Path, Path]:
    """Write a new certificate (ECDSA, P-256) and its key there, in PEM; their files."""
    import trustme

    pair = trustme.CA(key_type=trustme.KeyType.ECDSA).issue_cert("localhost", key_type=trustme.KeyType.ECDSA)
    cert, key = folder / "cert.pem", folder / "key.pem"
    pair.cert_chain_pems[0].write_to_path(cert)
    pair.private_key_pem.write_to_path(key)
    return cert, key

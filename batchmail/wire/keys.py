"""Our own key pair: made once, without a passphrase, since no one is there to type it when a timer calls.

What such a key may do is limited at the other end, by the forced command in
authorized_keys.
"""

import os

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from batchmail.core.errors import ConfigError, KeyRefused
from batchmail.wire.known_hosts import how_to_read


def ensure_key(path: str, comment: str) -> tuple[str, bool]:
    """The public key line of the key at `path`, making an ed25519 pair if there is none, and whether we did."""
    try:
        with open(path, "rb") as file:
            return _public_line(path, file.read(65536), comment), False
    except FileNotFoundError:
        return _make(path, comment), True
    except OSError as error:
        raise ConfigError(f"cannot read key {path}: {error.strerror}{how_to_read(path, error)}") from None


def _make(path: str, comment: str) -> str:
    key = ed25519.Ed25519PrivateKey.generate()
    line = _line(key.public_key(), comment)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    try:
        _write_new(path, private, 0o600)
        _write_new(path + ".pub", line.encode() + b"\n", 0o644)
    except OSError as error:
        raise ConfigError(f"cannot write key {error.filename}: {error.strerror}") from None
    return line


def _write_new(path: str, data: bytes, mode: int) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), mode)  # the umask may have taken more than we asked


def _public_line(path: str, private: bytes, comment: str) -> str:
    """Derived from the private key, not read from its .pub file, which may be another key's."""
    load = (
        serialization.load_ssh_private_key
        if private.startswith(b"-----BEGIN OPENSSH")
        else serialization.load_pem_private_key
    )
    try:
        key = load(private, None)
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        if "password" in str(error).lower():  # which class it is depends on the version
            remedy = f"remove it (ssh-keygen -p -f {path}) or name another key"
            raise KeyRefused(f"key {path} has a passphrase; {remedy}") from None
        raise ConfigError(f"{path} is not a private key that can be read") from None
    return _line(key.public_key(), comment)


def _line(public: object, comment: str) -> str:
    text = public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)  # type: ignore[attr-defined]
    return f"{text.decode()} {comment}"

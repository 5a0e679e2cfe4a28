"""The keys we log in with: files without a passphrase, and the SSH agent's where its use is allowed.

A password is never used: no one is there to type it.
"""

from collections.abc import Iterator

import paramiko

from batchmail.core.errors import KeyRefused
from batchmail.wire.known_hosts import how_to_read

_MISSING = "cannot be read: No such file or directory"


class LoginKeys:
    """The keys to log in with: files in their order, then the agent's, those first that belong to a named file."""

    def __init__(self, paths: tuple[str, ...], use_agent: bool):
        self.unusable: list[str] = []
        self._found: list[tuple[str, paramiko.PKey]] = []
        there = False
        for path in dict.fromkeys(paths):
            key = _load_key(path)
            if isinstance(key, str):
                self.unusable.append(f"{path} {key}")
                there = there or key != _MISSING
            else:
                self._found.append((path, key))
        self._agent = paramiko.Agent() if use_agent else None
        if self._agent is not None:
            named = {_public_half(path) for path in paths}
            held = sorted(self._agent.get_keys(), key=lambda key: key.get_base64() not in named)
            self._found += [("agent", key) for key in held]
        if not self._found:
            missing = "; ".join(self.unusable) or "none is configured"
            make = "" if there else "; `batchmail key PEER` makes one"
            raise KeyRefused(f"no key to log in with: {missing}{make}")

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[tuple[str, paramiko.PKey]]:
        return iter(self._found)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        if self._agent is not None:
            self._agent.close()


def _load_key(path: str) -> paramiko.PKey | str:
    """The private key at `path`, or why it cannot be used."""
    kinds: tuple[type[paramiko.PKey], ...] = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)
    for kind in kinds:
        try:
            return kind.from_private_key_file(path)
        except paramiko.PasswordRequiredException:
            return "has a passphrase: remove it (ssh-keygen -p), or load it into an agent and allow its use"
        except FileNotFoundError:
            return _MISSING
        except OSError as error:
            return f"cannot be read: {error.strerror}{how_to_read(path, error)}"
        except (paramiko.SSHException, ValueError):
            continue  # not of this kind
    return "is not a private key in OpenSSH's format"


def _public_half(path: str) -> str:
    try:
        with open(path + ".pub", encoding="ascii", errors="replace") as file:
            return [*file.readline(65536).split(), "", ""][1]
    except OSError:
        return ""

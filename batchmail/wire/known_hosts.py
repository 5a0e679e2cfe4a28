"""OpenSSH's known_hosts files: which keys a host may show, and what to say when it shows another.

Read are plain, wildcard and hashed names, [host]:port, and the marker
@revoked.  A @cert-authority line is not used, but named when it is the only
one that matches.  Nothing is ever added by itself: a person decides whom we
believe.  The lines to add come from `batchmail key`.
"""

import base64
import binascii
import fnmatch
import hashlib
import hmac
import os
import pwd
import shlex
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from batchmail.core.errors import ConfigError, KeyRefused


class KnownKey(NamedTuple):
    """One line that names the host in question."""

    file: str
    line_number: int
    marker: str
    key_type: str
    blob: bytes

    @property
    def place(self) -> str:
        return f"{self.file} line {self.line_number}"


def fingerprint(blob: bytes) -> str:
    """The fingerprint of a public key, written as OpenSSH writes it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def name_in_files(host: str, port: int) -> str:
    """The name under which known_hosts files keep a host and port."""
    return host.lower() if port == 22 else f"[{host.lower()}]:{port}"


def how_to_read(file: str, error: OSError) -> str:
    """What root can do about a file that is closed to us."""
    if not isinstance(error, PermissionError):
        return ""
    try:
        me = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        me = str(os.geteuid())
    return f": chown {me} {shlex.quote(file)}, and let {me} enter {os.path.dirname(os.path.abspath(file))}"


def known_keys(files: Sequence[str], name: str) -> tuple[KnownKey, ...]:
    """The lines of `files` that speak of `name`, in their order; a file that does not exist says nothing."""
    return tuple(key for file in files for key in _keys_in(file, name))


def check_host_key(known: Sequence[KnownKey], files: Sequence[str], name: str, key_type: str, blob: bytes) -> None:
    """Raise KeyRefused, with what a person needs to mend it, unless `name` may show this key."""
    problem = contradiction(known, name, key_type, blob)
    if problem:
        raise KeyRefused(problem)
    if not any(key.blob == blob for key in known if not key.marker):
        shown = _shown(name, key_type, blob)
        raise KeyRefused(f"unknown host key: {shown}, but {_what_is_known(known, files)}; {_how_to_add(files)}")


def contradiction(known: Sequence[KnownKey], name: str, key_type: str, blob: bytes) -> str:
    """Why the known lines forbid this key, and what mends it; empty when they know it, or nothing of its kind."""
    shown = _shown(name, key_type, blob)
    for key in known:
        if key.marker == "@revoked" and key.blob == blob:
            return f"{shown}, which {key.place} revokes"
    same_type = [key for key in known if not key.marker and key.key_type == key_type]
    if not same_type or any(key.blob == blob for key in same_type):
        return ""
    old = same_type[0]
    remove = f"ssh-keygen -R {shlex.quote(name)} -f {shlex.quote(old.file)}"
    return (
        f"THE HOST KEY HAS CHANGED: {shown}, but {old.place} has {fingerprint(old.blob)}; if its operator confirms "
        f"the new one: {remove}, then `batchmail key PEER --add`"
    )


def _shown(name: str, key_type: str, blob: bytes) -> str:
    return f"{name} shows the {key_type} key {fingerprint(blob)}"


def _what_is_known(known: Sequence[KnownKey], files: Sequence[str]) -> str:
    plain = [key for key in known if not key.marker]
    if plain:
        return f"{plain[0].place} knows only its {plain[0].key_type} key {fingerprint(plain[0].blob)}"
    authorities = [key for key in known if key.marker == "@cert-authority"]
    if authorities:
        return f"only the @cert-authority in {authorities[0].place} names it, and host certificates are not supported"
    if not files:
        return "no known_hosts file is configured"
    return f"{' and '.join(files)} has no line for it"


def _how_to_add(files: Sequence[str]) -> str:
    where = f" to {files[0]}" if files else ""
    return f"if its operator confirms this fingerprint, add the line that `batchmail key PEER` prints{where}"


def _keys_in(file: str, name: str) -> Iterator[KnownKey]:
    try:
        with open(file, encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                key = _read_line(file, number, line, name)
                if key is not None:
                    yield key
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"cannot read known_hosts file {file}: {error.strerror}{how_to_read(file, error)}") from None


def _read_line(file: str, number: int, line: str, name: str) -> KnownKey | None:
    """The key in this line if it speaks of `name`.  What cannot be read vouches for no one, as in OpenSSH."""
    fields = line.split()
    marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
    if len(fields) < 3 or fields[0].startswith("#") or not _speaks_of(fields[0], name):
        return None
    try:
        blob = base64.b64decode(fields[2], validate=True)
    except binascii.Error:
        return None
    return KnownKey(file, number, marker, fields[1], blob)


def _speaks_of(names: str, name: str) -> bool:
    if names.startswith("|1|"):
        return _hash_matches(names, name)
    patterns = names.lower().split(",")
    if any(pattern.startswith("!") and _matches(pattern[1:], name) for pattern in patterns):
        return False
    return any(_matches(pattern, name) for pattern in patterns)


def _matches(pattern: str, name: str) -> bool:
    # Brackets belong to the name ([host]:port); fnmatch would take them for a set.
    return fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))


def _hash_matches(hashed: str, name: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part, validate=True) for part in hashed[3:].split("|"))
    except ValueError:
        return False
    return hmac.compare_digest(hmac.digest(salt, name.encode(), "sha1"), digest)

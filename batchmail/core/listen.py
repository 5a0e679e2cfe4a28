"""Where a door listens: `127.0.0.1:2626`, `[::1]:2626`, `unix:/run/batchmail/door`."""

import ipaddress
import re
from typing import NamedTuple

_TCP = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):([0-9]{1,5})\Z")
_MAX_PATH_OCTETS = 100  # of the 107 that unix(7) allows; some are for the name it is made under

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Address(NamedTuple):
    """An address to listen at; `path` is empty for TCP."""

    text: str
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_local(self) -> bool:
        """Whether nobody but this host can reach it."""
        return bool(self.path) or ipaddress.ip_address(self.host).is_loopback


def parse_address(text: str) -> Address:
    """Raises ValueError."""
    scheme, colon, path = text.partition(":")
    if scheme == "unix" and colon:
        if not path.startswith("/") or path.endswith("/") or "\0" in path or len(path.encode()) > _MAX_PATH_OCTETS:
            raise ValueError(f"not an absolute path of at most {_MAX_PATH_OCTETS} octets: {path!r}")
        return Address(text, path=path)
    match = _TCP.match(text)
    if not match or not 0 <= int(match[3]) <= 65535:
        raise ValueError(f"neither ADDRESS:PORT nor unix:/PATH: {text!r}")
    return Address(text, str(ipaddress.ip_address(match[1] or match[2])), int(match[3]))


def is_among(address: str, networks: tuple[Network, ...]) -> bool:
    """Whether a client's IP address is this host's own, or in one of the networks."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:  # a socket for both, such as systemd makes of a port
        ip = ip.ipv4_mapped
    return ip.is_loopback or any(ip in network for network in networks)

"""Whose connections a door takes."""

import ipaddress

import pytest

from batchmail.core.listen import is_among

NETWORKS = (ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("2001:db8::/32"))


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "192.0.2.7", "::ffff:192.0.2.7", "2001:db8::5"]
)
def test_ours(address: str) -> None:
    """A socket for IPv6 and IPv4 tells IPv4 addresses in the form of IPv6."""
    assert is_among(address, NETWORKS)


@pytest.mark.parametrize(
    "address", ["192.0.3.7", "::ffff:192.0.3.7", "::127.0.0.1", "2001:db9::5", "fe80::1%lo", "0.0.0.0", "::", "", "x"]
)
def test_not_ours(address: str) -> None:
    assert not is_among(address, NETWORKS)

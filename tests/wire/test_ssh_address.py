import os

import pytest

from batchmail.core.errors import ConfigError
from batchmail.wire.ssh_address import SshAddress, parse_address, plain_destination


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ssh://batchmail@mx.example.net:22", SshAddress("batchmail", "mx.example.net", 22)),
        ("ssh://mx.example.net", SshAddress(None, "mx.example.net", None)),
        ("ssh://MX.Example.net/", SshAddress(None, "mx.example.net", None)),
        ("ssh://b@192.0.2.1:2222", SshAddress("b", "192.0.2.1", 2222)),
        ("ssh://b@[2001:db8::1]:2222", SshAddress("b", "2001:db8::1", 2222)),
        ("ssh://[fe80::1%eth0]", SshAddress(None, "fe80::1%eth0", None)),
    ],
)
def test_reads_addresses(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "mx.example.net",
        "ssh:mx.example.net",
        "ssh://",
        "ssh://-oProxyCommand=x",
        "ssh://-x@mx.example.net",
        "ssh://user:secret@mx.example.net",
        "ssh://mx.example.net:0",
        "ssh://mx.example.net:65536",
        "ssh://mx.example.net:ssh",
        "ssh://mx.example.net/path",
        "ssh://mx example",
        "ssh://2001:db8::1",
        "ssh://mx.example.net\n",
    ],
)
def test_refuses_what_is_not_an_address_and_shows_it(text):
    with pytest.raises(ConfigError) as refused:
        parse_address(text)
    assert repr(text) in str(refused.value)


def test_where_it_leads_is_plain_where_no_configuration_of_openssh_has_a_say(monkeypatch):
    mine = []
    monkeypatch.setattr(os, "access", lambda path, _: path in mine)
    assert plain_destination(SshAddress("b", "192.0.2.1", None), None) == ("192.0.2.1", 22)
    assert plain_destination(SshAddress(None, "mx.example.net", 2222), None) == ("mx.example.net", 2222)
    assert plain_destination(SshAddress(None, "mx.example.net", 2222), "/etc/batchmail/ssh_config") is None
    mine.append(os.path.expanduser("~root" if os.geteuid() == 0 else "~") + "/.ssh/config")
    assert plain_destination(SshAddress(None, "mx.example.net", 2222), None) is None

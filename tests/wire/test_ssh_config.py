import os
import pwd

import pytest

from batchmail.core.errors import ConfigError
from batchmail.wire.ssh_address import SshAddress
from batchmail.wire.ssh_config import find_route

ME = pwd.getpwuid(os.geteuid())


@pytest.fixture
def route(tmp_path):
    """route(text of the configuration, address) -> Route."""

    def find(text, user=None, host="mx", port=None):
        (tmp_path / "config").write_text(text)
        return find_route(SshAddress(user, host, port), str(tmp_path / "config"))

    return find


def test_an_empty_configuration_leaves_the_address_and_the_defaults(route):
    found = route("", "b", "mx", 2222)
    assert found == ("b", "mx", 2222, "mx", (), (), ())
    assert route("")[:4] == (ME.pw_name, "mx", 22, "mx")


def test_the_configuration_completes_the_address(route, tmp_path):
    found = route(
        "Host mx\n HostName mx.example.net\n User mail\n Port 2022\n IdentityFile /k/one\n"
        "Host *\n IdentityFile ~/two\n User other\n UserKnownHostsFile /k/known /k/more\n HostKeyAlias alias\n"
    )
    assert found == (
        "mail",
        "mx.example.net",
        2022,
        "alias",
        ("/k/one", os.path.expanduser("~/two")),
        ("/k/known", "/k/more"),
        (),
    )


def test_what_the_address_says_wins_also_inside_a_proxy_command(route):
    found = route("Host *\nUser mail\nPort 2022\nProxyCommand nc -u %r '%h' %p", "b", "mx", 2222)
    assert (found.user, found.port) == ("b", 2222)
    assert found.proxy == ("nc", "-u", "b", "mx", "2222")


def test_a_proxy_command_is_taken_apart_without_a_shell(route):
    assert route("ProxyCommand exec connect %h; rm -rf /").proxy == ("connect", "mx;", "rm", "-rf", "/")
    assert route("ProxyCommand none").proxy == ()


def test_proxy_jump_goes_by_way_of_openssh(route, tmp_path):
    config = str(tmp_path / "config")
    base = ("ssh", "-F", config, "-o", "BatchMode=yes")
    assert route("ProxyJump a@hop:2").proxy == (*base, "-W", "[mx]:22", "ssh://a@hop:2")
    assert route("ProxyJump one, ssh://two").proxy == (*base, "-J", "one", "-W", "[mx]:22", "ssh://two")
    assert route("ProxyJump none").proxy == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Include other\n", "Include is not supported"),
        ("Match exec true\nPort 24\n", "Match exec is not supported"),
        ("Port many\n", "'many' is not a port"),
        ("Match nonsense\n", "not understood"),
        ("ProxyCommand 'unfinished\n", "cannot be taken apart"),
    ],
)
def test_what_is_not_understood_is_an_error_not_another_route(route, text, said):
    with pytest.raises(ConfigError, match=said):
        route(text)


def test_a_configuration_that_is_named_has_to_be_there(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*missing"):
        find_route(SshAddress(None, "mx", None), str(tmp_path / "missing"))


def test_the_default_is_the_owners_own_file(tmp_path, monkeypatch):
    owner = pwd.struct_passwd((*ME[:5], str(tmp_path), ME.pw_shell))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: owner)
    assert find_route(SshAddress(None, "mx", None), None).host == "mx"
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text("HostName mx.example.net\n")
    assert find_route(SshAddress(None, "mx", None), None).host == "mx.example.net"

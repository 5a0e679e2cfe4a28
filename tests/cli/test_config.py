"""The configuration file: every key, and errors that name file, key and what to do."""

import os
import socket
import sys
from ipaddress import ip_network
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from batchmail.cli import config
from batchmail.core.errors import ConfigError
from batchmail.core.listen import Address
from batchmail.core.schedule import Rule, Span, parse_rule
from batchmail.core.settings import DAY_MS, Peer, Site
from tests.servers.packages import CHECKOUT

SMALL = 'site = "mx.example"\n[peers.home]\ndomains = ["home.example"]\n'


@pytest.fixture
def path(tmp_path: object) -> str:
    return f"{tmp_path}/batchmail.toml"


def load(path: str, text: str | bytes) -> Site:
    with open(path, "wb") as file:
        file.write(text.encode() if isinstance(text, str) else text)
    site = config.load(path)
    return site._replace(peers=dict(site.peers), digest="")  # all of them, checked against each other


def refused(path: str, text: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, text)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}: ")


def test_the_smallest_holding_host(path: str) -> None:
    site = load(path, SMALL)
    here = os.path.dirname(path)
    assert site == Site(
        "mx.example",
        "/var/spool/batchmail",
        "batchmail",
        64 << 20,
        "normalize",
        {
            "home": Peer(
                "home",
                domains=("home.example",),
                identity=(f"{here}/id_ed25519",),
                known_hosts=(f"{here}/known_hosts",),
            )
        },
    )
    assert site.peers["home"].lifetime_ms == 30 * DAY_MS


def test_the_smallest_away_host(path: str) -> None:
    text = 'site = "home.example"\n[peers.mx]\ndomains = ["*"]\ncall = "ssh://batchmail@mx.example:22"\n'
    assert load(path, text).peers["mx"].call == ("ssh://batchmail@mx.example:22",)


def test_an_empty_file_is_a_site_without_peers(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getfqdn", lambda: "host.example")
    assert load(path, "") == Site("host.example", "/var/spool/batchmail", "batchmail", 64 << 20, "normalize", {})


def test_the_name_service_is_asked_only_when_the_file_names_no_site(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask() -> str:
        raise AssertionError("asked")

    monkeypatch.setattr(socket, "getfqdn", ask)
    assert load(path, SMALL).name == "mx.example"


@pytest.mark.parametrize("name", ["", "local_host", "a..b", "ho st"])
def test_a_host_without_a_usable_name(path: str, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(socket, "getfqdn", lambda: name)
    assert refused(path, "") == 'this host has no usable name: set site = "host.example"'


SITE_VALUES: dict[str, tuple[list[tuple[str, Any]], list[str]]] = {
    "site": ([('"a.example"', "a.example")], ["1", '""', '"a b"', '"-a"', '"a..b"', "[]", "true", '"ä.example"']),
    "spool": ([('"/srv/spool"', "/srv/spool")], ["1", '""', '"spool"', '"~/spool"', '["/x"]']),
    "user": ([('"mail"', "mail")], ["1", '""', "[]"]),
    "reserve": (
        [("0", 0), ("1000", 1000), ('"64M"', 64 << 20), ('"1 GiB"', 1 << 30), ('"2KB"', 2048), ('"7B"', 7)],
        ["-1", "1.5", "true", '"64X"', '"M"', '"-1M"', '"1.5G"', '"9999999T"', "9223372036854775807", "[]", '""'],
    ),
    "odd_octets": ([('"refuse"', "refuse"), ('"normalize"', "normalize")], ['"keep"', "1", "true", "[]", "{}"]),
    "postmaster": ([('"admin@a.example"', "admin@a.example")], ["1", '""', '"a b"', '"<x>"']),
    "return_limit": ([("0", 0), ('"1M"', 1 << 20)], ["-1", '"x"']),
}
LISTEN: tuple[list[tuple[str, Any]], list[str]] = (
    [
        ('"127.0.0.1:2626"', (Address("127.0.0.1:2626", "127.0.0.1", 2626),)),
        ('["[::1]:25", "unix:/run/d"]', (Address("[::1]:25", "::1", 25), Address("unix:/run/d", path="/run/d"))),
        ("[]", ()),
    ],
    ["1", '""', '"2626"', '"localhost:25"', '"127.0.0.1"', '"::1:25"', '"127.0.0.1:65536"', '"unix:d"', '"unix:/d/"'],
)
DOOR_VALUES: dict[str, tuple[list[tuple[str, Any]], list[str]]] = {
    "listen": LISTEN,
    "mode": ([('"0660"', 0o660), ('"666"', 0o666)], ["660", '"u=rw"', '"0888"', '"1777"', '""']),
    "group": ([('"postfix"', "postfix"), ('""', "")], ["1", "[]"]),
    "clients": (
        [('["192.0.2.0/24", "2001:db8::/32"]', (ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")))],
        ["1", '"mx.example"', '"192.0.2.1/24"', '""'],
    ),
    "xforward": ([("true", True), ("false", False)], ["1", '"yes"']),
    "connections": ([("1", 1), ("5000", 5000)], ["0", "-1", "true", '"9"', "100001"]),
    "workers": ([("1", 1), ("64", 64)], ["0", "-1", "true", '"2"', "65"]),
}
PEER_VALUES: dict[str, tuple[list[tuple[str, Any]], list[str]]] = {
    "domains": (
        [
            ('["A.example", ".b.example", "*"]', ("a.example", ".b.example", "*")),
            ('"a.example"', ("a.example",)),
            ('["B\u00fccher.example", ".b\u00fccher.example"]', ("xn--bcher-kva.example", ".xn--bcher-kva.example")),
            ("[]", ()),
        ],
        [
            "1",
            '[""]',
            '["a..b"]',
            '["*.a"]',
            '["a b"]',
            "[1]",
            '""',
            '["user@a.example"]',
            '["user@b\u00fc.example"]',
            "{}",
        ],
    ),
    "listen": LISTEN,
    "site": SITE_VALUES["site"],
    "call": (
        [
            ('"ssh://u@h.example:22"', ("ssh://u@h.example:22",)),
            ('["ssh://u@h.example", "command: ssh h"]', ("ssh://u@h.example", "command: ssh h")),
        ],
        ["1", '""', '"h.example"', '"http://h.example"', '"ssh://h:99999"', "[1]", '["ssh://u@h.example", "x"]'],
    ),
    "identity": ([('"/k"', ("/k",)), ('["/k", "/l"]', ("/k", "/l"))], ["1", '""', "[1]", "true"]),
    "known_hosts": ([('"/k"', ("/k",))], ["1", '""', "[1]"]),
    "ssh_config": ([('"/k"', "/k")], ["1", '""', '["/k"]']),
    "agent": ([("true", True), ("false", False)], ["1", "0", '"yes"', "[]"]),
    "target": (
        [('"smtp://127.0.0.1:25"', "smtp://127.0.0.1:25"), ('"maildir:/m"', "maildir:/m")],
        ["1", '""', '"smtp:"', '"ftp://x"', '"maildir:m"', '"smtp://h?x=1"'],
    ),
    "senders": ([('[".a.example"]', (".a.example",))], ["1", '["@"]']),
    "recipients": ([('"*"', ("*",))], ["1", '["@"]']),
    "valid_recipients": (
        [('"/etc/list"', ()), ('["a@b.example", "@c.example"]', ("a@b.example", "@c.example"))],
        ["1", '"list"', '["a"]', '["@"]', '["a b@c.example"]', "[1]", "true"],
    ),
    "recipient_delimiter": ([('"+-"', "+-"), ('""', "")], ["1", '"@"', '" "', "true", '["+"]']),
    "hide_recipients": ([("true", True), ("false", False)], ["1", '"yes"']),
    "lifetime": (
        [
            ('"30d"', 30 * DAY_MS),
            ('"2 h"', 7_200_000),
            ('"1min"', 60_000),
            ('"5ms"', 5),
            ('"1w"', 7 * DAY_MS),
            ('"0s"', 0),
        ],
        ["1", "1.5", "true", '"30"', '"30m"', '"d"', '"-1d"', '"1.5d"', '"999999999w"', '""', "[]", "1979-05-27"],
    ),
    "delay_notice": (
        [
            ('"3d"', Span(3 * DAY_MS)),
            ('{ normal = "1d", 5 = "1h", -3 = "2d" }', Span(DAY_MS, ((-3, 2 * DAY_MS), (5, 3_600_000)))),
        ],
        [
            "1",
            '"x"',
            "{}",
            '{ normal = "1d", 0 = "1h" }',
            '{ normal = "1d", x = "1h" }',
            '{ 5 = "1h" }',
            '{ normal = "1d", 10 = "1h" }',
        ],
    ),
    "give_up": ([('"30d"', 30 * DAY_MS)], ["30", '"x"']),
    "calls": (
        [
            ('"every 10min"', (Rule(600_000),)),
            ('["daily 06:00", "thu 00:01"]', (parse_rule("daily 06:00"), parse_rule("thu 00:01"))),
            ('"daily 06:00 Europe/Berlin"', (parse_rule("daily 06:00", ZoneInfo("Europe/Berlin")),)),
        ],
        [
            "1",
            '"x"',
            '"daily"',
            '["daily 25:00"]',
            "true",
            '"daily 06:00 Europe"',
            '"daily 06:00 ../x"',
            '"every 1 h x"',
            '"daily 06:00 Nowhere/City"',
        ],
    ),
    "away_until": (
        [
            ("2027-05-03", 1809302400000),
            ("2027-05-03T02:00:00+02:00", 1809302400000),
            ("2027-05-03T01:00:00", 1809306000000),
        ],
        ['"2027-05-03"', "1", "06:00:00", "true"],
    ),
    "max_message": ([('"50M"', 50 << 20)], ["-1", '"x"', '"9999999T"']),
    "quota": ([('"1T"', 1 << 40)], ["-1", '"x"']),
    "report_wait": ([('"10s"', 10.0), ('"500ms"', 0.5)], ["10", '"10"']),
    "batch_size": ([('"1M"', 1 << 20)], ["-1", '"x"']),
    "remember": ([('"90d"', 90 * DAY_MS)], ["90", '"x"']),
    "level": ([("1", 1), ("19", 19), (chr(34) + "auto" + chr(34), 0)], ["0", "20", "true", '"9"', "9.0", "-1"]),
}


def test_every_key_is_tested() -> None:
    tested = {"": tuple(SITE_VALUES), "door": tuple(DOOR_VALUES), "peers.NAME": tuple(PEER_VALUES)}
    assert tested == config.KEYS


@pytest.mark.parametrize(("key", "text", "value"), [(k, t, v) for k, (g, _) in SITE_VALUES.items() for t, v in g])
def test_a_key_of_the_site(path: str, key: str, text: str, value: Any) -> None:
    field = {"site": "name", "reserve": "reserve_octets", "return_limit": "return_octets"}.get(key, key)
    prefix = "" if key == "site" else 'site = "mx.example"\n'
    assert getattr(load(path, f"{prefix}{key} = {text}\n"), field) == value


@pytest.mark.parametrize(("key", "text", "value"), [(k, t, v) for k, (g, _) in DOOR_VALUES.items() for t, v in g])
def test_a_key_of_the_door(path: str, key: str, text: str, value: Any) -> None:
    assert getattr(load(path, f"{SMALL}[door]\n{key} = {text}\n").door, key) == value


@pytest.mark.parametrize(("key", "text"), [(k, t) for k, (_, bad) in DOOR_VALUES.items() for t in bad])
def test_a_value_of_the_door_that_is_wrong(path: str, key: str, text: str) -> None:
    message = refused(path, f"{SMALL}[door]\n{key} = {text}\n")
    assert message.startswith((f"door.{key} = ", f"door.{key}: "))


def test_an_address_that_others_can_reach_needs_to_know_them(path: str) -> None:
    text = f'{SMALL}listen = "192.0.2.1:25"\n'
    assert refused(path, text).startswith('peers.home.listen: "192.0.2.1:25" can be reached from other hosts: ')
    assert load(path, f'{text}[door]\nclients = "192.0.2.0/24"\n').peers["home"].listen


def test_an_address_stands_once(path: str) -> None:
    text = f'{SMALL}listen = "127.0.0.1:25"\n[door]\nlisten = ["127.0.0.1:25"]\n'
    assert refused(path, text) == '"127.0.0.1:25" stands in listen of both door and peers.home'


@pytest.mark.parametrize(("key", "text", "value"), [(k, t, v) for k, (g, _) in PEER_VALUES.items() for t, v in g])
def test_a_key_of_a_peer(path: str, key: str, text: str, value: Any) -> None:
    fields = {"agent": "use_agent", "lifetime": "lifetime_ms", "max_message": "max_message_octets"}
    fields |= {"quota": "quota_octets", "report_wait": "report_wait_s", "batch_size": "batch_octets"}
    fields |= {"remember": "remember_ms", "give_up": "give_up_ms"}
    site = load(path, f'site = "mx.example"\n[peers.home]\n{key} = {text}\n')
    peer = site.peers["home"]
    told = {"calls": peer.calendar.rules, "away_until": peer.calendar.away_until_ms}
    assert (told[key] if key in told else getattr(peer, fields.get(key, key))) == value


@pytest.mark.parametrize(("key", "text"), [(k, t) for k, (_, bad) in SITE_VALUES.items() for t in bad])
def test_a_value_of_the_site_that_is_wrong(path: str, key: str, text: str) -> None:
    prefix = "" if key == "site" else 'site = "mx.example"\n'
    assert refused(path, f"{prefix}{key} = {text}\n").startswith(f"{key} ")


@pytest.mark.parametrize(("key", "text"), [(k, t) for k, (_, bad) in PEER_VALUES.items() for t in bad])
def test_a_value_of_a_peer_that_is_wrong(path: str, key: str, text: str) -> None:
    message = refused(path, f'site = "mx.example"\n[peers.home]\n{key} = {text}\n')
    assert message.startswith((f"peers.home.{key} = ", f"peers.home.{key}: "))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('sits = "x"', "unknown key sits; did you mean site?"),
        ("[peer.home]", "unknown key peer; did you mean peers?"),
        ('[peers.home]\ndomain = ["x"]', "unknown key peers.home.domain; did you mean domains?"),
        ('[peers.home]\nknownhosts = "x"', "unknown key peers.home.knownhosts; did you mean known_hosts?"),
        (
            "zzz = 1",
            "unknown key zzz; known are door, odd_octets, peers, postmaster, reserve, return_limit, site, spool, user",
        ),
        ('[peers.home]\nspool = "/x"', "peers.home.spool: spool belongs above the first [table], not into one"),
        ("peers = 1", "peers is to be tables, such as [peers.home]"),
        ("[[peers]]", "peers is to be tables, such as [peers.home]"),
        ("[peers]\nhome = 1", "peers is to be tables, such as [peers.home]"),
        ("[peers.mx.example.net]", '[peers.mx.example]: a name with dots is quoted, as in [peers."mx.example.net"]'),
    ],
)
def test_what_is_unknown_names_the_nearest(path: str, text: str, message: str) -> None:
    assert refused(path, text) == message


def test_peers_with_dots_and_in_any_case(path: str) -> None:
    site = load(path, 'site = "a.example"\n[peers."MX.Example.net"]\n[peers.home]\n')
    assert sorted(site.peers) == ["home", "mx.example.net"]
    assert config.find_peer(site, "Mx.EXAMPLE.net", path).name == "mx.example.net"
    with pytest.raises(ConfigError, match=r"no peer other; known: home, mx\.example\.net"):
        config.find_peer(site, "other", path)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", ".hidden", "-x", "a b", "x" * 101, "\u00e4", "a\\u0000", "_x"]
)
def test_a_name_that_is_no_peers(path: str, name: str) -> None:
    assert "a peer's name is of a-z 0-9 . _ -" in refused(path, f'site = "a.example"\n[peers."{name}"]\n')


def test_a_peer_that_stands_twice(path: str) -> None:
    assert "stands once" in refused(path, 'site = "a.example"\n[peers.Home]\n[peers.home]\n')
    assert refused(path, 'site = "a.example"\n[peers.home]\n[peers.home]\n')
    assert refused(path, 'site = "a.example"\nsite = "b.example"\n')


@pytest.mark.parametrize("domain", ["*", "x.example"])
def test_a_domain_of_two_peers(path: str, domain: str) -> None:
    text = f'site = "a.example"\n[peers.home]\ndomains = "{domain}"\n[peers.mx]\ndomains = ["b.example", "{domain}"]\n'
    assert refused(path, text) == f'"{domain}" stands in domains of both peers.home and peers.mx'


@pytest.mark.parametrize("text", [b"site = ", b"\xff", b"[peers", b'site = "a"\0'])
def test_what_is_no_toml(path: str, text: bytes) -> None:
    assert refused(path, text)


def test_a_file_that_cannot_be_read(path: str, tmp_path: object) -> None:
    with pytest.raises(ConfigError, match=r"No such file.*-c.*batchmail\.toml\(5\).*contrib"):
        config.load(path)
    with pytest.raises(ConfigError, match="Is a directory"):
        config.load(str(tmp_path))


@pytest.mark.parametrize(
    ("program", "place"),
    [
        (f"{CHECKOUT}/bin/batchmail", f"{CHECKOUT}/contrib"),
        ("/opt/x/bin/batchmail", "/opt/x/share/doc/batchmail/contrib"),
    ],
)
def test_where_the_examples_are(path: str, program: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [program])
    with pytest.raises(ConfigError, match=f"batchmail-\\*.toml in {place}$"):
        config.load(path)


def test_where_the_file_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BATCHMAIL_CONFIG", raising=False)
    assert config.config_path(None) == "/etc/batchmail/batchmail.toml"
    monkeypatch.setenv("BATCHMAIL_CONFIG", "/env")
    assert (config.config_path(None), config.config_path("/option")) == ("/env", "/option")

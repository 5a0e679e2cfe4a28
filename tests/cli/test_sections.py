"""One peer's part of a configuration is what the whole file says of it."""

import os
import pwd
import random
import tomllib

import pytest

from batchmail.cli import config, start
from batchmail.cli.sections import apart
from batchmail.core.errors import ConfigError

TEXT = """\
site = "mx.example.org"   # [peers.none]
spool = '/var/spool/[peers.none]'
[peers.home]
domains = [
    "home.example",
    ".home.example",
]
 [ peers . "mx.example.net" ]  # dots
domains = ["mx.example.net"]
[door]
listen = "127.0.0.1:2626"
[peers.home.lifetime]
normal = "3d"
[peers.'lit']
target = "bsmtp:/a [peers.none]"
"""


@pytest.fixture
def load(tmp_path):
    def write_and_load(text):
        path = tmp_path / "batchmail.toml"
        path.write_text(text)
        return config.load(str(path))

    return write_and_load


def test_common_and_each_peers_tables():
    common, peers = apart(TEXT)
    assert tomllib.loads(common) == {k: v for k, v in tomllib.loads(TEXT).items() if k != "peers"}
    assert {name: tomllib.loads(part)["peers"][name] for name, part in peers.items()} == tomllib.loads(TEXT)["peers"]


def test_one_is_as_among_all(load):
    alone, among = load(TEXT), load(TEXT)
    assert len(among.peers) == 3
    assert {name: alone.peers[name] for name in among.peers} == dict(among.peers)
    assert alone.peers.get("none") is None


@pytest.mark.parametrize(
    "peers",
    [
        'peers.a.domains = ["a.example"]\npeers.b.level = 3\n',
        'peers = { a = { domains = ["a.example"] }, b = { level = 3 } }\n',
        '[peers]\na.domains = ["a.example"]\n[peers.b]\nlevel = 3\n',
        '[peers]\nb = { level = 3 }\n[peers.A]\ndomains = ["a.example"]\n',
        '[peers.a]\ndomains = ["""\na.example"""]\n[peers.b]\nlevel = 3\n',
        '[peers."\\u0061"]\ndomains = ["a.example"]\n[peers.b]\nlevel = 3\n',
        '["peers".a]\ndomains = ["a.example"]\n[peers.b]\nlevel = 3\n',
    ],
)
def test_however_they_are_written(load, peers):
    site = load(f'site = "mx.example.org"\n{peers}')
    assert (site.peers["a"].domains, site.peers["b"].level) == (("a.example",), 3)
    assert sorted(site.peers) == ["a", "b"]


def test_a_mistake_is_told_where_it_stands_and_to_whom_it_concerns(load):
    site = load('site = "mx.example.org"\n[peers.a]\nlevel = 3\n[peers.b]\nlevel = = 3\n[peers.c]\nlevle = 3\n')
    assert site.peers["a"].level == 3
    with pytest.raises(ConfigError, match="line 5"):
        site.peers["b"]
    with pytest.raises(ConfigError, match="did you mean level"):
        site.peers["c"]
    with pytest.raises(ConfigError, match="line 5"):
        len(site.peers)


@pytest.mark.parametrize(
    ("peers", "says"),
    [
        ('[peers.a]\ndomains = ["x.example"]\n[peers.b]\ndomains = ["x.example"]\n', "both peers.a and peers.b"),
        ('[peers.a]\nlisten = "127.0.0.1:26"\n[peers.b]\nlisten = "127.0.0.1:26"\n', "both peers.a and peers.b"),
    ],
)
def test_all_are_checked_against_each_other(load, peers, says):
    site = load(f'site = "mx.example.org"\n{peers}')
    assert site.peers["a"].name == "a"
    with pytest.raises(ConfigError, match=says):
        list(site.peers)


def test_one_that_is_served_needs_no_other_and_what_is_taken_away_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "umask", lambda mask: mask)  # it would stay for all tests that follow
    path, spool = tmp_path / "batchmail.toml", tmp_path / "spool"
    a, b = '[peers.a]\ndomains = ["a.example"]\n', '[peers.b]\ndomains = ["b.example"]\n'

    def serve(text):
        user = pwd.getpwuid(os.geteuid()).pw_name  # an empty directory of root's is given away, and the process with it
        path.write_text(f'site = "mx.example.org"\nspool = "{spool}"\nuser = "{user}"\n{text}')
        site, _ = start.load(str(path))
        start.set_up(site, served=[site.peers["a"]])
        return sorted(os.listdir(spool / "doors"))

    os.mkdir(spool, 0o700)
    both = ["domain.a.example", "domain.b.example", "peer.a", "peer.b"]
    assert serve(a + b) == both
    assert serve(f"{a}{b}levle = 3\n") == both
    with pytest.raises(ConfigError, match="did you mean level"):
        serve(f"{a}max_message = 7\n{b}levle = 3\n")
    assert serve(a) == ["domain.a.example", "peer.a"]


def test_no_line_gets_lost_or_moved():
    source = random.Random(8)
    lines = [*TEXT.splitlines(keepends=True), "\n", "# note\n", "x = [[1,\n", "[2]]\n"]
    for _ in range(300):
        text = "".join(source.choice(lines) for _ in range(12))
        common, peers = apart(text)
        assert sorted("".join([common, *peers.values()]).splitlines()) == sorted(text.splitlines())

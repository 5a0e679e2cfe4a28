"""batchmail call: what it says, to whom, and its exit codes."""

import os
import sys

import pytest

from batchmail.wire.keys import ensure_key
from batchmail.wire.ssh_server import serve
from tests.cli.programs import BIN, CliSite, a_pair, receive


def receive_program(site):
    return f"{sys.executable} {BIN}/batchmail-receive -c {site.config}"


def test_a_call_without_mail_is_told_to_who_asks(tmp_path):
    _, home = a_pair(tmp_path)
    assert home.run("call", "mx").returncode == 0  # the first one still tells of the peer's name and the like
    assert home.run("call", "mx").stdout == b""
    told = home.run("call", "mx", "-v").stdout
    assert told.startswith(b"mx: sent no mail (") and told.count(b"\n") == 1


def test_a_call_to_nobody_is_a_wrong_command_line(tmp_path):
    mx, _ = a_pair(tmp_path)
    for words, said in ([], b"name one, or say --all"), (["--all"], b"no peer has a call entry"):
        done = mx.run("call", *words)
        assert (done.returncode, said in done.stderr) == (64, True)


def test_a_peer_that_calls_us_cannot_be_called_and_that_is_no_call_that_failed(tmp_path):
    mx, home = a_pair(tmp_path)
    assert home.run("call", "mx").returncode == 0
    done = mx.run("call", "home")
    assert (done.returncode, b"has no call entry: it calls us" in done.stderr) == (78, True)
    assert mx.json("status")[0]["call_code"] == 0
    assert mx.run("status").returncode == 0
    assert mx.run("call", "home", "--dry-run").returncode == 0


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("{receive} --pear home", "unknown argument --pear"),
        ("{receive} --peer hoem", "no peer hoem; known: home"),
        ("{receive} --peer home -c /none.toml", "/none.toml: No such file"),
        ("sh -c 'no-such-program --peer home'", "ended with 127"),
        ("sh -c 'echo Welcome; exec /dev/null'", "it said: Welcome / "),
    ],
)
def test_what_is_wrong_at_the_other_side_for_good_is_for_a_person(tmp_path, command, said):
    mx, home = a_pair(tmp_path)
    home.configure(entry=f'call = "command: {command.format(receive=receive_program(mx))}"')
    done = home.run("call", "mx")
    assert (done.returncode, said in done.stderr.decode()) == (78, True), done
    assert done.stderr.count(said.encode()) == 1
    done = home.run("status")
    assert (done.returncode, b"CRITICAL: mx: the last call failed and needs you: " in done.stdout) == (2, True)
    home.configure(entry=f'call = "{receive(mx)}"')
    assert home.run("call", "mx").returncode == 0
    assert home.run("status").returncode == 0


def test_a_wrong_line_in_authorized_keys_is_for_a_person(tmp_path):
    ensure_key(str(tmp_path / "host_key"), "host")
    os.mkdir(tmp_path / "home")
    line, _ = ensure_key(str(tmp_path / "home/id_ed25519"), "home")
    server = serve(str(tmp_path / "host_key"), {line: ["sh", "-c", "no-such-receive --peer home"]})
    try:
        home = CliSite(tmp_path / "home", "home.example", "mx", f'call = "ssh://b@127.0.0.1:{server.port}"')
        assert home.run("key", "mx", "--add").returncode == 0
        done = home.run("call", "mx")
    finally:
        server.close()
    assert done.returncode == 78, done
    assert f"127.0.0.1:{server.port}: the program there ended with 127 ".encode() in done.stderr
    assert home.run("status").returncode == 2


@pytest.mark.parametrize(
    ("ways", "code", "told"),
    [
        (("stranger", "mx"), 0, ""),
        (("stranger", "/none", "mx"), 0, ""),
        (("stranger", "other"), 77, "stranger other"),
        (("stranger", "/none"), 75, "stranger /none"),
        (("/none", "/nil"), 75, "/none /nil"),
    ],
)
def test_the_ways_are_tried_in_turn(tmp_path, ways, code, told):
    """Behind an address of another network there may be a stranger, whose host key is not the known one."""
    mx, home = a_pair(tmp_path)
    line, _ = ensure_key(f"{home.directory}/id_ed25519", "home")
    command = {line: ["sh", "-c", f"exec {receive_program(mx)} --peer home"]}
    known, _ = ensure_key(str(tmp_path / "mx_key"), "mx")
    servers = {}
    try:
        for name in ("mx", "stranger", "other"):
            ensure_key(str(tmp_path / f"{name}_key"), name)
            servers[name] = serve(str(tmp_path / f"{name}_key"), command)
        with open(f"{home.directory}/known_hosts", "w", encoding="ascii") as file:
            file.writelines(f"[127.0.0.1]:{server.port} {known}\n" for server in servers.values())
        texts = {name: f"ssh://b@127.0.0.1:{server.port}" for name, server in servers.items()}
        home.configure(entry=f"call = {[texts.get(way, f'command: {way}') for way in ways]}")
        done = home.run("call", "mx", "-v")
    finally:
        for server in servers.values():
            server.close()
    said = done.stderr.decode()
    places = [texts[word].rpartition(":")[2] if word in texts else word for word in told.split()]
    assert (done.returncode, [place in said for place in places]) == (code, [True] * len(places)), done


@pytest.mark.parametrize("command", ["false", "sh -c 'kill -9 $$'", "sh -c 'exit 255'", "sh -c 'echo later; exit 75'"])
def test_a_line_that_is_not_there_is_not(tmp_path, command):
    home = CliSite(tmp_path, "home.example", "mx", f'call = "command: {command}"')
    done = home.run("call", "mx", "-v")
    assert (done.returncode, b"it said: later" in done.stderr) == (75, "later" in command), done
    assert home.run("status").returncode == 0


def test_sites_that_contradict_each_other_are_for_people_at_both_ends(tmp_path):
    mx, home = a_pair(tmp_path)
    assert home.run("call", "mx").returncode == 0
    with open(home.config, encoding="utf-8") as file:
        renamed = file.read().replace("home.example", "other.example", 1)
    with open(home.config, "w", encoding="utf-8") as file:
        file.write(renamed)
    done = home.run("call", "mx")
    assert done.returncode == 78
    assert b'set site = "other.example" in [peers.home] on mx.example' in done.stderr
    for site in (mx, home):
        assert (site.json("status")[0]["call_code"], site.run("status").returncode) == (78, 2)


def test_a_peer_that_is_named_twice_is_called_once(tmp_path):
    _, home = a_pair(tmp_path)
    assert len(home.lines("call", "mx", "MX", "--dry-run")) == 2  # what, and how long


def test_sizes_are_given_as_in_the_configuration(tmp_path):
    _, home = a_pair(tmp_path)
    assert home.run("call", "mx", "--max-bytes", "1M").returncode == 0
    done = home.run("call", "mx", "--max-bytes", "1X")
    assert (done.returncode, b"'1X' is no size" in done.stderr) == (64, True)

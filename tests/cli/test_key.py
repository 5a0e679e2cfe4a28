"""batchmail key, with the embedded SSH server at the other end."""

import os
import pwd
import stat

import pytest

from batchmail.wire.keys import ensure_key
from batchmail.wire.ssh_server import serve
from tests.cli.programs import BIN, CliSite, run
from tests.servers.host import is_root
from tests.servers.sshd import login_account


@pytest.fixture
def server(tmp_path):
    ensure_key(str(tmp_path / "host_key"), "host")
    started = serve(str(tmp_path / "host_key"), {})
    yield started
    started.close()


@pytest.fixture
def home(tmp_path, server):
    return CliSite(tmp_path / "home", "home.example", "mx", f'call = "ssh://b@127.0.0.1:{server.port}"')


def test_the_lines_to_paste(home, server, tmp_path):
    done = home.run("key", "mx")
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    with open(f"{home.directory}/id_ed25519.pub", encoding="ascii") as file:
        public = file.read().strip()
    assert f'restrict,command="{BIN}/batchmail-receive --peer home" {public}' in lines
    with open(tmp_path / "host_key.pub", encoding="ascii") as file:
        host_line = f"[127.0.0.1]:{server.port} {' '.join(file.read().split()[:2])}"
    assert host_line in lines
    assert not os.path.exists(f"{home.directory}/known_hosts")
    assert stat.S_IMODE(os.stat(f"{home.directory}/id_ed25519").st_mode) == 0o600
    assert "there already" in home.run("key", "mx").stdout.decode()


def test_add_writes_each_line_once(home):
    with open(f"{home.directory}/known_hosts", "w", encoding="ascii") as file:
        file.write("# mine")  # without its line end
    for added in (b": 1 line.", b": 0 lines."):
        done = home.run("key", "mx", "--add", "--as", "away")
        assert added in done.stdout
        assert b"--peer away" in done.stdout
    with open(f"{home.directory}/known_hosts", encoding="ascii") as file:
        lines = file.read().splitlines()
    assert lines[0] == "# mine"
    assert len(lines) == 2


def test_another_key_in_known_hosts_is_told_and_nothing_is_added(home, server, tmp_path):
    ensure_key(str(tmp_path / "old_key"), "host")
    old = " ".join((tmp_path / "old_key.pub").read_text().split()[:2])
    known_hosts = f"{home.directory}/known_hosts"
    with open(known_hosts, "w", encoding="ascii") as file:
        file.write(f"[127.0.0.1]:{server.port} {old}\n")
    done = home.run("key", "mx")
    assert done.returncode == 0
    assert b"THE HOST KEY HAS CHANGED" in done.stdout
    assert done.stdout.count(b"SHA256:") == 4  # ours, what is shown, and both in the warning
    done = home.run("key", "mx", "--add")
    assert done.returncode == 77
    assert f"ssh-keygen -R '[127.0.0.1]:{server.port}' -f {known_hosts}".encode() in done.stderr
    with open(known_hosts, encoding="ascii") as file:
        assert len(file.readlines()) == 1


def test_the_program_on_the_other_host_may_be_elsewhere(home):
    assert (
        b'command="/opt/b/bin/batchmail-receive --peer home"'
        in home.run("key", "mx", "--program", "/opt/b/bin/batchmail-receive").stdout
    )
    assert home.run("key", "mx", "--program", '/a" b').returncode == 64


def test_a_host_that_does_not_answer(tmp_path):
    home = CliSite(tmp_path, "home.example", "mx", 'call = "ssh://b@127.0.0.1:1"')
    done = home.run("key", "mx")
    assert done.returncode == 0
    assert b"ssh-keyscan -p 1 -t ed25519 127.0.0.1" in done.stdout
    assert home.run("key", "mx", "--add").returncode == 75


def test_only_the_side_that_calls_has_a_key(tmp_path):
    mx = CliSite(tmp_path, "mx.example", "home")
    done = mx.run("key", "home")
    assert done.returncode == 78
    assert b"has no ssh:// call entry" in done.stderr
    assert not os.path.exists(f"{mx.directory}/id_ed25519")


def test_names_that_would_break_the_line_are_refused(home):
    done = home.run("key", "mx", "--as", 'a" x')
    assert done.returncode == 64
    assert not os.path.exists(f"{home.directory}/id_ed25519")


@pytest.mark.skipif(not is_root(), reason="needs root")
def test_root_makes_it_for_the_owner_of_the_spool(open_path, server):
    account = login_account()
    os.mkdir(f"{open_path}/etc", 0o755)
    config = f"{open_path}/etc/batchmail.toml"
    with open(config, "w", encoding="ascii") as file:
        file.write(
            f'site = "home.example"\nspool = "{open_path}/spool"\n[peers.mx]\ncall = "ssh://b@127.0.0.1:{server.port}"\n'
        )
    done = run("-c", config, "key", "mx", "--add")
    assert done.returncode == 0, done
    for name in ("id_ed25519", "id_ed25519.pub", "known_hosts"):
        assert os.stat(f"{open_path}/etc/{name}").st_uid == account.pw_uid, name
    os.chown(f"{open_path}/etc/known_hosts", 0, 0)  # as ssh-keygen -R leaves it
    done = run("-c", config, "key", "mx")
    assert done.returncode == 78
    assert f"{account.pw_name} {open_path}/etc/known_hosts".encode() in done.stderr
    assert run("-c", config, "key", "mx", "--add").returncode == 0
    assert os.stat(f"{open_path}/etc/known_hosts").st_uid == account.pw_uid
    os.chown(f"{open_path}/etc/id_ed25519", 0, 0)
    assert run("-c", config, "setup").returncode == 0
    said = run("-c", config, "check").stdout
    assert f"chown {account.pw_name} {open_path}/etc/id_ed25519".encode() in said
    assert b"makes one" not in said
    os.chmod(f"{open_path}/etc", 0o700)
    done = run("-c", config, "key", "mx")
    assert done.returncode == 78
    assert f"let {pwd.getpwuid(account.pw_uid).pw_name} enter {open_path}/etc".encode() in done.stderr

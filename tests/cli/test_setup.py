"""batchmail setup, started by root: what it makes, and who can reach it."""

import os
import pwd
import stat

import pytest

from tests.cli.programs import run
from tests.servers.host import is_root
from tests.servers.sshd import login_account

pytestmark = pytest.mark.skipif(not is_root(), reason="needs root")


@pytest.fixture
def config(open_path):
    login_account()
    with open(f"{open_path}/b.toml", "w", encoding="ascii") as file:
        file.write(f'site = "home.example"\nspool = "{open_path}/a/b/spool"\n[peers.mx]\n')
    os.chmod(file.name, 0o644)
    return file.name


def test_missing_parents_are_roots_and_can_be_passed(config, open_path):
    done = run("-c", config, "setup")
    assert done.returncode == 0, done
    assert b"with 1 peer." in done.stdout
    for name, mode in (("a", 0o755), ("a/b", 0o755), ("a/b/spool", 0o700)):
        status = os.stat(f"{open_path}/{name}")
        assert (stat.S_IMODE(status.st_mode), status.st_uid == 0) == (mode, name != "a/b/spool")


def test_a_spool_that_its_owner_cannot_reach(config, open_path):
    os.mkdir(f"{open_path}/a", 0o700)
    for command in ("setup", "status"):
        done = run("-c", config, command)
        assert f"batchmail cannot reach the spool {open_path}/a/b/spool".encode() in done.stdout + done.stderr
        assert f"chmod o+x {open_path}/a".encode() in done.stdout + done.stderr


def test_an_empty_directory_of_roots_is_given_to_the_user(config, open_path):
    os.makedirs(f"{open_path}/a/b/spool/lost+found", 0o755)
    assert run("-c", config, "setup").returncode == 0
    status = os.stat(f"{open_path}/a/b/spool")
    assert (pwd.getpwuid(status.st_uid).pw_name, stat.S_IMODE(status.st_mode)) == ("batchmail", 0o700)


@pytest.mark.parametrize("name", ["letters", ".ssh"])
def test_a_directory_with_something_in_it_is_left_as_it_is(config, open_path, name):
    spool = f"{open_path}/a/b/spool"
    os.makedirs(f"{spool}/{name}", 0o755)
    os.chmod(spool, 0o755)
    done = run("-c", config, "setup")
    assert (done.returncode, spool.encode() in done.stderr, b"-R" in done.stderr) == (75, True, False)
    assert (os.listdir(spool), os.stat(spool).st_uid, stat.S_IMODE(os.stat(spool).st_mode)) == ([name], 0, 0o755)
    if name == ".ssh":  # the home of the spool's user
        os.chown(spool, *account())
        assert run("-c", config, "setup").returncode == 0
    else:
        assert b"is no spool and is not empty (letters)" in done.stderr
        os.chown(spool, *account())
        assert run("-c", config, "setup").returncode == 75


def account():
    entry = pwd.getpwnam("batchmail")
    return entry.pw_uid, entry.pw_gid

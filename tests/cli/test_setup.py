"""batchmail setup, started by root: what it makes, and who can reach it."""

import os
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

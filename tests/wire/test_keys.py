import os
import shutil
import stat
import subprocess

import pytest

from batchmail.core.errors import ConfigError, KeyRefused
from batchmail.wire.keys import ensure_key

needs_keygen = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="no ssh-keygen")


def keygen(*arguments):
    return subprocess.run(["ssh-keygen", *arguments], check=True, capture_output=True, text=True).stdout


def test_makes_a_missing_pair_once(tmp_path):
    path = str(tmp_path / "id_ed25519")
    line, made = ensure_key(path, "batchmail@home")
    assert made
    assert line.startswith("ssh-ed25519 AAAA")
    assert line.endswith(" batchmail@home")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert (tmp_path / "id_ed25519.pub").read_text() == line + "\n"
    assert ensure_key(path, "batchmail@home") == (line, False)


def test_the_rights_do_not_depend_on_the_umask(tmp_path):
    before = os.umask(0o777)
    try:
        ensure_key(str(tmp_path / "key"), "c")
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(tmp_path / "key").st_mode) == 0o600
    assert stat.S_IMODE(os.stat(tmp_path / "key.pub").st_mode) == 0o644


def test_says_why_it_cannot_make_one(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot write key .*: No such file or directory"):
        ensure_key(str(tmp_path / "missing" / "key"), "c")


def test_says_that_a_file_is_no_key(tmp_path):
    (tmp_path / "key").write_text("nothing of the kind\n")
    with pytest.raises(ConfigError, match="not a private key"):
        ensure_key(str(tmp_path / "key"), "c")


@pytest.mark.real
@needs_keygen
def test_openssh_reads_the_key_we_make(tmp_path):
    line, _ = ensure_key(str(tmp_path / "key"), "c")
    assert keygen("-y", "-f", str(tmp_path / "key")).split()[:2] == line.split()[:2]


@pytest.mark.real
@needs_keygen
@pytest.mark.parametrize("arguments", [["-t", "rsa"], ["-t", "ecdsa", "-m", "PEM"], ["-t", "ed25519"]])
def test_reads_the_keys_that_openssh_makes(tmp_path, arguments):
    path = str(tmp_path / "key")
    keygen("-q", "-N", "", "-f", path, *arguments)
    line, made = ensure_key(path, "c")
    assert not made
    assert line.split()[:2] == (tmp_path / "key.pub").read_text().split()[:2]


@pytest.mark.real
@needs_keygen
@pytest.mark.parametrize("form", ["RFC4716", "PEM"])
def test_a_passphrase_is_named(tmp_path, form):
    path = str(tmp_path / "key")
    keygen("-q", "-t", "rsa", "-N", "secret", "-m", form, "-f", path)
    with pytest.raises(KeyRefused, match="passphrase"):
        ensure_key(path, "c")

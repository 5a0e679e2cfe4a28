"""batchmail check: what it finds, and that it says what to do."""

import os
import shutil

import pytest

from tests.cli.programs import DOWN, TWO, CliSite, a_pair, a_pair_in_custody, run
from tests.servers.host import is_root
from tests.servers.sshd import login_account


def problems(site, *options):
    return {found["subject"].split()[0]: found["problem"] for found in site.json("check", *options) if not found["ok"]}


@pytest.fixture
def home(tmp_path):
    return a_pair(tmp_path)[1]


def test_a_sound_site(home):
    done = home.run("check", "--files")
    assert done.returncode == 0, done.stdout
    assert all(line.startswith(b"ok ") for line in done.stdout.splitlines())


def test_rights_doors_and_target(home):
    os.chmod(f"{home.spool}/out", 0o755)
    home.configure(target=DOWN, domains="new.example")
    found = problems(home)
    assert home.run("check").returncode == 1
    assert "chmod -R u+rwX,go=" in found["rights"]
    assert "run batchmail setup" in found["doors"]
    assert "takes nothing now" in found["target"]


def test_doors_that_cannot_be_read_are_a_finding(home):
    shutil.rmtree(f"{home.spool}/doors")
    with open(f"{home.spool}/doors", "wb"):
        pass
    done = home.run("check")
    assert done.returncode == 1
    assert not done.stderr
    assert f"cannot read {home.spool}/doors".encode() in done.stdout


def test_the_last_call_and_the_target_are_told_by_peer(home):
    home.configure(target=DOWN, entry='call = "command: /bin/false"')
    home.run("call", "mx")
    lines = home.run("check").stdout.decode().splitlines()
    assert any(line.startswith("ok     last call with mx: ") for line in lines)
    assert any(line.startswith(f"WRONG  target {DOWN} for mail from mx: ") and "start it" in line for line in lines)


def test_each_trouble_of_a_peer_is_told_alone(home):
    home.run("hold", "mx")
    home.run("retire", "mx")
    found = [one["problem"] for one in home.json("check") if one["subject"] == "status of mx"]
    assert sorted(text.partition(":")[0][:15] for text in found) == ["it gets no mail", "retired"]


def test_calls_need_a_key_and_a_known_host(tmp_path):
    home = CliSite(tmp_path, "home.example", "mx", 'call = ["ssh://b@127.0.0.1:2", "command: /no/such/program x"]')
    wrong = [found["problem"] for found in home.json("check") if not found["ok"]]
    assert len(wrong) == 2
    assert "batchmail key mx" in wrong[0]
    assert "/no/such/program is no program" in wrong[1]
    assert home.run("key", "mx").returncode == 0
    wrong = [found["problem"] for found in home.json("check") if not found["ok"]]
    assert f"{home.directory}/known_hosts has no line for [127.0.0.1]:2" in wrong[0]


def test_every_file_is_read_when_asked(home):
    home.pipe(TWO)
    path = home.waiting_files()[0]
    size = os.path.getsize(path)
    with open(path, "r+b") as file:
        file.seek(size - 250)
        file.write(b"\0")
    assert home.run("check").returncode == 0
    done = home.run("check", "--files")
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.decode().splitlines() if line.startswith("WRONG")]
    assert (line.count(path), "damaged" in line, "says more" in line) == (1, True, False)


def test_strays_beside_the_directories_of_the_spool(home):
    home.run("run")  # makes the ballast
    for name in ("core", ".profile"):  # it may be a home directory
        with open(f"{home.spool}/{name}", "wb"):
            pass
    done = home.run("check", "--repair")
    assert [line for line in done.stdout.decode().splitlines() if not line.startswith("ok")] == [
        f"WRONG  {home.spool}/core: does not belong there: move it away"
    ]
    assert home.run("check").returncode == 0
    os.remove(f"{home.spool}/core")
    assert home.run("check", "--repair").returncode == 0


def test_what_is_moved_to_quarantine_is_said_wherever_one_looks(home):
    home.pipe(TWO)
    path = home.waiting_files()[0]
    identifier = os.path.basename(path)[:26]
    os.truncate(path, 300)
    assert b"MENDED" in home.run("check", "--repair").stdout
    place = f"{home.spool}/quarantine/{os.path.relpath(path, home.spool)}"
    for command in ("show", "trace"):
        done = home.run(command, identifier)
        assert (done.returncode, place.encode() in done.stderr) == (69, True), done
    done = home.run("status")
    assert (done.returncode, place.encode() in done.stdout) == (1, True)
    assert home.run("run").returncode == 0
    letters = [name for name in os.listdir(f"{home.directory}/drop") if name.endswith(".bsmtp")]
    with open(f"{home.directory}/drop/{letters[0]}", encoding="ascii") as letter:
        assert f"{identifier}, notice" in (text := letter.read()) and "its file was damaged" in text
    for name in (place, f"{place}.why"):
        os.remove(name)
    assert (home.run("status").returncode, home.run("show", identifier).returncode) == (0, 64)


def test_what_lies_in_quarantine_is_not_missing_and_what_cannot_be_sent_again_is_named(tmp_path):
    mx, home = a_pair_in_custody(tmp_path)
    path = f"{mx.spool}/out/home/outbox/{mx.outbox()[0]}"
    ids = [row["id"] for row in mx.json("queue")]
    os.truncate(path, os.path.getsize(path) - 60)
    assert mx.run("check", "--repair").returncode == 1
    place = f"{mx.spool}/quarantine/{os.path.relpath(path, mx.spool)}"
    what = problems(mx, "--files")[path]
    assert f"lies in {place}; of its transactions 2 are not settled: home has them" in what
    assert [row["state"] for row in mx.json("queue")] == ["custody"] * 2
    lines = mx.lines("resend", "home")
    assert "2 transactions cannot be sent again" in lines[1] and all(one in lines[1] for one in ids)
    assert home.run("call", "mx").returncode == 0
    assert [(row["id"], row["state"]) for row in mx.json("queue")] == [(one, "lost") for one in ids]
    assert "or batchmail bounce ID gives them up" in problems(mx, "--files")[path]
    done = mx.run("status")
    assert (done.returncode, b"CRITICAL: home: lost here" in done.stdout) == (2, True)
    mx.run("audit", "home")
    home.run("call", "mx")
    done = mx.run("audit", "home")
    assert (done.returncode, b"here         2: lost 2" in done.stdout) == (1, True)
    assert done.stdout.endswith(b"Not balanced: 2\n")


def test_what_is_said_of_a_damaged_ledger_mends_it(tmp_path):
    mx, home = a_pair_in_custody(tmp_path)
    with open(f"{mx.spool}/ledger/home", "r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * 2000)
    for done in (mx.run("check", "--repair"), mx.run("status")):
        assert b"batchmail setup --adopt home" in done.stdout and b"says more" not in done.stdout, done
    done = mx.run("setup", "--adopt", "home")
    assert done.returncode == 0, done
    assert f"lies in {mx.spool}/quarantine/ledger/home: a new one is begun".encode() in done.stdout
    assert b"2 transactions to be sent again" in done.stdout
    assert home.run("call", "mx").returncode == 0
    assert [row["state"] for row in mx.json("queue")] == ["custody"] * 2
    assert (mx.run("check", "--files").returncode, mx.run("status").returncode) == (0, 0)


@pytest.mark.skipif(not is_root(), reason="needs root")
def test_a_file_of_root_in_the_spool_does_not_end_the_check(open_path):
    login_account()
    config, spool = f"{open_path}/b.toml", f"{open_path}/spool"
    with open(config, "w", encoding="ascii") as file:
        file.write(f'site = "home.example"\nspool = "{spool}"\n[peers.mx]\ntarget = "{DOWN}"\n')
    os.chmod(config, 0o644)
    assert run("-c", config, "setup").returncode == 0
    stray = f"{spool}/out/mx/held/core"
    held = f"{spool}/out/mx/held/{'0' * 26}.100.bsmtp"
    for name in (stray, held):
        with open(name, "wb"):
            os.chmod(name, 0o600)
    done = run("-c", config, "check", "--repair").stdout.decode()
    assert f"WRONG  {stray}: does not belong there; belongs to root: chown batchmail {stray}" in done
    assert f"WRONG  {held}: cannot be read: Permission denied; belongs to root: chown batchmail {held}" in done
    assert "WRONG  target " in done and "MENDED" not in done
    assert os.path.exists(stray) and os.path.exists(held)


def test_a_configuration_that_is_wrong(tmp_path):
    config = tmp_path / "b.toml"
    config.write_text('site = "a.example"\nspol = "/x"\n')
    done = run("-c", config, "check")
    assert done.returncode == 1
    assert b"did you mean spool" in done.stdout


def test_a_newer_spool_and_a_missing_one(home):
    with open(f"{home.spool}/VERSION", "wb") as file:
        file.write(b"9\n")
    assert b"install a newer batchmail" in home.run("check").stdout
    os.rename(home.spool, home.spool + ".away")
    assert b"run batchmail setup" in home.run("check").stdout
    assert not os.path.exists(home.spool)

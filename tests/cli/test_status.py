"""batchmail status, as people and monitoring start it."""

import os
import re
import time

import pytest

from batchmail.store.line import CALLER, Line
from batchmail.store.spool import Spool
from tests.cli.programs import TWO, CliSite, a_pair, a_pair_in_custody, run


@pytest.fixture
def mx(tmp_path):
    return CliSite(tmp_path, "mx.example", "home")


def test_all_is_well(mx):
    mx.pipe(TWO)
    done = mx.run("status")
    assert done.returncode == 0
    first, _, row = done.stdout.decode().splitlines()
    assert first == "OK: 2 waiting, 0 there, 0 here; peers: 1"
    assert row.split()[:2] == ["home", "2"]
    assert row.endswith("never")
    [state] = mx.json("status", "home")
    sizes = sum(int(path.split(".")[-2]) for path in mx.waiting_files())
    assert (state["waiting"], state["waiting_octets"], state["troubles"]) == (2, sizes, [])


def test_after_a_call_both_sides_know_of_it(tmp_path):
    mx, home = a_pair(tmp_path)
    mx.pipe(TWO)
    assert home.run("call", "mx").returncode == 0
    for site in (mx, home):
        [state] = site.json("status")
        assert state["call_code"] == 0
        assert state["contact_ms"] <= state["call_ms"]
        assert (state["waiting"], state["custody"], state["replay"]) == (0, 0, 0)
    assert any(re.fullmatch(r"last call     \d+s ago, done", line) for line in mx.lines("status", "home"))


def test_a_call_that_is_open_is_shown(tmp_path):
    mx, home = a_pair(tmp_path)
    line = Line(Spool(home.spool), "mx")
    assert line.acquire(CALLER)
    try:
        assert home.lines("status")[-1].split()[-3:-1] == ["open", "for"]
        assert any(re.fullmatch(r"call open     for \d+s", text) for text in home.lines("status", "mx"))
        assert time.time() * 1000 >= home.json("status")[0]["open_ms"]
        assert "open_ms" not in mx.json("status")[0]
    finally:
        line.close()
    assert home.lines("status")[-1].endswith("never")
    with open(f"{home.spool}/lock/mx.call", "w", encoding="ascii") as file:
        file.write("caller 1")  # a process that is something else by now
    assert "open_ms" not in home.json("status")[0]


def test_no_line_is_no_trouble_for_a_site_that_is_away(tmp_path):
    home = CliSite(tmp_path, "home.example", "mx", 'call = "command: false"')
    assert home.run("call", "mx").returncode == 75
    [state] = home.json("status")
    assert state["call_code"] == 75
    assert "contact_ms" not in state
    done = home.run("status")
    assert (done.returncode, done.stdout.splitlines()[0].endswith(b"; last call failed: mx")) == (0, True)
    assert any(line.startswith("it ended") for line in home.lines("status", "mx"))


def test_when_the_next_call_is_expected(tmp_path):
    home = CliSite(tmp_path, "home.example", "mx", 'calls = ["every 2h"]')
    assert "next call     expected in 2h" in home.lines("status", "mx")
    [state] = home.json("status")
    assert state["expected_ms"] > time.time() * 1000


def test_a_refused_key_is_critical(tmp_path):
    home = CliSite(tmp_path, "home.example", "mx", 'call = "ssh://b@127.0.0.1:1"')
    assert home.run("call", "mx").returncode == 77  # there is no key
    done = home.run("status")
    assert done.returncode == 2
    assert done.stdout.startswith(b"CRITICAL: ")


def test_a_target_that_is_down_is_a_warning_until_it_is_up(tmp_path):
    _, home = a_pair_in_custody(tmp_path)
    done = home.run("run")  # as cron does it, which mails what is said
    assert (done.returncode, done.stdout, done.stderr) == (75, b"", b"")
    assert b"mx: " in home.run("run", "-v").stderr
    done = home.run("status")
    assert done.returncode == 1
    assert b"WARNING: mx: the target took nothing" in done.stdout
    assert home.json("status")[0]["replay"] == 2
    home.configure(target=home.drop)
    assert home.run("run").returncode == 0
    assert home.run("status").returncode == 0


def test_what_came_and_cannot_be_read_is_critical_until_it_has_come_again(tmp_path):
    mx, home = a_pair_in_custody(tmp_path)
    inbox = f"{home.spool}/in/mx/inbox"
    (name,) = os.listdir(inbox)
    os.truncate(f"{inbox}/{name}", os.path.getsize(f"{inbox}/{name}") - 60)
    mx.pipe(b"Subject: x\n\n", "-f", "x@example.com", "--", "r@home.example")
    home.run("call", "mx")
    rows = home.json("queue", "--here")  # it lists what is behind the damaged one
    assert [(row["state"], row["recipients"]) for row in rows] == [("damaged", [])] * 2 + [
        ("waiting", ["r@home.example"])
    ]
    assert len([line for line in home.lines("queue", "--here") if "its batch is gone or damaged" in line]) == 2
    home.configure(target=home.drop)
    assert home.run("run").returncode == 0
    done = home.run("status")
    assert (done.returncode, done.stdout.count(f"{inbox}/{name}".encode())) == (2, 1)
    assert b"at mx, batchmail resend sends it again" in done.stdout
    assert home.run("check").returncode == 1
    assert mx.run("resend", "home").returncode == 0
    assert home.run("call", "mx").returncode == 0
    assert (home.lines("queue", "--here"), home.run("status").returncode) == (["Nothing is to be replayed."], 0)
    assert os.listdir(inbox) == []


def test_below_the_reserve_is_critical(mx):
    mx.configure(top='reserve = "900T"')
    done = mx.run("status")
    assert done.returncode == 2
    assert b"less than the reserve" in done.stdout


def test_a_missing_ledger_beside_batches_is_critical_and_names_the_way_out(mx):
    with open(f"{mx.spool}/out/home/outbox/0000000000000000.1.batch", "wb"):
        pass
    done = mx.run("status")
    assert done.returncode == 2
    assert b"batchmail setup --adopt home" in done.stdout


@pytest.mark.parametrize(("version", "words"), [(b"2\n", b"install a newer batchmail"), (b"x", b"is damaged")])
def test_a_spool_of_another_version_is_critical(mx, version, words):
    with open(f"{mx.spool}/VERSION", "wb") as file:
        file.write(version)
    done = mx.run("status")
    assert done.returncode == 2
    assert words in done.stdout


def test_held_mail_is_a_warning(mx):
    mx.pipe(TWO)
    path = mx.waiting_files()[0]
    os.rename(path, f"{mx.spool}/out/home/held/{os.path.basename(path)}")
    done = mx.run("status")
    assert done.returncode == 1
    assert b"held transactions: 1" in done.stdout


def test_what_cannot_be_known_is_3(tmp_path, mx):
    assert run("-c", tmp_path / "none.toml", "status").returncode == 3
    done = mx.run("status", "nobody")
    assert (done.returncode, done.stdout[:9]) == (3, b"UNKNOWN: ")
    [said] = mx.json("status", "nobody")
    assert said == {"level": "UNKNOWN", "text": done.stdout.decode().removeprefix("UNKNOWN: ").strip()}
    os.rename(mx.spool, f"{mx.spool}.away")
    assert mx.json("status")[0]["level"] == "CRITICAL"


def test_lists_of_valid_recipients(tmp_path):
    listed = 'valid_recipients = ["ann@home.example", "bob@home.example"]'
    mx, home = a_pair(tmp_path, home_entry=listed)
    assert home.run("call", "mx").returncode == 0
    [theirs], [ours] = mx.json("status", "home"), home.json("status", "mx")
    assert (theirs["recipients"]["addresses"], "told_recipients" in theirs) == (2, False)
    assert (ours["told_recipients"]["addresses"], ours["told_recipients"]["in_force"]) == (2, True)
    assert ours["told_recipients"]["list"] == theirs["recipients"]["list"]
    assert any(line.startswith("recipients    2 valid addresses, its list of ") for line in mx.lines("status", "home"))
    assert any("2 valid addresses" in line and "in force there" in line for line in home.lines("status", "mx"))
    assert any(line.startswith("ok     valid recipients of home: 2, ") for line in mx.lines("check"))
    with open(f"{mx.spool}/out/home/recipients", "r+b") as file:
        file.truncate(260)
    done = mx.run("status")
    assert (done.returncode, b"/out/home/recipients is damaged" in done.stdout) == (1, True)
    assert b"/out/home/recipients is damaged" in mx.run("check").stdout
    assert home.run("call", "mx").returncode == 0
    assert mx.run("status").returncode == 0


def test_a_list_that_cannot_be_read(tmp_path):
    _, home = a_pair(tmp_path, home_entry='valid_recipients = "/no/such/list"')
    assert home.run("call", "mx").returncode == 0
    done = home.run("status")
    assert (done.returncode, b"WARNING: mx: valid_recipients:" in done.stdout) == (1, True)

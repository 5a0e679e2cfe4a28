"""batchmail trace, resend, and the release of what is held at the far side, as people type them."""

import sqlite3

import pytest

from tests.cli.programs import CliSite, a_pair

TEXT = b"Message-ID: <m1@x.example>\nSubject: x\n\nhello\n"


def test_by_each_of_its_names(tmp_path):
    mx, home = a_pair(tmp_path, home_entry='report_wait = "2s"')
    mx.pipe(TEXT, "--queue-id", "4XyZ", "-f", "a@x.example", "--", "r@h.example")
    identifier = mx.json("queue")[0]["id"]
    assert home.run("call", "mx").returncode == 0
    for word in (identifier, "4XyZ", "<m1@x.example>", "m1@x.example"):
        for site, way in ((mx, "to home"), (home, "from mx")):
            head, *events = site.lines("trace", word)
            assert head.startswith(f"{identifier} {way}: ")
            assert any("delivered r@h.example: " in line or "passed" in line for line in events), events
    [life] = mx.json("trace", "4XyZ")
    assert life["id"] == identifier
    times = [event["time_ms"] for event in life["events"]]
    assert times == sorted(times)
    told = [event["what"] for event in life["events"]]
    assert told[:2] == ["accepted", "sealed"] and sorted(told[2:4]) == ["custody", "passed"]  # the latter as home says


@pytest.mark.parametrize("word", ["4XyZ\x1b", "", "<>", "\udcff"])
def test_nothing_of_that_name(tmp_path, word):
    mx, home = a_pair(tmp_path)
    mx.pipe(b"Subject: x\n\nhello\n", "-f", "a@x.example", "--", "r@h.example")
    home.run("call", "mx")  # then one that crossed has neither queue id nor Message-ID, and one that waits
    mx.pipe(b"Subject: x\n\nhello\n", "-f", "a@x.example", "--", "r@h.example")
    done = mx.run("trace", word)
    assert done.returncode == 64, done
    assert b"nothing is known here of" in done.stderr and b"\x1b" not in done.stderr


def test_resend_says_first_what_it_is(tmp_path):
    mx = CliSite(tmp_path, "mx.example", "home")
    assert b"nothing that was sent is unsettled" in mx.run("resend", "home", "--dry-run").stdout
    done = mx.run("resend", "home", "--since", "2026-11-20T18:30")
    assert done.returncode == 0 and b"under a new stream of numbers" in done.stdout
    for word in ("soon", "0001-01-01"):
        done = mx.run("resend", "home", "--since", word)
        assert (done.returncode, b"give one such as 2026-" in done.stderr, b"%" in done.stderr) == (64, True, False)
    assert mx.run("resend", "nobody").returncode == 78


def test_what_is_held_at_the_far_side_is_released(tmp_path):
    mx, home = a_pair(tmp_path, home_entry='report_wait = "2s"')
    home.configure(target="smtp://127.0.0.1:1")
    mx.pipe(TEXT, "-f", "a@x.example", "--", "r@h.example")
    identifier = mx.json("queue")[0]["id"]
    home.run("call", "mx")
    with sqlite3.connect(f"{home.spool}/ledger/mx") as database:
        database.execute("UPDATE in_tx SET state = 'held', next_ms = ?", (2**53 - 1,))
    database.close()
    home.configure(target=f"bsmtp:{home.directory}/drop")
    assert home.run("run").returncode == 0
    status = home.run("status", "mx").stdout.decode()
    assert f"1 of its transactions, such as {identifier}; batchmail release delivers one" in status
    assert home.json("show", identifier)[0]["state"] == "held here"
    done = home.run("release", identifier.lower())
    assert done.returncode == 0 and b"delivered by the next batchmail run" in done.stdout
    assert home.run("run").returncode == 0
    assert home.json("show", identifier)[0]["state"] == "replayed"
    assert home.run("release", identifier).returncode == 64


def test_what_is_to_be_sent_again_has_a_state_and_is_counted(tmp_path):
    mx, home = a_pair(tmp_path, home_entry='report_wait = "1s"')
    home.configure(target="smtp://127.0.0.1:1")
    mx.pipe(TEXT, "-f", "a@x.example", "--", "r@h.example")
    home.run("call", "mx")
    assert mx.run("resend", "home").returncode == 0
    [row] = mx.json("queue")
    assert (row["state"], mx.json("show", row["id"])[0]["state"]) == ("sealed", "sealed")
    [state] = mx.json("status")
    assert (state["sealed"], state["custody"], state["waiting"]) == (1, 0, 0)
    assert state["oldest_ms"] == row["arrival_ms"]
    home.run("call", "mx")
    assert [one["state"] for one in mx.json("queue")] == ["custody"]

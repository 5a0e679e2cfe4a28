"""batchmail show: a transaction in each of its states."""

import os
import shutil

import pytest

from tests.cli.programs import TWO, CliSite, a_pair
from tests.servers.smtp_log import Rule


def test_a_waiting_one(tmp_path):
    mx = CliSite(tmp_path, "mx.example", "home")
    mx.pipe(
        b"Subject: x\n\nhello\n",
        "--queue-id",
        "4XyZ",
        "--client-helo",
        "far.example",
        "-f",
        "a@x.example",
        "--",
        "r@h.example",
    )
    identifier = mx.json("queue")[0]["id"]
    lines = mx.lines("show", identifier)
    assert "state         waiting" in lines
    assert "queue id      4XyZ of the MTA that handed it over" in lines
    assert "client        helo=far.example" in lines
    assert lines[-2:] == ["sender        a@x.example", "recipient     r@h.example"]
    assert mx.run("show", identifier.lower(), "--text").stdout == (
        b"MAIL FROM:<a@x.example>\r\nRCPT TO:<r@h.example>\r\nDATA\r\nSubject: x\r\n\r\nhello\r\n.\r\n"
    )
    path = mx.waiting_files()[0]
    shutil.move(path, f"{mx.spool}/out/home/held/{os.path.basename(path)}")
    assert mx.json("show", identifier)[0]["state"] == "held"


@pytest.fixture
def refusing(smtp_log_factory):
    """Refuses dave for good and bob for now."""
    rules = [Rule("RCPT", b"550 5.1.1 no dave", match=b"dave"), Rule("RCPT", b"450 4.2.1 later", match=b"bob")]
    return smtp_log_factory(rules=rules)


def test_outcomes_and_notice_on_both_sides(tmp_path, refusing):
    mx, home = a_pair(tmp_path, home_entry='report_wait = "2s"')
    home.configure(target=f"smtp://127.0.0.1:{refusing.port}")
    mx.pipe(TWO)
    one, two = (row["id"] for row in mx.json("queue"))
    assert home.run("call", "mx").returncode == 0
    assert mx.run("run").returncode == 0

    [settled] = mx.json("show", one)
    assert settled["state"] == "settled"
    outcomes = [(o["recipient"], o["action"], o["code"], o["status"]) for o in settled["outcomes"]]
    assert outcomes == [(1, "passed", 250, "2.0.0"), (2, "failed", 550, "5.1.1")]
    assert settled["outcomes"][1]["text"] == "no dave"
    [notice] = settled["notices"]
    assert notice["state"] == "sent"
    assert settled["outcomes"][1]["in"] == notice["id"]
    shown = mx.lines("show", notice["id"])
    assert shown[0] == f"{notice['id']} is a notice about this transaction:"
    assert shown[1] == f"id            {one}"
    assert any("failed: 550 5.1.1 no dave" in line for line in shown)

    [open_one] = mx.json("show", two)
    assert open_one["state"] == "custody"
    assert [o["action"] for o in open_one["outcomes"]] == ["delayed"]
    [here] = home.json("show", two)
    assert (here["state"], here["peer"], here["attempts"]) == ("to be replayed", "mx", 1)
    assert here["to"] == [{"address": "bob@home.example", "parameters": []}]
    assert home.run("show", two, "--text").stdout.endswith(b"\r\n..dot\r\n.\r\n")
    assert home.json("show", one)[0]["state"] == "replayed"


def test_text_and_addresses_go_with_the_batch(tmp_path):
    mx, home = a_pair(tmp_path)
    mx.pipe(TWO)
    one = mx.json("queue")[0]["id"]
    for _ in range(2):
        assert home.run("call", "mx").returncode == 0
    done = mx.run("show", one, "--text")
    assert done.returncode == 69
    assert f"{one} is settled: its text is not here any more".encode() in done.stderr
    assert any("nor are its addresses" in line for line in mx.lines("show", one))


def test_what_is_not_there_or_no_id(tmp_path):
    mx = CliSite(tmp_path, "mx.example", "home")
    done = mx.run("show", "01M7XX0000000000000000000A")
    assert done.returncode == 64
    assert b"no transaction 01M7XX0000000000000000000A is here" in done.stderr
    done = mx.run("show", "../../etc/passwd")
    assert done.returncode == 64
    assert b"is no ID" in done.stderr


def test_recipients_that_the_peer_does_not_list(tmp_path):
    listed = 'valid_recipients = ["carol@home.example", "bob@home.example"]'
    mx, home = a_pair(tmp_path, home_entry=listed)
    assert home.run("call", "mx").returncode == 0
    mx.pipe(TWO)
    identifier = mx.json("queue")[0]["id"]
    assert [one.get("listed", True) for one in mx.json("show", identifier)[0]["to"]] == [True, False]
    lines = mx.lines("show", identifier)
    dave = next(number for number, line in enumerate(lines) if line.startswith("recipient     dave@"))
    assert lines[dave + 1].startswith("    not on the list of valid recipients that home has told on 20")
    assert sum("not on the list" in line for line in lines) == 1

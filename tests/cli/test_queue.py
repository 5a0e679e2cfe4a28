"""batchmail queue, as people start it."""

import os
import shutil

import pytest

from tests.cli.programs import DOWN, TWO, CliSite, a_pair, a_pair_in_custody, run
from tests.fake_smtp import END, FakeSmtp, Script


@pytest.fixture
def mx(tmp_path):
    return CliSite(tmp_path, "mx.example", "home")


def test_an_empty_queue_says_so(mx):
    assert mx.lines("queue") == ["Nothing is on its way."]
    assert mx.lines("queue", "home") == ["Nothing is on its way."]
    assert mx.json("queue") == []


def test_what_waits_is_a_row_each(mx):
    mx.pipe(TWO)
    head, one, two = mx.lines("queue")
    assert head.split() == ["ID", "AGE", "SIZE", "STATE", "SENDER", "RECIPIENTS"]
    assert one.split()[3:] == ["waiting", "alice@example.com", "carol@home.example", "+1"]
    assert two.split()[3:] == ["waiting", "<>", "bob@home.example"]
    first, second = mx.json("queue", "home")
    assert first["id"] == one.split()[0]
    assert (first["sender"], first["recipients"]) == ("alice@example.com", ["carol@home.example", "dave@home.example"])
    assert second["octets"] == len("Subject: two\r\n\r\n.dot\r\n")
    assert not os.listdir(f"{mx.spool}/ledger")  # looking makes nothing


def test_the_newest_is_last_and_the_limit_says_that_there_is_more(mx):
    for number in range(3):
        mx.pipe(b"Subject: x\n\n", "-f", f"s{number}@example.com", "--", "r@home.example")
    assert [row["sender"] for row in mx.json("queue")] == [f"s{number}@example.com" for number in range(3)]
    done = mx.run("queue", "--limit", "2")
    assert len(done.stdout.splitlines()) == 3
    assert b"2 are shown, there are more" in done.stderr
    assert len(mx.lines("queue", "--limit", "0")) == 4
    assert not mx.run("queue", "--limit", "3").stderr
    assert mx.run("queue", "--limit", "9" * 20).returncode == 64


def test_custody_of_the_far_side_is_a_state(tmp_path):
    mx, _ = a_pair_in_custody(tmp_path)
    assert [(row["state"], row["batch"]) for row in mx.json("queue")] == [("custody", mx.outbox()[0])] * 2
    os.rename(f"{mx.spool}/ledger/home", f"{tmp_path}/ledger")  # the states are gone, the mail is not
    assert [row["state"] for row in mx.json("queue")] == ["unknown"] * 2


def test_held_and_damaged_ones_are_shown(mx):
    mx.pipe(TWO)
    one, two = sorted(mx.waiting_files())
    shutil.move(one, f"{mx.spool}/out/home/held/{os.path.basename(one)}")
    with open(two, "r+b") as file:
        file.write(b"X")
    assert [row["state"] for row in mx.json("queue")] == ["held", "damaged"]


def test_a_damaged_batch_is_shown_by_its_ids_and_holds_up_nothing_else(tmp_path):
    mx, _ = a_pair_in_custody(tmp_path)
    sent = [row["id"] for row in mx.json("queue")]
    path = f"{mx.spool}/out/home/outbox/{mx.outbox()[0]}"
    os.truncate(path, os.path.getsize(path) - 60)
    mx.pipe(b"Subject: x\n\n", "-f", "x@example.com", "--", "r@home.example")
    mx.pipe(b"Subject: x\n\n", "-f", "", "--", "r@home.example")
    assert [row["state"] for row in mx.json("queue")] == ["damaged"] * 2 + ["waiting"] * 2
    assert [row["id"] for row in mx.json("queue")][:2] == sent
    assert [line.split()[3:] for line in mx.lines("queue", "home")[1:3]] == [["damaged"]] * 2
    for words in ("x@", "<>"):
        done = mx.run("hold", "--peer", "home", "--from", words, "--yes")
        assert (done.returncode, done.stdout.count(b": held\n")) == (0, 1), done
    done = mx.run("remove", "--peer", "home", "--yes")
    assert (done.returncode, done.stdout.count(b": removed\n")) == (0, 2), done
    assert b"left out, as their batches are gone or damaged: 2 transactions; name them by ID" in done.stderr
    assert [row["id"] for row in mx.json("queue")] == sent


def test_a_peer_that_left_the_configuration_is_still_shown(mx):
    mx.pipe(TWO)
    mx.configure(peer="other")
    assert {row["peer"] for row in mx.json("queue")} == {"home"}
    assert mx.lines("queue")[0].split()[0] == "PEER"
    assert len(mx.lines("queue", "home")) == 3


def test_an_unknown_peer_is_an_error_that_names_the_known(mx):
    done = mx.run("queue", "hoem")
    assert done.returncode == 78
    assert b"no peer hoem; known: home" in done.stderr


def test_without_a_spool_it_says_what_to_do(tmp_path):
    config = tmp_path / "b.toml"
    config.write_text(f'site = "a.example"\nspool = "{tmp_path}/none"\n')
    done = run("-c", config, "queue")
    assert done.returncode == 75
    assert b"run batchmail setup" in done.stderr
    assert not os.path.exists(f"{tmp_path}/none")


def test_what_came_and_waits_here_is_told(tmp_path):
    _, home = a_pair_in_custody(tmp_path)
    assert home.lines("queue") == ["Nothing is on its way; 2 from mx are to be replayed (--here lists them)."]


def test_json_has_addresses_as_they_are(mx):
    mx.pipe(b"Subject: x\n\n", "-f", "a+b=c@example.com", "--", "r+x@home.example")
    [row] = mx.json("queue")
    assert (row["sender"], row["recipients"]) == ("a+b=c@example.com", ["r+x@home.example"])
    assert row["arrival_ms"] > 0
    [shown] = mx.json("show", row["id"])
    assert (shown["sender"], shown["to"][0]["address"]) == ("a+b=c@example.com", "r+x@home.example")


def test_what_is_to_be_replayed_is_a_row_each_with_what_was_said(tmp_path):
    mx, home = a_pair(tmp_path, home_entry='report_wait = "1s"')
    assert home.lines("queue", "--here") == ["Nothing is to be replayed."]
    home.configure(target=DOWN)
    mx.pipe(TWO)
    home.run("call", "mx")
    head, one, two = home.lines("queue", "--here")
    assert head.split() == ["ID", "AGE", "SIZE", "TRIED", "NEXT", "SENDER", "RECIPIENTS"]
    assert one.split()[5:] == ["alice@example.com", "carol@home.example", "+1"]
    assert two.split()[5:] == ["<>", "bob@home.example"]
    first, second = home.json("queue", "--here", "mx")
    assert (first["id"], first["state"], first["delays"]) == (one.split()[0], "waiting", [])
    assert first["batch"] in os.listdir(f"{home.spool}/in/mx/inbox")
    assert second["next_ms"] > first["arrival_ms"]
    assert len(home.lines("queue", "--here", "--limit", "1")) == 2


def test_of_what_is_left_here_the_last_reply_is_told(tmp_path):
    mx, home = a_pair(tmp_path, home_entry='report_wait = "1s"')
    script = Script(replies={END: b"452 4.3.1 no room", b"RCPT TO:<dave@home.example>": b"550 5.1.1 who"})
    with FakeSmtp(script) as target:
        home.configure(target=target.url())
        mx.pipe(TWO)
        home.run("call", "mx")
    _, one, said, two, again = home.lines("queue", "--here")
    assert (said, again) == ("    452 4.3.1 no room", said)
    assert one.split()[3] == two.split()[3] == "1"
    assert one.split()[5:] == ["alice@example.com", "carol@home.example"]
    [delay] = home.json("queue", "--here")[0]["delays"]
    assert (delay["recipient"], delay["code"], delay["status"]) == ("carol@home.example", 452, "4.3.1")

"""hold, release, requeue, bounce, remove, move, retire: on what waits, what is sealed, and what the far side has."""

import os
import re
import subprocess
import sys

import pytest

from batchmail.store.bell import MAIL
from batchmail.store.line import ANSWERER, Line
from batchmail.store.spool import Spool
from tests.cli.programs import BIN, DOWN, TWO, CliSite, a_pair, run

LATER = 'report_wait = "1s"'


@pytest.fixture
def mx(tmp_path):
    site = CliSite(tmp_path, "mx.example", "home")
    site.pipe(TWO)
    return site


def ids(site):
    return [row["id"] for row in site.json("queue")]


def states(site):
    return [row["state"] for row in site.json("queue")]


def dropped(site):
    drop = f"{site.directory}/drop"
    texts = []
    for name in sorted(os.listdir(drop)) if os.path.isdir(drop) else []:
        if name.endswith(".bsmtp"):
            with open(f"{drop}/{name}", "rb") as file:
                texts.append(file.read())
    return texts


def notices(site):
    return [text for text in dropped(site) if b"multipart/report" in text]


def test_hold_and_release(mx):
    first, second = ids(mx)
    assert mx.lines("hold", first) == [f"{first}: held"]
    assert states(mx) == ["held", "waiting"]
    assert mx.lines("hold", first) == [f"{first}: held"]
    assert mx.lines("release", first, second) == [f"{first}: it waits", f"{second}: it waits"]
    assert (ids(mx), states(mx)) == ([first, second], ["waiting"] * 2)


@pytest.mark.parametrize("words", [("hold", "home"), ("release", "home"), ("remove", "ID"), ("release", "ID")])
@pytest.mark.parametrize("option", [("--from", "nobody"), ("--older", "3d"), ("--larger", "1G"), ("--to", "nobody")])
def test_names_and_filters_at_once_are_refused(mx, words, option):
    words = [ids(mx)[0] if word == "ID" else word for word in words]
    done = mx.run(*words, *option, "--yes")
    assert (done.returncode, b"not both" in done.stderr) == (64, True)
    assert states(mx) == ["waiting"] * 2
    assert mx.json("status")[0]["troubles"] == []


def test_ids_on_standard_input(mx):
    done = run("-c", mx.config, "hold", "-", stdin="\n".join(ids(mx)).encode())
    assert (done.returncode, states(mx)) == (0, ["held"] * 2)
    assert mx.run("release", "--peer", "home").returncode == 64  # nobody to ask
    assert mx.run("release", "--peer", "home", "--yes").returncode == 0
    assert states(mx) == ["waiting"] * 2


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (["--from", "ALICE"], 1),
        (["--from", "<>"], 1),
        (["--to", "dave@"], 1),
        (["--to", "home.example"], 2),
        (["--to", "nobody"], 0),
        (["--to", "\udcff"], 0),
        (["--from", "\udcff"], 0),
        (["--older", "1h"], 0),
        (["--older", "0s"], 2),
        (["--larger", "1M"], 0),
        (["--larger", "1"], 2),
        (["--peer", "home", "--from", "alice", "--to", "bob"], 0),
    ],
)
def test_what_they_are(mx, options, count):
    done = mx.run("hold", "--yes", *options)
    assert done.returncode == 0
    assert done.stderr.decode().startswith(f"hold: {count} transaction")
    assert states(mx).count("held") == count


@pytest.mark.parametrize("option", ["--from", "--to", "--older", "--larger", "--peer"])
def test_an_option_that_is_empty_does_not_choose_everything(mx, option):
    done = mx.run("hold", "--peer", "home", option, "", "--yes")
    assert (done.returncode, b"it is empty" in done.stderr) == (64, True)
    assert (b"<> is the null sender" in done.stderr) == (option == "--from")
    assert (states(mx), mx.json("status")[0]["troubles"]) == (["waiting"] * 2, [])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "which transactions?"),
        (("01",), "no peer 01"),
        (("01", "02"), "01 is no ID"),
        (("0" * 26,), "is not on its way from here"),
        (("--older", "x", "--yes"), "--older wants a time"),
    ],
)
def test_what_is_wrong_is_told(mx, words, said):
    done = mx.run("hold", *words)
    assert done.returncode in (64, 78)
    assert said in done.stderr.decode()
    assert states(mx) == ["waiting"] * 2


def test_bounce_tells_the_sender_and_nobody_the_null_sender(mx):
    assert [line.partition(": ")[2] for line in mx.lines("bounce", *ids(mx))] == [
        "removed; its sender is told",
        "removed",
    ]
    assert mx.json("queue") == []
    assert mx.lines("run") == []
    (notice,) = notices(mx)
    assert b"RCPT TO:<alice@example.com>" in notice
    assert b"Action: failed" in notice and b"returned by the administrator" in notice
    assert not os.listdir(f"{mx.spool}/out/home/ended")


@pytest.mark.parametrize("command", ["hold", "release", "bounce", "move"])
def test_what_has_ended_is_not_decided_anew(mx, command):
    """Also before the next pass, which hands over its notice."""
    first, second = ids(mx)
    mx.lines("bounce", first, second)
    plans = [mx.json("show", one)[0]["plan"] for one in (first, second)]
    for identifier, said in (first, "has ended: failed for 2 recipients"), (second, "is not on its way from here"):
        done = mx.run(command, identifier, *(["home"] if command == "move" else []))
        assert (done.returncode, done.stdout) == (64, b"")
        assert done.stderr.decode().startswith(f"batchmail: {identifier} {said}")
    assert [mx.json("show", one)[0]["plan"] for one in (first, second)] == plans


def test_remove_tells_nobody_unless_told_to(mx):
    first, second = ids(mx)
    assert mx.run("remove", second).returncode == 0
    assert mx.run("run").returncode == 0
    assert notices(mx) == []
    assert mx.run("remove", "--notice", "--text", "no longer wanted", first).returncode == 0
    mx.run("run")
    assert b"no longer wanted" in notices(mx)[0]
    assert mx.json("queue") == []


def add_peer(site):
    with open(site.config, "a", encoding="utf-8") as file:
        file.write(f'\n[peers.other]\ntarget = "{site.target}"\n')
    assert site.run("setup").returncode == 0


def test_move(mx):
    add_peer(mx)
    first, second = ids(mx)
    assert mx.run("hold", second).returncode == 0
    assert [line.partition(": ")[2] for line in mx.lines("move", first, second, "other")] == ["it waits for other"] * 2
    assert [(row["peer"], row["state"], row["id"]) for row in mx.json("queue")] == [
        ("other", "waiting", first),
        ("other", "waiting", second),
    ]
    assert mx.run("move", first, "nobody").returncode == 78


def test_a_held_peer_gets_no_mail(tmp_path):
    mx, home = a_pair(tmp_path)
    mx.pipe(TWO)
    assert mx.lines("hold", "home") == ["home gets no mail until batchmail release home"]
    assert home.run("call", "mx").returncode == 0
    assert (states(mx), dropped(home)) == (["waiting"] * 2, [])
    assert b"it gets no mail until batchmail release" in mx.run("status", "home").stdout
    assert "home gets mail again" in mx.lines("release", "home")[0]
    assert home.run("call", "mx").returncode == 0
    assert len(dropped(home)) == 2


def test_a_call_that_is_open_hears_of_it(mx):
    line = Line(Spool(mx.spool), "home")
    assert line.acquire(ANSWERER)
    for command in ("hold", "release"):
        mx.lines(command, "home")
        assert line.wait(60) == [MAIL]
    line.close()


# What the far side has


@pytest.fixture
def away(tmp_path):
    """Mail that the far side has and could not deliver."""
    mx, home = a_pair(tmp_path, home_entry=LATER)
    home.configure(target=DOWN)
    mx.pipe(TWO)
    home.run("call", "mx")
    assert states(mx) == ["custody"] * 2
    return mx, home


def call(mx, home):
    home.run("call", "mx")  # the request arrives before the target is tried again
    home.configure(target=f"bsmtp:{home.directory}/drop")
    home.run("call", "mx")
    mx.run("run")


def assert_balanced(mx, home):
    """What both sides remember of it agrees."""
    mx.run("audit", "home")  # asks
    home.run("call", "mx")
    done = mx.run("audit", "home")
    assert done.returncode == 0, done.stdout


def test_bounce_asks_the_far_side(away):
    mx, home = away
    assert "it is asked in the next call" in mx.lines("bounce", *ids(mx))[0]
    call(mx, home)
    assert (mx.json("queue"), dropped(home)) == ([], [])
    assert len(notices(mx)) == 1
    assert mx.outbox() == []
    assert_balanced(mx, home)


def test_hold_gets_it_back(away):
    mx, home = away
    before = ids(mx)
    mx.run("hold", "--peer", "home", "--yes")
    call(mx, home)
    assert (states(mx), dropped(home)) == (["held"] * 2, [])
    assert not set(before) & set(ids(mx))
    shown = "".join(mx.run("show", old).stdout.decode() for old in before)
    assert sorted(re.findall(r"hold: withdrawn [12]; now (\S+)", shown)) == sorted(ids(mx))
    assert mx.run("release", *ids(mx)).returncode == 0
    call(mx, home)
    assert len(dropped(home)) == 2
    assert mx.json("queue") == []


def test_move_takes_it_to_another(away):
    mx, home = away
    add_peer(mx)
    first, _ = ids(mx)
    mx.run("move", first, "other")
    call(mx, home)
    assert [(row["peer"], row["recipients"]) for row in mx.json("queue")] == [
        ("other", ["carol@home.example", "dave@home.example"])
    ]
    (waiting,) = ids(mx)
    assert mx.lines("trace", first)[-1].endswith(f"withdrawn 2; now {waiting} for other")
    assert_balanced(mx, home)
    assert len(dropped(home)) == 1


def test_what_was_delivered_before_the_request_came_is_too_late(away):
    mx, home = away
    home.configure(target=f"bsmtp:{home.directory}/drop")
    home.run("run")
    before = ids(mx)
    mx.run("bounce", *before)
    home.run("call", "mx")
    assert (len(dropped(home)), notices(mx)) == (2, [])
    for identifier in before:
        assert mx.lines("trace", identifier)[-1].partition("done ")[2].strip().startswith("too late: passed ")
    assert_balanced(mx, home)


def test_what_was_too_late_is_said_so(tmp_path):
    mx, home = a_pair(tmp_path)
    mx.pipe(TWO)
    mx.run("hold", "home")
    identifier = ids(mx)[0]
    mx.run("release", "home")
    home.run("call", "mx")
    mx.run("run")
    done = mx.run("bounce", identifier)
    assert done.returncode == 64
    assert "is not on its way from here" in done.stderr.decode()


# Retiring


def pipe(site):
    command = [sys.executable, "-IS", os.path.join(BIN, "batchmail-pipe"), "--spool", site.spool, "-t", site.peer]
    return subprocess.run(command, input=TWO, capture_output=True)


def test_retire_refuses_and_drains(tmp_path):
    mx, home = a_pair(tmp_path)
    mx.pipe(TWO)
    said = mx.lines("retire", "home")
    assert said[0].startswith("home: the doors refuse mail for it")
    assert said[1].startswith("still here, transactions and notices: 2;")
    assert pipe(mx).returncode == 75
    status = mx.run("status")
    assert (status.returncode, b"WARNING: home: retired: " in status.stdout) == (1, True)
    mx.run("setup")
    done = pipe(mx)
    assert (done.returncode, b"peer home is retired" in done.stderr) == (75, True)
    home.run("call", "mx")
    mx.run("run")
    assert mx.lines("retire", "home")[1].startswith("nothing is left")
    mx.run("retire", "--undo", "home")
    assert pipe(mx).returncode == 0


def test_retire_moves_or_bounces(mx):
    add_peer(mx)
    assert mx.run("retire", "home", "--move", "other", "--bounce").returncode == 64
    assert mx.run("retire", "home", "--move", "other", "--yes").returncode == 0
    assert {row["peer"] for row in mx.json("queue")} == {"other"}
    assert mx.run("retire", "other", "--bounce", "--yes").returncode == 0
    assert mx.json("queue") == []


def test_show_tells_what_was_decided(away):
    mx, home = away
    first, second = ids(mx)
    mx.run("remove", first)
    assert any(
        line.split() == ["plan", "remove:", "the", "far", "side", "is", "asked", "for", "it"]
        for line in mx.lines("show", first)
    )
    call(mx, home)
    assert mx.json("show", first)[0]["plan"] == "remove: withdrawn 2"
    assert "plan" not in mx.json("show", second)[0]


def test_show_tells_of_what_ended_here(mx):
    first, _ = ids(mx)
    mx.run("bounce", first)
    (shown,) = mx.json("show", first)
    assert (shown["state"], shown["plan"]) == ("ended", "remove: removed; its sender is told")
    assert {one["action"] for one in shown["outcomes"]} == {"failed"}
    mx.run("run")
    assert mx.json("show", first)[0]["state"] == "settled"


def test_a_peer_that_has_left_the_configuration(mx):
    first, second = ids(mx)
    mx.configure(peer="other")
    with open(f"{mx.spool}/out/core", "wb"):
        pass  # no peer, whatever its name
    assert mx.run("run").returncode == 0
    assert (states(mx), dropped(mx)) == (["waiting"] * 2, [])
    assert b"batchmail move or bounce --peer home" in mx.run("status").stdout
    assert mx.lines("bounce", first) == [f"{first}: removed; its sender is told"]
    assert mx.run("move", second, "other").returncode == 0
    assert mx.run("run").returncode == 0
    assert len(notices(mx)) == 1
    assert mx.run("status").returncode == 0


def test_move_without_a_peer_takes_no_id_for_one(mx):
    first, second = ids(mx)
    for words in ([first], [first, second], []):
        done = mx.run("move", *words)
        assert (done.returncode, b"to which peer?" in done.stderr) == (64, True)
    assert {row["state"] for row in mx.json("queue")} == {"waiting"}


def test_trace_tells_what_was_planned_and_why(mx):
    first, _ = ids(mx)
    mx.run("bounce", first, "--text", "the boat sank")
    assert any(line.split("planned")[-1].strip() == "remove: the boat sank" for line in mx.lines("trace", first))


def test_release_is_for_what_is_held_here(away):
    mx, _ = away
    (identifier,) = ids(mx)[:1]
    done = mx.run("release", identifier)
    assert done.returncode == 64
    assert f"{identifier} is not held here: home has it; batchmail requeue asks for it back" in done.stderr.decode()


def test_a_text_that_no_field_can_hold(mx):
    for text in ("Z\u00fcrich", "a\nb", "Z\udcfcrich"):
        done = mx.run("bounce", ids(mx)[0], "--text", text)
        assert done.returncode == 64
        assert b"printable ASCII" in done.stderr
    assert states(mx) == ["waiting"] * 2


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--move", "nosuch"], 78),
        (["--move", ""], 78),
        (["--move", "home"], 64),
        (["--move", "other"], 64),  # nobody to ask
        (["--bounce"], 64),
        (["--bounce", "--text", "Gr\u00fc\u00dfe", "--yes"], 64),
        (["--undo", "--bounce", "--yes"], 64),
    ],
)
def test_retire_looks_before_it_retires(mx, words, code):
    add_peer(mx)
    assert mx.run("retire", "home", *words).returncode == code
    assert "retired" not in " ".join(mx.lines("status"))
    assert states(mx) == ["waiting"] * 2
    mx.pipe(TWO)


def test_nothing_is_moved_to_a_retired_peer(mx):
    add_peer(mx)
    assert mx.run("retire", "other").returncode == 0
    for words in (["retire", "home", "--move", "other", "--yes"], ["move", ids(mx)[0], "other"]):
        done = mx.run(*words)
        assert (done.returncode, b"other is retired: batchmail retire --undo other" in done.stderr) == (64, True)
    assert {row["peer"] for row in mx.json("queue")} == {"home"}
    mx.pipe(TWO)

"""batchmail audit, from the side that calls and from the one that is called."""

import sqlite3

from tests.cli.programs import TWO, a_pair


def test_both_sides(tmp_path):
    mx, home = a_pair(tmp_path, home_entry='report_wait = "2s"')
    mx.pipe(TWO)
    assert home.run("call", "mx").returncode == 0
    assert mx.run("run").returncode == 0
    (found,) = home.json("audit", "mx")  # what the call has to say is not among it
    assert found["balanced"]
    lines = home.lines("audit", "mx")
    assert lines[-1] == "Everything balances."
    assert [line.split()[:2] for line in lines if line.startswith("  ")] == [
        ["here", "0:"],
        ["mx", "0:"],
        ["mx", "2:"],
        ["here", "2:"],
    ]
    asked = mx.run("audit", "home")
    assert asked.returncode == 75 and b"its answer comes with the next call" in asked.stderr
    assert mx.run("audit", "home").returncode == 75
    assert home.run("call", "mx").returncode == 0
    assert mx.run("run").returncode == 0
    (found,) = mx.json("audit", "home")
    assert found["balanced"] and found["here"]["sent"]["settled"] == 2 and found["there"]["sent"]["done"] == 2
    assert found["told_ms"] > found["from_ms"]


def test_an_answer_is_compared_with_what_there_was_when_it_was_asked_for(tmp_path):
    mx, home = a_pair(tmp_path, home_entry='report_wait = "2s"')
    mx.pipe(TWO)
    gone, left = (row["id"] for row in mx.json("queue"))
    assert mx.lines("remove", gone) == [f"{gone}: removed"]
    assert home.run("call", "mx").returncode == 0
    assert mx.run("audit", "home").returncode == 75
    assert home.run("call", "mx").returncode == 0
    mx.pipe(TWO)
    assert home.run("call", "mx").returncode == 0
    assert mx.run("run").returncode == 0
    lines = mx.lines("audit", "home")
    assert lines[0].startswith("home, as it answered on 20")
    assert "  here         2: settled 1, never handed over 1" in lines
    assert "  home         1: done 1" in lines
    assert lines[-1] == "Everything balances."
    assert left not in " ".join(lines)


def test_what_does_not_balance(tmp_path):
    mx, home = a_pair(tmp_path, home_entry='report_wait = "2s"')
    mx.pipe(TWO)
    identifier = mx.json("queue")[0]["id"]
    assert home.run("call", "mx").returncode == 0
    assert mx.run("run").returncode == 0
    with sqlite3.connect(f"{mx.spool}/ledger/home") as database:
        database.execute("DELETE FROM out_tx WHERE id = ?", (identifier,))
    database.close()
    done = home.run("audit", "mx")
    assert done.returncode == 1
    assert f"WRONG {identifier} from mx: known here, but not as sent there" in done.stdout.decode()
    assert done.stdout.decode().splitlines()[-1] == "Not balanced: 1"

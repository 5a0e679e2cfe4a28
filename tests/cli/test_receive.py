"""batchmail-receive: its arguments, and who has the line."""

import os

import pytest

from batchmail.cli import receive
from batchmail.core.errors import Temporary
from batchmail.store.line import ANSWERER, CALLER, Line
from tests.sites import make_site

MISSING = "/nonexistent/batchmail.toml"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 64, "--peer is missing"),
        (["--peer"], 64, "--peer needs a value"),
        (["--peer", ""], 64, "--peer needs a value"),
        (["--peer="], 64, "--peer needs a value"),
        (["--peer", "home", "-c"], 64, "-c needs a value"),
        (["--peer", "home", "rsync", "--server"], 64, "unknown argument rsync"),
        (["--pee", "home"], 64, "unknown argument --pee"),
        (["--peer", "home", "-c", MISSING], 78, f"{MISSING}: No such file or directory"),
        (["--peer=home", f"--config={MISSING}"], 78, f"{MISSING}: No such file or directory"),
    ],
)
def test_arguments_that_are_wrong(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    assert receive.main(arguments) == code
    shown = capsys.readouterr()
    assert shown.out == ""  # frames and nothing else
    assert shown.err.startswith("batchmail-receive: ")
    assert said in shown.err
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "said"), [("--help", "usage: "), ("-h", "usage: "), ("--version", "batchmail-receive ")]
)
def test_help(capsys: pytest.CaptureFixture[str], option: str, said: str) -> None:
    assert receive.main([option]) == 0
    assert capsys.readouterr().out.startswith(said)


def test_what_the_client_asked_for_is_ignored(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SSH_ORIGINAL_COMMAND", "batchmail-receive --peer other")
    assert receive.main(["--peer", "home", "-c", MISSING]) == 78
    assert "other" not in capsys.readouterr().err


def test_a_peer_that_is_not_configured(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    path = f"{tmp_path}/c.toml"
    with open(path, "w", encoding="ascii") as file:
        file.write('site = "mx.example"\n[peers.home]\n')
    assert receive.main(["--peer", "away", "-c", path]) == 78
    assert "no peer away; known: home" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ours", "theirs", "goes_on"), [("a.example", "b.example", "ours"), ("b.example", "a.example", "")]
)
def test_crossed_calls_go_by_the_sites_names(tmp_path: object, ours: str, theirs: str, goes_on: str) -> None:
    site = make_site(f"{tmp_path}/s", ours, "peer", site=theirs)
    calling = Line(site.spool, "peer")
    assert calling.acquire(CALLER)
    if ours < theirs:
        with pytest.raises(Temporary, match=f"the one from {ours} goes on"):
            receive._take_line(site.context)
        assert calling.wait(0) == []
        return
    taken: list[Line] = []

    def give_way(_seconds: float) -> None:
        assert "yield" in calling.wait(0)
        calling.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(receive.time, "sleep", give_way)
        taken.append(receive._take_line(site.context))
    assert taken[0].holder() == ANSWERER
    taken[0].close()


def test_what_is_left_to_run_finds_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is started in the root directory, and nobody sees what it says."""
    started: list[list[str]] = []
    monkeypatch.setattr(receive.os, "chdir", lambda _: None)
    monkeypatch.setattr(receive.os, "posix_spawn", lambda _program, words, *_, **__: started.append(words))
    receive._leave_to_run("home", "b.toml")
    (words,) = started
    assert words[2:] == ["-c", os.path.abspath("b.toml"), "run", "--peer", "home"]


def test_a_call_that_does_not_give_way(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receive, "_TAKE_OVER_S", 0.0)
    site = make_site(f"{tmp_path}/s", "mx.example", "home")
    older = Line(site.spool, "home")
    assert older.acquire(ANSWERER)
    with pytest.raises(Temporary, match="does not give way"):
        receive._take_line(site.context)
    older.close()

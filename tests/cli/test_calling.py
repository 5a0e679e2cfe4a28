"""batchmail call: what it says, to whom, and its exit codes."""

from tests.cli.programs import a_pair


def test_a_call_without_mail_is_told_to_who_asks(tmp_path):
    _, home = a_pair(tmp_path)
    assert home.run("call", "mx").returncode == 0  # the first one still tells of the peer's name and the like
    assert home.run("call", "mx").stdout == b""
    told = home.run("call", "mx", "-v").stdout
    assert told.startswith(b"mx: sent no mail (") and told.count(b"\n") == 1


def test_a_call_to_nobody_is_a_wrong_command_line(tmp_path):
    mx, _ = a_pair(tmp_path)
    for words in ([], ["--all"]):
        done = mx.run("call", *words)
        assert (done.returncode, b"name one, or say --all" in done.stderr) == (64, True)

"""batchmail demo: it is a test of its own; here that it runs, and leaves nothing."""

import os

from tests.cli.programs import run


def start(tmp_path, *options):
    return run("demo", *options, environment={**os.environ, "TMPDIR": str(tmp_path), "BATCHMAIL_CONFIG": "/nowhere"})


def test_it_tells_its_story_and_cleans_up(tmp_path):
    done = start(tmp_path)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    text = done.stdout.decode()
    for words in (
        "ENVID=QQ314159",
        ".batch    mx.example.net to home.example.org",
        ".report   home.example.org to mx.example.net",
        "refused: 550 5.1.1",
        "Original-Recipient: rfc822; nobody@home.example.org",
        "Status: 5.1.1",
        "README.md",
    ):
        assert words in text
    told = [line for line in text.splitlines()[1:] if not line.startswith("mx: sent ")]  # the first names TMPDIR
    assert max(map(len, told)) <= 110
    assert os.listdir(tmp_path) == []


def test_keep_leaves_spools_that_are_done(tmp_path):
    done = start(tmp_path, "--keep")
    assert done.returncode == 0, done.stderr
    [name] = os.listdir(tmp_path)
    for site in ("mx", "home"):
        again = run("-c", tmp_path / name / site / "batchmail.toml", "queue")
        assert again.stdout == b"Nothing is on its way.\n"

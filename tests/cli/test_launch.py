"""Programs whose libraries are missing say which package to install."""

import os
import subprocess
import sys

import pytest

from tests.cli.programs import BIN, a_pair


@pytest.mark.parametrize(
    ("program", "name", "arguments"),
    [
        ("batchmail", "click", ["status"]),
        ("batchmail", "paramiko", ["key", "mx"]),
        ("batchmail", "zstandard", ["status"]),
        ("batchmail-receive", "zstandard", ["--peer", "home"]),
    ],
)
def test_a_missing_library_is_named_with_its_package(tmp_path, program, name, arguments):
    code = f"raise ModuleNotFoundError('No module named {name}', name={name!r})\n"
    (tmp_path / f"{name}.py").write_text(code)
    done = subprocess.run(
        [sys.executable, os.path.join(BIN, program), *arguments],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        timeout=60,
    )
    assert done.returncode == 78
    assert done.stderr.decode().startswith(f"{program}: python3-{name} is missing: apt install python3-{name}")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("where", "code", "said"), [("/dev/full", 75, "standard output: No space left on device"), ("/dev/null", 0, "")]
)
def test_a_standard_output_that_takes_nothing_is_told_of(where, code, said):
    with open(where, "wb") as output:
        done = subprocess.run(
            [sys.executable, os.path.join(BIN, "batchmail"), "--version"],
            stdout=output,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    assert done.returncode == code
    assert done.stderr.decode() == (f"batchmail: {said}\n" if said else "")


@pytest.mark.parametrize("words", [["check"], ["call", "mx", "-v"], ["setup"], ["--help"]])
def test_a_reader_that_is_gone_is_no_finding(tmp_path, words):
    """1 would say that something is wrong, or does not balance."""
    _, home = a_pair(tmp_path)
    ours, theirs = os.pipe()
    os.close(ours)
    command = [sys.executable, os.path.join(BIN, "batchmail"), "-c", home.config, *words]
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, timeout=60)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (75, b"")


@pytest.mark.parametrize("closed", [(1,), (2,), (1, 2)])
def test_a_program_may_be_started_without_its_outputs(closed):
    done = subprocess.run(
        [sys.executable, os.path.join(BIN, "batchmail"), "--version"],
        preexec_fn=lambda: [os.close(fd) for fd in closed],
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0

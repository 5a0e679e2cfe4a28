"""batchmail cat and inspect: batches in the spool, elsewhere, and damaged ones."""

import json
import os
import subprocess
import sys

import pytest
import zstandard

from tests.cli.programs import BIN, TWO, a_pair_in_custody, run

TEXT = b"EHLO mx.example\r\n" + TWO.split(b"\n", 1)[1].replace(b"\n", b"\r\n") + b"QUIT\r\n"


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    """A site with a batch in its outbox, and the batch's name."""
    directory = tmp_path_factory.mktemp("sites")
    mx, _ = a_pair_in_custody(directory)
    [name] = mx.outbox()
    return mx, name


@pytest.fixture
def copy(sealed, tmp_path):
    """The batch as a file somewhere else."""
    mx, name = sealed
    with open(f"{mx.spool}/out/home/outbox/{name}", "rb") as file:
        path = tmp_path / "copy"
        path.write_bytes(file.read())
    return path


def test_cat_by_name_and_by_path_needs_no_configuration(sealed, copy):
    mx, name = sealed
    assert mx.run("cat", name).stdout == TEXT
    assert run("cat", copy).stdout == TEXT
    assert run("-c", "/nowhere/at/all", "cat", copy).returncode == 0


def test_cat_ends_quietly_when_nobody_reads_on(copy):
    command = [sys.executable, os.path.join(BIN, "batchmail"), "cat", str(copy)]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert done.returncode == -13
    assert not done.stderr


def test_what_cannot_be_written_is_no_fault_of_the_batch(copy):
    with open("/dev/full", "wb") as full:
        command = [sys.executable, os.path.join(BIN, "batchmail"), "cat", str(copy)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (75, b"batchmail: standard output: No space left on device\n")


def test_inspect_lists_and_checks(sealed):
    mx, name = sealed
    lines = mx.lines("inspect", name)
    assert lines[0] == f"batch         {name.removesuffix('.batch')}"
    assert any(line.startswith("identity") and line.endswith("whole)") for line in lines)
    assert [line.split()[3:] for line in lines[-2:]] == [["2", "alice@example.com"], ["1", "<>"]]
    head, one, two = mx.json("inspect", name)
    assert (head["origin"], head["destination"], head["transactions"]) == ("mx.example", "home.example", 2)
    assert len(head["identity"]) == 64
    assert [one["recipients"], two["recipients"]] == [2, 1]


@pytest.mark.parametrize("where", ["in the text", "cut off"])
def test_a_damaged_one_is_told_and_listed_as_far_as_it_goes(copy, where):
    octets = bytearray(copy.read_bytes())
    if where == "cut off":
        del octets[-20:]
    else:
        octets[-20] ^= 1
    copy.write_bytes(octets)
    done = run("inspect", copy, "--json")
    assert done.returncode == 75
    assert f"{copy} is damaged: ".encode() in done.stderr
    head, *items = map(json.loads, done.stdout.splitlines())
    assert "identity" not in head
    assert head["problem"]
    assert len(items) == 2
    assert run("cat", copy).returncode == 75


def test_what_is_no_batch(tmp_path, sealed):
    mx, _ = sealed
    foreign = tmp_path / "text"
    foreign.write_text("not a batch\n")
    for command in ("cat", "inspect"):
        done = run(command, foreign)
        assert (done.returncode, done.stdout) == (65, b"")
        assert b"is not a batch" in done.stderr
        done = mx.run(command, "0000000000000000.1.batch")
        assert done.returncode == 64
        assert b"is not in" in done.stderr
        done = mx.run(command, "nonsense")
        assert done.returncode == 64
        assert b"no such file" in done.stderr


def test_a_bomb_is_not_unpacked(tmp_path, copy):
    packed = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    octets = copy.read_bytes()
    length = 8 + int.from_bytes(octets[4:8], "little")
    copy.write_bytes(octets[:length] + packed)
    done = run("cat", copy)
    assert done.returncode == 75
    assert len(done.stdout) <= 1 << 20
    assert b"holds more than" in done.stderr

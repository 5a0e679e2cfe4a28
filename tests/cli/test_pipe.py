"""batchmail-pipe as MTAs start it: real processes, their input, exit codes and the one line they say."""

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext, suppress

import pytest

from batchmail.cli import pipe
from batchmail.cli.pipe_args import Request
from batchmail.core.envelope import Parameter
from batchmail.core.errors import Temporary
from batchmail.flow.accept import Message, Origin
from batchmail.store.setup import sweep
from tests.servers.host import wait_until
from tests.spools import drafts, make_spool, read_waiting

CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = f"{CHECKOUT}/bin/batchmail-pipe"
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

# Exim's bytes with use_bsmtp.
EXIM = (
    b"MAIL FROM:<sender@src.example>\nRCPT TO:<u1@far.example>\nRCPT TO:<u2@far.example>\nDATA\n"
    b"Received: from [127.0.0.1] (helo=me.example)\n\tby mx.example with esmtp (Exim 4.96)\n\nfirst\n..\n"
    b"...two dots start\nFrom line\n8bit: \xc3\xa6\xe6 end\n" + b"L" * 5000 + b"\nlast line\n.\n"
)
# Postfix's with flags=Fq. and its null sender's two spellings; dots doubled, none at the end.
POSTFIX = (
    b"From %s  Fri Nov 20 23:42:41 2026\nReceived: by mx.example (Postfix, from userid 0)\n\tid 4A1\n\nfirst\n..\n"
    b"...two dots start\nFrom line\n8bit: \xc3\xa6\xe6 end\nlast line\n"
)
TEXT = b"first\r\n.\r\n..two dots start\r\nFrom line\r\n8bit: \xc3\xa6\xe6 end\r\n"
BIG = EXIM[:-2] + b"x" * 300_000  # enough for a draft to show that it is being read, and no end


@pytest.fixture
def spool(tmp_path):
    return make_spool(tmp_path / "spool")


def _command(name="batchmail-pipe", *words, program=PROGRAM, python=sys.executable):
    return [python, "-IS", f"{os.path.dirname(program)}/{name}", *words]


def _run(spool, text, *words, name="batchmail-pipe", program=PROGRAM, environment=None, **options):
    return subprocess.run(
        _command(name, *words, program=program),
        input=text,
        env={"BATCHMAIL_SPOOL": spool if isinstance(spool, str) else spool.root, **(environment or {})},
        capture_output=True,
        timeout=60,
        **options,
    )


def _links(directory):
    for name in ("bsmtp", "uux", "rmail"):
        os.symlink(PROGRAM, directory / name)
    return f"{directory}/x"


def _refused(done, exit_code, line):
    """The exit code, and one line that begins with the status that is meant."""
    assert (done.returncode, done.stdout) == (exit_code, b"")
    assert re.fullmatch(rb"[45]\.[0-9]\.[0-9]+ batchmail-pipe: [ -~]{5,600}\n", done.stderr), done.stderr
    assert re.match(line, done.stderr.decode()), done.stderr


def _accepted(done, spool):
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert drafts(spool) == []
    return read_waiting(spool)


def test_exim(spool):
    environment = {
        "BATCHMAIL_MAIL": "MAIL FROM:<sender@src.example> SIZE=1400 RET=HDRS ENVID=id+2Bone",
        "BATCHMAIL_RCPT": "RCPT TO:<u1@far.example> NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;Orig+2Bone@x.example\n"
        "RCPT TO:<u2@far.example> NOTIFY=NEVER",
    }
    (mail,) = _accepted(_run(spool, EXIM, "-t", "home.example", environment=environment), spool)
    assert TEXT in mail.content
    assert mail.content.endswith(b"L" * 5000 + b"\r\nlast line\r\n")
    assert mail.envelope.sender == b"sender@src.example"
    assert list(map(bytes, mail.envelope.parameters)) == [b"RET=HDRS", b"ENVID=id+2Bone", b"BODY=8BITMIME"]
    assert [(r.address, list(map(bytes, r.parameters))) for r in mail.envelope.recipients] == [
        (b"u1@far.example", [b"NOTIFY=FAILURE,DELAY", b"ORCPT=rfc822;Orig+2Bone@x.example"]),
        (b"u2@far.example", [b"NOTIFY=NEVER"]),
    ]


@pytest.mark.parametrize(
    ("argument", "from_line", "sender"),
    [(b"a@b.example", b"a@b.example", b"a@b.example"), (b"MAILER-DAEMON", b"MAILER-DAEMON", b""), (b"", b"", b"")],
    ids=["sender", "null", "null_sender="],
)
def test_postfix_stock_lines(spool, tmp_path, argument, from_line, sender):
    program = _links(tmp_path)
    text = POSTFIX % from_line
    bsmtp = [b"-thome", b"-f" + argument, b"u1@far.example", b"u2@far.example"]
    uux = [b"-r", b"-n", b"-z", b"-a" + argument, b"-", b"home!rmail", b"(u1@far.example)", b"(u2@far.example)"]
    done = _run(spool, text, *bsmtp, name="bsmtp", program=program)
    (mail,) = _accepted(done, spool)
    assert mail.content.startswith(b"Received: by mx.example") and TEXT in mail.content
    assert mail.envelope.sender == sender
    text = text.replace(b"\n..", b"\n.")  # flags=Fqhu: no dots doubled
    (_, other) = _accepted(_run(spool, text, *uux, name="uux", program=program), spool)
    assert (other.envelope, other.content) == (mail.envelope, mail.content)


def test_postfix_with_our_own_line(spool):
    words = [
        "-t",
        "home",
        "-f",
        "",
        "--queue-id=4A1",
        "--envid=id+one",
        "--client-address=192.0.2.1",
        "--",
        "-x@far.example",
    ]
    for _ in range(2):  # the second time the exit status was lost
        (mail,) = _accepted(_run(spool, b"Received: x\n\n.\n..\n", *words), spool)
    assert (mail.envelope.sender, mail.envelope.recipients[0].address) == (b"", b"-x@far.example")
    assert mail.envelope.parameters == (Parameter(b"ENVID", b"id+2Bone"),)
    assert (mail.content, mail.entry.queue_id) == (b"Received: x\r\n\r\n.\r\n..\r\n", "4A1")
    assert mail.entry.client.address == b"192.0.2.1"


def test_rmail(spool, tmp_path):
    text = b"From ann Fri Nov 20 09:15:02 2026 remote from alpha\nSubject: x\n\n.\nFrom here on\n>From there\n"
    for name, words in (("rmail", []), ("batchmail-pipe", ["--rmail"])):
        program = PROGRAM if words else _links(tmp_path)
        done = _run(spool, text, *words, "-t", "home", '"a b"@x.example', "beta!bob", name=name, program=program)
        mail = _accepted(done, spool)[-1]
        assert mail.envelope.sender == b"alpha!ann"
        assert [r.address for r in mail.envelope.recipients] == [b'"a b"@x.example', b"beta!bob"]
        assert mail.content == b"Subject: x\r\n\r\n.\r\nFrom here on\r\n>From there\r\n"
    assert len(read_waiting(spool)) == 2


def test_several_transactions(spool):
    assert len(_accepted(_run(spool, EXIM * 3, "-t", "home"), spool)) == 3
    _refused(_run(spool, EXIM * 3 + b"x", "-t", "home"), 75, "4.5.2 .*ends within a line")
    assert len(read_waiting(spool)) == 3


def test_200_mib_in_little_memory(spool, monkeypatch):
    """Measured by the kernel; the bare interpreter takes some 10 MiB."""
    make_spool(spool.root, max_message_octets=300 << 20)
    script = (
        "import os, resource, subprocess, sys\n"
        "child = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)\n"
        "child.stdin.write(b'Subject: x\\n\\n')\n"
        "for _ in range(200): child.stdin.write((b'x' * 1023 + b'\\n') * 1024)\n"
        "child.stdin.close()\n"
        "print(child.wait(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    command = [sys.executable, "-c", script, *_command("batchmail-pipe", "-t", "home", "-f", "a@b", "c@d")]
    done = subprocess.run(command, env={"BATCHMAIL_SPOOL": spool.root}, capture_output=True)
    exit_code, peak_kib = map(int, done.stdout.split())
    assert exit_code == 0, done.stderr
    assert peak_kib < 64 << 10
    (waiting,) = (name for _, _, names in os.walk(f"{spool.root}/out") for name in names)
    assert int(waiting.split(".")[1]) > 200 << 20
    assert drafts(spool) == []


REFUSALS = [
    (
        EXIM,
        ["-t", "nobody"],
        75,
        "4.3.1 .*no peer nobody; known: home; after editing the configuration run batchmail setup",
    ),
    (EXIM, [], 75, "4.3.5 .*-t PEER"),
    (EXIM, ["--help"], 75, "4.3.5 .*usage: batchmail-pipe -t PEER"),
    (EXIM, ["-t", "home", "--nonsense"], 75, "4.3.5 .*unknown option --nonsense"),
    (EXIM, ["-t", "home", "-f", "a b", "c@d"], 75, "4.5.2 .*malformed address"),
    (EXIM, ["-t", "home\n5.1.1 x"], 75, "4.3.1 .*no peer 'home"),
    (EXIM[:-2], ["-t", "home"], 75, "4.5.2 .*before the final dot"),
    (EXIM[:-1], ["-t", "home"], 75, "4.5.2 .*before the final dot"),
    (EXIM[:50], ["-t", "home"], 75, "4.5.2 .*within a line"),
    (b"", ["-t", "home"], 75, "4.5.2 .*holds no message"),
    (b"5.1.1 no\n", ["-t", "home"], 75, r"4.5.2 .*not a BSMTP command: '5.1.1 no'"),
    (b"\xff\xfe\r\0\n", ["-t", "home"], 75, "4.5.2 .*not a BSMTP command"),
    (EXIM[:-2] + b"\0\n.\n", ["-t", "home"], 65, "5.6.0 .*NUL"),
    (b"\0", ["-t", "home", "-f", "", "c@d"], 65, "5.6.0 .*NUL"),
    (b"Subject: x\n", ["--rmail", "-t", "home", "c@d"], 75, "4.5.2 .*From_ line"),
    (b"x" * 60_000_000, ["-t", "home", "-f", "", "c@d"], 69, "5.3.4 .*larger than home takes .50000000 octets"),
]


@pytest.mark.parametrize(("text", "words", "exit_code", "line"), REFUSALS)
def test_refusals(spool, text, words, exit_code, line):
    _refused(_run(spool, text, *words), exit_code, line)
    assert read_waiting(spool) == []
    assert drafts(spool) == []


def test_an_address_that_is_not_utf8(spool):
    done = _run(spool, b"x\n", "-t", "home", "-f", b"j\xf8@b.example", "c@d")
    _refused(done, 65, r"5.6.7 batchmail-pipe: the address j\\xf8@b.example is neither ASCII nor UTF-8")


def test_no_spool(tmp_path):
    _refused(_run(f"{tmp_path}/none", EXIM, "-t", "home"), 75, "4.3.1 .*no spool at .*: run batchmail setup")


def test_a_newer_spool(spool):
    with open(f"{spool.root}/VERSION", "w") as file:
        file.write("2\n")
    _refused(_run(spool, EXIM, "-t", "home"), 75, "4.3.1 .*version 2, this program knows 1: install a newer")


def test_a_full_disk(spool):
    make_spool(spool.root, reserve_octets=1 << 62)
    _refused(_run(spool, EXIM, "-t", "home"), 75, "4.3.1 .*less than the reserve")


@pytest.mark.parametrize("missing", ["tmp", "doors"])
def test_a_spool_that_lacks_something(spool, missing):
    shutil.rmtree(f"{spool.root}/{missing}")
    _refused(_run(spool, EXIM, "-t", "home"), 75, "4.[0-9].[0-9] ")


def test_no_standard_streams(spool):
    command = _command("batchmail-pipe", "-t", "home", "--spool", spool.root)
    assert subprocess.run(["sh", "-c", 'exec "$@" <&-', "sh", *command], capture_output=True).returncode == 75
    closed = subprocess.run(["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *command], input=EXIM)
    assert closed.returncode == 0
    closed = subprocess.run(["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *command], input=EXIM[:-1])
    assert closed.returncode == 75
    assert len(read_waiting(spool)) == 1


def _half(path):
    with open(path, "rb+") as file:
        text = file.read()
        half = len(text) // 2
        file.truncate(text.find(b"(", half) + 1 or half)  # within an expression, so that it is no program


def _empty(path):
    os.truncate(path, 0)


def _garbage(path):
    with open(path, "wb") as file:
        file.write(b"\0\xff" * 50)


@pytest.fixture
def copy(tmp_path):
    """The program and its package, to be broken; above it, the place of an installed one or of a checkout."""
    shutil.copytree(
        f"{CHECKOUT}/batchmail", tmp_path / "lib/batchmail/batchmail", ignore=shutil.ignore_patterns("__pycache__")
    )
    os.mkdir(tmp_path / "bin")
    shutil.copy(PROGRAM, tmp_path / "bin")
    return tmp_path


def test_an_installed_copy(copy, spool):
    assert len(_accepted(_run(spool, EXIM, "-t", "home", program=f"{copy}/bin/x"), spool)) == 1


@pytest.mark.parametrize(
    "module",
    ["cli/pipe.py", "cli/pipe_args.py", "flow/accept.py", "core/errors.py", "store/arrivals.py", "__init__.py"],
)
@pytest.mark.parametrize("damage", [_half, _empty, _garbage, os.unlink])
def test_a_package_half_written(copy, spool, module, damage):
    damage(f"{copy}/lib/batchmail/batchmail/{module}")
    done = _run(spool, EXIM, "-t", "home", program=f"{copy}/bin/x")
    if module == "__init__.py" and damage in (_empty, os.unlink):  # nothing the door needs is in it
        assert done.returncode == 0
    else:
        _refused(done, 75, "4.3.0 batchmail-pipe: cannot run from .*/lib/batchmail: ")


def test_no_package(copy, spool):
    shutil.rmtree(copy / "lib")
    _refused(
        _run(spool, EXIM, "-t", "home", program=f"{copy}/bin/x"),
        75,
        "4.3.0 .*cannot run from .*No module named 'batchmail'",
    )


def _as_nobody(*words, spool, text=EXIM, program=PROGRAM):
    command = ["/usr/bin/python3", "-IS", program, *words]
    return subprocess.run(
        command, input=text, env={"BATCHMAIL_SPOOL": spool}, capture_output=True, user=NOBODY, group=NOBODY
    )


@as_root
def test_an_unreadable_package(copy, open_path, spool):
    shutil.copytree(copy, f"{open_path}/usr")
    os.chmod(f"{open_path}/usr", 0o755)
    os.chmod(f"{open_path}/usr/lib/batchmail/batchmail", 0o700)
    done = _as_nobody("-t", "home", spool=spool.root, program=f"{open_path}/usr/bin/batchmail-pipe")
    _refused(done, 75, "4.3.0 .*cannot run from ")
    os.chmod(f"{open_path}/usr/lib", 0o700)
    done = _as_nobody("-t", "home", spool=spool.root, program=f"{open_path}/usr/bin/batchmail-pipe")
    _refused(done, 75, "4.3.0 .*cannot run from .*No module named")


@as_root
def test_another_user_is_refused_with_both_names(copy, open_path):
    shutil.copytree(copy, f"{open_path}/usr")
    os.chmod(f"{open_path}/usr", 0o755)
    spool, program = make_spool(f"{open_path}/spool"), f"{open_path}/usr/bin/batchmail-pipe"
    done = _as_nobody("-t", "home", spool=spool.root, program=program)
    _refused(done, 75, "4.3.1 .*belongs to root, this program runs as nobody: run it as root")
    os.chmod(open_path, 0o711)
    os.mkdir(f"{open_path}/closed", 0o700)
    done = _as_nobody("-t", "home", spool=f"{open_path}/closed/spool", program=program)
    _refused(done, 75, "4.3.1 .*cannot be reached as nobody: Permission denied")


@as_root
def test_root_becomes_the_owner_and_an_unwritable_spool_is_refused(open_path):
    spool = make_spool(f"{open_path}/spool")
    for folder, _, names in os.walk(spool.root):
        for path in (folder, *(f"{folder}/{name}" for name in names)):
            os.chown(path, NOBODY, NOBODY)
    assert len(_accepted(_run(spool, EXIM, "-t", "home"), _Seen(spool))) == 1
    owners = {
        os.stat(f"{folder}/{name}").st_uid for folder, kinds, names in os.walk(spool.root) for name in kinds + names
    }
    assert owners == {NOBODY}
    os.chmod(spool.tmp, 0o500)
    _refused(_run(spool, EXIM, "-t", "home"), 75, "4.3.1 .*/spool/tmp/.*: Permission denied")


class _Seen:
    """A spool of another user's, as root reads it."""

    def __init__(self, spool):
        self.root, self.tmp = spool.root, spool.tmp


def _start(spool, *words, stderr=subprocess.PIPE):
    command = _command("batchmail-pipe", "-t", "home", *words)
    return subprocess.Popen(command, env={"BATCHMAIL_SPOOL": spool.root}, stdin=subprocess.PIPE, stderr=stderr)


def _feed(process, text):
    process.stdin.write(text)
    process.stdin.flush()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGALRM])
def test_stopped_while_reading(spool, number):
    with _start(spool) as process:
        _feed(process, BIG)
        wait_until(lambda: drafts(spool), "the draft")
        process.send_signal(number)
        line = process.stderr.read().decode()
        assert process.wait() == 75
        with suppress(BrokenPipeError):
            process.stdin.close()
    assert re.fullmatch(r"4\.3\.0 batchmail-pipe: stopped before anything was accepted: [ -~]+\n", line)
    assert drafts(spool) == []
    assert read_waiting(spool) == []


def test_killed_while_reading(spool):
    with _start(spool) as process:
        _feed(process, BIG)
        wait_until(lambda: drafts(spool), "the draft")
        process.kill()
        process.wait()
        with suppress(BrokenPipeError):
            process.stdin.close()
    assert read_waiting(spool) == []
    sweep(spool, 4e9)
    assert drafts(spool) == []


def test_a_writer_that_died(spool, tmp_path):
    """The end of its input may be the writer's end: nobody waits for the answer, so it is no."""
    script = (
        "import subprocess, sys\n"
        "subprocess.Popen(sys.argv[3:], stdin=int(sys.argv[1]), stderr=open(sys.argv[2], 'w'))\n"
        "sys.stdin.read()\n"
    )
    line, (reading, writing) = tmp_path / "line", os.pipe()
    command = [sys.executable, "-c", script, str(reading), str(line)]
    command += _command("batchmail-pipe", "-t", "home", "-f", "a@b", "c@d")
    environment = {"BATCHMAIL_SPOOL": spool.root}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, pass_fds=[reading]) as parent:
        os.close(reading)
        with open(writing, "wb") as file:
            file.write(BIG)
            file.flush()
            wait_until(lambda: drafts(spool), "the draft")
            parent.stdin.close()
            parent.wait()
    wait_until(lambda: line.read_text().endswith("\n"), "the refusal")
    assert line.read_text().startswith("4.3.0 batchmail-pipe: the program that started this one is gone")
    assert read_waiting(spool) == []
    assert drafts(spool) == []


def test_a_writer_that_died_while_the_program_was_loading(copy, spool, tmp_path):
    """Whose child it was is asked on the first line, before anything is imported."""
    (copy / "lib/batchmail/batchmail/__init__.py").write_text(
        "import os, time\nparent = os.getppid()\nos.write(1, b'!')\nwhile os.getppid() == parent: time.sleep(0.001)\n"
    )
    script = (
        "import subprocess, sys\n"
        "out, err = subprocess.PIPE, open(sys.argv[1], 'w')\n"
        "subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, stdout=out, stderr=err).stdout.read(1)\n"
    )
    line = tmp_path / "line"
    words = _command("batchmail-pipe", "-t", "home", "-f", "a@b", "c@d", program=f"{copy}/bin/x")
    command = [sys.executable, "-c", script, str(line), *words]
    subprocess.run(command, env={"BATCHMAIL_SPOOL": spool.root}, check=True, timeout=60)
    wait_until(lambda: line.read_text().endswith("\n"), "the refusal")
    assert line.read_text().startswith("4.3.0 batchmail-pipe: the program that started this one is gone")
    assert read_waiting(spool) == []


@pytest.mark.parametrize(("group", "is_taken"), [(1, True), (4711, False)], ids=["a shell's as process 1", "orphan"])
def test_a_writer_that_died_before_the_first_line(spool, monkeypatch, group, is_taken):
    """Then the parent is process 1 from the first line to the last."""
    monkeypatch.setattr(pipe, "_ignore_signals", lambda: None)
    for name, found in (("getppid", 1), ("getpgrp", group)):
        monkeypatch.setattr(os, name, lambda found=found: found)
    monkeypatch.setattr(os, "getpgid", lambda _: 1)
    for text, message in ((b"x\n", Message(b"a@b", (b"c@d",))), (EXIM, None)):
        pieces = [b"", text]
        monkeypatch.setattr(pipe, "_read", lambda _, pieces=pieces: pieces.pop())
        refused = not is_taken and message
        with pytest.raises(Temporary, match="gone from the start") if refused else nullcontext():
            pipe._accept(Request("home", spool.root, Origin(), message), 1)
    assert len(read_waiting(spool)) == 1 + is_taken
    assert drafts(spool) == []


# What the door may load: it starts once per message, and each of these was measured.
OURS = {
    "batchmail", "batchmail.cli", "batchmail.cli.pipe", "batchmail.cli.pipe_args", "batchmail.core",
    "batchmail.core.digest", "batchmail.core.entry_lines", "batchmail.core.envelope", "batchmail.core.errors",
    "batchmail.core.lines", "batchmail.core.names", "batchmail.core.path", "batchmail.core.value",
    "batchmail.core.xtext", "batchmail.flow", "batchmail.flow.accept", "batchmail.flow.body", "batchmail.store",
    "batchmail.store.arrivals", "batchmail.store.bell", "batchmail.store.durable", "batchmail.store.group",
    "batchmail.store.room", "batchmail.store.spool", "batchmail.store.writer", "batchmail.wire",
    "batchmail.wire.doorlog",
}  # fmt: skip
STANDARD = {"os", "posixpath", "genericpath", "stat", "syslog", "errno"}  # built in or frozen, no file is read


def test_what_it_loads():
    script = (
        f"import sys; bare = set(sys.modules); sys.path.insert(0, {CHECKOUT!r})\n"
        "import batchmail.cli.pipe\n"
        "print(*(name for name, module in sys.modules.items() if module and name not in bare))"
    )
    done = subprocess.run([sys.executable, "-IS", "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {name for name in loaded if name.split(".")[0] == "batchmail"} == OURS
    others = {name.split(".")[0] for name in loaded} - {"batchmail"}
    newer = {"typing", "warnings", "annotationlib", "ast"} if sys.version_info >= (3, 14) else set()
    assert {name for name in others if not name.startswith("_")} <= STANDARD | newer
    assert "_hashlib" not in loaded  # OpenSSL


@pytest.fixture
def bundle(copy):
    """The file that `make install` puts beside the package, of all that the door loads."""
    lib = f"{copy}/lib/batchmail"
    subprocess.run([sys.executable, "-IS", f"{lib}/batchmail/cli/bundle.py", lib], check=True)
    (name,) = set(os.listdir(lib)) - {"batchmail"}
    return f"{lib}/{name}"


def _replace(path, text, time_ns):
    with open(path, "wb") as file:
        file.write(text)
    os.utime(path, ns=(time_ns, time_ns))


def test_the_bundle_holds_all_it_loads(copy, spool, bundle):
    for path in (copy / "lib/batchmail/batchmail").rglob("*.py"):
        status = os.stat(path)
        if f"batchmail.{'.'.join(path.relative_to(copy / 'lib/batchmail/batchmail').with_suffix('').parts)}" in OURS:
            _replace(path, b"!" * status.st_size, status.st_mtime_ns)  # nobody reads it
    done = _run(spool, EXIM, "-t", "home", "-f", "a@b", "x@home.example", program=f"{copy}/bin/x")
    assert len(_accepted(done, spool)) == 1


@pytest.mark.parametrize("of", ["-t home", "-t home -f a@b x@home.example", "-t home -f a@b --ret FULL x@home.example"])
def test_with_a_bundle_and_without_one(copy, spool, bundle, of):
    first = _run(spool, EXIM, *of.split(), program=f"{copy}/bin/x")
    os.rename(bundle, f"{bundle}0")  # as that of another Python is called
    second = _run(spool, EXIM, *of.split(), program=f"{copy}/bin/x")
    assert (first.returncode, first.stderr) == (second.returncode, second.stderr) == (0, b"")
    one, other = read_waiting(spool)
    assert one[1:] == other[1:]


@pytest.mark.parametrize("module", ["__init__.py", "cli/pipe.py", "store/writer.py"])
def test_a_bundle_of_other_sources_does_not_count(copy, spool, bundle, module):
    path = f"{copy}/lib/batchmail/batchmail/{module}"
    status = os.stat(path)
    words = "4.3.0 batchmail-pipe: cannot run from .*/lib/batchmail: SyntaxError"
    _replace(path, b"!" * status.st_size, status.st_mtime_ns + 10**9)
    _refused(_run(spool, EXIM, "-t", "home", program=f"{copy}/bin/x"), 75, words)
    _replace(path, b"!" * (status.st_size + 1), status.st_mtime_ns)
    _refused(_run(spool, EXIM, "-t", "home", program=f"{copy}/bin/x"), 75, words)


@pytest.mark.parametrize("damage", [_half, _empty, _garbage])
def test_a_bundle_half_written(copy, spool, bundle, damage):
    damage(bundle)
    done = _run(spool, EXIM, "-t", "home", program=f"{copy}/bin/x")
    _refused(done, 75, "4.3.0 batchmail-pipe: cannot run from .*/lib/batchmail: ")

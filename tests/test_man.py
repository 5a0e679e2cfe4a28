"""The manual pages say what the programs do: commands, options, keys, defaults, exit codes, frames, formats, places."""

import importlib
import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import click
import pytest

from batchmail.cli import config, lmtpd, main, pipe, pipe_args, receive
from batchmail.core import errors, manifest, report
from batchmail.core.errors import BatchmailError, Permanent
from batchmail.core.numbered import REPORT, Number
from batchmail.core.request import Answer, Request
from batchmail.flow import requests, serving, target_spec
from batchmail.flow.target_spec import parse_target
from batchmail.proto import frames, hello, pace, session, short, watch
from batchmail.proto.frames import Custody, Note, Open, Refuse
from batchmail.proto.hello import Have, Hello, PartialFile
from batchmail.proto.smtp_terms import Terms
from batchmail.store import batchfile
from batchmail.store import spool as spools
from batchmail.store.ledger import Ledger
from batchmail.store.spool import Spool
from tests import samples
from tests.spools import make_spool

MAN = Path(__file__).parent.parent / "man"
PAGES = sorted(MAN.iterdir())
SECTION = r"(?ms)^\.S[hs] {}\n(.*?)(?=^\.S[hs] |\Z)"


def page(name: str) -> str:
    return (MAN / name).read_text()


def section(text: str, title: str) -> str:
    found = re.search(SECTION.format(re.escape(title)), text)
    assert found, f"no section {title}"
    return found[1]


def items(text: str) -> list[str]:
    """What stands behind each `.It`."""
    return re.findall(r"(?m)^\.It (.*)$", text)


def flags(text: str) -> dict[str, bool]:
    """The options that are told, and whether each takes a value."""
    told = {}
    for item in items(text):
        names = re.findall(r"Fl (-?[A-Za-z][A-Za-z-]*)", item)
        told.update({f"-{name}": " Ar " in item for name in names})
    return told


def literals(text: str) -> set[str]:
    """The words that lists of `.It Li a , b` tell of."""
    return {word for item in items(text) if item.startswith("Li ") for word in item[3:].split(" , ")}


def exit_codes(text: str) -> set[int]:
    return {int(item) for item in items(section(text, "EXIT STATUS"))}


def all_subclasses(root: type[BatchmailError]) -> set[type[BatchmailError]]:
    return {root} | {below for cls in root.__subclasses__() for below in all_subclasses(cls)}


# -- form -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
@pytest.mark.parametrize(
    "program", [["groff", "-mandoc", "-ww", "-Tutf8", "-K", "utf8"], ["mandoc", "-Tlint", "-Wwarning"]]
)
def test_typesetters_have_nothing_to_say(path: Path, program: list[str]) -> None:
    if not shutil.which(program[0]):
        pytest.skip(f"no {program[0]}")
    done = subprocess.run([*program, path], capture_output=True, text=True)
    said = done.stdout if program[0] == "mandoc" else ""
    assert (done.returncode, said + done.stderr) == (0, "")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_pages_refer_to_pages(path: Path) -> None:
    """Also in the order in which mandoc wants them; and each page is known by its own name."""
    text = path.read_text()
    name, number = path.name.rsplit(".", 1)
    assert text.splitlines()[1] == f".Dt {name.upper()} {number}"
    there = {other.name for other in PAGES}
    for other, chapter in re.findall(r"(?m)^\.Xr (batchmail\S*) ([1-8])", text):
        assert f"{other}.{chapter}" in there


# -- batchmail(1) -----------------------------------------------------------------------------------------------


def options_of(command: click.Command) -> dict[str, bool]:
    told = {}
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            told.update(dict.fromkeys((*parameter.opts, *parameter.secondary_opts), not parameter.is_flag))
    return told


def test_commands() -> None:
    told = re.findall(r"(?m)^\.Ss (.*)$", page("batchmail.1"))
    assert sorted(told) == sorted(main.COMMANDS)


@pytest.mark.parametrize("name", main.COMMANDS)
def test_options_of_commands(name: str) -> None:
    command = importlib.import_module(f"batchmail.cli.cmd_{name}").command
    assert flags(section(page("batchmail.1"), name)) == options_of(command)


def test_options_of_batchmail() -> None:
    context = click.Context(main.command)
    known = options_of(main.command) | dict.fromkeys(context.command.get_help_option_names(context), False)
    help_names = main.command.context_settings["help_option_names"]
    assert flags(section(page("batchmail.1"), "DESCRIPTION")) == known | dict.fromkeys(help_names, False)


def test_exit_codes_of_batchmail() -> None:
    known = {cls.exit_code for cls in all_subclasses(BatchmailError)}
    assert exit_codes(page("batchmail.1")) == known | {0, 1, 2, 3}


# -- batchmail-pipe(8), batchmail-receive(8) --------------------------------------------------------------------


def test_options_of_the_pipe() -> None:
    known = dict.fromkeys(pipe_args._FLAGS, False) | dict.fromkeys(pipe_args._VALUES, True)
    assert flags(section(page("batchmail-pipe.8"), "OPTIONS")) == known


def test_exit_codes_of_the_pipe() -> None:
    """What the command line or the configuration has wrong is temporary at a door: mail is not to be lost by it."""
    refusals = {cls.exit_code for cls in all_subclasses(Permanent) - {errors.UsageError}}
    assert exit_codes(page("batchmail-pipe.8")) == refusals | {0, 75}


def test_environment_and_limits_of_the_pipe() -> None:
    text = page("batchmail-pipe.8")
    told = {item.removeprefix("Ev ") for item in items(section(text, "ENVIRONMENT"))}
    source = Path(pipe_args.__file__).read_text()
    assert told == set(re.findall(r'b"(BATCHMAIL_[A-Z]+)"', source))
    assert f"within {pipe.TIME_LIMIT_S // 60} minutes" in " ".join(text.split())


def test_options_of_receive() -> None:
    told = flags(section(page("batchmail-receive.8"), "DESCRIPTION"))
    assert set(told) == {"--peer", "-c", "--config", "-h", "--help", "--version"}
    for name, has_value in told.items():
        if has_value:
            with pytest.raises(errors.UsageError, match="needs a value"):
                receive._parse([name])
        else:
            assert receive._parse([name])[0] is None
    assert exit_codes(page("batchmail-receive.8")) == {0, 64, 75, 78}


def test_options_of_lmtpd() -> None:
    text = page("batchmail-lmtpd.8")
    told = flags(section(text, "DESCRIPTION"))
    assert set(told) == {"-c", "--config", "-h", "--help", "--version"}
    for name, has_value in told.items():
        if has_value:
            with pytest.raises(errors.UsageError, match="needs a value"):
                lmtpd._parse([name])
        else:
            assert lmtpd._parse([name])[0]
    assert exit_codes(text) == {0, 64, 75, 78}
    assert f"within {serving.GRACE_S:.0f} seconds" in " ".join(text.split())
    assert f"for {'five' if serving.IDLE_S == 300 else '?'} minutes" in text


def test_extensions_of_lmtpd() -> None:
    text = " ".join(section(page("batchmail-lmtpd.8"), "Extensions").split())
    offered = Terms("mx.example", 1, 1, smtputf8=True, rrvs=True, xforward=True).keywords
    assert {keyword.split()[0].decode() for keyword in offered} <= set(re.findall(r"[A-Z0-9-]+", text))


# -- batchmail.toml(5) ------------------------------------------------------------------------------------------


def told_keys(title: str) -> dict[str, str | None]:
    """The keys, each with its default as TOML where one is told."""
    told: dict[str, str | None] = {}
    for item in items(section(page("batchmail.toml.5"), title)):
        key, equals, default = item.removeprefix("Ic ").partition(" No = ")
        told[key] = re.sub(r"^Qq (.*)$", r'"\1"', default) if equals else None
    return told


def test_keys() -> None:
    assert list(told_keys("The site")) == list(config.KEYS[""])
    assert list(told_keys("The door")) == list(config.KEYS["door"])
    assert list(told_keys("Peers")) == list(config.KEYS["peers.NAME"])


def test_defaults(tmp_path: Path) -> None:
    """Each default, written out, gives what leaving the key out gives."""
    path = tmp_path / "batchmail.toml"
    path.write_text("[peers.home]\n")
    bare = config.load(str(path))
    site = [f"{key} = {value}\n" for key, value in told_keys("The site").items() if value]
    door = [f"{key} = {value}\n" for key, value in told_keys("The door").items() if value]
    peer = [f"{key} = {value}\n" for key, value in told_keys("Peers").items() if value]
    assert len(door) == len(config.KEYS["door"]) - 2
    assert len(site) == len(config.KEYS[""]) - 2 and len(peer) == len(config.KEYS["peers.NAME"]) - 4
    written = "".join([*site, "[door]\n", *door, "[peers.home]\n", *peer]).replace(
        os.path.dirname(config.DEFAULT_PATH), str(tmp_path)
    )
    path.write_text(written)
    assert config.load(str(path))._replace(digest=bare.digest) == bare


def test_example_configurations_load(tmp_path: Path) -> None:
    examples = re.findall(r"(?ms)^\.Bd -literal -offset indent\n(site = .*?)^\.Ed", page("batchmail.toml.5"))
    assert len(examples) == 3
    for text in examples:
        path = tmp_path / "batchmail.toml"
        path.write_text(text)
        assert len(config.load(str(path)).peers) == len(tomllib.loads(text)["peers"]) == 1


def test_targets_and_their_options() -> None:
    told = items(section(page("batchmail.toml.5"), "Targets"))
    schemes = {word for item in told for word in re.findall(r"Li ([a-z]+):", item)}
    assert schemes == set(target_spec._OPTIONS)
    names = {item.split()[1] for item in told if item.startswith("Cm ")}
    assert names == {name for known in target_spec._OPTIONS.values() for name in known}
    spec = parse_target("smtp://mx.example.net")
    assert (spec.port, spec.starttls, spec.tls_verify, spec.send_eightbit, spec.final) == (
        25,
        "may",
        True,
        False,
        False,
    )
    assert parse_target("smtp://127.0.0.1").starttls == "never"
    assert parse_target("lmtp:///run/lmtp").final and parse_target("maildir:/m").final
    assert parse_target("sendmail:/usr/sbin/sendmail").args == ("-bs",)


# -- batchmail-spool(5) -----------------------------------------------------------------------------------------


def test_places(tmp_path: Path) -> None:
    spool: Spool = make_spool(tmp_path)
    Ledger(spool, "home").close()
    made = {os.path.relpath(os.path.join(at, name), tmp_path) for at, below, _ in os.walk(tmp_path) for name in below}
    made |= {path.name for path in tmp_path.iterdir() if path.is_file()}
    made = {place.replace("/home/", "/PEER/").replace(spools.NORMAL_DIR, "PRIORITY") for place in made}
    told = {item.removeprefix("Pa ") for item in items(section(page("batchmail-spool.5"), "DESCRIPTION"))}
    later = {
        "ballast",
        "looks",
        "quarantine",
        "out/PEER/census",
        "out/PEER/waiting/PRIORITY/BUCKET",
        "out/PEER/offered/DAY",
        "out/PEER/offers",
        "out/PEER/deadlines/HOUR",
    }  # made when mail comes
    later |= {"out/PEER/ended", "out/PEER/retired"}  # when mail ends here, or is taken no more
    later |= {"out/PEER/recipients", "out/PEER/recipients.parts", "in/PEER/recipients"}  # when the peer tells them
    assert told - later == made - {"out", "in", "out/home", "in/home", "out/PEER/waiting"}
    assert (tmp_path / "VERSION").read_text().strip() == "1"
    assert "The version of this layout, 1." in page("batchmail-spool.5")


def test_spool_file() -> None:
    text = samples.spool_file().decode().replace("\r\n", "\n").replace("\n.\n", "\n\\&.\n")
    assert text.replace(samples.DIGEST, "...") in page("batchmail-spool.5")


# -- batchmail-batch(5) -----------------------------------------------------------------------------------------


def shown_lines(first: str) -> list[dict[str, object]]:
    """The JSON of an example, whose lines are broken behind commas."""
    text = page("batchmail-batch.5")
    start = text.index(first)
    return [json.loads(line) for line in text[start : text.index(".Ed", start)].replace("\n  ", "").splitlines()]


def test_manifest() -> None:
    text = page("batchmail-batch.5")
    head, *rows = [json.loads(line) for line in samples.manifest_lines().splitlines()]
    assert shown_lines('{"batchmail":1,"stream"') == [head, *rows]
    batch = section(text, "Batch")
    of_head, of_rows = batch.split("Keys of the others:")
    assert literals(of_head) == set(head)
    assert literals(of_rows) == manifest._KNOWN
    assert set(rows[0]) <= manifest._KNOWN


def test_batch_text() -> None:
    text = samples.batch_text().decode().replace("\r\n", "\n").replace("\n.\n", "\n\\&.\n")
    assert text in page("batchmail-batch.5")


def test_report_request_and_answer() -> None:
    told = section(page("batchmail-batch.5"), "Report, request, answer and void")
    head, row = [json.loads(line) for line in samples.report_lines().splitlines()]
    assert shown_lines('{"batchmail":1,"kind"') == [head, row]
    of_head, rest = told.split("Keys of a report's line:")
    of_rows, rest = rest.split("Keys of a request's line:")
    of_requests, rest = rest.split("Keys of an answer's line:")
    of_answers, of_kinds = rest.split("Kinds of requests:")
    assert literals(of_head) == set(head)
    assert literals(of_rows) == set(row) | {"doubt"}
    assert literals(of_requests) == set(Request("x", "y", {"z": 1}).line())
    assert literals(of_answers) == set(Answer("x", "y", "z", {"z": 1}).line())
    assert literals(of_kinds) & set(requests.KINDS) == set(requests.KINDS)


def test_bounds() -> None:
    text = " ".join(section(page("batchmail-batch.5"), "Bounds").split())
    assert f"at most {manifest.MAX_TRANSACTIONS:,} transactions" in text
    assert f"{manifest.MAX_TEXT_OCTETS >> 20} MiB of text; a window" in text
    assert f"at most {batchfile._MAX_WINDOW_OCTETS >> 20} MiB is read" in text
    assert f"at most {report.MAX_OUTCOMES:,} lines and {report.MAX_TEXT_OCTETS >> 20} MiB" in text
    assert f"magic 0x{batchfile._MAGIC:X}" in page("batchmail-batch.5")


# -- batchmail-session(7) ---------------------------------------------------------------------------------------


def test_frames() -> None:
    told = {item.removeprefix("Li ") for item in items(section(page("batchmail-session.7"), "Frames"))}
    assert told == {f"{number} {event.__name__.upper()}" for event, number in frames.TYPES.items()}


def test_states() -> None:
    told = {}
    for item in items(section(page("batchmail-session.7"), "States"))[1:]:
        state, events, becomes = item.split(" Ta ")
        told.update({(state, event): becomes for event in events.split(", ")})
    assert told == {(state, event.__name__.upper()): becomes for (state, event), becomes in session.NEXT.items()}


def keys_in(value: object) -> set[str]:
    """Of an object and those in it."""
    if isinstance(value, dict):
        return set(value) | {key for inner in value.values() for key in keys_in(inner)}
    return {key for inner in value for key in keys_in(inner)} if isinstance(value, list) else set()


def test_keys_of_frames() -> None:
    """Each frame's item tells the keys of its JSON, and no others."""
    number = Number(samples.STREAM, 7, REPORT)
    written: dict[str, set[str]] = {
        "REFUSE": keys_in(json.loads(frames.payload_of(Refuse(samples.STREAM, 1, True, "")))),
        "NOTE": keys_in(json.loads(frames.payload_of(Note("")))),
        "OPEN": keys_in(json.loads(frames.payload_of(Open(number, samples.DIGEST, "zst", 1, 0)))),
        "CUSTODY": keys_in(json.loads(frames.payload_of(Custody(samples.STREAM, 1)))),
    }
    for _, event, octets in samples.dialogue():
        if octets.endswith(b"}\n"):
            written[type(event).__name__.upper()] = keys_in(json.loads(octets[octets.index(b"{") :]))
    have = Have(samples.STREAM, 3, samples.DIGEST, ((5, 6),), "r00000000.3")
    partial = PartialFile(number, samples.DIGEST, "zst", 1, samples.DIGEST)
    full = next(event for _, event, _ in samples.dialogue() if isinstance(event, Hello))
    full = full._replace(have=(have,), partial=(partial,), requests=("x",), offers=("DSN",), recipients="0" * 16)
    written["HELLO"] = keys_in(json.loads(hello.write(full)))
    items = section(page("batchmail-session.7"), "Frames")
    for item in re.split(r"(?m)^\.It Li \d+ ", items)[1:]:
        name, text = item.split("\n", 1)
        told = {
            word for line in re.findall(r"(?m)^\.(?:Li|Pq Li) (.*)$", text) for word in re.findall(r"[a-z_]+", line)
        }
        assert told == written.get(name, set()), name


def test_short_frames() -> None:
    told = {item.removeprefix("Li ") for item in items(section(page("batchmail-session.7"), "Short forms"))}
    events = ("OPEN", "DATA", "CUSTODY", "RECEIVED", "DONE")
    assert told == {f"{getattr(short, event)} {event}" for event in events}


def test_greeting() -> None:
    assert samples.greeting() in page("batchmail-session.7")


def test_numbers_of_the_session() -> None:
    text = " ".join(page("batchmail-session.7").split())
    assert f"{pace.START_OCTETS >> 10} KiB before anything was measured" in text
    assert f"After {watch.PING_S:.0f} seconds of silence a side asks, after {watch.SILENCE_S:.0f}" in text
    assert f"up to {session._MAX_PREAMBLE_OCTETS >> 10} KiB, is skipped" in text
    assert frames.MAX_PAYLOAD_OCTETS + frames.HEAD.size == 64 << 10

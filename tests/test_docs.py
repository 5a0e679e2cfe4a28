"""README and docs say what is so: links, modules, tables, commands, configurations and the dialogue."""

import re
import shlex
from pathlib import Path

import click
import pytest

from batchmail.cli import config, main
from batchmail.core.numbered import Number
from batchmail.proto import session
from tests import samples, test_layers
from tests.servers.host import Installed

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")] + sorted(
    (ROOT / "docs").iterdir()
)
INSTALLED = "/usr/share/doc/batchmail/"
OTHERS = {  # what else a reader is told to run
    *("apt", "editor", "systemctl", "systemd-sysusers", "systemd-tmpfiles"),
    *(
        "zstd",
        "postconf",
        "postmap",
        "postfix",
        "sendmailconfig",
        "printf",
        "echo",
        "journalctl",
        "install",
        "chown",
        "chmod",
    ),
}
UNITS = {path.name for path in (ROOT / "contrib" / "systemd").iterdir()}
IDENTS = {  # of lines in the mail log
    f"batchmail/{step}"
    for path in (ROOT / "batchmail" / "cli").iterdir()
    if path.suffix == ".py"
    for step in re.findall(r'(?:mail|door)log\.open_log\("([a-z]+)"\)', path.read_text())
}


def blocks(path: Path, kind: str) -> list[str]:
    return re.findall(rf"(?ms)^```{kind}\n(.*?)^```$", path.read_text())


def by_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture(params=DOCUMENTS, ids=by_name)
def document(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", document.read_text())
    for link in links:
        assert (document.parent / link).exists(), link


def test_links_of_installed_documents_lead_to_what_is_installed_too(installed: Installed) -> None:
    top = Path(installed.bin).parent / "share" / "doc" / "batchmail"
    documents = sorted(top.rglob("*.md"))
    assert {"README.md", "docs/recipes.md"} <= {str(path.relative_to(top)) for path in documents}
    links = [(path, link) for path in documents for link in re.findall(r"\]\(([^)]+)\)", path.read_text())]
    assert len(links) > 20
    dead = [f"{path.relative_to(top)}: {link}" for path, link in links if not (path.parent / link).exists()]
    assert dead == []


def test_pages_that_are_named_exist(document: Path) -> None:
    """Manual pages are named without a link: installed they lie elsewhere."""
    for name, chapter in re.findall(r"\b(batchmail[a-z.-]*)\(([1-8])\)", document.read_text()):
        assert (ROOT / "man" / f"{name}.{chapter}").exists(), name


def test_files_that_are_named_exist(document: Path) -> None:
    text = document.read_text()
    for name in set(re.findall(r"`((?:batchmail|tests|contrib|docs|\.ci)/[^`]*)`", text)) - IDENTS:
        assert (ROOT / name).exists(), name
    for name in re.findall(rf"{INSTALLED}([A-Za-z0-9./_-]+[A-Za-z0-9])", text):
        assert (ROOT / name).exists(), name


def test_lines_are_not_too_long(document: Path) -> None:
    """Tables apart, which have no way to be broken."""
    assert [line for line in document.read_text().splitlines() if len(line) > 120 and not line.startswith("|")] == []


COMMANDS = [
    pytest.param(line[2:], id=f"{by_name(path)}: {line[2:]}")
    for path in DOCUMENTS
    for block in blocks(path, "console")
    for line in block.splitlines()
]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_known(line: str) -> None:
    program, *arguments = shlex.split(line)
    if program == "make":
        targets = re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text())
        assert set(arguments) <= set(targets)
    elif program == "batchmail":
        command = main.command.get_command(click.Context(main.command), arguments[0])
        assert command is not None
        command.make_context(arguments[0], arguments[1:])  # UsageError when an option or argument is not right
    elif program == "systemctl":
        assert all(re.sub("@[a-z]+", "@", word) in UNITS for word in arguments if "batchmail" in word)
    else:
        assert program in OTHERS


def test_console_blocks_hold_only_commands() -> None:
    lines = [line for path in DOCUMENTS for block in blocks(path, "console") for line in block.splitlines()]
    assert len(lines) > 20
    assert {line[:2] for line in lines} == {"# ", "$ "}


def test_configurations_load(document: Path, tmp_path: Path) -> None:
    for text in blocks(document, "toml"):
        path = tmp_path / "batchmail.toml"
        path.write_text(text)
        assert config.load(str(path)).peers


def test_readme_shows_the_configurations_that_are_installed() -> None:
    shown = blocks(ROOT / "README.md", "toml")
    for name, text in zip(("holding", "away"), shown, strict=True):
        file = (ROOT / "contrib" / f"batchmail-{name}.toml").read_text()
        assert file.partition("\n\n")[2] == text


def test_log_is_told() -> None:
    assert len(IDENTS) == 5
    for path in (ROOT / "README.md", ROOT / "man" / "batchmail.1"):
        assert {ident for ident in IDENTS if ident in path.read_text()} == IDENTS


def test_every_recipe_is_told() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text()
    for directory in ("exim", "postfix", "sendmail", "opensmtpd"):
        for path in (ROOT / "contrib" / directory).iterdir():
            assert f"(../contrib/{directory}/{path.name})" in text


# -- docs/flow.md -----------------------------------------------------------------------------------------------


def table(path: Path, first: str) -> list[list[str]]:
    """The rows of the table whose head begins so, without head and rule."""
    lines = path.read_text().splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = lines[start + 2 : next((n for n in range(start, len(lines)) if not lines[n].startswith("|")), len(lines))]
    return [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in rows]


def test_rooms() -> None:
    told = {row[0].removeprefix("batchmail/"): row[2] for row in table(ROOT / "docs" / "flow.md", "Room")}
    known = {room: others - {room} for room, others in test_layers.MAY_KNOW.items()}
    assert {room: set(filter(None, cell.split(", "))) for room, cell in told.items()} == known


def test_steps() -> None:
    rows = table(ROOT / "docs" / "flow.md", "Step")
    steps = [row for row in rows if row[0]]  # the others tell of a second way to take the step above
    assert [row[0] for row in steps] == ["accept", "seal", "exchange", "replay", "settle"]
    assert all(row[1] == f"batchmail/flow/{row[0]}.py" for row in steps)


def test_places() -> None:
    from_manual = (ROOT / "man" / "batchmail-spool.5").read_text()
    for row in table(ROOT / "docs" / "flow.md", "Place in the spool"):
        assert f".It Pa {row[0].removesuffix('/PEER')}" in from_manual


# -- docs/protocol.md -------------------------------------------------------------------------------------------


def test_states() -> None:
    told = {}
    for state, events, becomes in table(ROOT / "docs" / "protocol.md", "State"):
        told.update({(state, event): becomes for event in events.split(", ")})
    assert told == {(state, event.__name__.upper()): becomes for (state, event), becomes in session.NEXT.items()}


def frame_text(speaker: str, event: session.Event, octets: bytes) -> str:
    """A frame as docs/protocol.md shows it: who, type, length, and the payload."""
    greeting, line_end, frame = octets.partition(b"\n") if octets.startswith(b"BATCHMAIL ") else (b"", b"", octets)
    shown = [f"{speaker:5}{greeting.decode()}"] if line_end else []
    kind, payload = frame[0], frame[5:]
    assert int.from_bytes(frame[1:5], "big") == len(payload)
    name = type(event).__name__.upper()
    shown.append(f"{speaker:5}{kind} {name} {len(payload)}")
    if kind >= 10 and isinstance(event, session.Open):
        number = event.number
        shown += [f"       {number.kind} {number.stream}", f"       {event.identity}"]
        shown.append(f"       {' '.join(map(str, (number.seq, event.octets, event.offset, event.encoding)))}")
    elif kind >= 10 and isinstance(event, session.Custody):
        shown.append(f"       {event.seq}")
    elif kind >= 10 and isinstance(event, session.Data):
        shown.append(f"       {len(event.octets)} octets of the file")
    elif isinstance(event, session.Data):
        shown.append(f"       {event.stream} {event.seq} {event.offset}, then {len(event.octets)} octets of the file")
    elif isinstance(event, session.Received | session.Done):
        shown.append(f"       {' '.join(map(str, event))}")
    elif payload:
        shown += broken(payload.decode().rstrip("\n"))
    return "\n".join(shown)


def broken(line: str) -> list[str]:
    """One line of JSON on several, broken behind commas."""
    lines, current = [], ""
    for word in re.split(r"(?<=,)", line):
        if current and len(current) + len(word) > 100:
            lines.append(current)
            current = ""
        current += word
    return [f"       {part}" for part in (*lines, current)]


def test_dialogue() -> None:
    """The example is what two machines say to each other."""
    text = (ROOT / "docs" / "protocol.md").read_text()
    shown = "\n".join(line for block in blocks(ROOT / "docs" / "protocol.md", "text") for line in block.splitlines())
    said = "\n".join(frame_text(*frame) for frame in samples.dialogue())
    assert shown == said
    assert Number(samples.STREAM, 1, "batch").file_name in text

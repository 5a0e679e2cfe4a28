"""Who may know whom: the rooms' rules, read from the imports and calls in the source."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "batchmail"
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES if path.stem != "__init__"}

MAY_KNOW = {
    "core": {"core"},
    "proto": {"core", "proto"},
    "store": {"core", "store"},
    "wire": {"core", "wire"},
    "flow": {"core", "proto", "store", "wire", "flow"},
    "cli": {"core", "store", "wire", "flow", "cli"},
}

ONLY_IN = {
    "paramiko": ("wire.ssh",),  # and modules whose names begin so
    "zstandard": ("store.batchfile",),
    "sqlite3": ("store.ledger",),
    "click": ("cli.main", "cli.cmd_", "cli.calling", "cli.tables", "cli.files", "cli.selection"),
    "tomllib": ("cli.config",),
    "syslog": ("wire.maillog", "wire.doorlog"),
    "fcntl": ("store.lock",),
    "subprocess": ("wire.", "cli."),
    "socket": ("wire.", "cli.config", "cli.lmtpd", "flow.serving"),
}
NOT_IN_PURE = {
    *("os", "sys", "io", "time", "random", "secrets", "socket", "select", "subprocess", "threading"),
    *("pathlib", "shutil", "tempfile", "logging", "syslog", "queue", "signal", "fcntl", "platform", "getpass", "pwd"),
}
DISK_CALLS = {
    f"os.{name}"
    for name in ("link", "symlink", "rename", "replace", "renames", "unlink", "remove", "rmdir", "fsync", "fdatasync")
}
LATE_IMPORTS = {
    # What few messages need: the pipe door starts once for each.
    ("core.envelope", "unicodedata"),
    ("store.spool", "pwd"),
    ("store.arrivals", "batchmail.store.deadlines"),
    ("store.arrivals", "batchmail.store.reader"),
    ("cli.pipe", "batchmail.flow.accept_batch"),
    ("cli.pipe_args", "batchmail.core.beside"),
    ("cli.pipe_args", "batchmail.core.rmail"),
    ("flow.accept", "batchmail.core.rmail"),
    # What a call can begin without: the other side waits for our HELLO.
    ("flow.worker", "batchmail.flow.work"),
    ("flow.worker", "batchmail.flow.target"),
}
LONGEST = 400
COSTLY = {"inspect", "dataclasses", "pathlib", "asyncio"}  # of the standard library: more than 10 ms each


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def short(name: str) -> str:
    return name.removeprefix("batchmail.")


def room(name: str) -> str:
    return short(name).split(".")[0]


def imported(path: Path) -> Iterator[tuple[str, ast.stmt]]:
    """The names of imported modules; of `from batchmail.x import y`, x.y where that is a module."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner if inner in MODULES else str(node.module)), node


def test_the_walk_sees_imports() -> None:
    seen = {name for name, _ in imported(MODULES["batchmail.flow.exchange"])}
    assert {"batchmail.proto.session", "batchmail.flow.seal", "queue"} <= seen
    assert {room(name) for name in MODULES} == set(MAY_KNOW)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_rooms(name: str) -> None:
    known = {other for other, _ in imported(MODULES[name]) if other.startswith("batchmail.")}
    wrong = {other for other in known if room(other) not in MAY_KNOW[room(name)]}
    assert not wrong, f"{name} may not know {sorted(wrong)}"


def test_no_cycles() -> None:
    """Raises CycleError, which names the cycle."""
    graph = {name: {other for other, _ in imported(path) if other in MODULES} for name, path in MODULES.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_stand_on_top(name: str) -> None:
    functions = [n for n in ast.walk(tree(MODULES[name])) if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    late = {other for other, node in imported(MODULES[name]) if id(node) in inside}
    assert late == {other for where, other in LATE_IMPORTS if where == short(name)}


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_libraries_stay_in_their_place(library: str) -> None:
    users = {short(name) for name, path in MODULES.items() if library in {o.split(".")[0] for o, _ in imported(path)}}
    assert users, f"nobody uses {library}: this rule is out of date"
    assert {user for user in users if not user.startswith(ONLY_IN[library])} == set()


@pytest.mark.parametrize("name", sorted(name for name in MODULES if room(name) in ("core", "proto")))
def test_core_and_proto_are_pure(name: str) -> None:
    path = MODULES[name]
    impure = {other for other, _ in imported(path) if other.split(".")[0] in NOT_IN_PURE}
    asks_for_version = name in ("batchmail.core.value", "batchmail.core.digest")  # of Python
    assert impure == ({"sys"} if asks_for_version else set())
    called = [node.func for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
    assert not {func.id for func in called if isinstance(func, ast.Name)} & {"open", "print", "input"}
    assert not {func.attr for func in called if isinstance(func, ast.Attribute)} & {"now", "utcnow", "today", "getfqdn"}


def disk_calls(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = f"{node.value.id}.{node.attr}"
            yield from {name} & DISK_CALLS


@pytest.mark.parametrize("name", sorted(MODULES))
def test_one_module_changes_the_disk(name: str) -> None:
    calls = set(disk_calls(MODULES[name]))
    if name == "batchmail.store.durable":
        assert {"os.link", "os.rename", "os.unlink", "os.fsync"} <= calls
    else:
        assert calls == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_can_be_read_in_one_sitting(path: Path) -> None:
    lines = path.read_text().count("\n")
    assert lines <= LONGEST, f"{lines} lines"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_say_what_they_are(path: Path) -> None:
    assert path.stem == "__init__" or ast.get_docstring(tree(path))
    assert path.stem not in ("utils", "util", "helpers", "misc", "common")


def loaded_by(*modules: str) -> set[str]:
    """What a fresh interpreter has loaded after importing these."""
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {', '.join(modules)}; print(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-I", "-c", script], check=True, capture_output=True, text=True).stdout.split()
    )


def test_receive_needs_neither_click_nor_paramiko() -> None:
    loaded = loaded_by("batchmail.cli.receive")
    assert "zstandard" in loaded
    assert not loaded & {"click", "paramiko", "cryptography", *COSTLY}
    # The caller waits for our HELLO, and that needs none of these.
    assert not loaded & {"batchmail.flow.work", "batchmail.flow.target", "email", "subprocess", "tempfile", "ssl"}


def test_the_door_program_does_not_load_what_calls_need() -> None:
    loaded = loaded_by("batchmail.cli.lmtpd")
    assert "batchmail.flow.door" in loaded
    assert not loaded & {"click", "paramiko", "cryptography", "zstandard", "ssl", *COSTLY}


def test_the_pipe_door_loads_next_to_nothing() -> None:
    """It starts once per message; each of these costs more than reading the message does."""
    loaded = loaded_by("batchmail.cli.pipe")
    costly = {"click", "paramiko", "zstandard", "sqlite3", "tomllib", "json", "dataclasses", "logging", "pathlib"}
    costly |= {
        "subprocess",
        "socket",
        "threading",
        "email",
        "asyncio",
        "inspect",
        "hashlib",
        "datetime",
        "shlex",
        "pwd",
    }
    assert loaded & costly - loaded_by("os") == set()


def test_a_call_dials_before_it_loads_what_it_needs() -> None:
    loaded = loaded_by("batchmail.cli.main", "batchmail.cli.cmd_call")
    assert "batchmail.wire.dial" in loaded
    costly = {"paramiko", "cryptography", "zstandard", "ctypes", "ssl", "email"}
    assert loaded & costly - loaded_by("click") == set()
    assert {name for name in loaded if name.startswith("batchmail.proto")} == set()


def test_a_call_loads_of_the_ssh_library_what_it_uses() -> None:
    loaded = loaded_by("batchmail.cli.calling")
    assert "paramiko" in loaded
    assert not loaded & {"asyncio", "unittest", "invoke.context"}


def test_the_program_for_people_starts_without_its_commands() -> None:
    loaded = loaded_by("batchmail.cli.main")
    assert "click" in loaded
    assert not loaded & {"paramiko", "zstandard", "sqlite3"}

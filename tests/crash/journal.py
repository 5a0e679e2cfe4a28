"""What spools went through, operation by operation, and what a power cut may have left of each.

    with Journal(*roots) as journal:      # every thread's operations below the roots, in the order they happened
        work()                            # journal.mark(...) notes what the world outside has seen
    for cut in journal.cuts(root):        # the power fails at that site just before one of its operations
        for choice in cut.choices():      # what of the unsynced is there afterwards
            cut.restore(choice)           # all roots as they were then; the programs' next start

The model is the weakest that POSIX allows.  A file has its data as of its last fsync, or as they were when the power
failed, or a part, or zeros.  A name is as of the last fsync of its directory or as any operation since has left it,
whatever became of other names; only that a rename does not lose both its names is taken for granted.  To sync a file
does not sync its name.

A ledger is the one exception, for SQLite's writes are not seen here: it is taken as of its last commit, which is kept
when the connection's `synchronous` is FULL and may be lost otherwise.  That is what SQLite promises (the log is synced
before COMMIT returns, its directory when the log is made); what cannot be shown is that SQLite and the disk keep it.
`lock/` holds nothing that lasts and is left as it is.

While a journal is kept every operation is slow, so that what another thread or site does too early does come early.
"""

import contextlib
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, NamedTuple

Item = tuple[Any, ...]  # what may be in one of several states after a cut: a name, a file's data, a ledger
Choice = dict[Item, int]  # the state of each item, an index into its states; those not named are as they were
_UNSEEN = ("ledger", "lock")
_WRITING = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_RDWR
_AUDITED = {"unlink": "remove", "replace": "rename"}  # what Python's audit calls them
_SLOW = ("fsync", "link", "rename", "symlink", "mkdir", "unlink")
_WRITES = ("INSERT", "UPDATE", "DELETE", "REPLACE")
_LEDGER_FILES = ("", "-wal")


class Link(NamedTuple):
    """A symbolic link; it has no data of its own to lose."""

    target: str


class File:
    def __init__(self, data: bytes = b""):
        self.synced = self.data = data
        self.is_spoiled = False

    def states(self) -> list[bytes]:
        """The data now first, then what else they may be after a cut."""
        if self.data == self.synced:
            return [self.data]
        pairs = zip(self.data, self.synced, strict=False)
        same = next((n for n, (new, old) in enumerate(pairs) if new != old), min(len(self.data), len(self.synced)))
        torn = self.data[: (same + len(self.data)) // 2]
        zeros = self.data[:same] + bytes(len(self.data) - same)
        return list(dict.fromkeys((self.data, self.synced, torn, zeros)))


class Name:
    """The states of a name since its directory was synced, the newest last; None: it is not there.

    `moved` gives, by state, what a rename made of it: without that, the state cannot be.  States are counted from the
    first that there was; `gone` of them no cut can bring back.
    """

    def __init__(self, value: int | Link | None):
        self.states: list[int | Link | None] = [value]
        self.gone = 0
        self.moved: dict[int, tuple[Item, int]] = {}
        self.is_spoiled = False

    def settle(self) -> None:
        """It is on stable storage as it is now."""
        self.gone += len(self.states) - 1
        self.states, self.moved = self.states[-1:], {}


class Model:
    """One root: nodes by number, the root being 0."""

    def __init__(self, root: str):
        self.root = root
        self.files: dict[int, File] = {}
        self.directories: dict[int, dict[str, Name]] = {0: {}}
        self.ledgers: dict[str, list[dict[str, bytes]]] = {}
        self.commits = 0
        self.next = 1

    def scan(self) -> None:
        """As it lies on the disk, all of it synced."""
        numbers: dict[str, int] = {self.root: 0}
        inodes: dict[int, int] = {}
        for place, below, names in os.walk(self.root):
            if place == self.root:
                below[:] = [name for name in below if name not in _UNSEEN]
            for name in below + names:
                path = f"{place}/{name}"
                status = os.lstat(path)
                if stat.S_ISLNK(status.st_mode):
                    self.directories[numbers[place]][name] = Name(Link(os.readlink(path)))
                    continue
                number = inodes.setdefault(status.st_ino, self.next)
                numbers[path] = number
                self.next = max(self.next, number + 1)
                if stat.S_ISDIR(status.st_mode):
                    self.directories[number] = {}
                elif number not in self.files:
                    with open(path, "rb") as file:
                        self.files[number] = File(file.read())
                self.directories[numbers[place]][name] = Name(number)
        for name in os.listdir(f"{self.root}/ledger"):
            if "-" not in name:
                self.ledgers[name] = [read_ledger(f"{self.root}/ledger/{name}")]

    def resolve(self, path: str) -> int | Link | None:
        """The node of a path as it is now."""
        number: int | Link | None = 0
        for part in path[len(self.root) + 1 :].split("/"):
            if not isinstance(number, int) or part not in self.directories.get(number, {}):
                return None
            number = self.directories[number][part].states[-1]
        return number

    def apply(self, operation: tuple[Any, ...]) -> None:
        getattr(self, f"_do_{operation[0]}")(*operation[1:])

    def _do_file(self, number: int) -> None:
        self.files[number] = File()

    def _do_directory(self, number: int) -> None:
        self.directories[number] = {}

    def _do_name(self, directory: int, name: str, value: int | Link | None) -> int:
        known = self.directories[directory].setdefault(name, Name(None))
        known.states.append(value)
        known.is_spoiled = False
        return known.gone + len(known.states) - 1

    def _do_rename(self, source: int, old: str, destination: int, new: str) -> None:
        state = self._do_name(destination, new, self.directories[source][old].states[-1])
        gone = self._do_name(source, old, None)
        self.directories[source][old].moved[gone] = (("name", destination, new), state)

    def _do_data(self, number: int, offset: int, octets: bytes) -> None:
        file = self.files[number]
        data = file.data.ljust(offset, b"\0")
        file.data = data[:offset] + octets + data[offset + len(octets) :]

    def _do_length(self, number: int, length: int) -> None:
        file = self.files[number]
        file.data = file.data[:length].ljust(length, b"\0")

    def _do_sync(self, number: int) -> None:
        if number in self.files:
            if not self.files[number].is_spoiled:
                self.files[number].synced = self.files[number].data
            return
        for name in self.directories[number].values():
            if name.is_spoiled:
                continue
            for item, _ in name.moved.values():  # the other name of a rename reaches the disk with it
                self.directories[item[1]][item[2]].settle()
            name.settle()

    def _do_spoil(self, number: int) -> None:
        if number in self.files:
            self.files[number].is_spoiled = True
            return
        for name in self.directories[number].values():
            name.is_spoiled = len(name.states) > 1

    def _do_commit(self, name: str, files: dict[str, bytes], synced: bool) -> None:
        known = self.ledgers.setdefault(name, [{}])
        known.append(files)
        self.commits += 1
        if synced:
            del known[:-1]

    # -- after a cut --------------------------------------------------------------------------------------------

    def items(self) -> dict[Item, int]:
        """What is not on stable storage, and in how many states it may be, 0 being as it was; but for drafts' names."""
        drafts = self.resolve(f"{self.root}/tmp")
        found: dict[Item, int] = {("data", n): len(file.states()) for n, file in self.files.items()}
        for number, names in self.directories.items():
            if number != drafts:
                found |= {("name", number, name): len(known.states) for name, known in names.items()}
        found |= {("ledger", name): len(known) for name, known in self.ledgers.items()}
        return {item: count for item, count in found.items() if count > 1}

    def restore(self, choice: Choice) -> None:
        """Make the root as `choice` has it; where two things contradict each other a rename has not happened."""
        _clear(self.root)
        done: dict[int, str] = {}
        self._restore_directory(0, self.root, choice, done)
        for name, known in self.ledgers.items():
            for ending, octets in known[-1 - choice.get(("ledger", name), 0)].items():
                with open(f"{self.root}/ledger/{name}{ending}", "wb") as file:
                    file.write(octets)

    def _chosen(self, item: Item, choice: Choice) -> int:
        known = self.directories[item[1]][item[2]]
        return known.gone + len(known.states) - 1 - choice.get(item, 0)

    def _names(self, number: int, choice: Choice) -> Iterator[tuple[str, int | Link]]:
        for name, known in self.directories[number].items():
            state = self._chosen(("name", number, name), choice)
            while state in known.moved and self._chosen(known.moved[state][0], choice) < known.moved[state][1]:
                state -= 1
            value = known.states[max(0, state - known.gone)]
            if value is not None:
                yield name, value

    def signature(self, choice: Choice) -> tuple[Any, ...]:
        """Names and data but for drafts, and the ledgers."""
        ledgers = [len(known) - choice.get(("ledger", name), 0) for name, known in self.ledgers.items()]
        return (self._tree(0, choice), *ledgers, self.commits)

    def _tree(self, number: int, choice: Choice) -> tuple[Any, ...]:
        found: list[Any] = []
        for name, value in self._names(number, choice):
            if value in self.files:
                found.append((name, self.files[value].states()[choice.get(("data", value), 0)]))
            elif isinstance(value, Link):
                found.append((name, value))
            elif number or name != "tmp":
                found.append((name, self._tree(value, choice)))
        return tuple(sorted(found))

    def _restore_directory(self, number: int, path: str, choice: Choice, done: dict[int, str]) -> None:
        for name, value in self._names(number, choice):
            place = f"{path}/{name}"
            if isinstance(value, Link):
                os.symlink(value.target, place)
            elif value in done and value in self.files:
                os.link(done[value], place)
            elif value in self.files:
                with open(place, "wb") as file:
                    file.write(self.files[value].states()[choice.get(("data", value), 0)])
                done[value] = place
            elif value not in done:
                done[value] = place
                if place not in _kept(self.root):
                    os.mkdir(place, 0o700)
                self._restore_directory(value, place, choice, done)


def _kept(root: str) -> list[str]:
    """A ledger knows its spool by these directories' inodes."""
    return [f"{root}/{name}" for name in ("out", "in", "ledger", "lock")]


def _clear(root: str) -> None:
    for place, below, names in os.walk(root, topdown=False):
        if place == f"{root}/lock":
            continue
        for name in names:
            os.unlink(f"{place}/{name}")
        for name in below:
            path = f"{place}/{name}"
            if os.path.islink(path):
                os.unlink(path)
            elif path not in _kept(root):
                os.rmdir(path)


def read_ledger(path: str) -> dict[str, bytes]:
    found = {}
    for ending in _LEDGER_FILES:
        with contextlib.suppress(FileNotFoundError), open(path + ending, "rb") as file:
            found[ending] = file.read()
    return found


class Cut(NamedTuple):
    """The power fails at one site, or at several, just before operation `at`; the others go on."""

    journal: "Journal"
    at: int
    sites: tuple[str, ...]
    models: dict[str, Model]  # of all roots, as they were; good until the next cut is taken

    def items(self) -> dict[Item, int]:
        return {(root, *item): n for root in self.sites for item, n in self.models[root].items().items()}

    def choices(self) -> list[Choice]:
        """The extremes: all is kept, as when a process is killed; all is lost; each single thing is lost or torn."""
        items = self.items()
        lost = {item: 1 if item[1] == "data" else count - 1 for item, count in items.items()}
        found: list[Choice] = [{}, lost] if lost else [{}]
        found += [{item: state} for item, count in items.items() for state in range(1, count) if len(items) > 1]
        if len(lost) > 2:
            found += [{other: state for other, state in lost.items() if other != item} for item in items]
        return found + ([{item: state} for item in items for state in range(2, items[item])] if len(items) == 1 else [])

    def random_choice(self, random: Random) -> Choice:
        return {item: random.randrange(count) for item, count in self.items().items()}

    def restore(self, choice: Choice) -> None:
        for root, model in self.models.items():
            model.restore(_of(root, choice))

    def marks(self) -> list[tuple[str, tuple[Any, ...]]]:
        """What the world has seen by then, and of which root."""
        return [step for step in self.journal.operations[: self.at] if step[1][0] == "mark"]

    def signature(self, choice: Choice) -> tuple[Any, ...]:
        """The same for two states that nobody can tell from each other at these sites, nor outside."""
        trees = [self.models[root].signature(_of(root, choice)) for root in self.sites]
        return (*trees, sum(root in self.sites or kind != "sent" for root, (_, kind, _) in self.marks()))

    def __str__(self) -> str:
        seen = [
            f"{'-->' if n == self.at else '   '} {n} {root[-6:]} {str(operation)[:110]}"
            for n, (root, operation) in enumerate(self.journal.operations)
            if abs(n - self.at) < 9
        ]
        return "\n".join([f"cut at {self.at} of {[site[-6:] for site in self.sites]}", *seen])


def _of(root: str, choice: Choice) -> Choice:
    return {item[1:]: state for item, state in choice.items() if item[0] == root}


class Journal:
    """Notes every operation below its roots while it is entered."""

    def __init__(self, *roots: str, pause_s: float = 0.002):
        self._pause_s = pause_s
        self.operations: list[tuple[str, tuple[Any, ...]]] = []
        self.attempts: list[tuple[str, str]] = []  # to change names: the function's name and the path
        self._roots = roots
        self._first, self._live = {}, {}
        for root in roots:
            self._first[root], self._live[root] = Model(root), Model(root)
            self._first[root].scan()
            self._live[root].scan()
        self._nodes: dict[int, tuple[str, int]] = {}  # by inode, of files made here
        self._lock = threading.RLock()
        self._keepers: dict[str, sqlite3.Connection] = {}

    def mark(self, root: str, kind: str, value: Any = None) -> None:
        with self._lock:
            self.operations.append((root, ("mark", kind, value)))

    def note(self, root: str, *operation: Any) -> None:
        self._live[root].apply(operation)
        self.operations.append((root, operation))

    def points(self, *sites: str) -> list[int]:
        """Where the power may fail: before each operation of these sites, and behind the last."""
        return [n for n, (root, _) in enumerate(self.operations) if root in sites] + [len(self.operations)]

    def cuts(self, *sites: str, at: list[int] | None = None) -> Iterator[Cut]:
        """A cut at each of `at`, in rising order."""
        models = {root: _copy(model) for root, model in self._first.items()}
        done = 0
        for point in self.points(*sites) if at is None else at:
            for root, operation in self.operations[done:point]:
                if operation[0] != "mark":
                    models[root].apply(operation)
            done = point
            yield Cut(self, point, sites, models)

    # -- while it is entered ------------------------------------------------------------------------------------

    def __enter__(self) -> "Journal":
        self._real: dict[str, Callable[..., Any]] = {}
        for name in _WATCHED:
            self._real[name] = getattr(os, name)
            setattr(os, name, self._watched(name, self._real[name]))
        self._connect = sqlite3.connect
        sqlite3.connect = self._open_ledger  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        for name, real in self._real.items():
            setattr(os, name, real)
        sqlite3.connect = self._connect
        for keeper in self._keepers.values():
            keeper.close()

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        see = getattr(self, f"_see_{name}")

        def watched(first: Any, *rest: Any, **options: Any) -> Any:
            if name in _SLOW:
                time.sleep(self._pause_s)
            with self._lock:
                path = rest[0] if name in ("link", "rename", "replace", "symlink") else first
                if not isinstance(path, int) and (name != "open" or rest[0] & _WRITING) and self._root(path):
                    self.attempts.append((_AUDITED.get(name, name), path))
                return see(lambda: real(first, *rest, **options), first, *rest)

        return watched

    def _place(self, path: Any) -> tuple[str, int, str] | None:
        """Root, directory's number and last part of a path below a root."""
        root = self._root(path)
        above, _, name = str(path).rpartition("/")
        if root is None:
            return None
        directory = 0 if above == root else self._live[root].resolve(above)
        is_there = isinstance(directory, int) and directory in self._live[root].directories
        return (root, directory, name) if is_there else None  # type: ignore[return-value]

    def _root(self, path: Any) -> str | None:
        """The root that a path is seen below."""
        if not isinstance(path, str):
            return None
        above = [root for root in self._roots if path.startswith(f"{root}/")]
        return above[0] if above and path[len(above[0]) + 1 :].split("/")[0] not in _UNSEEN else None

    def spoil(self, fd: int) -> None:
        """A sync failed: what it was to write still reads well and is lost, and no later sync brings it back."""
        with self._lock:
            if node := self._node(fd):
                self.note(node[0], "spoil", node[1])

    def _node(self, fd: int) -> tuple[str, int] | None:
        """Root and number of an open file or directory."""
        path = os.readlink(f"/proc/self/fd/{fd}")
        inode = os.fstat(fd).st_ino
        if inode in self._nodes:
            return self._nodes[inode]
        if path in self._roots:
            return path, 0
        place = self._place(path)
        number = self._live[place[0]].resolve(path) if place else None
        return (place[0], number) if place and isinstance(number, int) else None

    def _see_open(self, run: Callable[[], int], path: Any, flags: int, *_: Any) -> int:
        place = self._place(path)
        new = place and flags & os.O_CREAT and not os.path.lexists(path)
        fd = run()
        if place and new:
            root, directory, name = place
            number = self._new(root)
            self._nodes[os.fstat(fd).st_ino] = root, number
            self.note(root, "file", number)
            self.note(root, "name", directory, name, number)
        elif not place:
            self._nodes.pop(os.fstat(fd).st_ino, None)  # the number of a file that is gone, used anew
        elif flags & os.O_TRUNC and (node := self._node(fd)):
            self.note(node[0], "length", node[1], 0)
        return fd

    def _new(self, root: str) -> int:
        number = self._live[root].next
        self._live[root].next += 1
        return number

    def _see_write(self, run: Callable[[], int], fd: int, octets: bytes) -> int:
        node = self._node(fd) if stat.S_ISREG(os.fstat(fd).st_mode) else None
        offset = os.lseek(fd, 0, os.SEEK_CUR) if node else 0
        written = run()
        if node:
            self.note(node[0], "data", node[1], offset, bytes(octets[:written]))
        return written

    def _see_pwrite(self, run: Callable[[], int], fd: int, octets: bytes, offset: int) -> int:
        node = self._node(fd)
        written = run()
        if node:
            self.note(node[0], "data", node[1], offset, bytes(octets[:written]))
        return written

    def _see_ftruncate(self, run: Callable[[], None], fd: int, length: int) -> None:
        node = self._node(fd)
        run()
        if node:
            self.note(node[0], "length", node[1], length)

    def _see_fsync(self, run: Callable[[], None], fd: int) -> None:
        node = self._node(fd)
        run()
        if node:
            self.note(node[0], "sync", node[1])

    _see_fdatasync = _see_fsync

    def _see_link(self, run: Callable[[], None], old: Any, new: Any) -> None:
        source, place = self._place(old), self._place(new)
        run()
        if source and place:
            self.note(place[0], "name", *place[1:], self._live[place[0]].resolve(old))

    def _see_rename(self, run: Callable[[], None], old: Any, new: Any) -> None:
        source, place = self._place(old), self._place(new)
        run()
        if source and place:
            self.note(place[0], "rename", *source[1:], *place[1:])

    _see_replace = _see_rename

    def _see_unlink(self, run: Callable[[], None], path: Any) -> None:
        place = self._place(path)
        run()
        if place:
            self.note(place[0], "name", *place[1:], None)

    _see_remove = _see_rmdir = _see_unlink

    def _see_mkdir(self, run: Callable[[], None], path: Any, *_: Any) -> None:
        place = self._place(path)
        run()
        if place:
            number = self._new(place[0])
            self.note(place[0], "directory", number)
            self.note(place[0], "name", *place[1:], number)

    def _see_symlink(self, run: Callable[[], None], target: Any, path: Any) -> None:
        place = self._place(path)
        run()
        if place:
            self.note(place[0], "name", *place[1:], Link(target))

    # -- ledgers ------------------------------------------------------------------------------------------------

    def _open_ledger(self, path: str, *arguments: Any, **options: Any) -> sqlite3.Connection:
        root = next((root for root in self._roots if str(path).startswith(f"{root}/ledger/")), None)
        if root is None:
            return self._connect(path, *arguments, **options)  # type: ignore[no-any-return]
        above = options.pop("factory", None)
        factory = type("_Both", (above, _Watched), {}) if above else _Watched
        connection: _Watched = self._connect(path, *arguments, **options, factory=factory)
        connection.journal, connection.root, connection.path = self, root, path
        return connection

    def committing(self, connection: "_Watched", commit: Callable[[], Any]) -> Any:
        time.sleep(self._pause_s)
        with self._lock:
            done = commit()
            if connection.path not in self._keepers:  # the last connection to close would tidy the log away
                keeper = self._connect(connection.path, check_same_thread=False)
                keeper.execute("SELECT * FROM sqlite_master").fetchall()
                self._keepers[connection.path] = keeper
            synced = connection.ask("PRAGMA synchronous").fetchone()[0] >= 2
            name = os.path.basename(connection.path)
            self.note(connection.root, "commit", name, read_ledger(connection.path), synced)
            return done


_WATCHED = [name.removeprefix("_see_") for name in vars(Journal) if name.startswith("_see_")]


class _Watched(sqlite3.Connection):
    """A ledger's connection: the journal sees each commit, with nothing else happening meanwhile."""

    journal: Journal
    root: str
    path: str

    def ask(self, sql: str) -> sqlite3.Cursor:
        return super().execute(sql)

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        run = super().execute
        word = sql.split(None, 1)[0].upper() if sql.strip() else ""
        if word == "COMMIT":
            return self.journal.committing(self, lambda: run(sql))  # type: ignore[no-any-return]
        if word in _WRITES and not self.in_transaction:
            run("BEGIN IMMEDIATE")  # as SQLite does it by itself, but that the commit is seen
            try:
                done = run(sql, *values)
                self.journal.committing(self, lambda: run("COMMIT"))
            finally:
                if self.in_transaction:
                    run("ROLLBACK")
            return done
        return run(sql, *values)


def _copy(model: Model) -> Model:
    twin = Model(model.root)
    twin.files = {number: File(file.data) for number, file in model.files.items()}
    twin.directories = {
        number: {name: Name(known.states[-1]) for name, known in names.items()}
        for number, names in model.directories.items()
    }
    twin.ledgers = {name: list(known) for name, known in model.ledgers.items()}
    return twin

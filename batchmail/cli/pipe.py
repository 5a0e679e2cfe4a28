"""batchmail-pipe: the door that an MTA's pipe transport starts, once per message.

The answer is an exit code and one line on standard error that begins with an
enhanced status, which Postfix believes over the code.  Only 0 says yes: the
input was read to its end and all of it is on stable storage.  What will never
be taken is 65 or 69; everything else, foreseen or not, is 75: the MTA keeps it.
"""

import _signal as signal  # type: ignore[import-not-found]  # `signal` makes enums of it, which takes too long here
import os
import time

from batchmail.cli.pipe_args import Request, parse
from batchmail.core.errors import BatchmailError, Permanent, Temporary
from batchmail.core.names import make_id
from batchmail.core.value import Mapping
from batchmail.flow.accept import CHUNK_OCTETS, Accepted, Intake, Origin, read_message
from batchmail.store.bell import MAIL, ring
from batchmail.store.spool import Spool, become_owner, find_door
from batchmail.wire import doorlog

TIME_LIMIT_S = 900  # less than Postfix's command_time_limit of 1000 s, whose end bounces the mail
_DRAIN_LIMIT_S = 60
_SIGNALS = {getattr(signal, name): name for name in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGALRM")}


def main(argv: list[str], environment: Mapping[bytes, bytes], parent: int) -> int:
    """Accept what is on standard input; the exit code.  `parent` is whose child this process was on its first line."""
    request: Request | None = None
    try:
        for number in _SIGNALS:
            signal.signal(number, _stop)
        signal.alarm(TIME_LIMIT_S)
        os.umask(0o077)
        doorlog.open_log("accept")
        request = parse(os.path.basename(argv[0]), argv[1:], environment)
        _accept(request, parent)
    except Permanent as error:
        _drain()
        return _refuse(error.exit_code, error.status, str(error), request)
    except BatchmailError as error:
        return _refuse(75, error.status, str(error), request)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _refuse(75, "4.3.1", f"{where}{error.strerror or error}", request)
    except Exception as error:  # noqa: BLE001  whatever it is, the MTA keeps the mail
        return _refuse(75, "4.3.0", f"{type(error).__name__}: {error}", request)
    return 0


def _accept(request: Request, parent: int) -> None:
    become_owner(request.spool, with_groups=False)
    spool = Spool(request.spool)
    door = find_door(spool.root, request.to)
    now_ms = time.time_ns() // 1_000_000
    intake = Intake(spool, door, request.origin, make_id(now_ms, os.urandom(10)), now_ms)
    try:
        if request.message:
            read_message(_read, intake, request.message)
        else:
            from batchmail.flow.accept_batch import read_batch  # seldom: most MTAs give a message at a time

            read_batch(_read, intake)
        _check_writer(parent, request.message is not None)
        _ignore_signals()  # an answer in between would be neither yes nor no
        accepted = intake.commit()
    finally:
        intake.discard()
    ring(spool.root, door.peer, MAIL)
    try:
        _log(door.peer, request.origin, accepted)
    except Exception:  # noqa: BLE001, S110
        pass  # the answer is yes, whatever becomes of the log


def _check_writer(parent: int, is_message: bool) -> None:
    """Raise Temporary when the end of the input may be the end of its writer, whose message is then cut short.

    Whose parent was process 1 already may have lost its own while Python started.  BSMTP says where it ends; a single
    message does not, so it is refused unless this process is of process 1's group: there a shell puts the programs
    that it starts as process 1 of a container, and there no MTA leaves what it pipes to.  A crash costs nothing here.
    """
    if os.getppid() != parent:
        raise Temporary("the program that started this one is gone: its message may be cut short, and nobody waits")
    if is_message and parent == 1 and os.getpgrp() != os.getpgid(1):
        raise Temporary(
            "the program that started this one was gone from the start, so its message may be cut short;"
            " if that was process 1 itself, give it by a shell in between"
        )


def _read(limit: int) -> bytes:
    return os.read(0, limit)


def _stop(number: int, _frame: object) -> None:
    _ignore_signals()
    why = f"no end of the message within {TIME_LIMIT_S} s" if number == signal.SIGALRM else _SIGNALS[number]
    raise Temporary(f"stopped before anything was accepted: {why}")


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _drain() -> None:
    """Read what is still to come: some writers take a pipe that closes on them for a fault of their own."""
    signal.signal(signal.SIGALRM, _stop)
    signal.alarm(_DRAIN_LIMIT_S)
    try:
        while os.read(0, CHUNK_OCTETS):
            pass
    except (OSError, BatchmailError):
        pass


def _refuse(exit_code: int, status: str, text: str, request: Request | None) -> int:
    _ignore_signals()
    try:
        os.write(2, f"{status} batchmail-pipe: {doorlog.escape(text)}\n".encode())
    except OSError:
        pass  # nobody reads it; the exit code says it too
    try:
        doorlog.refused(request.to if request else "", request.origin.queue_id if request else "", status, text)
    except Exception:  # noqa: BLE001, S110
        pass  # the answer is no, whatever becomes of the log
    return exit_code


def _log(peer: str, origin: Origin, accepted: list[Accepted]) -> None:
    for one in accepted:
        sender, recipients = one.envelope.sender, len(one.envelope.recipients)
        doorlog.accepted(one.id, peer, sender, recipients, one.size_octets, origin.queue_id, origin.client)
        if one.bare_cr or one.bare_lf:
            doorlog.line_ends(one.id, one.bare_cr, one.bare_lf)
        if origin.beside and origin.beside.dropped:
            doorlog.not_carried(one.id, origin.beside.dropped)

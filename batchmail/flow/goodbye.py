"""How a call ends before its time: what is said to the other side, what it says, and what its program's end means."""

from batchmail.core.errors import BatchmailError, ConfigError, LineError, PeerError
from batchmail.proto.frames import Bye
from batchmail.proto.session import GREETING, Session
from batchmail.wire.stream import Program, Stream

_ERROR, _CONFIG, _LATER, _DONE = "error", "config", "later", "done"
# Of sysexits.h and shells: usage, configuration, no permission, not found.  It ends so again however often we call.
_FOR_A_PERSON = (64, 78, 126, 127)


def bye_for(problem: BatchmailError) -> Bye:
    """What the other side is told of a call that fails here."""
    if isinstance(problem, ConfigError):
        return Bye(_CONFIG, str(problem))
    return Bye(_ERROR if isinstance(problem, PeerError) else _LATER, str(problem))


def problem_of(bye: Bye) -> BatchmailError | None:
    """What it means here that the other side said this; None: the call is done."""
    if bye.reason == _DONE:
        return None
    text = f"the other side ended the call: {bye.text or bye.reason}"
    if bye.reason == _CONFIG:  # the two contradict each other, until a person mends one
        return ConfigError(text)
    return PeerError(text) if bye.reason == _ERROR else LineError(text)


def why_ended(stream: Stream, error: LineError | None, not_begun: Session | None) -> BatchmailError:
    """What it means that the stream is at its end or broke; `not_begun`: the machine, when no HELLO had come.

    A line that was cut may be there again at the next call.  A program at the other side that cannot be started, or
    says of itself that its configuration is wrong, will not be: that wants a person.
    """
    closed = error or LineError("the other side closed the line")
    if not_begun is None:
        return closed
    printed = not_begun.preamble() if not_begun.theirs == GREETING else ""
    if isinstance(stream, Program) and (status := stream.exit_status()) in _FOR_A_PERSON:
        said = " / ".join(filter(None, (printed, stream.diagnostics())))
        return ConfigError(
            f"{stream.place}: the program there ended with {status} before the call began"
            f"{'; it said: ' + said if said else ''}; mend it there: what the key's line in authorized_keys runs,"
            " or its configuration"
        )
    return LineError(f"the other side closed the line; it said: {printed}") if printed else closed

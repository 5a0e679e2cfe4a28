"""The command lines of the pipe door: four grammars, chosen by the program's name alone.

Parsed by hand, because the program starts once per message.  A command line
that is wrong is the site's fault, not the mail's: it is a temporary error, so
that a recipe with a slip in it, or one for a newer version, loses nothing.
"""

import os

from batchmail.core.envelope import MAX_RECIPIENTS, Client
from batchmail.core.errors import MalformedInput, Temporary
from batchmail.core.path import CommandError, check_address
from batchmail.core.value import TYPE_CHECKING, Mapping, NamedTuple
from batchmail.flow.accept import Message, Origin

if TYPE_CHECKING:
    from batchmail.core.beside import Beside

DEFAULT_SPOOL = "/var/spool/batchmail"


class CommandLineError(Temporary):
    """The command line is wrong: somebody has to mend the MTA's configuration, which keeps the mail."""

    status = "4.3.5"


class Request(NamedTuple):
    """What a command line asks for; without `message` the input is BSMTP."""

    to: str  # a peer's name or a domain
    spool: str
    origin: Origin
    message: Message | None


_FLAGS = ("--rmail", "--dot-stuffed", "--from-line")
_VALUES = (
    "--spool", "--queue-id", "--client-address", "--client-name", "--client-helo", "--client-protocol",
    "--ret", "--envid", "--notify", "--orcpt", "-t", "-f",
)  # fmt: skip
# Also for --help, which is an error like any other: what exits with 0 has taken mail.
_USAGE = "usage: batchmail-pipe -t PEER [-f SENDER [--] RECIPIENT...] < MAIL; see batchmail-pipe(8)"
_UUX_QUIET = "rnzj"  # queue only, notify when, tell the job's number: nothing of it applies


def parse(name: str, words: list[str], environment: Mapping[bytes, bytes]) -> Request:
    """What the command line asks for; `name` is the one that the program was called by.  Raises BatchmailError."""
    if name == "bsmtp":
        to, options, message = _parse_bsmtp(words)
    elif name == "uux":
        to, options, message = _parse_uux(words)
    else:
        to, options, message = _parse_pipe(words, is_rmail=name == "rmail")
    spool = options.get("--spool", "") or os.fsdecode(environment.get(b"BATCHMAIL_SPOOL", b"")) or DEFAULT_SPOOL
    client = Client(
        *(os.fsencode(options.get(f"--client-{key}", "")) for key in ("address", "name", "helo", "protocol"))
    )
    queue_id = "".join(c if "!" <= c <= "~" else "?" for c in options.get("--queue-id", "")[:100])
    origin = Origin(queue_id, client, _priority_of_grade(options.get("-g", "")), _parse_beside(options, environment))
    return Request(to, spool, origin, message)


def _parse_beside(options: dict[str, str], environment: Mapping[bytes, bytes]) -> "Beside | None":
    told = [os.fsencode(options.get(f"--{key}", "")) for key in ("ret", "envid", "notify", "orcpt")]
    seen = [environment.get(name, b"") for name in (b"BATCHMAIL_MAIL", b"BATCHMAIL_RCPT")]
    if not any(told + seen):
        return None
    from batchmail.core import beside  # seldom

    return beside.join(beside.from_commands(*seen), beside.from_options(*told))


_Parsed = tuple[str, dict[str, str], Message | None]


def _parse_pipe(words: list[str], is_rmail: bool) -> _Parsed:
    options, rest = _take_options(words)
    is_rmail = is_rmail or "--rmail" in options
    if not options.get("-t"):
        raise CommandLineError("give the peer or a domain of its: -t PEER")
    if is_rmail and ("-f" in options or "--from-line" in options):
        raise CommandLineError("-f and --from-line do not go with --rmail: its From_ lines say the sender")
    dot_stuffed, from_line = "--dot-stuffed" in options, "--from-line" in options
    if is_rmail:
        return options["-t"], options, Message(None, _recipients(rest), dot_stuffed, from_lines=True)
    if "-f" in options:
        message = Message(_sender(options["-f"]), _recipients(rest), dot_stuffed, from_line=from_line)
        return options["-t"], options, message
    if rest or dot_stuffed or from_line:
        raise CommandLineError("for a single message give its sender too: -f SENDER, or -f '' for the null sender")
    return options["-t"], options, None


def _take_options(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Options up to the first word that is none, or `--`; and the words behind them."""
    options: dict[str, str] = {}
    left = iter(words)
    for word in left:
        if word == "--":
            return options, list(left)
        if not word.startswith("-"):
            return options, [word, *left]
        key, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        if key in options:
            raise CommandLineError(f"{key} stands twice")
        if key in _FLAGS and not equals:
            options[key] = ""
        elif key in _VALUES:
            options[key] = value if equals else next(left, "")
        else:
            raise CommandLineError(f"unknown option {word}; {_USAGE}")
    return options, []


def _parse_bsmtp(words: list[str]) -> _Parsed:
    """`-tHOST -fSENDER RCPT...`: Debian's line in Postfix's master.cf, flags=Fq. with a From_ line and doubled dots."""
    options: dict[str, str] = {}
    rest = list(words)
    # Once both have been seen the rest are recipients, whatever they begin with.
    while rest and len(options) < 2 and rest[0][:2] in ("-t", "-f") and rest[0][:2] not in options:
        word = rest.pop(0)
        options[word[:2]] = word[2:]
    if not options.get("-t") or "-f" not in options:
        raise CommandLineError("bsmtp wants -tPEER -fSENDER RECIPIENT..., the values glued to their letters")
    if rest[:1] == ["--"]:
        rest.pop(0)
    message = Message(_uucp_sender(options["-f"]), _recipients(rest), dot_stuffed=True, from_line=True)
    return options["-t"], {}, message


def _parse_uux(words: list[str]) -> _Parsed:
    """`-r -n -z -aSENDER -gGRADE - PEER!rmail (RCPT)...`, as Postfix and Sendmail call it."""
    options: dict[str, str] = {}
    rest = list(words)
    while rest and rest[0].startswith("-"):
        word = rest.pop(0)
        if word in ("-", "-p"):
            options["-p"] = ""
        elif word[:2] in ("-a", "-g"):
            options[word[:2]] = word[2:]
        elif word[1:].strip(_UUX_QUIET):
            raise CommandLineError(f"unknown option {word} of uux; see batchmail-pipe(8)")
    peer, bang, command = (rest.pop(0) if rest else "").partition("!")
    if "-p" not in options or not peer or not bang or command != "rmail":
        raise CommandLineError(
            "uux wants - PEER!rmail (RECIPIENT)...: a message on standard input, and no other command"
        )
    recipients = [word[1:-1] if word.startswith("(") and word.endswith(")") else word for word in rest]
    sender = _uucp_sender(options["-a"]) if "-a" in options else None
    return peer, options, Message(sender, _recipients(recipients), from_lines=True)


def _priority_of_grade(grade: str) -> int:
    """A UUCP grade as a priority: digits, the most urgent, 4; upper case, where mail goes, 0; lower case -4."""
    if grade[:1].isdigit():
        return 4
    return -4 if grade[:1].islower() else 0


def _sender(word: str) -> bytes:
    return b"" if word in ("", "<>") else _checked(word)


def _uucp_sender(word: str) -> bytes:
    from batchmail.core.rmail import null_if_daemon  # seldom

    return null_if_daemon(os.fsencode(word)) and _checked(word)


def _recipients(words: list[str]) -> tuple[bytes, ...]:
    if not words:
        raise CommandLineError("there is no recipient")
    if len(words) > MAX_RECIPIENTS:
        raise MalformedInput(f"more than {MAX_RECIPIENTS} recipients")
    if "" in words:
        raise CommandLineError("a recipient is empty")
    return tuple(map(_checked, words))


def _checked(word: str) -> bytes:
    try:
        return check_address(os.fsencode(word))
    except CommandError as error:
        raise MalformedInput(f"{error.text} (Postfix quotes addresses when its flags hold q)") from None

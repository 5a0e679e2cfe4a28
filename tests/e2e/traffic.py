"""Transactions made up for tests: every combination of parameters, awkward addresses, bodies that try to be commands.

`make(count, seed)` gives them as a client would write them; `expected` says what a server that offers everything has to
be given, worked out from the documents and not by batchmail's own code.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

Words = frozenset[bytes]

RET = (b"", b"RET=FULL", b"RET=HDRS", b"ret=hdrs")
ENVID = (b"", b"ENVID=n%d", b"ENVID=n%d+2Bone+3D+20<%d>;x")
BODY = (b"", b"BODY=7BIT", b"BODY=8BITMIME", b"body=8bitmime")
UTF8 = (b"", b"SMTPUTF8")
_WORDS = (b"SUCCESS", b"FAILURE", b"DELAY")
NOTIFY = (
    b"",
    b"NOTIFY=NEVER",
    b"notify=success,Failure",
    *(b"NOTIFY=" + b",".join(words) for n in (1, 2, 3) for words in itertools.permutations(_WORDS, n)),
)
ORCPT = (
    b"",
    b"ORCPT=rfc822;Orig+2Bone@X.test",
    b"orcpt=RFC822;a+3Bb;c@x.test",
    b"ORCPT=utf-8;j\\x{F8}rgen@b\\x{FC}cher.test",
    "ORCPT=utf-8;jørgen@bücher.test".encode(),
    b"ORCPT=X400;/C+3DUS/ADMD+3D+20/S+3DDoe/",
)
FURTHER = (b"", b"", b"MT-PRIORITY=-4", b"MT-PRIORITY=3", b"SIZE=1", b"SIZE=99999999 MT-PRIORITY=0")

SENDERS = (
    b"s@src.test",
    b"",
    b"S.O'Neil+tag=x/y@Src.TEST",
    b'"a b"@src.test',
    b'"a>b<c"@src.test',
    b'"RCPT TO:<v@evil.test>"@src.test',
    b"here!there!user@src.test",
    b"user%far.test@src.test",
    b"u@[192.0.2.1]",
    b"bounce-0123456789abcdef=" + b"x" * 900 + b"@src.test",
    "jørgen@bücher.test".encode(),
)
RECIPIENTS = (
    b"u%d@home.test",
    b"U%d.Mixed-Case@Home.TEST",
    b'"blank %d"@home.test',
    b'"angle>%d"@home.test',
    b'"q\\"uote\\\\%d"@home.test',
    b"@relay.test,@other.test:routed%d@home.test",
    b"a!b!c%d@home.test",
    b"u%d%%inner.test@home.test",
    b"-option%d@home.test",
    b"|pipe%d/../../etc@home.test",
    b"postmaster%d",
    b"u%d@[IPv6:2001:db8::1]",
    b"l" * 1000 + b"%d@home.test",
    "müller%d@bücher.test".encode(),
)

DIALOGUE = b"""\
.
QUIT
.
MAIL FROM:<evil@evil.test>
RCPT TO:<victim@home.test>
DATA
Subject: forged

forged
.
""".replace(b"\n", b"\r\n")
BODIES = (
    b"plain\r\n",
    b"",
    b".\r\n",
    b"..\r\n.x\r\n...\r\n. \r\n",
    b"8-bit \xe9 and \xc3\xa9\r\n",
    b"end\r\n" + DIALOGUE + b"more\r\n",
    b"end\n.\n" + DIALOGUE.replace(b"\r\n", b"\n") + b"more\r\n",
    b"end\r.\r" + DIALOGUE.replace(b"\r\n", b"\r") + b"more\r\n",
    b"end\n.\r\n" + DIALOGUE.replace(b"\r\n.", b"\n.") + b"\r\n",
    b"end\r\n.\n" + DIALOGUE.replace(b".\r\n", b".\n") + b"\r\n",
    b"end\r\n\x1a.\r\n \r\n" + b"l" * 3000 + b"\r\n",
    b"From here on\r\n>From there\r\nRSET\r\nBDAT 0 LAST\r\n",
)


class Made(NamedTuple):
    """A transaction as its writer gives it; content with CRLF where it means a line end."""

    number: int
    mail: bytes
    rcpts: tuple[bytes, ...]
    content: bytes

    @property
    def utf8(self) -> bool:
        return b"SMTPUTF8" in self.mail.split() or not b"".join((paths(self.mail), *map(paths, self.rcpts))).isascii()

    def bsmtp(self, crlf: bool) -> bytes:
        """The text, its line ends CRLF or LF; what is doubled are the dots behind those, as writers do it."""
        commands = b"".join(line + b"\r\n" for line in (self.mail, *self.rcpts, b"DATA"))
        content = re.sub(rb"(\A|\r\n)\.", rb"\1..", self.content) + b".\r\n"
        if crlf:
            return commands + content
        lines = self.content.replace(b"\r\n", b"\n")
        return commands.replace(b"\r\n", b"\n") + re.sub(rb"(\A|\n)\.", rb"\1..", lines) + b".\n"


def paths(command: bytes) -> bytes:
    """A command up to its parameters."""
    found = re.match(rb'[A-Z ]+:<(?:"(?:\\.|[^"\\])*"|[^">])*>', command)
    assert found, command
    return found[0]


def make(count: int, seed: int) -> list[Made]:
    random = Random(seed)
    mails = list(itertools.product(RET, ENVID, BODY, UTF8))
    rcpts = list(itertools.product(NOTIFY, ORCPT))
    random.shuffle(mails)
    random.shuffle(rcpts)
    supply = itertools.cycle(rcpts)
    return [_make(number, random, mails[number % len(mails)], supply) for number in range(count)]


def _make(
    number: int,
    random: Random,
    mail: tuple[bytes, ...],
    rcpts: Iterator[tuple[bytes, bytes]],
) -> Made:
    ret, envid, body, utf8 = mail
    sender = random.choice(SENDERS)
    words = [ret, envid.replace(b"%d", b"%d" % number), body, utf8, random.choice(FURTHER)]
    random.shuffle(words)
    recipients = []
    for each in range(random.choice((1, 1, 1, 2, 2, 3, 4, 6, 9)) if number % 50 else random.randint(50, 100)):
        address = random.choice(RECIPIENTS).replace(b"%d", b"%d" % each).replace(b"%%", b"%")
        recipients.append((address, *next(rcpts)))
    is_utf8 = bool(utf8) or not sender.isascii() or not all(address.isascii() for address, *_ in recipients)
    lines = []
    for address, notify, orcpt in recipients:
        given = [notify, orcpt if orcpt.isascii() or is_utf8 else b""]
        random.shuffle(given)
        lines.append(b" ".join((b"RCPT TO:<%b>" % address, *filter(None, given))))
    content = b"X-Number: %d\r\nSubject: x\r\n\r\n" % number + random.choice(BODIES)
    return Made(number, b" ".join((b"MAIL FROM:<%b>" % sender, *filter(None, words))), tuple(lines), content)


class Given(NamedTuple):
    """What a server was given, parameters as sets."""

    sender: bytes
    parameters: Words
    recipients: tuple[tuple[bytes, Words], ...]
    content: bytes  # below our Received: line


def read(mail: bytes, rcpts: Sequence[bytes], content: bytes) -> Given:
    return Given(
        paths(mail),
        _words(mail) - {word for word in _words(mail) if word.startswith(b"SIZE=")},
        tuple((paths(rcpt), _words(rcpt)) for rcpt in rcpts),
        content,
    )


def _words(command: bytes) -> Words:
    return frozenset(command[len(paths(command)) :].split())


def content_of(made: Made) -> bytes:
    """Every line end CRLF, as the documents say of bare ones."""
    return re.sub(rb"\r\n|\r|\n", b"\r\n", made.content)


def expected(made: Made) -> Given:
    """At a server that offers everything: what was given, SIZE apart, and what the text itself says."""
    given = read(made.mail, made.rcpts, content_of(made))
    parameters = given.parameters
    if not made.content.isascii() and b"BODY=8BITMIME" not in {word.upper() for word in parameters}:
        parameters = parameters - {b"BODY=7BIT"} | {b"BODY=8BITMIME"}
    if made.utf8:
        parameters |= {b"SMTPUTF8"}
    recipients = tuple((re.sub(rb"<@[^:\"]*:", b"<", path), words) for path, words in given.recipients)
    return Given(given.sender, parameters, recipients, given.content)

"""Transactions for an MTA in front of the door, and what became of them.

Unlike `traffic`, only what the MTA itself takes: it is given them by SMTP as by anybody.
"""

import itertools
import os
import re
from collections.abc import Sequence
from random import Random

from tests.e2e import traffic
from tests.e2e.client import Client
from tests.e2e.traffic import Made
from tests.e2e.upstreams import Mta, Way
from tests.servers.smtp_log import Transaction

COUNT = int(os.environ.get("BATCHMAIL_DOOR_COUNT", "120"))  # given to each MTA
SESSION = 50  # transactions of one client: OpenSMTPD takes no more than a hundred
SENDERS = (b"s@src.test", b"", b"S.O'Neil+tag=x/y@src.test", b"b-0=" + b"x" * 50 + b"@src.test")
QUOTED_SENDERS = (b'"a b"@src.test', b'"a>b<c"@src.test')
UTF8_SENDERS = ("jørgen@bücher.test".encode(),)
RECIPIENTS = (b"u%d@home.test", b"Mixed.Case-%d@home.test", b"u%d+tag=x@home.test")
QUOTED_RECIPIENTS = (b'"blank %d"@home.test', b'"angle>%d"@home.test')
UTF8_RECIPIENTS = ("müller%d@home.test".encode(),)
ORCPT = traffic.ORCPT[:3]
UTF8_ORCPT = traffic.ORCPT[3:4]
BODIES = (
    b"plain\r\n",
    b".\r\n..\r\n.x\r\n",
    b"8-bit \xe9 and \xc3\xa9\r\n",
    b"end\r\n" + traffic.DIALOGUE + b"more\r\n",
    b"l" * 3000 + b"\r\n",
    b"From here on\r\n>From there\r\nBDAT 0 LAST\r\n",
    (b"x" * 900 + b"\r\n") * 200,
)
HEADER = (
    b"X-Number: %d\r\nDate: Sat, 21 Nov 2026 00:00:00 +0000\r\nFrom: <s@src.test>\r\nTo: <u@home.test>\r\n"
    b"Message-ID: <%d@src.test>\r\nSubject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Transfer-Encoding: 8bit\r\n\r\n"
)


def make(way: Way, count: int, seed: int) -> list[Made]:
    """Every combination of the parameters of MAIL, and of RCPT, that this MTA takes, over and over."""
    random = Random(seed)
    mails = list(itertools.product(traffic.RET, traffic.ENVID, traffic.BODY, traffic.UTF8 if way.utf8 else (b"",)))
    rcpts = list(itertools.product(traffic.NOTIFY, ORCPT[: 3 if way.quoted else 2] + UTF8_ORCPT * way.utf8))
    random.shuffle(mails)
    random.shuffle(rcpts)
    supply = itertools.cycle(rcpts)
    found = []
    for number in range(count):
        ret, envid, body, utf8 = mails[number % len(mails)]
        senders = SENDERS + QUOTED_SENDERS * way.quoted + UTF8_SENDERS * bool(utf8)
        users = RECIPIENTS + QUOTED_RECIPIENTS * way.quoted + UTF8_RECIPIENTS * bool(utf8)
        words = [ret, envid.replace(b"%d", b"%d" % number), body, utf8]
        random.shuffle(words)
        mail = b" ".join((b"MAIL FROM:<%b>" % random.choice(senders), *filter(None, words)))
        asked = list(itertools.islice(supply, random.choice((1, 1, 2, 3, 5)) if number % 40 else 60))
        lines = []
        for each, (notify, orcpt) in enumerate(asked):
            if b"NEVER" in notify and len(asked) > 1 and not way.mixed:
                notify = b""
            given = [notify, orcpt if utf8 or b"utf-8" not in orcpt else b""]
            lines.append(b" ".join((b"RCPT TO:<%b>" % (random.choice(users) % each), *filter(None, given))))
        content = HEADER % (number, number) + random.choice(BODIES)
        found.append(Made(number, mail, tuple(lines), content))
    return found


Deed = tuple[bytes, traffic.Words, traffic.Words, bytes]
Fate = dict[tuple[int, bytes], Deed]


def fate(transactions: Sequence[tuple[Transaction, bytes]]) -> Fate:
    """By number and recipient: sender, parameters, and the content below the MTA's own Received: line.

    An MTA may put the recipients of a message together as it likes; nobody may be given it twice.
    """
    found: Fate = {}
    for transaction, content in transactions:
        commands = (
            re.sub(rb"(?i)\A(MAIL FROM|RCPT TO):", lambda verb: verb[0].upper(), line)
            for line in (transaction.mail, *transaction.rcpts)
        )
        mail, *rcpts = commands
        read = traffic.read(mail, rcpts, _below_mtas_line(content))
        match = re.match(rb"X-Number: (\d+)\r\n", read.content)
        assert match, read.content[:500]
        for path, words in read.recipients:
            assert (int(match[1]), path) not in found, "given twice"
            found[int(match[1]), path] = read.sender, read.parameters, words, read.content
    return found


def _below_mtas_line(content: bytes) -> bytes:
    line = re.match(rb"(?:Received:[^\r]*\r\n(?:[ \t][^\r]*\r\n)*)(?=X-Number)", content)
    assert line, content[:500]
    return content[line.end() :]


def submit(mta: Mta, transactions: Sequence[Made]) -> list[bytes]:
    """Give them to the MTA; what it said of those that it refused."""
    answers = []
    for start in range(0, len(transactions), SESSION):
        with Client(mta.port) as client:
            some = transactions[start : start + SESSION]
            answers += [client.transaction(one.mail, one.rcpts, one.content) for one in some]
    return [answer for answer in answers if not answer.startswith(b"250")]

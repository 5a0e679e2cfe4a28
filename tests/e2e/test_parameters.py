"""A thousand transactions with every combination of parameters, from the pipe door to a server that writes down all.

To a server that offers everything they arrive as they were given; to poorer ones without exactly what those cannot
take, and the senders are told what is owed to them for it.
"""

import email
import re
from collections import Counter
from collections.abc import Sequence
from random import Random

import pytest

from tests.e2e import traffic
from tests.e2e.pair import Pair, below_received, letters, unsettled
from tests.e2e.sites import Site
from tests.e2e.traffic import Made
from tests.servers.host import LOOPBACK, Factory, Installed, wait_until
from tests.servers.smtp_log import EXTENSIONS, SmtpLog, Transaction
from tests.servers.sshd import Sshd

COUNT = 1000
Fields = dict[str, str]  # of a block of a delivery status
EVERYTHING = (*EXTENSIONS, "MT-PRIORITY")


def accept(site: Site, transactions: Sequence[Made], seed: int) -> None:
    """Through the pipe door, some in one input, with either line end, with and without the commands around them."""
    random = Random(seed)
    left = list(transactions)
    while left:
        some, left = left[: (size := random.choice((1, 2, 10, 40, 100)))], left[size:]
        crlf = random.choice((True, False))
        text = b"".join(made.bsmtp(crlf) for made in some)
        if random.choice((True, False)):
            text = b"EHLO writer.test\r\n" + text + b"QUIT\r\n" if crlf else b"HELO writer\n" + text
        site.accept(text, "-t", "home")


def given(transaction: Transaction) -> traffic.Given:
    return traffic.read(transaction.mail, transaction.rcpts, below_received(transaction.content))


def by_number(transactions: Sequence[Transaction]) -> dict[int, traffic.Given]:
    """Each under the number in its content; a transaction that came twice or was forged would be seen here."""
    found = {}
    for transaction in transactions:
        read = given(transaction)
        match = re.match(rb"X-Number: (\d+)\r\n", read.content)
        assert match, read.content[:500]
        number = int(match[1])
        assert number not in found
        found[number] = read
    return found


@pytest.mark.real
def test_everything_arrives_as_it_was_given(
    open_path: str, installed: Installed, sshd: Sshd, smtp_log_factory: Factory[SmtpLog]
) -> None:
    made = traffic.make(COUNT, 1)
    mails = {frozenset(word.upper() for word in one.mail.split()[1:]) for one in made}
    assert len(mails) > COUNT * 0.9, "every combination of the parameters of MAIL"
    pairs = {tuple(sorted(rcpt.split()[2:])) for one in made for rcpt in one.rcpts if not rcpt.count(b'"')}
    assert len(pairs) >= len(traffic.NOTIFY) * len(traffic.ORCPT) * 0.9, "and of RCPT"
    server = smtp_log_factory(extensions=EVERYTHING)
    sites = Pair(open_path, installed, sshd, away_target=f"smtp://{LOOPBACK}:{server.port}")
    accept(sites.holding, made, 2)
    sites.call()
    assert server.violations == []
    found = by_number(server.transactions)
    assert found.keys() == {one.number for one in made}
    for one in made:
        assert found[one.number] == traffic.expected(one)
    sizes = [(re.search(rb" SIZE=(\d+)", t.mail), len(t.content)) for t in server.transactions]
    assert all(match and int(match[1]) == octets for match, octets in sizes)
    assert unsettled(sites.holding) == unsettled(sites.away) == []
    assert letters(sites.holding) == []


def test_single_messages_keep_what_the_command_line_says(
    open_path: str, installed: Installed, smtp_log_factory: Factory[SmtpLog]
) -> None:
    """The form with -f: a last line without its end gets one, dots are content."""
    server = smtp_log_factory()
    sites = Pair(open_path, installed, None, away_target=f"smtp://{LOOPBACK}:{server.port}")
    content = b"X-Number: 7\n\n.\nMAIL FROM:<evil@x.test>\n.\nno end"
    options = ("--ret=HDRS", "--envid=id+one <x>", "--notify=SUCCESS,DELAY", "--orcpt=rfc822;o+2Bne;two@x.test")
    sites.holding.accept(
        content, "-t", "home", "-f", '"a b"@src.test', *options, "--", '"c>d"@home.test', "u@home.test"
    )
    sites.holding.accept(b"X-Number: 8\n\n", "-t", "home", "-f", "", "--", "u@home.test")
    sites.call()
    found = by_number(server.transactions)
    words = frozenset((b"NOTIFY=DELAY", b"ORCPT=rfc822;o+2Bne;two@x.test"))
    assert found == {
        7: traffic.Given(
            b'MAIL FROM:<"a b"@src.test>',
            frozenset((b"RET=HDRS", b"ENVID=id+2Bone+20<x>")),
            ((b'RCPT TO:<"c>d"@home.test>', words), (b"RCPT TO:<u@home.test>", words)),
            content.replace(b"\n", b"\r\n") + b"\r\n",
        ),
        8: traffic.Given(
            b"MAIL FROM:<>", frozenset(), ((b"RCPT TO:<u@home.test>", frozenset()),), b"X-Number: 8\r\n\r\n"
        ),
    }


# What a server that lacks an extension is not given, and by which status those fail who cannot do without.
LACKING = {
    "DSN": ((b"RET=", b"ENVID=", b"NOTIFY=", b"ORCPT="), ""),
    "8BITMIME": ((b"BODY=",), "5.6.3"),
    "SMTPUTF8": ((b"SMTPUTF8",), "5.6.7"),
}


def _cannot(lacking: str, made: Made) -> Counter[bytes]:
    """The recipients that such a server cannot be given, as paths."""
    everybody = Counter(path for path, _ in traffic.expected(made).recipients)
    if lacking == "8BITMIME":
        return everybody if not made.content.isascii() else Counter()
    if lacking == "SMTPUTF8" and traffic.paths(made.mail).isascii():
        return Counter({path: count for path, count in everybody.items() if not path.isascii()})
    return everybody if lacking == "SMTPUTF8" else Counter()


def _stripped(words: traffic.Words, gone: tuple[bytes, ...]) -> traffic.Words:
    return frozenset(word for word in words if not word.upper().startswith(gone))


def _ascii_orcpt(words: traffic.Words) -> traffic.Words:
    """RFC 6533 §3: in a transaction without SMTPUTF8 ORCPT has only its ASCII form."""
    form = b"ORCPT=utf-8;j\\x{F8}rgen@b\\x{FC}cher.test"
    return frozenset(word if word.isascii() else form for word in words)


def _owed(lacking: str, made: Made) -> tuple[str, list[str]] | None:
    """The action and the recipients of the notice that the sender is owed."""
    if traffic.paths(made.mail) == b"MAIL FROM:<>":
        return None
    cannot = _cannot(lacking, made)
    told = []
    for path, words in traffic.expected(made).recipients:
        notify = b"".join(word.upper() for word in words if word.upper().startswith(b"NOTIFY="))
        is_relayed = lacking == "DSN" and b"SUCCESS" in notify
        if is_relayed or (path in cannot and (not notify or b"FAILURE" in notify)):
            told.append(path)
    addresses = sorted(_shown(path.removeprefix(b"RCPT TO:<").removesuffix(b">").decode()) for path in told)
    return ("relayed" if lacking == "DSN" else "failed", addresses) if told else None


def _shown(address: str) -> str:
    """As a notice has room for it: a line of a header ends at 998 octets."""
    return address if len(address) <= 900 else address[:900] + "..."


def _notices(site: Site) -> list[tuple[Fields, list[Fields]]]:
    """The notices in the site's maildir: fields of the message, then those of each recipient."""
    found = []
    for text in letters(site):
        whole = email.message_from_bytes(text)
        if whole["To"] == f"postmaster@{site.name}":  # of failures from the null sender
            assert b"\r\n    from <> to <" in text
            continue
        assert whole["Return-Path"] == "<>" and whole.get_content_type() == "multipart/report"
        status = text.split(b"\r\n--" + str(whole.get_boundary()).encode())[2].decode()
        assert re.match(r"\r\nContent-Type: message/(global-)?delivery-status\r\n", status)
        first, *others = (_fields(block) for block in status.strip().split("\r\n\r\n")[1:])
        found.append((first, others))
    return found


def _fields(block: str) -> Fields:
    lines = (line.partition(": ") for line in re.sub("\r\n[ \t]", "", block).split("\r\n"))
    return {name: value for name, _, value in lines}


@pytest.mark.parametrize("lacking", LACKING)
def test_a_poorer_server_gets_what_it_can_take(
    open_path: str, installed: Installed, smtp_log_factory: Factory[SmtpLog], lacking: str
) -> None:
    gone, status = LACKING[lacking]
    server = smtp_log_factory(extensions=[word for word in EVERYTHING if word != lacking])
    sites = Pair(open_path, installed, None, away_target=f"smtp://{LOOPBACK}:{server.port}")
    made = [one for one in traffic.make(160, 3) if one.number % 50 and one.mail.count(b"ENVID")]
    accept(sites.holding, made, 4)
    sites.call()
    found = by_number(server.transactions)
    for one in made:
        want, cannot = traffic.expected(one), _cannot(lacking, one)
        left = tuple((path, _stripped(words, gone)) for path, words in want.recipients if path not in cannot)
        if not left:
            assert one.number not in found
            continue
        if lacking == "SMTPUTF8":
            left = tuple((path, _ascii_orcpt(words)) for path, words in left)
        assert found[one.number] == want._replace(parameters=_stripped(want.parameters, gone), recipients=left)
    owed = {one.number: _owed(lacking, one) for one in made}
    expected = {number: notice for number, notice in owed.items() if notice}
    assert len(expected) > 5
    wait_until(lambda: not unsettled(sites.holding), "the holding site to settle")
    told = {}
    for message, recipients in _notices(sites.holding):
        match = re.match(r"n(\d+)", message["Original-Envelope-Id"])
        assert match and int(match[1]) not in told
        addresses = sorted(_address(fields["Final-Recipient"]) for fields in recipients)
        (action,) = {fields["Action"] for fields in recipients}
        told[int(match[1])] = (action, addresses)
        assert not status or {fields["Status"] for fields in recipients} == {status}
        assert message["Reporting-MTA"] == "dns; home.example.test"
    assert told == expected


def _address(field: str) -> str:
    """The address of a Final-Recipient field, which may be escaped."""
    text = field.partition("; ")[2]
    return re.sub(r"\\x\{([0-9A-F]+)\}", lambda match: chr(int(match[1], 16)), text)

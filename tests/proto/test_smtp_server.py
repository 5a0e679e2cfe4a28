"""The server's machine: written dialogues, whole, octet by octet and pipelined; and what no client may bring about."""

import random
import re
from pathlib import Path

import pytest

from batchmail.core.commands import parse_mail, parse_rcpt
from batchmail.core.envelope import Client, format_mail, format_rcpt
from batchmail.core.path import MAX_COMMAND_OCTETS
from batchmail.proto.smtp_client import NEED_DATA, Command, SmtpClient, State, Verb, groups
from batchmail.proto.smtp_events import Aborted, Answer, Content, End, Event, Rcpt, Start
from batchmail.proto.smtp_offer import NEEDED
from batchmail.proto.smtp_server import MAX_ERRORS, MAX_IDLE_COMMANDS, MAX_RCPT_OCTETS, MAX_WAITING_OCTETS, SmtpServer
from batchmail.proto.smtp_terms import Terms

TERMS = Terms("door.example", 1000, 5, 9, smtputf8=True, xforward=True)
QUEUED = Answer(250, "2.0.0", "queued")
DIALOGS = sorted((Path(__file__).parent / "dialogs").glob("*.txt"))


class Driver:
    """What is behind the machine: a table of peers, and a spool in memory."""

    def __init__(self, terms: Terms = TERMS) -> None:
        self.machine = SmtpServer(terms)
        self.messages: list[tuple[Start, bytes]] = []
        self.events: list[Event] = []
        self.said = b""
        self._start: Start | None = None
        self._content = b""
        self.run()

    def write(self, octets: bytes) -> bytes:
        """What is answered to these octets."""
        before = len(self.said)
        self.machine.receive(octets)
        self.run()
        return self.said[before:]

    def run(self) -> None:
        while True:
            while (event := self.machine.next_event()) is not None:
                self.handle(event)
            octets = self.machine.output()
            if not octets:
                break
            self.said += octets

    def handle(self, event: Event) -> None:
        self.events.append(event)
        match event:
            case Rcpt(recipient):
                if recipient.address.endswith(b"@nowhere.example"):
                    self.machine.refuse(Answer(550, "5.1.2", "no such host"))
                else:
                    self.machine.accept()
            case Start(envelope):
                assert self._start is None
                if envelope.sender.startswith(b"full"):
                    self.machine.refuse(Answer(452, "4.3.1", "no room"))
                else:
                    self._start, self._content = event, b""
                    self.machine.accept()
            case Content(octets):
                assert self._start
                self._content += octets
                if b"\0" in octets and self._start.envelope.sender.startswith(b"nul"):
                    self.machine.refuse(Answer(550, "5.6.0", "a NUL"))
                    self._start = None
            case End(answers):
                assert self._start
                self.messages.append((self._start, self._content))
                recipients = self._start.envelope.recipients
                self._start = None
                later = Answer(451, "4.2.0", "later")
                if answers == 1:
                    self.machine.finish(QUEUED)
                else:
                    assert answers == len(recipients)
                    self.machine.finish(*(later if r.address.startswith(b"later") else QUEUED for r in recipients))
            case Aborted():
                self._start = None


def unescape(text: str) -> bytes:
    text = re.sub(r"\{(\d+)\}", lambda m: "x" * int(m[1]), text)
    return text.encode().decode("unicode_escape").encode("latin-1")


class Dialog:
    """A file of `tests/proto/dialogs`.

    `C:` is a line of the client, `C+` the same without a line end, `S:` what it is to hear; `M:` a message that was
    taken (sender, recipients, content), `X:` what was told of its client.  # begins a comment.
    """

    def __init__(self, path: Path):
        self.steps: list[tuple[bytes, bytes]] = []
        self.messages, self.clients = [], []
        sent = heard = b""
        for line in path.read_text().splitlines():
            kind, text = line[:2], line[3:]
            if kind in ("C:", "C+"):
                if heard or kind == "C:":
                    self.steps.append((sent, heard))
                    sent = heard = b""
                sent += unescape(text) + (b"\r\n" if kind == "C:" else b"")
            elif kind == "S:":
                heard += text.encode() + b"\r\n"
            elif kind == "M:":
                self.messages.append(unescape(text))
            elif kind == "X:":
                self.clients.append(text)
            else:
                assert line.startswith("#"), line
        self.steps.append((sent, heard))

    def check(self, driver: Driver) -> None:
        assert driver.said == b"".join(heard for _, heard in self.steps)
        if self.messages:
            shown = [
                b" ".join((s.envelope.sender, b",".join(r.address for r in s.envelope.recipients), content)).rstrip(
                    b" "
                )
                for s, content in driver.messages
            ]
            assert shown == self.messages
        if self.clients:
            assert self.clients == [
                " ".join((s.queue_id, *(f"{k}={v.decode()}" for k, v in s.client._asdict().items() if v)))
                for s, _ in driver.messages
            ]


@pytest.mark.parametrize("path", DIALOGS, ids=lambda path: path.stem)
def test_dialog_step_by_step(path: Path) -> None:
    dialog = Dialog(path)
    driver = Driver()
    assert driver.said == dialog.steps[0][1]
    for sent, heard in dialog.steps[1:]:
        assert (sent, driver.write(sent)) == (sent, heard)
    dialog.check(driver)


@pytest.mark.parametrize("path", DIALOGS, ids=lambda path: path.stem)
def test_dialog_octet_by_octet(path: Path) -> None:
    dialog = Dialog(path)
    driver = Driver()
    for octet in b"".join(sent for sent, _ in dialog.steps):
        driver.write(bytes([octet]))
    dialog.check(driver)


@pytest.mark.parametrize("path", DIALOGS, ids=lambda path: path.stem)
def test_dialog_in_one_write(path: Path) -> None:
    dialog = Dialog(path)
    driver = Driver()
    driver.write(b"".join(sent for sent, _ in dialog.steps))
    dialog.check(driver)


@pytest.mark.parametrize("path", DIALOGS, ids=lambda path: path.stem)
def test_dialog_split_anywhere(path: Path) -> None:
    dialog = Dialog(path)
    sent = b"".join(sent for sent, _ in dialog.steps)
    for at in range(1, len(sent), 1 + len(sent) // 200):
        driver = Driver()
        driver.write(sent[:at])
        driver.write(sent[at:])
        dialog.check(driver)


def opened(terms: Terms = TERMS, hello: bytes = b"EHLO me") -> Driver:
    driver = Driver(terms)
    driver.write(hello + b"\r\nMAIL FROM:<ann@a.example>\r\nRCPT TO:<bob@b.example>\r\nRCPT TO:<cat@b.example>\r\n")
    return driver


def test_terms_decide_what_is_offered() -> None:
    bare = Terms("h", 5, 1, eightbitmime=False, mt_priority=False, deliverby=False)
    assert bare.keywords == (
        *(b"PIPELINING", b"SIZE 5", b"DSN", b"ENHANCEDSTATUSCODES", b"CHUNKING", b"LIMITS RCPTMAX=1"),
    )
    assert b"RRVS" in TERMS._replace(rrvs=True).keywords
    driver = Driver(bare)
    driver.write(b"EHLO me\r\n")
    for parameter in (b"BODY=7BIT", b"SMTPUTF8", b"MT-PRIORITY=0", b"BY=9;R"):
        assert driver.write(b"MAIL FROM:<a@b> " + parameter + b"\r\n").startswith(b"555 5.5.4 ")
    assert driver.write(b"XFORWARD HELO=x\r\n").startswith(b"502 5.5.1 ")
    assert driver.write(b"MAIL FROM:<a@b> ENVID=1\r\n").startswith(b"250 ")


def test_every_parameter_that_is_read_has_its_keyword() -> None:
    every = TERMS._replace(rrvs=True)
    taken = {p.name for p in every.parse_mail(MAIL_LINE, True)[1]}
    taken |= {p.name for p in every.parse_rcpt(RCPT_LINE, (), True).parameters}
    assert taken == set(NEEDED) - {b"AUTH", b"SUBMITTER", b"SOLICIT"}  # what cannot be offered


MAIL_LINE = b"MAIL FROM:<a@b> SIZE=1 BODY=7BIT SMTPUTF8 RET=HDRS ENVID=1 MT-PRIORITY=-3 by=+60;nT"
RCPT_LINE = b"RCPT TO:<a@b> NOTIFY=NEVER ORCPT=rfc822;a@b RRVS=2026-11-21T04:15:59Z"


def test_the_envelope_arrives_as_it_left() -> None:
    driver = Driver()
    mail = b"MAIL FROM:<j\xc3\xb8@a> SIZE=1 BODY=8BITMIME SMTPUTF8 ret=hdrs ENVID=q+2B+20 MT-PRIORITY=9"
    rcpt = b'RCPT TO:<"a b"@c> ORCPT=utf-8;\xc3\xb8@b notify=Success,delay'
    driver.write(b"LHLO me\r\n" + mail + b"\r\n" + rcpt + b"\r\nDATA\r\n.\r\n")
    envelope = driver.messages[0][0].envelope
    assert (envelope.sender, envelope.parameters) == parse_mail(mail)
    assert envelope.recipients == (parse_rcpt(rcpt),)
    asked = driver.events[0]
    assert asked == Rcpt(envelope.recipients[0], envelope.sender, envelope.parameters)


def test_every_reply_has_its_status() -> None:
    """RFC 2034 §4: all but the greeting and what answers a hello; and it agrees with the code."""
    seen = set()
    for path in DIALOGS:
        for _, heard in Dialog(path).steps[1:]:
            for line in heard.splitlines():
                seen.add(line)
    assert len(seen) > 50
    plain = re.compile(rb"250[ -](door\.example|[A-Z0-9-]+( .*)?)\Z|354 |50[01] (EHLO wants|this session)")
    for line in seen:
        assert plain.match(line) or re.match(rb"([245])\d\d \1\.\d\.\d+ ", line), line


def test_nothing_is_read_while_an_answer_is_due() -> None:
    machine = SmtpServer(TERMS)
    machine.receive(b"LHLO me\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nhi\r\n.\r\nQUIT\r\n")
    first = machine.next_event()
    assert isinstance(first, Rcpt) and first.recipient.address == b"a@b"
    assert machine.next_event() is None
    assert machine.output().endswith(b"250 2.1.0 sender taken\r\n")
    machine.refuse(Answer(450, "4.2.1", "j\r\n250 not a line\xf8"))
    second = machine.next_event()
    assert isinstance(second, Rcpt) and second.recipient.address == b"c@d"
    assert machine.output() == b"450 4.2.1 j??250 not a line?\r\n"
    machine.accept()
    assert isinstance(machine.next_event(), Start)
    assert machine.next_event() is None
    machine.accept()
    assert [machine.next_event() for _ in range(3)] == [Content(b"hi\r\n"), End(1), None]
    assert machine.output().endswith(b"354 go on, and end with a dot on a line of its own\r\n")
    assert machine.wants_input and not machine.is_over
    machine.receive(b"x" * MAX_WAITING_OCTETS)
    assert not machine.wants_input
    machine.finish(QUEUED)
    assert machine.next_event() is None
    assert machine.output() == b"250 2.0.0 queued\r\n221 2.0.0 door.example closes\r\n"
    assert machine.is_over and not machine.wants_input


def test_answers_that_are_not_due_are_bugs() -> None:
    machine = SmtpServer(TERMS)
    for wrong in (machine.accept, lambda: machine.refuse(QUEUED), lambda: machine.finish(QUEUED)):
        with pytest.raises(ValueError, match="due"):
            wrong()
    with pytest.raises(ValueError, match="agree"):
        machine.refuse(Answer(452, "5.3.1", "no"))
    machine.receive(b"LHLO me\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nRCPT TO:<c@d>\r\nRCPT TO:<e@f>\r\nDATA\r\n.\r\n")
    while not isinstance(machine.next_event(), End):
        machine.accept()
    with pytest.raises(ValueError, match="answer"):
        machine.finish(QUEUED, QUEUED)


def test_one_answer_for_all() -> None:
    machine = SmtpServer(TERMS)
    machine.receive(b"LHLO me\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n.\r\n")
    while not isinstance(machine.next_event(), End):
        machine.accept()
    machine.output()
    machine.finish(Answer(452, "4.3.1", "full"))
    assert machine.output() == b"452 4.3.1 full\r\n" * 2


def test_aborted() -> None:
    for end in (b"RSET\r\n", b"EHLO again\r\n", b"QUIT\r\n", b"", b"BDAT x\r\n"):
        driver = opened()
        driver.write(b"BDAT 3\r\nabc")
        assert driver.events[-1:] == [Content(b"abc")]
        driver.write(end)
        assert driver.events[-1] == Aborted() and driver.events.count(Aborted()) == 1
        assert not driver.messages
    for content in (b"DATA\r\nabc", b"DATA\r\n.\r", b"BDAT 9 LAST\r\nabc\r\n.\r\n"):
        driver = opened()
        driver.write(content)
        driver.write(b"")
        assert driver.events[-1] == Aborted()
        assert driver.machine.is_over and not driver.messages


def test_nothing_to_abort() -> None:
    driver = Driver()
    driver.write(b"EHLO me\r\nMAIL FROM:<>\r\nRSET\r\nMAIL FROM:<>\r\nQUIT\r\n")
    assert driver.events == []
    driver = opened()
    driver.write(b"DATA\r\n.\r\nRSET\r\n")
    driver.write(b"")
    assert Aborted() not in driver.events


def test_what_stood_before_a_hang_up_counts() -> None:
    driver = Driver()
    message = b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\nhi\r\n.\r\n"
    driver.machine.receive(b"NO\nOP\r\n" + b"EHLO me\r\n" * 99 + message + b"MAIL FROM:<>\r\nRC")
    driver.machine.receive(b"")
    assert not driver.machine.wants_input
    driver.run()
    assert [content for _, content in driver.messages] == [b"hi\r\n"]
    assert driver.machine.is_over


def test_the_driver_fails_in_the_middle_of_chunks() -> None:
    driver = Driver()
    driver.write(b"LHLO me\r\nMAIL FROM:<nul@a>\r\nRCPT TO:<a@b>\r\nRCPT TO:<a@b>\r\n")
    assert driver.write(b"BDAT 3\r\na\0b") == b"550 5.6.0 a NUL\r\n"
    assert driver.write(b"BDAT 6 LAST\r\nQUIT\r\n") == b"550 5.6.0 a NUL\r\n" * 2
    assert not isinstance(driver.events[-1], End | Aborted)


SHUT = b"421 4.3.2 door.example going down; come again later\r\n"


@pytest.mark.parametrize(
    ("sent", "aborted"),
    [
        (b"", False),
        (b"MAIL FROM:<>\r\n", False),
        (b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\n", True),
        (b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\nhi\r\n.", True),
        (b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nBDAT 5 LAST\r\nhi\r\n", True),
    ],
)
def test_shutdown(sent: bytes, aborted: bool) -> None:
    driver = Driver()
    driver.write(b"EHLO me\r\n" + sent)
    before = len(driver.said)
    driver.machine.shutdown()
    driver.machine.timeout()  # too late
    driver.run()
    assert driver.said[before:] == SHUT
    assert driver.machine.is_over
    assert driver.events[-1:] == [Aborted()] * aborted
    assert driver.write(b"\r\n.\r\nQUIT\r\n") == b"" and not driver.messages


def test_shutdown_waits_for_an_answer_to_a_message_and_for_no_other() -> None:
    machine = SmtpServer(TERMS)
    machine.receive(b"LHLO me\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n.\r\nMAIL FROM:<>\r\n")
    while not isinstance(machine.next_event(), End):
        machine.accept()
    machine.output()
    machine.shutdown()
    assert machine.next_event() is None and machine.output() == b"" and not machine.is_over
    machine.finish(QUEUED)
    assert machine.output() == b"250 2.0.0 queued\r\n" + SHUT
    assert machine.is_over and machine.next_event() is None

    machine = SmtpServer(TERMS)
    machine.receive(b"LHLO me\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\n")
    assert isinstance(machine.next_event(), Rcpt)
    machine.timeout()
    assert machine.is_over and machine.next_event() == Aborted()
    machine.accept()  # the driver may not have seen it yet
    machine.refuse(Answer(550, "5.1.1", "no"))
    machine.finish(QUEUED)
    assert machine.output().splitlines()[-1].startswith(b"421 4.4.2 ")


def test_aborted_is_told_once() -> None:
    machine = SmtpServer(TERMS)
    machine.receive(b"LHLO me\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nBDAT 3\r\nabcBDAT 1000\r\n")
    while not isinstance(machine.next_event(), Start):
        machine.accept()
    machine.accept()
    assert [machine.next_event() for _ in range(3)] == [Content(b"abc"), Aborted(), None]
    machine.timeout()
    assert machine.next_event() is None


@pytest.mark.parametrize(
    "line",
    [b"BDAT\t6 LAST", b"bdat\n6 LAST", b"BDAT 6 LAST\t", b"BDAT6 LAST", b"BDAT", b"BDAT 6" + b" " * 5000 + b"LAST"],
)
@pytest.mark.parametrize("start", [b"", b"MAIL FROM:<a@b>\r\nRCPT TO:<bob@b.example>\r\n"])
def test_a_chunk_of_unknown_length_is_not_read_as_commands(line: bytes, start: bytes) -> None:
    driver = Driver(TERMS)
    driver.write(b"EHLO me\r\n" + start)
    said = driver.write(line + b"\r\nRSET\r\nNOOP\r\n")
    assert said.startswith(b"421 4.5.4 ")
    assert said.count(b"\r\n") == 1
    assert driver.machine.is_over


def test_a_line_behind_a_refused_chunk_is_judged_by_itself() -> None:
    driver = Driver(TERMS)
    assert driver.write(b"NOOP " + b"x" * 5000 + b"BDAT\r\nNOOP\n\r\n").count(b"500 5.5.2 ") == 2
    assert not driver.machine.is_over


def test_a_client_may_call_itself_what_it_likes() -> None:
    driver = Driver(TERMS)
    driver.write(b"EHLO me\r\nXFORWARD NAME=%b HELO=%b IDENT=4A1\r\n" % (b"n" * 300, b"h" * 300))
    driver.write(b"MAIL FROM:<a@b>\r\nRCPT TO:<bob@b.example>\r\nDATA\r\nx\r\n.\r\n")
    ((start, _),) = driver.messages
    assert (start.client, start.queue_id) == (Client(name=b"n" * 255, helo=b"h" * 255), "4A1")


def test_chunks_are_not_counted_as_commands() -> None:
    driver = opened(TERMS._replace(max_message_octets=5000))
    driver.write(b"BDAT 1\r\nx" * 3000)
    assert driver.write(b"RSET\r\n") == b"250 2.0.0 reset\r\n"


def test_long_lines_are_refused_once_and_not_held() -> None:
    for size in (MAX_COMMAND_OCTETS - 1, 100_000):
        line = b"NOOP " + b"x" * (size - 5)
        driver = Driver()
        answer = driver.write(line + b"\r\nNOOP\r\n")
        assert answer == b"500 5.5.2 a command of more than 4096 octets\r\n250 2.0.0 nothing done\r\n"
        driver = Driver()
        for at in range(0, len(line), 999):
            driver.write(line[at : at + 999])
            assert len(driver.machine._buffer) < MAX_COMMAND_OCTETS + 999
        driver.write(b"\r\nNOOP\r\n")
        assert driver.said.endswith(answer) and driver.said.count(b"500 ") == 1
    assert Driver().write(b"NOOP " + b"x" * (MAX_COMMAND_OCTETS - 7) + b"\r\n") == b"250 2.0.0 nothing done\r\n"


def test_long_lines_of_content_are_passed_on() -> None:
    driver = opened(TERMS._replace(max_message_octets=200_000))
    driver.write(b"DATA\r\n" + b"y" * 100_000 + b"\r\n.\r\n")
    assert driver.messages[0][1] == b"y" * 100_000 + b"\r\n"


def test_content_that_is_thrown_away_is_not_held() -> None:
    driver = opened()
    driver.write(b"DATA\r\n")
    for _ in range(50):
        driver.write(b"y" * 10_000)
        assert len(driver.machine._buffer) == 0
    kept = sum(len(event.octets) for event in driver.events if isinstance(event, Content))
    assert kept <= TERMS.max_message_octets
    assert driver.write(b"\r\n.\r\n") == b"552 5.3.4 at most 1000 octets are taken\r\n"


def test_lf_is_answered_before_any_crlf_comes() -> None:
    """Somebody at a terminal is not left waiting."""
    assert Driver().write(b"EHLO me\n").startswith(b"500 5.5.2 a command ends with CR LF")


def test_too_many_errors() -> None:
    for wrong in (b"WHAT\r\n", b"MAIL FROM:<a\r\n", b"NO\nOP\r\n", b"RSET x\r\n"):
        driver = Driver(TERMS._replace(max_transactions=0))
        driver.write(b"EHLO me\r\n")
        driver.write(wrong * (MAX_ERRORS + 5))
        assert driver.machine.is_over
        assert len(re.findall(rb"^50", driver.said, re.MULTILINE)) == MAX_ERRORS
        assert driver.said.endswith(b"421 4.7.0 door.example too many errors\r\n")


def test_a_pipelined_group_behind_a_refused_mail_is_no_abuse() -> None:
    driver = Driver(TERMS._replace(max_recipients=1000))
    driver.write(b"EHLO me\r\nMAIL FROM:<a@b> SIZE=2000\r\n" + b"RCPT TO:<a@b>\r\n" * 1000 + b"DATA\r\nRSET\r\n")
    assert driver.said.count(b"503 5.5.1 say MAIL first") == 1001
    assert driver.said.endswith(b"250 2.0.0 reset\r\n")


def test_a_message_ends_the_counting() -> None:
    driver = Driver(TERMS._replace(max_transactions=0))
    driver.write(b"EHLO me\r\n")
    for _ in range(3):
        driver.write(b"WHAT\r\n" * (MAX_ERRORS - 1) + b"NOOP\r\n" * (MAX_IDLE_COMMANDS - MAX_ERRORS))
        assert driver.write(b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n.\r\n").endswith(b"250 2.0.0 queued\r\n")


def test_too_many_commands() -> None:
    driver = Driver()
    driver.write(b"NOOP\r\n" * (MAX_IDLE_COMMANDS + TERMS.max_recipients))
    assert not driver.machine.is_over
    assert driver.write(b"NOOP\r\nNOOP\r\n") == b"421 4.7.0 door.example too many commands without a message\r\n"


def test_replies_that_nobody_takes_stop_the_machine() -> None:
    machine = SmtpServer(TERMS)
    machine.receive(b"EHLO me\r\n" * 900)
    assert machine.next_event() is None
    assert 16384 < len(machine.output()) < 17000


def test_what_recipients_take_is_bounded() -> None:
    driver = opened(TERMS._replace(max_recipients=10_000))
    line = b"RCPT TO:<%b@b.example>\r\n" % (b"x" * 4000)
    count = MAX_RCPT_OCTETS // len(line) + 1
    assert driver.write(line * count).endswith(b"250 2.1.5 recipient taken\r\n452 4.5.3 too many recipients\r\n")
    assert driver.write(b"DATA\r\n.\r\n").endswith(b"250 2.0.0 queued\r\n")


def test_mailmax() -> None:
    driver = Driver()
    driver.write(b"EHLO me\r\n" + b"MAIL FROM:<>\r\nRSET\r\n" * 9)
    assert driver.write(b"MAIL FROM:<>\r\n").startswith(b"421 4.7.0 ")
    driver = Driver(TERMS._replace(max_transactions=0))
    driver.write(b"EHLO me\r\n" + b"MAIL FROM:<>\r\nRSET\r\n" * 99)
    assert not driver.machine.is_over


def test_replies_fit_their_line() -> None:
    driver = Driver()
    driver.write(b"EHLO me\r\nMAIL FROM:<" + b"\xff" * 4000 + b"\r\nMAIL FROM:<>\r\nRCPT TO:" + b"\xff" * 900 + b"\r\n")
    assert all(len(line) <= 510 for line in driver.said.splitlines())


WORDS = (
    *(b"EHLO me\r\n", b"LHLO me\r\n", b"HELO me\r\n", b"MAIL FROM:<a@b>\r\n", b"RCPT TO:<a@b>\r\n", b"DATA\r\n"),
    *(
        b"RCPT TO:<x@nowhere.example>\r\n",
        b"BDAT 3\r\n",
        b"BDAT 4 LAST\r\n",
        b"BDAT 0 LAST\r\n",
        b".\r\n",
        b"\r\n.\r\n",
    ),
    *(
        b"RSET\r\n",
        b"XFORWARD HELO=x\r\n",
        b"NOOP\r\n",
        b"x",
        b"\r",
        b"\n",
        b".",
        b"\0",
        b"\xff",
        b"MAIL FROM:<full@a>\r\n",
    ),
    *(b"BDAT 2000\r\n", b"y" * 700, MAIL_LINE + b"\r\n", RCPT_LINE + b"\r\n", b"y" * 5000),
)


@pytest.mark.parametrize("seed", range(300))
def test_whatever_comes(seed: int) -> None:
    """Nothing raises, and how the octets are cut changes neither the answers nor the messages."""
    chance = random.Random(seed)
    words = [chance.choice(WORDS) for _ in range(chance.randint(1, 120))]
    if seed % 3 == 0:
        words = [w if chance.random() < 0.8 else chance.randbytes(chance.randint(1, 30)) for w in words]
    sent = b"EHLO me\r\n" * (seed % 2) + b"".join(words)
    whole, cut = Driver(), Driver()
    whole.write(sent)
    while sent:
        size = chance.choice((1, 1, 2, 3, 7, 100))
        cut.write(sent[:size])
        sent = sent[size:]
    assert cut.said == whole.said
    assert [(s.envelope, c) for s, c in cut.messages] == [(s.envelope, c) for s, c in whole.messages]
    assert all(len(c) <= TERMS.max_message_octets for _, c in whole.messages)
    cut.write(b"")
    assert cut.machine.is_over


@pytest.mark.parametrize("seed", range(100))
def test_noise(seed: int) -> None:
    driver = Driver()
    for _ in range(20):
        driver.write(random.Random(seed).randbytes(500))
    assert driver.messages == []


class Pair:
    """Our own client and this machine, back to back."""

    def __init__(self, hello: bytes, terms: Terms = TERMS):
        self.client, self.door = SmtpClient(), Driver(terms)
        self.client.receive(self.door.said)
        self.replies: list[str] = []
        self.read()
        self.ask(Command(Verb.HELLO, hello))

    def ask(self, *commands: Command) -> list[str]:
        return self.pass_on(self.client.send(*commands))

    def pass_on(self, octets: bytes) -> list[str]:
        if octets and (answer := self.door.write(octets)):
            self.client.receive(answer)
        return self.read()

    def read(self) -> list[str]:
        replies = []
        while (event := self.client.next_event()) is not NEED_DATA:
            replies.append(event.reply.status)
        return replies


@pytest.mark.parametrize("hello", [b"EHLO me", b"LHLO me"])
def test_back_to_back(hello: bytes) -> None:
    pair = Pair(hello)
    offer = pair.client.offer
    assert (offer.mta, offer.size_limit_octets, offer.limit(b"RCPTMAX"), offer.limit(b"MAILMAX")) == (
        *(b"door.example", 1000, 5, 9),
    )
    for keyword in (b"PIPELINING", b"8BITMIME", b"SMTPUTF8", b"DSN", b"CHUNKING", b"MT-PRIORITY", b"XFORWARD"):
        assert offer.has(keyword)
    sender, parameters = parse_mail(MAIL_LINE)
    addresses = (b"bob@b", b"x@nowhere.example", b"later@b", b"bob@b")
    rcpts = [parse_rcpt(b"RCPT TO:<%b> NOTIFY=NEVER" % address) for address in addresses]
    for contents in (b".\r\n..\r\n\r\n.x", b"", b"a\r\n" * 300):
        commands = [
            Command(Verb.MAIL, format_mail(sender, parameters)),
            *(Command(Verb.RCPT, format_rcpt(rcpt), number) for number, rcpt in enumerate(rcpts)),
            Command(Verb.DATA, b"DATA"),
        ]
        (group,) = groups(commands, offer.has(b"PIPELINING"))
        assert pair.ask(*group) == ["2.1.0", "2.1.5", "5.1.2", "2.1.5", "2.1.5", "3.0.0"]
        pair.pass_on(pair.client.content(contents))
        replies = pair.pass_on(pair.client.end(*((0, 2, 3) if hello.startswith(b"L") else (0,))))
        assert replies == (["2.0.0", "4.2.0", "2.0.0"] if hello.startswith(b"L") else ["2.0.0"])
        start, arrived = pair.door.messages[-1]
        assert arrived.removesuffix(b"\r\n") == contents.removesuffix(b"\r\n")
        assert start.envelope == (sender, parameters, (rcpts[0], rcpts[2], rcpts[3]))
        assert (start.client, start.queue_id) == (Client(), "")
        assert pair.client.state is State.READY
    assert pair.ask(Command(Verb.RSET, b"RSET")) == ["2.0.0"]
    assert pair.ask(Command(Verb.QUIT, b"QUIT")) == ["2.0.0"]
    assert pair.client.state is State.CLOSED and pair.door.machine.is_over


def test_blanks_in_a_quoted_local_part_part_no_parameters() -> None:
    driver = Driver()
    driver.write(b"EHLO x\r\n")
    assert driver.write(b'MAIL FROM:<"x BODY=BINARYMIME "@a.example>\r\n') == b"250 2.1.0 sender taken\r\n"

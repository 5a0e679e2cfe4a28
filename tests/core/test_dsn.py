"""The decision table of RFC 3461 §5.2, and the fields of RFC 3464."""

import pytest

from batchmail.core import dsn
from batchmail.core.commands import parse_mail, parse_rcpt
from batchmail.core.dsn import Notice
from batchmail.core.envelope import Client, Envelope
from batchmail.core.outcome import DELAYED, DELIVERED, FAILED, PASSED, RELAYED, Outcome

ARRIVAL = 1_800_000_000_000  # Fri, 15 Jan 2027 08:00:00 UTC
TRIED = ARRIVAL + 3_600_000


def envelope(mail, *rcpts):
    sender, parameters = parse_mail(b"MAIL FROM:" + mail)
    return Envelope(sender, parameters, tuple(parse_rcpt(b"RCPT TO:" + rcpt) for rcpt in rcpts))


def outcome(action, recipient=0, code=0, status="", text=b"", mta=b""):
    return Outcome(recipient, action, code, status, text, mta, TRIED)


def fields(mail, rcpts, outcomes, utf8=False, retry_until_ms=None, **notice):
    """The fields as blocks of lists of lines."""
    told = Notice(
        envelope(mail, *rcpts), tuple(outcomes), "ID7", ARRIVAL, **{"site": "cabin.example", "far_site": "x", **notice}
    )
    text = dsn.delivery_status(told, utf8=utf8, retry_until_ms=retry_until_ms)
    assert text.endswith("\r\n")
    return [block.split("\r\n") for block in text.removesuffix("\r\n").split("\r\n\r\n")]


TABLE = {  # NOTIFY -> what is told of: delivered, relayed, failed, delayed
    b"": (None, None, "failed", "delayed"),
    b"NEVER": (None, None, None, None),
    b"SUCCESS": ("delivered", "relayed", None, None),
    b"FAILURE": (None, None, "failed", None),
    b"DELAY": (None, None, None, "delayed"),
    b"SUCCESS,FAILURE": ("delivered", "relayed", "failed", None),
    b"SUCCESS,DELAY": ("delivered", "relayed", None, "delayed"),
    b"delay,Failure": (None, None, "failed", "delayed"),
    b"DELAY,FAILURE,SUCCESS": ("delivered", "relayed", "failed", "delayed"),
}


@pytest.mark.parametrize("notify", TABLE)
@pytest.mark.parametrize("column", range(4))
def test_the_decision_table(notify, column):
    rcpt = b"<bo@far.example>" + (b" NOTIFY=" + notify if notify else b"")
    what = outcome((DELIVERED, RELAYED, FAILED, DELAYED)[column])
    assert dsn.owed(envelope(b"<lena@near.example>", rcpt), what, ARRIVAL) == TABLE[notify][column]
    assert dsn.owed(envelope(b"<>", rcpt), what, ARRIVAL) is None  # never to the null sender


@pytest.mark.parametrize("notify", TABLE)
def test_a_next_hop_that_offers_dsn_has_taken_the_duty_over(notify):
    rcpt = b"<bo@far.example>" + (b" NOTIFY=" + notify if notify else b"")
    assert dsn.owed(envelope(b"<lena@near.example>", rcpt), outcome(PASSED), ARRIVAL) is None


def test_each_recipient_has_its_own_notify():
    both = envelope(b"<lena@near.example>", b"<a@far.example> NOTIFY=NEVER", b"<b@far.example> NOTIFY=FAILURE")
    assert dsn.owed(both, outcome(FAILED, 0), ARRIVAL) is None
    assert dsn.owed(both, outcome(FAILED, 1), ARRIVAL) == "failed"


def test_a_failure_with_everything_that_came_in():
    assert fields(
        b"<lena@near.example> RET=FULL ENVID=in+2D07+20x+2by",
        [b"<ola@far.example> NOTIFY=FAILURE ORCPT=rfc822;Ola+2bpost@Far.example"],
        [outcome(FAILED, 0, 550, "5.1.1", b"5.1.1 nobody here", b"mx.far.example")],
        received_from=Client(helo=b"mail.near.example"),
    ) == [
        [
            "Original-Envelope-Id: in-07 x+y",
            "Reporting-MTA: dns; cabin.example",
            "Received-From-MTA: dns; mail.near.example",
            "Arrival-Date: Fri, 15 Jan 2027 08:00:00 +0000",
        ],
        [
            "Original-Recipient: rfc822; Ola+post@Far.example",
            "Final-Recipient: rfc822; ola@far.example",
            "Action: failed",
            "Status: 5.1.1",
            "Remote-MTA: dns; mx.far.example",
            "Diagnostic-Code: smtp; 550 5.1.1 nobody here",
            "Last-Attempt-Date: Fri, 15 Jan 2027 09:00:00 +0000",
            "Final-Log-ID: ID7",
        ],
    ]


def test_a_delay_with_nothing_that_came_in():
    assert fields(
        b"<lena@near.example>",
        [b"<a@far.example>", b"<b@far.example>"],
        [outcome(DELAYED, i, 0, "4.4.1", b"no contact yet") for i in range(2)],
        retry_until_ms=ARRIVAL + 86_400_000,
        site="cabin",
    ) == [
        ["Reporting-MTA: x-local-hostname; cabin", "Arrival-Date: Fri, 15 Jan 2027 08:00:00 +0000"],
        *(
            [
                f"Final-Recipient: rfc822; {name}@far.example",
                "Action: delayed",
                "Status: 4.4.1",
                "Diagnostic-Code: x-batchmail; no contact yet",
                "Final-Log-ID: ID7",
                "Will-Retry-Until: Sat, 16 Jan 2027 08:00:00 +0000",
            ]
            for name in "ab"
        ),
    ]


def test_expired_keeps_the_code_of_the_last_try_and_the_reply_all_its_lines():
    _, block = fields(
        b"<lena@near.example>",
        [b"<a@far.example>"],
        [outcome(FAILED, 0, 452, "4.2.2", b"box is full\r\n\nask again", b"mx.far.example")],
        retry_until_ms=TRIED,
    )
    assert block[1:6] == [
        "Action: failed",
        "Status: 4.2.2",
        "Remote-MTA: dns; mx.far.example",
        "Diagnostic-Code: smtp; 452-4.2.2 box is full",
        " 452-4.2.2",
    ]
    assert block[6] == " 452 4.2.2 ask again"
    assert not any(line.startswith("Will-Retry-Until") for line in block)


@pytest.mark.parametrize(
    ("action", "status", "shown"),
    [
        (FAILED, "5.7.1", "5.7.1"),
        (FAILED, "4.4.7", "4.4.7"),  # expired: the class does not make it a delay
        (FAILED, "2.0.0", "5.0.0"),
        (FAILED, "", "5.0.0"),
        (FAILED, "5.01.1", "5.0.0"),
        (FAILED, "5.1.1\r\nX: y", "5.0.0"),
        (FAILED, "5.1.1\n", "5.0.0"),
        (DELAYED, "5.1.1", "4.0.0"),
        (RELAYED, "2.1.5", "2.1.5"),
        (DELIVERED, "5.1.1", "2.0.0"),
    ],
)
def test_the_status_is_well_formed_and_fits_the_action(action, status, shown):
    assert dsn.status(outcome(action, status=status)) == shown


@pytest.mark.parametrize(
    ("code", "status", "text", "lines"),
    [
        (550, "5.1.1", b"no", ["550 5.1.1 no"]),
        (550, "5.1.1", b"5.1.1 no", ["550 5.1.1 no"]),
        (550, "5.0.0", b"no such user", ["550 no such user"]),  # the server gave no enhanced code
        (250, "2.0.0", b"", ["250"]),
        (250, "2.0.0", b"a\n\nb", ["250-a", "250-", "250 b"]),
        (0, "5.3.5", b"our words\nand more\n", ["our words", "and more"]),
        (0, "5.0.0", b"", []),
        (554, "5.0.0", b"\xc3\xa6\xff\tx\x1b[2J\r\x00\xe2\x80\xa8Bcc: y", ["554 ?? x?[2J???Bcc: y"]),
    ],
)
def test_what_was_said(code, status, text, lines):
    action = RELAYED if code == 250 else FAILED
    assert dsn.reply_lines(outcome(action, 0, code, status, text), utf8=False) == lines


def test_utf8_surroundings_keep_utf8_and_still_no_controls():
    said = outcome(FAILED, 0, 550, "5.0.0", "nei, ikke på øya\x85\u2028\u202ex".encode())
    assert dsn.reply_lines(said, utf8=True) == ["550 nei, ikke på øya???x"]


def test_no_line_grows_beyond_998_octets():
    long = b"x" * 100_000
    said = outcome(FAILED, 0, 550, "5.1.1", b"y\n" * 5 + "ø".encode() * 90_000, long)
    for utf8 in False, True:
        block = fields(b"<lena@near.example>", [b"<" + b"a" * 3000 + b"@x.example>"], [said], utf8=utf8)
        assert max(len(line.encode()) for line in block[1]) <= 998
        assert len("".join(block[1])) < 10_000


ADDRESSES = [  # RCPT and ORCPT, then Original-Recipient and Final-Recipient in ASCII and in UTF-8 surroundings
    (
        "jø@bås.example",
        r"utf-8;jø@bås.example",
        (r"utf-8; j\x{F8}@b\x{E5}s.example",) * 2,
        ("utf-8; jø@bås.example",) * 2,
    ),
    (
        "a@x.example",
        r"utf-8;j\x{F8}\x{2B}\x{1F600}@x.example",
        (r"utf-8; j\x{F8}\x{2B}\x{1F600}@x.example", "rfc822; a@x.example"),
        ("utf-8; jø+😀@x.example", "rfc822; a@x.example"),
    ),
    *(  # cannot be read, or would be dangerous when read: copied
        (
            "a@x.example",
            f"utf-8;{bad}",
            (f"utf-8; {bad}", "rfc822; a@x.example"),
            (f"utf-8; {bad}", "rfc822; a@x.example"),
        )
        for bad in (r"\x{D800}@x", r"\x{FFFFFF}@x", r"\x{0A}Bcc:\x{0D}@x", r"\x{2028}@x")
    ),
    (
        "å=b+c@x.example",
        "x400;/C+3Dno/S+3DBo+2B/",
        ("x400; /C=no/S=Bo+/", r"utf-8; \x{E5}\x{3D}b\x{2B}c@x.example"),
        ("x400; /C=no/S=Bo+/", "utf-8; å=b+c@x.example"),
    ),
]


@pytest.mark.parametrize(("rcpt", "orcpt", "ascii_forms", "utf8_forms"), ADDRESSES)
def test_addresses_in_both_surroundings(rcpt, orcpt, ascii_forms, utf8_forms):
    for utf8, forms in ((False, ascii_forms), (True, utf8_forms)):
        _, block = fields(b"<lena@near.example>", [f"<{rcpt}> ORCPT={orcpt}".encode()], [outcome(FAILED)], utf8=utf8)
        assert block[:2] == [f"Original-Recipient: {forms[0]}", f"Final-Recipient: {forms[1]}"]


def test_an_address_that_is_not_utf8_is_shown_as_far_as_it_goes():
    _, block = fields(b"<lena@near.example>", [b"<j\xf8@x.example>"], [outcome(FAILED)])
    assert block[0] == "Final-Recipient: rfc822; j?@x.example"


@pytest.mark.parametrize(
    ("client", "line"),
    [
        (Client(), None),
        (Client(address=b"192.0.2.7"), None),
        (Client(b"192.0.2.7", b"n.example", b"h.example", b"ESMTP"), "dns; h.example ([192.0.2.7])"),
        (Client(b"2001:db8::1", b"n.example"), "dns; n.example ([2001:db8::1])"),
        (Client(helo=b"a (b)\r\nX: y"), "dns; a??b???X:?y"),
        (Client(helo=b"desk"), "x-local-hostname; desk"),
    ],
)
def test_whom_it_came_from(client, line):
    block, _ = fields(b"<lena@near.example>", [b"<a@x.example>"], [outcome(FAILED)], received_from=client)
    assert [x for x in block if x.startswith("Received-From-MTA")] == ([f"Received-From-MTA: {line}"] if line else [])


def test_a_clock_of_the_far_future_is_only_a_date():
    assert dsn.date(2**53 - 1) == "Fri, 31 Dec 9999 23:59:59 +0000"

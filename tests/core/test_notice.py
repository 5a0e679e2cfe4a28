"""Whole notices, read back by Python's email package and, where there is one, by flufl.bounce."""

import email.policy
from email import message_from_bytes

import pytest

from batchmail.core import notice
from batchmail.core.commands import parse_mail, parse_rcpt
from batchmail.core.dsn import Notice
from batchmail.core.envelope import Client, Envelope
from batchmail.core.outcome import DELAYED, DELIVERED, FAILED, RELAYED, Outcome

ARRIVAL = 1_800_000_000_000
BOUNDARY = notice.make_boundary(bytes(range(10)))
ORIGINAL = (
    b"From: Lena <lena@near.example>\r\nMessage-ID: <77.a@near.example>\r\nSubject: Charts\r\n"
    b" =?utf-8?q?m=C3=A5ned?=\r\n\r\nThe charts are here.\r\n\r\n..\r\n"
)


def told(mail, rcpts, *outcomes, **more):
    sender, parameters = parse_mail(b"MAIL FROM:" + mail)
    envelope = Envelope(sender, parameters, tuple(parse_rcpt(b"RCPT TO:" + rcpt) for rcpt in rcpts))
    values = {
        "site": "cabin.example",
        "far_site": "cabin.example",
        "received_from": Client(helo=b"hub.example"),
        **more,
    }
    return Notice(envelope, outcomes, "0ID", ARRIVAL, **values)


def refused(recipient=0, text=b"nobody here", action=FAILED, code=550, status="5.1.1", mta=b"mx.far.example"):
    return Outcome(recipient, action, code, status, text, mta, ARRIVAL + 60_000)


def composed(what, original=ORIGINAL, chunk=7, **more):
    """Envelope and octets, with the original handed over in small chunks."""

    def content():
        return (original[i : i + chunk] for i in range(0, len(original), chunk))

    arguments = {
        "me": "hub.example",
        "message_id": "<n.0ID@hub.example>",
        "boundary": BOUNDARY,
        "now_ms": ARRIVAL + 120_000,
        "max_return_octets": 100_000,
    }
    envelope, chunks = notice.compose(what, None if original is None else content, **(arguments | more))
    return envelope, b"".join(chunks)


def parsed(octets):
    """The message and its parts' media types; nothing in it may be a defect to Python's parser."""
    assert b"\n" not in octets.replace(b"\r\n", b"")
    assert b"\r" not in octets.replace(b"\r\n", b"")
    message = message_from_bytes(octets, policy=email.policy.default)
    for part in message.walk():
        assert not part.defects
        for value in part.values():
            assert not value.defects or not value.isascii()  # Python's parser knows nothing of RFC 6532
    assert message.get_content_type() == "multipart/report"
    assert message["Content-Type"].params["report-type"] == "delivery-status"
    return message, [part.get_content_type() for part in message.iter_parts()]


def part(octets, number):
    """The content of the part `number`, from 0, exactly as it stands."""
    piece = octets.split(b"\r\n--" + BOUNDARY.encode())[number + 1]
    return piece.partition(b"\r\n\r\n")[2]


def test_a_failure_comes_back_whole():
    what = told(
        b"<lena@near.example> RET=FULL ENVID=in+2B07",
        [b"<ola@far.example> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Ola@Far.example"],
        refused(),
    )
    envelope, octets = composed(what)
    assert (envelope.sender, envelope.parameters) == (b"", ())
    assert [(r.address, *map(bytes, r.parameters)) for r in envelope.recipients] == [
        (b"lena@near.example", b"NOTIFY=NEVER")
    ]
    message, types = parsed(octets)
    assert types == ["text/plain", "message/delivery-status", "message/rfc822"]
    assert message["From"] == "Mail Delivery System <postmaster@hub.example>"
    assert message["To"] == "lena@near.example"
    assert message["Date"] == "Fri, 15 Jan 2027 08:02:00 +0000"
    assert message["Message-ID"] == "<n.0ID@hub.example>"
    assert message["Subject"] == "Undeliverable: Charts måned"
    assert b"\r\nSubject: Undeliverable: Charts =?utf-8?q?m=C3=A5ned?=\r\n" in octets
    assert message["Auto-Submitted"] == "auto-replied"
    assert message["In-Reply-To"] == "<77.a@near.example>"
    assert "Content-Transfer-Encoding" not in message
    assert part(octets, 2) == ORIGINAL
    blocks = part(octets, 1).decode().split("\r\n\r\n")
    assert blocks[0].startswith("Original-Envelope-Id: in+07\r\nReporting-MTA: dns; cabin.example\r\n")
    assert "Received-From-MTA: dns; hub.example\r\n" in blocks[0]
    assert "\r\nDiagnostic-Code: smtp; 550 5.1.1 nobody here\r\n" in blocks[1]
    words = part(octets, 0).decode()
    assert "  <ola@far.example>\r\n      mx.far.example said:\r\n      550 5.1.1 nobody here\r\n" in words
    assert "no further attempt" in words
    assert "cabin.example, to which there is a connection only from time to time" in " ".join(words.split())
    assert max(map(len, words.splitlines())) <= 78


def test_the_empty_sender_and_those_who_asked_for_silence_cause_no_notice():
    for mail, rcpt in (b"<>", b"<a@x.example>"), (b"<lena@near.example>", b"<a@x.example> NOTIFY=NEVER"):
        with pytest.raises(ValueError, match="0ID"):
            composed(told(mail, [rcpt], refused()))


def test_mixed_outcomes_in_one_notice_without_those_not_owed():
    rcpts = [
        b"<gone@far.example>",
        b"<silent@far.example> NOTIFY=NEVER ORCPT=rfc822;hush@far.example",
        b"<fine@far.example> NOTIFY=SUCCESS",
        b"<quiet@far.example>",
        b"<full@far.example> NOTIFY=FAILURE",
        b"<slow@far.example> NOTIFY=DELAY",
    ]
    outcomes = (
        refused(0),
        refused(1, b"silence was asked"),
        refused(2, b"taken", RELAYED, 250, "2.0.0"),
        refused(3, b"taken quietly", DELIVERED, 250, "2.0.0"),
        refused(4, b"box full", FAILED, 452, "4.2.2"),
        refused(5, b"busy", DELAYED, 451, "4.3.2"),
    )
    what = told(b"<lena@near.example>", rcpts, *outcomes)
    _, octets = composed(what, retry_until_ms=ARRIVAL + 10 * 86_400_000)
    message, _ = parsed(octets)
    for hidden in b"silent", b"hush", b"silence", b"quiet":
        assert hidden not in octets
    status = message.get_payload(1).get_payload()
    assert [(block["Final-Recipient"], block["Action"]) for block in status[1:]] == [
        ("rfc822; gone@far.example", "failed"),
        ("rfc822; fine@far.example", "relayed"),
        ("rfc822; full@far.example", "failed"),
        ("rfc822; slow@far.example", "delayed"),
    ]
    assert [block["Will-Retry-Until"] for block in status[1:]] == [None] * 3 + ["Mon, 25 Jan 2027 08:00:00 +0000"]
    words = part(octets, 0)
    assert b"If it does not succeed by then" not in part(octets, 0), "asked for DELAY alone"
    assert words.index(b"gone@") < words.index(b"full@") < words.index(b"slow@") < words.index(b"fine@")
    assert b"said on the last attempt, and the time for more is over:\r\n      452 4.2.2 box full" in words
    assert b"Delivery will be tried until Mon, 25 Jan 2027 08:00:00 +0000." in words
    assert message["Subject"].startswith("Undeliverable: ")


@pytest.mark.parametrize(("by", "confirms"), [(b"", False), (b" BY=9;NT", True)])
def test_where_it_was_handed_on_because_of_its_time_a_confirmation_may_yet_come(by, confirms):
    what = told(
        b"<lena@near.example>" + by,
        [b"<a@x.example> NOTIFY=SUCCESS"],
        refused(action=RELAYED, code=250, status="2.0.0"),
    )
    _, octets = composed(what)
    assert (b"Expect no further report on success" in part(octets, 0)) is not confirms
    assert b"handed on to " in part(octets, 0)


RETURNED = [  # RET, action, limit -> media type of what comes back
    (b"", FAILED, 10_000, "message/rfc822"),
    (b" RET=FULL", FAILED, len(ORIGINAL), "message/rfc822"),
    (b" RET=FULL", FAILED, len(ORIGINAL) - 1, "text/rfc822-headers"),
    (b" RET=hdrs", FAILED, 10_000, "text/rfc822-headers"),
    (b" RET=FULL", DELAYED, 10_000, "text/rfc822-headers"),
    (b" RET=FULL", RELAYED, 10_000, "text/rfc822-headers"),
    (b" RET=FULL", DELIVERED, 10_000, "text/rfc822-headers"),
]


@pytest.mark.parametrize(("ret", "action", "limit", "media_type"), RETURNED)
@pytest.mark.parametrize("chunk", [1, 3, 10_000])
def test_what_comes_back(ret, action, limit, media_type, chunk):
    what = told(
        b"<lena@near.example>" + ret,
        [b"<a@x.example> NOTIFY=SUCCESS,FAILURE,DELAY"],
        refused(action=action, status="", code=0),
    )
    _, octets = composed(what, max_return_octets=limit, chunk=chunk)
    _, types = parsed(octets)
    assert types[2] == media_type
    whole = media_type == "message/rfc822"
    assert part(octets, 2) == (ORIGINAL if whole else ORIGINAL.partition(b"\r\n\r\n")[0] + b"\r\n")
    assert (b"It is attached" in octets, b"Its header is attached" in octets) == (whole, not whole)


def test_without_the_original_there_are_two_parts():
    _, octets = composed(told(b"<lena@near.example>", [b"<a@x.example>"], refused()), original=None)
    message, types = parsed(octets)
    assert types == ["text/plain", "message/delivery-status"]
    assert message["Subject"] == "Undeliverable: your message"
    assert b"attached" not in octets


@pytest.mark.parametrize("original", [b"", b"\r\nno header here\r\n", b"x" * 200_000 + b"\r\n\r\n"])
def test_an_original_without_a_header(original):
    _, octets = composed(told(b"<lena@near.example> RET=HDRS", [b"<a@x.example>"], refused()), original)
    assert parsed(octets)[1][2] == "text/rfc822-headers"
    assert part(octets, 2) == b""


def test_a_huge_header_is_cut_at_a_line_and_its_long_lines_are_folded():
    header = b"Subject: x\r\nX-Long: " + "ø".encode() * 3000 + b"\r\n" + b"Received: by somebody\r\n" * 40_000
    _, octets = composed(told(b"<lena@near.example>", [b"<a@x.example>"], refused()), header + b"\r\nbody\r\n", 65_536)
    parsed(octets)
    returned = part(octets, 2)
    assert returned.endswith(b"Received: by somebody\r\n")
    assert 60_000 < len(returned) <= 65_600
    assert max(map(len, octets.split(b"\r\n"))) <= 998
    assert returned.replace(b"\r\n ", b"") == header[: len(returned.replace(b"\r\n ", b""))]


def test_a_message_with_a_line_that_no_transport_takes_comes_back_as_its_header():
    for length, media_type in (998, "message/rfc822"), (999, "text/rfc822-headers"):
        original = b"Subject: x\r\n\r\n" + b"y" * length + b"\r\n"
        _, octets = composed(told(b"<lena@near.example>", [b"<a@x.example>"], refused()), original)
        assert parsed(octets)[1][2] == media_type


def test_a_large_message_is_drawn_chunk_by_chunk_and_not_before():
    opened = []

    def content():
        opened.append(0)
        for _ in range(1000):
            opened[-1] += 1
            yield b"x: " + b"y" * 95 + b"\r\n"

    what = told(b"<lena@near.example>", [b"<a@x.example>"], refused())
    arguments = {"me": "hub.example", "message_id": "<n@hub.example>", "boundary": BOUNDARY, "now_ms": ARRIVAL}
    _, chunks = notice.compose(what, content, **(arguments | {"max_return_octets": 1_000_000}))
    assert len(opened) == 2  # header, survey
    while len(opened) == 2:
        next(chunks)
    assert opened[2] == 1
    notice.compose(what, content, **(arguments | {"max_return_octets": 1000}))
    assert opened[-1] == 11  # no further than the limit


def test_eight_bit_content_comes_back_as_it_is():
    original = b"Subject: =?iso-8859-1?q?=F8?=\r\nContent-Type: text/plain; charset=iso-8859-1\r\n\r\n\xf8\xff\r\n"
    envelope, octets = composed(told(b"<lena@near.example>", [b"<a@x.example>"], refused()), original)
    assert list(map(bytes, envelope.parameters)) == [b"BODY=8BITMIME"]
    message, types = parsed(octets)
    assert types == ["text/plain", "message/delivery-status", "message/rfc822"]
    assert message["Content-Transfer-Encoding"] == message.get_payload(2)["Content-Transfer-Encoding"] == "8bit"
    assert message.get_payload(1)["Content-Transfer-Encoding"] is None
    assert part(octets, 2) == original
    # its header is ASCII, and so is all the rest
    envelope, octets = composed(told(b"<lena@near.example> RET=HDRS", [b"<a@x.example>"], refused()), original)
    assert octets.isascii()
    assert envelope.parameters == ()


def test_raw_eight_bit_in_a_header_does_not_need_smtputf8():
    original = "Subject: på øya\r\n\r\nx\r\n".encode()
    envelope, octets = composed(told(b"<lena@near.example>", [b"<a@x.example>"], refused(text="ø".encode())), original)
    assert list(map(bytes, envelope.parameters)) == [b"BODY=8BITMIME"]
    message, types = parsed(octets)
    assert types == ["text/plain", "message/delivery-status", "message/rfc822"]
    assert message["Subject"] == "Undeliverable: på øya"
    assert octets.partition(b"\r\n\r\n")[0].isascii()
    assert part(octets, 0).isascii()


UTF8_ORIGINAL = "From: å@near.example\r\nTo: jø@bås.example\r\nSubject: Kart over øya\r\n\r\nHei\r\n".encode()
UTF8 = [  # sender, recipient, SMTPUTF8, original -> is the notice SMTPUTF8, media types
    ("å@near.example", "jø@bås.example", True, UTF8_ORIGINAL, True, "global-delivery-status", "global"),
    ("a@near.example", "jø@bås.example", True, ORIGINAL, True, "global-delivery-status", "rfc822"),
    ("a@near.example", "j@bs.example", True, UTF8_ORIGINAL, True, "delivery-status", "global"),
    ("a@near.example", "j@bs.example", True, ORIGINAL, False, "delivery-status", "rfc822"),
    ("a@near.example", "j@bs.example", True, b"X: \xff\r\n\r\n", False, "delivery-status", "rfc822"),
    ("a@near.example", "jø@bås.example", False, ORIGINAL, False, "delivery-status", "rfc822"),
    ("å@near.example", "j@bs.example", False, ORIGINAL, True, "delivery-status", "rfc822"),
]


@pytest.mark.parametrize(("sender", "rcpt", "smtputf8", "original", "utf8", "status", "returned"), UTF8)
def test_utf8_forms_only_where_they_are_needed(sender, rcpt, smtputf8, original, utf8, status, returned):
    mail = f"<{sender}>{' SMTPUTF8' if smtputf8 else ''}".encode()
    envelope, octets = composed(told(mail, [f"<{rcpt}>".encode()], refused()), original)
    assert (b"SMTPUTF8" in [p.name for p in envelope.parameters]) == utf8
    assert envelope.recipients[0].address == sender.encode()
    message, types = parsed(octets)
    assert types[1:] == [f"message/{status}", f"message/{returned}"]
    assert octets.partition(b"\r\n\r\n")[0].isascii() or utf8
    if status == "global-delivery-status":
        assert f"Final-Recipient: utf-8; {rcpt}\r\n".encode() in part(octets, 1)
        assert message.get_payload(1)["Content-Transfer-Encoding"] == "8bit"
    else:
        assert part(octets, 1).isascii()
    assert f"To: {sender}\r\n".encode() in octets


def test_utf8_headers_only():
    what = told("<å@near.example> SMTPUTF8 RET=HDRS".encode(), [b"<a@x.example>"], refused(text="på øya".encode()))
    _, octets = composed(what, UTF8_ORIGINAL)
    _, types = parsed(octets)
    assert types == ["text/plain", "message/global-delivery-status", "message/global-headers"]
    assert "550 5.1.1 på øya".encode() in part(octets, 0)
    assert b"Content-Type: message/global-headers\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" in octets
    assert "Subject: Undeliverable: Kart over øya\r\n".encode() in octets


SUBJECTS = [  # of the original, of the notice as it stands
    (b"Subject: Charts\r\n", b"Undeliverable: Charts"),
    (b"sUBJECT : \r\n \r\n Charts\r\n", b"Undeliverable: Charts"),
    (b"Subject:\r\n", b"Undeliverable: your message"),
    (b"X-Subject: no\r\n Subject: nor this\r\n", b"Undeliverable: your message"),
    (b"Subject: one\r\nSubject: two\r\n", b"Undeliverable: one"),
    (b"Subject: a\rBcc: b\nCc: c\r\n", b"Undeliverable: a"),
    (b"Subject: a\x00\x0b\x1b[2J\t\x7fb\r\n\tc\r\n", b"Undeliverable: a???[2J ?b c"),
    (b"Subject: =?utf-8?q?" + b"x" * 60 + b"?=\r\n", b"Undeliverable:\r\n =?utf-8?q?" + b"x" * 60 + b"?="),
    (b"Subject: " + b"w" * 5000 + b"\r\n", b"Undeliverable: ..."),
    (b"Subject: " + b"word " * 5000 + b"\r\n", None),
    (b"Subject: \xff\xfe\r\n", b"Undeliverable: =?utf-8?b?77+977+9?="),
]


@pytest.mark.parametrize(("field", "subject"), SUBJECTS)
def test_subjects(field, subject):
    original = field + b"X: y\r\n\r\n"
    _, octets = composed(told(b"<lena@near.example> RET=HDRS", [b"<a@x.example>"], refused()), original)
    head = octets.partition(b"\r\n\r\n")[0]
    found = head.partition(b"\r\nSubject: ")[2].partition(b"\r\nAuto-Submitted")[0]
    assert subject in (None, found)
    assert len(found) < 350
    assert max(map(len, found.split(b"\r\n"))) < 79
    assert [line.partition(b":")[0] for line in head.split(b"\r\n") if line[:1] != b" "][:6] == [
        b"From", b"To", b"Date", b"Message-ID", b"Subject", b"Auto-Submitted"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("field", "in_reply_to"),
    [
        (b"Message-ID: <a.b$c=d+e/f:g@[192.0.2.1]>", "<a.b$c=d+e/f:g@[192.0.2.1]>"),
        (b"MESSAGE-ID:\r\n <a@b>", "<a@b>"),
        (b"Message-ID: a@b", None),
        (b"Message-ID: <a@b> <c@d>", None),
        (b"Message-ID: <a\rBcc: x@b>", None),
        (b"Message-ID: <" + b"(" * 5000 + b"@b>", None),
        (b"Message-ID: <" + b"a" * 250 + b"@b>", None),
        (b"Message-ID: <\xc3\xb8@b>", None),
    ],
)
def test_the_message_id_is_quoted_if_it_is_harmless(field, in_reply_to):
    original = field + b"\r\n\r\n"
    _, octets = composed(told(b"<lena@near.example>", [b"<a@x.example>"], refused()), original)
    message = message_from_bytes(octets.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")  # the old policy looks into nothing
    assert message["In-Reply-To"] == in_reply_to


@pytest.mark.parametrize(
    ("sender", "to"),
    [
        (b"lena+x@near.example", "lena+x@near.example"),
        (b'"le na"@near.example', '"le na"@near.example'),
        (b"a,b(c)@near.example", '"a,b(c)"@near.example'),
        (b"lena@[192.0.2.1]", "lena@[192.0.2.1]"),
        (b"root", "root"),
        (b"a@b,c@near.example", '"a@b,c"@near.example'),
        (b"lena@x,bcc.example", "undisclosed-recipients:;"),
        (b"a" * 2000 + b"@near.example", "undisclosed-recipients:;"),
        (b"@relay.example,@hub.example:lena@near.example", "lena@near.example"),  # a source route is cut
    ],
)
def test_the_sender_in_the_header(sender, to):
    envelope, octets = composed(told(b"<" + sender + b">", [b"<a@x.example>"], refused()))
    assert f"\r\nTo: {to}\r\n".encode() in octets.partition(b"\r\n\r\n")[0]
    if to != "undisclosed-recipients:;":
        assert envelope.recipients[0].address == (to.encode() if b"," not in sender or b":" in sender else sender)


def test_hostile_replies_start_no_line_and_no_part():
    evil = (
        b"x\r\nBcc: victim@x.example\n\r\n--"
        + BOUNDARY.encode()
        + b"--\x00\x0b\x0c\x85\xe2\x80\xa9Action: delivered\n.\n"
        b"Final-Recipient: rfc822; other@x.example"
    )
    what = told(
        b"<lena@near.example> ENVID=a+20Action:+20b",
        [b'<"a b>\\"@@"@x.example> ORCPT=x-y;c+20Status:+202.0.0'],
        refused(text=evil, mta=b"mx\r\nAction: delivered (", status="5.1.1\r\nX: y"),
        received_from=Client(b"1.2\r\nX: y", b"", b"h\r\nX: y"),
    )
    _, octets = composed(what)
    message, types = parsed(octets)
    assert types == ["text/plain", "message/delivery-status", "message/rfc822"]
    assert message["Bcc"] is None
    status = message.get_payload(1).get_payload()
    assert len(status) == 2
    assert "X" not in status[0]
    assert status[1].get_all("Action") == ["failed"]
    assert status[1].get_all("Final-Recipient") == ['rfc822; "a b>\\"@@"@x.example']
    assert status[1].get_all("Status") == ["5.0.0"]


def test_no_generated_line_is_longer_than_998_octets():
    address = b"b" * 3500 + b"@x.example"
    what = told(b"<" + address + b">", [b"<" + address + b">"], refused(text=b"y" * 9000, mta=b"m" * 9000))
    _, octets = composed(what)
    assert max(map(len, octets.split(b"\r\n"))) <= 998
    assert len(octets) < 10_000


def test_the_same_arguments_give_the_same_octets():
    what = told(b"<lena@near.example>", [b"<a@x.example>"], refused())
    assert composed(what) == composed(what)


def test_a_bounce_parser_finds_the_addresses():
    scanner = pytest.importorskip("flufl.bounce")
    rcpts = [b"<gone@far.example>", b"<late@far.example>", b"<fine@far.example> NOTIFY=SUCCESS"]
    failed = told(b"<lena@near.example>", rcpts, refused(0), refused(2, b"ok", RELAYED, 250, "2.0.0"))
    delayed = told(b"<lena@near.example>", rcpts, refused(1, b"away", DELAYED, 0, "4.4.1", b""))
    assert scanner.all_failures(message_from_bytes(composed(failed)[1])) == (set(), {b"gone@far.example"})
    assert scanner.all_failures(message_from_bytes(composed(delayed)[1])) == ({b"late@far.example"}, set())

"""What an envelope becomes for a server: order and spelling stay, and what it cannot be given is not sent."""

import pytest

from batchmail.core.commands import parse_mail, parse_rcpt
from batchmail.core.envelope import Envelope, Recipient
from batchmail.proto.smtp_offer import Content, Offer, plan

EVERYTHING = Offer(keywords=dict.fromkeys((b"SIZE", b"8BITMIME", b"SMTPUTF8", b"DSN", b"AUTH", b"MT-PRIORITY"), b""))
CONTENT = Content(4711, eightbit=False, utf8_header=False)


def mail(words: str, offer: Offer = EVERYTHING, content: Content = CONTENT, authenticated: bool = False) -> str:
    sender, parameters = parse_mail(f"MAIL FROM:<a@b> {words}".encode())
    envelope = Envelope(sender, parameters, (Recipient(b"c@d"),))
    return " ".join(bytes(p).decode() for p in plan(envelope, [0], content, offer, authenticated).parameters)


@pytest.mark.parametrize(
    "words",
    [
        "SMTPUTF8 BODY=8BITMIME SIZE=4711",
        "size=4711 smtputf8 Body=8bitmime",
        "ENVID=x RET=hdrs SIZE=4711 MT-PRIORITY=-3 BODY=7bit",
        "Ret=FULL SIZE=4711 EnvId=+41",
    ],
)
def test_parameters_keep_their_order_and_spelling(words: str) -> None:
    assert mail(words) == words.replace("size=", "SIZE=")


def test_those_of_a_recipient_do_too() -> None:
    line = b"RCPT TO:<c@d> OrCpt=rfc822;C@d notify=delay,FAILURE"
    envelope = Envelope(b"a@b", (), (parse_rcpt(line),))
    ((_, recipient),) = plan(envelope, [0], CONTENT, EVERYTHING).recipients
    assert recipient == parse_rcpt(line)


def test_hex_digits_are_sent_as_strict_servers_want_them() -> None:
    assert mail("SIZE=4711 ENVID=a+2b+3Db+2fc RET=FULL") == "SIZE=4711 ENVID=a+2B+3Db+2Fc RET=FULL"
    assert mail("ENVID=a+2b", Offer()) == ""
    envelope = Envelope(b"a@b", (), (parse_rcpt(b"RCPT TO:<c@d> ORCPT=rfc822;cc+3dcc@dd NOTIFY=never"),))
    ((_, recipient),) = plan(envelope, [0], CONTENT, EVERYTHING).recipients
    assert recipient == parse_rcpt(b"RCPT TO:<c@d> ORCPT=rfc822;cc+3Dcc@dd NOTIFY=never")
    envelope = Envelope(b"a@b", (), (parse_rcpt("RCPT TO:<c@d> ORCPT=utf-8;\u00fc\\x{2b}@dd".encode()),))
    ((_, recipient),) = plan(envelope, [0], CONTENT, EVERYTHING).recipients
    assert recipient.parameters[0].value == rb"utf-8;\x{FC}\x{2b}@dd"


def test_the_size_is_that_of_what_is_sent() -> None:
    assert mail("RET=FULL SIZE=1 ENVID=x") == "RET=FULL SIZE=4711 ENVID=x"
    assert mail("RET=FULL") == "SIZE=4711 RET=FULL"


def test_what_is_not_offered_is_not_sent() -> None:
    bare = Offer(keywords={b"8BITMIME": b""})
    assert mail("RET=FULL SIZE=1 BODY=7BIT SMTPUTF8 AUTH=<> MT-PRIORITY=1", bare) == "BODY=7BIT"


def test_8_bit_content_is_called_that() -> None:
    content = CONTENT._replace(eightbit=True)
    assert mail("BODY=7BIT RET=FULL SIZE=1", content=content) == "BODY=8BITMIME RET=FULL SIZE=4711"
    assert mail("body=8bitmime SIZE=1", content=content) == "body=8bitmime SIZE=4711"


def test_only_a_server_that_one_is_authenticated_to_is_told_who_is() -> None:
    assert mail("AUTH=x+40y SIZE=1") == "SIZE=4711"
    assert mail("AUTH=x+40y SIZE=1", authenticated=True) == "AUTH=x+40y SIZE=4711"
    assert mail("SIZE=1", authenticated=True) == "AUTH=<> SIZE=4711"

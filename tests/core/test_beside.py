"""Parameters beside the text: chosen, matched by address, less SUCCESS."""

import pytest

from batchmail.core.beside import Beside, from_commands, from_options, join, without_success
from batchmail.core.commands import parse_mail, parse_rcpt
from batchmail.core.envelope import Envelope, Parameter, Recipient, format_mail, format_rcpt


def _envelope(mail: bytes, *rcpts: bytes) -> Envelope:
    return Envelope(*parse_mail(mail), tuple(map(parse_rcpt, rcpts)))


def _commands(envelope: Envelope) -> list[bytes]:
    return [format_mail(envelope.sender, envelope.parameters), *map(format_rcpt, envelope.recipients)]


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        (b"SUCCESS", b"NEVER"),
        (b"success", b"NEVER"),
        (b"NEVER", b"NEVER"),
        (b"FAILURE", b"FAILURE"),
        (b"SUCCESS,FAILURE,DELAY", b"FAILURE,DELAY"),
        (b"Delay,Success", b"Delay"),
    ],
)
def test_success_was_reported_already(asked, left):
    assert without_success(Parameter(b"Notify", asked)) == Parameter(b"Notify", left)
    assert from_options(b"", b"", asked, b"").rcpt == (Parameter(b"NOTIFY", left),)
    assert from_commands(b"", b"RCPT TO:<a@b> NOTIFY=" + asked).recipients == (
        Recipient(b"a@b", (Parameter(b"NOTIFY", left),)),
    )


def test_options():
    told = from_options(b"HDRS", b"id+one =x", b"DELAY", b"rfc822;a@b")
    envelope = _envelope(b"MAIL FROM:<s@t>", b"RCPT TO:<c@d>", b"RCPT TO:<e@f>")
    assert _commands(told.complete(envelope)) == [
        b"MAIL FROM:<s@t> RET=HDRS ENVID=id+2Bone+20+3Dx",
        b"RCPT TO:<c@d> NOTIFY=DELAY ORCPT=rfc822;a@b",
        b"RCPT TO:<e@f> NOTIFY=DELAY ORCPT=rfc822;a@b",
    ]
    assert from_options(b"", b"", b"", b"") == Beside()


def test_what_cannot_be_used_is_listed():
    told = from_options(b"SOME", b"x" * 101, b"SOON", b"no-type")
    assert told == Beside(dropped=(b"RET=SOME", b"ENVID=" + b"x" * 101, b"NOTIFY=SOON", b"ORCPT=no-type"))
    told = from_commands(b"MAIL FROM:<a@b> AUTH=<> ENVID=a=b RET=FULL", b"RCPT TO:<a@b> X=1 NOTIFY=NEVER\nnonsense")
    assert told.mail == (Parameter(b"RET", b"FULL"),)
    assert told.recipients[0] == Recipient(b"a@b", (Parameter(b"NOTIFY", b"NEVER"),))
    assert told.dropped == (b"AUTH=<>", b"ENVID=a=b", b"X=1", b"nonsense")


def test_commands_are_matched_by_address():
    seen = from_commands(
        b"MAIL FROM:<sender@src.example> SIZE=1234 BODY=8BITMIME RET=FULL ENVID=id+2Bone",
        b"RCPT TO:<u1@Far.Example> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Orig+2B>one@x.example\n"
        b'RCPT TO:<"a b> c"@far.example> NOTIFY=NEVER\nRCPT TO:<gone@far.example> NOTIFY=DELAY\n',
    )
    envelope = _envelope(
        b"MAIL FROM:<rewritten@src.example>",
        b"RCPT TO:<u1@far.example>",
        b'RCPT TO:<"a b> c"@far.example>',
        b"RCPT TO:<U1@far.example>",
        b"RCPT TO:<alias@far.example>",
    )
    assert _commands(seen.complete(envelope)) == [
        b"MAIL FROM:<rewritten@src.example> BODY=8BITMIME RET=FULL ENVID=id+2Bone",
        b"RCPT TO:<u1@far.example> NOTIFY=FAILURE ORCPT=rfc822;Orig+2B>one@x.example",
        b'RCPT TO:<"a b> c"@far.example> NOTIFY=NEVER',
        b"RCPT TO:<U1@far.example>",
        b"RCPT TO:<alias@far.example>",
    ]
    assert seen.dropped == ()


def test_the_text_counts_most_then_the_commands():
    both = join(
        from_commands(b"MAIL FROM:<> RET=FULL", b"RCPT TO:<a@b> NOTIFY=NEVER"),
        from_options(b"HDRS", b"e", b"DELAY", b"rfc822;x@y"),
    )
    envelope = _envelope(b"MAIL FROM:<> ENVID=t", b"RCPT TO:<a@b>", b"RCPT TO:<c@d> NOTIFY=SUCCESS")
    assert _commands(both.complete(envelope)) == [
        b"MAIL FROM:<> ENVID=t RET=FULL",
        b"RCPT TO:<a@b> NOTIFY=NEVER ORCPT=rfc822;x@y",
        b"RCPT TO:<c@d> NOTIFY=SUCCESS ORCPT=rfc822;x@y",  # what BSMTP text says is kept whole
    ]


def test_the_last_mail_command_counts():
    assert from_commands(b"MAIL FROM:<a@b> RET=FULL\nMAIL FROM:<c@d> RET=HDRS", b"").mail == (
        Parameter(b"RET", b"HDRS"),
    )

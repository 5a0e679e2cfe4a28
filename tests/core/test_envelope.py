"""MAIL and RCPT commands: one list of cases for reader and writer."""

import pytest

from batchmail.core.commands import parse_mail, parse_rcpt
from batchmail.core.envelope import Parameter, Recipient, domain_of, find, format_mail, format_rcpt, without
from batchmail.core.path import CommandError, check_address

MAILS = [
    b"MAIL FROM:<>",
    b"MAIL FROM:<a@b.example>",
    b"MAIL FROM:<a@b.example> SIZE=12345 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=id+2Bone",
    b"MAIL FROM:<a@b.example> body=8bitmime Ret=full",
    b"MAIL FROM:<j\xc3\xb8rgen@\xc3\xb8l.example> SMTPUTF8",
    b'MAIL FROM:<"a b> \\" c"@d.example> AUTH=<>',
    b"MAIL FROM:<a@b> by=+0120;nT",
    b"MAIL FROM:<a@b> BY=-5;N",
    b"MAIL FROM:<a@b> ENVID=a+2b+2Fc",
    b"MAIL FROM:<x!y!z> MT-PRIORITY=-4 AUTH=a+3Db@c.example",
]
RCPTS = [
    b"RCPT TO:<c@d.example>",
    b"RCPT TO:<postmaster>",
    b"RCPT TO:<-froot@x.example>",
    b"RCPT TO:<c@[192.0.2.1]> NOTIFY=NEVER",
    b"RCPT TO:<c@d.example> NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;Orig+2Bone@x.example",
    b"RCPT TO:<c@d.example> ORCPT=rfc822;Orig+2bone+c3+B8@x.example",
    b"RCPT TO:<c@d.example> ORCPT=utf-8;j\xc3\xb8@x.example",
    b"RCPT TO:<c@d.example> ORCPT=utf-8;j\\x{F8}@x.example RRVS=2026-11-20T00:00:00Z;C",
    b"RCPT TO:<c@d.example> RRVS=2026-11-20T00:00:00-08:00;r",
]


@pytest.mark.parametrize("line", MAILS)
def test_mail_comes_back_as_it_was(line):
    assert format_mail(*parse_mail(line)) == line


@pytest.mark.parametrize("line", RCPTS)
def test_rcpt_comes_back_as_it_was(line):
    assert format_rcpt(parse_rcpt(line)) == line


def test_tolerated_on_reading():
    assert parse_mail(b"mail from: <a@b>  ret=FULL ") == (b"a@b", (Parameter(b"ret", b"FULL"),))
    assert parse_rcpt(b"RCPT TO:<@x.example,@y.example:c@d>") == Recipient(b"c@d")  # a source route is ignored


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"MAIL FROM:", "5.1.7"),
        (b"MAIL FROM:a@b", "5.1.7"),
        (b"MAIL FROM:<a@b", "5.1.7"),
        (b"MAIL FROM:<a b@c>", "5.1.7"),
        (b"MAIL FROM:<a\r@c>", "5.1.7"),
        (b"MAIL FROM:<a\0@c>", "5.1.7"),
        (b'MAIL FROM:<"a@c>', "5.1.7"),
        (b"MAIL FROM:<a@b>RET=FULL", "5.5.4"),
        (b"MAIL FROM:<a@b> RET", "5.5.4"),
        (b"MAIL FROM:<a@b> RET=", "5.5.4"),
        (b"MAIL FROM:<a@b> RET=SOME", "5.5.4"),
        (b"MAIL FROM:<a@b> ENVID=a=b", "5.5.4"),
        (b"MAIL FROM:<a@b> ENVID=a+zz", "5.5.4"),
        (b"MAIL FROM:<a@b> ENVID=a+0A", "5.5.4"),
        (b"MAIL FROM:<a@b> ENVID=a+0a", "5.5.4"),
        (b"MAIL FROM:<a@b> AUTH=a+2b@b", "5.5.4"),
        (b"MAIL FROM:<a@b> ENVID=" + b"x" * 101, "5.5.4"),
        (b"MAIL FROM:<a@b> SMTPUTF8=1", "5.5.4"),
        (b"MAIL FROM:<a@b> BODY=BINARYMIME", "5.5.4"),
        (b"MAIL FROM:<a@b> NOTIFY=NEVER", "5.5.4"),
        (b"MAIL FROM:<a@b> SIZE=1 size=2", "5.5.4"),
        (b"MAIL FROM:<" + b"a" * 8192 + b"@b>", "5.5.2"),
        (b"MAIL FROM:<@x.example:>", "5.1.7"),  # without its route it would be the null sender
        (b"MAIL FROM:<@x.example:@y.example:a@b>", "5.1.7"),  # and this one another at each reading
        (b"MAIL FROM:<@x.example>", "5.1.7"),
        (b"RCPT FROM:<a@b>", "5.5.4"),
    ],
)
def test_refused_mail(line, status):
    with pytest.raises(CommandError) as caught:
        parse_mail(line)
    assert caught.value.status == status
    assert caught.value.text.isprintable()


@pytest.mark.parametrize(
    "words",
    [
        b"NOTIFY=",
        b"NOTIFY=NEVER,FAILURE",
        b"NOTIFY=FAILURE,FAILURE",
        b"NOTIFY=SOON",
        b"ORCPT=a@b",
        b"ORCPT=rfc822;",
        b"ORCPT=rfc822;a b",
        b"ORCPT=rfc822;a+0",
        b"ORCPT=;a",
        b"ORCPT=rfc822;" + b"x" * 500,
        b"ORCPT=utf-8;j\xf8@x.example",
        b"RRVS=TTTTTTTTTTTTTTTTTTTT",
        b"RRVS=2014-13-03T23:01:00Z",
        b"RRVS=2014-04-03T23:01:00Z02:00",
        b"RRVS=2014-04-03T23:01:00Z;X",
        b"RET=FULL",
    ],
)
def test_refused_rcpt_parameters(words):
    with pytest.raises(CommandError):
        parse_rcpt(b"RCPT TO:<a@b> " + words)


def test_check_address():
    for good in (b"a@b", b"x!y!z", b"postmaster", b'"a b"@c', b"-f@x", b"j\xc3\xb8@b"):
        assert check_address(good) == good
    for bad in (
        b"",
        b"a b",
        b"<a@b>",
        b"a>@b",
        b"a@b> NOTIFY=NEVER",
        b"a\n@b",
        b'"a@b',
        b"@x:a@b",
        b"@x",
        b"a" * 4090 + b"@b",
    ):
        with pytest.raises(CommandError):
            check_address(bad)


def test_parameters():
    _, parameters = parse_mail(b"MAIL FROM:<> ret=HDRS SIZE=1")
    assert find(parameters, b"RET") == Parameter(b"ret", b"HDRS")
    assert find(parameters, b"ENVID") is None
    assert without(parameters, b"RET") == (Parameter(b"SIZE", b"1"),)
    assert (domain_of(b"a@B.Example"), domain_of(b"x!y")) == (b"b.example", b"")


@pytest.mark.parametrize(
    ("domain", "found"),
    [
        ("b\u00fccher.Example", b"xn--bcher-kva.example"),
        ("B\u00dcCHER.example.", b"xn--bcher-kva.example."),
        ("bu\u0308cher.example", b"xn--bcher-kva.example"),  # two characters that make one
        ("XN--bcher-kva.example", b"xn--bcher-kva.example"),
        ("stra\u00dfe.example", b"xn--strae-oqa.example"),  # another domain than strasse.example (RFC 5894 §7.2)
        ("\u4f8b\u3048.\u30c6\u30b9\u30c8", b"xn--r8jz45g.xn--zckzah"),
        ("[IPv6:2001:db8::1]", b"[ipv6:2001:db8::1]"),
    ],
)
def test_a_domain_is_what_it_is_in_the_dns(domain, found):
    assert domain_of(f"\u00fc@{domain}".encode()) == found


def test_octets_that_are_no_domain_stay():
    assert domain_of(b"a@B\xfc.Example") == b"b\xfc.example"
    label = "\u00fc".encode() * 64
    assert domain_of(b"a@%b.Example" % label) == b"%b.example" % label

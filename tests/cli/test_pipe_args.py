"""The four grammars of the pipe door's command line."""

import pytest

from batchmail.cli.pipe_args import DEFAULT_SPOOL, CommandLineError, Request, parse
from batchmail.core.beside import Beside
from batchmail.core.envelope import Client, Parameter, Recipient
from batchmail.core.errors import MalformedInput
from batchmail.flow.accept import Message, Origin

TWO = (b"u1@far.example", b"u2@far.example")


def _parse(line, name="batchmail-pipe", **environment):
    words = line if isinstance(line, list) else line.split()
    return parse(name, words, {key.encode(): value for key, value in environment.items()})


def _message(line, name="batchmail-pipe"):
    request = _parse(line, name)
    return request.to, request.message


def test_bsmtp_text():
    assert _parse("-t home") == Request("home", DEFAULT_SPOOL, Origin(), None)
    assert _parse("--spool=/s -t home").spool == "/s"
    assert _parse("--spool /s -t home", BATCHMAIL_SPOOL=b"/e").spool == "/s"
    assert _parse("-t home", BATCHMAIL_SPOOL=b"/e").spool == "/e"


def test_a_message():
    assert _message("-t far -f a@b -- u1@far.example u2@far.example") == ("far", Message(b"a@b", TWO))
    assert _message("-t far -f a@b u1@far.example u2@far.example") == ("far", Message(b"a@b", TWO))
    for null in ("", "<>"):
        assert _message(["-t", "far", "-f", null, "--", "-x@far"]) == ("far", Message(b"", (b"-x@far",)))
    assert _message("--dot-stuffed --from-line -f MAILER-DAEMON -t far c")[1] == Message(
        b"MAILER-DAEMON", (b"c",), dot_stuffed=True, from_line=True
    )


@pytest.mark.parametrize(
    ("line", "name"), [("--rmail -t far x!c@d a!b", "batchmail-pipe"), ("-t far -- x!c@d a!b", "rmail")]
)
def test_rmail(line, name):
    assert _message(line, name) == ("far", Message(None, (b"x!c@d", b"a!b"), from_lines=True))


def test_what_the_mta_knows():
    request = _parse(
        "-t far -f a@b --queue-id=4A1 --client-address=192.0.2.1 --client-name= --client-helo me"
        " --client-protocol ESMTP --ret=HDRS --envid= --notify=SUCCESS,DELAY -- c@d"
    )
    assert request.origin == Origin(
        "4A1",
        Client(b"192.0.2.1", b"", b"me", b"ESMTP"),
        0,
        Beside((Parameter(b"RET", b"HDRS"),), (Parameter(b"NOTIFY", b"DELAY"),)),
    )
    assert _parse(["-t", "x", "--queue-id", "a b\n\udcff" + "q" * 200]).origin.queue_id == "a?b??" + "q" * 95


def test_commands_in_the_environment_count_more_than_options():
    request = _parse(
        "-t far --ret=HDRS",
        BATCHMAIL_MAIL=b"MAIL FROM:<a@b> RET=FULL",
        BATCHMAIL_RCPT=b"RCPT TO:<c@d> NOTIFY=SUCCESS\nRCPT TO:<e@f>",
    )
    assert request.origin.beside == Beside(
        (Parameter(b"RET", b"FULL"), Parameter(b"RET", b"HDRS")),
        (),
        (Recipient(b"c@d", (Parameter(b"NOTIFY", b"NEVER"),)), Recipient(b"e@f")),
    )


def test_octets_of_any_kind():
    assert _message(["-t", "far", "-f", "j\udcf8@b", "j\u00f8@d"])[1] == Message(b"j\xf8@b", (b"j\xc3\xb8@d",))


# Debian's line in master.cf: argv=/usr/lib/bsmtp/bsmtp -t$nexthop -f$sender $recipient
@pytest.mark.parametrize(
    ("line", "sender", "recipients"),
    [
        ("-tfar -fa@b u1@far.example u2@far.example", b"a@b", TWO),
        ("-fa@b -tfar u1@far.example u2@far.example", b"a@b", TWO),
        ("-tfar -fMAILER-DAEMON c@d", b"", (b"c@d",)),
        ("-tfar -f c@d", b"", (b"c@d",)),
        ("-tfar -f<> c@d", b"", (b"c@d",)),
        ("-tfar -fMAILER-DAEMON@x c@d", b"MAILER-DAEMON@x", (b"c@d",)),
        ("-tfar -fa@b -froot@x -tx@y --", b"a@b", (b"-froot@x", b"-tx@y", b"--")),
        ("-tfar -fa@b -- -froot@x", b"a@b", (b"-froot@x",)),
    ],
)
def test_bsmtp_name(line, sender, recipients):
    assert _message(line, "bsmtp") == ("far", Message(sender, recipients, dot_stuffed=True, from_line=True))


# argv=uux -r -n -z -a$sender - $nexthop!rmail ($recipient); and Sendmail's uux - -r -a$g -gC $h!rmail ($u)
@pytest.mark.parametrize(
    ("line", "sender", "priority"),
    [
        ("-r -n -z -aa@b - far!rmail (u1@far.example) (u2@far.example)", b"a@b", 0),
        ("- -r -aa@b -gC far!rmail (u1@far.example) u2@far.example", b"a@b", 0),
        ("-rnzj -p -g5 -ax!y far!rmail u1@far.example u2@far.example", b"x!y", 4),
        ("-p -gn -aMAILER-DAEMON far!rmail u1@far.example u2@far.example", b"", -4),
        ("-r -a - far!rmail u1@far.example u2@far.example", b"", 0),
        ("- -ahere!MAILER-DAEMON far!rmail u1@far.example u2@far.example", b"", 0),
        ("- far!rmail u1@far.example u2@far.example", None, 0),
    ],
)
def test_uux_name(line, sender, priority):
    request = _parse(line, "uux")
    assert (request.to, request.message) == ("far", Message(sender, TWO, from_lines=True))
    assert request.origin.priority == priority


@pytest.mark.parametrize(
    ("line", "name", "words"),
    [
        ("", "batchmail-pipe", "-t PEER"),
        ("-t", "batchmail-pipe", "-t PEER"),
        (["-t", ""], "batchmail-pipe", "-t PEER"),
        ("-t far c@d", "batchmail-pipe", "-f SENDER"),
        ("-t far --dot-stuffed", "batchmail-pipe", "-f SENDER"),
        ("-t far -f a@b", "batchmail-pipe", "no recipient"),
        (["-t", "far", "-f", "a@b", ""], "batchmail-pipe", "recipient is empty"),
        ("-t far -t far", "batchmail-pipe", "-t stands twice"),
        ("-t far --ret=FULL --ret=HDRS", "batchmail-pipe", "--ret stands twice"),
        ("-t far --frm x", "batchmail-pipe", "unknown option --frm"),
        ("-t far --rmail=x", "batchmail-pipe", "unknown option"),
        ("-tfar", "batchmail-pipe", "unknown option -tfar"),
        ("-t far --rmail -f a@b c@d", "batchmail-pipe", "do not go with --rmail"),
        ("-t far", "rmail", "no recipient"),
        ("c@d", "rmail", "-t PEER"),
        ("-tfar c@d", "bsmtp", "bsmtp wants"),
        ("-fa@b c@d", "bsmtp", "bsmtp wants"),
        ("-t far -fa@b c@d", "bsmtp", "bsmtp wants"),
        ("-tfar -fa@b", "bsmtp", "no recipient"),
        ("-tfar -x -fa@b c@d", "bsmtp", "bsmtp wants"),
        ("-r far!rmail c@d", "uux", "uux wants"),
        ("- far!rnews c@d", "uux", "uux wants"),
        ("- a!b!rmail c@d", "uux", "uux wants"),
        ("- rmail c@d", "uux", "uux wants"),
        ("- far!rmail", "uux", "no recipient"),
        ("- -x far!rmail c@d", "uux", "unknown option -x"),
        ("- -C far!rmail c@d", "uux", "unknown option -C"),
        ("-", "uux", "uux wants"),
    ],
)
def test_a_wrong_command_line_is_temporary(line, name, words):
    with pytest.raises(CommandLineError, match=words) as caught:
        _parse(line, name)
    assert (caught.value.exit_code, caught.value.status) == (75, "4.3.5")


@pytest.mark.parametrize("word", ["a b@c", "<c@d>", "c@d\n", '"c@d', "c@d> NOTIFY=NEVER", "x" * 5000])
def test_malformed_addresses(word):
    for line in (["-t", "far", "-f", word, "c@d"], ["-t", "far", "-f", "a@b", word]):
        with pytest.raises(MalformedInput):
            _parse(line)


def test_too_many_recipients():
    with pytest.raises(MalformedInput, match="more than 10000"):
        _parse(["-t", "far", "-f", "", *["c@d"] * 10_001])

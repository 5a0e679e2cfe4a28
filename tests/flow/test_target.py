"""Targets that are not servers, and the configuration value of all."""

import errno
import os
import stat
from collections.abc import Iterator

import pytest

from batchmail.core.bsmtp import Content, Reader, Start
from batchmail.core.commands import parse_mail, parse_rcpt
from batchmail.core.deliverby import with_left
from batchmail.core.envelope import Client, Envelope
from batchmail.core.errors import ConfigError, SpoolError, TargetDown
from batchmail.core.outcome import DELAYED, DELIVERED, FAILED, PASSED, RELAYED, Outcome
from batchmail.flow.delivery import Delivery
from batchmail.flow.target import open_target, parse_target
from batchmail.store import dropdir
from batchmail.store.durable import Draft

ID = "01KAHQ8M5P0123456789ABCDEF"
NOW_MS = 1795222800000  # Sat Nov 21 01:00:00 2026
MESSAGE = b"Received: from a by b\r\nSubject: x\r\n\r\n.dot\r\nFrom here\r\nlast\r\n"


def one(mail: str, *rcpts: str, content: bytes = MESSAGE, recipients: tuple[int, ...] = ()) -> Delivery:
    sender, parameters = parse_mail(f"MAIL FROM:{mail}".encode())
    envelope = Envelope(sender, parameters, tuple(parse_rcpt(f"RCPT TO:{rcpt}".encode()) for rcpt in rcpts))
    numbers = recipients or tuple(range(len(rcpts)))

    def pieces() -> Iterator[bytes]:
        return (content[i : i + 5] for i in range(0, len(content), 5))

    return Delivery(ID, envelope, numbers, len(content), not content.isascii(), False, pieces, Client())


def deliver(url: str, delivery: Delivery, tmp: object = "/nonexistent") -> list[Outcome]:
    dots: list[int] = []
    outcomes: list[Outcome] = []
    target = open_target(parse_target(url), "home.test", lambda: NOW_MS, str(tmp))
    target.deliver(delivery, lambda: dots.append(len(outcomes)), outcomes.append)
    target.close()
    assert sorted(o.recipient for o in outcomes) == sorted(delivery.recipients)
    return sorted(outcomes)


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


# Directories


def test_bsmtp_is_what_our_own_reader_reads(tmp_path: object) -> None:
    delivery = one("<s@x.test> SIZE=1 RET=HDRS ENVID=a+2Bb", "<a@y.test> NOTIFY=NEVER", "<b@y.test>", "<c@y.test>")
    outcomes = deliver(f"bsmtp:{tmp_path}/drop", delivery._replace(recipients=(0, 2)))
    path = f"{tmp_path}/drop/{ID}.bsmtp"
    assert [(o.action, o.text) for o in outcomes] == [(PASSED, b"written to a file")] * 2
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert os.listdir(f"{tmp_path}/drop/tmp") == []
    reader = Reader(b"\r\n")
    reader.receive(read(path))
    reader.receive(b"")
    events = list(iter(reader.next_event, None))
    starts = [e.envelope for e in events if isinstance(e, Start)]
    assert starts == [
        one(f"<s@x.test> SIZE={len(MESSAGE)} RET=HDRS ENVID=a+2Bb", "<a@y.test> NOTIFY=NEVER", "<c@y.test>")[1]
    ]
    assert b"".join(e.octets for e in events if isinstance(e, Content)) == MESSAGE


@pytest.mark.parametrize(
    ("url", "by", "action", "status"),
    [
        ("bsmtp:{}", "5;R", PASSED, "2.0.0"),  # who reads the text reads the time
        ("bsmtp:{}", "5;RT", RELAYED, "2.0.0"),
        ("maildir:{}", "5;RT", DELIVERED, "2.0.0"),
        ("rmail:/bin/true", "5;N", RELAYED, "2.0.0"),
        ("rmail:/bin/true", "5;R", FAILED, "5.3.3"),
        ("rmail:/bin/true?final=yes", "5;R", DELIVERED, "2.0.0"),
    ],
)
def test_deliver_by(url: str, by: str, action: str, status: str, tmp_path: object) -> None:
    delivery = one(f"<s@x.test> BY={by}", "<a@y.test>")
    (outcome,) = deliver(url.format(f"{tmp_path}/drop"), delivery, tmp_path)
    assert (outcome.action, outcome.status) == (action, status)
    if "R" in by:
        over = delivery._replace(envelope=with_left(delivery.envelope, 0))
        (outcome,) = deliver(url.format(f"{tmp_path}/other"), over, tmp_path)
        assert (outcome.action, outcome.status) == (FAILED, "5.4.7")
        assert not os.path.isdir(f"{tmp_path}/other/new")


def test_maildir(tmp_path: object) -> None:
    outcomes = deliver(f"maildir:{tmp_path}/box/", one("<>", "<a@y.test>", "<b@y.test>"))
    assert [o.action for o in outcomes] == [DELIVERED] * 2
    (name,) = os.listdir(f"{tmp_path}/box/new")
    assert name.endswith(f".{ID}.home.test")
    assert name.split(".")[0].isdigit()
    head = b"Return-Path: <>\nX-Envelope-To: <a@y.test>\nX-Envelope-To: <b@y.test>\n"
    assert read(f"{tmp_path}/box/new/{name}") == head + MESSAGE.replace(b"\r\n", b"\n")
    assert stat.S_IMODE(os.stat(f"{tmp_path}/box/new/{name}").st_mode) == 0o600


@pytest.mark.parametrize("moved", ["new/{}", "cur/{}:2,S", "cur/{}", "cur/{},S=123:2,RS"])
def test_a_second_maildir_delivery_finds_the_first(moved: str, tmp_path: object) -> None:
    box = f"{tmp_path}/box"
    deliver(f"maildir:{box}", one("<>", "<a@y.test>"))
    (name,) = os.listdir(f"{box}/new")
    os.rename(f"{box}/new/{name}", f"{box}/{moved.format(name)}")
    assert [o.action for o in deliver(f"maildir:{box}", one("<>", "<a@y.test>"))] == [DELIVERED]
    assert len(os.listdir(f"{box}/new") + os.listdir(f"{box}/cur")) == 1


def test_a_second_bsmtp_delivery_finds_the_first(tmp_path: object) -> None:
    deliver(f"bsmtp:{tmp_path}", one("<>", "<a@y.test>"))
    first = read(f"{tmp_path}/{ID}.bsmtp")
    other = one("<>", "<a@y.test>", content=b"other\r\n")
    assert [o.action for o in deliver(f"bsmtp:{tmp_path}?final=yes", other)] == [DELIVERED]
    assert read(f"{tmp_path}/{ID}.bsmtp") == first


@pytest.mark.parametrize("scheme", ["bsmtp", "maildir"])
def test_stopped_before_the_dot_leaves_nothing(scheme: str, tmp_path: object) -> None:
    def full() -> None:
        raise SpoolError("no room")

    target = open_target(parse_target(f"{scheme}:{tmp_path}/d"), "home.test", lambda: NOW_MS, "")
    with pytest.raises(SpoolError):
        target.deliver(one("<>", "<a@y.test>"), full, lambda outcome: None)
    assert [files for _, _, files in os.walk(f"{tmp_path}/d") if files] == []


def test_a_directory_that_cannot_be_written(tmp_path: object) -> None:
    with open(f"{tmp_path}/file", "w"):
        pass
    with pytest.raises(TargetDown, match="cannot write"):
        deliver(f"bsmtp:{tmp_path}/file/x", one("<>", "<a@y.test>"))


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.ENOSPC, errno.EFBIG])
@pytest.mark.parametrize("scheme", ["bsmtp", "maildir"])
def test_what_does_not_fit_holds_up_no_other(
    scheme: str, number: int, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Draft.write
    room_octets = 100_000

    def limited(draft: Draft, octets: bytes) -> None:
        if draft.size_octets + len(octets) > room_octets:
            raise OSError(number, os.strerror(number))
        write(draft, octets)

    monkeypatch.setattr(Draft, "write", limited)
    large = one("<>", "<a@y.test>", "<b@y.test>", content=b"x" * 100_001)
    outcomes = deliver(f"{scheme}:{tmp_path}/d", large)
    assert [(o.recipient, o.action, o.status) for o in outcomes] == [(0, DELAYED, "4.3.1"), (1, DELAYED, "4.3.1")]
    assert os.strerror(number).encode() in outcomes[0].text
    assert [files for _, _, files in os.walk(f"{tmp_path}/d") if files] == []
    room_octets = 100  # now it takes nothing of anybody
    with pytest.raises(TargetDown, match="cannot write"):
        deliver(f"{scheme}:{tmp_path}/d", large)


@pytest.mark.parametrize("scheme", ["bsmtp", "maildir"])
def test_no_room_for_the_name_leaves_it_in_doubt(
    scheme: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dot is announced: what a delay without a reply would take back."""

    def full(draft: Draft, final: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Draft, "publish_or_find", full)
    with pytest.raises(TargetDown, match="cannot write"):
        deliver(f"{scheme}:{tmp_path}/d", one("<>", "<a@y.test>"))


def test_sweep_removes_old_drafts_only(tmp_path: object) -> None:
    os.mkdir(f"{tmp_path}/tmp")
    for name, age_h in (("old", 37), ("young", 35)):
        with open(f"{tmp_path}/tmp/{name}", "w"):
            pass
        os.utime(f"{tmp_path}/tmp/{name}", (0, NOW_MS / 1000 - age_h * 3600))
    dropdir.sweep(str(tmp_path), NOW_MS)
    assert os.listdir(f"{tmp_path}/tmp") == ["young"]
    dropdir.sweep(f"{tmp_path}/nothing", NOW_MS)


# rmail


@pytest.fixture
def rmail(tmp_path: object) -> str:
    """An rmail that keeps arguments and input of call N, and exits with what the first recipient's local part says."""
    script = f"{tmp_path}/rmail"
    with open(os.open(script, os.O_WRONLY | os.O_CREAT, 0o755), "w") as file:
        file.write(
            "#!/bin/sh\n"
            f"n=$(ls {tmp_path} | wc -l); cat >{tmp_path}/in$n; printf '%s\\n' \"$@\" >{tmp_path}/args$n\n"
            'echo "said: $1" >&2; exit ${1%@*}\n'
        )
    return script


def test_rmail_input_and_arguments(rmail: str, tmp_path: object) -> None:
    delivery = one("<s@x.test> ENVID=lost", "<0@y.test>", '<"a b;c"@y.test>', "<-f@y.test>", "<|x>", "<ü@y.test>")
    outcomes = deliver(f"rmail:{rmail}", delivery, tmp_path)
    assert [(o.action, o.status) for o in outcomes] == [
        (RELAYED, "2.0.0"),
        (RELAYED, "2.0.0"),
        (FAILED, "5.1.3"),
        (FAILED, "5.1.3"),
        (FAILED, "5.6.7"),
    ]
    assert read(f"{tmp_path}/args1") == b'0@y.test\n"a b;c"@y.test\n'
    assert read(f"{tmp_path}/in1") == b"From s@x.test Sat Nov 21 01:00:00 2026\n" + MESSAGE.replace(b"\r\n", b"\n")


def test_rmail_null_sender(rmail: str, tmp_path: object) -> None:
    assert [o.action for o in deliver(f"rmail:{rmail}?final=yes", one("<>", "<0@y.test>"), tmp_path)] == [DELIVERED]
    assert read(f"{tmp_path}/in1").startswith(b"From <> Sat Nov")


def test_rmail_refuses_a_sender_it_would_cut(rmail: str, tmp_path: object) -> None:
    (outcome,) = deliver(f"rmail:{rmail}", one('<"a b"@x.test>', "<0@y.test>"), tmp_path)
    assert (outcome.action, outcome.status) == (FAILED, "5.1.7")


@pytest.mark.parametrize(
    ("status", "action", "enhanced"),
    [
        (75, DELAYED, "4.3.0"),
        (71, DELAYED, "4.3.0"),
        (67, FAILED, "5.1.1"),
        (68, FAILED, "5.1.2"),
        (65, FAILED, "5.6.0"),
        (77, FAILED, "5.7.0"),
        (1, FAILED, "5.3.0"),
    ],
)
def test_rmail_exit_status(status: int, action: str, enhanced: str, rmail: str, tmp_path: object) -> None:
    (outcome,) = deliver(f"rmail:{rmail}", one("<s@x.test>", f"<{status}@y.test>"), tmp_path)
    assert (outcome.action, outcome.status) == (action, enhanced)
    assert outcome.text == b"rmail exited with status %d: said: %d@y.test" % (status, status)


def test_rmail_is_called_again_for_many_recipients(rmail: str, tmp_path: object) -> None:
    local_parts = [0] + [0] * 40 + [75] + [0] * 60
    rcpts = [f"<{part}@{n:03}.example.test>" for n, part in enumerate(local_parts)]
    outcomes = deliver(f"rmail:{rmail}", one("<s@x.test>", *rcpts), tmp_path)
    args = sorted(name for name in os.listdir(str(tmp_path)) if name.startswith("args"))
    calls = [read(f"{tmp_path}/{name}").split() for name in args]
    assert len(calls) == 3
    assert all(sum(len(a) + 1 for a in call) <= 900 for call in calls)
    assert len(outcomes) == 102
    assert len({read(f"{tmp_path}/in{name[4:]}") for name in args}) == 1


def test_rmail_that_is_not_there(tmp_path: object) -> None:
    with pytest.raises(TargetDown, match="cannot start /nonexistent/rmail"):
        deliver("rmail:/nonexistent/rmail", one("<>", "<a@y.test>"), tmp_path)


def test_sendmail_that_is_not_there_or_ends_at_once(tmp_path: object) -> None:
    with pytest.raises(TargetDown, match="cannot start /nonexistent/sendmail"):
        deliver("sendmail:/nonexistent/sendmail", one("<>", "<a@y.test>"))
    with pytest.raises(TargetDown, match=r"closed the connection \(no such option\)"):
        deliver("sendmail:/bin/sh -c 'echo no such option >&2; exit 64'", one("<>", "<a@y.test>"))


# The configuration value


def test_targets_and_their_defaults() -> None:
    spec = parse_target("smtp://127.0.0.1")
    assert (spec.host, spec.port, spec.starttls, spec.final, spec.is_private) == ("127.0.0.1", 25, "never", False, True)
    spec = parse_target("smtp://joe%40x@mx.test:587?password_file=/etc/p&tls_verify=no&session=5&eightbit=send")
    assert (spec.host, spec.port, spec.user, spec.password_file) == ("mx.test", 587, "joe@x", "/etc/p")
    assert (spec.starttls, spec.tls_verify, spec.session, spec.send_eightbit) == ("may", False, 5, True)
    assert parse_target("smtp://127.0.0.1:10026?xforward=yes").xforward is True
    assert not spec.xforward
    spec = parse_target("smtp://[::1]:2525/")
    assert (spec.host, spec.port, spec.starttls) == ("::1", 2525, "never")
    spec = parse_target("lmtp:///run/dovecot/lmtp")
    assert (spec.path, spec.host, spec.final, spec.is_private) == ("/run/dovecot/lmtp", "", True, True)
    assert parse_target("lmtp://localhost:24?final=no").final is False
    assert parse_target("sendmail:/usr/sbin/sendmail").args == ("-bs",)
    spec = parse_target("sendmail:/usr/sbin/exim4 -C '/etc/my exim.conf' -bs?session=3")
    assert (spec.path, spec.args, spec.session) == ("/usr/sbin/exim4", ("-C", "/etc/my exim.conf", "-bs"), 3)
    assert parse_target("maildir:/home/ann/Maildir/").path == "/home/ann/Maildir"
    assert {parse_target(text).sessions for text in ("smtp://x", "lmtp://x:24", "bsmtp:/x", "maildir:/x")} == {5}
    assert {parse_target(text).sessions for text in ("sendmail:/x", "rmail:/x")} == {1}
    assert parse_target("smtp://x?sessions=2").sessions == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("smpt://x", "did you mean smtp?"),
        ("127.0.0.1:25", "must begin with smtp:"),
        ("smtp:mx.test", "write smtp://HOST:PORT"),
        ("smtp://::1", "write smtp://HOST:PORT, an IPv6 address in [ ]"),
        ("smtp://mx.test:99999", "a port is 1 to 65535"),
        ("lmtp://mx.test:0", "a port is 1 to 65535"),
        ("lmtp://mx.test", "needs a port"),
        ("lmtp://mx.test:25", "may not be spoken on port 25"),
        ("sendmail:sendmail -bs", "must be absolute"),
        ("sendmail:", "needs a program"),
        ("sendmail:/x 'y", "needs a program"),
        ("maildir:Maildir", "must be absolute"),
        ("smtp://x?startls=must", "unknown option startls; did you mean starttls?"),
        ("smtp://x?starttls=yes", "starttls must be one of never, may, must"),
        ("smtp://x?session=0", "session must be a number"),
        ("smtp://x?user=joe", "user and password_file go together"),
        ("smtp://x?password_file=p&user=joe", "p must be absolute"),
        ("maildir:/x?starttls=must", "starttls is not an option of maildir:, which knows final"),
    ],
)
def test_mistakes_are_told(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_target(text)
    assert str(caught.value).startswith(f'target = "{text}": ')
    assert says in str(caught.value)

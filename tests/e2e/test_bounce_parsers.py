"""Our notices read by programs of others that list managers use: Sisimai and Mail::DeliveryStatus::BounceParser."""

import json
import os
import subprocess

import pytest

from batchmail.core.dsn import Notice
from batchmail.core.outcome import DELAYED, DELIVERED, FAILED, RELAYED, Outcome
from tests.core.test_notice import ARRIVAL, composed, refused, told
from tests.servers.host import Unavailable
from tests.servers.packages import unpacked

pytestmark = pytest.mark.real

# Prints what each makes of the files named: [[address, action, status, reason], ...] and the addresses that bounced.
READ = r"""
use strict; use JSON::PP; use Sisimai; use Mail::DeliveryStatus::BounceParser;
for my $name (@ARGV) {
    my $read = Sisimai->make($name, delivered => 1) || [];
    my @found = map { [$_->recipient->address, $_->action, $_->deliverystatus, $_->reason] } @$read;
    open(my $file, '<', $name) or die; local $/; my $text = <$file>;
    my @bounced = Mail::DeliveryStatus::BounceParser->new($text)->addresses;
    print encode_json([\@found, \@bounced]), "\n";
}
"""
WANTS = b"<ola@far.example> NOTIFY=SUCCESS,FAILURE,DELAY"
HERE = {"site": "hub.example", "far_site": "cabin.example"}


def told_of(action: str, code: int, status: str, text: bytes, **more: object) -> Notice:
    mta = b"mx.far.example" if code else b""
    outcome = Outcome(0, action, code, status, text, mta, ARRIVAL + 60_000)
    return told(b"<lena@near.example> RET=HDRS ENVID=QQ1", [WANTS], outcome, **more)  # type: ignore[no-any-return]


NOTICES = {
    "userunknown": told_of(FAILED, 550, "5.1.1", b"nobody here"),
    "mailboxfull": told_of(FAILED, 452, "4.2.2", b"mailbox full"),
    "expired": told_of(FAILED, 0, "5.4.7", b"delivery time expired: cabin.example was not connected", **HERE),
    "onhold": told_of(
        FAILED, 0, "5.4.7", b"it was handed over, its fate is unknown", is_fate_unknown=True, **HERE
    ),  # Sisimai's word for a reason that it has no other for
    "delayed": told_of(DELAYED, 0, "4.4.1", b"cabin.example is not connected now", **HERE),
    "relayed": told_of(RELAYED, 250, "2.0.0", b"taken"),
    "delivered": told_of(DELIVERED, 250, "2.1.5", b"taken"),
}


def read(path: str, letters: list[bytes]) -> list[tuple[list[list[str]], list[str]]]:
    try:
        modules = unpacked("sisimai").path("usr/share/perl5")
    except Unavailable as reason:
        pytest.skip(str(reason))
    names = [os.path.join(path, f"{number}.eml") for number in range(len(letters))]
    for name, letter in zip(names, letters, strict=True):
        with open(name, "wb") as file:
            file.write(letter.replace(b"\r\n", b"\n"))
    done = subprocess.run(["perl", f"-I{modules}", "-e", READ, *names], capture_output=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_each_kind_is_known(tmp_path: object) -> None:
    found = read(str(tmp_path), [composed(notice)[1] for notice in NOTICES.values()])
    for (name, notice), (recipients, bounced) in zip(NOTICES.items(), found, strict=True):
        (outcome,) = notice.outcomes
        ((address, action, status, reason),) = recipients
        assert (address, action, status) == ("ola@far.example", outcome.action, outcome.status), name
        assert outcome.action != FAILED or reason == name
        assert bounced == (["ola@far.example"] if outcome.action == FAILED else []), name


def test_of_many_recipients_each_is_found(tmp_path: object) -> None:
    rcpts = [f"<{name}@far.example>".encode() for name in "abc"]
    verdicts = ((550, "5.1.1"), (554, "5.7.1"), (452, "4.2.2"))
    outcomes = [refused(n, b"no", FAILED, code, status) for n, (code, status) in enumerate(verdicts)]
    _, octets = composed(told(b"<lena@near.example>", rcpts, *outcomes))
    ((recipients, bounced),) = read(str(tmp_path), [octets])
    assert [row[:3] for row in recipients] == [
        [f"{name}@far.example", FAILED, status] for name, (_, status) in zip("abc", verdicts, strict=True)
    ]
    assert bounced == [f"{name}@far.example" for name in "abc"]

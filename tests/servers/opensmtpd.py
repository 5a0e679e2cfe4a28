"""OpenSMTPD: an upstream that relays a domain to a port, and a target over SMTP.

A target delivers to one Maildir, a file per recipient; a transaction's files are put together by its message id.
Its paths are compiled in, so each instance has private mounts over its spool, its helpers and /run.
"""

import glob
import os
import pwd
import re
from collections.abc import Sequence

from tests.servers.host import Delivered, answers, free_port, need_private_mounts, need_user
from tests.servers.maildir import Maildir, Target, crlf, split_headers
from tests.servers.packages import unpacked

ACCOUNTS = ("opensmtpd", "opensmtpq")
EMPTY_DIRECTORY = "/var/lib/opensmtpd/empty"  # where its unprivileged processes are shut up
CONFIGURATION = """\
table everyone {{ "@" = nobody }}
filter nobody phase rcpt-to match rcpt-to regex {{ "^nobody@" }} reject "550 5.1.1 no such user"
filter later phase rcpt-to match rcpt-to regex {{ "^later@" }} reject "451 4.2.0 try later"
filter both chain {{ nobody, later }}
smtp max-message-size 200M
queue ttl 1h
{actions}
listen on 127.0.0.1 port {port} hostname mx.opensmtpd.test filter both
action deliver maildir "{directory}/mail" virtual <everyone>
{matches}
match from any for domain "*.test" action deliver
"""
_MESSAGE_ID = re.compile(rb"\bid ([0-9a-f]{8})\b")


class OpenSmtpd(Target):
    """`actions` and `matches` are lines of smtpd.conf; the matches are tried before the built-in one."""

    def __init__(self, directory: str, *, actions: str = "", matches: str = ""):
        super().__init__(directory)
        need_private_mounts()
        self._package = unpacked("opensmtpd")
        for name in ACCOUNTS:
            need_user(name, home=EMPTY_DIRECTORY)
        os.makedirs(EMPTY_DIRECTORY, mode=0o755, exist_ok=True)
        self.port = free_port()
        self._mail = Maildir(self.path("mail"), _parse)
        self.make_directory("mail", pwd.getpwnam("nobody").pw_uid)
        self.make_directory("run")
        os.chmod(self.make_directory("spool"), 0o711)
        self.configuration = self.write(
            "smtpd.conf",
            CONFIGURATION.format(directory=directory, port=self.port, actions=actions, matches=matches),
        )
        os.chmod(self.configuration, 0o600)

    def argv(self) -> Sequence[str]:
        return self.command("smtpd", "-d", "-f", self.configuration)

    def command(self, program: str, *arguments: str) -> list[str]:
        """One of its programs where it sees this instance: smtpctl show queue…"""
        mounts = {
            "/var/spool/smtpd": self.path("spool"),
            "/usr/libexec/opensmtpd": self._package.path("usr/libexec/opensmtpd"),
            "/run": self.path("run"),
        }
        as_its_group = ["setpriv", f"--regid={ACCOUNTS[1]}", "--clear-groups"] if program == "smtpctl" else []
        return self._package.command([*as_its_group, self._package.path(f"usr/sbin/{program}"), *arguments], mounts)

    def ready(self) -> bool:
        return answers(self.port)

    def messages(self) -> list[Delivered]:
        """Whole transactions only: one that is still in the queue may lack recipients."""
        whole: dict[str, Delivered] = {}
        busy = self._queued()
        for message_id, (sender, recipients, content) in self._mail.read():
            if message_id not in busy:
                before = whole[message_id].recipients if message_id in whole else ()
                whole[message_id] = Delivered(sender, (*before, *recipients), content)
        return list(whole.values())

    def queue_is_empty(self) -> bool:
        return not self._queued()

    def _queued(self) -> set[str]:
        """Each message is a directory of that name."""
        return {os.path.basename(path) for path in glob.glob(self.path("spool", "queue", "*", "*"))}


def _parse(file: bytes) -> tuple[str, Delivered]:
    added, content = split_headers(file, (b"Return-Path", b"Delivered-To", b"Received"))
    match = _MESSAGE_ID.search(added[b"Received"])
    assert match, added
    sender = added.get(b"Return-Path", b"<>").removeprefix(b"<").removesuffix(b">")
    recipient = added[b"Delivered-To"].removeprefix(b"<").removesuffix(b">")
    return match[1].decode(), Delivered(sender, (recipient,), crlf(content))

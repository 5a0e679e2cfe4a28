"""Postfix: an upstream by pipe(8), smtp(8) or lmtp(8), and a target over SMTP.

A target delivers to one Maildir, a file per recipient; a transaction's files are put together again by their queue id.
What the parameters of MAIL and RCPT were, a Maildir cannot tell: route to an `SmtpLog` to see them.
"""

import os
import pwd
import re
from collections.abc import Iterable, Mapping, Sequence

from tests.servers.host import Delivered, answers, free_port, need_group, need_private_mounts, need_user
from tests.servers.maildir import Maildir, Target, crlf, split_headers
from tests.servers.packages import unpacked

MAIN_OPTIONS = {
    "compatibility_level": "3.6",
    "myhostname": "mx.postfix.test",
    "mydomain": "postfix.test",
    "myorigin": "postfix.test",
    "mydestination": "",
    "inet_interfaces": "127.0.0.1",
    "inet_protocols": "ipv4",
    "mynetworks": "127.0.0.0/8",
    "mail_owner": "postfix",
    "setgid_group": "postdrop",
    "sample_directory": "no",
    "readme_directory": "no",
    "html_directory": "no",
    "alias_maps": "",
    "alias_database": "",
    "local_recipient_maps": "",
    "smtp_host_lookup": "native",
    "disable_dns_lookups": "yes",
    "smtpd_peername_lookup": "no",
    "smtpd_client_connection_count_limit": "0",
    "virtual_mailbox_maps": "static:mail/",
    "virtual_minimum_uid": "1",
    "virtual_mailbox_limit": "0",
    "minimal_backoff_time": "5s",
    "maximal_backoff_time": "30s",
    "queue_run_delay": "5s",
    # A message is to come out as it went in, whatever it holds.
    "local_header_rewrite_clients": "",
    "message_drop_headers": "",
    "disable_mime_input_processing": "yes",
    "message_size_limit": "0",
    "header_size_limit": "10000000",
    "hopcount_limit": "1000",
    "enable_long_queue_ids": "yes",  # never used twice, so files can be put together by it
    "smtp_line_length_limit": "0",
    "lmtp_line_length_limit": "0",
}
SERVICES = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup    unix  n - n 60 1 pickup
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
verify    unix  - - n - 1 verify
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp      unix  - - n - - smtp
relay     unix  - - n - - smtp
showq     unix  n - n - - showq
error     unix  - - n - - error
retry     unix  - - n - - error
discard   unix  - - n - - discard
local     unix  - n n - - local
virtual   unix  - n n - - virtual
lmtp      unix  - - n - - lmtp
anvil     unix  - - n - 1 anvil
scache    unix  - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
"""
# An smtpd for which loopback is as strange as the rest of the world: what replay should be given.
STRANGERS_SERVICE = """\
127.0.0.1:{port} inet n - n - - smtpd
  -o mynetworks=192.0.2.0/24
  -o smtpd_client_restrictions=
"""
_QUEUE_ID = re.compile(rb"\bid ([0-9A-Za-z]+)")


class Postfix(Target):
    """`main` overrides or adds main.cf settings; `master` and `transport` are lines of master.cf and a regexp table.

    With `strangers` there is a second smtpd, on `strangers_port`, for which loopback is not in mynetworks.
    """

    def __init__(
        self,
        directory: str,
        *,
        main: Mapping[str, str] | None = None,
        master: Iterable[str] = (),
        transport: Iterable[str] = (),
        strangers: bool = False,
    ):
        super().__init__(directory)
        need_private_mounts()
        self._package = unpacked("postfix")
        need_group("postdrop")
        owner, nobody = need_user("postfix"), pwd.getpwnam("nobody")
        self.port = free_port()
        self._mail = Maildir(self.path("mail"), _parse)
        self.strangers_port = free_port() if strangers else 0
        for name, uid in (("etc", -1), ("spool", -1), ("data", owner.pw_uid), ("mail", nobody.pw_uid)):
            self.make_directory(name, uid)
        self.write("etc/domains", "/\\.test$/ ok\n")
        self.write("etc/rcpt", "/^nobody@/ 550 5.1.1 no such user\n/^later@/ 451 4.2.0 try later\n")
        self.write("etc/transport", "".join(f"{line}\n" for line in transport) or "# none\n")
        extra = STRANGERS_SERVICE.format(port=self.strangers_port) if strangers else ""
        self.write("etc/master.cf", SERVICES.format(port=self.port) + extra + "".join(f"{line}\n" for line in master))
        options = {**MAIN_OPTIONS, **self._places(nobody), **(main or {})}
        self.write("etc/main.cf", "".join(f"{name} = {value}\n" for name, value in options.items()))

    def _places(self, mail_owner: pwd.struct_passwd) -> dict[str, str]:
        package = self._package.path
        rcpt = f"check_recipient_access regexp:{self.path('etc', 'rcpt')}, reject_unauth_destination"
        return {
            "queue_directory": self.path("spool"),
            "data_directory": self.path("data"),
            "command_directory": package("usr/sbin"),
            "daemon_directory": package("usr/lib/postfix/sbin"),
            "shlib_directory": package("usr/lib/postfix"),
            "meta_directory": package("etc/postfix"),
            "sendmail_path": package("usr/sbin/sendmail"),
            "newaliases_path": package("usr/bin/newaliases"),
            "mailq_path": package("usr/bin/mailq"),
            "manpage_directory": package("usr/share/man"),
            "maillog_file": self.path("maillog"),
            "maillog_file_prefixes": self.directory,
            "transport_maps": f"regexp:{self.path('etc', 'transport')}",
            "virtual_mailbox_domains": f"regexp:{self.path('etc', 'domains')}",
            "virtual_mailbox_base": self.directory,
            "virtual_uid_maps": f"static:{mail_owner.pw_uid}",
            "virtual_gid_maps": f"static:{mail_owner.pw_gid}",
            "smtpd_relay_restrictions": rcpt,
        }

    def argv(self) -> Sequence[str]:
        return self.command("postfix", "start-fg")

    def command(self, program: str, *arguments: str) -> list[str]:
        """One of Postfix's own commands on this configuration: postqueue -p, postsuper…"""
        return self._package.command([self._package.path(f"usr/sbin/{program}"), "-c", self.path("etc"), *arguments])

    def ready(self) -> bool:
        return answers(self.port) and (not self.strangers_port or answers(self.strangers_port))

    def log_files(self) -> Sequence[str]:
        return [self.path("maillog")]

    def messages(self) -> list[Delivered]:
        """Whole transactions only: one that Postfix is still delivering may lack recipients."""
        whole: dict[str, Delivered] = {}
        busy = {name for queue in ("incoming", "active") for name in os.listdir(self.path("spool", queue))}
        for queue_id, (sender, recipients, content) in self._mail.read():
            if queue_id not in busy:
                before = whole[queue_id].recipients if queue_id in whole else ()
                whole[queue_id] = Delivered(sender, (*before, *recipients), content)
        return list(whole.values())

    def queue_is_empty(self) -> bool:
        return not any(
            names for queue in ("incoming", "active", "deferred") for _, _, names in os.walk(self.path("spool", queue))
        )


def _parse(file: bytes) -> tuple[str, Delivered]:
    added, content = split_headers(file, (b"Return-Path", b"X-Original-To", b"Delivered-To", b"Received"))
    match = _QUEUE_ID.search(added[b"Received"])
    assert match, added
    sender = added[b"Return-Path"].removeprefix(b"<").removesuffix(b">")
    return match[1].decode(), Delivered(sender, (added[b"X-Original-To"],), crlf(content))

"""Exim: an upstream that hands mail to the pipe door or to a port, and a target that keeps whole transactions.

A target delivers to a Maildir whose files are BSMTP, each with the MAIL and RCPT commands above it as the client gave
them: envelope, DSN parameters and content are all observable.  Debian's binary gives up root when told of another
configuration file (-C), and then no transport could run as another user; so /etc/exim4 is a private mount.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tests.servers.host import Delivered, answers, free_port, need_private_mounts, need_user
from tests.servers.maildir import Maildir, Target, crlf, split_headers
from tests.servers.packages import unpacked

OWNER = "Debian-exim"
MAIN_OPTIONS = {
    "primary_hostname": "mx.exim.test",
    "qualify_domain": "exim.test",
    "exim_user": OWNER,
    "exim_group": OWNER,
    "never_users": "",
    "host_lookup": "",
    "rfc1413_query_timeout": "0s",
    "tls_advertise_hosts": "",
    "keep_environment": "PATH",
    "acl_smtp_mail": "acl_mail",
    "acl_smtp_rcpt": "acl_rcpt",
    "acl_smtp_data": "accept",
    "chunking_advertise_hosts": "",
    "smtp_accept_max": "100",
    "smtp_accept_max_per_connection": "0",
    "smtp_accept_queue_per_connection": "0",
    "smtp_accept_max_nonmail": "1000",
    "queue_only_load_latch": "false",
    "split_spool_directory": "false",
    # A message is to come out as it went in, whatever it holds.
    "message_size_limit": "0",
    "received_headers_max": "1000",
    "return_path_remove": "false",
    "delivery_date_remove": "false",
    "envelope_to_remove": "false",
}
CONFIGURATION = """\
{main}
begin acl
acl_mail:
  warn    set acl_m_mail = $smtp_command
          set acl_m_rcpt =
  {mail_acl}
  accept
acl_rcpt:
  warn    set acl_m_rcpt = ${{if def:acl_m_rcpt{{$acl_m_rcpt\\n}}}}$smtp_command
  {rcpt_acl}
  deny    local_parts = nobody
          message = 550 5.1.1 no such user
  defer   local_parts = later
          message = 451 4.2.0 try later
  accept  domains = *.test
  deny    message = 550 5.7.1 relay not permitted
{acls}

begin routers
{routers}
local:
  driver = accept
  domains = *.test
  transport = maildir

begin transports
{transports}
maildir:
  driver = appendfile
  directory = {directory}/mail
  create_directory
  maildir_format
  user = {owner}
  group = {owner}
  use_bsmtp
  batch_max = 10000
  message_prefix = "$acl_m_mail\\n$acl_m_rcpt\\nBSMTP\\n"

begin retry
{retry}
"""
_PATH = re.compile(rb"<((?:\"(?:\\.|[^\"\\])*\"|[^\">])*)>")


class Commands(NamedTuple):
    """The commands of one transaction as the client gave them, with refused recipients; empty for Exim's notices."""

    mail: bytes
    rcpts: tuple[bytes, ...]


class Exim(Target):
    """`main` overrides or adds main options; routers, transports and ACL lines are text put before the built-in ones,
    `acls` whole ACLs beside them.

    A transport written as text names its accounts itself; `use_bsmtp` pipes are written by `pipe_transport`.
    """

    def __init__(
        self,
        directory: str,
        *,
        dsn: bool = True,
        main: Mapping[str, str] | None = None,
        routers: str = "",
        transports: str = "",
        mail_acl: str = "",
        rcpt_acl: str = "",
        acls: str = "",
        retry: str = "* * F,1h,5s",
    ):
        super().__init__(directory)
        need_private_mounts()
        self._package = unpacked("exim")
        owner = need_user(OWNER)
        self.port = free_port()
        self._mail = Maildir(self.path("mail"), _parse)
        for name in ("spool", "log", "mail"):
            self.make_directory(name, owner.pw_uid, owner.pw_gid)
        own = {
            "exim_path": self._package.path("usr/sbin/exim4"),
            "spool_directory": self.path("spool"),
            "log_file_path": self.path("log", "%slog"),
            "pid_file_path": self.path("exim.pid"),
            "daemon_smtp_ports": str(self.port),
            "local_interfaces": "127.0.0.1",
            **({"dsn_advertise_hosts": "*"} if dsn else {}),
        }
        options = {**MAIN_OPTIONS, **own, **(main or {})}
        self.configuration = self.write(
            "etc/exim4.conf",
            CONFIGURATION.format(
                main="".join(f"{name} = {value}\n" for name, value in options.items()),
                directory=directory,
                owner=OWNER,
                routers=routers,
                transports=transports,
                mail_acl=mail_acl,
                rcpt_acl=rcpt_acl,
                acls=acls,
                retry=retry,
            ),
        )

    def argv(self) -> Sequence[str]:
        return self.command("-bdf", "-q5s")

    def command(self, *arguments: str) -> list[str]:
        """The exim program itself on this configuration: -bs, -bp, -M…"""
        return self._package.command(
            [self._package.path("usr/sbin/exim4"), *arguments], {"/etc/exim4": self.path("etc")}
        )

    def ready(self) -> bool:
        return answers(self.port)

    def log_files(self) -> Sequence[str]:
        return [self.path("log", name) for name in ("mainlog", "rejectlog", "paniclog")]

    def messages(self) -> list[Delivered]:
        return [delivered for delivered, _ in self._mail.read()]

    def queue_is_empty(self) -> bool:
        return not any(names for _, _, names in os.walk(self.path("spool", "input")))

    def commands(self) -> list[Commands]:
        """The dialogue behind each of `messages()`, in the same order."""
        return [commands for _, commands in self._mail.read()]


def pipe_router(name: str, domains: str, transport: str) -> str:
    return f"{name}:\n  driver = accept\n  domains = {domains}\n  transport = {transport}\n"


def pipe_transport(name: str, command: str, user: str, *more: str) -> str:
    """A pipe with `use_bsmtp` that retries what is not the message's own fault.  `more` are further option lines."""
    lines = (
        "driver = pipe",
        f"command = {command}",
        "use_bsmtp",
        "batch_max = 100",
        f"user = {user}",
        "timeout_defer",
        "freeze_exec_fail",
        "freeze_signal",
        *more,
    )
    return f"{name}:\n" + "".join(f"  {line}\n" for line in lines)


def smtp_transport(name: str, port: int, protocol: str = "smtp", *more: str) -> str:
    lines = (
        "driver = smtp",
        "hosts = 127.0.0.1",
        "hosts_override",
        f"port = {port}",
        f"protocol = {protocol}",
        "allow_localhost",
        "message_linelength_limit = 100000000",
        *more,
    )
    return f"{name}:\n" + "".join(f"  {line}\n" for line in lines)


def _parse(file: bytes) -> tuple[Delivered, Commands]:
    commands, _, bsmtp = file.partition(b"\nBSMTP\n")
    envelope, _, stuffed = bsmtp.partition(b"DATA\n")
    sender, *recipients = map(_path, envelope.splitlines())
    content = re.sub(rb"(?m)^\.", b"", stuffed.removesuffix(b".\n"))
    _, below = split_headers(content, (b"Received",))
    mail, _, rcpts = commands.partition(b"\n")
    return Delivered(sender, tuple(recipients), crlf(below)), Commands(mail, tuple(rcpts.splitlines()))


def _path(command: bytes) -> bytes:
    match = _PATH.search(command)
    assert match, command
    return match[1]

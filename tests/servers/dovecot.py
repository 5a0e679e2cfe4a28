"""Dovecot as a target: LMTP over TCP and over a unix socket, into a Maildir per recipient.

Every address is a user.  The files of one transaction are put together again by the id in Dovecot's own Received: line.
A transaction is whole once its last reply was given.
"""

import os
import pwd
import re
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from tests.servers.host import Delivered, answers, free_port, need_private_mounts, need_user
from tests.servers.maildir import Maildir, Target, crlf, split_headers
from tests.servers.packages import unpacked

SERVICES = """\
protocols = lmtp
base_dir = {directory}/run
state_dir = {directory}/state
log_path = {directory}/log
info_log_path = {directory}/log
ssl = no
listen = 127.0.0.1
default_internal_user = dovecot
default_login_user = dovenull
service lmtp {{
  inet_listener lmtp {{
    {inet_address} = 127.0.0.1
    port = {port}
  }}
  unix_listener lmtp {{
    mode = 0666
  }}
}}
"""
BEFORE_2_4 = """\
mail_location = maildir:{directory}/mail/%u
first_valid_uid = 1
auth_username_format = %{{user}}
auth_username_chars =
passdb {{
  driver = static
  args = nopassword=y
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={directory} allow_all_users=yes
}}
"""
FROM_2_4 = """\
mail_driver = maildir
mail_path = {directory}/mail/%{{user}}
first_valid_uid = 1
auth_username_format = %{{user}}
auth_username_chars =
passdb static {{
  password =
}}
userdb static {{
  fields {{
    uid = {uid}
    gid = {gid}
    home = {directory}
  }}
  static_allow_all_users = yes
}}
"""
_ID = re.compile(rb"\bid (\S+)")


class Dovecot(Target):
    """`more` is text put at the end of dovecot.conf."""

    def __init__(self, directory: str, *, more: str = ""):
        super().__init__(directory)
        need_private_mounts()
        self._package = unpacked("dovecot")
        need_user("dovecot")
        need_user("dovenull")
        owner = pwd.getpwnam("nobody")
        self.port = free_port()
        self.socket = self.path("run", "lmtp")
        self._mail: dict[str, Maildir[_File]] = {}
        for name, uid in (("run", -1), ("state", -1), ("mail", owner.pw_uid)):
            self.make_directory(name, uid)
        version = self._version()
        modern = version >= (2, 4)
        first = "dovecot_config_version = {0}\ndovecot_storage_version = {0}\n".format(".".join(map(str, version)))
        text = (first if modern else "") + SERVICES + (FROM_2_4 if modern else BEFORE_2_4)
        self._configuration = self.write(
            "dovecot.conf",
            text.format(
                directory=directory,
                port=self.port,
                uid=owner.pw_uid,
                gid=owner.pw_gid,
                inet_address="listen" if modern else "address",
            )
            + more,
        )

    def _version(self) -> tuple[int, ...]:
        command = self._package.command([self._package.path("usr/sbin/dovecot"), "--version"])
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return tuple(map(int, re.findall(r"\d+", said)[:3]))

    def argv(self) -> Sequence[str]:
        # dovecot would start /usr/bin/doveconf to read the configuration, and that one would start dovecot again.
        dovecot, doveconf = self._package.path("usr/sbin/dovecot"), self._package.path("usr/bin/doveconf")
        reader = [doveconf, "-f", "service=master", "-c", self._configuration, "-m", "master", "-e"]
        modules = {"/usr/lib/dovecot": self._package.path("usr/lib/dovecot")}  # always looked for there
        return self._package.command([*reader, dovecot, "-F", "-c", self._configuration], modules)

    def ready(self) -> bool:
        return answers(self.port)

    def log_files(self) -> Sequence[str]:
        return [self.path("log")]

    def messages(self) -> list[Delivered]:
        whole: list[tuple[_File, list[bytes]]] = []
        for user in sorted(os.listdir(self.path("mail"))):
            maildir = self._mail.setdefault(user, Maildir(self.path("mail", user), _parse))
            recipient = os.fsencode(user)
            for file in maildir.read():
                same = (recipients for other, recipients in whole if other == file and recipient not in recipients)
                if (recipients := next(same, None)) is None:
                    whole.append((file, recipients := []))
                recipients.append(recipient)
        return [Delivered(file.sender, tuple(recipients), file.content) for file, recipients in whole]


class _File(NamedTuple):
    transaction: bytes
    sender: bytes
    content: bytes


def _parse(file: bytes) -> _File:
    added, content = split_headers(file, (b"Return-Path", b"Delivered-To", b"Received"))
    match = _ID.search(added[b"Received"])
    assert match, added
    return _File(match[1], added[b"Return-Path"].removeprefix(b"<").removesuffix(b">"), crlf(content))

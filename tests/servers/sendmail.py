"""Sendmail: an upstream by its SMTP and LMTP mailers, and a target over SMTP.

The configuration is made by m4 from Debian's cf tree.  A target runs a script that writes one file per transaction,
the envelope on top.
"""

import os
import pwd
import subprocess
from collections.abc import Sequence

from tests.servers.host import Delivered, answers, free_port, need_private_mounts, need_user
from tests.servers.maildir import Maildir, Target, crlf, split_headers
from tests.servers.packages import unpacked

ACCOUNTS = ("smmta", "smmsp")  # compiled into Debian's program
HOST_NAME = "mx.sendmail.test"  # one without a dot would have it sleep for a minute
DELIVER = """\
#!/bin/sh
# deliver DIRECTORY SENDER RECIPIENT...: each word has a letter before it, so that none is empty
cd "$1" || exit 75
shift
draft=tmp/$$
{ for word; do printf '%s\\n' "$word"; done; echo; cat; } >"$draft" && mv "$draft" "new/$$.$(date +%s%N)" || exit 75
"""
MACRO_CONFIGURATION = """\
divert(-1)
define(`_CF_DIR_', `{cf}/')
divert(0)dnl
OSTYPE(`linux')dnl
define(`QUEUE_DIR', `{directory}/queue')dnl
define(`confPID_FILE', `{directory}/pid')dnl
define(`STATUS_FILE', `{directory}/statistics')dnl
define(`ALIAS_FILE', `')dnl
define(`HELP_FILE', `')dnl
define(`confDOMAIN_NAME', `{host}')dnl
define(`confCW_FILE', `-o {directory}/local-host-names')dnl
define(`confCT_FILE', `-o {directory}/trusted-users')dnl
define(`confCR_FILE', `-o {directory}/relay-domains')dnl
define(`confSERVICE_SWITCH_FILE', `{directory}/service.switch')dnl
define(`confTO_IDENT', `0')dnl
define(`confPRIVACY_FLAGS', `')dnl
define(`confDEF_USER_ID', `nobody:nogroup')dnl
define(`confDELIVERY_MODE', `background')dnl
define(`confMIN_QUEUE_AGE', `0')dnl
define(`confREFUSE_LA', `1000')dnl
define(`confQUEUE_LA', `1000')dnl
define(`confMAX_DAEMON_CHILDREN', `100')dnl
define(`confMAX_HOP', `1000')dnl
define(`confMAX_HEADERS_LENGTH', `10000000')dnl
DAEMON_OPTIONS(`Name=MTA, Family=inet, Addr=127.0.0.1, Port={port}, M=')dnl
FEATURE(`no_default_msa')dnl
FEATURE(`accept_unresolvable_domains')dnl
FEATURE(`accept_unqualified_senders')dnl
FEATURE(`nocanonify')dnl
{options}
MAILER(`smtp')dnl
{mailers}
MAILER_DEFINITIONS
Mfiled, P={directory}/deliver, F=mnuh9, U={uid}:{gid}, L=0, T=DNS/RFC822/X-Unix,
	A=deliver {directory}/mail <$g >$u
LOCAL_RULE_0
{rules}
R$+ < @ $+ . test . > $*	$#filed $@ filed $: $1 @ $2.test
R$+ < @ $+ . test > $*	$#filed $@ filed $: $1 @ $2.test
LOCAL_RULESETS
SLocal_check_rcpt
R$*	$: $>CanonAddr $1
Rnobody < @ $+ >	$#error $@ 5.1.1 $: "550 5.1.1 no such user"
Rlater < @ $+ >	$#error $@ 4.2.0 $: "451 4.2.0 try later"
R$+ < @ $+ . test . >	$#OK
R$+ < @ $+ . test >	$#OK
R$+ < @ $+ >	$#error $@ 5.7.1 $: "550 5.7.1 relay not permitted"
"""


class Sendmail(Target):
    """`options`, `mailers` and `rules` are lines of the .mc file: macros, mailer definitions, LOCAL_RULE_0's first."""

    def __init__(self, directory: str, *, options: str = "", mailers: str = "", rules: str = ""):
        super().__init__(directory)
        need_private_mounts()
        self._package = unpacked("sendmail")
        for name in ACCOUNTS:
            need_user(name)
        nobody = pwd.getpwnam("nobody")
        self.port = free_port()
        self._mail = Maildir(self.path("mail"), _parse)
        os.chmod(self.make_directory("queue"), 0o700)
        for name in ("mail", "mail/new", "mail/tmp"):
            self.make_directory(name, nobody.pw_uid)
        for name in ("local-host-names", "relay-domains", "trusted-users"):
            self.write(name, "root\n" if name == "trusted-users" else "")
        self.write("service.switch", "hosts files\naliases files\n")
        os.chmod(self.write("deliver", DELIVER), 0o755)
        self.write(
            "sendmail.mc",
            MACRO_CONFIGURATION.format(
                cf=self._package.path("usr/share/sendmail/cf"),
                directory=directory,
                host=HOST_NAME,
                port=self.port,
                uid=nobody.pw_uid,
                gid=nobody.pw_gid,
                options=options,
                mailers=mailers,
                rules=rules,
            ),
        )
        macros = [self._package.path("usr/bin/m4"), self._package.path("usr/share/sendmail/cf/m4/cf.m4")]
        command = self._package.command([*macros, self.path("sendmail.mc")])
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        self.write("sendmail.cf", done.stdout)

    def argv(self) -> Sequence[str]:
        return self.command("-L", "sm-test", "-bD", "-q5s", "-X", self.path("traffic"))

    def command(self, *arguments: str) -> list[str]:
        """The sendmail program itself on this configuration: -bp, -bs, -qf…"""
        program = self._package.path("usr/libexec/sendmail/sendmail")
        command = self._package.command([program, "-C", self.path("sendmail.cf"), *arguments])
        return ["unshare", "--uts", "sh", "-c", f'hostname {HOST_NAME}; exec "$@"', "sh", *command]

    def ready(self) -> bool:
        return answers(self.port)

    def log_files(self) -> Sequence[str]:
        return [self.path("traffic")]

    def messages(self) -> list[Delivered]:
        return self._mail.read()

    def queue_is_empty(self) -> bool:
        return not os.listdir(self.path("queue"))


def _parse(file: bytes) -> Delivered:
    words, _, content = file.partition(b"\n\n")
    sender, *recipients = words.split(b"\n")
    _, below = split_headers(content, (b"Received",))
    return Delivered(sender[1:], tuple(word[1:] for word in recipients), crlf(below))

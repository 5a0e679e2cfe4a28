"""The systems that `bench.rivals` compares, one class each: batchmail, and what does a part of its job today.

"hub" holds mail for "leaf", which calls; Postfix, which cannot be asked for mail, sends from the hub instead.  All that
use SSH call the same sshd.  Each has the options that its own author would choose for slow lines; `does` says in a
line how far it takes a message by the time that counts, and what is left to others.
"""

import gzip
import io
import json
import os
import pwd
import re
import shlex
import shutil
import smtplib
import subprocess
import tarfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.e2e.sites import Site, ssh_entry
from tests.servers.daemon import Daemon
from tests.servers.host import LOOPBACK, Installed, answers, free_port, need_user, wait_until
from tests.servers.packages import Package, unpacked
from tests.servers.postfix import Postfix
from tests.servers.sshd import Sshd

BATCH_OCTETS = 16 << 20  # what goes into one batch, of batchmail or of transactions in one file
SENDER, RECIPIENT = "s@x.test", "u@home.example.test"
NEVER = "100h"


class System:
    """A hub and a leaf below `path`.  `port` is the one that lies behind the line."""

    name = does = ""
    idles = True  # is there a call with nothing to do?

    def __init__(self, path: str, installed: Installed, sshd: Sshd):
        self.path, self.installed, self.sshd = path, installed, sshd
        self.port = sshd.port
        os.mkdir(path, 0o755)

    def connect(self, port: int) -> None:
        """Learn where the line begins."""
        raise NotImplementedError

    def queue(self, messages: Sequence[bytes]) -> int:
        """Put mail into the hub's queue; how many things it is there."""
        raise NotImplementedError

    def call(self) -> bool:
        """Take over all that waits; False when that was cut short."""
        raise NotImplementedError

    def arrived(self) -> int:
        """How many things are whole at the leaf, of all that ever were queued."""
        raise NotImplementedError

    def stop(self) -> None:
        """End what runs."""


class Batchmail(System):
    name = "batchmail"
    does = "SSH; durable queue, custody and replay are in the time; outcomes go back after it (see calls)"

    def __init__(self, path: str, installed: Installed, sshd: Sshd, level: str = "auto"):
        super().__init__(path, installed, sshd)
        options = {"level": level if level == "auto" else int(level), "batch_size": f"{BATCH_OCTETS >> 20}M"}
        entry = {"domains": ["home.example.test"], "target": f"bsmtp:{path}/hub/mail", **options}
        self._hub = Site(f"{path}/hub", installed, "mx.example.test", {"home": entry})
        self._hub.make_owned_directory("mail")

    def connect(self, port: int) -> None:
        entry = {"domains": ["*"], "target": f"bsmtp:{self.path}/leaf/mail"}
        entry |= ssh_entry(self.sshd, f"{self.path}/leaf", self._hub, "home", port)  # type: ignore[arg-type]
        self._leaf = Site(f"{self.path}/leaf", self.installed, "home.example.test", {"mx": entry})
        self._leaf.make_owned_directory("mail")
        assert self.call()  # the first call learns the other's name

    def queue(self, messages: Sequence[bytes]) -> int:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(self._accept, messages):
                pass
        return len(messages)

    def _accept(self, content: bytes) -> None:
        self._hub.accept(content, "-t", "home", "-f", SENDER, "--", RECIPIENT)

    def call(self) -> bool:
        return _ran(self._leaf.command("batchmail", "call", "mx"))

    def arrived(self) -> int:
        return _count(f"{self.path}/leaf/mail", r".+\.bsmtp")


class BareSsh(System):
    name = "ssh 'cat >f' <tar.zst"
    does = "the floor: one file of zstd -19, made before; no queue, no resuming, nobody knows that it came"

    def connect(self, port: int) -> None:
        self._ssh = _client(self.sshd, "floor", port)
        self._packed, self._files = b"", 0

    def queue(self, messages: Sequence[bytes]) -> int:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for number, content in enumerate(messages):
                member = tarfile.TarInfo(str(number))
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        zstd = ["zstd", "-19", "--long", "-c"]
        self._packed = subprocess.run(zstd, input=packed.getvalue(), capture_output=True, check=True).stdout
        return 1

    def call(self) -> bool:
        if not self._packed:
            return _ran([*self._ssh, "true"])
        name = f"{self.path}/f{self._files}"
        if not _ran([*self._ssh, f"cat >{name}.part"], self._packed):
            return False
        os.rename(f"{name}.part", name)  # the far shell could not tell a file that was cut from a whole one
        self._packed, self._files = b"", self._files + 1
        return True

    def arrived(self) -> int:
        return _count(self.path, r"f[0-9]+")


class Rsync(System):
    name = "rsync -z --partial"
    does = "SSH; a directory of messages, zstd -19; no envelopes, no execution, no fsync"

    def connect(self, port: int) -> None:
        package = unpacked("rsync")
        program = _script(f"{self.path}/rsync", package.command([package.path("usr/bin/rsync")]))
        *ssh, host = _client(self.sshd, "rsync", port)
        options = ["-a", "-z", "--zc=zstd", "--zl=19", "--partial-dir=.partial", "--remove-source-files"]
        places = [f"{host}:{self.path}/hub/", f"{self.path}/leaf/"]
        self._command = [program, *options, f"--rsync-path={program}", "-e", " ".join(ssh), *places]
        self._queued = 0
        for name in ("hub", "leaf"):
            os.mkdir(f"{self.path}/{name}")

    def queue(self, messages: Sequence[bytes]) -> int:
        for content in messages:
            self._queued += 1
            with open(f"{self.path}/hub/{self._queued}", "wb") as file:
                file.write(content)
        return len(messages)

    def call(self) -> bool:
        return _ran(self._command)

    def arrived(self) -> int:
        return _count(f"{self.path}/leaf", r"[0-9]+")


class Uucp(System):
    """One gzip -9 file of SMTP transactions, queued by uux for rcsmtp, as sites with UUCP batch their mail."""

    does = "SSH; BSMTP.gz made before; uux and uucico call no fsync; uuxqt is not in the time"
    settings = ""
    protocol = ""

    def __init__(self, path: str, installed: Installed, sshd: Sshd):
        super().__init__(path, installed, sshd)
        package, owner = unpacked("uucp"), need_user("uucp")
        account = ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
        self._uux, self._uucico = (
            _script(f"{path}/{name.rpartition('/')[2]}", package.command([*account, package.path(name)]))
            for name in ("usr/bin/uux", "usr/sbin/uucico")
        )
        for name, other, more in (("hub", "leaf", "time Never"), ("leaf", "hub", 'time any\nport ssh\nchat ""')):
            self._configure(f"{path}/{name}", name, f"system {other}\n{more}\n", owner)

    def _configure(self, site: str, name: str, system: str, owner: pwd.struct_passwd) -> None:
        for below in ("", "/spool", "/pub", "/lock"):
            os.mkdir(site + below, 0o755)
            os.chown(site + below, owner.pw_uid, owner.pw_gid)
        with open(f"{site}/config", "w", encoding="ascii") as file:
            file.write(
                f"nodename {name}\nspool {site}/spool\npubdir {site}/pub\nlockdir {site}/lock\nlogfile {site}/Log\n"
                f"statfile {site}/Stats\ndebugfile {site}/Debug\nsysfile {site}/sys\nportfile {site}/port\n"
            )
        with open(f"{site}/sys", "w", encoding="ascii") as file:
            file.write(f"commands rcsmtp\n{system}success-wait 0\nprotocol {self.protocol}\n{self.settings}")

    def connect(self, port: int) -> None:
        answering = f"{self._uucico} -q -I {self.path}/hub/config -u leaf"
        ssh = _client(self.sshd, f"uucp-{self.protocol}", port, answering, "uucp")
        with open(f"{self.path}/leaf/port", "w", encoding="ascii") as file:
            file.write(f"port ssh\ntype pipe\nreliable true\ncommand {' '.join(ssh)}\n")

    def queue(self, messages: Sequence[bytes]) -> int:
        batch = gzip.compress(_transactions(messages), 9)
        command = [self._uux, "-I", f"{self.path}/hub/config", "-", "-r", "leaf!rcsmtp"]
        subprocess.run(command, input=batch, check=True)
        return 1

    def call(self) -> bool:
        return _ran([self._uucico, "-q", "-I", f"{self.path}/leaf/config", "-S", "hub"])

    def arrived(self) -> int:
        return _count(f"{self.path}/leaf/spool/hub/X.", r"X\..+")


class UucpI(Uucp):
    name, protocol = "uucp -i, BSMTP.gz", "i"
    settings = "protocol-parameter i packet-size 4095\n"  # the window is 16 packets, and cannot be larger


class UucpT(Uucp):
    name, protocol = "uucp -t, BSMTP.gz", "t"


class _NncpDaemon(Daemon):
    def __init__(self, directory: str, package: Package):
        super().__init__(directory)
        self.port = free_port()
        command = [package.path("usr/bin/nncp-daemon"), "-quiet", "-noprogress", "-cfg", self.path("hub.hjson")]
        self._command = package.command([*command, "-bind", f"{LOOPBACK}:{self.port}"])

    def argv(self) -> Sequence[str]:
        return self._command

    def ready(self) -> bool:
        return answers(self.port)


class Nncp(System):
    name = "nncp-exec each"
    does = "its own TCP, no SSH; durable; the idle call is held 2 s by -onlinedeadline (10 by default); no nncp-toss"
    idle_s = 2

    def __init__(self, path: str, installed: Installed, sshd: Sshd):
        super().__init__(path, installed, sshd)
        self._package = unpacked("nncp")
        keys = {name: self._keys() for name in ("hub", "leaf")}
        self._queues = {"hub": f"hub/{keys['leaf']['id']}/tx", "leaf": f"leaf/{keys['hub']['id']}/rx"}
        for name in keys:
            neighbours = {
                "self" if other == name else other: {
                    **{key: text for key, text in found.items() if "prv" not in key},
                    "exec": {"rsmtp": ["/bin/true"]},
                }
                for other, found in keys.items()
            }
            settings = {"spool": f"{path}/{name}", "log": f"{path}/{name}.log", "self": keys[name], "neigh": neighbours}
            os.mkdir(f"{path}/{name}")
            with open(f"{path}/{name}.hjson", "w", encoding="ascii") as file:
                json.dump(settings, file)
        self._daemon = _NncpDaemon(path, self._package).start()
        self.port = self._daemon.port

    def _keys(self) -> dict[str, str]:
        command = self._package.command([self._package.path("usr/bin/nncp-cfgnew"), "-nocomments"])
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return dict(re.findall(r"(\w+): ([A-Z2-7]{40,})", text.partition("neigh")[0]))

    def _command(self, program: str, site: str, *arguments: str) -> list[str]:
        options = ["-cfg", f"{self.path}/{site}.hjson", "-quiet", "-noprogress"]
        return self._package.command([self._package.path(f"usr/bin/{program}"), *options, *arguments])

    def connect(self, port: int) -> None:
        options = ["-onlinedeadline", str(self.idle_s), "hub", f"{LOOPBACK}:{port}"]
        self._call = self._command("nncp-call", "leaf", *options)

    def queue(self, messages: Sequence[bytes]) -> int:
        for content in messages:
            command = self._command("nncp-exec", "hub", "leaf", "rsmtp", RECIPIENT)
            subprocess.run(command, input=content, check=True, capture_output=True)
        return len(messages)

    def call(self) -> bool:
        return _ran(self._call)

    def arrived(self) -> int:
        return _count(f"{self.path}/{self._queues['leaf']}", r"[A-Z2-7]{52}")

    def stop(self) -> None:
        self._daemon.stop()


class NncpBatch(Nncp):
    name = "nncp, BSMTP.zst"
    does = "the same, with one file of zstd -19 made before"
    idles = False  # as the other

    def queue(self, messages: Sequence[bytes]) -> int:
        zstd = ["zstd", "-19", "--long", "-c"]
        done = subprocess.run(zstd, input=_transactions(messages), capture_output=True, check=True)
        command = self._command("nncp-exec", "hub", "-nocompress", "leaf", "rsmtp")
        subprocess.run(command, input=done.stdout, check=True, capture_output=True)
        return 1


class PostfixToPostfix(System):
    name = "Postfix to Postfix"
    does = "SMTP, no TLS, no SSH, up to 20 connections (the default); queued and delivered durably"
    idles = False

    def __init__(self, path: str, installed: Installed, sshd: Sshd):
        super().__init__(path, installed, sshd)
        for name in ("hub", "leaf"):
            os.mkdir(f"{path}/{name}", 0o755)
        self._leaf = Postfix(f"{path}/leaf").start()
        self.port = self._leaf.port

    def connect(self, port: int) -> None:
        held = {"defer_transports": "smtp", "minimal_backoff_time": NEVER, "maximal_backoff_time": NEVER}
        route = f"/@home\\.example\\.test$/ smtp:[{LOOPBACK}]:{port}"
        options = {**held, "queue_run_delay": NEVER, "myhostname": "hub.postfix.test"}
        self._hub = Postfix(f"{self.path}/hub", main=options, transport=[route]).start()

    def queue(self, messages: Sequence[bytes]) -> int:
        self._defer("smtp")
        waiting = self._waiting("deferred")
        with smtplib.SMTP(LOOPBACK, self._hub.port) as client:
            for content in messages:
                client.sendmail(SENDER, [RECIPIENT], content)
        wait_until(lambda: self._waiting("deferred") == waiting + len(messages), "Postfix to hold its mail", 300)
        self._defer("")
        return len(messages)

    def _defer(self, transports: str) -> None:
        reread = self._hub.log().count("reload -- ")
        subprocess.run(self._hub.command("postconf", "-e", f"defer_transports = {transports}"), check=True)
        subprocess.run(self._hub.command("postfix", "reload"), check=True, capture_output=True)
        wait_until(lambda: self._hub.log().count("reload -- ") > reread, "Postfix to read its configuration")
        time.sleep(1)  # the queue manager ends and is started again; nobody's time counts here

    def _waiting(self, *queues: str) -> int:
        return sum(len(names) for queue in queues for _, _, names in os.walk(f"{self.path}/hub/spool/{queue}"))

    def call(self) -> bool:
        """Done when the queue is empty; cut short when something of it was put back."""
        put_back = self._hub.log().count("status=deferred")
        subprocess.run(self._hub.command("postqueue", "-f"), check=True)
        wait_until(
            lambda: (
                not self._waiting("deferred", "active", "incoming")
                or (self._hub.log().count("status=deferred") > put_back and not self._waiting("active", "incoming"))
            ),
            "Postfix to send its mail",
            600,
        )
        if self._waiting("deferred", "active", "incoming"):
            return False
        wait_until(self._leaf.queue_is_empty, "the other Postfix to deliver", 60)
        return True

    def arrived(self) -> int:
        return _count(f"{self.path}/leaf/mail/new", r".+")

    def stop(self) -> None:
        self._hub.stop()
        self._leaf.stop()


RIVALS: tuple[type[System], ...] = (BareSsh, UucpI, UucpT, Nncp, NncpBatch, Rsync, PostfixToPostfix)


def _client(sshd: Sshd, name: str, port: int, forced_command: str | None = None, owner: str = "") -> list[str]:
    """OpenSSH's client through the line, with a key of its own."""
    number = len(os.listdir(sshd.directory))
    identity = sshd.make_key(f"{name}.{number}")
    sshd.authorize(f"{identity}.pub", forced_command)
    if owner:
        shutil.chown(identity, owner)
    client = sshd.client(identity)
    client[client.index("-p") + 1] = str(port)
    return [
        shutil.which(client[0]) or client[0],
        "-o",
        f"HostKeyAlias=[{LOOPBACK}]:{sshd.port}",
        "-o",
        "UpdateHostKeys=no",
        *client[1:],
    ]


def _transactions(messages: Sequence[bytes]) -> bytes:
    """The messages as batched SMTP (RFC 2442)."""
    parts = [b"EHLO mx.example.test\r\n"]
    for content in messages:
        parts.append(f"MAIL FROM:<{SENDER}>\r\nRCPT TO:<{RECIPIENT}>\r\nDATA\r\n".encode())
        lines = content.removesuffix(b"\n").split(b"\n")
        parts += [(b"." if line.startswith(b".") else b"") + line + b"\r\n" for line in lines]
        parts.append(b".\r\n")
    return b"".join(parts) + b"QUIT\r\n"


def _script(path: str, argv: Sequence[str]) -> str:
    """A program that can be named in one word where it is to be started by others."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'#!/bin/sh\nexec {shlex.join(argv)} "$@"\n')
    os.chmod(path, 0o755)
    return path


def _ran(argv: Sequence[str], data: bytes = b"") -> bool:
    return not subprocess.run(argv, input=data, capture_output=True, cwd="/", timeout=600).returncode


def _count(directory: str, name: str) -> int:
    try:
        return sum(bool(re.fullmatch(name, found)) for found in os.listdir(directory))
    except FileNotFoundError:
        return 0

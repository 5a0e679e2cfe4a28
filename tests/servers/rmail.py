"""rmail, both ways round: Debian's program as a target, and Taylor UUCP's uux and uuxqt starting one.

Debian's rmail has the path of sendmail compiled in.  The copy made here has a recording stand-in's path in that place,
so it runs as any user and nothing outside the directory is touched.
"""

import os
import pwd
import subprocess
from typing import NamedTuple

from tests.servers.host import Unavailable, need_root, need_user
from tests.servers.packages import unpacked

SENDMAIL = b"/usr/sbin/sendmail\0"
# Keeps its arguments and its input, one file each per run, and exits as told.
STAND_IN = """\
#!/bin/sh
run=$(mktemp {directory}/runs/XXXXXXXXXX)
for argument; do printf '%s\\n' "$argument"; done > "$run.argv"
cat > "$run.stdin"
mv "$run" "$run.done"
exit "$(cat {directory}/exit)"
"""


class Run(NamedTuple):
    """One start of the stand-in for sendmail."""

    arguments: tuple[bytes, ...]
    stdin: bytes


class Rmail:
    """Debian's rmail below `directory`, whose path must be short (`open_directory`): it has to fit into the program."""

    def __init__(self, directory: str):
        self.directory = directory
        package = unpacked("rmail")
        with open(package.path("usr/sbin/rmail"), "rb") as file:
            program = file.read()
        stand_in = os.fsencode(f"{directory}/s\0")
        if program.count(SENDMAIL) != 1 or len(stand_in) > len(SENDMAIL):
            raise Unavailable("rmail: the path of sendmail in it cannot be replaced")
        self.program = os.path.join(directory, "rmail")
        _write_program(f"{directory}/copy", program.replace(SENDMAIL, stand_in.ljust(len(SENDMAIL), b"\0")))
        start = f'#!/bin/sh\nLD_LIBRARY_PATH={package.library_path()} exec {directory}/copy "$@"\n'
        _write_program(self.program, start.encode())
        _write_program(f"{directory}/s", STAND_IN.format(directory=directory).encode())
        os.mkdir(f"{directory}/runs")
        os.chmod(f"{directory}/runs", 0o777)
        self.exit_with(0)

    def exit_with(self, code: int) -> None:
        """What sendmail exits with from now on."""
        with open(f"{self.directory}/exit", "w") as file:
            file.write(str(code))

    def runs(self) -> list[Run]:
        """Every finished start of sendmail, in no certain order."""
        found = []
        for name in sorted(os.listdir(f"{self.directory}/runs")):
            if name.endswith(".done"):
                stem = os.path.join(self.directory, "runs", name.removesuffix(".done"))
                found.append(Run(tuple(_read(f"{stem}.argv").split(b"\n")[:-1]), _read(f"{stem}.stdin")))
        return found


class Uucp:
    """Taylor UUCP on one site: `send` queues by uux as an MTA would, `execute` has uuxqt start `rmail`.

    All of it runs as `user`, and so does `rmail`.
    """

    def __init__(self, directory: str, rmail: str, *, user: str = "uucp"):
        need_root("uuxqt")
        self._package = unpacked("uucp")
        self.owner: pwd.struct_passwd = need_user(user)
        self.directory = directory
        for name in ("spool", "public", "commands", "locks"):
            os.mkdir(os.path.join(directory, name))
            os.chown(os.path.join(directory, name), self.owner.pw_uid, self.owner.pw_gid)
        os.symlink(rmail, os.path.join(directory, "commands", "rmail"))
        self._configuration = os.path.join(directory, "config")
        with open(self._configuration, "w") as file:
            file.write(
                f"nodename here\nspool {directory}/spool\npubdir {directory}/public\nlockdir {directory}/locks\n"
                f"logfile {directory}/spool/Log\nstatfile {directory}/spool/Stats\ndebugfile {directory}/spool/Debug\n"
                f"sysfile {directory}/sys\nunknown commands rmail\n"
            )
        with open(os.path.join(directory, "sys"), "w") as file:
            file.write(f"system here\ncommands rmail\ncommand-path {directory}/commands /usr/bin /bin\n")

    def send(self, message: bytes, *recipients: str) -> None:
        """`message` begins with a From_ line; it is queued for our own site's rmail."""
        arguments = ["-r", "-z", "-", "here!rmail", *(f"({recipient})" for recipient in recipients)]
        self._run("usr/bin/uux", *arguments, message=message)

    def execute(self) -> str:
        """Run what is queued; the log."""
        self._run("usr/sbin/uuxqt")
        return _read(os.path.join(self.directory, "spool", "Log")).decode()

    def waiting(self) -> int:
        """How many executions are still queued."""
        place = os.path.join(self.directory, "spool")
        return sum(name.startswith("X.") for _, _, names in os.walk(place) for name in names)

    def _run(self, program: str, *arguments: str, message: bytes = b"") -> None:
        account = ["setpriv", f"--reuid={self.owner.pw_uid}", f"--regid={self.owner.pw_gid}", "--clear-groups"]
        command = self._package.command([*account, self._package.path(program), "-I", self._configuration, *arguments])
        done = subprocess.run(command, input=message, capture_output=True, cwd=self.directory)
        if done.returncode:
            raise RuntimeError(f"{program} exited {done.returncode}: {done.stderr.decode(errors='replace')}")


def _write_program(path: str, octets: bytes) -> None:
    with open(path, "wb") as file:
        file.write(octets)
    os.chmod(path, 0o755)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()

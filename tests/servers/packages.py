"""Server programs from the distribution's packages, unpacked privately and never installed.

The mail servers' packages conflict with each other, so each is downloaded by name with apt-get and unpacked with dpkg
into the cache ($BATCHMAIL_SERVERS, else .cache/servers of the checkout), with the shared libraries this machine lacks.
As root a server runs in a private mount namespace whose linker cache knows these libraries, which holds for set-uid
programs too; without root LD_LIBRARY_PATH does.  `python -m tests.servers.packages` fetches all and says what there is.
"""

import fcntl
import glob
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from tests.servers.host import Unavailable, in_private_mounts, is_root, need_private_mounts, readable_by_all

CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# Name here: the packages, and a program that must be there and find its libraries.
KNOWN = {
    "exim": (("exim4-daemon-light",), "usr/sbin/exim4"),
    "postfix": (("postfix",), "usr/sbin/postfix"),
    "dovecot": (("dovecot-core", "dovecot-lmtpd"), "usr/sbin/dovecot"),
    "openssh": (("openssh-server",), "usr/sbin/sshd"),
    "dropbear": (("dropbear-bin",), "usr/sbin/dropbear"),
    "rmail": (("rmail",), "usr/sbin/rmail"),
    "uucp": (("uucp",), "usr/sbin/uuxqt"),
    "opensmtpd": (("opensmtpd",), "usr/sbin/smtpd"),
    "sendmail": (("sendmail-bin", "sendmail-base", "sendmail-cf", "m4"), "usr/libexec/sendmail/sendmail"),
    "swaks": (("swaks",), "usr/bin/swaks"),
    "nncp": (("nncp",), "usr/bin/nncp-exec"),
    "rsync": (("rsync",), "usr/bin/rsync"),
    "sisimai": (
        ("libsisimai-perl", "libmail-deliverystatus-bounceparser-perl", "libmailtools-perl", "libtimedate-perl"),
        "usr/share/perl5/Sisimai.pm",
    ),
}
NEVER_UNPACKED = ("libc6", "libc-bin")  # another C library needs its own dynamic linker: such a server cannot be had
PRIVATE_LIBRARIES = ("usr/lib/postfix", "usr/lib/dovecot")


class Package(NamedTuple):
    """An unpacked server."""

    root: str

    def path(self, name: str) -> str:
        return os.path.join(self.root, name)

    def library_path(self) -> str:
        return ":".join(_library_directories(self.root))

    def command(self, argv: Sequence[str], mounts: Mapping[str, str] | None = None) -> list[str]:
        """How to run `argv` so that it finds its libraries; for root with `mounts`: path -> directory shown there."""
        if not is_root():
            return ["env", f"LD_LIBRARY_PATH={self.library_path()}", *argv]
        need_private_mounts()
        mounts = mounts or {}
        for place in mounts:
            os.makedirs(place, exist_ok=True)  # empty for everybody else
        return in_private_mounts({"/etc/ld.so.cache": self.path("ld.so.cache"), **mounts}, argv)


@cache
def unpacked(name: str) -> Package:
    """The server `name`, downloaded when the cache lacks it."""
    roots, program = KNOWN[name]
    root = os.path.join(_cache(), name)
    with open(f"{root}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs at once
        if not os.path.exists(os.path.join(root, "ld.so.cache")):
            shutil.rmtree(root, ignore_errors=True)
            _unpack(roots, root)
            _add_missing_libraries(roots, root, program)
            _make_linker_cache(root)
    return Package(root)


def _cache() -> str:
    path = os.environ.get("BATCHMAIL_SERVERS") or os.path.join(CHECKOUT, ".cache", "servers")
    os.makedirs(path, exist_ok=True)
    if is_root() and not readable_by_all(path):
        path = "/var/cache/batchmail-servers"  # the servers' own accounts have to get there
        os.makedirs(path, exist_ok=True)
    return path


def _unpack(packages: Sequence[str], root: str) -> None:
    needed = [name for name in _not_installed(packages) if name.startswith("lib")]
    _download([*packages, *needed], root)


def _not_installed(packages: Sequence[str]) -> list[str]:
    """What installing `packages` would bring along; nothing where apt cannot tell (held or conflicting versions)."""
    command = ["apt-get", "install", "--yes", "--no-install-recommends", "--print-uris", "--quiet=2", *packages]
    done = subprocess.run(command, capture_output=True, text=True)
    return re.findall(r"^'\S+' ([a-z0-9][a-z0-9+.-]*)_", done.stdout, re.MULTILINE)


def _download(packages: Iterable[str], root: str) -> None:
    names = sorted(set(packages) - set(NEVER_UNPACKED))
    downloads = os.path.join(root, "downloads")
    os.makedirs(downloads, exist_ok=True)
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise Unavailable("no apt-get and dpkg to fetch it with")
    done = subprocess.run(["apt-get", "download", "--quiet=2", *names], cwd=downloads, capture_output=True, text=True)
    if done.returncode:
        why = next((line for line in done.stderr.splitlines() if line.startswith("E:")), "no reason given")
        raise Unavailable(f"cannot download {' '.join(names)}: {why}")
    for package in glob.glob(os.path.join(downloads, "*.deb")):
        subprocess.run(["dpkg", "-x", package, root], check=True)
        os.unlink(package)


def _add_missing_libraries(roots: Sequence[str], root: str, program: str) -> None:
    """Fetch what the dynamic linker still misses although apt believes it is there."""
    if missing := _missing_libraries(root, program):
        dependencies = _dependencies(roots)
        wanted = [name for library in missing for name in _package_names(library) if name in dependencies]
        if wanted:
            _download(wanted, root)
    if missing := _missing_libraries(root, program):
        raise Unavailable(f"{os.path.basename(program)} lacks {' '.join(missing)}")


def _missing_libraries(root: str, program: str) -> list[str]:
    environment = {**os.environ, "LD_LIBRARY_PATH": Package(root).library_path()}
    done = subprocess.run(["ldd", os.path.join(root, program)], env=environment, capture_output=True, text=True)
    return sorted(
        set(re.findall(r"(\S+) => not found", done.stdout) + re.findall(r"version `(\S+)' not found", done.stderr))
    )


def _package_names(library: str) -> list[str]:
    """Debian names a library's package after its soname: libidn.so.12 is in libidn12, libdb-5.3.so in libdb5.3."""
    match = re.fullmatch(r"(lib.+)-([0-9.]+)\.so|(lib.+?)\.so\.?(.*)", library)
    if not match:
        return []
    name, version = (match[1] or match[3]).lower(), match[2] or match[4]
    dash = "-" if name[-1].isdigit() else ""
    return [f"{name}{dash}{version}", f"{name}{dash}{version}t64"]


def _dependencies(packages: Sequence[str]) -> set[str]:
    command = ["apt-cache", "depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks"]
    done = subprocess.run([*command, "--no-replaces", "--no-enhances", *packages], capture_output=True, text=True)
    return set(re.findall(r"^(\w[\w+.-]*)$", done.stdout, re.MULTILINE))


def _library_directories(root: str) -> list[str]:
    multiarch = glob.glob(os.path.join(root, "usr/lib/*-linux-*")) + glob.glob(os.path.join(root, "lib/*-linux-*"))
    private = [os.path.join(root, name) for name in PRIVATE_LIBRARIES]
    return [path for path in [*multiarch, *private] if os.path.isdir(path)]


def _make_linker_cache(root: str) -> None:
    configuration = os.path.join(root, "ld.so.conf")
    with open(configuration, "w") as file:
        file.writelines(f"{path}\n" for path in _library_directories(root))
        file.write("include /etc/ld.so.conf\n")
    ldconfig = shutil.which("ldconfig") or "/sbin/ldconfig"
    cache_file = os.path.join(root, "ld.so.cache")
    subprocess.run([ldconfig, "-X", "-f", configuration, "-C", f"{cache_file}.new"], check=True, capture_output=True)
    os.rename(f"{cache_file}.new", cache_file)


def main() -> int:
    """Fetch every server; say per line what there is.  Not having one is no error here: its tests say so."""
    for name in KNOWN:
        try:
            print(f"{name}: {unpacked(name).root}")
        except Unavailable as reason:
            print(f"{name}: not available: {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Fixtures for whole programs: the installed ones, real servers, bad lines, the collected messages.

What cannot be had skips its test with one line that says why; with BATCHMAIL_REQUIRE_REAL=1 it fails instead.
"""

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any, NoReturn, TypeVar

import pytest
import zstandard

from tests.servers.daemon import Daemon
from tests.servers.dovecot import Dovecot
from tests.servers.exim import Exim
from tests.servers.host import Factory, Installed, Unavailable, need_root, open_directory, readable_by_all
from tests.servers.link import Link
from tests.servers.opensmtpd import OpenSmtpd
from tests.servers.packages import CHECKOUT, Package, unpacked
from tests.servers.postfix import Postfix
from tests.servers.rmail import Rmail, Uucp
from tests.servers.sendmail import Sendmail
from tests.servers.smtp_log import SmtpLog
from tests.servers.sshd import Sshd, login_account

Started = TypeVar("Started")
_SAID = 4000  # characters
_OS = dict(vars(os))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests run on several processors, those with real servers share one: they share accounts and places too."""
    for item in items:
        if item.get_closest_marker("real") or item.path.parent.name in ("e2e", "servers"):
            item.add_marker(pytest.mark.xdist_group("servers"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, None]:
    """A test that fails shows what its servers said."""
    report = (yield).get_result()
    if report.when == "call" and report.failed:
        for daemon in Daemon.started:
            report.sections.append((f"{type(daemon).__name__} in {daemon.directory}", daemon.log()[-_SAID:]))
    elif report.when == "teardown":
        Daemon.started.clear()


@pytest.fixture(autouse=True)
def _leave_no_trace() -> Iterator[None]:
    """A test that leaves `os` patched, or the process changed, makes another one fail, whichever comes next."""
    before = _of_process()
    yield
    left = [name for name, value in _OS.items() if vars(os).get(name) is not value]
    for name in left:
        setattr(os, name, _OS[name])
    assert not left, f"left patched in os: {left}"
    assert _of_process() == before, "account, umask, directory"


def _of_process() -> tuple[int, int, str]:
    mask = os.umask(0o077)
    os.umask(mask)
    return os.geteuid(), mask, os.getcwd()


def unavailable(reason: object) -> NoReturn:
    if os.environ.get("BATCHMAIL_REQUIRE_REAL") == "1":
        pytest.fail(f"required, and not available: {reason}", pytrace=False)
    pytest.skip(str(reason))


@pytest.fixture(scope="session")
def installed() -> Iterator[Installed]:
    with open_directory() as directory:
        python, libraries = _python_for_all()
        command = ["make", "-s", "-C", CHECKOUT, "install", f"DESTDIR={directory}", "PREFIX=/usr", f"PYTHON={python}"]
        subprocess.run(command, check=True, umask=0o022)
        programs = Installed(os.path.join(directory, "usr", "bin"), os.path.join(directory, "usr", "lib", "batchmail"))
        for library in libraries:
            shutil.copytree(library, os.path.join(programs.lib, os.path.basename(library)))
        yield programs


def _python_for_all() -> tuple[str, list[str]]:
    """An interpreter every account can start, and the libraries to lend it because others cannot read them."""
    zstd = os.path.dirname(zstandard.__file__)
    if readable_by_all(sys.executable) and readable_by_all(os.path.dirname(sys.executable)) and readable_by_all(zstd):
        return sys.executable, []
    same = f"/usr/bin/python3.{sys.version_info.minor}"  # compiled libraries fit no other
    return (same, [zstd]) if os.path.exists(same) else ("/usr/bin/python3", [])


@pytest.fixture
def open_path() -> Iterator[str]:
    """A directory that other accounts can enter, with a short path (sockets, rmail)."""
    with open_directory() as path:
        yield path


@pytest.fixture
def account() -> pwd.struct_passwd:
    """The account batchmail, as another one than the tests' own."""
    try:
        need_root("running programs as another account")
        return login_account()
    except Unavailable as reason:
        unavailable(reason)


@pytest.fixture
def package() -> Callable[[str], Package]:
    """An unpacked package of tests.servers.packages, by name."""

    def find(name: str) -> Package:
        try:
            return unpacked(name)
        except Unavailable as reason:
            unavailable(reason)

    return find


@pytest.fixture
def _stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def _factory(stack: ExitStack, make: Callable[..., AbstractContextManager[Started]]) -> Factory[Started]:
    """Start a server of this kind in a directory of its own; it ends with the test."""

    def start(*arguments: object, **options: object) -> Started:
        try:
            return stack.enter_context(make(stack.enter_context(open_directory()), *arguments, **options))
        except Unavailable as reason:
            unavailable(reason)

    return start


@pytest.fixture
def exim_factory(_stack: ExitStack) -> Factory[Exim]:
    return _factory(_stack, Exim)


@pytest.fixture
def postfix_factory(_stack: ExitStack) -> Factory[Postfix]:
    return _factory(_stack, Postfix)


@pytest.fixture
def dovecot_factory(_stack: ExitStack) -> Factory[Dovecot]:
    return _factory(_stack, Dovecot)


@pytest.fixture
def opensmtpd_factory(_stack: ExitStack) -> Factory[OpenSmtpd]:
    return _factory(_stack, OpenSmtpd)


@pytest.fixture
def sendmail_factory(_stack: ExitStack) -> Factory[Sendmail]:
    return _factory(_stack, Sendmail)


@pytest.fixture
def sshd_factory(_stack: ExitStack) -> Factory[Sshd]:
    return _factory(_stack, Sshd)


@pytest.fixture
def exim(exim_factory: Factory[Exim]) -> Exim:
    return exim_factory()


@pytest.fixture
def postfix(postfix_factory: Factory[Postfix]) -> Postfix:
    return postfix_factory()


@pytest.fixture
def opensmtpd(opensmtpd_factory: Factory[OpenSmtpd]) -> OpenSmtpd:
    return opensmtpd_factory()


@pytest.fixture
def sendmail(sendmail_factory: Factory[Sendmail]) -> Sendmail:
    return sendmail_factory()


@pytest.fixture
def dovecot(dovecot_factory: Factory[Dovecot]) -> Dovecot:
    return dovecot_factory()


@pytest.fixture
def sshd(sshd_factory: Factory[Sshd]) -> Sshd:
    return sshd_factory()


@pytest.fixture
def rmail(open_path: str) -> Rmail:
    try:
        return Rmail(open_path)
    except Unavailable as reason:
        unavailable(reason)


@pytest.fixture
def uucp_factory(_stack: ExitStack) -> Factory[Uucp]:
    """Takes the path of the rmail to be started."""

    def make(*arguments: object, **options: object) -> Uucp:
        try:
            return Uucp(_stack.enter_context(open_directory()), *arguments, **options)  # type: ignore[arg-type]
        except Unavailable as reason:
            unavailable(reason)

    return make


@pytest.fixture
def smtp_log_factory(_stack: ExitStack) -> Factory[SmtpLog]:
    return lambda *arguments, **options: _stack.enter_context(SmtpLog(*arguments, **options))


@pytest.fixture
def smtp_log(smtp_log_factory: Factory[SmtpLog]) -> SmtpLog:
    return smtp_log_factory()


@pytest.fixture
def link_factory(_stack: ExitStack) -> Factory[Link]:
    """Takes the port to lead to."""
    return lambda *arguments, **options: _stack.enter_context(Link(*arguments, **options))


@pytest.fixture(scope="session")
def corpus() -> str:
    """The directory of collected messages, read where it lies."""
    path = os.environ.get("BATCHMAIL_CORPUS") or os.path.join(os.path.dirname(CHECKOUT), "shared", "corpus")
    if not os.path.isdir(path):
        pytest.skip("no collected messages: set BATCHMAIL_CORPUS")
    return path

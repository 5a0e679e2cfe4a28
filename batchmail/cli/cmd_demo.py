"""batchmail demo: the main job end to end on one machine: no root, no mail server, no sshd.

Two sites below a temporary directory, with the real programs; only the mail
servers and the SSH server are small ones of our own.  What came out is compared with
what went in, so the demonstration is a test as well.
"""

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import zip_longest
from textwrap import wrap

import click

from batchmail.cli.demo_mail import BY_OPTIONS, TO_HOME, TO_MX, Mail, bsmtp, options
from batchmail.cli.demo_site import DemoSite, program
from batchmail.cli.tables import line_width, print_anything
from batchmail.core.envelope import Envelope, Parameters, Recipient, without
from batchmail.core.errors import Temporary
from batchmail.flow.overview import look_at
from batchmail.store.sent import Sent
from batchmail.wire.keys import ensure_key
from batchmail.wire.relay import Relay
from batchmail.wire.smtp_sink import Taken
from batchmail.wire.ssh_server import serve

_SETTLED_S = 30.0
_SHOWN_RECIPIENTS = 2
_CALLS = 3  # one does it, unless the machine is so slow that outcomes miss it


@click.command("demo", short_help="Show the main job end to end, on this machine alone.")
@click.option("--keep", is_flag=True, help="Leave the directory, to look into it.")
@click.pass_obj
def command(config_file: str | None, keep: bool) -> int:
    """Exchange some mail between two sites on this machine, and compare what came out with what went in.

    Needs no configuration, no root, no mail server and no sshd, and touches nothing but a temporary directory.
    """
    print_anything()
    root = tempfile.mkdtemp(prefix="batchmail-demo-")
    try:
        with contextlib.ExitStack() as stack:
            _Demo(root, stack).run()
    finally:
        if keep:
            click.echo(f"\nLeft for you: {root}; it has no server any more. rm -r {root} removes it.")
        else:
            _remove(root)
    return 0


def _remove(root: str) -> None:
    """Remove the directory, also when a program that answered a call is just ending in it."""
    for _ in range(20):
        shutil.rmtree(root, ignore_errors=True)
        if not os.path.exists(root):
            return
        time.sleep(0.1)


class _Demo:
    def __init__(self, root: str, stack: contextlib.ExitStack):
        self._root = root
        self._mx = DemoSite(root, "mx.example.net", "home")
        self._home = DemoSite(root, "home.example.org", "mx")
        for site in (self._mx, self._home):
            stack.callback(site.sink.close)
        self._relay = self._connect(stack)
        self._width = max(72, min(110, line_width() - 1))

    def _connect(self, stack: contextlib.ExitStack) -> Relay:
        """Keys, the SSH server with its forced command, and both configurations."""
        mx, home = self._mx, self._home
        ours, _ = ensure_key(f"{home.directory}/id_ed25519", f"batchmail@{home.site}")
        ensure_key(f"{mx.directory}/host_key", mx.site)
        forced = ["batchmail-receive", "-c", mx.config, "--peer", "home"]
        python = [sys.executable, program(forced[0]), *forced[1:]]
        server = serve(f"{mx.directory}/host_key", {ours: python})
        stack.callback(server.close)
        relay = Relay(server.port)
        stack.callback(relay.close)
        nothing = f"{home.directory}/ssh_config"
        with open(nothing, "w", encoding="ascii"):
            pass
        mx.configure({"domains": "home.example.org"})
        home.configure({"domains": "*", "call": f"ssh://batchmail@127.0.0.1:{relay.port}", "ssh_config": nothing})
        home.run("key", "mx", "--as", "home", "--add")
        return relay

    def run(self) -> None:
        mx, home = self._mx, self._home
        click.echo(f"Two sites in {self._root}: mx.example.net is always on, home.example.org calls when it can.")
        self._title("What goes in")
        self._hand_over()
        self._title("The call, from home.example.org, by SSH with a key that can do one thing")
        self._call()
        self._title("What came out")
        for mails, there, here in ((TO_HOME, mx, home), ((BY_OPTIONS, *TO_MX), home, mx)):
            for mail in mails:
                self._compare(mail, there, here)
        self._title("The one that was refused")
        self._show_notice()
        self._title("All is as it should be: every transaction once, its envelope whole, every sender told")
        click.echo("Next: two real hosts in ten minutes, told in README.md. To look into these two spools:")
        click.echo("batchmail demo --keep, then batchmail -c FILE with status, queue, show or check (where nothing is")
        click.echo("installed, batchmail is .venv/bin/python bin/batchmail).")

    def _title(self, text: str) -> None:
        click.echo(f"\n{click.style(text, bold=True)}\n")

    # -- in and across ------------------------------------------------------------------------------------------

    def _hand_over(self) -> None:
        mx, home = self._mx, self._home
        mx.pipe([], bsmtp(TO_HOME))
        click.echo(f"$ batchmail-pipe -t home <mail.bsmtp            # an MTA at {mx.site}, as BSMTP")
        click.echo(mx.run("queue"))
        arguments = options(BY_OPTIONS)
        home.pipe(arguments, BY_OPTIONS.content.replace(b"\r\n", b"\n"))
        home.pipe([], bsmtp(TO_MX))
        shown = " ".join(f"'{word}'" if set(word) & set(" ;<>") else word for word in arguments)
        for line in wrap(f"$ batchmail-pipe -t mx {shown} <message", self._width, subsequent_indent="    "):
            click.echo(line)
        click.echo(f"$ batchmail-pipe -t mx <mail.bsmtp              # an MTA at {home.site}")
        click.echo(home.run("queue").rstrip())

    def _call(self) -> None:
        click.echo("$ batchmail call mx")
        before = self._octets_on_the_wire()
        for _ in range(_CALLS):
            click.echo(self._home.run("call", "mx"), nl=False)
            if self._is_settled():
                break
        else:
            raise Temporary("not everything was settled in time: batchmail demo --keep, then batchmail status")
        click.echo("\nNumbered files that crossed:")
        files_octets = self._list_files(self._mx, self._home) + self._list_files(self._home, self._mx)
        raw = len(bsmtp((*TO_HOME, BY_OPTIONS, *TO_MX)))
        wire = self._octets_on_the_wire() - before
        click.echo(f"\n{raw:,} octets of mail, {files_octets:,} in files, {wire:,} on the wire with all that SSH adds.")

    def _octets_on_the_wire(self) -> int:
        return self._relay.forth_octets + self._relay.back_octets

    def _list_files(self, origin: DemoSite, to: DemoSite) -> int:
        total = 0
        with contextlib.closing(origin.context().open_ledger()) as ledger:
            for file in Sent(ledger).files("settled"):
                click.echo(f"  {file.octets:>7,} octets  {file.number.file_name:<27} {origin.site} to {to.site}")
                total += file.octets
        return total

    def _is_settled(self) -> bool:
        """Whether all is done on both sides, or becomes so by what the call has left to `batchmail run`."""
        give_up_s = time.monotonic() + _SETTLED_S
        while time.monotonic() < give_up_s:
            states = [look_at(site.context()) for site in (self._mx, self._home)]
            if not any(
                state.waiting or state.sealed or state.custody or state.replay or state.notices for state in states
            ):
                return True
            if any(state.waiting or state.sealed for state in states):
                return False
            self._mx.run("run")
            self._home.run("run")
            time.sleep(0.1)
        return False

    # -- out ----------------------------------------------------------------------------------------------------

    def _compare(self, mail: Mail, there: DemoSite, here: DemoSite) -> None:
        """Show a transaction on both sides; Temporary when they differ."""
        taken = [one for one in here.sink.taken if _body(one).startswith(mail.content[:200])]
        if len(taken) != 1:
            raise Temporary(f'"{mail.subject}" came out {len(taken)} times')
        refused = [r for r in mail.envelope.recipients if r.address.startswith(b"nobody@")]
        expected = tuple(r for r in mail.envelope.recipients if r not in refused)
        envelope = taken[0].envelope
        if (envelope.sender, _words(envelope.parameters), tuple(map(_plain, envelope.recipients))) != (
            mail.envelope.sender, _words(mail.envelope.parameters), tuple(map(_plain, expected))
        ):  # fmt: skip
            raise Temporary(f'the envelope of "{mail.subject}" has changed: {envelope}')
        if _body(taken[0]) != mail.content:
            raise Temporary(f'the content of "{mail.subject}" has changed')
        click.echo(click.style(mail.subject, underline=True))
        left = [f"in at {there.site}", *_commands(mail.envelope), f"{len(mail.content):,} octets"]
        came = {r.address: r for r in envelope.recipients}
        right = [f"out at {here.site}", *_commands(envelope, mail.envelope, came)]
        self._side_by_side(left, [*right, "the same below one Received: line"])

    def _side_by_side(self, left: list[str], right: list[str]) -> None:
        half = self._width // 2 - 1
        for one, other in zip(left, right, strict=True):
            lines = (wrap(text, half, subsequent_indent="  ", break_on_hyphens=False) for text in (one, other))
            for a, b in zip_longest(*lines, fillvalue=""):
                click.echo(f"{a:<{half}}  {b}".rstrip())
        click.echo()

    def _show_notice(self) -> None:
        letters = [one for one in self._mx.sink.taken if not one.envelope.sender]
        wanted = (b"Status: 5.1.1", b"Original-Envelope-Id: letter+no.2", b"nobody@home.example.org")
        if len(letters) != 1 or not all(word in letters[0].content for word in wanted):
            raise Temporary(f"{len(letters)} notices came out, and one was owed, for nobody@home.example.org")
        click.echo("Its sender is told at mx.example.net, with the words of the server that refused:\n")
        click.echo(f"  MAIL FROM:<>  RCPT TO:<{letters[0].envelope.recipients[0].address.decode()}>")
        for line in _status_lines(letters[0]):
            click.echo(f"  {line}")


def _body(taken: Taken) -> bytes:
    """The content below the Received: line that the replaying site put on top."""
    head, _, rest = taken.content.partition(b"\r\nFrom: ")
    return b"From: " + rest if head.startswith(b"Received: ") and b"\r\nReceived:" not in head else taken.content


def _plain(recipient: Recipient) -> tuple[bytes, list[bytes]]:
    return recipient.address, _words(recipient.parameters)


def _words(parameters: Parameters) -> list[bytes]:
    """Parameters to compare, in their order; SIZE is each hop's own."""
    return [*map(bytes, without(parameters, b"SIZE"))]


def _commands(
    envelope: Envelope, like: Envelope | None = None, came: dict[bytes, Recipient] | None = None
) -> Iterator[str]:
    """MAIL and RCPT commands for people; of those in `like` that did not come, that they were refused."""
    parameters = without(envelope.parameters, b"SIZE")
    yield " ".join((f"MAIL FROM:<{envelope.sender.decode()}>", *(bytes(p).decode() for p in parameters)))
    recipients = (like or envelope).recipients
    for one in recipients[:_SHOWN_RECIPIENTS]:
        found = came.get(one.address) if came is not None else one
        if found is None:
            yield f"RCPT TO:<{one.address.decode()}> refused: 550 5.1.1"
        else:
            yield " ".join((f"RCPT TO:<{found.address.decode()}>", *(bytes(p).decode() for p in found.parameters)))
    if len(recipients) > _SHOWN_RECIPIENTS:
        yield f"... and {len(recipients) - _SHOWN_RECIPIENTS} more recipients"


def _status_lines(letter: Taken) -> Iterator[str]:
    """The fields of the notice's second part."""
    _, _, report = letter.content.partition(b"Content-Type: message/delivery-status")
    fields, _, _ = report.partition(b"\r\n--")
    for line in fields.decode().split("\r\n")[1:]:
        if line.strip():
            yield line

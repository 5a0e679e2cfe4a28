"""Looking for what is wrong with a site, or will be when it is needed; nothing is changed.

Each finding says what was looked at and, if it is wrong, what to do.  Targets
and servers are greeted and left; no mail is given to them.
"""

import os
import shlex
import shutil
import stat
from collections.abc import Iterable, Iterator

from batchmail.core.errors import BatchmailError, LineError, PeerError
from batchmail.core.settings import Peer, Site
from batchmail.core.valid import addresses_in
from batchmail.flow.context import Context
from batchmail.flow.damage import Finding
from batchmail.flow.overview import look_at, room_trouble
from batchmail.flow.recipients import read_words
from batchmail.flow.smtp_session import Session
from batchmail.flow.target_spec import TargetSpec, parse_target
from batchmail.store.setup import stale_doors, strays
from batchmail.store.spool import Door, Spool, user_name
from batchmail.store.view import open_view
from batchmail.wire.known_hosts import known_keys, name_in_files
from batchmail.wire.peer_text import name_peer
from batchmail.wire.ssh_address import parse_address
from batchmail.wire.ssh_config import find_route
from batchmail.wire.ssh_keys import LoginKeys

PROBE_S = 10.0  # for each answer of a target that is only greeted


def check_spool(found: Spool, doors: Iterable[tuple[Door, Iterable[str]]]) -> Iterator[Finding]:
    """Rights, and whether the doors know what the configuration says."""
    owner = user_name(os.geteuid())
    mend = f"chown -R {owner} {found.root}; chmod -R u+rwX,go= {found.root}"
    try:
        yield from _check_spool(found, doors, mend)
    except OSError as error:
        yield Finding(f"rights of {found.root}", f"cannot read {error.filename}: {error.strerror}; {mend}")


def _check_spool(found: Spool, doors: Iterable[tuple[Door, Iterable[str]]], mend: str) -> Iterator[Finding]:
    owner = user_name(os.geteuid())
    wrong = list(_wrong_rights(found.root))
    shown = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
    yield Finding(f"rights of {found.root}", f"not {owner}'s alone: {shown}; {mend}" if wrong else "")
    stale = stale_doors(found.root, doors)
    shown = ", ".join(stale[:3]) + (", ..." if len(stale) > 3 else "")
    problem = f"not up to date with the configuration ({shown}): run batchmail setup" if stale else ""
    yield Finding(f"doors in {found.root}/doors", problem)


def _wrong_rights(root: str) -> Iterator[str]:
    """The spool's directories, down to those of each peer: a file in them is safe when they are."""
    places = ["", "tmp", "doors", "lock", "out", "in", "ledger"]
    for side in ("out", "in"):
        for peer in os.listdir(f"{root}/{side}"):
            places += [f"{side}/{peer}", *(f"{side}/{peer}/{name}" for name in os.listdir(f"{root}/{side}/{peer}"))]
    for place in places:
        path = f"{root}/{place}".rstrip("/")
        try:
            status = os.stat(path, follow_symlinks=False)
        except FileNotFoundError:
            yield f"{path} (missing)"
            continue
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            yield f"{path} ({user_name(status.st_uid)}, {stat.S_IMODE(status.st_mode):04o})"


def check_strays(found: Spool) -> Iterator[Finding]:
    """What lies beside the directories of the spool; it may be of a person, and is left there."""
    for name in strays(found.root):
        yield Finding(f"{found.root}/{name}", "does not belong there: move it away")


def check_room(context: Context) -> Finding:
    trouble = room_trouble(context)
    return Finding("free space", trouble.text if trouble else "")


def check_state(context: Context) -> Iterator[Finding]:
    """Of a peer: its ledger, how the last call ended, and what `status` warns of."""
    ledger = _check_ledger(context)
    yield ledger
    if not ledger.problem:
        state = look_at(context)
        ended = f": {state.call_text}" if state.call_code else ""
        for trouble in state.troubles:  # of many things, such as what a person has decided and forgotten
            yield Finding(f"status of {context.peer.name}", trouble.text)
        if not state.troubles:
            yield Finding(f"last call with {context.peer.name}{ended}")
        if theirs := state.lists.theirs:
            yield Finding(f"valid recipients of {context.peer.name}: {theirs.addresses}, by its list of {theirs.day}")


def _check_ledger(context: Context) -> Finding:
    subject = f"ledger of {context.peer.name}"
    try:
        view = open_view(context.spool, context.peer.name)
    except BatchmailError as error:
        return Finding(subject, str(error))
    if view is not None:
        view.close()
    return Finding(subject)


# -- targets and lines ------------------------------------------------------------------------------------------


def check_targets(site: Site) -> Iterator[Finding]:
    """Each target once, whatever number of peers has it."""
    for text in dict.fromkeys(peer.target for peer in site.peers.values()):
        peers = ", ".join(peer.name for peer in site.peers.values() if peer.target == text)
        yield Finding(f"target {text} for mail from {peers}", _target_problem(parse_target(text), site.name))


def _target_problem(spec: TargetSpec, me: str) -> str:
    if spec.scheme in ("bsmtp", "maildir"):
        return _directory_problem(spec.path, user_name(os.geteuid()))
    if spec.scheme == "rmail":
        return "" if os.access(spec.path, os.X_OK) else f"{spec.path} is no program that can be started"
    try:
        Session(spec, me, PROBE_S).quit()
    except (LineError, PeerError) as error:
        return f"takes nothing now: {error}; start it, or mend `target`: until then what comes waits here"
    return ""


def _directory_problem(path: str, me: str) -> str:
    """A target makes its directory, and what is missing above it."""
    place = path
    while not os.path.exists(place):
        place = os.path.dirname(place)
    if os.access(place, os.W_OK | os.X_OK):
        return ""
    return f"{me} cannot write into {path}" if place == path else f"{path} is not there; {me} cannot make it in {place}"


def check_line(peer: Peer) -> Iterator[Finding]:
    """What a call needs before it is made: the program, or key and host key."""
    for way in peer.call:
        subject = f"calls to {peer.name} by {way}"
        try:
            if way.startswith("command:"):
                yield Finding(subject, _command_problem(way.removeprefix("command:")))
            else:
                yield Finding(subject, _ssh_problem(peer, way))
        except BatchmailError as error:
            yield Finding(subject, name_peer(str(error), peer.name))


def check_list(peer: Peer) -> Iterator[Finding]:
    """The file with the addresses that the peer is told of."""
    if path := peer.valid_recipients_file:
        subject = f"valid recipients for {peer.name}"
        try:
            yield Finding(f"{subject} in {path}: {addresses_in(read_words(peer))}")
        except OSError as error:
            yield Finding(subject, f"{user_name(os.geteuid())} cannot read {path}: {error.strerror}")
        except ValueError as error:
            yield Finding(subject, f"{error}; until it is mended, {peer.name} goes by the list before")


def _command_problem(command: str) -> str:
    program = (shlex.split(command) or [""])[0]
    return "" if shutil.which(program) else f"{program or 'nothing'} is no program that can be started"


def _ssh_problem(peer: Peer, way: str) -> str:
    route = find_route(parse_address(way), peer.ssh_config or None)
    with LoginKeys((*peer.identity, *route.identities), peer.use_agent):
        pass  # it says itself that there is none
    files = peer.known_hosts + route.known_hosts
    name = name_in_files(route.known_as, route.port)
    if not known_keys(files, name):
        return f"{' and '.join(files)} has no line for {name}: batchmail key {peer.name} prints it"
    return ""

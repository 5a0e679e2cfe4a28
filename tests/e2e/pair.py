"""A holding site and an away one that calls it, for tests that differ in targets, domains and the way of the call."""

import os
import re
from collections.abc import Mapping, Sequence

from tests.e2e.sites import Site, ssh_entry
from tests.servers.host import Installed
from tests.servers.sshd import Sshd, quote

AWAY, HOLDING = "home.example.test", "mx.example.test"
DOMAIN = "home.test"
_RECEIVED = r"Received: from %s[^\r]*\r\n(?:[ \t][^\r]*\r\n)+"


class Pair:
    """`holding` has the peer `home`, `away` the peer `mx`; a maildir of its own is the target of who is given none.

    Without sshd the call runs the answering program itself, through `command:`.
    """

    def __init__(
        self,
        path: str,
        installed: Installed,
        sshd: Sshd | None,
        *,
        away_target: str = "",
        holding_target: str = "",
        port: int = 0,
        home: Sequence[str] = (DOMAIN,),
        door: Mapping[str, object] | None = None,
        away_door: Mapping[str, object] | None = None,
    ):
        """The doors are tables of the sites' configurations."""
        holding, away = os.path.join(path, "holding"), os.path.join(path, "away")
        entry: dict[str, object] = {"domains": list(home), "target": holding_target or f"maildir:{holding}/mail"}
        self.holding = Site(holding, installed, HOLDING, {"home": entry}, **({"door": door} if door else {}))
        self.holding.make_owned_directory("mail")
        if sshd:
            call = ssh_entry(sshd, away, self.holding, "home", port)
        else:
            receive = installed.command("batchmail-receive", "-c", self.holding.config, "--peer", "home")
            call = {"call": f"command: {quote(receive)}"}
        entry = {"domains": ["*"], "target": away_target or f"maildir:{away}/mail", **call}
        self.away = Site(away, installed, AWAY, {"mx": entry}, **({"door": away_door} if away_door else {}))
        self.away.make_owned_directory("mail")

    def call(self) -> None:
        self.away.call("mx")


def letters(site: Site) -> list[bytes]:
    """What the site's maildir was given, with CRLF line ends, the envelope's lines on top."""
    new = os.path.join(site.directory, "mail", "new")
    found = []
    for name in sorted(os.listdir(new)) if os.path.isdir(new) else []:
        with open(os.path.join(new, name), "rb") as file:
            found.append(file.read().replace(b"\n", b"\r\n"))
    return found


def below_received(content: bytes, origin: str = HOLDING) -> bytes:
    """The content without the one Received: line that the replaying site puts on top."""
    line = re.match((_RECEIVED % re.escape(origin)).encode(), content)
    assert line, content[:500]
    return content[line.end() :]


def unsettled(site: Site) -> list[str]:
    """Files that hold mail or its fate."""
    return [
        os.path.relpath(path, site.spool)
        for path in site.files("out") + site.files("in")
        if path.endswith((".bsmtp", ".batch", ".report", ".request", ".void"))
    ]

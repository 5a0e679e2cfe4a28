"""`command: …` as the carrier of a call: any program that reaches batchmail-receive, OpenSSH's ssh included.

Who answers, and whether to believe them, is that program's to decide.
"""

import shlex

from batchmail.core.errors import ConfigError
from batchmail.wire.child import ChildStream
from batchmail.wire.peer_text import printable

_SHOWN = 100  # characters of a command


class CommandStream(ChildStream):
    """The running program."""

    def __init__(self, arguments: list[str]):
        super().__init__(arguments)
        self.place = shlex.join(arguments)[:_SHOWN]

    def diagnostics(self) -> str:
        """The last that the program said on its standard error."""
        return printable(self.stderr_tail().encode())


def connect_command(command: str) -> CommandStream:
    """Start `command`; its words are separated as a shell would, but there is no shell."""
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"command {command!r} cannot be taken apart: {str(error).lower()}") from None
    if not arguments:
        raise ConfigError("command: is empty; it needs a program that reaches batchmail-receive")
    return CommandStream(arguments)

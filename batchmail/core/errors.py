"""The errors of batchmail: who is at fault, and whether trying again can help.

Every class carries `exit_code` (sysexits.h) and `status` (RFC 3463).  In
doubt an error is temporary: the MTA keeps the mail and nothing is lost.
Only 75 means "later" to Exim, Postfix and Sendmail alike, so every temporary
error exits with it.
"""


class BatchmailError(Exception):
    """The root of the tree.  str() is one line that an operator understands."""

    exit_code = 75
    status = "4.3.0"


class Temporary(BatchmailError):
    """Trying again later may help; whoever holds the mail keeps it."""


class SpoolError(Temporary):
    """The spool cannot be used: owner, version, disk space, damage."""

    status = "4.3.1"


class UnknownPeer(SpoolError):
    """A door is asked for mail to a place that no peer stands for."""


class MalformedInput(Temporary):
    """A door's input breaks its grammar or lacks its end: it may be cut short, so the MTA keeps the mail."""

    status = "4.5.2"


class PeerError(Temporary):
    """The other end broke the protocol; the call ends and what we have is kept."""

    status = "4.5.0"


class LineError(Temporary):
    """No line to the peer or the target, or the line was cut."""

    status = "4.4.2"


class TargetDown(LineError):
    """The target as a whole takes no mail now; no recipient of the transaction was tried."""

    status = "4.4.1"


class Permanent(BatchmailError):
    """Trying the same again cannot help."""

    exit_code = 69
    status = "5.3.0"


class TooLarge(Permanent):
    """The message exceeds what the peer or this site takes."""

    status = "5.3.4"


class BadContent(Permanent):
    """Octets that mail may not carry, and that the door is told to refuse."""

    exit_code = 65
    status = "5.6.0"


class BadAddress(Permanent):
    """An address that no server can be given."""

    exit_code = 65
    status = "5.6.7"


class UsageError(Permanent):
    """The command line is wrong."""

    exit_code = 64
    status = "5.3.5"


class KeyRefused(BatchmailError):
    """Our key, or the peer's host key, is not accepted: a person has to act."""

    exit_code = 77
    status = "4.7.0"


class ConfigError(BatchmailError):
    """The configuration is wrong."""

    exit_code = 78
    status = "4.3.5"

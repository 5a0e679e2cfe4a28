"""What became of a recipient."""

from typing import NamedTuple

# The actions, by who owes the sender's notifications afterwards (RFC 3461 §5.2):
PASSED = "passed"  # a next hop that offers DSN took it, with its parameters: the next hop owes
RELAYED = "relayed"  # a next hop without DSN took it: "relayed" is owed for SUCCESS
DELIVERED = "delivered"  # it is in its mailbox: "delivered" is owed for SUCCESS
FAILED = "failed"  # refused or given up: "failed" is owed unless forbidden
WITHDRAWN = "withdrawn"  # not delivered any more, as the origin wished: the origin knows what it is to be
DELAYED = "delayed"  # not final: first delay, tried again later
FINAL = (PASSED, RELAYED, DELIVERED, FAILED, WITHDRAWN)
ACTIONS = (*FINAL, DELAYED)


class Outcome(NamedTuple):
    """What one attempt said of one recipient."""

    recipient: int  # its number in the envelope, from 0
    action: str  # one of ACTIONS
    code: int  # SMTP reply code; 0 when no server spoke
    status: str  # enhanced status code, RFC 3463
    text: bytes  # the reply's lines without codes, joined by \n; or our own words
    mta: bytes  # the server that spoke, as it named itself; empty when none did
    time_ms: int  # when, milliseconds UTC

"""The envelope of a transaction as it is sent in one session: what can go, and in which commands."""

from collections.abc import Iterable
from typing import NamedTuple

from batchmail.core.envelope import Recipient, format_mail, format_rcpt
from batchmail.flow.delivery import Delivery
from batchmail.flow.smtp_session import Session
from batchmail.flow.target_spec import TargetSpec
from batchmail.proto import xforward
from batchmail.proto.smtp_client import Command, Verb, groups
from batchmail.proto.smtp_offer import Content, Offer, Plan, plan

DATA = Command(Verb.DATA, b"DATA")
Numbered = tuple[tuple[int, Recipient], ...]


class Prepared(NamedTuple):
    """A transaction that can begin in a session."""

    delivery: Delivery
    plan: Plan
    recipients: Numbered  # of the plan's, those that share a transaction with the first; the others need another one
    groups: list[list[Command]]  # up to DATA, as they go out


def prepare(spec: TargetSpec, session: Session, delivery: Delivery, pending: Iterable[int]) -> Prepared:
    """For the recipients pending."""
    offer = session.offer
    content = Content(delivery.size_octets, delivery.eightbit, delivery.utf8_header)
    planned = plan(
        *(delivery.envelope, pending, content, offer),
        *(session.authenticated, spec.send_eightbit, spec.final),
    )
    recipients = _together(planned.recipients, offer)
    commands = [Command(Verb.MAIL, format_mail(planned.sender, planned.parameters))]
    commands += (Command(Verb.RCPT, format_rcpt(recipient), number) for number, recipient in recipients)
    if spec.xforward and offer.has(b"XFORWARD"):
        lines = xforward.commands(delivery.client, delivery.id, offer.keywords[b"XFORWARD"])
        commands[:0] = (Command(Verb.XFORWARD, line) for line in lines)
    return Prepared(delivery, planned, recipients, list(groups([*commands, DATA], offer.has(b"PIPELINING"))))


def _together(recipients: Numbered, offer: Offer) -> Numbered:
    if recipients and not offer.habits.mixed_dsn:
        first = recipients[0][1].parameters
        recipients = tuple((n, r) for n, r in recipients if r.parameters == first)
    return recipients[: offer.limit(b"RCPTMAX") or None]

"""Targets: where a site's received mail and its notices go, by the configuration value `target`."""

from collections.abc import Callable, Iterable

from batchmail.flow.delivery import Delivery, Target
from batchmail.flow.target_files import DirectoryTarget
from batchmail.flow.target_rmail import RmailTarget
from batchmail.flow.target_smtp import SmtpTarget
from batchmail.flow.target_spec import TargetSpec, parse_target

__all__ = ["Delivery", "Target", "TargetSpec", "close_all", "open_target", "open_targets", "parse_target"]


def open_target(spec: TargetSpec, me: str, now_ms: Callable[[], int], tmp_dir: str) -> Target:
    """The target of `spec`; nothing is connected before the first delivery.

    `me` is this site's name, `tmp_dir` a directory for what need not survive.
    """
    if spec.scheme == "rmail":
        return RmailTarget(spec, now_ms, tmp_dir)
    if spec.scheme in ("bsmtp", "maildir"):
        return DirectoryTarget(spec, me, now_ms)
    return SmtpTarget(spec, me, now_ms)


def open_targets(spec: TargetSpec, me: str, now_ms: Callable[[], int], tmp_dir: str) -> list[Target]:
    """As many sessions with the target as it may be given at once."""
    return [open_target(spec, me, now_ms, tmp_dir) for _ in range(spec.sessions)]


def close_all(targets: Iterable[Target]) -> None:
    for target in targets:
        target.close()

"""When to try again: pauses that grow."""

_MINUTE_MS = 60_000
_PAUSES_MINUTES = (1, 2, 5, 10, 20, 30, 60, 120)


def next_attempt_ms(now_ms: int, attempts: int) -> int:
    """When to try again after `attempts` attempts that did not succeed."""
    return now_ms + _MINUTE_MS * _PAUSES_MINUTES[min(attempts, len(_PAUSES_MINUTES) - 1)]

"""Values that a peer may put where something else belongs."""

from typing import Any

ANYTHING: list[Any] = [None, True, -1, 1.5, 2**53, [], {}, [1], {"a": 1}, "\x00", "\ud800", "\u00e4", ...]


def lies(*more: Any) -> list[Any]:
    """What no key may hold (`...`: it is missing), and what this one may not."""
    return [*ANYTHING, *more]

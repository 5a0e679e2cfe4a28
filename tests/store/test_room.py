"""Room on the disk."""

import pytest

from batchmail.core.errors import SpoolError
from batchmail.store.room import check_room, free_octets


def test_room(tmp_path: object) -> None:
    place = str(tmp_path)
    assert 0 < free_octets(place) < 1 << 62
    check_room(place, 0)
    with pytest.raises(SpoolError, match=r"MiB free below .* less than the reserve"):
        check_room(place, 1 << 62)
    free = free_octets(place)
    with pytest.raises(SpoolError, match=r"less than the reserve of \d+ MiB once \d+ KiB more are written"):
        check_room(place, free // 2, 1 << 62)

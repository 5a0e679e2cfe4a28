"""The doors' NamedTuple is like the one of typing."""

import copy
import pickle
import typing

import pytest

from batchmail.core import value


class Ours(value.NamedTuple):
    """Documented."""

    name: bytes
    number: int = 3
    words: tuple[str, ...] = ()

    @property
    def twice(self) -> int:
        return 2 * self.number

    def again(self) -> "Ours":
        return super()._replace(words=())


class Theirs(typing.NamedTuple):
    name: bytes
    number: int = 3
    words: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ((b"x",), {}),
        ((b"x", 4), {}),
        ((b"x", 4, ("y",)), {}),
        ((), {"name": b"x"}),
        ((), {"words": ("y",), "name": b"x"}),
        ((b"x",), {"words": ("y",)}),
        ((), {}),
        ((), {"number": 4}),
        ((b"x", 4, (), 5), {}),
        ((b"x",), {"name": b"y"}),
        ((b"x", 4, ()), {"words": ()}),
        ((b"x",), {"other": 5}),
    ],
)
def test_it_takes_what_that_takes(values, named):
    try:
        theirs = Theirs(*values, **named)
    except TypeError:
        with pytest.raises(TypeError, match="Ours"):
            Ours(*values, **named)
        return
    ours = Ours(*values, **named)
    assert ours == theirs
    assert (ours.name, ours.number, ours.words) == tuple(theirs)
    assert repr(ours) == repr(theirs).replace("Theirs", "Ours")
    assert ours._asdict() == theirs._asdict()
    assert ours._replace(number=7) == theirs._replace(number=7)


def test_it_is_a_value():
    one = Ours(b"x")
    assert isinstance(one, tuple)
    assert one.twice == 6
    assert one.again() == one
    assert hash(one) == hash((b"x", 3, ()))
    assert type(pickle.loads(pickle.dumps(one))) is type(copy.copy(one)) is Ours
    assert (Ours._fields, Ours._field_defaults) == (Theirs._fields, Theirs._field_defaults)
    assert Ours.__doc__ == "Documented."
    match one:
        case Ours(name, 3):
            assert name == b"x"
        case _:
            pytest.fail("it does not match")
    for change in (lambda: setattr(one, "number", 4), lambda: setattr(one, "other", 4)):
        with pytest.raises(AttributeError):
            change()
    with pytest.raises((TypeError, ValueError)):
        one._replace(other=4)

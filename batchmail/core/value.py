"""For what a door loads: `typing` and `collections.abc` take longer to load than a message to accept.

A class of `NamedTuple` is made without compiling source.  `_make` and generic classes are left out.  Modules that no
door loads take those of `typing`.
"""

import sys

TYPE_CHECKING = False  # who checks types takes it for true
if TYPE_CHECKING or sys.version_info >= (3, 14):  # from there on annotations are made by a function, when asked for
    from collections.abc import Callable as Callable
    from collections.abc import Iterable as Iterable
    from collections.abc import Iterator as Iterator
    from collections.abc import Mapping as Mapping
    from typing import NamedTuple as NamedTuple
    from typing import Protocol as Protocol
else:
    from _collections import _tuplegetter  # what collections.namedtuple makes its fields of
    from _collections_abc import Callable, Iterable, Iterator, Mapping  # noqa: F401  what collections.abc is made of

    Protocol = object  # says something to who checks types only

    class _Maker(type):
        """Makes a tuple with named fields of each class whose base is `NamedTuple`."""

        def __new__(maker, name, bases, namespace):
            if not bases:  # NamedTuple itself
                return super().__new__(maker, name, (tuple,), namespace)
            fields = tuple(namespace.get("__annotations__", ()))
            defaults = {field: namespace[field] for field in fields if field in namespace}
            made = {"__slots__": (), "__match_args__": fields, "_fields": fields, "_field_defaults": defaults}
            getters = {field: _tuplegetter(number, "") for number, field in enumerate(fields)}
            return super().__new__(maker, name, bases, namespace | made | getters)

    class NamedTuple(metaclass=_Maker):
        __slots__ = ()

        def __new__(cls, *values, **named):
            fields = cls._fields
            if named or len(values) != len(fields):
                rest, known = fields[len(values) :], cls._field_defaults | named
                if len(values) > len(fields) or not named.keys() <= set(rest) <= known.keys():
                    raise TypeError(f"{cls.__name__} takes {', '.join(fields)}: not {(*values, *named)}")
                values += tuple([known[field] for field in rest])
            return tuple.__new__(cls, values)

        def _replace(self, **named):
            return type(self)(**(self._asdict() | named))

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def __repr__(self):
            return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._asdict().items())})"

        def __getnewargs__(self):
            return tuple(self)

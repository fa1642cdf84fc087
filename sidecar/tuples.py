"""typing.NamedTuple without importing typing, which would take an eighth of the guard's memory budget."""

from __future__ import annotations

from collections import namedtuple

TYPE_CHECKING = False  # what type checkers take for typing.TYPE_CHECKING

if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple
else:

    class _Fields(type):
        """Makes a named tuple of the annotated names of a class body, with its values as defaults."""

        def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, object]) -> type:
            """A subclass of the tuple with the body's methods; the base class itself stays as it is."""
            if not bases:
                return super().__new__(cls, name, bases, body)
            fields = tuple(body.pop("__annotations__"))
            defaults = [body.pop(field) for field in fields if field in body]
            plain = namedtuple(name, fields, defaults=defaults, module=body["__module__"])
            return type(name, (plain,), {"__slots__": (), **body})

    class NamedTuple(metaclass=_Fields):
        """The base class; the module that subclasses it must have `from __future__ import annotations`."""

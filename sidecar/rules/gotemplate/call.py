"""What a template may call: functions and methods with their parameter types."""

from collections.abc import Callable
from dataclasses import dataclass

from sidecar.rules.gotemplate.format import type_name


class CallFailed(Exception):
    """Raised by a function that a template called: the reason."""


@dataclass(frozen=True, slots=True)
class Callee:
    """A function or method templates may call.

    `takes` are the types of its parameters, `rest` that of any further ones: `str`, `int`, `float`, a class with
    `go_type`, or `object` for anything. `call` may raise CallFailed.
    """

    call: Callable[..., object]
    takes: tuple[type, ...] = ()
    rest: type | None = None

    def parameter(self, index: int) -> type:
        """The type of the parameter at `index`."""
        return self.takes[index] if index < len(self.takes) else self.rest or object

    def miscount(self, count: int) -> str:
        """Why `count` arguments are wrong, or the empty string."""
        if count == len(self.takes) or (count > len(self.takes) and self.rest is not None):
            return ""
        return f"want {'at least ' if self.rest is not None else ''}{len(self.takes)} got {count}"


_NAMES: dict[type, str] = {str: "string", int: "int", float: "float64", bool: "bool", list: "[]interface {}"}


def go_name(wanted: type) -> str:
    """The Go name of a parameter's type."""
    return _NAMES.get(wanted) or str(getattr(wanted, "go_type", wanted.__name__))


def mismatch(value: object, wanted: type) -> str:
    """Why `value` cannot be passed as a `wanted`, or the empty string."""
    exact = wanted in (int, float, str, bool)
    if wanted is object or (type(value) is wanted if exact else isinstance(value, wanted)):
        return ""
    if value is None:
        return f"invalid value; expected {go_name(wanted)}"
    return f"wrong type for value; expected {go_name(wanted)}; got {type_name(value)}"

"""The functions that Go's text/template defines itself. `and` and `or` are in run.py, because they short-circuit."""

import html
import operator
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote_plus

from sidecar.rules.gotemplate.call import Callee, CallFailed
from sidecar.rules.gotemplate.evaluate import truth
from sidecar.rules.gotemplate.format import sprint, sprintf, sprintln, type_name


def query_escape(text: str) -> str:
    """Go's url.QueryEscape: a blank becomes a plus, everything but letters, digits and `-_.~` is escaped."""
    return quote_plus(text)


def _kind(value: object) -> str:
    """The kind of a comparable value. Raises CallFailed for what cannot be compared."""
    kinds: dict[type, str] = {bool: "bool", int: "int", float: "float", str: "string"}
    kind = kinds.get(type(value))
    if kind is None:
        raise CallFailed("invalid type for comparison" if value is not None else "incompatible types for comparison")
    return kind


def _equal(first: object, *others: object) -> bool:
    if not others:
        raise CallFailed("missing argument for comparison")
    for other in others:
        if first is None or other is None:
            if first is other:
                return True
            continue
        if _kind(first) != _kind(other):
            raise CallFailed("incompatible types for comparison")
        if first == other:
            return True
    return False


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[object, object], bool]:
    def one(first: object, second: object) -> bool:
        if _kind(first) == "bool":
            raise CallFailed("invalid type for comparison")
        if _kind(first) != _kind(second):
            raise CallFailed("incompatible types for comparison")
        return compare(first, second)

    return one


def _len(value: object) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, list | Mapping):
        return len(value)
    raise CallFailed(f"len of type {type_name(value)}")


def _index(value: object, *keys: object) -> object:
    for key in keys:
        if isinstance(value, Mapping):
            if not isinstance(key, str):
                raise CallFailed(f"value has type {type_name(key)}; should be string")
            value = value.get(key, getattr(value, "go_zero", ""))
        elif isinstance(value, list | str):
            items = value.encode() if isinstance(value, str) else value
            if type(key) is not int:
                raise CallFailed(f"cannot index slice/array with type {type_name(key)}")
            if not 0 <= key < len(items):
                raise CallFailed(f"index out of range: {key}")
            value = items[key]
        else:
            raise CallFailed(f"can't index item of type {type_name(value)}")
    return value


def _slice(value: object, *bounds: object) -> object:
    if not isinstance(value, str | list):
        raise CallFailed(f"can't slice item of type {type_name(value)}")
    items: bytes | list[object] = value.encode() if isinstance(value, str) else value
    numbers = [bound for bound in bounds if type(bound) is int]
    if len(numbers) < len(bounds) or len(numbers) > 2:
        raise CallFailed("a slice takes at most two bounds, each an int")
    start = numbers[0] if numbers else 0
    stop = numbers[1] if len(numbers) == 2 else len(items)
    if not 0 <= start <= stop <= len(items):
        raise CallFailed(f"index out of range: {start}:{stop}")
    part = items[start:stop]
    return part.decode(errors="replace") if isinstance(part, bytes) else part


def _text(values: tuple[object, ...]) -> str:
    return values[0] if len(values) == 1 and isinstance(values[0], str) else sprint(values)


def _html(*values: object) -> str:
    escaped = html.escape(_text(values)).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")
    return escaped.replace("\0", "\ufffd")


_JS = {"\\": "\\\\", "'": "\\'", '"': '\\"', "<": "\\u003C", ">": "\\u003E", "&": "\\u0026", "=": "\\u003D"}


def _js(*values: object) -> str:
    return "".join(_JS.get(char) or (char if char.isprintable() else f"\\u{ord(char):04X}") for char in _text(values))


def _call(_: object, *__: object) -> object:
    raise CallFailed("call of a value that is no function")


BUILTINS: Mapping[str, Callee] = {
    "and": Callee(lambda *values: values, (object,), object),
    "or": Callee(lambda *values: values, (object,), object),
    "call": Callee(_call, (object,), object),
    "eq": Callee(_equal, (object,), object),
    "ge": Callee(_ordered(operator.ge), (object, object)),
    "gt": Callee(_ordered(operator.gt), (object, object)),
    "html": Callee(_html, (), object),
    "index": Callee(_index, (object,), object),
    "js": Callee(_js, (), object),
    "le": Callee(_ordered(operator.le), (object, object)),
    "len": Callee(_len, (object,)),
    "lt": Callee(_ordered(operator.lt), (object, object)),
    "ne": Callee(lambda first, second: not _equal(first, second), (object, object)),
    "not": Callee(lambda value: not truth(value), (object,)),
    "print": Callee(lambda *values: sprint(values), (), object),
    "printf": Callee(lambda template, *values: sprintf(template, values), (str,), object),
    "println": Callee(lambda *values: sprintln(values), (), object),
    "slice": Callee(_slice, (object,), object),
    "urlquery": Callee(lambda *values: query_escape(_text(values)), (), object),
}

"""Makes channel values of decoded JSON: finds a field, checks its type against the kit model. Pure."""

from __future__ import annotations

import math
from typing import Any, cast

from lab_contract.kit import Channel, ValueKind

MAX_TEXT = 1000


class BadValue(Exception):
    """Count this field and leave it out; the message says what was expected."""


def pick(body: Any, path: tuple[str, ...]) -> Any:
    """The value at `path`: keys of objects and indices of lists. Raises BadValue where there is none."""
    for part in path:
        if isinstance(body, dict) and part in body:
            body = cast(dict[str, Any], body)[part]
        elif isinstance(body, list) and part.isdecimal() and int(part) < len(cast(list[Any], body)):
            body = cast(list[Any], body)[int(part)]
        else:
            raise BadValue("missing")
    return body


def convert(channel: Channel, found: Any) -> tuple[float | None, str | None]:
    """(value, text) of a JSON value for this channel; both None for null. Raises BadValue."""
    kind = channel.kind
    if found is None:
        return None, None
    if kind is ValueKind.TEXT:
        if isinstance(found, str) and len(found) <= MAX_TEXT:
            return None, found
        raise BadValue(f"expected a text of at most {MAX_TEXT} characters, found {found!r:.40}")
    if kind is ValueKind.ENUM and isinstance(found, str):
        number = next((state.value for state in channel.values if state.id == found), None)
        if number is None:
            raise BadValue(f"expected a state of the kit model, found {found!r:.40}")
        return float(number), found
    if kind is ValueKind.BOOL:
        if isinstance(found, bool) or found in (0, 1):
            return float(found), None
        raise BadValue(f"expected true or false, found {found!r:.40}")
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise BadValue(f"expected a number, found {found!r:.40}")
    try:
        value = float(found)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value) or (kind is not ValueKind.FLOAT and not value.is_integer()):
        raise BadValue(f"expected a {'' if kind is ValueKind.FLOAT else 'whole '}finite number, found {found!r:.40}")
    return value, channel.state_name(int(value)) if kind is ValueKind.ENUM else None

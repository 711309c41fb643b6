"""Single values out of the JSON files of other libraries, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitkit.config import UserError

__all__ = ["setting", "size_setting"]


def setting(values: Mapping[str, Any], name: str, kind: type | tuple[type, ...], default: Any, where: str) -> Any:
    """The value of a setting, or ``default`` where it is absent or null.

    Raises:
        UserError: of another kind.
    """
    value = values.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        kinds = " or ".join(kind.__name__ for kind in (kind if isinstance(kind, tuple) else (kind,)))
        raise UserError(f"{where}: {name} is {value!r:.200}; {kinds} was expected.")
    return value


def size_setting(values: Mapping[str, Any], name: str, default: int, where: str) -> tuple[int, int]:
    """A size of one or two integers as (height, width)."""
    value = setting(values, name, (int, list, tuple), default, where)
    pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(pair) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in pair):
        raise UserError(
            f"{where}: {name} is {value!r:.200}; one or two positive integers (height, width) were expected."
        )
    return pair

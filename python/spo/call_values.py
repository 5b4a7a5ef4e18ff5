"""Arguments and values of called functions as JSON text, with what JSON lacks: dictionaries may have integers as keys.

An integer as key is written as a string with a NUL in front; a string that begins with a NUL gets another one. So texts
without either are plain JSON. The judge's helper (`rust/sandbox/helper/program.py`) follows the same rule.
"""

from __future__ import annotations

import json
from typing import Any

_MARK = "\0"
_MARK_IN_TEXT = "\\u0000"


def encode(value: Any, *, allow_nan: bool = False) -> str:
    """The text of a value.

    Args:
        value: Anything of None, bool, int, float, str, lists, tuples, and dictionaries with str and int keys.
        allow_nan: Whether infinite numbers and NaN may be in it, which only Python's JSON has.

    Raises:
        TypeError: There is something else in it.
        ValueError: It holds itself, or what `allow_nan` forbids.
    """
    text = json.dumps(value, allow_nan=allow_nan)
    return json.dumps(_marked(value), allow_nan=allow_nan) if "{" in text else text


def decode(text: str) -> Any:
    """The value of a text that `encode` wrote, or of any JSON.

    Raises:
        ValueError: It is no such text.
    """
    return json.loads(text, object_pairs_hook=_unmarked if _MARK_IN_TEXT in text else None)


def _marked(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_marked(item) for item in value]
    if isinstance(value, dict):
        return {_marked_key(key): _marked(item) for key, item in value.items()}
    return value


def _marked_key(key: Any) -> str:
    if type(key) is int:
        return f"{_MARK}{key}"
    if not isinstance(key, str):
        raise TypeError(f"a dictionary has the key {key!r}; keys must be strings or integers")
    return _MARK + key if key.startswith(_MARK) else key


def _unmarked(pairs: list[tuple[str, Any]]) -> dict[str | int, Any]:
    return {_unmarked_key(key): item for key, item in pairs}


def _unmarked_key(key: str) -> str | int:
    if not key.startswith(_MARK):
        return key
    rest = key[1:]
    return rest if rest.startswith(_MARK) else int(rest)

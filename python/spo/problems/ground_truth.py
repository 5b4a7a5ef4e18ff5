"""Tests as APPS, TACO, verl and SkyRL write them: an object with `inputs`, `outputs` and perhaps `fn_name`.

A test of a stdin/stdout problem is text, or the list of its lines, nested maybe. One of a function is the list of the
arguments, or text with the JSON of one argument a line; its right value may be wrapped in one more list, which the
judge knows. Dictionaries that had integers as keys got strings from JSON; they get integers again, as APPS does.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from spo.call_values import encode
from spo.problems.reading import unix_lines
from spo.problems.schema import ProblemTest

_MAX_DIGITS = 4300
"""Python's own limit, which the judged programs have too."""

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")


class Unsupported(Exception):  # noqa: N818
    """A problem's tests cannot be judged; the text says why, of several problems."""


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        Unsupported: It has integers that Python does not read.
        ValueError: It is no JSON.
        RecursionError: It is nested too deeply.
    """
    return json.loads(text, parse_int=_integer)


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise Unsupported(f"their values have integers of more than {_MAX_DIGITS} digits")
    return int(digits)


def function_of(truth: Mapping[str, Any]) -> str | None:
    """The function that the tests call; None if they use stdin and stdout."""
    return str(truth["fn_name"]) if truth.get("fn_name") else None


def tests_of(truth: Mapping[str, Any]) -> tuple[ProblemTest, ...]:
    """The tests, named by their number.

    Raises:
        Unsupported: There are none, or they are of a kind that the judge does not know.
    """
    inputs, outputs = truth.get("inputs") or [], truth.get("outputs") or []
    if not inputs:
        raise Unsupported("they have no tests")
    if not isinstance(inputs, list) or not isinstance(outputs, list):
        raise Unsupported("their inputs and outputs are not lists")
    if len(inputs) != len(outputs):
        raise Unsupported("their inputs and outputs differ in number")
    make = _text_test if function_of(truth) is None else _call_test
    return tuple(make(*pair, f"test-{number}") for number, pair in enumerate(zip(inputs, outputs, strict=True), 1))


def _text_test(text: Any, answer: Any, name: str) -> ProblemTest:
    return ProblemTest(_text(text), _text(answer), name=name)


def _text(entry: Any) -> str:
    if isinstance(entry, list):
        return "".join(_text(line).rstrip("\n") + "\n" for line in entry)
    if isinstance(entry, dict) or entry is None:
        raise Unsupported("their tests are neither text nor lines")
    return unix_lines(entry if isinstance(entry, str) else json.dumps(entry))


def _call_test(arguments: Any, value: Any, name: str) -> ProblemTest:
    if isinstance(arguments, str):
        try:
            arguments = [parse_json(line) for line in arguments.splitlines()]
        except ValueError:
            raise Unsupported("their function's arguments are neither lists nor JSON lines") from None
        value = _parsed(value)
    if not isinstance(arguments, list):
        raise Unsupported("their function's arguments are neither lists nor JSON lines")
    try:
        return ProblemTest(encode(_with_integer_keys(arguments)), encode(_with_integer_keys(value)), name=name)
    except ValueError:
        raise Unsupported("their values are infinite or no numbers") from None


def _parsed(value: Any) -> Any:
    try:
        return parse_json(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _with_integer_keys(value: Any) -> Any:
    """The value, where dictionaries all of whose keys read as integers have these: JSON had made strings of them."""
    if isinstance(value, list):
        return [_with_integer_keys(item) for item in value]
    if not isinstance(value, dict):
        return value
    keys = [int(key) if _INTEGER.fullmatch(key) else key for key in value]
    are_integers = all(isinstance(key, int) for key in keys)
    items = map(_with_integer_keys, value.values())
    return dict(zip(keys if are_integers else value, items, strict=True))

"""Call mode: a function is called, and its value compared outside of its process."""

from collections.abc import Iterator
from typing import Any

import pytest

from spo.call_values import decode, encode
from spo.judge import Judge, Limits, TestCase, Verdict

TESTS = [TestCase(args=[[1, 2], 3], output=6), TestCase(args=[[], 1], output=1)]
ADD = "def add(numbers, n):\n    return sum(numbers) + n\n"


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(num_workers=1, limits=Limits(cpu_time_s=1.0, wall_time_s=5.0)) as judge:
        yield judge


def verdict(judge: Judge, source: str, tests: list[TestCase] | None = None, checker: str = "tokens") -> Verdict:
    return judge.judge(source, tests or TESTS, fn_name="add", checker=checker).verdict


def test_a_function_of_the_module_or_of_its_class_is_called(judge: Judge) -> None:
    assert verdict(judge, ADD) is Verdict.ACCEPTED
    method = "class Solution:\n    def add(self, numbers: List[int], n: int) -> int:\n        return sum(numbers) + n\n"
    assert verdict(judge, method) is Verdict.ACCEPTED


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return 7", Verdict.WRONG_ANSWER),
        ("return None", Verdict.WRONG_ANSWER),
        ("print(6)", Verdict.WRONG_ANSWER),
        ("exit()", Verdict.WRONG_ANSWER),
        ("import os; os._exit(0)", Verdict.WRONG_ANSWER),
        ("return 1 / 0", Verdict.RUNTIME_ERROR),
        ("return {6}", Verdict.RUNTIME_ERROR),
        ("while True: pass", Verdict.TIME_LIMIT),
        ("import os; os.fork()", Verdict.SECURITY_VIOLATION),
    ],
)
def test_what_is_not_the_value_is_not_accepted(judge: Judge, body: str, expected: Verdict) -> None:
    assert verdict(judge, f"def add(numbers, n):\n    {body}\n") is expected


def test_a_value_that_claims_to_equal_everything_is_not_accepted(judge: Judge) -> None:
    liar = "class Liar(int):\n    def __eq__(self, other): return True\n    __hash__ = None\n"
    assert verdict(judge, liar + "def add(numbers, n): return Liar(5)") is Verdict.RUNTIME_ERROR


def test_what_it_prints_does_not_count(judge: Judge) -> None:
    assert verdict(judge, "print(5)\n" + ADD.replace("return", "print(7)\n    return")) is Verdict.ACCEPTED


def test_a_missing_function_is_a_runtime_error(judge: Judge) -> None:
    assert verdict(judge, "def other(): pass") is Verdict.RUNTIME_ERROR


def test_the_main_guard_is_not_entered(judge: Judge) -> None:
    assert verdict(judge, ADD + "if __name__ == '__main__':\n    1 / 0\n") is Verdict.ACCEPTED


def test_values_are_compared_as_python_does(judge: Judge) -> None:
    cases = [
        ("(1, 2)", [1, 2], "tokens", True),
        ("[2, 1]", [1, 2], "tokens", False),
        ("True", 1, "tokens", True),
        ("1.0", 1, "tokens", True),
        ("'1'", 1, "tokens", False),
        ("{'a': [1]}", {"a": [1]}, "tokens", True),
        ("0.30000001", 0.3, "tokens", False),
        ("0.30000001", 0.3, "floats", True),
        ("10**40", 10**40, "tokens", True),
        ("10**40 + 1", 10**40, "tokens", False),
        ("'\\ud800é'", "é", "tokens", False),
    ]
    for value, output, checker, right in cases:
        tests = [TestCase(args=[], output=output)]
        accepted = verdict(judge, f"def add(): return {value}", tests, checker) is Verdict.ACCEPTED
        assert accepted is right, (value, output, checker)


def test_tests_must_fit_the_mode(judge: Judge) -> None:
    with pytest.raises(ValueError, match=r"tests\[0\] has no args"):
        judge.judge(ADD, [TestCase(input="1", output="2")], fn_name="add")
    with pytest.raises(ValueError, match=r"tests\[0\] has args"):
        judge.judge(ADD, TESTS)
    with pytest.raises(ValueError, match=r"tests\[0\].output is int"):
        judge.judge(ADD, [TestCase(input="1", output=2)])
    with pytest.raises(ValueError, match="what JSON can hold"):
        judge.judge(ADD, [TestCase(args=[1], output={1})], fn_name="add")
    with pytest.raises(ValueError, match="checker is 'exact'"):
        judge.judge(ADD, TESTS, fn_name="add", checker="exact")
    with pytest.raises(ValueError, match="fn_name is"):
        judge.judge(ADD, TESTS, fn_name="")


KEYS = [
    {1: "a", -2: {3: []}},
    {"1": "a"},
    {"\0": 1, "\x001": 2, 0: 3},
    [{"a": {10**30: None}}],
]


@pytest.mark.parametrize("value", KEYS)
def test_keys_are_integers_or_strings_as_they_were(judge: Judge, value: Any) -> None:
    source = f"def add(x):\n    assert x == {value!r}, x\n    return x\n"
    assert verdict(judge, source, [TestCase(args=[value], output=value)]) is Verdict.ACCEPTED
    assert decode(encode(value)) == value


def test_the_string_of_an_integer_is_another_key(judge: Judge) -> None:
    for wanted, given in (({1: 2}, {"1": 2}), ({"1": 2}, {1: 2}), ({"\x001": 2}, {1: 2})):
        tests = [TestCase(args=[], output=wanted)]
        assert verdict(judge, f"def add(): return {given!r}", tests) is Verdict.WRONG_ANSWER


@pytest.mark.parametrize("key", [None, True, 1.5, (1, 2)])
def test_other_keys_are_refused_in_tests_and_are_errors_of_programs(judge: Judge, key: Any) -> None:
    with pytest.raises(ValueError, match=r"tests\[0\]: args and output .*key"):
        verdict(judge, ADD, [TestCase(args=[{key: 1}], output=0)])
    tests = [TestCase(args=[], output={"1": 1})]
    assert verdict(judge, f"def add(): return {{{key!r}: 1}}", tests) is Verdict.RUNTIME_ERROR

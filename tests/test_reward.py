"""From verdict to reward."""

from enum import StrEnum

import pytest

from spo.reward import NO_CODE, TRUNCATED, reward_of


class Verdict(StrEnum):
    ACCEPTED = "accepted"
    TIME_LIMIT = "time_limit"


def test_an_accepted_program_earns_zero() -> None:
    assert reward_of("accepted") == 0.0


@pytest.mark.parametrize(
    "verdict",
    [
        "wrong_answer",
        "runtime_error",
        "time_limit",
        "memory_limit",
        "output_limit",
        "compile_error",
        "security_violation",
        NO_CODE,
        TRUNCATED,
    ],
)
def test_every_other_verdict_about_the_program_costs_one(verdict: str) -> None:
    assert reward_of(verdict) == -1.0


def test_a_failure_of_the_judge_has_no_reward() -> None:
    assert reward_of("judge_error") is None


def test_members_of_an_enum_count_as_their_values() -> None:
    assert reward_of(Verdict.ACCEPTED) == 0.0
    assert reward_of(Verdict.TIME_LIMIT) == -1.0


@pytest.mark.parametrize("verdict", ["", "Accepted", "ok", "judge error"])
def test_an_unknown_verdict_is_refused(verdict: str) -> None:
    with pytest.raises(ValueError, match="is unknown"):
        reward_of(verdict)

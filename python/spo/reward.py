"""The reward: the only place that turns a verdict into a number.

The reward of a trajectory is terminal and 0 or -1 (Sec. 2.1). A failure of the judge itself says nothing
about the program, so it has no reward: such a trajectory is retried and, if that fails, left out.
"""

from typing import Final

ACCEPTED_REWARD: Final = 0.0
FAILED_REWARD: Final = -1.0

NO_CODE: Final = "no_code"
"""The verdict on a response without a program; no judge is asked."""
TRUNCATED: Final = "truncated"
"""The verdict on a response without an end token; no judge is asked."""

_ACCEPTED = "accepted"
_JUDGE_ERROR = "judge_error"
_FAILED = frozenset(
    {
        "wrong_answer",
        "runtime_error",
        "time_limit",
        "memory_limit",
        "output_limit",
        "compile_error",
        "security_violation",
        NO_CODE,
        TRUNCATED,
    }
)


def reward_of(verdict: str) -> float | None:
    """Return the reward of a verdict: 0.0 if accepted, -1.0 if not, None if the judge failed.

    Args:
        verdict: A `spo.judge.Verdict` or its value, `NO_CODE` or `TRUNCATED`.

    Raises:
        ValueError: `verdict` is none of these.
    """
    if verdict == _ACCEPTED:
        return ACCEPTED_REWARD
    if verdict in _FAILED:
        return FAILED_REWARD
    if verdict == _JUDGE_ERROR:
        return None
    raise ValueError(f"verdict {verdict!r} is unknown; expected a value of spo.judge.Verdict")

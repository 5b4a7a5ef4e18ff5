"""Trajectories as rows, of this project and of others: what a line of JSON or a row of Parquet holds.

A row of ours is named as the fields of `Trajectory`; reading is strict. `verl` rows are those of its agent loop
(`prompt_ids`, `response_ids`, `response_logprobs`, `reward_score`), `skyrl` rows those of its generator
(`prompt_token_ids`, `response_ids`, `rollout_logprobs`, `rewards`); both are read leniently, fields that have no place
here are left out. Knows neither files nor stores.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from spo.store import Trajectory

PROBLEM_FIELDS = ("problem_id", "uid", "instance_id", "index")
"""Where rows of other projects may name their problem; the first that is there counts."""


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One trajectory; `id` says where it was stored, and is not imported."""

    problem_id: str
    prompt_tokens: list[int]
    response_tokens: list[int]
    reward: float
    verdict: str
    source: str
    behavior_logprobs: list[float] | None = None
    reference_logprobs: list[float] | None = None
    mc_successes: tuple[list[int], list[int], list[int]] | None = None
    min_policy_version: int = 0
    max_policy_version: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    metadata: dict[str, str] = {}
    id: int | None = None


class Foreign(NamedTuple):
    """How another project names what a trajectory has."""

    prompt: str
    response: str
    logprobs: str
    masks: tuple[str, ...]
    rewards: tuple[str, ...]


FOREIGN = {
    "verl": Foreign("prompt_ids", "response_ids", "response_logprobs", ("response_mask",), ("reward_score", "score")),
    "skyrl": Foreign(
        "prompt_token_ids", "response_ids", "rollout_logprobs", ("loss_masks", "loss_mask"), ("rewards", "reward")
    ),
}
FORMS = ("spo", *FOREIGN)


def to_row(record_id: int, record: Trajectory) -> Row:
    """The trajectory with its id, as a row. Logprobs keep their float32 values exactly."""
    counts = record.mc_successes
    return Row(
        id=record_id,
        problem_id=record.problem_id,
        prompt_tokens=record.prompt_tokens.tolist(),
        response_tokens=record.response_tokens.tolist(),
        reward=record.reward,
        verdict=record.verdict,
        source=record.source,
        behavior_logprobs=_column(record.behavior_logprobs),
        reference_logprobs=_column(record.reference_logprobs),
        mc_successes=None if counts is None else (counts[0].tolist(), counts[1].tolist(), counts[2].tolist()),
        min_policy_version=record.min_policy_version,
        max_policy_version=record.max_policy_version,
        temperature=record.temperature,
        top_p=record.top_p,
        seed=record.seed,
        metadata=record.metadata,
    )


def from_row(row: Row) -> Trajectory:
    """The trajectory of a row.

    Raises:
        ValueError: A field's value is wrong; the text names it.
    """
    return Trajectory(
        row.problem_id,
        row.prompt_tokens,
        row.response_tokens,
        row.reward,
        row.verdict,
        row.source,
        row.behavior_logprobs,
        row.reference_logprobs,
        row.min_policy_version,
        row.max_policy_version,
        row.temperature,
        row.top_p,
        row.seed,
        row.metadata,
        row.mc_successes,
    )


def writer(form: str) -> Callable[[int, Trajectory], dict[str, Any]]:
    """What makes a trajectory a row of this form."""
    if form == "spo":
        return lambda record_id, record: msgspec.structs.asdict(to_row(record_id, record))
    return lambda record_id, record: _to_foreign(FOREIGN[form], record)


def reader(form: str) -> Callable[[dict[str, Any]], Trajectory]:
    """What makes a row of this form a trajectory; it raises ValueError, naming the field, for one that is none."""
    if form == "spo":
        return lambda row: from_row(msgspec.convert(row, Row))
    return lambda row: _from_foreign(form, row)


def _to_foreign(names: Foreign, record: Trajectory) -> dict[str, Any]:
    return {
        names.prompt: record.prompt_tokens.tolist(),
        names.response: record.response_tokens.tolist(),
        names.masks[0]: [1] * len(record.response_tokens),
        names.logprobs: _column(record.behavior_logprobs),
        names.rewards[0]: record.reward,
        "uid": record.problem_id,
    }


def _from_foreign(form: str, row: dict[str, Any]) -> Trajectory:
    names = FOREIGN[form]
    reward = _first(row, names.rewards)
    if isinstance(reward, list):
        reward = sum(reward)  # One a token: those of the response add up to its own.
    if 0 in (_first(row, names.masks, []) or []):
        raise ValueError(f"{names.masks[0]}: tokens within the response that the policy did not sample cannot be kept")
    return Trajectory(
        str(_first(row, PROBLEM_FIELDS)),
        _first(row, (names.prompt,)),
        _first(row, (names.response,)),
        float(reward),
        str(row.get("stop_reason") or ""),
        form,
        row.get(names.logprobs),
    )


def _first(row: dict[str, Any], names: tuple[str, ...], default: Any = None) -> Any:
    for name in names:
        if row.get(name) is not None:
            return row[name]
    if default is None:
        raise ValueError(f"the row has no {' or '.join(names)}, only {', '.join(row) or 'nothing'}")
    return default


def _column(values: Any) -> list[float] | None:
    return None if values is None else values.tolist()

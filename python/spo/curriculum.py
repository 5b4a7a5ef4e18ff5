"""The curriculum: how often each training problem is sampled online, by how often it is solved.

Pure functions from what is known of the problems to their shares of the online work: a rule of the settings, or the
user's own function. Counting, and drawing by the shares, is the orchestrator's.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from spo.config import CurriculumConfig
from spo.errors import ConfigError
from spo.problems.info import ProblemInfo
from spo.values import ProblemCounts

SOLVED: Final = "solved"
HOPELESS: Final = "hopeless"
WEIGHT_0: Final = "weight 0"
REASONS: Final = (SOLVED, HOPELESS, WEIGHT_0)
"""Why a problem may be skipped."""

_RULES: Mapping[str, Callable[[float], float]] = {
    "uniform": lambda rate: 1.0,
    "variance": lambda rate: rate * (1.0 - rate),
    "success": lambda rate: rate,
    "failure": lambda rate: 1.0 - rate,
}


class Standing(msgspec.Struct, frozen=True):
    """What is known of a problem when its share is decided.

    Attributes:
        info: Id, data set, difficulty, limits and sizes.
        reference: The reference's responses for Q̂_0 (Sec. 3.1.3), and how many were accepted.
        online: The latest online responses, at most `curriculum.window`; none are counted where `curriculum.rates` is
            `reference`.
        counts: Those of the two that the settings go by.
    """

    info: ProblemInfo
    reference: ProblemCounts
    online: ProblemCounts
    counts: ProblemCounts


Function = Callable[[Standing], float]
"""A weight, 0 or more, from what is known of a problem."""


class Shares(NamedTuple):
    """What problems get of the online work."""

    values: list[float]
    """One a problem; they sum to 1."""
    skipped: list[str]
    """Why a problem is skipped, one of `REASONS`; empty where it is not."""

    @property
    def effective_problems(self) -> float:
        """So many problems with equal shares would be as even: 1 / Σ share²."""
        return 1.0 / sum(value * value for value in self.values)


def is_plain(config: CurriculumConfig) -> bool:
    """Whether all problems have the same share whatever is known of them."""
    return (
        config.weights == "uniform"
        and not config.function
        and config.solved_above >= 1.0
        and config.hopeless_below <= 0.0
    )


def load_function(config: CurriculumConfig) -> Function:
    """The function that `curriculum.function` names, else the rule that `curriculum.weights` names.

    Raises:
        ConfigError: There is no such function.
    """
    if not config.function:
        rule = _RULES[config.weights]
        return lambda standing: rule(_smoothed(standing.counts))
    module_name, _, name = config.function.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"curriculum.function: {config.function} cannot be imported ({error}); write MODULE:NAME of a function "
            "that Python finds from this directory or PYTHONPATH"
        ) from None
    if not callable(function):
        raise ConfigError(f"curriculum.function: {config.function} is no function; write MODULE:NAME of one")
    chosen: Function = function
    return chosen


def shares_of(standings: Sequence[Standing], config: CurriculumConfig, function: Function) -> Shares:
    """The shares of all problems.

    Raises:
        ConfigError: Every problem is skipped and `curriculum.explore` is 0, or the function gives no weight.
    """
    skipped = [_why_skipped(standing.counts, config) for standing in standings]
    weights = [
        0.0 if reason else _weight(standing, config, function)
        for standing, reason in zip(standings, skipped, strict=True)
    ]
    skipped = [reason or ("" if weight else WEIGHT_0) for reason, weight in zip(skipped, weights, strict=True)]
    total = sum(weights)
    if not total and not config.explore:
        raise ConfigError(
            f"curriculum: all {len(weights)} training problems are skipped "
            f"({', '.join(f'{skipped.count(reason)} {reason}' for reason in REASONS)}); raise "
            "curriculum.solved_above, lower curriculum.hopeless_below, or set curriculum.explore above 0"
        )
    explore = config.explore if total else 1.0
    alike = explore / len(weights)
    return Shares([alike + ((1.0 - explore) * weight / total if total else 0.0) for weight in weights], skipped)


def _why_skipped(counts: ProblemCounts, config: CurriculumConfig) -> str:
    if not counts.num_samples:
        return ""
    rate = counts.successes / counts.num_samples
    return SOLVED if rate > config.solved_above else HOPELESS if rate < config.hopeless_below else ""


def _weight(standing: Standing, config: CurriculumConfig, function: Function) -> float:
    weight = function(standing)
    if not isinstance(weight, int | float) or not 0 <= weight < math.inf:
        raise ConfigError(
            f"curriculum.function: {config.function} gave {weight!r} for problem {standing.info.id}; "
            "it must give a finite number, 0 or more"
        )
    return float(weight)


def _smoothed(counts: ProblemCounts) -> float:
    """The success rate as if there had been one success and one failure more, so that no rule gives 0."""
    return (counts.successes + 1) / (counts.num_samples + 2)

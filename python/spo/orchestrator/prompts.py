"""Prompts that are too long: training problems that no row of a batch has room for are left out before all sampling.

Workers have the tokenizer, so one of them measures. What is left out follows from problems, tokenizer, template and
settings alone, so that a resumed run leaves out the same. Evaluation problems are never left out: nothing is trained on
them, and a benchmark has all its problems.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from spo.config import Config
from spo.errors import RunFailed
from spo.files import replace_file
from spo.orchestrator.parts import Parts
from spo.problems import Problem, Problems
from spo.rundir import PROBLEMS_FILE

_PROBLEMS_AT_ONCE = 64
_SHOWN = 10

log = logging.getLogger(__name__)


async def leave_out_long_prompts(parts: Parts) -> None:
    """Leaves out the training problems whose prompt and longest response exceed a row, and writes which.

    Raises:
        RunFailed: None would be left.
    """
    too_long = await long_prompts(parts.config, parts.training_problems, parts.workers.prompt_lengths)
    parts.leave_out(too_long)
    write_problems(parts)


def write_problems(parts: Parts) -> None:
    """Writes how many problems the run has, and which it has not, for the report."""
    content = {
        "train": len(parts.training_problems),
        "evaluation": len(parts.held_out_problems),
        "max_prompt_tokens": _most_tokens(parts.config),
        "too_long": parts.too_long,
        "left_out": parts.left_out,
    }
    replace_file(parts.run_dir / PROBLEMS_FILE, msgspec.json.format(msgspec.json.encode(content)) + b"\n")


async def long_prompts(
    config: Config, problems: Problems, prompt_lengths: Callable[[Sequence[Problem]], Awaitable[list[int]]]
) -> dict[str, int]:
    """Which problems leave no room for a response, with the tokens of their prompts.

    Args:
        config: The settings.
        problems: Training problems.
        prompt_lengths: Has a worker measure prompts.

    Raises:
        RunFailed: All of them.
    """
    lengths: dict[str, int] = {}
    for start in range(0, len(problems), _PROBLEMS_AT_ONCE):
        group = problems[start : start + _PROBLEMS_AT_ONCE]
        lengths.update(zip(group.ids, await prompt_lengths(list(group.heads())), strict=True))
    most, max_new_tokens = _most_tokens(config), config.sampling.max_new_tokens
    too_long = {problem_id: length for problem_id, length in lengths.items() if length > most}
    if len(too_long) == len(lengths):
        shortest = min(too_long.values())
        raise RunFailed(
            f"all {len(lengths)} training problems are too long: the shortest prompt of {shortest} tokens and "
            f"sampling.max_new_tokens={max_new_tokens} exceed batch.token_budget={config.batch.token_budget}; "
            f"set batch.token_budget={shortest + max_new_tokens} or more, or lower sampling.max_new_tokens"
        )
    if too_long:
        shown = ", ".join(f"{problem_id} ({length} tokens)" for problem_id, length in list(too_long.items())[:_SHOWN])
        log.warning(
            "%d of %d training problems are left out: prompts of more than %d tokens do not fit batch.token_budget=%d "
            "with sampling.max_new_tokens=%d: %s%s (a run has all in %s)",
            *(len(too_long), len(lengths), most, config.batch.token_budget, max_new_tokens),
            *(shown, ", …" if len(too_long) > _SHOWN else "", PROBLEMS_FILE),
        )
    return too_long


def _most_tokens(config: Config) -> int:
    """Tokens that a training problem's prompt may have."""
    return config.batch.token_budget - config.sampling.max_new_tokens

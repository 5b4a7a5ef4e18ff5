"""Prompts that are too long: training problems that no row of a batch has room for are left out before all sampling.

Workers have the tokenizer, so one of them measures. What is left out follows from problems, tokenizer, template and
settings alone, so that a resumed run leaves out the same. Evaluation problems are never left out: nothing is trained on
them, and a benchmark has all its problems.
"""

from __future__ import annotations

import logging

import msgspec

from spo.errors import RunFailed
from spo.files import replace_file
from spo.orchestrator.parts import Parts
from spo.rundir import PROBLEMS_FILE

_PROBLEMS_AT_ONCE = 64
_SHOWN = 10

log = logging.getLogger(__name__)


async def leave_out_long_prompts(parts: Parts) -> None:
    """Leaves out the training problems whose prompt and longest response exceed a row, and writes which.

    Raises:
        RunFailed: None would be left.
    """
    sampling, batch = parts.config.sampling, parts.config.batch
    lengths = await _measure(parts)
    most = batch.token_budget - sampling.max_new_tokens
    too_long = {problem_id: length for problem_id, length in lengths.items() if length > most}
    if len(too_long) == len(lengths):
        shortest = min(too_long.values())
        raise RunFailed(
            f"all {len(lengths)} training problems are too long: the shortest prompt of {shortest} tokens and "
            f"sampling.max_new_tokens={sampling.max_new_tokens} exceed batch.token_budget={batch.token_budget}; "
            f"set batch.token_budget={shortest + sampling.max_new_tokens} or more, or lower sampling.max_new_tokens"
        )
    if too_long:
        shown = ", ".join(f"{problem_id} ({length} tokens)" for problem_id, length in list(too_long.items())[:_SHOWN])
        log.warning(
            "%d of %d training problems are left out: prompts of more than %d tokens do not fit batch.token_budget=%d "
            "with sampling.max_new_tokens=%d: %s%s (all are in %s)",
            *(len(too_long), len(lengths), most, batch.token_budget, sampling.max_new_tokens),
            *(shown, ", …" if len(too_long) > _SHOWN else "", PROBLEMS_FILE),
        )
    parts.leave_out(too_long)
    content = {
        "train": len(parts.training_problems),
        "evaluation": len(parts.held_out_problems),
        "max_prompt_tokens": most,
        "too_long": too_long,
        "left_out": parts.left_out,
    }
    replace_file(parts.run_dir / PROBLEMS_FILE, msgspec.json.format(msgspec.json.encode(content)) + b"\n")


async def _measure(parts: Parts) -> dict[str, int]:
    """Tokens of each training problem's prompt, by id."""
    lengths: dict[str, int] = {}
    for start in range(0, len(parts.training_problems), _PROBLEMS_AT_ONCE):
        group = parts.training_problems[start : start + _PROBLEMS_AT_ONCE]
        measured = await parts.workers.prompt_lengths(list(group.heads()))
        lengths.update(zip(group.ids, measured, strict=True))
    return lengths

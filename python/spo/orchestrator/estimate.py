"""Q̂_0 without a run: the reference samples of all training problems through a sampling session (Sec. 3.1.3).

The samples, their seeds and the folder are those that a run with the same settings would come to (`values.py`), so that
it samples nothing any more; and what is interrupted is taken up where it was.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
import trio

from spo.config import Config
from spo.orchestrator.prompts import long_prompts
from spo.orchestrator.sampling import sampling_session
from spo.orchestrator.values import ValueEstimation, values_key
from spo.problems import Problems
from spo.progress import Display, keep_showing
from spo.rundir import ModelInfo
from spo.values import ValueCounts

log = logging.getLogger(__name__)


class Estimate(msgspec.Struct, frozen=True):
    """What came of it."""

    directory: str
    """Where key, samples and counts lie."""
    counts: ValueCounts
    num_reused: int
    """Samples that were there before."""
    num_sampled: int
    """Samples that were added."""
    too_long: dict[str, int]
    """Problems that were left out, with the tokens of their prompts."""


async def estimate_values(
    config: Config, model: ModelInfo, problems: Problems, display: Display, directory: Path | None = None
) -> Estimate:
    """Samples what is missing.

    Args:
        config: The settings; `values.directory` is set.
        model: The reference.
        problems: The training problems.
        display: Told how far it is.
        directory: Of the session; see `sampling_session`.

    Raises:
        RunFailed: Workers cannot start, nothing goes on, or all prompts are too long.
        ConfigError: The directory has values of another key.
        StoreError: Its store is damaged.
    """
    async with sampling_session(config, model, problems, directory) as session:
        too_long = await long_prompts(config, problems, session.prompt_lengths)
        problems = problems.where(lambda info: info.id not in too_long)
        key = values_key(config, model, session.prompt_template, problems)
        values = ValueEstimation(config, key, problems, model.tokenizer_fingerprint)
        try:
            await trio.to_thread.run_sync(values.scan)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    keep_showing, display, lambda: session.status("reference", values.num_done, values.num_wanted)
                )
                session.serve(values)
                values.check_finished()
                await values.run()
                nursery.cancel_scope.cancel()
        finally:
            values.close()
    sampled = values.num_done - values.num_reused
    return Estimate(str(values.directory), values.counts(), values.num_reused, sampled, too_long)

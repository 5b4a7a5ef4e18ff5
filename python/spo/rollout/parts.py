"""How a worker's engine, tokenizer and judge are made from the run's settings. No torch until it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import trio

from spo.config import Config
from spo.errors import ConfigError
from spo.judge import Judge
from spo.models import tokenizer_fingerprint
from spo.rollout.engine import Sampler
from spo.rollout.fake import FakeCodec, FakeSampler
from spo.rollout.grading import Grader
from spo.rollout.prompts import Codec, ModelCodec
from spo.rollout.threaded import ThreadedEngine
from spo.rollout.worker import Parts


async def make_parts(config: Config, model_path: str) -> Parts:
    """Loads the engine and starts the judge, both off the event loop.

    Args:
        config: The run's settings.
        model_path: The reference model's local folder.

    Raises:
        ConfigError: There is no such model, or it cannot be sampled from here.
        JudgeError: The judge cannot start on this host.
    """
    judge = await trio.to_thread.run_sync(partial(_make_judge, config))
    try:
        codec, make_sampler = await trio.to_thread.run_sync(_choose_engine, config, model_path, abandon_on_cancel=True)
        engine = await ThreadedEngine.start(make_sampler)
    except BaseException:
        judge.close()
        raise

    async def close() -> None:
        await engine.close()
        await trio.to_thread.run_sync(judge.close)

    return Parts(engine, codec, Grader(judge, config.judge.output_bytes), judge.isolation_tier, close)


def _make_judge(config: Config) -> Judge:
    settings = config.judge
    return Judge(
        num_workers=settings.num_workers,
        allow_weak_isolation=settings.allow_weak_isolation,
    )


def make_codec(config: Config, model_path: str) -> Codec:
    """The tokenizer and prompts of a model, for whoever needs no engine.

    Raises:
        ConfigError: The model has no tokenizer that can be used.
        ImportError: `transformers` is not installed.
    """
    if config.workers.engine == "fake":
        return FakeCodec()
    return ModelCodec(model_path, tokenizer_fingerprint(Path(model_path)), config.problems.instruction)


def _choose_engine(config: Config, model_path: str) -> tuple[Codec, Callable[[], Sampler]]:
    batch_size = config.workers.max_batch_size
    if config.workers.engine == "fake":
        fake = FakeCodec()
        return fake, partial(FakeSampler, fake, batch_size)
    try:
        load_sampler = _sampler_loader(config)
    except ImportError as error:
        raise ConfigError(
            f"workers.engine: {config.workers.engine} cannot be used here ({error}); pip install 'spo-rl[train]'"
        ) from error
    codec = make_codec(config, model_path)
    return codec, partial(load_sampler, config, model_path, codec.end_tokens)


def _sampler_loader(config: Config) -> Callable[[Config, str, Sequence[int]], Sampler]:
    if config.workers.engine == "vllm":
        from spo.rollout import vllm_loading

        vllm_loading.check_installed()
        return vllm_loading.load_sampler
    from spo.rollout.transformers import load_sampler

    return load_sampler

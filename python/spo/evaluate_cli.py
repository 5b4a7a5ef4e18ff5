"""`spo evaluate`: a policy on held-out problems, sampled and judged in this process, without a run.

The policy is a model folder, a run directory (its final policy) or one of a run's checkpoints. Settings are those of
the run, if it is of one, else the defaults: 20 samples a problem, temperature 0.4, top-p 0.95 (Sec. 5). Engine, judge
and prompts are a rollout worker's; the estimates are `spo.evaluate`'s.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from spo.config import Config, load_config
from spo.errors import ConfigError
from spo.evaluate import EvaluationResult, EvaluationSample, evaluate
from spo.problems import Problem, load_problems
from spo.rundir import POLICY_DIR, read_model

if TYPE_CHECKING:
    from spo.rollout.worker import Parts

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

CONFIG_FILE = "config.toml"
MODEL_CONFIG = "config.json"


def register(subparsers: Subparsers) -> None:
    """Adds the `evaluate` command."""
    parser = subparsers.add_parser(
        "evaluate",
        help="evaluate a policy on problems",
        description="Samples a policy's answers to problems, judges them and prints pass@k.",
    )
    parser.add_argument(
        "policy", type=Path, metavar="POLICY", help="model folder, run directory or checkpoint of a run"
    )
    parser.add_argument(
        "settings", nargs="*", metavar="PROBLEMS | section.field=value", help="problem specs, and settings to change"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run_command)


def _run_command(options: argparse.Namespace) -> int:
    path = options.policy.expanduser().absolute()
    run_dir = _run_of(path)
    specs = [word for word in options.settings if "=" not in word]
    overrides = [word for word in options.settings if "=" in word]
    config = load_config(str(run_dir / CONFIG_FILE) if run_dir else None, overrides)
    specs = specs or list(config.problems.evaluation)
    if not specs:
        raise ConfigError("which problems? name some, such as: spo evaluate POLICY builtin:easy")
    problems = load_problems(specs, config.seed)
    with tempfile.TemporaryDirectory(prefix="spo-evaluate-") as folder:
        samples = trio.run(_sample, config, str(_model_folder(path, run_dir, Path(folder))), problems)
    try:
        result = evaluate(samples, config.evaluation.ks, config.seed)
    except ValueError as error:
        raise ConfigError(f"evaluation: {error}") from None
    num_excluded = len(problems) * config.evaluation.num_samples - len(samples)
    report = {"policy": str(options.policy), **result.as_report(), "num_excluded": num_excluded}
    print(msgspec.json.encode(report).decode() if options.json else _table(config, result, num_excluded))
    return 0


def _run_of(path: Path) -> Path | None:
    """The run that a policy is of, if it lies in one."""
    return next(
        (folder for folder in (path, path.parent, path.parent.parent) if (folder / CONFIG_FILE).is_file()), None
    )


def _model_folder(path: Path, run_dir: Path | None, scratch: Path) -> Path:
    """The policy in the Hugging Face format; a checkpoint is written out in `scratch` first.

    Raises:
        ConfigError: There is no policy at `path`.
    """
    if (path / MODEL_CONFIG).is_file():
        return path
    if path == run_dir:
        if (path / POLICY_DIR / MODEL_CONFIG).is_file():
            return path / POLICY_DIR
        raise ConfigError(f"{path}: the run has no final policy yet; give one of its checkpoints/step-N")
    if run_dir is not None and (path / ".metadata").is_file():
        from spo.trainer.export import export_checkpoint

        export_checkpoint(path, read_model(run_dir).path, scratch / POLICY_DIR)
        return scratch / POLICY_DIR
    raise ConfigError(f"{path}: no policy; give a model folder, a run directory, or a run's checkpoints/step-N")


async def _sample(config: Config, model_path: str, problems: Sequence[Problem]) -> list[EvaluationSample]:
    """Samples and judges all responses; those that the judge fails on are left out."""
    from spo.rollout.parts import make_parts

    parts = await make_parts(config, model_path)
    samples: list[EvaluationSample] = []
    try:
        async with trio.open_nursery() as nursery:
            for problem in problems:
                nursery.start_soon(_sample_one, config, parts, problem, samples)
            nursery.start_soon(_show_progress, samples, len(problems) * config.evaluation.num_samples, nursery)
    finally:
        with trio.CancelScope(shield=True):
            await parts.close()
    return samples


async def _sample_one(config: Config, parts: Parts, problem: Problem, samples: list[EvaluationSample]) -> None:
    from spo.orchestrator.schedule import derive_seed
    from spo.rollout.engine import Request

    settings = config.evaluation
    prompt = parts.codec.encode_prompt(problem)
    requests = [
        Request(
            prompt,
            settings.temperature,
            settings.top_p,
            derive_seed(config.seed, "evaluate", problem.id, index),
            config.sampling.max_new_tokens,
        )
        for index in range(settings.num_samples)
    ]
    responses = await parts.engine.generate(requests)
    texts = [None if response.is_truncated else parts.codec.decode_response(response.tokens) for response in responses]
    grading = await parts.grader.grade(problem, texts)
    for response, grade in zip(responses, grading.grades, strict=True):
        if grade.reward is not None:
            logprobs = response.behavior_logprobs
            logprob = None if logprobs is None else float(logprobs.sum(dtype="float64"))
            samples.append(EvaluationSample(problem.id, grade.reward, grade.program, logprob))


async def _show_progress(samples: Sequence[Any], total: int, nursery: trio.Nursery) -> None:
    """Tells on a terminal how many responses are judged, until all else in the nursery is done."""
    while len(nursery.child_tasks) > 1:
        if sys.stderr.isatty():
            print(f"\r{len(samples)} of {total} responses judged", end="", file=sys.stderr, flush=True)
        await trio.sleep(0.2)
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)


def _table(config: Config, result: EvaluationResult, num_excluded: int) -> str:
    settings = config.evaluation
    lines = [
        f"{result.num_problems} problems, {result.num_samples} samples at temperature {settings.temperature:g}, top-p "
        f"{settings.top_p:g}; 95% bootstrap intervals over problems"
    ]
    for entry in result.pass_at:
        sets = "".join(f"  {name} {value:.3f}" for name, value in entry.sets.items())
        lines.append(f"pass@{entry.k:<3} {entry.value:.3f} [{entry.low:.3f}, {entry.high:.3f}]{sets}")
        if entry.num_problems < result.num_problems:
            lines[-1] += f"  (of {entry.num_problems} problems with {entry.k} samples)"
    lines.append(
        f"mean reward {result.mean_reward:.3f}, {result.distinct_accepted_programs} distinct accepted programs"
    )
    if result.response_entropy is not None:
        lines[-1] += f", response entropy {result.response_entropy:.2f} nats"
    if num_excluded:
        lines.append(f"{num_excluded} responses left out: the judge itself failed on them")
    return "\n".join(lines)

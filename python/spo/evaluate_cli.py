"""`spo evaluate`: a policy on held-out problems, sampled and judged in this process, without a run.

What a policy may be, and which settings go with it, is `spo.policies`' to say; the defaults are 20 samples a problem,
temperature 0.4, top-p 0.95 (Sec. 5). Engine, judge and prompts are a rollout worker's; the estimates are
`spo.evaluate`'s.
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

from spo.config import Config
from spo.errors import ConfigError
from spo.evaluate import EvaluationResult, EvaluationSample, evaluate
from spo.policies import find_policy, settings_of
from spo.problems import Problem, load_problems

if TYPE_CHECKING:
    from spo.rollout.worker import Parts

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def register(subparsers: Subparsers) -> None:
    """Adds the `evaluate` command."""
    parser = subparsers.add_parser(
        "evaluate",
        help="evaluate a policy on problems",
        description="Samples a policy's answers to problems, judges them and prints pass@k.",
    )
    parser.add_argument(
        "policy", metavar="POLICY", help="model folder, run directory, checkpoint of a run, hub id, preset or TOML file"
    )
    parser.add_argument(
        "settings", nargs="*", metavar="PROBLEMS | section.field=value", help="problem specs, and settings to change"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run_command)


def _run_command(options: argparse.Namespace) -> int:
    specs = [word for word in options.settings if "=" not in word]
    overrides = [word for word in options.settings if "=" in word]
    config = settings_of(options.policy, overrides)
    specs = specs or list(config.problems.evaluation)
    if not specs:
        raise ConfigError("which problems? name some, such as: spo evaluate POLICY builtin:easy")
    problems = load_problems(specs, config.seed)
    with tempfile.TemporaryDirectory(prefix="spo-evaluate-") as folder:
        policy = find_policy(options.policy, overrides, Path(folder), Path(folder))
        samples = trio.run(_sample, config, str(policy.path), problems)
    try:
        result = evaluate(samples, config.evaluation.ks, config.seed)
    except ValueError as error:
        raise ConfigError(f"evaluation: {error}") from None
    num_excluded = len(problems) * config.evaluation.num_samples - len(samples)
    report = {"policy": options.policy, **result.as_report(), "num_excluded": num_excluded}
    print(msgspec.json.encode(report).decode() if options.json else _table(config, result, num_excluded))
    return 0


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

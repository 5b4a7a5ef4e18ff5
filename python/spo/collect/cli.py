"""`spo collect`: offline trajectories from human solutions, any policy, other stores and runs, into a folder.

The same command goes on where it was interrupted. Exit code 0; what is wrong with the input is told in one line.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import trio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from spo.collect.collection import Collection, check_place
from spo.collect.human import collect_human
from spo.collect.samples import COLLECTED, collect_samples
from spo.collect.stores import Regrader, collect_store
from spo.config import Config
from spo.earlier import find_store
from spo.errors import ConfigError
from spo.judge import Judge
from spo.models import model_info
from spo.orchestrator.sampling import run_sampling, sampling_session
from spo.policies import find_policy, settings_of
from spo.problems import Problems
from spo.problems.manifest import load_training_problems
from spo.progress import keep_showing, make_display
from spo.rundir import ModelInfo
from spo.store import TrajectoryStore

if TYPE_CHECKING:
    from spo.rollout.prompts import Codec

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_console = Console(stderr=True)


def register(subparsers: Subparsers) -> None:
    """Adds the `collect` command."""
    parser = subparsers.add_parser(
        "collect",
        help="collect offline trajectories: human solutions, samples of a policy, other stores",
        description="Collects judged trajectories into DIRECTORY, which a run takes by experience.stores. The same "
        "command goes on where it was interrupted.",
    )
    parser.add_argument("directory", type=Path, metavar="DIRECTORY", help="holds a store; made if there is none")
    parser.add_argument(
        "settings", nargs="*", metavar="PROBLEMS | section.field=value", help="problem specs, and settings to change"
    )
    parser.add_argument(
        "--policy", help="who samples and writes: model folder, run, checkpoint of a run, hub id, preset or TOML file"
    )
    parser.add_argument("--samples", type=int, default=0, metavar="N", help="sample the policy, N responses a problem")
    parser.add_argument("--human", action="store_true", help="take the problems' own solutions, right and wrong ones")
    parser.add_argument(
        "--max-solutions", type=int, default=1_000_000, metavar="N", help="at most N right and N wrong ones a problem"
    )
    parser.add_argument(
        "--from",
        dest="stores",
        action="append",
        default=[],
        metavar="STORE",
        help="take what another store, run or collection has; may be given again",
    )
    parser.add_argument("--judge-again", action="store_true", help="judge what --from takes by the tests of today")
    parser.add_argument("--accepted-only", action="store_true", help="store accepted trajectories alone")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.set_defaults(run=_run_command)


def _run_command(options: argparse.Namespace) -> int:
    directory = options.directory.expanduser().absolute()
    stores = [_store_at(name) for name in options.stores]
    _check(options)
    check_place(directory)
    specs = [word for word in options.settings if "=" not in word]
    overrides = [word for word in options.settings if "=" in word]
    config = settings_of(options.policy, overrides)
    problems = _problems(config, specs, needed=_needs_policy(options))
    with contextlib.ExitStack() as stack:
        model = None
        if _needs_policy(options):
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="spo-collect-")))
            policy = find_policy(options.policy, overrides, directory, scratch)
            config, model = policy.config, model_info(policy.path)
        collection = Collection(directory, _tokenizer(model, stores), options.accepted_only)
        stack.callback(collection.close)
        try:
            run_sampling(lambda: _collect(options, config, model, problems, stores, collection))
        except KeyboardInterrupt:
            print(f"{directory} keeps what is done; the same command goes on from there", file=sys.stderr)
            raise
        collection.commit()
        summary = collection.summary()
    print(msgspec.json.encode(summary).decode() if options.json else _text(summary))
    return 0


def _check(options: argparse.Namespace) -> None:
    if options.samples < 0 or options.max_solutions < 1:
        raise ConfigError("--samples must be 1 or more, and so must --max-solutions")
    if not (options.samples or options.human or options.stores):
        raise ConfigError("there is nothing to collect: give --samples N, --human or --from STORE")
    if options.judge_again and not options.stores:
        raise ConfigError("--judge-again concerns what --from STORE takes; give one")
    if _needs_policy(options) and not options.policy:
        raise ConfigError("--policy is missing: whose tokenizer and prompts? give a model folder, a run or a preset")


def _needs_policy(options: argparse.Namespace) -> bool:
    return bool(options.samples or options.human or options.judge_again)


def _problems(config: Config, specs: list[str], needed: bool) -> Problems | None:
    """The problems that training would have, by the same manifest and reports of duplicates; None: of any."""
    named = specs or list(config.problems.train)
    if specs or needed:
        if not named:
            raise ConfigError("which problems? name some, such as: spo collect DIRECTORY code_contests:train.parquet")
        return load_training_problems(named, config.seed, config.problems.without, config.problems.manifest)[0]
    return None


def _store_at(name: str) -> Path:
    store = find_store(Path(name).expanduser().absolute())
    if store is None:
        raise ConfigError(f"--from: there is no store in {name}; name a store, a run or a collection")
    return store


def _tokenizer(model: ModelInfo | None, stores: list[Path]) -> str:
    if model is not None:
        return model.tokenizer_fingerprint
    with TrajectoryStore.open(stores[0], "r") as store:
        return store.tokenizer


async def _collect(
    options: argparse.Namespace,
    config: Config,
    model: ModelInfo | None,
    problems: Problems | None,
    stores: list[Path],
    collection: Collection,
) -> None:
    """All that the options ask for, the cheap parts first."""
    if model is None or problems is None:
        await _take(collection, stores, problems)
        return
    if options.human or options.judge_again:
        await _judge(options, config, model, problems, stores, collection)
    else:
        await _take(collection, stores, problems)
    if options.samples:
        await _sample(config, model, problems, options.samples, collection)


async def _take(
    collection: Collection, stores: list[Path], problems: Problems | None, regrader: Regrader | None = None
) -> None:
    for store in stores:
        with _bar(f"taking {store}") as at:
            await collect_store(collection, store, problems, regrader, at)


async def _judge(
    options: argparse.Namespace,
    config: Config,
    model: ModelInfo,
    problems: Problems,
    stores: list[Path],
    collection: Collection,
) -> None:
    """What is judged in this process: human solutions, and other stores' responses if they are to be judged again."""
    from spo.rollout.grading import Grader

    codec = await trio.to_thread.run_sync(_make_codec, config, model)
    with Judge(allow_weak_isolation=config.judge.allow_weak_isolation) as judge:
        grader = Grader(judge, config.judge.output_bytes)
        await _take(collection, stores, problems, Regrader(problems, codec, grader) if options.judge_again else None)
        if options.human:
            with _bar("judging human solutions") as at:
                done = iter(range(1, len(problems) + 1))
                await collect_human(
                    collection, problems, codec, grader, config.batch.token_budget, options.max_solutions,
                    lambda: at(next(done), len(problems)),
                )  # fmt: skip


def _make_codec(config: Config, model: ModelInfo) -> Codec:
    try:
        from spo.rollout.parts import make_codec

        return make_codec(config, model.path)
    except ImportError as error:
        raise ConfigError(f"--policy: tokenizers need transformers ({error}); pip install 'spo-rl[train]'") from error


async def _sample(
    config: Config, model: ModelInfo, problems: Problems, num_samples: int, collection: Collection
) -> None:
    total, done = num_samples * len(problems), 0
    tally = collection.tallies[COLLECTED]

    def advance(count: int) -> None:
        nonlocal done
        done += count

    async with (
        sampling_session(config, model, problems, collection.directory) as session,
        trio.open_nursery() as nursery,
    ):

        def status() -> Any:
            rate = tally.accepted / tally.done if tally.done else None
            return dataclasses.replace(session.status("collecting", done, total), success_rate=rate)

        nursery.start_soon(keep_showing, make_display(_console), status)
        await collect_samples(collection, session, problems, num_samples, advance)
        nursery.cancel_scope.cancel()


@contextlib.contextmanager
def _bar(text: str) -> Iterator[Callable[[int, int], None]]:
    """A bar of progress on a terminal; gives what is to be told how many of how many are done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_console, transient=True, disable=not _console.is_terminal) as progress:
        task = progress.add_task(text, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _text(summary: dict[str, Any]) -> str:
    sources = ", ".join(f"{count} {source}" for source, count in sorted(summary["sources"].items()))
    lines = [f"{summary['directory']}: {summary['trajectories']} trajectories ({sources or 'none'})"]
    for source, tally in summary["collected"].items():
        facts = [f"{tally['done']} judged", f"{tally['accepted']} accepted", f"{tally['stored']} stored"]
        facts += [f"{tally[name]} {text}" for name, text in _TALLY_TEXTS.items() if tally[name]]
        lines.append(f"{source}: {', '.join(facts)}")
    for kind in ("left_out", "contradictions"):
        lines += [f"{kind.replace('_', ' ')}: {count} {what}" for what, count in summary[kind].items()]
    lines.append(f"train on them by experience.stores='[\"{summary['directory']}\"]'")
    return "\n".join(lines)


_TALLY_TEXTS = {
    "duplicates": "there already",
    "refused": "refused by --accepted-only",
    "judge_failed": "that the judge itself failed on",
}

"""`spo values pivotal`: the search on the accepted trajectories of a store, with the workers that the settings say."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import trio
from rich.console import Console
from rich.table import Table

from spo.config import Config
from spo.earlier import locate_stores
from spo.errors import ConfigError
from spo.orchestrator.bisection import SearchSettings
from spo.orchestrator.mix import PIVOTAL
from spo.orchestrator.pivotal import Continuations, Searched, search_trajectories
from spo.orchestrator.sampling import run_sampling, sampling_session
from spo.problems import Problems
from spo.problems.tables import print_table
from spo.progress import Display, Status, keep_showing, make_display
from spo.reward import ACCEPTED_REWARD
from spo.rundir import ModelInfo
from spo.sampling_setup import find_model, read_settings, training_problems
from spo.store import TrajectoryStore

Add = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]

_DEFAULTS = SearchSettings()
_READ_AT_ONCE = 4096

log = logging.getLogger(__name__)


def add_pivotal(add: Add) -> None:
    """Adds the command; `add` makes it, given its name, what it runs and what it is for."""
    parser = add("pivotal", _pivotal, "search accepted trajectories for the tokens at which their success is decided")
    parser.add_argument("store", metavar="RUN_OR_STORE", help="whose trajectories; they are annotated there")
    parser.add_argument(
        "settings", nargs="*", metavar="PRESET_OR_TOML | section.field=value", help="of a run: what to change"
    )
    parser.add_argument("--source", help="only trajectories of this source")
    parser.add_argument("--problem", help="only trajectories of this problem")
    parser.add_argument("--per-problem", type=_count, help="at most so many trajectories a problem, the first stored")
    parser.add_argument("--limit", type=_count, help="at most so many trajectories")
    parser.add_argument(
        "--rollouts", type=_count, default=_DEFAULTS.num_rollouts, help="K: rollouts a position (default: %(default)s)"
    )
    parser.add_argument(
        "--threshold",
        type=_share,
        default=_DEFAULTS.threshold,
        help="intervals across which success changes less are not gone into (default: %(default)s)",
    )
    parser.add_argument(
        "--budget", type=_count, default=_DEFAULTS.budget, help="most rollouts a trajectory (default: %(default)s)"
    )
    parser.add_argument(
        "--at-once", type=_count, default=64, help="trajectories searched at the same time (default: %(default)s)"
    )


def _pivotal(options: argparse.Namespace) -> int:
    (place,) = locate_stores([options.store], "RUN_OR_STORE")
    words = options.settings
    if all("=" in word for word in words):
        if place.run_dir is None:
            raise ConfigError(f"{options.store} is of no run: also name the preset or TOML file of its trajectories")
        words = [str(place.run_dir), *words]
    config, run_dir = read_settings(words)
    settings = SearchSettings(options.rollouts, options.threshold, options.budget)
    if settings.budget < settings.num_rollouts:
        raise ConfigError(f"--budget {settings.budget} is less than --rollouts {options.rollouts}: raise it")
    problems = training_problems(config)
    with tempfile.TemporaryDirectory(prefix="spo-pivotal-") as scratch:
        model = find_model(config, run_dir, Path(scratch))
        with TrajectoryStore.open(place.store, "a", model.tokenizer_fingerprint) as store:
            chosen = choose(store, problems, config.sampling.max_new_tokens, options)
            if chosen:
                display = make_display(Console(stderr=True))
                search = partial(_search, config, model, problems, store, chosen, settings, options, display)
                found, num_sampled, num_reused = run_sampling(search)
            else:
                found, num_sampled, num_reused = [], 0, 0
    report = {
        "store": str(place.store),
        "searched": len(found),
        "rollouts_sampled": num_sampled,
        "rollouts_reused": num_reused,
        "trajectories": [_as_row(one) for one in sorted(found, key=lambda one: one.id)],
    }
    if options.json:
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        _print(report)
    return 0


def choose(store: TrajectoryStore, problems: Problems, max_tokens: int, options: argparse.Namespace) -> list[int]:
    """The ids of the trajectories to be searched: accepted ones of training problems, in the order of the store.

    Of those with the same response to a problem, only the first: the others would come to the same counts. Those that
    are annotated already are passed over but count, so that the same command again goes on where it was.
    """
    wanted, chosen = set(problems.ids), list[int]()
    ids = store.scan(source=options.source, problem=options.problem, reward=ACCEPTED_REWARD)
    done = set(store.scan(has=["mc_successes"]))
    per_problem: Counter[str] = Counter()
    seen: set[tuple[str, bytes]] = set()
    left_out: Counter[str] = Counter()
    for start in range(0, len(ids), _READ_AT_ONCE):
        part = ids[start : start + _READ_AT_ONCE]
        columns = store.read_many(part, ["problem_id", "source", "response_tokens"])
        for id, problem_id, source, response in zip(part, *columns.values(), strict=True):
            key = (problem_id, response.tobytes())
            if source == PIVOTAL or key in seen or len(chosen) == options.limit:
                continue
            seen.add(key)
            if problem_id not in wanted or len(response) > max_tokens:
                left_out["too long" if problem_id in wanted else "of other problems"] += 1
            elif options.per_problem is None or per_problem[problem_id] < options.per_problem:
                per_problem[problem_id] += 1
                chosen.append(id)
    for reason, count in left_out.items():
        log.warning("%d trajectories are not searched: %s", count, reason)
    return [id for id in chosen if id not in done]


async def _search(
    config: Config,
    model: ModelInfo,
    problems: Problems,
    store: TrajectoryStore,
    chosen: Sequence[int],
    settings: SearchSettings,
    options: argparse.Namespace,
    display: Display,
) -> tuple[list[Searched], int, int]:
    found: list[Searched] = []
    ids_of_problems = set(store.read_many(chosen, ["problem_id"])["problem_id"])
    async with sampling_session(config, model, problems) as session:
        continuations = Continuations(session, store, settings.num_rollouts)
        await trio.to_thread.run_sync(continuations.scan, sorted(ids_of_problems))

        def status() -> Status:
            return session.status("pivotal tokens", len(found), len(chosen), "trajectories")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_showing, display, status)
            await search_trajectories(store, chosen, continuations, settings, options.at_once, found.append)
            nursery.cancel_scope.cancel()
    return found, continuations.num_sampled, continuations.num_reused


def _as_row(one: Searched) -> dict[str, Any]:
    return {
        "id": one.id,
        "problem": one.problem_id,
        "tokens": one.num_tokens,
        "positions": len(one.result.counts),
        "pivotal": msgspec.to_builtins(one.result.pivotal),
        "is_complete": one.result.is_complete,
    }


def _print(report: dict[str, Any]) -> None:
    table = Table("id", "problem", "tokens", "positions", "pivotal tokens (position: before → after)", box=None)
    for row in report["trajectories"]:
        tokens = ", ".join(f"{one['position']}: {one['before']:.2f} → {one['after']:.2f}" for one in row["pivotal"])
        more = "" if row["is_complete"] else " (the budget did not suffice)"
        table.add_row(str(row["id"]), row["problem"], str(row["tokens"]), str(row["positions"]), tokens + more)
    print_table(table)
    print(
        f"{report['searched']} trajectories searched: {report['rollouts_sampled']} rollouts sampled, "
        f"{report['rollouts_reused']} were there; all is in {report['store']}"
    )


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be 1 or more")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} must be above 0 and at most 1")
    return value

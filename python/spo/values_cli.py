"""`spo values …`: estimating prompt values, searching pivotal tokens, and looking at both.

Reads settings, prints results. Sampling is `spo.orchestrator`'s, through the workers of a run; what values are is
`spo.values`'s. The search and the viewer have modules of their own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.table import Table

from spo import pivotal_cli, values_show_cli
from spo.config import Config
from spo.errors import ConfigError
from spo.orchestrator.estimate import Estimate, estimate_values
from spo.orchestrator.sampling import run_sampling
from spo.problems.tables import print_table
from spo.progress import make_display
from spo.sampling_setup import find_model, read_settings, training_problems
from spo.values import COUNTS_FILE, ValueCounts, key_folders

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def register(subparsers: Subparsers) -> None:
    """Adds the `values` command; each of its parts sets `run`."""
    values = subparsers.add_parser("values", help="estimate prompt values, search pivotal tokens, look at both")
    parts = values.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        parser = parts.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        parser.set_defaults(run=run)
        parser.add_argument("--json", action="store_true", help="print JSON")
        return parser

    parser = add("estimate", _estimate, "sample the reference's responses to the training problems and count successes")
    parser.add_argument("settings", nargs="*", metavar="PRESET_OR_TOML_OR_RUN | section.field=value")
    parser = add("list", _list, "list the values in a directory, a line a key")
    parser.add_argument("directory", type=Path, nargs="?", default=Path("runs/values"))
    pivotal_cli.add_pivotal(add)
    values_show_cli.add_show(add)


def _estimate(options: argparse.Namespace) -> int:
    config, run_dir = read_settings(options.settings)
    problems = training_problems(config)
    with tempfile.TemporaryDirectory(prefix="spo-values-") as scratch:
        model = find_model(config, run_dir, Path(scratch))
        display = make_display(Console(stderr=True))
        estimate = run_sampling(partial(estimate_values, config, model, problems, display))
    if options.json:
        _print_json(_as_report(config, estimate))
        return 0
    print_table(values_show_cli.counts_table(estimate.counts, config.objective.beta))
    print(
        f"{estimate.num_sampled} samples taken, {estimate.num_reused} were there; "
        f"{len(estimate.too_long)} problems left out, their prompts are too long; all is in {estimate.directory}"
    )
    return 0


def _as_report(config: Config, estimate: Estimate) -> dict[str, Any]:
    return {
        "directory": estimate.directory,
        "key": msgspec.to_builtins(estimate.counts.key),
        "num_sampled": estimate.num_sampled,
        "num_reused": estimate.num_reused,
        "too_long": estimate.too_long,
        "problems": values_show_cli.counts_rows(estimate.counts, config.objective.beta),
    }


def _list(options: argparse.Namespace) -> int:
    folders = key_folders(options.directory.expanduser())
    if not folders:
        raise ConfigError(f"{options.directory}: no values; estimate some: spo values estimate PRESET_OR_TOML")
    rows = [_summary(folder) for folder in folders]
    if options.json:
        for row in rows:
            _print_json(row)
        return 0
    table = Table("key", "problems", "samples", "successes", "reference", "prompts", "tests", "sampler", box=None)
    for row in rows:
        key = row["key"]
        sampler = " ".join(f"{name}={value}" for name, value in key["sampler"].items())
        short = [key[field][:8] for field in ("reference", "prompt_template", "test_suite")]
        totals = [str(row[name]) for name in ("num_problems", "num_samples", "successes")]
        table.add_row(row["digest"], *totals, short[0], key["prompt_template"], short[2], sampler)
    print_table(table)
    return 0


def _summary(folder: Path) -> dict[str, Any]:
    counts = ValueCounts.load(folder / COUNTS_FILE)
    each = counts.as_dict().values()
    return {
        "directory": str(folder),
        "digest": counts.key.digest,
        "key": msgspec.to_builtins(counts.key),
        "num_problems": len(counts),
        "num_samples": sum(one.num_samples for one in each),
        "successes": sum(one.successes for one in each),
    }


def _print_json(value: Any) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")

"""`spo values show`: the counts of a directory of values, or searched responses coloured by advantage."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from spo.config import ObjectiveConfig, read_resolved
from spo.earlier import EarlierStore, locate_stores
from spo.errors import ConfigError
from spo.models import tokenizer_files, tokenizer_fingerprint
from spo.problems.tables import print_table
from spo.reward import ACCEPTED_REWARD
from spo.rundir import read_model
from spo.store import TrajectoryStore
from spo.values import COUNTS_FILE, ValueCounts, initial_value, initial_value_interval, key_folders, success_interval
from spo.values_draw import write_html, write_png
from spo.values_view import Decode, View, as_text, make_view

Add = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]

_SHOWN = 40
"""Of more problems than these, a table has the first."""
_BYTES = "bytes"
"""The tokenizer of the fake engine."""


def add_show(add: Add) -> None:
    """Adds the command; `add` makes it, given its name, what it runs and what it is for."""
    parser = add("show", _show, "print the counts of a directory of values, or responses coloured by advantage")
    parser.add_argument(
        "what", nargs="*", metavar="VALUES_DIRECTORY | RUN_OR_STORE | ID", help="ids without a store: of the newest run"
    )
    parser.add_argument("--beta", type=_beta, help="temperature of the values (default: the run's, or the paper's)")
    parser.add_argument(
        "--threshold", type=float, default=0.2, help="change that makes a token pivotal (default: %(default)s)"
    )
    parser.add_argument("--limit", type=int, default=3, help="without ids: so many responses (default: %(default)s)")
    parser.add_argument("--model", type=Path, help="the folder of the model, where the store is of no run")
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw the responses")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with the responses")


def _show(options: argparse.Namespace) -> int:
    ids = [int(word) for word in options.what if word.isdigit()]
    paths = [word for word in options.what if not word.isdigit()]
    if len(paths) > 1:
        raise ConfigError(f"give one directory or store, not {len(paths)}")
    if paths and not ids and (folders := key_folders(Path(paths[0]).expanduser())):
        return _show_counts(folders, options)
    (place,) = locate_stores(paths or [_newest_run()], "RUN_OR_STORE")
    views = _views(place, ids, options)
    if options.png:
        write_png(views, options.png)
    if options.html:
        write_html(views, options.html)
    if options.json:
        for view in views:
            _print_json(view)
        return 0
    console = Console(highlight=False)
    for view in views:
        console.print(view.title, style="bold", markup=False)
        console.print(as_text(view))
        for token in view.pivotal:
            console.print(f"  {view.about(token)}", markup=False)
    return 0


def counts_rows(counts: ValueCounts, beta: float) -> list[dict[str, Any]]:
    """The counts as rows, by problem: with 95% intervals, and Q̂_0 where there are samples."""
    rows = []
    for problem_id, one in sorted(counts.as_dict().items()):
        successes, samples = one.successes, one.num_samples
        row: dict[str, Any] = {"problem": problem_id, "successes": successes, "num_samples": samples}
        row["success_interval"] = success_interval(successes, samples)
        row["value"] = initial_value(successes, samples, beta) if samples else None
        row["value_interval"] = initial_value_interval(successes, samples, beta)
        rows.append(row)
    return rows


def counts_table(counts: ValueCounts, beta: float) -> Table:
    """The same for people."""
    rows = counts_rows(counts, beta)
    caption = f"{len(rows)} problems" + (f", the first {_SHOWN} shown" if len(rows) > _SHOWN else "")
    table = Table("problem", "successes", "95% interval", "Q̂_0", "95% interval", box=None, caption=caption)
    for row in rows[:_SHOWN]:
        intervals = ["[{:.3f}, {:.3f}]".format(*row[name]) for name in ("success_interval", "value_interval")]
        value = "" if row["value"] is None else f"{row['value']:.4f}"
        table.add_row(row["problem"], f"{row['successes']}/{row['num_samples']}", intervals[0], value, intervals[1])
    return table


def _show_counts(folders: Sequence[Path], options: argparse.Namespace) -> int:
    if len(folders) > 1:
        raise ConfigError(f"there are the values of {len(folders)} keys; give one: {', '.join(map(str, folders))}")
    counts = ValueCounts.load(folders[0] / COUNTS_FILE)
    beta = options.beta or ObjectiveConfig().beta
    if options.json:
        _print_json({"key": counts.key, "beta": beta, "problems": counts_rows(counts, beta)})
    else:
        print_table(counts_table(counts, beta))
    return 0


def _views(place: EarlierStore, ids: list[int], options: argparse.Namespace) -> list[View]:
    objective = read_resolved(place.run_dir).objective if place.run_dir else ObjectiveConfig()
    with TrajectoryStore.open(place.store, "r") as store:
        ids = ids or store.scan(reward=ACCEPTED_REWARD, has=["mc_successes"])[: options.limit]
        if not ids:
            raise ConfigError(f"{place.store}: no trajectory was searched yet; do so by `spo values pivotal`")
        decode = _decoder(place, store.tokenizer, options.model)
        try:
            return [make_view(id, store[id], decode, options.beta or objective.beta, options.threshold) for id in ids]
        except ValueError as error:
            raise ConfigError(f"{place.store}: {error}") from None


def _decoder(place: EarlierStore, fingerprint: str, model: Path | None) -> Decode:
    """Turns tokens into text, by the tokenizer that the store's tokens are of."""
    if fingerprint == _BYTES:
        # An end token is no byte.
        return lambda tokens: bytes(token for token in tokens if token < 256).decode(errors="replace")
    if model is None and place.run_dir is None:
        raise ConfigError(f"{place.store} is of no run: give the folder of its model by --model")
    folder = model or Path(read_model(place.run_dir or place.store).path)
    if not tokenizer_files(folder):
        raise ConfigError(f"--model: {folder} holds no tokenizer; give the folder of the model of {place.store}")
    if tokenizer_fingerprint(folder) != fingerprint:
        raise ConfigError(f"--model: {folder} has another tokenizer than {place.store}; give the model of its run")
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise ConfigError("tokens need their tokenizer; pip install 'spo-rl[train]'") from None
    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)

    def decode(tokens: Sequence[int]) -> str:
        text: str = tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    return decode


def _newest_run() -> str:
    runs = sorted(Path("runs").glob("*/config.toml"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise ConfigError("there is no run in runs/; give a run directory or a store, or a directory of values")
    return str(runs[-1].parent)


def _print_json(value: Any) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


def _beta(text: str) -> float:
    value = float(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text} must be above 0")
    return value

"""`spo store …`: trajectory stores as people want to see, check, copy and tidy them.

Only prints and moves what `spo.store` holds. No store is changed but the one that is appended to, and by `dedup` and
`compact` the one that they are called on. Exit code 0, or 1 where `verify` found damage or `ls` a store that it
cannot read.
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from rich.console import Console
from rich.progress import Progress, track
from rich.table import Table

from spo.errors import ConfigError, CorruptShardError, StoreError
from spo.store import Trajectory, TrajectoryStore
from spo.store_copy import copy, duplicates, read_each, read_whole
from spo.store_files import read_file, write_file
from spo.store_rows import FORMS, to_row

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

T = TypeVar("T")

IDENTITY = "store.spo"
"""The file that makes a directory a store."""
DELETED_AT_ONCE = 1 << 16
FILES = "JSON Lines (.jsonl, .jsonl.zst) or Parquet (.parquet, needs pyarrow)"


def register(subparsers: "Subparsers") -> None:
    """Add the `store` command; each of its parts sets `run`, a function from the arguments to the exit code."""
    store = subparsers.add_parser("store", help="look into, check, copy and tidy trajectory stores")
    parts = store.add_subparsers(required=True, metavar="COMMAND")

    def part(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        parser = parts.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        parser.set_defaults(run=run)
        parser.add_argument("--json", action="store_true", help="print JSON, an object a line")
        return parser

    parser = part("ls", _ls, "list the stores in a directory and below it")
    parser.add_argument("path", type=Path, nargs="?", default=Path("."))
    parser = part("info", _info, "totals of a store")
    parser.add_argument("path", type=Path)
    parser = part("cat", _cat, "print trajectories, one JSON object a line")
    parser.add_argument("path", type=Path)
    parser.add_argument("--limit", type=int, help="at most so many")
    _add_filters(parser)
    parser = part("verify", _verify, "read every record and check every checksum")
    parser.add_argument("path", type=Path)
    parser = part("export", _export, f"write trajectories to a new file: {FILES}")
    parser.add_argument("path", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--rows", choices=FORMS, default="spo", help="what a row looks like (default: %(default)s)")
    _add_filters(parser)
    parser = part("import", _import, f"append the trajectories of files to a store, made if there is none: {FILES}")
    parser.add_argument("path", type=Path)
    parser.add_argument("inputs", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--rows", choices=FORMS, default="spo", help="what a row looks like (default: %(default)s)")
    parser.add_argument("--tokenizer", help="fingerprint of the tokenizer, to make a store")
    parser = part("merge", _merge, "append what stores hold to another one, made if there is none")
    parser.add_argument("path", type=Path)
    parser.add_argument("inputs", type=Path, nargs="+", metavar="STORE")
    parser.add_argument("--skip-damage", action="store_true", help="take what can be read of damaged stores")
    parser.add_argument("--dedup", action="store_true", help="each problem, prompt and response once, the first")
    _add_filters(parser)
    parser = part("attach", _attach, "list other stores' trajectories in a store too, without copying them")
    parser.add_argument("path", type=Path)
    parser.add_argument("inputs", type=Path, nargs="+", metavar="STORE")
    parser = part("dedup", _dedup, "delete the trajectories of a store whose problem, prompt and response came before")
    parser.add_argument("path", type=Path)
    parser.add_argument("--dry-run", action="store_true", help="only count them")
    parser = part("compact", _compact, "give the space of deleted trajectories and superseded columns back")
    parser.add_argument("path", type=Path)


def find_stores(path: Path) -> list[Path]:
    """The stores in a directory and below it, sorted."""
    return sorted(identity.parent for identity in path.rglob(IDENTITY))


def _ls(arguments: argparse.Namespace) -> int:
    table = Table("store", "records", "tokens", "MiB", "sources", "tokenizer", box=None)
    code = 0
    for path in find_stores(arguments.path):
        try:
            with TrajectoryStore.open(path, "r") as store:
                info = store.info()
        except (CorruptShardError, StoreError) as error:
            # The others are worth listing all the same.
            code = 1
            if arguments.json:
                _print_json({"path": str(path), "error": str(error)})
            else:
                print(f"spo: error: {error}", file=sys.stderr)
            continue
        if arguments.json:
            _print_json(info)
            continue
        tokens = info["prompt_tokens"] + info["response_tokens"]
        sources = ", ".join(f"{name} {count}" for name, count in sorted(info["sources"].items()))
        size = f"{info['bytes'] / 2**20:.1f}"
        table.add_row(info["path"], str(info["records"]), str(tokens), size, sources, info["tokenizer"])
    if not arguments.json:
        Console(highlight=False).print(table)
    return code


def _info(arguments: argparse.Namespace) -> int:
    with TrajectoryStore.open(arguments.path, "r") as store:
        info = store.info()
    if arguments.json:
        _print_json(info)
        return 0
    tokens = info["prompt_tokens"] + info["response_tokens"]
    info["bytes_per_token"] = round(info["bytes"] / tokens, 3) if tokens else None
    table = Table(box=None, show_header=False)
    for name, value in info.items():
        table.add_row(name, str(value))
    Console(highlight=False).print(table)
    return 0


def _cat(arguments: argparse.Namespace) -> int:
    with TrajectoryStore.open(arguments.path, "r") as store:
        for record_id, record in read_whole(store, _scan(store, arguments)[: arguments.limit]):
            _print_json(to_row(record_id, record))
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    with TrajectoryStore.open(arguments.path, "r", skip_damage=True) as store:
        ids = store.scan()
        reads = _progress(read_each(store, ids), "reading", len(ids))
        damaged = [(record_id, str(read)) for record_id, read in reads if isinstance(read, CorruptShardError)]
        info = store.info()
        skipped, missing = info["skipped"] + store.damaged_late_columns(), info["missing_segments"]
    if arguments.json:
        found = {"records": len(ids), "damaged": dict(damaged), "damaged_places": skipped, "missing_segments": missing}
        _print_json(found)
    else:
        print(f"{len(ids)} records, {len(damaged)} of them damaged; {skipped} other damaged places")
        for record_id, damage in damaged:
            print(f"{record_id}: {damage}")
        for number in missing:
            print(f"segment {number} is missing: put segment-{number:08}.spo (or .live) back, or its records are lost")
    return 1 if damaged or skipped or missing else 0


def _export(arguments: argparse.Namespace) -> int:
    with TrajectoryStore.open(arguments.path, "r") as store:
        ids = _scan(store, arguments)
        records = _progress(read_whole(store, ids), "exporting", len(ids))
        count = write_file(arguments.output, records, arguments.rows)
    _say(arguments, f"{count} trajectories written to {arguments.output}", file=str(arguments.output), written=count)
    return 0


def _import(arguments: argparse.Namespace) -> int:
    if arguments.tokenizer is None and not (arguments.path / IDENTITY).exists():
        raise ConfigError(f"--tokenizer must be given: there is no store in {arguments.path} yet")
    with TrajectoryStore.open(arguments.path, tokenizer=arguments.tokenizer) as store:
        for path in arguments.inputs:
            count = copy(_progress(read_file(path, arguments.rows), f"importing {path.name}", None), store)
            text = f"{count} trajectories of {path} appended to {arguments.path}"
            _say(arguments, text, file=str(path), appended=count)
    return 0


def _merge(arguments: argparse.Namespace) -> int:
    skip = arguments.skip_damage
    inputs = [TrajectoryStore.open(path, "r", skip_damage=skip) for path in arguments.inputs]
    tokenizers = {store.tokenizer for store in inputs}
    if len(tokenizers) > 1:
        raise StoreError(f"the stores are of different tokenizers, which never mix: {', '.join(sorted(tokenizers))}")
    if any(path.resolve() == arguments.path.resolve() for path in arguments.inputs):
        raise StoreError(f"{arguments.path} cannot be merged into itself")
    with TrajectoryStore.open(arguments.path, tokenizer=inputs[0].tokenizer) as output:
        seen: set[bytes] | None = None
        if arguments.dedup:
            seen = {record.content_hash for _, record in read_whole(output, output.scan())}
        for path, store in zip(arguments.inputs, inputs, strict=True):
            ids = _scan(store, arguments)
            reads = _progress(read_each(store, ids) if skip else read_whole(store, ids), "merging", len(ids))
            records = (record for _, record in reads if isinstance(record, Trajectory))
            count = copy(records, output, seen)
            text = f"{count} of {len(ids)} trajectories of {path} appended to {arguments.path}"
            _say(arguments, text, input=str(path), appended=count, of=len(ids))
    return 0


def _attach(arguments: argparse.Namespace) -> int:
    with TrajectoryStore.open(arguments.path) as store:
        for path in arguments.inputs:
            before = len(store)
            store.attach(path)
            more = len(store) - before
            _say(
                arguments, f"{more} trajectories of {path} are listed in {arguments.path}", input=str(path), listed=more
            )
    return 0


def _dedup(arguments: argparse.Namespace) -> int:
    with TrajectoryStore.open(arguments.path, "r" if arguments.dry_run else "a") as store:
        ids = store.scan()
        repeated = list(duplicates(_progress(read_whole(store, ids), "reading", len(ids))))
        done = {"records": len(ids), "duplicates": len(repeated)}
        if not arguments.dry_run and repeated:
            for start in range(0, len(repeated), DELETED_AT_ONCE):
                store.delete(repeated[start : start + DELETED_AT_ONCE])
            store.commit()
            _compacted(store)
    _say(arguments, f"{len(repeated)} of {len(ids)} trajectories of {arguments.path} came before", **done)
    return 0


def _compact(arguments: argparse.Namespace) -> int:
    with TrajectoryStore.open(arguments.path) as store:
        done = _compacted(store)
    before, after = (f"{done[name] / 2**20:.1f} MiB" for name in ("bytes_before", "bytes_after"))
    dropped = f"{done['records']} deleted trajectories and {done['late']} superseded columns or tombstones dropped"
    merged = f"{done['merged']} small segments merged into others"
    _say(arguments, f"{arguments.path}: {before} before, {after} after; {dropped}, {merged}", **done)
    return 0


def _compacted(store: TrajectoryStore) -> dict[str, int]:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("compacting", total=None)
        return store.compact(lambda done, total: progress.update(task, completed=done, total=total))


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", help="only of this source")
    parser.add_argument("--problem", help="only of this problem")
    parser.add_argument("--reward", type=float, help="only with this reward")
    parser.add_argument("--since", type=float, help="only appended at this time or later, in seconds since 1970")
    columns = ("behavior_logprobs", "reference_logprobs", "mc_successes")
    parser.add_argument("--has", action="append", default=[], choices=columns, help="only with this column")
    parser.add_argument("--lacks", action="append", default=[], choices=columns, help="only without this column")


def _scan(store: TrajectoryStore, arguments: argparse.Namespace) -> list[int]:
    filters = arguments.source, arguments.problem, arguments.reward, arguments.since
    return store.scan(*filters, has=arguments.has, lacks=arguments.lacks)


def _progress(items: Iterable[T], text: str, total: int | None) -> Iterable[T]:
    console = Console(stderr=True)
    return track(items, text, total, console=console, transient=True, disable=not console.is_terminal)


def _say(arguments: argparse.Namespace, text: str, **values: Any) -> None:
    if arguments.json:
        _print_json({"store": str(arguments.path), **values})
    else:
        print(text)


def _print_json(value: Any) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")

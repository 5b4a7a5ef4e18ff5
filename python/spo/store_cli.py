"""`spo store ls | info | cat | verify | merge | export | import`: trajectory stores as people want to see them.

Only prints and moves what `spo.store` holds; no store is ever changed but the one that is appended to. Exit code 0, or
1 where `verify` found damage.
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from rich.console import Console
from rich.progress import track
from rich.table import Table

from spo.errors import ConfigError, CorruptShardError, StoreError
from spo.store import Trajectory, TrajectoryStore
from spo.store_rows import READ_AT_ONCE, read_each, read_jsonl, read_whole, to_row, write_jsonl

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

T = TypeVar("T")

IDENTITY = "store.spo"
"""The file that makes a directory a store."""


def register(subparsers: "Subparsers") -> None:
    """Add the `store` command; each of its parts sets `run`, a function from the arguments to the exit code."""
    store = subparsers.add_parser("store", help="look into, check, copy and move trajectory stores")
    parts = store.add_subparsers(required=True, metavar="COMMAND")

    def part(name: str, run: Any, text: str, *, json: bool = False) -> argparse.ArgumentParser:
        parser = parts.add_parser(name, help=text, description=f"{text.capitalize()}.")
        parser.set_defaults(run=run)
        if json:
            parser.add_argument("--json", action="store_true", help="print one JSON object a store")
        return parser

    parser = part("ls", _ls, "list the stores in a directory and below it", json=True)
    parser.add_argument("path", type=Path, nargs="?", default=Path("."))
    parser = part("info", _info, "totals of a store", json=True)
    parser.add_argument("path", type=Path)
    parser = part("cat", _cat, "print trajectories, one JSON object a line")
    parser.add_argument("path", type=Path)
    parser.add_argument("--limit", type=int, help="at most so many")
    _add_filters(parser)
    parser = part("verify", _verify, "read every record and check every checksum", json=True)
    parser.add_argument("path", type=Path)
    parser = part("export", _export, "write trajectories to a new JSON Lines file")
    parser.add_argument("path", type=Path)
    parser.add_argument("output", type=Path)
    _add_filters(parser)
    parser = part("import", _import, "append the trajectories of JSON Lines files to a store, made if there is none")
    parser.add_argument("path", type=Path)
    parser.add_argument("inputs", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--tokenizer", help="fingerprint of the tokenizer, to make a store")
    parser = part("merge", _merge, "append what stores hold to another one, made if there is none")
    parser.add_argument("path", type=Path)
    parser.add_argument("inputs", type=Path, nargs="+", metavar="STORE")
    parser.add_argument("--skip-damage", action="store_true", help="take what can be read of damaged stores")
    parser.add_argument("--dedup", action="store_true", help="each problem, prompt and response once, the first")
    _add_filters(parser)


def find_stores(path: Path) -> list[Path]:
    """The stores in a directory and below it, sorted."""
    return sorted(identity.parent for identity in path.rglob(IDENTITY))


def copy(records: Iterable[Trajectory], store: TrajectoryStore, seen: set[bytes] | None = None) -> int:
    """Appends records, durably, and returns how many.

    Args:
        records: What to append.
        store: Where to.
        seen: Content hashes that are left out; those appended are added. None keeps duplicates.
    """
    batch: list[Trajectory] = []
    count = 0
    for record in records:
        if seen is not None:
            if record.content_hash in seen:
                continue
            seen.add(record.content_hash)
        batch.append(record)
        count += 1
        if len(batch) == READ_AT_ONCE:
            store.append(batch)
            batch.clear()
    store.append(batch)
    store.commit()
    return count


def _ls(arguments: argparse.Namespace) -> int:
    table = Table("store", "records", "tokens", "MiB", "sources", "tokenizer", box=None)
    for path in find_stores(arguments.path):
        with TrajectoryStore.open(path, "r") as store:
            info = store.info()
        if arguments.json:
            _print_json(info)
            continue
        tokens = info["prompt_tokens"] + info["response_tokens"]
        sources = ", ".join(f"{name} {count}" for name, count in sorted(info["sources"].items()))
        size = f"{info['bytes'] / 2**20:.1f}"
        table.add_row(info["path"], str(info["records"]), str(tokens), size, sources, info["tokenizer"])
    if not arguments.json:
        Console(highlight=False).print(table)
    return 0


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
        skipped = store.info()["skipped"]
    if arguments.json:
        _print_json({"records": len(ids), "damaged": dict(damaged), "damaged_places": skipped})
    else:
        print(f"{len(ids)} records, {len(damaged)} of them damaged; {skipped} other damaged places")
        for record_id, damage in damaged:
            print(f"{record_id}: {damage}")
    return 1 if damaged or skipped else 0


def _export(arguments: argparse.Namespace) -> int:
    with TrajectoryStore.open(arguments.path, "r") as store:
        ids = _scan(store, arguments)
        records = _progress(read_whole(store, ids), "exporting", len(ids))
        rows = (to_row(record_id, record) for record_id, record in records)
        count = write_jsonl(arguments.output, rows)
    print(f"{count} trajectories written to {arguments.output}")
    return 0


def _import(arguments: argparse.Namespace) -> int:
    if arguments.tokenizer is None and not (arguments.path / IDENTITY).exists():
        raise ConfigError(f"--tokenizer must be given: there is no store in {arguments.path} yet")
    with TrajectoryStore.open(arguments.path, tokenizer=arguments.tokenizer) as store:
        for path in arguments.inputs:
            count = copy(_progress(read_jsonl(path), f"importing {path.name}", None), store)
            print(f"{count} trajectories of {path} appended to {arguments.path}")
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
            print(f"{count} of {len(ids)} trajectories of {path} appended to {arguments.path}")
    return 0


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", help="only of this source")
    parser.add_argument("--problem", help="only of this problem")
    parser.add_argument("--reward", type=float, help="only with this reward")
    parser.add_argument("--since", type=float, help="only appended at this time or later, in seconds since 1970")


def _scan(store: TrajectoryStore, arguments: argparse.Namespace) -> list[int]:
    return store.scan(arguments.source, arguments.problem, arguments.reward, arguments.since)


def _progress(items: Iterable[T], text: str, total: int | None) -> Iterable[T]:
    return track(items, text, total, console=Console(stderr=True), transient=True)


def _print_json(value: Any) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")

"""Reference samples that other problem sets have left: those of a problem are as good for any set that it is in.

Values lie in a folder for each key, and a key names all problems together. Another set of problems has another key, and
so has a run whose values lie elsewhere; but where reference, sampler and prompt template are the same, and text and
tests of a problem, its samples may be taken over. So each folder says which problems it is of.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from spo.errors import ConfigError
from spo.files import replace_file
from spo.orchestrator.records import relabelled
from spo.orchestrator.schedule import derive_seed
from spo.store import Trajectory, TrajectoryStore
from spo.values import ValuesKey, key_folders, read_key

CONTENT_FILE = "problems.json"
"""In a folder of values: the content digest of each problem that it is of, by id."""
LENDER_KEY = "values_key"
"""Metadata of a sample that was taken over: the digest of the key that its seed follows from."""
_READ_AT_ONCE = 1024

log = logging.getLogger(__name__)


class Lender(NamedTuple):
    """A folder of values."""

    folder: Path
    key: ValuesKey
    digests: dict[str, str]
    """Of its problems, by id."""

    def samples(
        self, problem_ids: Collection[str], tokenizer: str, source: str, index_key: str
    ) -> Iterator[list[tuple[int, Trajectory]]]:
        """Its samples of some problems, each with its index, some at a time."""
        with TrajectoryStore.open(self.folder / "store", mode="r", tokenizer=tokenizer) as store:
            ids = store.scan(source=source)
            for start in range(0, len(ids), _READ_AT_ONCE):
                part = ids[start : start + _READ_AT_ONCE]
                problems = store.read_many(part, ["problem_id"])["problem_id"]
                wanted = [id for id, problem in zip(part, problems, strict=True) if problem in problem_ids]
                items = store.read_many(wanted) if wanted else []
                yield [
                    (int(item.metadata[index_key]), self._labelled(item))
                    for item in items
                    if self._is_own(item, index_key)
                ]

    def _is_own(self, item: Trajectory, index_key: str) -> bool:
        """Whether a record is a sample of the key that it says, or of this one."""
        digest = item.metadata.get(LENDER_KEY, self.key.digest)
        return item.seed == sample_seed(digest, item.problem_id, int(item.metadata[index_key]))

    def _labelled(self, item: Trajectory) -> Trajectory:
        return relabelled(item, **{LENDER_KEY: item.metadata.get(LENDER_KEY, self.key.digest)})


def sample_seed(digest: str, problem_id: str, index: int) -> int:
    """The seed of a reference sample under the key with this digest."""
    return derive_seed(digest, problem_id, index)


def write_digests(folder: Path, digests: Mapping[str, str]) -> None:
    """Notes which problems a folder of values is of; one whose text has changed meanwhile is of no use to others."""
    known = _read_digests(folder)
    kept = {id: digest if known.get(id, digest) == digest else "" for id, digest in digests.items()}
    if kept != known:
        replace_file(folder / CONTENT_FILE, msgspec.json.format(msgspec.json.encode(kept)) + b"\n")


def lenders(key: ValuesKey, folder: Path, directories: Sequence[Path]) -> Iterator[Lender]:
    """Folders in `directories`, but for `folder` itself, whose samples are as good under `key`."""
    for found, other in _keys(directories):
        if found.resolve() != folder.resolve() and _alike(key, other):
            yield Lender(found, other, _read_digests(found))


def lent_digests(key: ValuesKey, directories: Sequence[Path]) -> dict[str, set[tuple[str, str]]]:
    """Which problems, by id and digest, may be lent to `key`, whose prompt template is not known: by template."""
    lent: dict[str, set[tuple[str, str]]] = {}
    for folder, other in _keys(directories):
        if _alike(key, other, "prompt_template"):
            lent.setdefault(other.prompt_template, set()).update(_read_digests(folder).items())
    return lent


def _keys(directories: Sequence[Path]) -> Iterator[tuple[Path, ValuesKey]]:
    for folder in (folder for directory in directories for folder in key_folders(directory)):
        try:
            yield folder, read_key(folder)
        except ConfigError as error:
            log.warning("%s; passed over", error)


def _alike(key: ValuesKey, other: ValuesKey, *but: str) -> bool:
    """Whether two keys differ in nothing but their problems and the fields named."""
    same = {name: getattr(key, name) for name in ("test_suite", *but)}
    return msgspec.structs.replace(other, **same) == key


def _read_digests(folder: Path) -> dict[str, str]:
    path = folder / CONTENT_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except FileNotFoundError:
        return {}
    except (msgspec.DecodeError, OSError) as error:
        raise ConfigError(f"{path}: not a list of problems ({error}); remove it") from None

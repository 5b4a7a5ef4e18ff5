"""Doing a study's runs, one after the other, each by `spo train` in a process of its own.

The folder of a study holds `study.json` (what it is made of), `seed-N/` (the reference of that seed, its values and
its pivotal tokens, shared by all arms) and `ARM/seed-N` (the runs, of which a seed's first evaluates the reference).
Whatever is finished there is not done again, and an interrupted run is resumed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from spo.config import load_config
from spo.errors import ConfigError, RunFailed
from spo.files import replace_file
from spo.launch import finished_report, last_line
from spo.models import REFERENCE_DIR, resolve_model
from spo.rundir import MODEL_FILE
from spo.study.definition import Study
from spo.train_cli import Child
from spo.values import key_folders

STUDY_FILE = "study.json"
_INTERRUPTED = 130

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Run:
    """One run of a study."""

    arm: str
    seed: int
    directory: Path

    @property
    def log(self) -> Path:
        """What the run printed."""
        return self.directory.with_suffix(".log")

    @property
    def is_finished(self) -> bool:
        """Whether it need not be done any more."""
        return finished_report(self.directory) is not None


def open_folder(study: Study, folder: Path) -> None:
    """Makes the folder of a study, or checks that it is that of this study.

    Raises:
        ConfigError: It is another's, or other settings' or seeds'.
    """
    path = folder / STUDY_FILE
    content = msgspec.json.format(msgspec.json.encode(study), indent=1) + b"\n"
    if not path.exists():
        replace_file(path, content)
        return
    try:
        earlier = msgspec.json.decode(path.read_bytes(), type=Study)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path}: damaged ({error}); give another folder by --directory") from None
    if (earlier.base, earlier.settings, earlier.search) != (study.base, study.settings, study.search):
        raise ConfigError(f"{folder}: holds runs with other settings; give another folder by --directory")
    for name in earlier.arms.keys() & study.arms.keys():
        if earlier.arms[name] != study.arms[name]:
            raise ConfigError(f"{folder}: holds runs of arm {name!r} with other settings; give another by --directory")
    replace_file(path, content)


def runs_of(study: Study, folder: Path) -> list[Run]:
    """All runs, those of a seed together, so that an unfinished study has whole seeds."""
    return [Run(arm, seed, folder / arm / f"seed-{seed}") for seed in study.seeds for arm in study.arms]


def run_study(study: Study, folder: Path, show: Callable[[str], None]) -> list[str]:
    """Does what is not done yet.

    Args:
        study: What.
        folder: Where; see `open_folder`.
        show: Told, a line each, what begins.

    Returns:
        What failed, a line each: the rest is done nevertheless.

    Raises:
        KeyboardInterrupt: Ctrl-C; the same call goes on from there.
    """
    failures = []
    runs = [run for run in runs_of(study, folder) if not run.is_finished]
    for number, (run, left_s) in enumerate(_with_time_left(runs), 1):
        label = study.arms[run.arm].label
        left = f", about {left_s / 60:.0f} minutes left" if left_s else ""
        show(f"run {number} of {len(runs)}: {label}, seed {run.seed}{left}")
        try:
            arguments = _arguments(study, folder, run)
        except RunFailed as error:
            failures.append(f"{label}, seed {run.seed}: {error}")
            continue
        status = spo(arguments, run.log)
        if status:
            failures.append(f"{label}, seed {run.seed}: {last_line(run.log)} (see {run.log})")
            show(f"failed: {failures[-1]}")
    return failures


def spo(arguments: list[str], log: Path) -> int:
    """Runs an `spo` command to its end, its output going to `log`; nothing of it is left running.

    Raises:
        KeyboardInterrupt: We, or it, were interrupted.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        status = Child([sys.executable, "-m", "spo.cli", *arguments], output=output).run()
    if status == _INTERRUPTED:
        raise KeyboardInterrupt
    return status


def _arguments(study: Study, folder: Path, run: Run) -> list[str]:
    """The command that begins the run, or goes on with it; what its arm needs is made first.

    Raises:
        RunFailed: That could not be made.
    """
    if (run.directory / "run.json").exists():
        return ["train", "--resume", str(run.directory)]
    shared = folder / f"seed-{run.seed}"
    settings = [*study.settings_of(run.arm), *_shared_settings(study, shared, run.seed), f"run_dir={run.directory}"]
    if any(other.is_finished for other in runs_of(study, folder) if other.seed == run.seed):
        # A seed's first run has evaluated it.
        settings.append("evaluation.reference=false")
    if study.arms[run.arm].searched:
        settings.append(f'experience.stores=["{_searched(study, shared, run.seed)}"]')
    return ["train", study.base, *settings]


def _shared_settings(study: Study, shared: Path, seed: int) -> list[str]:
    """What all arms of a seed have in common: reference and values. The reference is made once."""
    if not (shared / MODEL_FILE).exists():
        resolve_model(load_config(study.base, [*study.settings, f"seed={seed}"]), shared)
    return [f"seed={seed}", f"model.path={shared / REFERENCE_DIR}", f"values.directory={shared / 'values'}"]


def _searched(study: Study, shared: Path, seed: int) -> Path:
    """A store of the reference's accepted samples and of what the pivotal token search on them left, made once.

    Raises:
        RunFailed: One of the commands failed.
    """
    store, done = shared / "search", shared / "search-done"
    if done.exists():
        return store
    settings = [study.base, *study.settings, *_shared_settings(study, shared, seed)]

    def do(name: str, *arguments: str) -> None:
        log = shared / f"{name}.log"
        if spo(list(arguments), log):
            raise RunFailed(f"spo {' '.join(arguments[:2])}: {last_line(log)} (see {log})")

    do("estimate", "values", "estimate", *settings)
    (values,) = key_folders(shared / "values")
    do("collect", "collect", str(store), "--from", str(values / "store"), "--accepted-only")
    do("pivotal", "values", "pivotal", str(store), *settings, *study.search)
    replace_file(done, b"")
    return store


def _with_time_left(values: list[_Value]) -> Iterator[tuple[_Value, float]]:
    """Each value, with how long the rest takes if all take as long as those before; 0 where that is not known."""
    start = time.monotonic()
    for done, value in enumerate(values):
        yield value, (time.monotonic() - start) / done * (len(values) - done) if done else 0.0

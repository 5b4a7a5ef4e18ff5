"""The run directory: made, taken up again and read here; what each file in it is called.

`prepare_run` makes `RUN_DIR`, or takes up that of an interrupted run. Who writes the other files (store, checkpoints,
journals, report) is not known here, only their names, for every process to agree on.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TypeVar

import msgspec

from spo.config import Config, load_config, write_resolved
from spo.errors import ConfigError
from spo.files import replace_file
from spo.jsonl import read_lines
from spo.locks import RunLock
from spo.wire import new_token

RUN_FILE = "run.json"
MODEL_FILE = "model.json"
METRICS_FILE = "metrics.jsonl"
EVALUATIONS_FILE = "evaluations.jsonl"
CONSUMPTION_FILE = "consumption.jsonl"
PROBLEMS_FILE = "problems.json"
CURRICULUM_FILE = "curriculum.json"
POLICY_DIR = "policy"
REPORT_FILE = "report.md"
REPORT_DATA_FILE = "report.json"

_FIRST_FILES = {"config.toml", "run.json", "token", "logs", ".trainer.lock"}
"""What `prepare_run` makes."""
_held: dict[Path, RunLock] = {}

_Info = TypeVar("_Info")


class ModelInfo(msgspec.Struct, frozen=True):
    """`RUN_DIR/model.json`: the reference model as it lies on this host."""

    path: str
    """Local folder in the Hugging Face layout."""
    reference_fingerprint: str
    """Of the reference's weights."""
    tokenizer_fingerprint: str
    """Of the tokenizer's files."""


class RunInfo(msgspec.Struct, frozen=True):
    """`RUN_DIR/run.json`: when and how the run was started."""

    started_at: str
    """ISO 8601, UTC; of the first start."""
    session_started_at: float
    """Seconds since the epoch; of the latest start or resume."""
    elapsed_before_s: float
    """Wall time of the earlier sessions, up to the last thing that each wrote down."""
    num_sessions: int
    """Starts, the first included."""
    commit: str
    """Of the source tree, with `+changes` where it had any; `unknown` outside a checkout."""
    versions: dict[str, str]
    """Of Python and the packages that matter, where installed."""
    argv: list[str]
    """The command line."""

    def wall_time_s(self) -> float:
        """Wall time of the run until now, the time between sessions left out."""
        return self.elapsed_before_s + time.time() - self.session_started_at


class _Finished(msgspec.Struct):
    finished: bool


def prepare_run(config: Config, resume: bool = False, argv: Sequence[str] | None = None) -> Path:
    """Makes the run directory, or takes up an existing one.

    Args:
        config: The settings; `run_dir` may be empty: `runs/NAME-DATE` then.
        resume: Whether `config.run_dir` is a run to be continued.
        argv: The command line, for the record.

    Returns:
        The absolute path, with `config.toml`, `run.json`, `token` and `logs/` in it.

    Raises:
        ConfigError: The directory exists and this is no resume, or the other way round; it is in use by another
            process, or cannot be written.
    """
    run_dir = Path(config.run_dir or default_run_dir(config)).expanduser().absolute()
    earlier = _earlier_session(run_dir, resume)
    try:
        (run_dir / "logs").mkdir(parents=True, exist_ok=True)
        _hold(run_dir)
        write_resolved(_absolute(config, run_dir), run_dir)
        info = _session(run_dir, earlier, list(sys.argv if argv is None else argv))
        replace_file(run_dir / RUN_FILE, msgspec.json.format(msgspec.json.encode(info)) + b"\n")
        new_token(run_dir)
    except OSError as error:
        raise ConfigError(
            f"run_dir: {run_dir} cannot be written ({error.strerror}); choose another by run_dir=PATH"
        ) from None
    return run_dir


def default_run_dir(config: Config) -> str:
    """`runs/NAME-DATE` for runs whose settings name no directory."""
    replayed = config.experience.replay
    name = f"replay-of-{Path(replayed).name}" if replayed else Path(config.model.path).name or "run"
    return f"runs/{name}-{datetime.now().strftime('%Y%m%d-%H%M%S')}"


def values_directory(config: Config, run_dir: Path) -> Path:
    """Where the values for a run lie: what its settings say, else `values/` beside it."""
    return Path(config.values.directory or run_dir.parent / "values").expanduser().absolute()


def read_run(run_dir: Path) -> RunInfo:
    """Reads `run.json`.

    Raises:
        ConfigError: It is not there or damaged: this is no run directory.
    """
    return _read_json(run_dir / RUN_FILE, RunInfo, "is this a run directory?")


def read_model(run_dir: Path) -> ModelInfo:
    """Reads `model.json`.

    Raises:
        ConfigError: It is not there or damaged.
    """
    return _read_json(run_dir / MODEL_FILE, ModelInfo, "the trainer writes it before it starts the orchestrator")


def finished_report(run_dir: Path) -> str | None:
    """The report of a finished run, as text; None where the run has not finished."""
    try:
        finished = msgspec.json.decode((run_dir / REPORT_DATA_FILE).read_bytes(), type=_Finished).finished
        return (run_dir / REPORT_FILE).read_text(encoding="utf-8") if finished else None
    except (OSError, msgspec.DecodeError):
        return None


def resumed_config(run_dir: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The settings of a run that is to be continued, its directory wherever it lies now.

    Args:
        run_dir: The run's directory.
        overrides: Settings to change from here on, such as `trainer.total_steps=500`.

    Raises:
        ConfigError: There is no run in that directory, or an override is wrong.
    """
    path = Path(run_dir).expanduser().absolute()
    if not (path / "config.toml").is_file():
        raise ConfigError(f"resume: {path} holds no run (no config.toml); give the directory of an earlier run")
    return msgspec.structs.replace(load_config(str(path / "config.toml"), overrides), run_dir=str(path))


def _earlier_session(run_dir: Path, resume: bool) -> RunInfo | None:
    if resume:
        return read_run(run_dir)
    check_free(run_dir)
    return None


def check_free(run_dir: Path) -> None:
    """Checks that a new run may be made in this directory.

    Raises:
        ConfigError: There is one already, or something else.
    """
    if run_dir.exists() and not (run_dir.is_dir() and _nothing_done(run_dir)):
        raise ConfigError(
            f"run_dir: {run_dir} exists already; continue that run by `spo train --resume {run_dir}`, "
            "or choose another directory by run_dir=PATH"
        )


def _nothing_done(run_dir: Path) -> bool:
    """Whether it is empty, or a start failed there before a model was found."""
    names = {entry.name for entry in run_dir.iterdir()}
    return not names or (names <= _FIRST_FILES and not any((run_dir / "logs").glob("*")))


def _hold(run_dir: Path) -> None:
    """Keeps other processes from starting this run for as long as this one lives."""
    if run_dir not in _held:
        _held[run_dir] = RunLock(run_dir, "trainer")


def _absolute(config: Config, run_dir: Path) -> Config:
    """The settings with every local path absolute, so that the run can be continued from any directory."""
    model = config.model
    if Path(model.path).expanduser().exists():
        model = msgspec.structs.replace(model, path=str(Path(model.path).expanduser().absolute()))
    values = values_directory(config, run_dir)
    problems = msgspec.structs.replace(
        config.problems,
        train=tuple(_absolute_spec(spec) for spec in config.problems.train),
        evaluation=tuple(_absolute_spec(spec) for spec in config.problems.evaluation),
    )
    return msgspec.structs.replace(
        config,
        run_dir=str(run_dir),
        model=model,
        problems=problems,
        values=msgspec.structs.replace(config.values, directory=str(values)),
        experience=msgspec.structs.replace(
            config.experience,
            stores=tuple(str(Path(store).expanduser().absolute()) for store in config.experience.stores),
        ),
    )


def _absolute_spec(spec: str) -> str:
    source, colon, path = spec.partition(":")
    if colon and path and Path(path).expanduser().exists():
        return f"{source}:{Path(path).expanduser().absolute()}"
    return spec


def _session(run_dir: Path, earlier: RunInfo | None, argv: list[str]) -> RunInfo:
    now = time.time()
    elapsed = [line["time/wall_s"] for line in read_lines(run_dir / METRICS_FILE) if "time/wall_s" in line]
    return RunInfo(
        started_at=earlier.started_at if earlier else datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds"),
        session_started_at=now,
        elapsed_before_s=max(elapsed, default=0.0),
        num_sessions=earlier.num_sessions + 1 if earlier else 1,
        commit=source_commit(),
        versions=installed_versions(),
        argv=argv,
    )


def source_commit() -> str:
    """The commit of the checkout that this package lies in; `unknown` where there is none."""
    folder = Path(__file__).resolve().parent
    try:
        commit = _git(folder, "rev-parse", "--short=12", "HEAD")
        return commit + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    result = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10, env=environment
    )
    return result.stdout.strip()


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that a run's results may depend on."""
    versions = {"python": sys.version.split()[0]}
    for package in ("spo-rl", "torch", "transformers", "numpy", "trio", "msgspec"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _read_json(path: Path, kind: type[_Info], hint: str) -> _Info:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        raise ConfigError(f"{path}: not found; {hint}") from None
    except (msgspec.DecodeError, OSError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); {hint}") from None

"""`spo study NAME`: do a study's runs, or go on with them, and write its report."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from spo.errors import ConfigError
from spo.locks import RunLock
from spo.study.definition import load_study, study_names
from spo.study.report import write_study_report
from spo.study.runner import open_folder, run_study

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def register(subparsers: Subparsers) -> None:
    """Adds the `study` command."""
    parser = subparsers.add_parser(
        "study",
        help="compare methods over several seeds",
        description="Trains every arm of a study with every seed, one run after the other, and writes a report that "
        "says which of the paper's findings show. Interrupt it at any time; the same command goes on.",
    )
    parser.add_argument("name", metavar="STUDY", help=f"{', '.join(study_names())}")
    parser.add_argument("--quick", action="store_true", help="the short form: fewer seeds and steps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[], metavar="N", help="instead of the study's own")
    parser.add_argument("--arms", nargs="+", default=[], metavar="ARM", help="only these arms")
    parser.add_argument("--directory", type=Path, help="where (default: runs/study-NAME, runs/study-NAME-quick)")
    parser.add_argument("--report-only", action="store_true", help="run nothing: a report of the runs that are done")
    parser.set_defaults(run=_run_command)


def _run_command(options: argparse.Namespace) -> int:
    study = load_study(options.name, quick=options.quick, seeds=options.seeds, arms=options.arms)
    default = Path("runs") / f"study-{options.name}{'-quick' if options.quick else ''}"
    folder = (options.directory or default).expanduser().absolute()
    if options.report_only:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: there is no such study yet; leave out --report-only to begin it")
        print(write_study_report(study, folder), end="")
        return 0
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"training needs {' and '.join(missing)}; install them by: pip install 'spo-rl[train]'")
    folder.mkdir(parents=True, exist_ok=True)
    lock = RunLock(folder, "study")
    open_folder(study, folder)
    failures = run_study(study, folder, lambda line: print(line, file=sys.stderr, flush=True))
    print(write_study_report(study, folder, failures), end="")
    lock.release()
    print(f"\nthe report, its plots and all runs are in {folder}", file=sys.stderr)
    return 1 if failures else 0

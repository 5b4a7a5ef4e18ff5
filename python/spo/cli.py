"""The `spo` command: one subcommand a job, each in the module that knows the job.

A subcommand's module offers `register(subparsers)` and sets `run`, a function from the parsed arguments to the exit
status. What is wrong with the input is told in one line on stderr, with exit status 2.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from spo import __version__
from spo.errors import ConfigError, ProblemError, SpoError
from spo.launch import ERROR_PREFIX

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

STATUS_FAILED, STATUS_USAGE, STATUS_INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a subcommand and returns its exit status."""
    options = _parse(arguments)
    try:
        return int(options.run(options))
    except (ConfigError, ProblemError) as error:
        return _fail(error, STATUS_USAGE)
    except (SpoError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            # The reader of a pipe has had enough; nothing more can be written, not even at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return STATUS_FAILED
        return _fail(error, STATUS_FAILED)
    except KeyboardInterrupt:
        return _fail("interrupted", STATUS_INTERRUPTED)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parses, and takes problems and settings behind an option too, which argparse by itself does not."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and not (hasattr(options, "settings") and not any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.settings = [*options.settings, *rest]
    return options


def _parser() -> argparse.ArgumentParser:
    from spo import compare, doctor, evaluate_cli, judge_cli, report, store_cli, train_cli, values_cli
    from spo.collect import cli as collect_cli
    from spo.problems import cli as problems_cli
    from spo.study import cli as study_cli

    parser = argparse.ArgumentParser(prog="spo", description="Soft Policy Optimization for language models.")
    parser.add_argument("--version", action="version", version=f"spo {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    runs = (train_cli, values_cli, collect_cli, evaluate_cli, compare, report, study_cli)
    for module in (*runs, problems_cli, judge_cli, store_cli, doctor):
        module.register(subparsers)
    return parser


def _fail(error: BaseException | str, status: int) -> int:
    print(f"{ERROR_PREFIX}{error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())

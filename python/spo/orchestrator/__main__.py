"""Runs the orchestrator: `python -m spo.orchestrator RUN_DIR`; rank 0 does so, see `spo.launch`.

Exit status: 0 finished, 1 the run failed, 2 settings or files cannot be used, 130 interrupted. The last line on
stderr that begins with `spo: error:` says why.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import trio
from rich.console import Console
from rich.markdown import Markdown

from spo.errors import ConfigError, ProblemError, SpoError
from spo.launch import ERROR_PREFIX
from spo.orchestrator.failures import Interrupted
from spo.orchestrator.run import run_directory
from spo.rundir import REPORT_FILE

STATUS_FAILED, STATUS_USAGE, STATUS_INTERRUPTED = 1, 2, 130

log = logging.getLogger("spo.orchestrator")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the orchestrator and returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m spo.orchestrator")
    parser.add_argument("run_dir", type=Path, help="a run directory, made by spo.train")
    parser.add_argument("--die-with-parent", action="store_true", help="end when stdin is closed")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        trio.run(run_directory, options.run_dir.absolute(), stdin_closed if options.die_with_parent else None)
    except Interrupted as error:
        return _fail(error, STATUS_INTERRUPTED)
    except (ConfigError, ProblemError) as error:
        return _fail(error, STATUS_USAGE)
    except (SpoError, OSError) as error:
        return _fail(error, STATUS_FAILED)
    except Exception as error:
        log.exception("internal error")
        return _fail(f"internal error in the orchestrator: {type(error).__name__}: {error}", STATUS_FAILED)
    _show_report(options.run_dir)
    return 0


def _show_report(run_dir: Path) -> None:
    """The result of the run on stdout, as the last thing that a person sees."""
    report = (run_dir / REPORT_FILE).read_text(encoding="utf-8")
    console = Console()
    console.print(Markdown(report) if console.is_terminal else report, markup=False, highlight=False, soft_wrap=True)
    print(f"everything about this run is in {run_dir}")


async def stdin_closed() -> None:
    """Returns when stdin is closed: whoever holds its other end is gone."""
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stream:
        while await stream.receive_some(1024):
            pass


def _fail(error: BaseException | str, status: int) -> int:
    print(f"{ERROR_PREFIX}{error}", file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())

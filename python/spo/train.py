"""Trains a policy: `torchrun --nproc-per-node N -m spo.train PRESET_OR_TOML [section.field=value …]`.

The entry of every trainer rank, with or without `torchrun`; instead of a preset, `resume=RUN_DIR` continues a run and
`replay=RUN_DIR` trains again on the batches of one.
Rank 0 makes the run directory, finds the model and starts the orchestrator; then all ranks train. Settings are checked
before anything heavy is imported. The work itself is `spo.trainer.loop`'s.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from spo.config import Config
from spo.errors import ConfigError, ConnectionLost, ProblemError, SpoError
from spo.launch import (
    ERROR_PREFIX,
    OrchestratorProcess,
    finished_report,
    prepare_run,
    start_orchestrator,
)
from spo.models import locate_model, resolve_model
from spo.rerun import check_reference
from spo.train_cli import check_input, read_arguments

USAGE = (
    "usage: torchrun --nproc-per-node N -m spo.train PRESET_OR_TOML|resume=RUN_DIR|replay=RUN_DIR "
    "[section.field=value ...]"
)
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
RANKS_TIMEOUT_S = 3600.0
"""How long a rank waits for the others: rank 0 may download a model, or make one, while they wait."""
ORCHESTRATOR_EXIT_S = 60.0
"""The orchestrator's time to end after the run has finished."""
_END_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_GLANCE_S = 2.0
"""Time for an orchestrator that has seen another rank die to say so."""
_LAST_WORDS_S = 5.0
"""Time for an orchestrator that was lost to finish dying, and rank 0 to tell, before the rest goes."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one trainer rank and returns its exit status."""
    is_first = os.environ.get("RANK", "0") == "0"
    arguments = sys.argv[1:] if arguments is None else arguments
    _end_on_signals(is_first)
    try:
        if not arguments:
            raise ConfigError(USAGE)
        config, resume = read_arguments(arguments)
        if resume and (report := finished_report(Path(config.run_dir))) is not None:
            if is_first:
                print(report)
            return 0
        if not is_first:
            _train(config, None)
            return 0
        # Whatever is wrong with the input is found before there is a run directory.
        check_input(arguments)
        locate_model(config)
        return _first_rank(config, resume)
    except (ConfigError, ProblemError, OSError) as error:
        return _fail(error, EXIT_BAD_INPUT, is_first)
    except SpoError as error:
        return _fail(error, EXIT_FAILED, is_first)
    except KeyboardInterrupt as interrupt:
        return _fail(str(interrupt) or "interrupted", EXIT_INTERRUPTED, is_first)


def _first_rank(config: Config, resume: bool) -> int:
    run_dir = prepare_run(config, resume)
    try:
        model = resolve_model(config, run_dir)
        if config.experience.replay:
            check_reference(config, model)
        return _run(config, run_dir)
    except KeyboardInterrupt as interrupt:
        why = str(interrupt) or "interrupted"
        raise KeyboardInterrupt(f"{why}; go on by `spo train --resume {run_dir}`") from None


def _run(config: Config, run_dir: Path) -> int:
    orchestrator = start_orchestrator(run_dir)
    try:
        _train(config, run_dir)
        return orchestrator.wait(ORCHESTRATOR_EXIT_S)
    except ConnectionLost as error:
        raise ConnectionLost(f"{error} ({_last_words(orchestrator, _LAST_WORDS_S)})") from error
    except KeyboardInterrupt:
        # torchrun interrupts this rank when another one has died; the orchestrator has seen which.
        raise KeyboardInterrupt(f"interrupted ({_last_words(orchestrator, _GLANCE_S)})") from None
    except subprocess.TimeoutExpired:
        raise SpoError(f"the orchestrator did not end within {ORCHESTRATOR_EXIT_S:.0f} s of the run's end") from None
    finally:
        if orchestrator.poll() is None:
            orchestrator.terminate()


def _train(config: Config, run_dir: Path | None) -> None:
    """Joins the ranks and trains; `run_dir` is known to rank 0 only.

    Raises:
        SpoError: Training failed; whatever is not one of ours is in the log with its traceback.
    """
    from spo.trainer.loop import train
    from spo.trainer.parallel import broadcast_text, start_ranks, stop_ranks

    ranks = start_ranks(config.trainer.device, config.trainer.torch_threads, RANKS_TIMEOUT_S)
    _end_on_signals(in_order=True)
    shared_run_dir = Path(broadcast_text(str(run_dir), ranks))
    try:
        train(config, shared_run_dir, ranks)
    except SpoError:
        raise
    except Exception as error:
        log = shared_run_dir / "logs" / f"trainer-{ranks.rank}.log"
        log.write_text(traceback.format_exc(), encoding="utf-8")
        first_line = (str(error).strip() or "no message").splitlines()[0]
        raise SpoError(
            f"trainer rank {ranks.rank}: {type(error).__name__}: {first_line} (see {log.parent}/trainer-*.log)"
        ) from error
    stop_ranks()


def _last_words(orchestrator: OrchestratorProcess, timeout_s: float) -> str:
    try:
        status = orchestrator.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return "the orchestrator ran on"
    if status < 0:
        return f"the orchestrator was killed by signal {-status}"
    return f"the orchestrator ended: {orchestrator.last_error()}"


def _fail(error: BaseException | str, status: int, is_first: bool) -> int:
    """Tells the user why, once: what other ranks run into is what rank 0 runs into, or has to tell."""
    if is_first:
        print(f"{ERROR_PREFIX}{error}", file=sys.stderr)
    else:
        # torchrun ends all ranks as soon as one has ended: rank 0 first.
        _end_on_signals(in_order=False)
        time.sleep(_LAST_WORDS_S)
    return status


def _end_on_signals(in_order: bool) -> None:
    """Lets SIGINT and SIGTERM end this process: at once, or in order (then repeated ones do not disturb the ending).

    A rank that still waits for rank 0 to prepare the run waits in native code, where no handler of ours would be heard.
    """

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        for number in _END_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in _END_SIGNALS:
        signal.signal(number, interrupt if in_order else signal.SIG_DFL)


if __name__ == "__main__":
    exit_status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not `sys.exit`: where a rank has failed, tearing down the process group may wait for peers that are gone.
    os._exit(exit_status)

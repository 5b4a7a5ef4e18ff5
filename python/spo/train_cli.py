"""`spo train` and `spo worker`: the processes of a run, started from a terminal.

`spo train` finds out what is wrong with the input before anything heavy is started, then runs the trainer ranks: one
as a plain process, several under torchrun. `spo worker` joins a run from this or another machine. What the ranks do
is `spo.train`'s business, what a worker does `spo.rollout`'s.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING

from spo.config import Config, load_config
from spo.earlier import locate_stores
from spo.errors import ConfigError
from spo.launch import ERROR_PREFIX
from spo.plan import make_plan, render
from spo.problems import load_problems
from spo.problems.manifest import load_training_problems
from spo.rerun import replayed_config
from spo.rundir import check_free, resumed_config

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

END_TIMEOUT_S = 60.0
"""How long an interrupted run may take to end in order before it is killed."""


def register(subparsers: Subparsers) -> None:
    """Adds `train` and `worker`."""
    train = subparsers.add_parser(
        "train", help="train a policy", description="Trains a policy, or goes on with an interrupted run."
    )
    train.add_argument("settings", nargs="*", metavar="PRESET_OR_TOML | section.field=value")
    train.add_argument("--nproc-per-node", type=int, metavar="N", help="trainer ranks (default: 1)")
    train.add_argument("--resume", metavar="DIR", help="go on with the run in this directory")
    train.add_argument(
        "--replay", metavar="DIR", help="train again on the batches of the run in this directory, without sampling"
    )
    train.add_argument(
        "--dry-run", action="store_true", help="print layout and memory on GPUs; needs no GPU, model or problems"
    )
    train.set_defaults(run=_train)
    worker = subparsers.add_parser("worker", help="join a run as a rollout worker", add_help=False)
    worker.add_argument("arguments", nargs=argparse.REMAINDER)
    worker.set_defaults(run=_worker)


def _train(options: argparse.Namespace) -> int:
    arguments = list(options.settings)
    for name in ("resume", "replay"):
        if (run_dir := getattr(options, name)) is not None:
            arguments.append(f"{name}={run_dir}")
    if options.nproc_per_node is not None and options.nproc_per_node < 1:
        raise ConfigError(f"--nproc-per-node: {options.nproc_per_node} is no number of ranks; give 1 or more")
    if options.dry_run:
        config, _ = read_arguments(arguments)
        print(render(config, make_plan(config, options.nproc_per_node)))
        return 0
    config = check_input(arguments)
    # Without it, torchrun sets it to 1 and says so in five lines.
    os.environ.setdefault("OMP_NUM_THREADS", str(config.trainer.torch_threads))
    num_ranks = 1 if options.nproc_per_node is None else options.nproc_per_node
    if num_ranks == 1:
        return Child([sys.executable, "-m", "spo.train", *arguments]).run()
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"]
    return Child([sys.executable, *torchrun, "-m", "spo.train", *arguments], hush=True).run()


def read_arguments(arguments: Sequence[str]) -> tuple[Config, bool]:
    """The settings, and whether they are those of a run to be continued.

    Args:
        arguments: A preset or TOML file, `resume=DIR` or `replay=DIR`; and settings to change.

    Raises:
        ConfigError: None of these, more than one, or wrong settings.
    """
    earlier = [argument for argument in arguments if argument.startswith(("resume=", "replay="))]
    rest = [argument for argument in arguments if argument not in earlier]
    if len(earlier) > 1 or (earlier and rest and "=" not in rest[0]):
        raise ConfigError("give one of: a preset or a TOML file, --resume DIR, --replay DIR")
    if earlier:
        name, _, run_dir = earlier[0].partition("=")
        return (resumed_config(run_dir, rest), True) if name == "resume" else (replayed_config(run_dir, rest), False)
    if not rest or "=" in rest[0]:
        raise ConfigError("what is to be trained? give a preset or a TOML file first, such as: spo train tiny")
    return load_config(rest[0], rest[1:]), False


def check_input(arguments: Sequence[str]) -> Config:
    """Checks settings, problems and packages, as far as that is possible without starting anything.

    Raises:
        ConfigError: Settings are wrong, or the packages for training are not installed.
        ProblemError: Problems cannot be loaded.
    """
    config, is_resumed = read_arguments(arguments)
    if not is_resumed and config.run_dir:
        check_free(Path(config.run_dir).expanduser().absolute())
    stores = locate_stores(config.experience.stores)
    if config.batch.annotated_fraction > 0 and not stores and not config.experience.replay:
        raise ConfigError(
            "batch.annotated_fraction: the source `annotated` is found in experience.stores; name there a run or store "
            "that `spo values pivotal` has searched"
        )
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"training needs {' and '.join(missing)}; install them by: pip install 'spo-rl[train]'")
    if not config.experience.replay:
        if not config.problems.train:
            raise ConfigError('problems.train: there are none; name some, such as problems.train=["builtin:easy"]')
        load_training_problems(config.problems.train, config.seed, config.problems.without, config.problems.manifest)
    if config.problems.evaluation:
        load_problems(config.problems.evaluation, config.seed)
    return config


class Child:
    """A command that runs to its end, and of which nothing is left running then.

    It is a process group of its own, so that Ctrl-C reaches it once, through us.

    Args:
        command: What to run.
        hush: Whether to pass its stderr on only up to our own line about what is wrong: what a launcher adds to that
            hides it.
        output: Where its stdout and stderr go instead of ours.
    """

    def __init__(self, command: Sequence[str], hush: bool = False, output: IO[bytes] | None = None) -> None:
        self._command = command
        self._stdout = output
        self._stderr: IO[bytes] | int | None = subprocess.PIPE if hush else output
        self._interrupted: int | None = None

    def run(self) -> int:
        """Starts it, waits for its end, handing signals on, and returns the exit status."""
        # Signals are noted before there is anything to hand them to, so that none finds the child without its keeper.
        self._process: subprocess.Popen[bytes] | None = None
        previous = {number: signal.signal(number, self._pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._process = process = subprocess.Popen(
                self._command, stdout=self._stdout, stderr=self._stderr, process_group=0
            )
            if self._interrupted is not None:
                process.send_signal(self._interrupted)
            relay = threading.Thread(target=_relay, args=(process.stderr,), daemon=True)
            relay.start()
            status = self._wait(process)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            if self._process is not None:
                _kill_group(self._process.pid)
        relay.join(timeout=5)
        return status if status >= 0 else 128 - status

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        while True:
            try:
                return process.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                if self._interrupted is not None:
                    process.kill()

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        self._interrupted = number
        if self._process is not None:
            self._process.send_signal(number)


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _relay(stream: IO[bytes] | None) -> None:
    if stream is None:
        return
    with stream:
        for line in stream:
            os.write(sys.stderr.fileno(), line)
            if line.startswith(ERROR_PREFIX.encode()):
                break
        for _ in stream:
            continue


def _worker(options: argparse.Namespace) -> int:
    from spo.rollout.__main__ import main

    return main(options.arguments)

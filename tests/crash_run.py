"""Kills processes of real runs at random moments, resumes each, and checks that everything was done exactly once.

    python tests/crash_run.py --seeds 1 2 3 --kills 8 --ranks 1 [--light]

A run of `spo train` on a small Llama (or, light, with steps that only hash their batches, and the fake engine) is
started, one of its processes (launcher, trainer rank, orchestrator, worker, the worker's judge, or all at once) gets a
signal at a random moment, and the run is resumed when nothing of it is left, until it finishes. Then `crash_checks.py`
goes through what it left, and the run is replayed from its store.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from crash_checks import Seen, check_replay, check_run, look
from crash_input import STEPS, environment, make_input

VICTIMS = {"trainer": 3, "orchestrator": 3, "worker": 3, "judge": 1, "launcher": 1, "torchrun": 1, "all": 2}
"""How often each is chosen, where it is there."""
SIGNALS = {signal.SIGKILL: 6, signal.SIGTERM: 1, signal.SIGINT: 1}
MODULES = {
    "launcher": "-m spo.cli train",
    "torchrun": "-m torch.distributed.run",
    "trainer": "-m spo.train",
    "orchestrator": "-m spo.orchestrator",
    "worker": "-m spo.rollout",
}
"""How each is recognised, the first that fits; further processes are what workers started: the judge."""
END_S = 120.0
"""A run of which a process was killed must end within this, with everything that it started."""
FINISH_S = 600.0


def processes(run_dir: Path) -> dict[int, str]:
    """The run's processes and what each is, as far as their command lines or parents tell."""
    found: dict[int, str] = {}
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        if str(run_dir) in command:
            found[int(entry.name)] = next((name for name, text in MODULES.items() if text in command), "judge")
    while more := {
        pid: "judge" for pid, parent in parents.items() if pid not in found and found.get(parent) in ("worker", "judge")
    }:
        found.update(more)
    return found


def progress(run_dir: Path) -> int:
    """A number that grows with whatever a run writes down."""
    journals = (run_dir / name for name in ("consumption.jsonl", "metrics.jsonl", "evaluations.jsonl"))
    lines = sum(path.read_bytes().count(b"\n") for path in journals if path.exists())
    return lines + sum(1 for _ in run_dir.glob("checkpoints/*")) + sum(1 for _ in run_dir.glob("policy/*"))


@dataclass
class Killer:
    """One run, from its start to the last resume.

    Args:
        run_dir: Where.
        settings: What it is started with.
        num_ranks: Trainer ranks.
        seed: Of whom is killed, when and how.
        environment: Of its processes.
    """

    run_dir: Path
    settings: list[str]
    num_ranks: int
    seed: int
    environment: dict[str, str]
    victims: dict[str, int] = field(default_factory=lambda: dict(VICTIMS))
    kills: list[str] = field(default_factory=list)
    seen: Seen = field(default_factory=Seen)
    _process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def run(self, num_kills: int) -> None:
        """Runs to the end with so many kills in between, or fewer if it ends before."""
        try:
            while self._session(num_kills) != 0:
                assert len(self.kills) < num_kills + 3, f"{self}: does not finish"
        finally:
            for pid in processes(self.run_dir):
                _signal(pid, signal.SIGKILL)

    def _session(self, num_kills: int) -> int:
        """Starts or resumes the run, kills, and returns the exit status when nothing of it is left."""
        self._start()
        while self._is_running():
            if len(self.kills) >= num_kills:
                self._wait(FINISH_S)
                break
            if not self._wait_for_moment():
                break
            self._kill_one()
            if self._is_over_soon():
                self._wait(END_S)
        status = self._process.wait()
        self.seen.update(look(self.run_dir))
        assert status != 2, f"{self}: refused: {self._output()}"
        return status

    def _start(self) -> None:
        is_there = (self.run_dir / "run.json").exists()
        arguments = ["--resume", str(self.run_dir)] if is_there else ["tiny", *self.settings, f"run_dir={self.run_dir}"]
        command = [sys.executable, "-m", "spo.cli", "train", *arguments, "--nproc-per-node", str(self.num_ranks)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, env=self.environment
            )

    def _wait_for_moment(self) -> bool:
        """Waits for a random moment; False if the run ended before."""
        if self._random.random() < 0.25:
            goal, limit_s = sys.maxsize, self._random.uniform(0.2, 20)
        else:
            goal, limit_s = progress(self.run_dir) + self._random.randrange(1, 14), FINISH_S
        deadline = time.monotonic() + limit_s
        while self._is_running() and time.monotonic() < deadline:
            if progress(self.run_dir) >= goal:
                time.sleep(self._random.expovariate(1 / 0.1))
                break
            time.sleep(0.02)
        return self._is_running()

    def _is_running(self) -> bool:
        """Whether anything of it is left: a launcher that was killed leaves the others."""
        return self._process.poll() is None or bool(processes(self.run_dir))

    def _kill_one(self) -> None:
        there = processes(self.run_dir)
        names = sorted({*there.values(), "all"} & set(self.victims))
        name = self._random.choices(names, [self.victims[one] for one in names])[0]
        number = self._random.choices(list(SIGNALS), list(SIGNALS.values()))[0]
        pids = sorted(pid for pid, kind in there.items() if name in (kind, "all"))
        if name != "all":
            pids = [self._random.choice(pids)]
        self.kills.append(f"{name} {number.name} at {progress(self.run_dir)}")
        for pid in pids:
            _signal(pid, signal.SIGKILL if name == "all" else number)

    def _is_over_soon(self) -> bool:
        """Whether the last kill has to end the run: not that of a worker, nor that of a launcher alone."""
        name, number, *_ = self.kills[-1].split()
        survives = name in ("worker", "judge") or (name in ("launcher", "torchrun") and number == "SIGKILL")
        return not survives

    def _wait(self, limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while (left := processes(self.run_dir)) or self._process.poll() is None:
            assert time.monotonic() < deadline, (
                f"{self}: after {limit_s:.0f} s there are still {left}; {self._output()}"
            )
            time.sleep(0.2)

    @property
    def _log(self) -> Path:
        return self.run_dir.with_name(f"{self.run_dir.name}.log")

    def _output(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]

    def __str__(self) -> str:
        return f"seed {self.seed}, {self.num_ranks} ranks, killed: {'; '.join(self.kills)}"


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def replay(run_dir: Path, num_ranks: int, environment: dict[str, str]) -> Path:
    """Replays a run beside it."""
    replay_dir = run_dir.with_name("replay")
    command = [sys.executable, "-m", "spo.cli", "train", "--replay", str(run_dir), f"run_dir={replay_dir}"]
    command += ["--nproc-per-node", str(num_ranks)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=FINISH_S, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return replay_dir


def crash(folder: Path, given: list[str], seed: int, kills: int, num_ranks: int, is_light: bool) -> str:
    """One run, killed so often, checked and replayed; returns what was done."""
    started = time.monotonic()
    run_dir = folder / f"seed-{seed}" / "run"
    run_dir.parent.mkdir()
    around = environment(run_dir.parent, is_light)
    killer = Killer(run_dir, [*given, f"seed={seed}"], num_ranks, seed, around)
    killer.run(kills)
    facts = check_run(run_dir, killer.seen, STEPS)
    check_replay(run_dir, replay(run_dir, num_ranks, around), STEPS)
    return f"{killer}; {json.dumps(facts)}; replayed bit for bit; {time.monotonic() - started:.0f} s"


def main() -> None:
    """Runs the harness; ends with a failure or a line a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--light", action="store_true", help="steps that only hash their batches")
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.FIELD=VALUE", help="further settings")
    parser.add_argument("--reference", type=Path, help="a `tiny` reference, to save making one")
    parser.add_argument("--keep", type=Path, help="an empty folder for the runs, which stay")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        given = make_input(folder, options.reference, options.light)
        for seed in options.seeds:
            print(crash(folder, [*given, *options.set], seed, options.kills, options.ranks, options.light), flush=True)


if __name__ == "__main__":
    sys.exit(main())

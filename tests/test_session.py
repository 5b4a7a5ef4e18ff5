"""Sampling sessions: workers without trainers, scripted ones and processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from run_peers import TOKENIZER, ScriptedWorker, write_problems

from spo.config import Config, load_config
from spo.errors import RunFailed
from spo.orchestrator.sampling import run_sampling, sampling_session
from spo.orchestrator.session import SamplingSession
from spo.problems import Problems, load_problems
from spo.rundir import ModelInfo
from spo.types import PREFIX_KEY, Work
from spo.wire import ADDRESS_FILE

FAKE = ("workers.engine=fake", "workers.max_batch_size=8", "sampling.max_new_tokens=2000")


def settings(folder: Path, *overrides: str) -> tuple[Config, ModelInfo, Problems]:
    write_problems(folder / "problems.jsonl", "problem", 6)
    config = load_config(None, ["model.path=anything", "sampling.max_new_tokens=24", *overrides])
    tokenizer = "bytes" if config.workers.engine == "fake" else TOKENIZER
    model = ModelInfo(str(folder), "test-reference", tokenizer)
    return config, model, load_problems([f"jsonl:{folder / 'problems.jsonl'}"])


@asynccontextmanager
async def scripted(
    folder: Path, *workers: ScriptedWorker, config: tuple[str, ...] = ()
) -> AsyncIterator[SamplingSession]:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for worker in workers:
                nursery.start_soon(worker.run)
            where = folder / "session"
            async with sampling_session(*settings(folder, "workers.num_workers=0", *config), where) as session:
                yield session


async def test_many_tasks_get_their_own_trajectories_in_the_order_of_their_seeds(tmp_path: Path) -> None:
    found: dict[int, list[int]] = {}

    async def ask(session: SamplingSession, task: int) -> None:
        seeds = [1000 * task + number for number in range(40, 0, -1)]
        items = await session.sample(f"problem{task % 6}", seeds=seeds, temperatures=0.5, top_p=0.9, source="mine")
        assert {(item.source, item.temperature, item.top_p) for item in items if item} == {("mine", 0.5, 0.9)}
        found[task] = [item.seed for item in items if item]

    workers = [ScriptedWorker(tmp_path / "session", name=f"worker-{index}") for index in range(2)]
    async with scripted(tmp_path, *workers) as session, trio.open_nursery() as tasks:
        for task in range(12):
            tasks.start_soon(ask, session, task)
    assert found == {task: [1000 * task + number for number in range(40, 0, -1)] for task in range(12)}
    assert session.num_responses == 12 * 40
    assert not (tmp_path / "session" / ADDRESS_FILE).exists(), "nobody listens there any more"
    assert all(max(len(work.seeds) for work in worker.done) <= 16 and worker.done for worker in workers)


async def test_what_the_judge_fails_on_is_none_in_its_place(tmp_path: Path) -> None:
    def one_of_six(work: Work) -> int:
        return int(1 in work.seeds)

    async with scripted(tmp_path, ScriptedWorker(tmp_path / "session", exclude=one_of_six)) as session:
        items = await session.sample("problem0", seeds=[1, 2, 3, 4, 5, 6])
    assert [item is None for item in items] == [False] * 5 + [True]
    assert session.num_excluded == 1


async def test_a_lost_workers_responses_come_from_another_and_a_cancelled_task_harms_nobody(tmp_path: Path) -> None:
    lost: list[int] = []

    def lose_third(work: Work) -> bool:
        lost.append(work.work_id)
        return len(lost) == 3

    workers = (ScriptedWorker(tmp_path / "session", name="doomed", lose=lose_third),)
    steady = ScriptedWorker(tmp_path / "session", name="steady", starts_after_s=0.3)
    async with scripted(tmp_path, *workers, steady) as session, trio.open_nursery() as tasks:

        async def impatient() -> None:
            with trio.move_on_after(0.05):
                await session.sample("problem1", seeds=range(9000, 9064))

        tasks.start_soon(impatient)
        items = await session.sample("problem0", seeds=list(range(100)))
    assert [item.seed for item in items if item] == list(range(100))


async def test_equal_seeds_at_once_and_wrong_numbers_are_refused(tmp_path: Path) -> None:
    async with scripted(tmp_path, ScriptedWorker(tmp_path / "session")) as session:
        with pytest.raises(ValueError, match="asked for twice"):
            await session.sample("problem0", seeds=[1, 1])
        with pytest.raises(ValueError, match="2 temperatures for 1 seeds"):
            await session.sample("problem0", seeds=[1], temperatures=[1.0, 0.5])
        assert await session.sample("problem0", seeds=[]) == []


async def test_silence_while_something_is_waited_for_ends_the_session_with_the_reason(tmp_path: Path) -> None:
    worker = ScriptedWorker(tmp_path / "session", delay_s=30)
    with pytest.RaisesGroup(pytest.RaisesExc(RunFailed, match=r"no progress of any kind for 1 s")):
        async with scripted(tmp_path, worker, config=("network.stall_timeout_s=1",)) as session:
            await session.sample("problem0", seeds=[1])


def test_worker_processes_continue_given_beginnings_and_none_is_left(tmp_path: Path) -> None:
    """With the fake engine, which knows the solutions: the beginning decides which it can still come to."""

    async def main() -> None:
        async with sampling_session(*settings(tmp_path, *FAKE), tmp_path / "session") as session:
            assert session.prompt_template == "statement"
            free = [item for item in await session.sample("problem3", seeds=list(range(40))) if item]
            assert {item.reward for item in free} == {0.0, -1.0}
            (right, *_) = [item for item in free if item.reward == 0.0]
            prefix = right.response_tokens[:20].tolist()
            again = await session.sample("problem3", seeds=[1, 2, 3, 4, 5, 6], prefix=prefix, source="pivotal")
            for item in again:
                assert item is not None
                assert item.response_tokens[: len(prefix)].tolist() == prefix
                assert item.reward == 0.0
                assert item.behavior_logprobs is None
                assert item.metadata[PREFIX_KEY] == "20"
            os.killpg(_workers(tmp_path)[0], signal.SIGKILL)
            assert None not in await session.sample("problem2", seeds=list(range(100, 140)))
            assert session.num_worker_deaths == 1

    run_sampling(main)
    assert _workers(tmp_path) == []


def test_a_worker_that_cannot_load_ends_the_session_with_its_reason(tmp_path: Path) -> None:
    async def main() -> None:
        async with sampling_session(*settings(tmp_path, "workers.engine=transformers")):
            raise AssertionError("no worker can be ready")

    with pytest.raises(RunFailed, match=r"worker-0 ended with status 2: model\.path"):
        run_sampling(main)


INTERRUPTED = """
import sys, trio
from pathlib import Path
from test_session import FAKE, settings
from spo.orchestrator.sampling import run_sampling, sampling_session

async def main():
    folder = Path(sys.argv[1])
    async with sampling_session(*settings(folder, *FAKE), folder / "session") as session:
        print("ready", flush=True)
        await trio.sleep_forever()

try:
    run_sampling(main)
except KeyboardInterrupt as error:
    print(error)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_leaves_nothing_running(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert len(_workers(tmp_path)) == 1
        process.send_signal(number)
        output = process.stdout.read()
    assert output == ("" if number == signal.SIGKILL else f"interrupted by {number.name}\n")
    deadline = time.monotonic() + 20
    while _workers(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert _workers(tmp_path) == []


def _workers(folder: Path) -> list[int]:
    """Ids of the running worker processes of the session in a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"spo.rollout" in words and str(folder / "session" / "token").encode() in words:
            found.append(int(entry.name))
    return found

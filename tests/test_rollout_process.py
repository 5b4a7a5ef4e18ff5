"""The worker as a process: `python -m spo.rollout` against an orchestrator that the test plays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from worker_peer import PROBLEM, RIGHT, TOKEN, Orchestrator, program, work

from spo.config import Config, to_toml
from spo.launch import module_command
from spo.store import decode_trajectories
from spo.types import (
    ProblemData,
    Shutdown,
    ToOrchestrator,
    WorkerHello,
    WorkerReady,
    WorkerSetup,
)
from spo.wire import AsyncConnection


class Process:
    """`python -m spo.rollout` with a connection to it."""

    def __init__(self, tmp_path: Path, *, num_connections: int = 1) -> None:
        self._token_file = tmp_path / "token"
        self._token_file.write_bytes(TOKEN)
        self.log = tmp_path / "worker.log"
        self.process: trio.Process

    async def start(self) -> Orchestrator:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
        command = module_command(
            "spo.rollout", "--connect", address, "--token-file", str(self._token_file), "--name", "worker-0"
        )
        with self.log.open("wb") as log:
            self.process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stderr=log)
        async with listener:
            stream = await listener.accept()
        orchestrator = Orchestrator(await AsyncConnection.accept(stream, TOKEN, ToOrchestrator))
        assert await orchestrator.receive() == WorkerHello(name="worker-0")
        return orchestrator


def fake_settings(**sections: Any) -> str:
    import msgspec

    settings: dict[str, Any] = {"workers": {"engine": "fake", "max_batch_size": 8}}
    return to_toml(msgspec.convert(settings | sections, Config))


async def test_the_process_samples_judges_and_ends_when_told_to(tmp_path: Path) -> None:
    worker = Process(tmp_path)
    with trio.fail_after(60):
        orchestrator = await worker.start()
        await orchestrator.send(WorkerSetup(config=fake_settings(), publishers=[]))
        assert isinstance(await orchestrator.receive(), WorkerReady)
        await orchestrator.send(ProblemData(problem=PROBLEM), work(1, num=20))
        result = await orchestrator.receive()
        await orchestrator.send(Shutdown())
        assert await worker.process.wait() == 0
        await orchestrator.connection.aclose()
    trajectories = decode_trajectories(result.trajectories)
    assert len(trajectories) == 20
    assert all(t.verdict == ("accepted" if program(t) == RIGHT else "wrong_answer") for t in trajectories)
    assert {trajectory.reward for trajectory in trajectories} == {0.0, -1.0}


@pytest.mark.parametrize("ending", ["stdin", "connection"])
async def test_the_process_ends_soon_when_its_parent_or_the_orchestrator_is_gone(tmp_path: Path, ending: str) -> None:
    worker = Process(tmp_path)
    with trio.fail_after(60):
        orchestrator = await worker.start()
        await orchestrator.send(WorkerSetup(config=fake_settings(), publishers=[]))
        assert isinstance(await orchestrator.receive(), WorkerReady)
        await orchestrator.send(ProblemData(problem=PROBLEM), work(1, num=500))
        if ending == "stdin":
            assert worker.process.stdin is not None
            await worker.process.stdin.aclose()
        else:
            await orchestrator.connection.aclose()
        with trio.fail_after(10):
            status = await worker.process.wait()
        await orchestrator.connection.aclose()
    assert status == (0 if ending == "stdin" else 1)
    if ending == "connection":
        assert worker.log.read_text().splitlines()[-1].startswith("spo: error: ")


async def test_a_model_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    worker = Process(tmp_path)
    settings = to_toml(Config()).replace('path = ""', f'path = "{tmp_path}/nothing"')
    with trio.fail_after(60):
        orchestrator = await worker.start()
        await orchestrator.send(WorkerSetup(config=settings, publishers=[]))
        assert await worker.process.wait() == 2
        await orchestrator.connection.aclose()
    last = worker.log.read_text().splitlines()[-1]
    assert last.startswith("spo: error: model.path: ")


def test_the_command_line_refuses_a_wrong_address(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(TOKEN)
    arguments = ["--connect", "nowhere", "--token-file", str(tmp_path / "token")]
    done = subprocess.run([sys.executable, "-m", "spo.rollout", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "spo: error: address 'nowhere': write HOST:PORT, such as 127.0.0.1:29600\n"

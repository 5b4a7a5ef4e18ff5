"""Sampling sessions: the rollout workers of a run without trainers, for whoever wants responses sampled and judged.

A session listens, starts `workers.num_workers` workers on this machine and takes in those that join from elsewhere;
dead ones are replaced and their work is done by others, as in a run, since it is the same dispatcher and the same
processes. Policy and reference are the one model that it is opened with; it never changes. What is sampled, and where
it is kept, is the caller's business; how a session is opened and ended, `sampling`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import trio

from spo.config import Config
from spo.errors import ConnectionLost, RunFailed
from spo.files import replace_file
from spo.orchestrator.asked import AskedFor
from spo.orchestrator.dispatch import Dispatcher, Result, Source
from spo.orchestrator.failures import first_leaf
from spo.orchestrator.local_workers import LocalWorkers
from spo.orchestrator.server import Server, address_of, listen
from spo.orchestrator.workers import Workers, worker_setup
from spo.problems import ById, Problem, Problems
from spo.progress import Status
from spo.rundir import ModelInfo
from spo.store import Trajectory
from spo.types import ToOrchestrator, TrainerHello, Work
from spo.wire import ADDRESS_FILE, TOKEN_FILE, AsyncConnection, new_token

_STALL_CHECK_S = 5.0

log = logging.getLogger(__name__)


class SamplingSession:
    """Workers that answer; made by `sampling.sampling_session`.

    Args:
        config: The settings.
        model: What is sampled from.
        problems: All problems that may be asked about.
        directory: Holds the token that workers prove, and their logs.
    """

    def __init__(self, config: Config, model: ModelInfo, problems: Problems, directory: Path) -> None:
        self.config = config
        self.model = model
        self.directory = directory
        self.address = ""
        """`host:port` that workers join at."""
        self.num_responses = self.num_tokens = self.num_excluded = self.num_worker_deaths = 0
        """Finished in this session: responses, their tokens, those that the judge failed on; workers that died."""
        self._started = self._last_progress = trio.current_time()
        self._failed = trio.Event()
        self._failure: Exception | None = None
        self._dispatcher = Dispatcher(self._on_result, lambda: None)
        self._asked = AskedFor(self._dispatcher.fill)
        self._dispatcher.sources = [self._asked]
        self._workers = Workers(
            self._dispatcher,
            ById(problems, with_solutions=config.workers.engine == "fake"),
            setup=worker_setup(config, model.path),
            tokenizer=model.tokenizer_fingerprint,
            on_progress=self._progress,
            ready_timeout_s=config.network.stall_timeout_s,
        )

    @property
    def prompt_template(self) -> str:
        """How the workers render prompts: part of the key of Q̂_0."""
        return self._workers.prompt_template

    async def sample(
        self,
        problem_id: str,
        *,
        seeds: Sequence[int],
        temperatures: Sequence[float] | float = 1.0,
        top_p: float = 1.0,
        source: str = "reference",
        policy: Literal["reference", "latest"] = "reference",
        prefix: Sequence[int] = (),
        max_new_tokens: int | None = None,
    ) -> list[Trajectory | None]:
        """Samples and judges responses to a problem; many tasks may wait here at once, each gets its own.

        Waiting calls are served in their order and cost little. A call's trajectories are kept until its last one is
        there: who wants thousands asks for some at a time.

        Args:
            problem_id: The problem.
            seeds: One a response: the same seed, settings and model give the same response. Calls that overlap in
                time must not share one.
            temperatures: One a response, or one for all.
            top_p: Nucleus of all.
            source: The trajectories' source.
            policy: The same model here, under either name.
            prefix: Response tokens that are given: what is sampled follows them. The trajectories' responses begin
                with them, have no behaviour log-probabilities, and say in `metadata["prefix_tokens"]` how many they
                are.
            max_new_tokens: Of the whole response, a prefix included; `sampling.max_new_tokens` where None.

        Returns:
            The trajectories in the order of the seeds; None where the judge itself failed twice.

        Raises:
            ValueError: The numbers of seeds and temperatures differ, or a seed is asked for twice at once.
        """
        wanted = [float(temperatures)] * len(seeds) if isinstance(temperatures, int | float) else list(temperatures)
        if len(wanted) != len(seeds):
            raise ValueError(f"{len(wanted)} temperatures for {len(seeds)} seeds")
        work = Work(
            work_id=0,
            problem_id=problem_id,
            policy=policy,
            source=source,
            temperatures=wanted,
            top_p=top_p,
            seeds=list(seeds),
            max_new_tokens=self.config.sampling.max_new_tokens if max_new_tokens is None else max_new_tokens,
            prefix_tokens=list(prefix),
        )
        self._progress()
        return await self._asked.ask(work)

    async def prompt_lengths(self, problems: Sequence[Problem]) -> list[int]:
        """How many tokens the prompts of problems have."""
        return await self._workers.prompt_lengths(problems)

    def serve(self, source: Source) -> None:
        """Also does the work of a source that knows by itself what is due; to be told again when more has become so."""
        if source not in self._dispatcher.sources:
            self._dispatcher.sources = [*self._dispatcher.sources, source]
        self._progress()
        self._dispatcher.fill()

    def status(self, phase: str, done: int, total: int, unit: str = "samples") -> Status:
        """How far the caller's work is, for a display."""
        elapsed_s = max(trio.current_time() - self._started, 1e-9)
        per_s = self.num_responses / elapsed_s
        return Status(
            phase=phase,
            done=done,
            total=total,
            unit=unit,
            eta_s=(total - done) / per_s if self.num_responses and unit == "samples" and done < total else None,
            elapsed_s=elapsed_s,
            tokens_per_s=self.num_tokens / elapsed_s,
            programs_per_s=per_s,
            num_workers=len(self._workers.sessions),
            note=self._note(),
        )

    # --- the services, run by `sampling.sampling_session` -------------------------------------------------------

    async def start(self, services: trio.Nursery) -> None:
        """Starts everything in `services`; returns when a worker is ready."""
        listener = await listen(self.config.network)
        self.address = address_of(listener)
        (self.directory / "logs").mkdir(parents=True, exist_ok=True)
        token = new_token(self.directory)
        replace_file(self.directory / ADDRESS_FILE, self.address.encode())
        services.start_soon(Server(token, _refuse_trainer, self._workers.serve, self._fail).run, listener)
        services.start_soon(self._watch)
        self._local = LocalWorkers(
            self.config,
            self.directory,
            self.model.path,
            self.address,
            is_connected=self._workers.is_connected,
            on_death=self._on_death,
        )
        services.start_soon(self._local.run)
        if self.config.workers.num_workers == 0:
            log.warning(
                "waiting for workers: spo worker --connect %s --token-file %s --model %s",
                *(self.address, self.directory / TOKEN_FILE, self.model.path),
            )
        await self._workers.first_ready.wait()

    async def end(self) -> None:
        """Ends the workers, in order while they answer."""
        self._local.expect_end()
        self._workers.shut_down()
        await self._local.wait_ended()

    async def _watch(self) -> None:
        """Raises what a worker's session failed with, or that nothing has gone forward for too long."""
        timeout_s = self.config.network.stall_timeout_s
        while self._failure is None:
            with trio.move_on_after(min(_STALL_CHECK_S, timeout_s / 4)):
                await self._failed.wait()
            if self._dispatcher.is_idle and not self._asked.num_waited_for and self._workers.sessions:
                self._progress()
            if trio.current_time() - self._last_progress > timeout_s:
                raise RunFailed(
                    f"no progress of any kind for {timeout_s:.0f} s (network.stall_timeout_s): "
                    f"{self._note() or 'the workers sample nothing'}; see the logs of the workers"
                )
        raise self._failure

    def _fail(self, error: Exception) -> None:
        self._failure = first_leaf(error)
        self._failed.set()

    def _note(self) -> str:
        return "" if self._workers.sessions else "no rollout worker is ready"

    def _progress(self) -> None:
        self._last_progress = trio.current_time()

    def _on_death(self) -> None:
        self.num_worker_deaths += 1

    def _on_result(self, result: Result) -> None:
        self._progress()
        self.num_responses += len(result.work.seeds)
        self.num_excluded += result.done.num_excluded
        given = len(result.work.prefix_tokens)
        self.num_tokens += sum(item.num_tokens - len(item.prompt_tokens) - given for item in result.trajectories)


async def _refuse_trainer(_connection: AsyncConnection[ToOrchestrator], _hello: TrainerHello) -> None:
    raise ConnectionLost("a trainer asks for batches where there is only sampling")

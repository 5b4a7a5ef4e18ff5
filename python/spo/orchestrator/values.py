"""The Q̂_0 phase: reference samples of every training problem, counted (Sec. 3.1.3).

They lie in `values.directory/KEY/`, shared by all runs with the same key (reference, sampler, prompts, tests): a
store of the judged samples, which is the truth, and `counts.json` made from it. A sample is known by its seed, which
follows from key, problem and index; so an interrupted phase is taken up where it was, and samples of an earlier run
are not repeated. The accepted ones among them are the offline part of the batches.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import trio

from spo.config import Config
from spo.errors import RunFailed
from spo.orchestrator.dispatch import split
from spo.orchestrator.lenders import LENDER_KEY, Lender, lenders, lent_digests, sample_seed, write_digests
from spo.orchestrator.mix import OFFLINE
from spo.orchestrator.records import read_all, relabelled
from spo.orchestrator.tally import Tally
from spo.problems import Problem, Problems, infos_of, suite_hash
from spo.reward import ACCEPTED_REWARD
from spo.rundir import ModelInfo
from spo.store import Trajectory, TrajectoryStore
from spo.types import Work
from spo.values import COUNTS_FILE, ValueCounts, ValuesKey, key_folders, open_directory, read_key

REFERENCE = "reference"
INDEX_KEY = "index"
"""Metadata of a reference trajectory: which sample of its problem it is."""
MAX_RESPONSES_PER_WORK = 16
_SAVE_INTERVAL_S = 5.0
_READ_AT_ONCE = 4096

log = logging.getLogger(__name__)


def values_key(config: Config, model: ModelInfo, prompt_template: str, problems: Sequence[Problem]) -> ValuesKey:
    """What the counts of this run depend on."""
    return ValuesKey(
        reference=f"{model.reference_fingerprint}/{model.tokenizer_fingerprint}",
        sampler={
            "engine": config.workers.engine,
            "dtype": config.workers.dtype,
            "temperature": "1.0",
            "top_p": "1.0",
            "max_new_tokens": str(config.sampling.max_new_tokens),
            "output_bytes": str(config.judge.output_bytes),
        },
        prompt_template=prompt_template,
        test_suite=suite_hash(problems),
    )


def stored_key(
    config: Config, model: ModelInfo, problems: Problems, directories: Sequence[Path]
) -> tuple[Path, ValuesKey, Problems]:
    """Finds the values that workers would go on with, without asking one for its prompt template.

    Whoever sampled them left out problems with prompts that were too long: values of a part of the problems will do.

    Args:
        config: The run's settings.
        model: Its reference.
        problems: The training problems.
        directories: Where to look.

    Returns:
        The directory, the key, and the problems that have values: of several keys, that of the most problems.

    Raises:
        RunFailed: There are none, or of several templates.
    """
    found: list[tuple[Path, ValuesKey, Problems]] = []
    for directory in directories:
        for path in key_folders(directory):
            key = read_key(path)
            counted = ValueCounts.load(path / COUNTS_FILE, key).as_dict()
            valued = problems.where(lambda info, counted=counted: info.id in counted)  # type: ignore[misc]
            wanted = values_key(config, model, key.prompt_template, valued)
            if valued and key == wanted and all(key != other for _, other, _ in found):
                found.append((directory, key, valued))
    most = max((len(valued) for *_, valued in found), default=0)
    found = [one for one in found if len(one[2]) == most]
    if not found:
        # Those of other sets of problems may do, as far as they are of these problems.
        for template, digests in lent_digests(values_key(config, model, "", problems), directories).items():
            valued = problems.where(lambda info, digests=digests: (info.id, info.content_digest.hex()) in digests)  # type: ignore[misc]
            if valued:
                found.append((directories[0], values_key(config, model, template, valued), valued))
    if len(found) != 1:
        places = ", ".join(str(directory) for directory in directories)
        problem = "no values" if not found else f"values of {len(found)} prompt templates"
        raise RunFailed(
            f"Q̂_0: there are {problem} of this reference and these training problems in {places}; set values.directory "
            "to that of the run that sampled them, with its problems.train and sampling.max_new_tokens, or have them "
            "sampled by workers.num_workers=1"
        )
    return found[0]


class ValueEstimation:
    """Hands out reference work until every problem has its samples.

    Args:
        config: The run's settings.
        key: Of this run's values.
        problems: The training problems.
        tokenizer: Fingerprint that all trajectories share.
    """

    share = 1.0
    """See `dispatch`."""

    def __init__(self, config: Config, key: ValuesKey, problems: Sequence[Problem], tokenizer: str) -> None:
        self._config = config
        self._key = key
        self.directory = open_directory(Path(config.values.directory), key)
        """Where key, samples and counts lie."""
        self._store = TrajectoryStore.open(self.directory / "store", mode="a", tokenizer=tokenizer)
        self._tokenizer = tokenizer
        self._digests = {info.id: info.content_digest.hex() for info in infos_of(problems)}
        write_digests(self.directory, self._digests)
        settings = config.values
        self._tallies = {info.id: Tally(settings.num_samples, settings.interval_width) for info in infos_of(problems)}
        self._num_open = len(self._tallies)
        """Problems that lack samples."""
        self._index_of: dict[int, int] = {}
        """Indices on their way, by seed."""
        self._turn: deque[str] = deque()
        self.finished = trio.Event()
        self.num_reused = 0
        """Samples that earlier runs or sessions had left."""

    def scan(self, directories: Sequence[Path] = ()) -> None:
        """Takes in what is stored already, here and in other folders of values in `directories`, and plans the rest.

        It may take a while: call it in a thread.
        """
        ids = self._store.scan(source=REFERENCE)
        for start in range(0, len(ids), _READ_AT_ONCE):
            part = ids[start : start + _READ_AT_ONCE]
            columns = self._store.read_many(part, ["problem_id", "metadata", "reward", "seed"])
            for id, problem_id, metadata, reward, seed in zip(part, *columns.values(), strict=True):
                tally = self._tallies.get(problem_id)
                index = int(metadata[INDEX_KEY])
                digest = metadata.get(LENDER_KEY, self._key.digest)
                if tally is not None and seed == sample_seed(digest, problem_id, index):
                    tally.add(index, id, reward == ACCEPTED_REWARD)
        for lender in lenders(self._key, self.directory, directories):
            self._borrow(lender)
        for tally in self._tallies.values():
            tally.plan()
        self._turn = deque(problem_id for problem_id, tally in self._tallies.items() if tally.due)
        self._num_open = sum(not tally.is_complete for tally in self._tallies.values())
        self.num_reused = self.num_done

    def _borrow(self, lender: Lender) -> None:
        """Takes over what a lender has of problems that lack samples."""
        indices = range(self._config.values.num_samples)
        shared = {
            id
            for id, tally in self._tallies.items()
            if lender.digests.get(id) == self._digests[id] and not all(map(tally.has, indices))
        }
        if not shared:
            return
        num_taken = 0
        for samples in lender.samples(shared, self._tokenizer, REFERENCE, INDEX_KEY):
            new = [(i, item) for i, item in samples if i in indices and not self._tallies[item.problem_id].has(i)]
            for (index, item), id in zip(new, self._append([item for _, item in new]), strict=True):
                self._tallies[item.problem_id].add(index, id, item.reward == ACCEPTED_REWARD)
            num_taken += len(new)
        log.info("%d samples of %d problems are taken over from %s", num_taken, len(shared), lender.folder)

    def check_finished(self) -> None:
        """Sets `finished` if nothing is missing."""
        if self._num_open == 0:
            self.finished.set()

    @property
    def num_wanted(self) -> int:
        """Samples of all problems together, as far as is known."""
        return sum(tally.wanted for tally in self._tallies.values())

    @property
    def num_done(self) -> int:
        """Of these, stored."""
        return sum(tally.num_done for tally in self._tallies.values())

    def take(self, limit: int) -> Work | None:
        """Some more samples of one problem."""
        if not self._turn:
            return None
        problem_id = self._turn[0]
        tally = self._tallies[problem_id]
        indices = tally.hand_out(split(len(tally.due), limit, MAX_RESPONSES_PER_WORK))
        if not tally.due:
            self._turn.popleft()
        seeds = [self._seed(problem_id, index) for index in indices]
        self._index_of.update(zip(seeds, indices, strict=True))
        return Work(
            work_id=0,
            problem_id=problem_id,
            policy="reference",
            source=REFERENCE,
            temperatures=[1.0] * len(seeds),
            top_p=1.0,
            seeds=seeds,
            max_new_tokens=self._config.sampling.max_new_tokens,
        )

    def renew(self, work: Work) -> Work:
        """The same item: the reference does not change."""
        return work

    def finish(self, work: Work, trajectories: list[Trajectory], num_excluded: int) -> None:
        """Stores and counts the result; for what could not be judged, further indices become due."""
        tally = self._tallies[work.problem_id]
        indices = {seed: self._index_of.pop(seed) for seed in work.seeds}
        labelled = [relabelled(item, **{INDEX_KEY: str(indices[item.seed])}) for item in trajectories]
        for id, trajectory in zip(self._append(labelled), labelled, strict=True):
            tally.add(indices[trajectory.seed], id, trajectory.reward == ACCEPTED_REWARD)
        tally.came_back(len(trajectories) + num_excluded)
        had_due = bool(tally.due)
        tally.plan()
        if tally.due and not had_due:
            self._turn.append(work.problem_id)
        self._num_open -= tally.is_complete
        self.check_finished()

    def _append(self, trajectories: list[Trajectory]) -> list[int]:
        try:
            return self._store.append(trajectories) if trajectories else []
        except OSError as error:
            raise RunFailed(
                f"{self.directory} cannot be written ({error}); make room there, or set values.directory"
            ) from None

    def counts(self) -> ValueCounts:
        """The counts so far."""
        return ValueCounts(self._key, {problem_id: tally.counts() for problem_id, tally in self._tallies.items()})

    def initial_values(self) -> dict[str, float]:
        """Q̂_0 of every problem."""
        return self.counts().initial_values(self._tallies, self._config.objective.beta)

    def accepted(self) -> list[Trajectory]:
        """The accepted samples, one of each content, as offline trajectories; in an order that never changes."""
        ids = [id for tally in self._tallies.values() for id in tally.accepted()]
        unique: dict[bytes, Trajectory] = {}
        for _, item in read_all(self._store, ids):
            unique.setdefault(item.content_hash, item)
        return [relabelled(item, source=OFFLINE) for item in unique.values()]

    async def run(self) -> None:
        """Keeps what is on disk up to date until all samples are there."""
        while not self.finished.is_set():
            with trio.move_on_after(_SAVE_INTERVAL_S):
                await self.finished.wait()
            await trio.to_thread.run_sync(self._save)

    def close(self) -> None:
        """Makes everything durable and closes the store."""
        self._save()
        self._store.close()

    def _save(self) -> None:
        self._store.commit()
        self.counts().save(self.directory / COUNTS_FILE)

    def _seed(self, problem_id: str, index: int) -> int:
        return sample_seed(self._key.digest, problem_id, index)

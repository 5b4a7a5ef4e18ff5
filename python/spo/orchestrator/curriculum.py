"""The curriculum of a run: keeps count of the problems' successes and gives the schedule their shares.

The reference's counts are those of Q̂_0; the policy's are its last online responses in the order of the store, so that
a resumed run has the same. What the shares are is `spo.curriculum`'s to say. `RUN_DIR/curriculum.json` has those of the
current epoch, for people.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterable
from pathlib import Path

import msgspec

from spo.config import CurriculumConfig
from spo.curriculum import REASONS, Shares, Standing, is_plain, load_function, shares_of
from spo.errors import ConfigError, RunFailed
from spo.files import replace_file
from spo.problems import ProblemInfo
from spo.reward import ACCEPTED_REWARD
from spo.rundir import CURRICULUM_FILE
from spo.values import ProblemCounts, ValueCounts

log = logging.getLogger(__name__)


class Curriculum:
    """What the training problems' shares of the online work are, now.

    Args:
        config: The settings.
        run_dir: Where the shares of the current epoch are written.

    Raises:
        ConfigError: There is no such function as the settings name.
    """

    def __init__(self, config: CurriculumConfig, run_dir: Path) -> None:
        self._config = config
        self._path = run_dir / CURRICULUM_FILE
        self._function = load_function(config)
        self._infos: list[ProblemInfo] = []
        self._reference: dict[str, ProblemCounts] = {}
        self._online: dict[str, deque[bool]] = {}
        self._shares: Shares | None = None
        self.is_plain = is_plain(config)
        """Whether there is nothing to decide: every problem has the same share."""

    @property
    def needs_history(self) -> bool:
        """Whether `begin` wants the online responses so far."""
        return not self.is_plain and self._config.rates == "online"

    def begin(
        self, infos: Iterable[ProblemInfo], counts: ValueCounts, history: Iterable[tuple[str, float]] = ()
    ) -> None:
        """Takes in what is known before there is any work.

        Args:
            infos: Of the training problems, in the schedule's order.
            counts: The reference's, of Q̂_0.
            history: Problem and reward of the online responses so far, in the order of the store.

        Raises:
            RunFailed: No problem would be left, or the user's function gives no weight.
        """
        self._infos = list(infos)
        self._reference = {info.id: counts[info.id] for info in self._infos}
        if self.is_plain:
            return
        try:
            shares_of(self._standings(), self._config, self._function)
        except ConfigError as error:
            raise RunFailed(str(error)) from None
        for problem_id, reward in history:
            self.count(problem_id, reward)

    def count(self, problem_id: str, reward: float) -> None:
        """One more online response was judged."""
        if self.needs_history:
            responses = self._online.setdefault(problem_id, deque(maxlen=self._config.window))
            responses.append(reward == ACCEPTED_REWARD)

    def shares(self, epoch: int) -> list[float]:
        """The problems' shares in an epoch that begins now, in the order of the problems.

        Raises:
            RunFailed: The user's function gives no weight.
        """
        standings = self._standings()
        try:
            self._shares = shares_of(standings, self._config, self._function)
        except ConfigError as error:
            if not self._config.rates == "online" or self._config.function:
                raise RunFailed(str(error)) from None
            log.warning("%s: in epoch %d all have the same share", error, epoch)
            self._shares = shares_of(standings, msgspec.structs.replace(self._config, explore=1.0), self._function)
        self._write(epoch, standings, self._shares)
        return self._shares.values

    def gauges(self) -> dict[str, float]:
        """Its metrics; none while there is nothing to decide."""
        if self._shares is None:
            return {}
        reasons = Counter(self._shares.skipped)
        skipped = {f"curriculum/skipped_{reason.replace(' ', '_')}": float(reasons[reason]) for reason in REASONS}
        return {**skipped, "curriculum/effective_problems": self._shares.effective_problems}

    def _standings(self) -> list[Standing]:
        standings = []
        for info in self._infos:
            responses = self._online.get(info.id, ())
            reference, online = self._reference[info.id], ProblemCounts(sum(responses), len(responses))
            counts = online if len(responses) == self._config.window else reference
            standings.append(Standing(info, reference, online, counts))
        return standings

    def _write(self, epoch: int, standings: list[Standing], shares: Shares) -> None:
        reasons = Counter(reason for reason in shares.skipped if reason)
        log.info(
            "curriculum: epoch %d is as even as %.1f of %d problems; skipped: %s",
            *(epoch, shares.effective_problems, len(standings)),
            ", ".join(f"{count} {reason}" for reason, count in reasons.items()) or "none",
        )
        problems = {
            standing.info.id: {
                "share": share,
                "skipped": reason,
                "reference": [standing.reference.successes, standing.reference.num_samples],
                "online": [standing.online.successes, standing.online.num_samples],
            }
            for standing, share, reason in zip(standings, *shares, strict=True)
        }
        content = {"epoch": epoch, "skipped": reasons, "effective_problems": shares.effective_problems}
        replace_file(self._path, msgspec.json.encode({**content, "problems": problems}) + b"\n")

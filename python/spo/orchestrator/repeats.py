"""The steps that a resume undid: what their batches were, as long as they can be had again just so.

A checkpoint is older than the last batch that was handed out. The steps in between are in the consumption log; the
replay buffer, brought back to the checkpoint and given its trajectories in the order that it had them in, draws the
same batches. Where it cannot (other settings, problems or ranks), the run goes another way from there, and says so.
"""

from __future__ import annotations

import logging

from spo.consumption import Consumed, ConsumptionLog
from spo.errors import ConfigError
from spo.jsonl import Journal
from spo.orchestrator.experience import Experience

log = logging.getLogger(__name__)


class Repeats:
    """The batches of an earlier session that are still to be had again.

    Args:
        experience: Holds trajectories back until it is their turn.
        consumption: The log, which is told where the run goes another way.
    """

    def __init__(self, experience: Experience, consumption: Journal) -> None:
        self._experience = experience
        self._consumption = consumption
        self._earlier: ConsumptionLog | None = None

    def begin(self, step: int, earlier: ConsumptionLog | None) -> None:
        """Training goes on after `step`; what `earlier` has of later steps is to be repeated."""
        if earlier is not None and earlier.last_step > step:
            log.info("steps %d to %d are repeated as they were", step + 1, earlier.last_step)
            self._earlier = earlier
        else:
            self._experience.release_all()

    def logged(self, step: int) -> Consumed | None:
        """What the batch of `step` was before the resume, with the buffer as it was then; None for a new batch."""
        if self._earlier is None:
            return None
        try:
            logged = self._earlier[step]
        except ConfigError as error:
            self.end(step, str(error))
            return None
        if not self._experience.release_until(logged.newest):
            self.end(step, f"trajectory {logged.newest} is not in its place in the store")
            return None
        return logged

    def drawn(self, consumed: Consumed, logged: Consumed | None) -> bool:
        """A batch has been drawn; whether the log has yet to say so."""
        if logged is not None and logged != consumed:
            self.end(consumed.step, "settings, ranks or problems are others")
        elif self._earlier is not None and consumed.step == self._earlier.last_step:
            self._earlier = None
            self._experience.release_all()
        return logged != consumed

    def end(self, step: int, reason: str) -> None:
        """From `step` on, the log of earlier sessions no longer counts."""
        log.warning("from step %d on, the run goes another way than before the resume: %s", step, reason)
        self._consumption.mark_resumed(step - 1)
        self._earlier = None
        self._experience.release_all()

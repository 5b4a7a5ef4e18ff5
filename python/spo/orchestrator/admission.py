"""Staleness admission: which rollouts may start, so that none is ever too old when it is trained on (Sec. 3.2).

Pure functions over counts; nobody waits here. Time is counted in optimiser steps done: a batch of step s is drawn
when s − 1 steps are done, and the staleness of a trajectory in it is s − 1 minus the least policy version that
sampled it.

Two rules bound it by `max_staleness`, and nothing is thrown away for it:

1. *Admission.* A rollout starts only with weights young enough for the step at which it is expected to be drawn:
   after all that no batch has had yet, in the buffer or on its way, at `per_step` online trajectories a step. (The
   buffer draws every trajectory once, those of the oldest version first, before it draws one twice.)
2. *Patience.* Trajectories may be drawn several times, so trainers could run ahead of rollouts on their way with what
   the buffer has. A batch therefore waits while drawing it would leave more rollouts on their way than the steps until
   they are too old can take.

No deadlock: while the trainer waits, `steps_done` stands still. With less than one batch in supply the needed version
is `steps_done − max_staleness`. The last one published once those steps are over is as young, because versions come
every `model_update_interval` steps and `max_staleness` is at least one less (`spo.config` checks it). What was admitted
finishes or is dispatched anew with a version needed *then*, so rule 2 ends as well. With an interval of 1 and no
staleness, sampler and trainer take turns: each batch is sampled with the weights that it changes.
`tests/test_orchestrator_admission.py` simulates this for any speeds.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from math import ceil


def needed_version(steps_done: int, supply: int, per_step: int, max_staleness: int) -> int:
    """The least policy version with which a rollout may start now.

    Args:
        steps_done: Optimiser steps whose batches have been drawn.
        supply: Online trajectories that no batch has had yet, and responses on their way.
        per_step: Online trajectories a step draws; at least 1.
        max_staleness: The bound, in steps.
    """
    return max(0, expected_steps_done(steps_done, supply, per_step) - max_staleness)


def expected_steps_done(steps_done: int, supply: int, per_step: int) -> int:
    """How many steps will be done when a rollout that starts now is drawn: all of `supply` comes first."""
    return steps_done + supply // per_step


def last_step(version: int, max_staleness: int) -> int:
    """The last step whose batch may hold a trajectory sampled with `version`."""
    return version + max_staleness + 1


def must_wait(
    step: int, versions_in_flight: Sequence[int], unused_versions: Sequence[int], per_step: int, max_staleness: int
) -> bool:
    """Whether the batch of `step` has to wait for rollouts on their way.

    Args:
        step: The step whose batch is asked for.
        versions_in_flight: Of each online rollout on its way, a lower bound of the version it samples with.
        unused_versions: Of each trajectory in the buffer that no batch has had yet, its least version.
        per_step: Online trajectories a step draws, those of the oldest version first; at least 1.
        max_staleness: The bound, in steps.
    """
    on_way = sorted(versions_in_flight)
    left = sorted(unused_versions)[per_step:]
    for version in on_way:
        before = bisect_right(left, version) + bisect_right(on_way, version)
        if step + ceil(before / per_step) > last_step(version, max_staleness):
            return True
    return False

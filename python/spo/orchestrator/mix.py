"""The mix of a batch: which sources there are, what each gives to a step, and which pool a trajectory goes to.

Pure functions of the settings and of what there is. What is drawn is not known here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from spo.config import Config
from spo.errors import RunFailed
from spo.store import Trajectory

ONLINE = "online"
OFFLINE = "offline"
ANNOTATED = "annotated"
"""What Pivotal Token Search left in earlier stores, as a source of its own (Sec. 5)."""
PIVOTAL = "pivotal"
"""Source of the search's continuations in those stores."""


def mix_of(config: Config) -> dict[str, float]:
    """The proportions of the sources in a batch."""
    online, annotated = config.batch.online_fraction, config.batch.annotated_fraction
    shares = {ONLINE: online, OFFLINE: max(0.0, round(1 - online - annotated, 9)), ANNOTATED: annotated}
    return {source: share for source, share in shares.items() if share > 0}


def pool_of(config: Config, trajectory: Trajectory) -> str | None:
    """The pool that a trajectory of an earlier store goes to; None for none."""
    if config.batch.annotated_fraction == 0:
        return OFFLINE
    wants_rollouts = config.experience.annotated == "rollouts"
    if trajectory.source == PIVOTAL:
        return ANNOTATED if wants_rollouts else None
    return OFFLINE if wants_rollouts or trajectory.mc_successes is None else ANNOTATED


def per_step(config: Config, source: str) -> int:
    """Trajectories of a source that a step draws: at most one more (a group, in groups) where its share is none whole.

    Where the fractions are of tokens, about as many, if those of all sources are as long.
    """
    groups = config.batch.num_trajectories // config.batch.group_size * mix_of(config).get(source, 0.0)
    return math.ceil(groups - 1e-9) * config.batch.group_size


def most_per_step(config: Config, source: str) -> int:
    """The most that a step may draw of a source: all, where the fractions are of tokens."""
    is_open = config.batch.fractions_of == "tokens" and source in mix_of(config)
    return config.batch.num_trajectories if is_open else per_step(config, source)


def check_pools(config: Config, available: Mapping[str, int]) -> None:
    """Checks that the pools can give a step its part.

    Raises:
        RunFailed: One cannot; the text says what to change.
    """
    wanted, there = per_step(config, OFFLINE), available.get(OFFLINE, 0)
    if there < wanted:
        raise RunFailed(
            f"batch.online_fraction={config.batch.online_fraction} asks for {wanted} offline trajectories a "
            f"step, but experience.stores and the reference's {config.values.num_samples} samples a problem "
            f"gave {there} different ones; set batch.online_fraction=1, raise values.num_samples, name further "
            "experience.stores, or train on easier problems"
        )
    wanted, there = per_step(config, ANNOTATED), available.get(ANNOTATED, 0)
    if there < wanted:
        raise RunFailed(
            f"batch.annotated_fraction={config.batch.annotated_fraction} asks for {wanted} annotated "
            f"trajectories a step, but experience.stores gave {there} different ones; search more by "
            "`spo values pivotal`, or lower batch.annotated_fraction"
        )

"""Staleness admission: its arithmetic, and a simulation of trainers and workers of any speeds."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from spo.orchestrator.admission import expected_steps_done, last_step, must_wait, needed_version


def test_a_rollout_is_expected_after_everything_that_no_batch_has_had() -> None:
    assert expected_steps_done(steps_done=10, supply=0, per_step=4) == 10
    assert expected_steps_done(steps_done=10, supply=3, per_step=4) == 10
    assert expected_steps_done(steps_done=10, supply=9, per_step=4) == 12


def test_the_needed_version_is_the_expected_step_less_the_staleness_allowed() -> None:
    assert needed_version(steps_done=10, supply=9, per_step=4, max_staleness=5) == 7
    assert needed_version(steps_done=2, supply=0, per_step=4, max_staleness=5) == 0


def test_a_version_can_be_drawn_up_to_its_last_step_and_not_after() -> None:
    version, max_staleness = 3, 5
    step = last_step(version, max_staleness)
    assert step - 1 - version == max_staleness
    assert step - version > max_staleness


def test_a_batch_waits_for_rollouts_that_could_miss_their_turn_afterwards() -> None:
    assert not must_wait(9, [], [], per_step=4, max_staleness=5)
    # One on its way is drawn in step 9 if the batch of step 8 is drawn now: the last step for version 3.
    assert not must_wait(8, [3, 7], [5] * 4, per_step=4, max_staleness=5)
    assert must_wait(9, [7, 3], [5] * 4, per_step=4, max_staleness=5)
    # Younger ones that are left over are drawn after it, older ones before it.
    assert not must_wait(8, [3], [5] * 9, per_step=4, max_staleness=5)
    assert must_wait(8, [3], [3] * 8, per_step=4, max_staleness=5)


@dataclass
class Simulation:
    """An orchestrator's admission between a trainer and workers; time passes from event to event."""

    per_step: int
    max_uses: int
    max_staleness: int
    interval: int
    total_steps: int
    capacity: int
    step_s: float
    rollout_s: float
    publish_s: float
    death_share: float
    seed: int
    steps_done: int = 0
    published: int = 0
    training: bool = False
    now: float = 0.0
    ids: int = 0
    unused: list[tuple[int, int]] = field(default_factory=list)
    used: dict[int, tuple[int, int]] = field(default_factory=dict)
    in_flight: dict[int, int] = field(default_factory=dict)
    events: list[tuple[float, int, str, int]] = field(default_factory=list)
    stale_on_arrival: int = 0
    expired_unused: int = 0
    worst_staleness: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def at(self, delay: float, what: str, which: int) -> None:
        self.ids += 1
        heapq.heappush(self.events, (self.now + delay * self.random.uniform(0.1, 3.0), self.ids, what, which))

    def start_rollouts(self) -> None:
        while len(self.in_flight) < self.capacity:
            supply = len(self.unused) + len(self.in_flight)
            needed = needed_version(self.steps_done, supply, self.per_step, self.max_staleness)
            expected = expected_steps_done(self.steps_done, supply, self.per_step)
            if needed > self.published or expected >= self.total_steps:
                return
            self.ids += 1
            self.in_flight[self.ids] = self.random.randint(needed, self.published)
            self.at(self.rollout_s, "rollout", self.ids)

    def start_step(self) -> None:
        if self.training or self.steps_done == self.total_steps:
            return
        step = self.steps_done + 1
        self.unused.sort()
        versions = [version for version, _ in self.unused]
        if must_wait(step, list(self.in_flight.values()), versions, self.per_step, self.max_staleness):
            return
        fresh = self.unused[: self.per_step]
        usable = [
            id
            for id, (version, uses) in self.used.items()
            if uses < self.max_uses and self.steps_done - version <= self.max_staleness
        ]
        again = usable[: self.per_step - len(fresh)]
        if len(fresh) + len(again) < self.per_step:
            return
        del self.unused[: len(fresh)]
        for version, id in fresh:
            self.used[id] = (version, 1)
            self.worst_staleness = max(self.worst_staleness, self.steps_done - version)
        for id in again:
            version, uses = self.used[id]
            self.used[id] = (version, uses + 1)
            self.worst_staleness = max(self.worst_staleness, self.steps_done - version)
        self.steps_done = step
        self.training = True
        self.at(self.step_s, "step", step)

    def run(self) -> None:
        while self.steps_done < self.total_steps or self.training:
            young = [item for item in self.unused if self.steps_done - item[0] <= self.max_staleness]
            self.expired_unused += len(self.unused) - len(young)
            self.unused = young
            self.start_rollouts()
            self.start_step()
            assert self.events, f"deadlock after {self.steps_done} steps"
            self.now, _, what, which = heapq.heappop(self.events)
            getattr(self, f"on_{what}")(which)

    def on_rollout(self, id: int) -> None:
        if self.random.random() < self.death_share:
            needed = needed_version(self.steps_done, 0, self.per_step, self.max_staleness)
            self.in_flight[id] = max(self.in_flight[id], min(needed, self.published))
            self.at(self.rollout_s, "rollout", id)
            return
        version = self.in_flight.pop(id)
        self.stale_on_arrival += self.steps_done - version > self.max_staleness
        self.unused.append((version, id))

    def on_step(self, step: int) -> None:
        self.training = False
        if step % self.interval == 0:
            self.at(self.publish_s, "publish", step)

    def on_publish(self, version: int) -> None:
        self.published = max(self.published, version)


speeds = st.sampled_from([1e-3, 0.1, 1.0, 10.0, 1e3])


@settings(max_examples=150, deadline=None)
@given(
    per_step=st.integers(1, 12),
    max_uses=st.integers(1, 4),
    interval=st.integers(1, 12),
    slack=st.integers(-1, 20),
    capacity=st.integers(1, 40),
    step_s=speeds,
    rollout_s=speeds,
    publish_s=st.sampled_from([1e-3, 0.1, 1.0, 10.0]),
    death_share=st.sampled_from([0.0, 0.1, 0.5]),
    seed=st.integers(0, 2**32),
)
def test_at_any_speeds_training_ends_and_nothing_is_stale_when_it_arrives_or_is_drawn(
    per_step: int,
    max_uses: int,
    interval: int,
    slack: int,
    capacity: int,
    step_s: float,
    rollout_s: float,
    publish_s: float,
    death_share: float,
    seed: int,
) -> None:
    simulation = Simulation(
        per_step=per_step,
        max_uses=max_uses,
        max_staleness=interval + slack,
        interval=interval,
        total_steps=40,
        capacity=capacity,
        step_s=step_s,
        rollout_s=rollout_s,
        publish_s=publish_s,
        death_share=death_share,
        seed=seed,
    )
    simulation.run()
    assert simulation.steps_done == 40
    assert simulation.worst_staleness <= interval + slack
    assert simulation.stale_on_arrival == 0
    if death_share == 0:
        assert simulation.expired_unused == 0

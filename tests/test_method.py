"""The oracle of the method: every sequence of a small vocabulary enumerated in float64, against the paper's theorems.

A sequence is at most `HORIZON` tokens of a vocabulary whose token 0 ends it. Everything exact (π*, V, Q_t, Z) is numpy;
the advantages, Q-values and losses under test are those that the trainer uses.
"""

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from spo.trainer.objectives import OBJECTIVES, advantages, q_values, terminal_q

VOCABULARY, HORIZON, END = 3, 4, 0
BETA = 0.5
Sequence = tuple[int, ...]
Floats = NDArray[np.float64]


def all_sequences() -> list[Sequence]:
    """Every response: it ends with `END`, or is cut at the horizon."""
    return [
        sequence
        for length in range(1, HORIZON + 1)
        for sequence in itertools.product(range(VOCABULARY), repeat=length)
        if END not in sequence[:-1] and (sequence[-1] == END or length == HORIZON)
    ]


SEQUENCES = all_sequences()
CONTEXTS = sorted({sequence[:t] for sequence in SEQUENCES for t in range(len(sequence))})
ROW = {context: row for row, context in enumerate(CONTEXTS)}
LENGTHS = np.array([len(sequence) for sequence in SEQUENCES])
MASK_BT = np.arange(HORIZON)[None] < LENGTHS[:, None]
# [B, T] indices into a [contexts, vocabulary] table of next-token log-probabilities; masked where past the end.
CONTEXT_BT = np.array([[ROW[s[:t]] if t < len(s) else 0 for t in range(HORIZON)] for s in SEQUENCES])
TOKEN_BT = np.array([[s[t] if t < len(s) else 0 for t in range(HORIZON)] for s in SEQUENCES])


def random_table(seed: int) -> Floats:
    """Next-token log-probabilities of a random policy, one row a context."""
    logits = np.random.default_rng(seed).normal(0.0, 1.0, (len(CONTEXTS), VOCABULARY))
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def token_logprobs(table: Floats) -> Floats:
    return np.where(MASK_BT, table[CONTEXT_BT, TOKEN_BT], 0.0)


def sequence_logprobs(table: Floats) -> Floats:
    return token_logprobs(table).sum(axis=1)


@dataclass(frozen=True)
class Problem:
    """One prompt: a reference policy and a reward for each sequence, and what follows from them exactly."""

    reference: Floats
    reward_B: Floats

    @property
    def reference_B(self) -> Floats:
        return np.exp(sequence_logprobs(self.reference))

    @property
    def partition(self) -> float:
        """Z = E_π0[exp(r/β)]."""
        return float((self.reference_B * np.exp(self.reward_B / BETA)).sum())

    @property
    def value(self) -> float:
        """V = β ln Z (Eq. 3)."""
        return BETA * math.log(self.partition)

    @property
    def optimum_B(self) -> Floats:
        """π*(a) = π0(a) exp(r/β) / Z (Eq. 2)."""
        return self.reference_B * np.exp(self.reward_B / BETA) / self.partition

    def q(self, prefix: Sequence) -> float:
        """Q(prefix) = β ln E_π0[exp(r/β) | prefix], by summing over every sequence that begins so."""
        begins = np.array([s[: len(prefix)] == prefix for s in SEQUENCES])
        weight = self.reference_B * begins
        return BETA * math.log((weight * np.exp(self.reward_B / BETA)).sum() / weight.sum())

    def q_BT(self) -> Floats:
        """Q_t of every sequence at every token; Q_T past its end, as the trainer's running sum has it."""
        return np.array([[self.q(s[: min(t + 1, len(s))]) for t in range(HORIZON)] for s in SEQUENCES])

    def success_BT(self) -> Floats:
        """S_t: how probably the reference, going on from token t, succeeds."""
        q_BT, failure = self.q_BT(), math.exp(-1 / BETA)
        return (np.exp(q_BT / BETA) - failure) / (1 - failure)

    def optimal_table(self) -> Floats:
        """π* a token at a time: π0 · exp((Q_t − Q_{t−1}) / β) (Eq. 7)."""
        return np.array(
            [
                [self.reference[ROW[c], v] + (self.q((*c, v)) - self.q(c)) / BETA for v in range(VOCABULARY)]
                for c in CONTEXTS
            ]
        )


def make_problem(seed: int) -> Problem:
    """About a third of the sequences succeed."""
    reward_B = -(np.random.default_rng(1000 + seed).random(len(SEQUENCES)) > 0.33).astype(float)
    assert 0 < -reward_B.sum() < len(SEQUENCES)
    return Problem(random_table(seed), reward_B)


def tensors(problem: Problem, table: Floats) -> tuple[Tensor, Tensor, Tensor]:
    """Policy and reference log-probabilities and the mask, as the objectives take them."""
    return (
        torch.from_numpy(token_logprobs(table)),
        torch.from_numpy(token_logprobs(problem.reference)),
        torch.from_numpy(MASK_BT),
    )


def theta_q_BT(problem: Problem, table: Floats, initial_value: float) -> Floats:
    """Q_t^θ as the trainer computes it."""
    value_B = torch.full((len(SEQUENCES),), initial_value, dtype=torch.float64)
    return q_values(*tensors(problem, table), value_B, beta=BETA).numpy()


def kl(p_B: Floats, q_B: Floats) -> float:
    return float((p_B * np.log(p_B / q_B)).sum())


@pytest.fixture(params=range(3))
def problem(request: pytest.FixtureRequest) -> Problem:
    return make_problem(request.param)


def test_sequences_are_all_there_and_every_policy_is_a_distribution_over_them(problem: Problem) -> None:
    assert len(SEQUENCES) == 1 + 2 + 4 + 8 * 3
    assert np.exp(sequence_logprobs(random_table(99))).sum() == pytest.approx(1.0, abs=1e-12)
    assert problem.optimum_B.sum() == pytest.approx(1.0, abs=1e-12)
    assert np.exp(problem.optimal_table()).sum(axis=1) == pytest.approx(np.ones(len(CONTEXTS)), abs=1e-12)
    np.testing.assert_allclose(np.exp(sequence_logprobs(problem.optimal_table())), problem.optimum_B, rtol=1e-10)


def test_equation_4_the_objective_is_the_value_minus_the_divergence_from_the_optimum(problem: Problem) -> None:
    for seed in range(5):
        policy_B = np.exp(sequence_logprobs(random_table(50 + seed)))
        objective = (policy_B * problem.reward_B).sum() - BETA * kl(policy_B, problem.reference_B)
        assert objective == pytest.approx(problem.value - BETA * kl(policy_B, problem.optimum_B), abs=1e-12)
    at_optimum = (problem.optimum_B * problem.reward_B).sum() - BETA * kl(problem.optimum_B, problem.reference_B)
    assert at_optimum == pytest.approx(problem.value, abs=1e-12)


def test_theorem_2_1_q_theta_is_q_where_the_policy_is_the_optimum(problem: Problem) -> None:
    q_BT = theta_q_BT(problem, problem.optimal_table(), problem.value)
    np.testing.assert_allclose(q_BT, problem.q_BT(), atol=1e-10)


def test_theorem_2_1_q_theta_is_not_q_for_another_policy_or_another_initial_value(problem: Problem) -> None:
    assert np.abs(theta_q_BT(problem, random_table(77), problem.value) - problem.q_BT()).max() > 0.1
    assert np.abs(theta_q_BT(problem, problem.optimal_table(), problem.value - 0.2) - problem.q_BT()).min() > 0.1


def test_theorem_2_2_every_policy_satisfies_soft_bellman_consistency(problem: Problem) -> None:
    table, initial_value = random_table(11), -0.3
    q_BT = theta_q_BT(problem, table, initial_value)
    q = {s[: t + 1]: q_BT[b, t] for b, s in enumerate(SEQUENCES) for t in range(len(s))} | {(): initial_value}
    for context in CONTEXTS:
        # V(context) = β ln Σ_v π0(v) exp(Q(context v) / β), which is Q(context): rewards come at the end only.
        backed_up = sum(
            math.exp(problem.reference[ROW[context], v] + q[(*context, v)] / BETA) for v in range(VOCABULARY)
        )
        assert BETA * math.log(backed_up) == pytest.approx(q[context], abs=1e-12)


def test_theorem_2_3_every_policy_satisfies_path_consistency_on_every_interval(problem: Problem) -> None:
    table, initial_value = random_table(12), -0.3
    q_BT = theta_q_BT(problem, table, initial_value)
    q_BT = np.concatenate([np.full((len(SEQUENCES), 1), initial_value), q_BT], axis=1)
    ratio_BT = token_logprobs(table) - token_logprobs(problem.reference)
    for b, sequence in enumerate(SEQUENCES):
        for start, stop in itertools.combinations(range(len(sequence) + 1), 2):
            gain = BETA * ratio_BT[b, start:stop].sum()
            assert q_BT[b, stop] - q_BT[b, start] == pytest.approx(gain, abs=1e-12)


def test_theorem_2_4_matching_the_terminal_q_alone_makes_the_policy_the_optimum(problem: Problem) -> None:
    # Solve Q_T = r for the sequence log-probabilities, with any initial value that leaves them normalised: only V does.
    for offset in (-0.1, 0.0, 0.1):
        policy_B = problem.reference_B * np.exp((problem.reward_B - problem.value - offset) / BETA)
        assert (abs(policy_B.sum() - 1.0) < 1e-9) == (offset == 0.0)
    policy_B = problem.reference_B * np.exp((problem.reward_B - problem.value) / BETA)
    assert kl(policy_B, problem.optimum_B) == pytest.approx(0.0, abs=1e-12)
    # And the loss is zero there, and only there.
    assert terminal_loss(problem, problem.optimal_table(), "squared") < 1e-20
    assert terminal_loss(problem, problem.reference, "squared") > 1e-2


def terminal_loss(problem: Problem, table: Floats, loss: str) -> float:
    value_B = torch.full((len(SEQUENCES),), problem.value, dtype=torch.float64)
    reward_B = torch.from_numpy(problem.reward_B)
    return terminal_q(*tensors(problem, table), reward_B, value_B, beta=BETA, loss=loss, clip_epsilon=0.01)[0].item()


def test_log_space_identities_hold_at_the_optimum(problem: Problem) -> None:
    table = problem.optimal_table()
    q_BT, advantage_BT = problem.q_BT(), advantages(*tensors(problem, table), beta=BETA).numpy()
    for b, sequence in enumerate(SEQUENCES):
        last = len(sequence) - 1
        # Advantages telescope to Q_T − Q_0, and Q_T is the reward.
        assert advantage_BT[b].sum() == pytest.approx(problem.reward_B[b] - problem.value, abs=1e-10)
        assert q_BT[b, last] == pytest.approx(problem.reward_B[b], abs=1e-12)
        for t in range(len(sequence)):
            # exp(Q_t/β) is the probability, under π0, that what begins so succeeds (failures count e^{−1/β}).
            begins = np.array([s[: t + 1] == sequence[: t + 1] for s in SEQUENCES])
            conditional = problem.reference_B * begins / (problem.reference_B * begins).sum()
            success = (conditional * np.where(problem.reward_B == 0.0, 1.0, math.exp(-1 / BETA))).sum()
            assert math.exp(q_BT[b, t] / BETA) == pytest.approx(success, rel=1e-12)


Weights = Callable[[Floats], Floats]


def on_policy(policy_B: Floats) -> Floats:
    """The data are what the policy samples, in expectation."""
    return policy_B


def off_policy(_policy_B: Floats) -> Floats:
    """The data are a fixed set: each sequence with a weight that has nothing to do with any policy."""
    weight_B = np.random.default_rng(5).uniform(0.2, 1.0, len(SEQUENCES))
    return weight_B / weight_B.sum()


def train(problem: Problem, name: str, loss: str, weights: Weights, num_steps: int) -> list[float]:
    """Trains a tabular softmax policy from the reference on; gives KL(πθ ‖ π*) before and after."""
    logits = torch.from_numpy(problem.reference).clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], betas=(0.5, 0.95))
    context_BT, token_BT = torch.from_numpy(CONTEXT_BT), torch.from_numpy(TOKEN_BT)
    reference_BT = torch.from_numpy(token_logprobs(problem.reference))
    mask_BT, reward_B = torch.from_numpy(MASK_BT), torch.from_numpy(problem.reward_B)
    value_B = torch.full_like(reward_B, problem.value)
    extras = {}
    if name == "mc_q":
        extras["mc_rollouts_BT"] = torch.full(MASK_BT.shape, 1000)
        extras["mc_successes_BT"] = 1000 * torch.from_numpy(problem.success_BT())
    divergences = []
    for step in range(num_steps + 1):
        table = torch.log_softmax(logits, dim=1)
        policy_B = np.exp(sequence_logprobs(table.detach().numpy()))
        if step in (0, num_steps):
            divergences.append(kl(policy_B, problem.optimum_B))
        optimizer.param_groups[0]["lr"] = 0.04 * (1 - step / (num_steps + 1)) ** 2
        optimizer.zero_grad()
        policy_BT = table[context_BT, token_BT]
        # The data's expectation, exact where a sampled batch is noisy: a trajectory's loss depends on its row alone.
        weight_B = torch.from_numpy(weights(policy_B) * len(SEQUENCES))
        policy_BT.register_hook(functools.partial(torch.mul, weight_B[:, None]))
        shared = (policy_BT, reference_BT, mask_BT, reward_B, value_B)
        OBJECTIVES[name](*shared, beta=BETA, loss=loss, clip_epsilon=1e-3, **extras)[0].backward()
        optimizer.step()
    return divergences


@pytest.mark.parametrize("weights", [on_policy, off_policy])
@pytest.mark.parametrize(
    ("name", "loss", "num_steps"),
    [
        # The cross-entropy's kink (a success at probability one) takes a decaying rate and more steps.
        ("terminal_q", "squared", 200),
        ("terminal_q", "cross_entropy", 450),
        ("reverse_q", "squared", 200),
        ("reverse_q", "cross_entropy", 450),
        ("advantage", "squared", 200),
        ("advantage", "cross_entropy", 200),
        ("mc_q", "squared", 200),
        ("mc_q", "cross_entropy", 450),
    ],
)
def test_training_drives_the_policy_to_the_optimum(name: str, loss: str, num_steps: int, weights: Weights) -> None:
    before, after = train(make_problem(0), name, loss, weights, num_steps)
    assert before > 0.05
    assert after < 1e-3

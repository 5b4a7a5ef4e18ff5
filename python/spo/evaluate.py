"""Evaluation: from judged samples to pass@k with intervals.

The estimator is the unbiased one of Chen et al. 2021 that the paper's Sec. 5 uses. Nothing is sampled or
judged here: the orchestrator's evaluation rounds hand in what the workers produced.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from spo.reward import ACCEPTED_REWARD
from spo.store import Trajectory

NUM_RESAMPLES = 2000
"""Bootstrap resamples; the interval's ends are then stable to about a fiftieth of its width."""
_BLOCK_VALUES = 1 << 20
"""Most values resampled at once, which bounds memory."""


class EvaluationSample(msgspec.Struct, frozen=True):
    """One judged response.

    Attributes:
        problem_id: The problem it answers.
        reward: As `spo.reward.reward_of` gives it; samples without a reward are not handed in.
        program: The program in the response; tells accepted programs apart.
        logprob: ln of the probability that the response was drawn with, if that is known.
    """

    problem_id: str
    reward: float
    program: str = ""
    logprob: float | None = None

    @property
    def problem_set(self) -> str:
        """The set that the problem belongs to, as its id has it: `set/name`."""
        return self.problem_id.partition("/")[0] if "/" in self.problem_id else ""


class PassAtK(msgspec.Struct, frozen=True):
    """pass@k of a set of problems.

    Attributes:
        k: Number of tries.
        value: Mean over the problems of the unbiased estimate; where there are several sets, the mean of their means.
        low: Lower end of the 95% bootstrap interval over problems, which are resampled within their sets.
        high: Upper end.
        num_problems: Problems with at least k samples; the others are left out of this mean.
        sets: The mean of each set, by name; empty unless there are several.
    """

    k: int
    value: float
    low: float
    high: float
    num_problems: int
    sets: dict[str, float] = {}


class EvaluationResult(msgspec.Struct, frozen=True):
    """What an evaluation round found.

    Attributes:
        pass_at: pass@k for each k, ascending.
        num_problems: Problems with at least one sample.
        num_samples: All samples.
        mean_reward: Over all samples, in [-1, 0].
        distinct_accepted_programs: Accepted programs that differ in more than white space, over all problems.
        response_entropy: Entropy of a response in nats, as it was sampled (temperature and nucleus included): the mean
            over problems of −ln of the probability that each was drawn with. None where that is not known of all.
    """

    pass_at: tuple[PassAtK, ...]
    num_problems: int
    num_samples: int
    mean_reward: float
    distinct_accepted_programs: int
    response_entropy: float | None = None

    def at(self, k: int) -> PassAtK:
        """pass@k for one k.

        Raises:
            KeyError: This k was not evaluated.
        """
        for entry in self.pass_at:
            if entry.k == k:
                return entry
        raise KeyError(f"pass@{k} was not evaluated; there are {[entry.k for entry in self.pass_at]}")

    def as_report(self) -> dict[str, float | int | list[float] | dict[str, dict[str, float]]]:
        """Flat entries for reports and metrics: `pass_at_1`, `pass_at_1_interval`, …, `mean_reward`."""
        report: dict[str, float | int | list[float] | dict[str, dict[str, float]]] = {}
        for entry in self.pass_at:
            report[f"pass_at_{entry.k}"] = entry.value
            report[f"pass_at_{entry.k}_interval"] = [entry.low, entry.high]
        if any(entry.sets for entry in self.pass_at):
            report["sets"] = {f"pass_at_{entry.k}": entry.sets for entry in self.pass_at}
        report["num_problems"] = self.num_problems
        report["num_samples"] = self.num_samples
        report["mean_reward"] = self.mean_reward
        report["distinct_accepted_programs"] = self.distinct_accepted_programs
        if self.response_entropy is not None:
            report["response_entropy"] = self.response_entropy
        return report


def pass_at_k(num_samples: int, successes: int, k: int) -> float:
    """Unbiased estimate of the probability that one of k samples is accepted (Sec. 5; Chen et al. 2021).

    It is 1 - C(n-c, k) / C(n, k): the share of the k-subsets of the n samples that hold one of the c
    successes. Computed as a product of ratios, which neither overflows nor cancels.

    Raises:
        ValueError: Not 0 <= successes <= num_samples and 1 <= k <= num_samples.
    """
    if not (0 <= successes <= num_samples and 1 <= k <= num_samples):
        raise ValueError(
            f"need 0 <= successes <= num_samples and 1 <= k <= num_samples, "
            f"got {successes} successes of {num_samples} samples and k = {k}"
        )
    if successes == 0:
        return 0.0
    if successes > num_samples - k:
        return 1.0
    log_all_fail = math.fsum(math.log1p(-k / i) for i in range(num_samples - successes + 1, num_samples + 1))
    return -math.expm1(log_all_fail)


def bootstrap_interval(
    values: Sequence[float], seed: int = 0, confidence: float = 0.95, num_resamples: int = NUM_RESAMPLES
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values`, resampled with replacement.

    Args:
        values: One per problem.
        seed: Of the resampling; the same seed gives the same interval.
        confidence: Share of the resampled means inside the interval.
        num_resamples: How many means to draw.

    Raises:
        ValueError: There are no values.
    """
    return interval_of_means([values], seed, confidence, num_resamples)


def interval_of_means(
    sets: Sequence[Sequence[float]], seed: int = 0, confidence: float = 0.95, num_resamples: int = NUM_RESAMPLES
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of the sets' means, each set resampled by itself; see above."""
    if not sets or not all(len(values) for values in sets):
        raise ValueError("an interval needs at least one value")
    generator = np.random.default_rng(seed)
    means = np.zeros(num_resamples)
    for values in sets:
        means += resampled_means(np.asarray(values, dtype=np.float64), num_resamples, generator)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means / len(sets), [tail, 1 - tail])
    return float(low), float(high)


def resampled_means(
    values: npt.NDArray[np.float64], count: int, generator: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Means of so many resamples of `values`, each of as many, with replacement: float64 `[count]`."""
    a_block = max(1, _BLOCK_VALUES // len(values))
    blocks = (min(a_block, count - start) for start in range(0, count, a_block))
    means = [values[generator.integers(0, len(values), (block, len(values)))].mean(axis=1) for block in blocks]
    return np.concatenate(means) if means else np.empty(0)


def evaluate(samples: Iterable[EvaluationSample], ks: Sequence[int] = (1, 10), seed: int = 0) -> EvaluationResult:
    """Summarise the samples of an evaluation round.

    Args:
        samples: All judged samples, in any order.
        ks: The k of each pass@k.
        seed: Of the bootstrap.

    Raises:
        ValueError: No samples, or no problem has as many samples as the largest k.
    """
    by_problem = group_by_problem(samples)
    if not by_problem:
        raise ValueError("there are no samples to evaluate")
    everything = [sample for problem_samples in by_problem.values() for sample in problem_samples]
    return EvaluationResult(
        pass_at=tuple(_mean_pass_at_k(by_problem, k, seed) for k in sorted(set(ks))),
        num_problems=len(by_problem),
        num_samples=len(everything),
        mean_reward=math.fsum(sample.reward for sample in everything) / len(everything),
        distinct_accepted_programs=len({_identity(sample) for sample in everything if _accepted(sample)}),
        response_entropy=_response_entropy(by_problem),
    )


def sample_of(trajectory: Trajectory) -> EvaluationSample:
    """What an evaluation needs of a stored response."""
    logprobs = trajectory.behavior_logprobs
    return EvaluationSample(
        trajectory.problem_id,
        trajectory.reward,
        trajectory.metadata.get("program", ""),
        None if logprobs is None else float(np.sum(logprobs, dtype=np.float64)),
    )


def group_by_problem(samples: Iterable[EvaluationSample]) -> dict[str, list[EvaluationSample]]:
    """The samples of each problem, problems in the order of their ids."""
    by_problem: defaultdict[str, list[EvaluationSample]] = defaultdict(list)
    for sample in samples:
        by_problem[sample.problem_id].append(sample)
    return dict(sorted(by_problem.items()))


def problem_pass_at_k(samples: Sequence[EvaluationSample], k: int) -> float:
    """The unbiased estimate of pass@k from the samples of one problem."""
    return pass_at_k(len(samples), sum(map(_accepted, samples)), k)


def _mean_pass_at_k(by_problem: Mapping[str, list[EvaluationSample]], k: int, seed: int) -> PassAtK:
    by_set: defaultdict[str, list[float]] = defaultdict(list)
    for samples in by_problem.values():
        if len(samples) >= k:
            by_set[samples[0].problem_set].append(problem_pass_at_k(samples, k))
    if not by_set:
        most = max(map(len, by_problem.values()))
        raise ValueError(f"pass@{k} needs {k} samples a problem, there are at most {most}; sample more or lower k")
    means = {name: math.fsum(values) / len(values) for name, values in sorted(by_set.items())}
    low, high = interval_of_means([by_set[name] for name in means], seed)
    value = math.fsum(means.values()) / len(means)
    num_problems = sum(map(len, by_set.values()))
    return PassAtK(k, value, low, high, num_problems, means if len(means) > 1 else {})


def _response_entropy(by_problem: Mapping[str, list[EvaluationSample]]) -> float | None:
    entropies = []
    for samples in by_problem.values():
        logprobs = [sample.logprob for sample in samples if sample.logprob is not None]
        if len(logprobs) < len(samples):
            return None
        entropies.append(-math.fsum(logprobs) / len(logprobs))
    return math.fsum(entropies) / len(entropies)


def _accepted(sample: EvaluationSample) -> bool:
    return sample.reward == ACCEPTED_REWARD


def _identity(sample: EvaluationSample) -> tuple[str, bytes]:
    """The problem and the program's text without trailing blanks and blank lines."""
    lines = (line.rstrip() for line in sample.program.splitlines())
    text = "\n".join(line for line in lines if line)
    return sample.problem_id, hashlib.blake2b(text.encode(errors="replace"), digest_size=16).digest()

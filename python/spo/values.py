"""The value of a prompt before training: counts of the reference's successes, and what follows from them.

Kept on disk as counts (Sec. 3.1.3), so that any beta can use them and later samples add to them. The counts
hold only for the reference, sampler, prompts and tests they were taken with: `ValuesKey`. Sampling and
judging are done by the rollout workers, the orchestrator decides how many samples are still due.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from spo.errors import ConfigError
from spo.files import replace_file

KEY_FILE = "key.json"
COUNTS_FILE = "counts.json"
Z_95 = 1.959963984540054
"""Half-width of a two-sided 95% interval in standard deviations of the normal distribution."""


class ValuesKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What counts depend on; counts under different keys must never be mixed.

    Attributes:
        reference: Fingerprint of the reference's weights and tokenizer.
        sampler: Sampling settings by name, as text (`{"temperature": "1.0", "top_p": "1.0", …}`).
        prompt_template: The template, or its fingerprint.
        test_suite: `spo.problems.suite_hash` of the problems.
    """

    reference: str
    sampler: dict[str, str]
    prompt_template: str
    test_suite: str

    @property
    def digest(self) -> str:
        """32 hex digits naming this key, the same on every machine."""
        encoded = msgspec.json.encode(self, order="deterministic")
        return hashlib.blake2b(encoded, digest_size=16).hexdigest()

    def require_equal(self, found: "ValuesKey", where: str) -> None:
        """Check that counts taken under `found` may be used where this key is wanted.

        Raises:
            ConfigError: They may not; shows each field that differs, with both values.
        """
        differing = [field for field in self.__struct_fields__ if getattr(self, field) != getattr(found, field)]
        if differing:
            details = "; ".join(
                f"{field}: found {getattr(found, field)!r}, this run has {getattr(self, field)!r}"
                for field in differing
            )
            raise ConfigError(
                f"{where}: the counts were taken under another key, {found.digest} and not {self.digest} ({details}); "
                "give this run another values directory, or the same settings"
            )


class ProblemCounts(msgspec.Struct, frozen=True):
    """How often the reference solved one problem.

    Attributes:
        successes: Accepted samples.
        num_samples: All samples with a verdict; failures of the judge are not among them.
    """

    successes: int = 0
    num_samples: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.successes <= self.num_samples:
            raise ValueError(f"successes must be in 0..{self.num_samples} (num_samples), got {self.successes}")


class _CountsRow(msgspec.Struct, forbid_unknown_fields=True):
    successes: int
    num_samples: int
    success_interval: tuple[float, float] = (0.0, 1.0)
    """95%; for people."""


class _CountsFile(msgspec.Struct, forbid_unknown_fields=True):
    key: ValuesKey
    counts: dict[str, _CountsRow]
    version: int = 1


class ValueCounts:
    """The counts of every problem under one key.

    Args:
        key: What they depend on.
        counts: Counts so far, by problem id.
    """

    def __init__(self, key: ValuesKey, counts: Mapping[str, ProblemCounts] | None = None):
        self.key = key
        self._counts = dict(counts or {})

    def __getitem__(self, problem_id: str) -> ProblemCounts:
        """The counts of one problem; zero if it was never sampled."""
        return self._counts.get(problem_id, ProblemCounts())

    def __len__(self) -> int:
        return len(self._counts)

    def as_dict(self) -> dict[str, ProblemCounts]:
        """A copy of the counts by problem id."""
        return dict(self._counts)

    def add(self, problem_id: str, success: bool) -> None:
        """Count one judged sample."""
        before = self[problem_id]
        self._counts[problem_id] = ProblemCounts(before.successes + success, before.num_samples + 1)

    def missing(self, problem_ids: Iterable[str], num_samples: int) -> dict[str, int]:
        """How many samples each problem still lacks to reach `num_samples`; only those that lack some."""
        lacking = {problem_id: num_samples - self[problem_id].num_samples for problem_id in problem_ids}
        return {problem_id: count for problem_id, count in lacking.items() if count > 0}

    def initial_values(self, problem_ids: Iterable[str], beta: float) -> dict[str, float]:
        """Q̂_0 of each problem.

        Raises:
            ValueError: A problem was never sampled; names it.
        """
        values = {}
        for problem_id in problem_ids:
            counts = self[problem_id]
            if counts.num_samples == 0:
                raise ValueError(f"problem {problem_id!r} has no samples; estimate its value first")
            values[problem_id] = initial_value(counts.successes, counts.num_samples, beta)
        return values

    def save(self, path: Path) -> None:
        """Write the counts to `path`, whole or not at all, and durably."""
        rows = {
            problem_id: _CountsRow(one.successes, one.num_samples, success_interval(one.successes, one.num_samples))
            for problem_id, one in self._counts.items()
        }
        content = msgspec.json.encode(_CountsFile(self.key, rows), order="sorted")
        replace_file(path, msgspec.json.format(content, indent=1) + b"\n")

    @classmethod
    def load(cls, path: Path, key: ValuesKey | None = None) -> "ValueCounts":
        """Read the counts at `path`; with a key, there are none if the file does not exist.

        Args:
            path: The file.
            key: What they must depend on; None where any will do.

        Raises:
            ConfigError: The file is damaged, its counts were taken under another key, or it must exist and does not.
        """
        try:
            content = msgspec.json.decode(path.read_bytes(), type=_CountsFile)
            counts = {id: ProblemCounts(row.successes, row.num_samples) for id, row in content.counts.items()}
        except FileNotFoundError:
            if key is None:
                raise ConfigError(f"{path}: there is no such file; is this a directory of values?") from None
            return cls(key)
        except (msgspec.DecodeError, ValueError) as error:
            raise ConfigError(f"{path}: not a counts file ({error}); remove it to count again") from None
        if key is not None:
            key.require_equal(content.key, str(path))
        return cls(content.key, counts)


def open_directory(directory: Path, key: ValuesKey) -> Path:
    """The folder for the values of a key, made if there is none: `directory` itself if it is one, else one in it.

    Raises:
        ConfigError: The folder has the values of another key; the text shows both.
        OSError: It cannot be made.
    """
    folder = directory if (directory / KEY_FILE).is_file() else directory / key.digest
    if (folder / KEY_FILE).is_file():
        key.require_equal(read_key(folder), str(folder))
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / KEY_FILE, msgspec.json.format(msgspec.json.encode(key)) + b"\n")
    return folder


def key_folders(directory: Path) -> list[Path]:
    """The folders of values at or in a directory, one a key."""
    if (directory / KEY_FILE).is_file():
        return [directory]
    return sorted(path.parent for path in directory.glob(f"*/{KEY_FILE}"))


def read_key(folder: Path) -> ValuesKey:
    """The key of a folder of values.

    Raises:
        ConfigError: Its file is damaged.
    """
    try:
        return msgspec.json.decode((folder / KEY_FILE).read_bytes(), type=ValuesKey)
    except (msgspec.DecodeError, OSError) as error:
        raise ConfigError(f"{folder / KEY_FILE}: not a key of values ({error}); remove the folder") from None


def initial_value(successes: int, num_samples: int, beta: float) -> float:
    """Q̂_0 = β ln(Ŝ + (1 - Ŝ) exp(-1/β)) with Ŝ = successes / num_samples (Sec. 3.1.3).

    Exact at both ends: -1.0 without successes, 0.0 without failures, whatever beta.

    Raises:
        ValueError: No samples, more successes than samples, or a beta that is not above 0.
    """
    if num_samples <= 0 or not 0 <= successes <= num_samples:
        raise ValueError(f"need 0 <= successes <= num_samples and a sample, got {successes} of {num_samples}")
    return soft_value(successes / num_samples, beta)


def soft_value(success_rate: float, beta: float) -> float:
    """β ln(S + (1 - S) exp(-1/β)): the soft value where the reference succeeds with rate S."""
    if not (beta > 0 and math.isfinite(beta)):
        raise ValueError(f"beta must be a finite number above 0, got {beta}")
    if not 0 <= success_rate <= 1:
        raise ValueError(f"success_rate must be in 0..1, got {success_rate}")
    if success_rate in (0.0, 1.0):
        return success_rate - 1.0
    log_success = math.log(success_rate)
    log_failure = math.log1p(-success_rate) - 1.0 / beta
    larger, smaller = max(log_success, log_failure), min(log_success, log_failure)
    return beta * (larger + math.log1p(math.exp(smaller - larger)))


def success_interval(successes: int, num_samples: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a success rate; (0, 1) without samples.

    Args:
        successes: Accepted samples.
        num_samples: All samples.
        z: Half-width in standard deviations; 95% by default.
    """
    ProblemCounts(successes, num_samples)
    if num_samples == 0:
        return 0.0, 1.0
    rate = successes / num_samples
    scale = 1 + z * z / num_samples
    center = (rate + z * z / (2 * num_samples)) / scale
    half_width = z / scale * math.sqrt(rate * (1 - rate) / num_samples + (z / (2 * num_samples)) ** 2)
    low = 0.0 if successes == 0 else max(0.0, center - half_width)
    high = 1.0 if successes == num_samples else min(1.0, center + half_width)
    return low, high


def initial_value_interval(successes: int, num_samples: int, beta: float, z: float = Z_95) -> tuple[float, float]:
    """The interval of Q̂_0 that belongs to `success_interval`: the value grows with the rate."""
    low, high = success_interval(successes, num_samples, z)
    return soft_value(low, beta), soft_value(high, beta)

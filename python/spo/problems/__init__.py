"""Problems: what the policy is trained and evaluated on.

`load_problems` turns specs into a sequence of `Problem` records, which are read when they are asked for; `extract_code`
finds the program in a response. Prompts are rendered by the rollout worker, programs are judged by `spo.judge`.
"""

from spo.problems.collection import ById, Problems, infos_of, suite_hash
from spo.problems.extraction import extract_code, fenced
from spo.problems.info import ProblemInfo
from spo.problems.schema import (
    DEFAULT_MEMORY_LIMIT_BYTES,
    DEFAULT_TIME_LIMIT_S,
    HIDDEN,
    PUBLIC,
    Problem,
    ProblemTest,
    Solution,
)
from spo.problems.specs import load_problems

__all__ = [
    "DEFAULT_MEMORY_LIMIT_BYTES",
    "DEFAULT_TIME_LIMIT_S",
    "HIDDEN",
    "PUBLIC",
    "ById",
    "Problem",
    "ProblemInfo",
    "ProblemTest",
    "Problems",
    "Solution",
    "extract_code",
    "fenced",
    "infos_of",
    "load_problems",
    "suite_hash",
]

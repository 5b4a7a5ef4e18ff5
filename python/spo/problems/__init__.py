"""Problems: what the policy is trained and evaluated on.

`load_problems` turns specs into `Problem` records, `extract_code` finds the program in a response. Prompts
are rendered by the rollout worker, programs are judged by `spo.judge`.
"""

from spo.problems.extraction import extract_code
from spo.problems.schema import (
    DEFAULT_MEMORY_LIMIT_BYTES,
    DEFAULT_TIME_LIMIT_S,
    HIDDEN,
    PUBLIC,
    Problem,
    ProblemTest,
    Solution,
    suite_hash,
)
from spo.problems.specs import load_problems

__all__ = [
    "DEFAULT_MEMORY_LIMIT_BYTES",
    "DEFAULT_TIME_LIMIT_S",
    "HIDDEN",
    "PUBLIC",
    "Problem",
    "ProblemTest",
    "Solution",
    "extract_code",
    "load_problems",
    "suite_hash",
]

"""Omissions: rows of a data set that cannot be trained on, counted instead of refused.

A data set of thousands should not fail for a few rows that nobody can mend; a damaged row is an error all the same.
"""

import logging
from collections import Counter

_log = logging.getLogger("spo.problems")


def log_omissions(path: str, reasons: Counter[str]) -> None:
    """Warn of the rows of `path` that were left out, one line a reason."""
    for reason, count in reasons.items():
        _log.warning("%s: left out %d problems: %s", path, count, reason)

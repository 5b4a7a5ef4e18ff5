"""Why a run or a sampling session ended: one reason out of all that went wrong at once."""

from __future__ import annotations

from spo.errors import RunFailed


class Interrupted(RunFailed):
    """It was ended from outside."""


def first_leaf(error: BaseException) -> Exception:
    """The first exception in a group that tells most: one of ours before any other."""
    leaves = list(_leaves(error))
    ours = [leaf for leaf in leaves if isinstance(leaf, RunFailed)]
    return (ours or leaves)[0]


def _leaves(error: BaseException) -> list[Exception]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in _leaves(part)]
    return [error] if isinstance(error, Exception) else []

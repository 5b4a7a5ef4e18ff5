"""Which policy version sampled which tokens of a response, where new weights came while it grew.

Spans are pairs of a version and how many tokens in a row it sampled, in order; their sum is the number of tokens that
were sampled, without a beginning that was given. A trajectory carries them as text in its metadata, and only if there
are several: else `min_policy_version` says it all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from spo.store import Trajectory

Spans: TypeAlias = tuple[tuple[int, int], ...]

SPANS_KEY = "policy_versions"
"""The metadata's key; its value is such as `10:57 20:31`: 57 tokens by version 10, then 31 by version 20."""


def spans_of(versions: Sequence[int]) -> Spans:
    """Joins the versions of tokens, one for each, to spans."""
    spans: list[tuple[int, int]] = []
    for version in versions:
        if spans and spans[-1][0] == version:
            spans[-1] = (version, spans[-1][1] + 1)
        else:
            spans.append((version, 1))
    return tuple(spans)


def spans_to_metadata(spans: Spans) -> dict[str, str]:
    """What a trajectory's metadata say of spans: nothing if there is but one."""
    if len(spans) < 2:
        return {}
    return {SPANS_KEY: " ".join(f"{version}:{num_tokens}" for version, num_tokens in spans)}


def version_spans(trajectory: Trajectory) -> Spans:
    """The spans of a trajectory's tokens; one of the whole response where it was sampled by one version.

    Raises:
        ValueError: The metadata hold something else under `SPANS_KEY`.
    """
    text = trajectory.metadata.get(SPANS_KEY)
    if text is None:
        return ((trajectory.min_policy_version, len(trajectory.response_tokens)),)
    pairs = [part.partition(":") for part in text.split()]
    return tuple((int(version), int(num_tokens)) for version, _, num_tokens in pairs)

"""The orchestrator's part of a checkpoint: where buffer and online work stood after the batch of a step was drawn.

Small (ids, uses, random state): the trajectories themselves are in the store. The trainer's checkpoint carries it as
bytes, so that both always belong to the same step.
"""

from __future__ import annotations

from typing import Any

import msgspec

from spo.errors import RunFailed

_VERSION = 3


class SavedProgress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The state after the batch of `step` was drawn."""

    step: int
    experience: dict[str, Any]
    """Of `Experience.state`."""
    online: dict[str, Any]
    """Of `OnlineSource.state`."""
    values: dict[str, Any]
    """Of `ProblemValues.state`; empty where Q̂_0 is fixed."""
    version: int = _VERSION


def encode_state(state: SavedProgress) -> bytes:
    """The state as bytes."""
    return msgspec.msgpack.encode(state)


def decode_state(data: bytes, step: int) -> SavedProgress | None:
    """The state that a checkpoint of `step` carried; None where there was none (the start of the run).

    Raises:
        RunFailed: It is damaged, or of another step or version.
    """
    if not data:
        return None
    try:
        state = msgspec.msgpack.decode(data, type=SavedProgress)
    except msgspec.DecodeError as error:
        raise RunFailed(f"the checkpoint of step {step} holds a damaged orchestrator state: {error}") from None
    if state.version != _VERSION or state.step != step:
        raise RunFailed(
            f"the checkpoint of step {step} holds an orchestrator state of step {state.step} in version "
            f"{state.version} (this spo writes version {_VERSION}); resume with the spo that wrote it"
        )
    return state

"""The exceptions of `spo`. I/O failures stay `OSError`; wrong arguments and settings are `ValueError`."""


class SpoError(Exception):
    """Anything that `spo` itself reports as gone wrong."""


class ConfigError(SpoError, ValueError):
    """A setting is unknown, ill-typed or impossible; the text names the field and the fix."""


class ProblemError(SpoError, ValueError):
    """A problem file has a hole in it; the text names the file (and line) and the fix."""


class StoreError(SpoError):
    """The trajectory store cannot do what was asked."""


class CorruptShardError(StoreError):
    """A file of the store holds other bytes than were written; the text names the file and the offset."""


class NotEnough(StoreError):  # noqa: N818
    """A source of the replay buffer cannot give its part of a batch yet (it is named); nothing was taken."""


class JudgeError(SpoError):
    """The judge itself failed; never says anything about the judged program."""


class WeightsError(SpoError):
    """A policy version could not be published, fetched or verified."""


class VersionGone(WeightsError):  # noqa: N818
    """The policy version asked for is no longer kept; fetch `newest` instead."""

    def __init__(self, text: str, newest: int) -> None:
        super().__init__(text)
        self.newest = newest


class EngineError(SpoError):
    """A rollout engine has failed or is closed; what it was asked for will not come."""


class ConnectionLost(SpoError):  # noqa: N818
    """The other process closed the connection, or sent what the protocol does not allow."""


class RunFailed(SpoError):  # noqa: N818
    """A training run ended without finishing; the text says why and what to do."""

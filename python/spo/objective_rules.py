"""Which objectives there are, which losses and warps each takes, and what each needs of a run. No torch.

The one table that settings are checked against before a run starts (`check_objective`) and that the objectives
themselves, in `spo.trainer.objectives`, are looked up in. What they compute is not known here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from spo.errors import ConfigError

if TYPE_CHECKING:
    from spo.config import Config, ObjectiveConfig, ObjectiveTerm

ObjectiveName = Literal["terminal_q", "reverse_q", "advantage", "mc_q", "policy_gradient", "grpo", "oapl", "ppo"]
LossName = Literal["cross_entropy", "squared"]
WarpName = Literal["default", "none", "sigmoid", "tanh", "arctan", "asinh"]

WARPS: tuple[str, ...] = ("none", "sigmoid", "tanh", "arctan", "asinh")


_LOGARITHMS = {"cross_entropy": ("none", "sigmoid"), "squared": WARPS}
WARPS_OF: dict[str, dict[str, tuple[str, ...]]] = {
    "terminal_q": _LOGARITHMS,
    "reverse_q": _LOGARITHMS,
    "advantage": {"cross_entropy": ("sigmoid",), "squared": WARPS},
    "mc_q": _LOGARITHMS,
}
"""The warps that each objective takes under each loss, the default first.

The cross-entropy wants probabilities: values that are their logarithms, or the sigmoid of any. A sum of advantages is
no such logarithm.
"""

SAMPLED = frozenset({"policy_gradient", "grpo", "oapl", "ppo"})
"""No regressions: they learn from the log-probabilities that the sampler drew each token with."""
GROUPED = frozenset({"grpo", "oapl"})
"""Of these, the ones that compare the responses to a problem that were sampled together."""


def resolve_warp(name: str, loss: str, warp: str) -> str:
    """The warp that an objective is computed with, where `default` is the first that goes with the loss.

    Raises:
        ValueError: The objective does not exist, or does not take this loss or warp; says what it takes.
    """
    if name in SAMPLED:
        if loss != "cross_entropy" or warp != "default":
            raise ValueError(f"{name} is no regression: it takes neither loss nor warp; leave both out")
        return "none"
    if name not in WARPS_OF:
        raise ValueError(f"name {name!r}: the objectives are {', '.join((*WARPS_OF, *sorted(SAMPLED)))}")
    if loss not in WARPS_OF[name]:
        raise ValueError(f"loss {loss!r}: {name} takes {' or '.join(WARPS_OF[name])}")
    allowed = WARPS_OF[name][loss]
    if warp != "default" and warp not in allowed:
        raise ValueError(f"warp {warp!r}: {name} with loss {loss} takes {' or '.join(allowed)}")
    return allowed[0] if warp == "default" else warp


def needs_values(config: ObjectiveConfig) -> bool:
    """Whether a value model is trained beside the policy."""
    return any(term.name == "ppo" for _, term in objective_terms(config))


def check_objective(config: Config) -> None:
    """Checks that the objective and its terms take the losses and warps that they are given, and the run's sampling.

    Raises:
        ConfigError: They do not; names the field and the fix.
    """
    for field, term in objective_terms(config.objective):
        try:
            resolve_warp(term.name, term.loss, term.warp)
        except ValueError as error:
            raise ConfigError(f"{field}: {error}") from None
        if term.name in SAMPLED:
            _check_sampling(config, field, term)


def objective_terms(config: ObjectiveConfig) -> list[tuple[str, ObjectiveConfig | ObjectiveTerm]]:
    """The terms of the sum, each with the name of its setting: the objective itself, then those added to it."""
    added = [(f"objective.terms[{index}]", term) for index, term in enumerate(config.terms)]
    return [("objective", config), *added]


def _check_sampling(config: Config, field: str, term: ObjectiveConfig | ObjectiveTerm) -> None:
    sampling = config.sampling
    if (sampling.temperature_min, sampling.temperature_max, sampling.top_p) != (1.0, 1.0, 1.0):
        raise ConfigError(
            f"{field}: {term.name} needs samples of the policy as it is; set sampling.temperature_min, "
            "sampling.temperature_max and sampling.top_p to 1"
        )
    if config.batch.online_fraction < 1 and term.sources != ("online",):
        raise ConfigError(
            f'{field}: {term.name} cannot learn from offline trajectories; set {field}.sources to ["online"], or '
            "batch.online_fraction to 1"
        )
    if term.name in GROUPED and sampling.samples_per_problem < 2:
        raise ConfigError(
            f"{field}: {term.name} compares the responses to a problem; set sampling.samples_per_problem to 2 or more"
        )

"""The configured objective: sums of weighted terms, each of some sources' trajectories; what settings are refused."""

import math

import objective_oracle as oracle
import pytest
import torch
from torch import Tensor

from spo.config import Config, ObjectiveConfig, ObjectiveTerm, load_config, parse_config, to_toml
from spo.errors import ConfigError
from spo.trainer.objectives import OBJECTIVES, Metrics, grpo, make_objective

SOURCES = ("online", "offline", "annotated", "online", "offline")


def tensors(seed: int) -> tuple[list[Tensor], dict[str, Tensor]]:
    case = {key: torch.from_numpy(value) for key, value in oracle.random_case(seed).items()}
    case["policy"].requires_grad_()
    extras = {f"{key}_BT": case[key] for key in ("mc_successes", "mc_rollouts")}
    return [case[key] for key in ("policy", "reference", "mask", "reward", "value")], extras


def expected(name: str, loss: str, rows: list[int], seed: int, **options: float) -> float:
    """The sum of a term over some trajectories, computed independently."""
    case = {key: value[rows] for key, value in oracle.random_case(seed).items()}
    warp = "sigmoid" if name == "advantage" and loss == "cross_entropy" else "none"
    return oracle.objective(case, name, loss, warp, **options)[0] * len(rows)


def test_an_objective_per_source_and_a_weighted_sum_are_the_sums_of_their_parts() -> None:
    config = ObjectiveConfig(
        sources=("online",),
        weight=2.0,
        mc_weight=0.5,
        terms=(
            ObjectiveTerm("reverse_q", loss="squared", sources=("offline",)),
            ObjectiveTerm("mc_q", sources=("annotated",), weight=3.0),
            ObjectiveTerm("advantage", weight=0.25),
        ),
    )
    data, extras = tensors(0)
    mean, _ = make_objective(config)(*data, sources=SOURCES, **extras)
    total = 2.0 * expected("terminal_q", "cross_entropy", [0, 3], 0)
    total += expected("reverse_q", "squared", [1, 4], 0)
    total += 3.0 * expected("mc_q", "cross_entropy", [2], 0, mc_weight=0.5)
    total += 0.25 * expected("advantage", "cross_entropy", [0, 1, 2, 3, 4], 0)
    assert mean.item() == pytest.approx(total / 5, rel=1e-12)


def test_micro_batches_add_up_to_the_whole_in_gradient_and_metrics() -> None:
    objective = make_objective(
        ObjectiveConfig(sources=("online",), terms=(ObjectiveTerm("mc_q", loss="squared", sources=("annotated",)),))
    )

    def run(rows: slice) -> tuple[Tensor, Metrics]:
        data, extras = tensors(1)
        chosen = [value[rows] for value in data]
        mean, metrics = objective(*chosen, sources=SOURCES[rows], **{key: value[rows] for key, value in extras.items()})
        (mean * len(chosen[3]) / 5).backward()
        assert data[0].grad is not None
        return data[0].grad, metrics

    whole, whole_metrics = run(slice(0, 5))
    # The first part has no annotated trajectory, the third none at all.
    parts = [run(rows) for rows in (slice(0, 2), slice(2, 5), slice(5, 5))]
    torch.testing.assert_close(sum(gradient for gradient, _ in parts), whole, rtol=1e-12, atol=1e-14)
    for _, metrics in parts:
        assert list(metrics) == list(whole_metrics)
    for name, sum_and_count in whole_metrics.items():
        torch.testing.assert_close(sum(metrics[name] for _, metrics in parts), sum_and_count, rtol=1e-12, atol=1e-14)


def test_a_batch_without_trajectories_still_leads_back_to_the_policy_with_gradient_zero() -> None:
    policy = torch.zeros(0, 3, dtype=torch.float64, requires_grad=True)
    nothing = torch.zeros(0, dtype=torch.float64)
    mean, _ = make_objective(ObjectiveConfig())(policy, torch.zeros(0, 3), torch.zeros(0, 3).bool(), nothing, nothing)
    mean.backward()
    assert mean.item() == 0.0


def test_where_no_term_concerns_any_trajectory_the_value_model_gets_a_gradient_of_zero_too() -> None:
    data, _ = tensors(0)
    value = torch.full_like(data[0], math.nan).masked_fill(data[2], -0.5).requires_grad_()
    extras = {"behavior_logprobs_BT": data[0].detach(), "value_BT": value}
    mean, _ = make_objective(ObjectiveConfig(name="ppo", sources=("elsewhere",)))(*data, sources=SOURCES, **extras)
    mean.backward()
    for leaf in (data[0], value):
        assert leaf.grad is not None
        assert (leaf.grad == 0).all()


def test_trajectories_that_no_term_concerns_count_as_zero() -> None:
    data, _ = tensors(2)
    mean, metrics = make_objective(ObjectiveConfig(sources=("elsewhere",)))(*data, sources=SOURCES)
    mean.backward()
    assert mean.item() == 0.0
    assert (data[0].grad == 0).all()
    assert metrics["loss/objective"].tolist() == [0.0, 5.0]
    assert metrics["loss/q_terminal"][0] != 0.0


def test_metrics_are_those_of_the_weighted_sum_over_all_trajectories() -> None:
    data, _ = tensors(3)
    config = ObjectiveConfig(weight=2.0, terms=(ObjectiveTerm("reverse_q", loss="squared", sources=("offline",)),))
    mean, metrics = make_objective(config)(*data, sources=SOURCES)
    means = {name: (total / count).item() for name, (total, count) in metrics.items()}
    assert means["loss/objective"] == pytest.approx(mean.item(), rel=1e-12)
    _, alone = OBJECTIVES["terminal_q"](*data, beta=config.beta)
    assert means["loss/q_terminal"] == pytest.approx((alone["loss/q_terminal"][0] / 5).item(), rel=1e-12)
    assert metrics["loss/objective_success"][1] + metrics["loss/objective_failure"][1] == 5


def test_a_term_for_a_source_needs_the_sources() -> None:
    with pytest.raises(ValueError, match=r"sources \('online',\), but 0 of 5 are given"):
        make_objective(ObjectiveConfig(sources=("online",)))(*tensors(4)[0])


@pytest.mark.parametrize("name", oracle.REGRESSIONS)
def test_every_objective_can_be_configured_by_its_name_alone(name: str) -> None:
    config = load_config("tiny", [f"objective.name={name}"])
    data, extras = tensors(5)
    mean, _ = make_objective(config.objective)(*data, sources=SOURCES, **extras)
    expected_mean = expected(name, "cross_entropy", [0, 1, 2, 3, 4], 5) / 5
    assert mean.item() == pytest.approx(expected_mean, rel=1e-12)


ON_POLICY = ("sampling.temperature_min=1.0", "sampling.temperature_max=1.0", "sampling.top_p=1.0")


def test_a_regression_and_a_policy_gradient_are_summed_each_on_its_trajectories() -> None:
    term = 'objective.terms=[{name="grpo", sources=["online"], weight=0.5}]'
    config = load_config("tiny", [*ON_POLICY, term, "objective.ratio_clip=0.1"])
    data, _ = tensors(6)
    behavior, rate = data[0].detach() - 0.05, torch.tensor([0.5, math.nan, math.nan, 0.5, math.nan])
    extras = {"behavior_logprobs_BT": behavior, "group_success_rate_B": rate}
    mean, metrics = make_objective(config.objective)(*data, sources=SOURCES, **extras)
    rows = torch.tensor([0, 3])
    own = {"behavior_logprobs_BT": behavior[rows], "group_success_rate_B": rate[rows]}
    beta = config.objective.beta
    alone, _ = grpo(*(value[rows] for value in data), beta=beta, ratio_clip=0.1, **own)
    total = expected("terminal_q", "cross_entropy", [0, 1, 2, 3, 4], 6) / 5 + 0.5 * 2 / 5 * alone.item()
    assert mean.item() == pytest.approx(total, rel=1e-9)
    assert metrics["loss/importance_ratio"][1] == data[2][rows].sum()
    with pytest.raises(TypeError, match="behavior_logprobs_BT"):
        make_objective(config.objective)(*data, sources=SOURCES)


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("policy_gradient", "ratio_clip", 0.05),
        ("grpo", "ratio_clip", 0.05),
        ("oapl", "value_beta", 1.0),
        ("ppo", "ratio_clip", 0.05),
        ("ppo", "gae_lambda", 0.3),
        ("ppo", "value_weight", 3.0),
        ("mc_q", "mc_weight", 3.0),
    ],
)
def test_the_settings_of_an_objective_reach_it(name: str, setting: str, value: float) -> None:
    data, extras = tensors(7)
    extras["behavior_logprobs_BT"] = data[0].detach() + 0.1
    extras["value_BT"] = torch.full_like(data[0], -0.5).detach()
    extras["group_success_rate_B"] = torch.full((5,), 0.5, dtype=torch.float64)
    usual, changed = (
        make_objective(ObjectiveConfig(name=name, **settings))(*data, sources=SOURCES, **extras)[0].item()  # type: ignore[arg-type]
        for settings in ({}, {setting: value})
    )
    assert changed != pytest.approx(usual, rel=1e-3)


def test_terms_are_read_from_overrides_and_survive_being_written_out() -> None:
    term = 'objective.terms=[{name="reverse_q", loss="squared", weight=0.5, sources=["offline"]}, {name="advantage"}]'
    config = load_config("tiny", ["objective.sources=['online']", term])
    assert config.objective.terms == (
        ObjectiveTerm("reverse_q", loss="squared", weight=0.5, sources=("offline",)),
        ObjectiveTerm("advantage"),
    )
    assert parse_config(to_toml(config), "config.toml") == config


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["objective.name=best"], r"objective.name: Invalid enum value 'best'; choose from terminal_q, reverse_q"),
        (
            ["objective.loss=absolute"],
            r"objective.loss: Invalid enum value 'absolute'; choose from cross_entropy, squared",
        ),
        (
            ["objective.name=advantage", "objective.warp=none"],
            r"^objective: warp 'none': advantage with loss cross_entr",
        ),
        (["objective.warp=tanh"], r"^objective: warp 'tanh': terminal_q with loss cross_entropy takes none or sigmoid"),
        (
            ['objective.terms=[{name="reverse_q", warp="asinh"}]'],
            r"^objective\.terms\[0\]: warp 'asinh': reverse_q with",
        ),
        (['objective.terms=[{name="reverse_q", weight=0.0}]'], r"weight"),
        (['objective.terms=[{loss="squared"}]'], r"missing required field `name`"),
        (
            ["objective.name=grpo"],
            r"objective: grpo needs samples of the policy as it is; set sampling\.temperature_min",
        ),
        (
            ["objective.name=oapl", *ON_POLICY],
            r"objective: oapl cannot learn from offline trajectories; set objective\.so",
        ),
        (
            ["objective.name=grpo", "batch.online_fraction=1.0", "sampling.samples_per_problem=1", *ON_POLICY],
            r"objective: grpo compares the responses to a problem; set sampling\.samples_per_problem",
        ),
        (["objective.name=grpo", "objective.loss=squared"], r"objective: grpo is no regression: it takes neither loss"),
        (['objective.terms=[{name="mc_q", gain=1}]'], r"terms\[0\]: .*unknown field `gain`; the fields are name, loss"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_with_the_field(overrides: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load_config("tiny", overrides)


def test_the_default_objective_is_the_papers() -> None:
    objective = Config().objective
    assert (objective.name, objective.loss, objective.weight, objective.terms) == ("terminal_q", "cross_entropy", 1, ())
    assert objective.beta == pytest.approx(1 / math.log(100_000))

"""The dry run: sizes of models, memory that adds up, and the paper's presets value by value."""

import json
import math
import operator
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from spo.cli import main
from spo.config import load_config, preset_names
from spo.errors import ConfigError
from spo.model_shapes import KNOWN, ModelShape, shape_of
from spo.plan import GIB, make_plan, render
from spo.tiny.reference import ReferenceSettings
from spo.tiny.tokenizer import make_tokenizer


def written_config(shape: ModelShape, folder: Path) -> LlamaConfig:
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.mlp_width,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_width,
        tie_word_embeddings=shape.tied,
    )
    config.save_pretrained(folder)
    return config


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_a_shape_counts_the_parameters_of_the_model_and_is_read_from_its_config(name: str, tmp_path: Path) -> None:
    shape = KNOWN[name]
    with torch.device("meta"):
        model = LlamaForCausalLM(written_config(shape, tmp_path))
    assert sum(parameter.numel() for parameter in model.parameters()) == shape.parameters
    layer = sum(parameter.numel() for parameter in model.model.layers[0].parameters())
    assert layer == shape.layer_parameters
    assert shape_of(str(tmp_path)) == shape


def test_the_known_sizes_are_those_of_the_models() -> None:
    assert KNOWN["meta-llama/Llama-3.1-8B-Instruct"].parameters == 8_030_261_248
    assert KNOWN["HuggingFaceTB/SmolLM2-135M-Instruct"].parameters == 134_515_008
    settings, tiny = ReferenceSettings(), KNOWN["tiny"]
    assert (tiny.width, tiny.num_layers, tiny.num_heads) == (
        settings.hidden_size,
        settings.num_layers,
        settings.num_heads,
    )
    assert tiny.vocabulary == len(make_tokenizer())


def test_what_is_no_known_model_is_refused_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"model\.path: the sizes of 'some/model' are not known here; give a local fo"
    ):
        shape_of("some/model")
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8, "num_attention_heads": 2}))
    with pytest.raises(ConfigError, match=r"config\.json: does not say 'vocab_size'"):
        shape_of(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json: cannot be read"):
        shape_of(str(tmp_path))


def test_sharded_state_shrinks_with_the_ranks_and_adds_up_to_sixteen_bytes_a_parameter() -> None:
    config = load_config("llama31-8b-codecontests")
    parameters = KNOWN[config.model.path].parameters
    for num_ranks in (1, 8, 64):
        held = make_plan(config, num_ranks).trainer_bytes
        sharded = sum(value for name, value in held.items() if "float32 shard" in name)
        assert sharded == pytest.approx(16 * parameters / num_ranks, rel=1e-6)
        assert held["reference, bfloat16 shard"] == pytest.approx(2 * parameters / num_ranks, rel=1e-6)
    assert make_plan(config).trainer_gpus == 64


def test_the_key_value_cache_is_that_of_full_rows() -> None:
    config = load_config("llama31-8b-codecontests", [BUILT_IN, "workers.max_batch_size=4", "batch.token_budget=4096"])
    held = make_plan(config).worker_bytes["key-value cache of 4 full rows"]
    # Keys and values, layers, heads, head width, two bytes each.
    assert held == 4 * 4096 * 2 * 32 * 8 * 128 * 2


BUILT_IN = "workers.engine=transformers"
VLLM = ("workers.engine=vllm", "vllm.gpu_memory_utilization=0.5")


def test_vllm_holds_one_policy_and_gives_the_rest_of_its_share_to_keys_and_values() -> None:
    config = load_config("llama31-8b-codecontests", VLLM)
    weights, cache = make_plan(config).worker_bytes.values()
    assert weights == 2 * KNOWN[config.model.path].parameters
    assert weights + cache == int(0.5 * 79.0 * GIB)
    assert f"key-value cache of {cache // (4096 * 2 * 2 * 32 * 8 * 128)} full rows" in make_plan(config).worker_bytes
    text = render(config, make_plan(config))
    assert "Workers     64 GPUs on 8 nodes: a whole model each (vllm)" in text
    assert "39.50 GiB  a GPU in all; fits into 39.5 GiB" in text
    fixed = make_plan(load_config("llama31-8b-codecontests", [*VLLM, "vllm.kv_cache_bytes=1000000000"]))
    assert sum(fixed.worker_bytes.values()) == weights + 1_000_000_000


def test_vllm_spreads_model_and_cache_over_the_gpus_of_a_worker() -> None:
    config = load_config("llama31-8b-codecontests", [*VLLM, "vllm.tensor_parallel_size=4"])
    plan = make_plan(config)
    assert plan.worker_bytes["policy or reference, 1/4 of it"] == KNOWN[config.model.path].parameters // 2
    assert "64 GPUs on 8 nodes: 16 models spread over 4 each (vllm)" in render(config, plan)
    with pytest.raises(ConfigError, match=r"plan\.worker_gpus \(64\) is no multiple of vllm\.tensor_parallel_size"):
        make_plan(load_config("llama31-8b-codecontests", [*VLLM, "vllm.tensor_parallel_size=3"]))


def test_a_model_that_vllm_has_no_room_for_does_not_fit() -> None:
    config = load_config("llama31-8b-codecontests", ["workers.engine=vllm", "vllm.gpu_memory_utilization=0.1"])
    assert "DOES NOT FIT into 7.9 GiB" in render(config, make_plan(config))


def test_recomputing_layers_saves_most_activations() -> None:
    with_it, without = (
        make_plan(load_config("llama31-8b-codecontests", [f"model.gradient_checkpointing={value}"]))
        for value in ("true", "false")
    )
    assert with_it.trainer_bytes["activations"] < without.trainer_bytes["activations"] / 5


def test_a_plan_that_does_not_fit_says_so() -> None:
    config = load_config("llama31-8b-codecontests", [BUILT_IN, "workers.max_batch_size=256"])
    text = render(config, make_plan(config))
    assert "DOES NOT FIT into 79 GiB" in text
    assert "DOES NOT FIT" not in render(config, make_plan(load_config("llama31-8b-codecontests")))


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_resolves_fits_and_is_laid_out(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", preset, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.count(" in all; fits into ") == 2
    plan = make_plan(load_config(preset))
    assert f"{sum(plan.trainer_bytes.values()) / GIB:.2f} GiB  a GPU in all" in out


def test_a_dry_run_takes_settings_and_ranks_and_refuses_wrong_ones(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "llama31-8b-codecontests", "--dry-run"]
    assert main([*command, "--nproc-per-node", "8", "objective.name=reverse_q"]) == 0
    out = capsys.readouterr().out
    assert "Trainers    8 GPUs on 1 node" in out
    assert "1 reverse_q" in out
    assert main([*command, "objective.name=grpo"]) == 2
    assert "grpo needs samples of the policy as it is" in capsys.readouterr().err
    assert main([*command, "--nproc-per-node", "0"]) == 2


def test_a_dry_run_imports_no_torch() -> None:
    code = (
        "import sys; from spo.cli import main; main(['train', 'tiny', '--dry-run']); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, stdout=subprocess.DEVNULL)


def test_ppo_holds_a_value_model_besides() -> None:
    spo, ppo = (make_plan(load_config(f"llama31-8b-codecontests{form}")).trainer_bytes for form in ("", "-ppo"))
    parameters = KNOWN["meta-llama/Llama-3.1-8B-Instruct"].parameters
    held = ppo["value model with gradients and moments, float32 shard"]
    assert held == pytest.approx(16 * parameters / 64, rel=1e-6)
    assert {name: value for name, value in ppo.items() if not name.startswith("value model")} == spo


SECTION_5: dict[str, object] = {
    "model.path": "meta-llama/Llama-3.1-8B-Instruct",
    "objective.name": "terminal_q",
    "objective.loss": "cross_entropy",
    "objective.beta": 0.08685889638065036,
    "optimizer.learning_rate": 6e-8,
    "optimizer.warmup_steps": 200,
    "batch.num_trajectories": 128,
    "batch.online_fraction": 1.0,
    "batch.annotated_fraction": 0.0,
    "trainer.total_steps": 100_000,
    "sampling.temperature_min": 0.1,
    "sampling.temperature_max": 0.8,
    "sampling.top_p": 0.95,
    "weights.model_update_interval": 10,
    "values.num_samples": 800,
    "evaluation.num_samples": 20,
    "evaluation.temperature": 0.4,
    "evaluation.top_p": 0.95,
    "evaluation.ks": (1, 10),
    "plan.trainer_gpus": 64,
    "plan.worker_gpus": 64,
    "plan.gpus_per_node": 8,
}
"""The paper's online run, by setting."""
FORMS: dict[str, dict[str, object]] = {
    "": {},
    "-half-online": {"batch.online_fraction": 0.5, "plan.worker_gpus": 32},
    "-mc": {
        "objective.name": "mc_q",
        "batch.online_fraction": 0.5,
        "batch.annotated_fraction": 0.25,
        "plan.worker_gpus": 32,
    },
    "-ppo": {
        "objective.name": "ppo",
        "sampling.temperature_min": 1.0,
        "sampling.temperature_max": 1.0,
        "sampling.top_p": 1.0,
        "weights.model_update_interval": 1,
    },
}
"""Its other forms, and in what they differ."""


@pytest.mark.parametrize("form", FORMS)
def test_the_papers_presets_have_every_value_of_its_section_5(form: str) -> None:
    config = load_config(f"llama31-8b-codecontests{form}")
    wanted = SECTION_5 | FORMS[form]
    assert {name: operator.attrgetter(name)(config) for name in wanted} == wanted
    assert config.objective.beta == 1 / math.log(100_000)

"""The weight transfer backend in vLLM's own hands: the example, a program that publishes by itself, and what fails."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from test_vllm import make_model
from transformers import AutoModelForCausalLM, LlamaForCausalLM

pytestmark = pytest.mark.vllm

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "vllm_weights.py"
ENVIRONMENT = {
    **os.environ,
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "HF_HUB_OFFLINE": "1",
}

EXTENSION_PROGRAM = """
import sys
import numpy as np
import torch
from transformers import AutoModelForCausalLM
from vllm import LLM, SamplingParams
from spo.weights import WeightPublisher, WeightShard

old, new = sys.argv[1:]
llm = LLM(old, skip_tokenizer_init=True, dtype="float32", enforce_eager=True, max_model_len=64,
          kv_cache_memory_bytes=1 << 27, worker_extension_cls="spo.vllm_plugin.WorkerExtension")
model = AutoModelForCausalLM.from_pretrained(new, dtype=torch.float32)
shards = [WeightShard(name, "float32", tuple(p.shape), 0, p.detach().reshape(-1).numpy())
          for name, p in model.named_parameters()]


def sample():
    settings = SamplingParams(temperature=0, max_tokens=12, detokenize=False, ignore_eos=True)
    (output,) = llm.generate({"prompt_token_ids": [5, 6, 7]}, settings, use_tqdm=False)
    return list(output.outputs[0].token_ids)


def update(version):
    llm.collective_rpc("spo_update_weights", args=([publisher.address], "5e", version, 5.0))
    llm.reset_prefix_cache()


with WeightPublisher(token=b"^") as publisher:
    print("old", sample())
    publisher.publish(1, shards[:-1] + [WeightShard("model.norm.weight", "float32", (3,), 0, np.ones(3, np.float32))])
    try:
        update(1)
    except Exception as error:
        print("refused", type(error).__name__)
    print("still", sample())
    publisher.publish(2, shards)
    update(2)
    print("new", sample())
"""


TRAINER_PROGRAM = """
import torch
from vllm.distributed.weight_transfer.base import ModuleSource
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
from spo.vllm_plugin import SpoTrainerInit
from spo.weights import WeightSubscriber


class Client:
    def __getattr__(self, name):
        return lambda *arguments: print(name, *arguments) or told.extend(arguments)


told = []
model = torch.nn.Linear(3, 2)
sender = WeightTransferTrainerFactory.trainer_init(SpoTrainerInit(rank=0), client=Client(), source=ModuleSource(model))
sender.send_weights()
snapshot = WeightSubscriber(told[0]["publishers"], token=b"").fetch(1)
print("same", bool((snapshot.tensor("weight") == model.weight.detach().numpy()).all()))
sender.shutdown()
"""


@torch.no_grad()
def greedy(model: LlamaForCausalLM, num_tokens: int) -> list[int]:
    tokens = [5, 6, 7]
    for _ in range(num_tokens):
        tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[3:]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """One in which vLLM finds the entry points of the tree as those of an installed package."""
    root = Path(__file__).parents[1]
    info = tmp_path / "installed" / "spo_rl-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: spo-rl\nVersion: 0\n")
    groups = tomllib.loads((root / "pyproject.toml").read_text())["project"]["entry-points"]
    for group, points in groups.items():
        lines = [f"{name} = {target}" for name, target in points.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]) + "\n")
    return ENVIRONMENT | {"PYTHONPATH": os.pathsep.join([str(info.parent), str(root / "python")])}


def run_program(environment: dict[str, str], *arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.timeout(960)
def test_the_example_has_vllm_sample_what_a_plain_trainer_has_just_learned(
    environment: dict[str, str], tmp_path: Path
) -> None:
    make_model(0, tied=True).save_pretrained(tmp_path / "model")
    lines = [
        line
        for line in run_program(environment, str(EXAMPLE), str(tmp_path / "model"))
        if line.startswith("after step")
    ]
    assert len(lines) == 20
    assert lines[0] != f"after step 1: {[7] * 8}"
    assert lines[-1] == f"after step 20: {[7] * 8}"


def test_a_trainer_in_a_process_without_an_engine_finds_its_side(environment: dict[str, str]) -> None:
    lines = run_program(environment, "-c", TRAINER_PROGRAM)
    calls = [line.split()[0] for line in lines if line.split()[0].endswith(("engine", "update", "weights"))]
    assert calls == ["init_weight_transfer_engine", "start_weight_update", "update_weights", "finish_weight_update"]
    assert "same True" in lines


@pytest.mark.timeout(960)
def test_the_extension_brings_versions_whole_and_puts_the_old_one_back(
    environment: dict[str, str], tmp_path: Path
) -> None:
    for seed, name in ((0, "old"), (9, "new")):
        make_model(seed, tied=True).save_pretrained(tmp_path / name)
    old, new = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("old", "new"))
    lines = run_program(environment, "-c", EXTENSION_PROGRAM, str(tmp_path / "old"), str(tmp_path / "new"))
    told = dict(line.split(" ", 1) for line in lines if line.split(" ", 1)[0] in ("old", "refused", "still", "new"))
    assert told["old"] == str(greedy(old, 12)) == told["still"]
    assert "refused" in told
    assert told["new"] == str(greedy(new, 12)) != told["old"]


@pytest.mark.timeout(960)
def test_trainer_and_engine_hold_the_same_after_many_versions_cuts_and_restarts(
    environment: dict[str, str], tmp_path: Path
) -> None:
    make_model(0, tied=True).save_pretrained(tmp_path / "model")
    program = str(Path(__file__).parent / "vllm_soak.py")
    (line,) = (x for x in run_program(environment, program, str(tmp_path / "model"), "60") if x.startswith("same "))
    _, engine, trainer, *_ = line.split()
    assert engine == trainer

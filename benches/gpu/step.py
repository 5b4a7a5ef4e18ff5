"""An SPO step of a Llama-shaped 1B model on one CUDA device: tokens/s, MFU, peak memory, and what publishing costs.

    python benches/gpu/step.py [--objective ppo] [--rows 8] [--rows-per-forward 1] [--checkpointing] … (see --help)

The model is made here with random weights (hidden size 2048, 32 heads, 8 key-value heads, vocabulary 128,256, tied
embeddings: 1.24 B parameters at 16 layers), so nothing is downloaded. Rows are filled with trajectories of about 1,200
tokens, 400 of them the prompt's. Prints a table, then one line of JSON.

- step: forward of policy and frozen reference, backward, AdamW; float32 masters, bfloat16 compute, FSDP2 on one rank.
- MFU counts 6 floating-point operations a parameter and token for the policy (and PPO's value model, without its
  embeddings), 2 for the reference, and attention within each trajectory; not recomputation. The peak is measured here:
  the best of a large bfloat16 matrix product.
- publish: what the trainer waits for (a bfloat16 copy on the device), and when the version can be fetched.
- patch: encoding the change of one step (scan included) and applying it, on one CPU core.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from spo.config import Config, load_config
from spo.trainer.learner import Learner
from spo.trainer.parallel import Ranks, start_ranks, stop_ranks
from spo.trainer.policy import Policy, load_policy, load_value_model
from spo.trainer.publish import VersionPublisher, weight_shards
from spo.types import Batch
from spo.weights import WeightPublisher, WeightSubscriber, apply_patch, chunk_hashes, encode_patch

VOCABULARY = 128_256


def main() -> None:
    """Measures and prints."""
    arguments = parse_arguments()
    ranks = start_ranks("cuda", 4, 120.0)
    with tempfile.TemporaryDirectory() as folder:
        num_parameters = make_model(Path(folder), arguments.layers)
        config = load_config(
            "smollm2-135m",
            [
                f"model.path={folder}",
                "model.dtype=bfloat16",
                f"model.gradient_checkpointing={str(arguments.checkpointing).lower()}",
                f"batch.token_budget={arguments.row_tokens}",
                f"optimizer.learning_rate={arguments.learning_rate}",
                "optimizer.warmup_steps=0",
                f"objective.name={arguments.objective}",
                "sampling.temperature_min=1",
                "sampling.temperature_max=1",
                "sampling.top_p=1",
                f"batch.rows_per_forward={arguments.rows_per_forward}",
                f"model.logprob_chunk_tokens={arguments.chunk_tokens}",
            ],
        )
        results = {"device": torch.cuda.get_device_name(), "num_parameters": num_parameters, **vars(arguments)}
        results |= measure(folder, config, ranks, arguments, num_parameters)
    stop_ranks()
    for name, value in results.items():
        print(f"{name:32} {value:,.4g}" if isinstance(value, float) else f"{name:32} {value}")
    print(json.dumps(results))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objective", default="terminal_q", choices=["terminal_q", "ppo"])
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--row-tokens", type=int, default=4096)
    parser.add_argument("--rows-per-forward", type=int, default=1)
    parser.add_argument("--chunk-tokens", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=6e-8)
    parser.add_argument("--checkpointing", action="store_true")
    return parser.parse_args()


def make_model(folder: Path, layers: int) -> int:
    """Saves the model; returns its number of parameters."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=2048, intermediate_size=8192, num_hidden_layers=layers,
        num_attention_heads=32, num_key_value_heads=8, head_dim=64, max_position_embeddings=8192,
        tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("cuda"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def make_batch(step: int, rows: int, row_tokens: int) -> tuple[Batch, int, int]:
    """A full batch; also its tokens, and the sum of squares of the trajectories' lengths."""
    generator = np.random.default_rng(step)
    tokens = generator.integers(0, VOCABULARY, (rows, row_tokens)).astype(np.int32)
    positions, segments = np.zeros_like(tokens), np.full_like(tokens, -1)
    response = np.zeros(tokens.shape, np.uint8)
    lengths: list[int] = []
    for row in range(rows):
        start = 0
        while row_tokens - start >= 800:
            length = min(int(generator.integers(900, 1500)), row_tokens - start)
            span = slice(start, start + length)
            positions[row, span], segments[row, span] = np.arange(length), len(lengths)
            response[row, start + 400 : start + length] = 1
            lengths.append(length)
            start += length
    count = len(lengths)
    batch = Batch(
        step=step, num_rows=rows, num_tokens=row_tokens, num_trajectories=count, tokens=tokens.tobytes(),
        position_ids=positions.tobytes(), segment_ids=segments.tobytes(), response_mask=response.tobytes(),
        rewards=(-generator.integers(0, 2, count)).astype(np.float32).tobytes(),
        initial_values=np.full(count, -0.2, np.float32).tobytes(), sources=["online"] * count,
        behavior_logprobs=np.full(tokens.shape, -np.log(VOCABULARY), np.float32).tobytes(),
    )  # fmt: skip
    return batch, sum(lengths), sum(length**2 for length in lengths)


def measure(
    folder: str, config: Config, ranks: Ranks, arguments: argparse.Namespace, num_parameters: int
) -> dict[str, object]:
    """Steps, then publishing, then patches."""
    started = time.monotonic()
    policy = load_policy(folder, config.model, arguments.row_tokens, ranks, trained=True)
    reference = load_policy(folder, config.model, arguments.row_tokens, ranks, trained=False)
    is_ppo = arguments.objective == "ppo"
    value_model = load_value_model(folder, config.model, arguments.row_tokens, ranks) if is_ppo else None
    learner = Learner(policy, reference, config, ranks, value_model)
    results: dict[str, object] = {"load_s": time.monotonic() - started, "peak_tflops": matmul_tflops()}
    torch.cuda.reset_peak_memory_stats()
    before: list[np.ndarray] = []
    seconds = []
    for step in range(1, arguments.steps + 3):
        batch, num_tokens, squares = make_batch(step, arguments.rows, arguments.row_tokens)
        if step == arguments.steps + 2:
            before = patterns(policy, ranks)
        torch.cuda.synchronize()
        started = time.monotonic()
        metrics = learner.step(batch)
        torch.cuda.synchronize()
        seconds.append(time.monotonic() - started)
    step_s = median(seconds[2:])
    attention = 4 * arguments.layers * 2048 * squares / 2
    flops = (6 + 2) * num_parameters * num_tokens + (3 + 1) * attention
    if is_ppo:
        flops += 6 * (num_parameters - 2048 * VOCABULARY) * num_tokens + 3 * attention
    results |= {
        "step_s": step_s,
        "tokens_per_s": num_tokens / step_s,
        "mfu": flops / step_s / (float(results["peak_tflops"]) * 1e12),
        "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30,
        "gradient_norm": metrics["loss/gradient_norm"],
    }
    after = patterns(policy, ranks)
    results |= patching(before, after) | publishing(policy, ranks, learner, arguments)
    return results


def patterns(policy: Policy, ranks: Ranks) -> list[np.ndarray]:
    """The bfloat16 bit patterns of every parameter."""
    return [shard.data.copy() for shard in weight_shards(policy.model, "bfloat16", ranks)]


def publishing(policy: Policy, ranks: Ranks, learner: Learner, arguments: argparse.Namespace) -> dict[str, float]:
    """Steps after each publication: what the trainer waits for, until when the version is served, and a fetch."""
    served: dict[int, float] = {}
    stalls, delays, seconds = [], [], []
    with (
        WeightPublisher(token=b"t") as publisher,
        VersionPublisher(publisher, policy.model, "bfloat16", ranks) as versions,
    ):
        for version in range(1, 7):
            torch.cuda.synchronize()
            started = time.monotonic()
            versions.publish(version, lambda version: served.update({version: time.monotonic()}))
            torch.cuda.synchronize()
            stalls.append(time.monotonic() - started)
            learner.step(make_batch(version, arguments.rows, arguments.row_tokens)[0])
            torch.cuda.synchronize()
            seconds.append(time.monotonic() - started)
            versions.wait()
            delays.append(served[version] - started)
        fetch_s = seconds_of(lambda: WeightSubscriber([publisher.address], token=b"t").fetch(6))
    return {
        "publish_stall_s": median(stalls[1:]),
        "publish_to_served_s": median(delays[1:]),
        "publish_and_step_s": median(seconds[1:]),
        "fetch_s": fetch_s,
    }


def patching(before: list[np.ndarray], after: list[np.ndarray]) -> dict[str, float]:
    """Encoding and applying the change of one step, over all parameters, on one core."""
    hashes = [chunk_hashes(array) for array in before]
    kept = [array.copy() for array in hashes]
    started = time.monotonic()
    patches = [encode_patch(b, a, h) for b, a, h in zip(before, after, hashes, strict=True)]
    encode_s = time.monotonic() - started
    scan_s = seconds_of(lambda: [np.array_equal(b, a) for b, a in zip(before, after, strict=True)])
    started = time.monotonic()
    changes = sum(apply_patch(b, p, h) for b, p, h in zip(before, patches, kept, strict=True))
    apply_s = time.monotonic() - started
    assert all(np.array_equal(b, a) for b, a in zip(before, after, strict=True))
    elements = sum(array.size for array in before)
    return {
        "changed_fraction": changes / elements,
        "bits_per_change": 8 * sum(map(len, patches)) / max(changes, 1),
        "patch_mb": sum(map(len, patches)) / 1e6,
        "encode_s": encode_s,
        "encode_gb_per_s": 4 * elements / encode_s / 1e9,
        "numpy_compare_s": scan_s,
        "apply_s": apply_s,
        "apply_m_changes_per_s": changes / apply_s / 1e6,
    }


def matmul_tflops(size: int = 8192, rounds: int = 20) -> float:
    """The best rate of a large bfloat16 matrix product."""
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(rounds):
        torch.cuda.synchronize()
        started = time.monotonic()
        a @ b
        torch.cuda.synchronize()
        best = min(best, time.monotonic() - started)
    del a, b
    gc.collect()
    return 2 * size**3 / best / 1e12


def seconds_of(work: Callable[[], object]) -> float:
    """How long `work` takes."""
    started = time.monotonic()
    work()
    return time.monotonic() - started


if __name__ == "__main__":
    main()

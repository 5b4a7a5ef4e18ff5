"""Weight streaming beside what other projects do and beside what the machine can do, in one run and in turns.

    python benches/peers/weights.py --model MODEL_FOLDER --cache FOLDER [--synthetic-millions 64] [--json FILE]

Needs torch, transformers and `zstandard`. Real updates are those of the model in `--model` under AdamW at 6e-8, 1e-6
and 1e-5, made once and kept in `--cache`; `weights_codecs.py` names whom each codec follows. Everything runs on one
thread. Times are medians over the rounds; in each round all contenders take one turn, so that a busy machine hits all
alike. Codecs are timed in CPU time, streams on the clock.

- codecs: bits a changed weight, encoding as GB/s of both states beside the C library's `memcmp` (a vector scan) of as
  many bytes, applying as changes/s beside a bare scatter of known values and vLLM's loader by NaN tensors.
- streams: all weights from another process over TCP and over a UNIX socket, beside bare sockets and a gloo broadcast.
- publish: what `publish` takes beside a copy of as many bytes, with 0, 1, 4 and 16 subscribers that fetch meanwhile.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import weights_codecs as codecs
import weights_data
import weights_streams

Work = Callable[[], object]
_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


def main() -> None:
    """Measures and prints."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    results: dict[str, dict[str, object]] = {}
    states = [weights_data.synthetic(arguments.synthetic_millions * 10**6, changed=1e-3)]
    if arguments.model is not None:
        states += [weights_data.real(arguments.model, rate, arguments.cache) for rate in (6e-8, 1e-6, 1e-5)]
    for state in states:
        share = np.count_nonzero(state.old != state.new) / len(state.old)
        name = f"{state.name}, {100 * share:.3f} % changed"
        results[name] = measure_codecs(state, arguments)
        show(name, results[name])
    data = states[-1].new[: arguments.stream_mb * 500_000]
    results["streams"] = weights_streams.measure_streams(data, arguments.rounds)
    show(f"streams of {data.nbytes / 1e6:.0f} MB", results["streams"])
    results["publish"] = weights_streams.measure_publish(data, arguments.rounds)
    show(f"publishing {data.nbytes / 1e6:.0f} MB", results["publish"])
    steps = {state.name: state.step_s for state in states if state.step_s}
    if steps:
        results["steps"] = dict(steps)
        show("seconds of a step of 192 tokens", results["steps"])
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of a causal language model; none: synthetic states only")
    parser.add_argument("--cache", type=Path, default=Path("weights-states"), help="where real states are kept")
    parser.add_argument(
        "--synthetic-millions", type=int, default=64, help="elements of the synthetic shards (1000: a 1B)"
    )
    parser.add_argument("--stream-mb", type=int, default=256, help="bytes that are streamed and published, at most")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vllm", type=Path, help="vLLM's package folder: its own loader is measured")
    parser.add_argument("--json", type=Path, help="file for the results")
    return parser.parse_args()


def measure_codecs(states: weights_data.States, arguments: argparse.Namespace) -> dict[str, object]:
    """Sizes and speeds of every codec on one pair of states."""
    old, new = states.old, states.new
    places = np.flatnonzero(old != new)
    contenders: list[codecs.Codec] = [
        codecs.SpoCodec(old), codecs.PairCodec(), codecs.XorCodec(), codecs.GapCodec()
    ]  # fmt: skip
    encoded = [codec.encode(old, new) for codec in contenders]
    target, same = old.copy(), old.copy()
    work: dict[str, Work] = {"memcmp": lambda: memcmp(old, same), "numpy comparison": lambda: np.array_equal(old, new)}
    for codec in contenders:
        work[f"encode {codec.name}"] = lambda codec=codec: codec.encode(old, new)  # type: ignore[misc]
    encoding = interleaved(work, arguments.rounds, lambda: None)
    values = new[places]
    name, load = codecs.nan_loader(arguments.vllm)
    model = codecs.FlatModel(torch.from_numpy(target).view(torch.bfloat16))
    pairs = torch.from_numpy(places.astype(np.int32)), torch.from_numpy(values).view(torch.bfloat16)
    work = {f"apply {name}": lambda: load(model, *pairs), "scatter": lambda: target.__setitem__(places, values)}
    for codec, parts in zip(contenders, encoded, strict=True):
        work[f"apply {codec.name}"] = lambda codec=codec, parts=parts: codec.apply(target, parts)  # type: ignore[misc]
    applying = interleaved(work, arguments.rounds, lambda: np.copyto(target, old), lambda: check(target, new))
    scan = encoding.pop("memcmp")
    gigabytes = 2 * old.nbytes / 1e9
    results: dict[str, object] = {"changes": len(places), "memcmp GB/s": gigabytes / scan}
    for codec, parts in zip(contenders, encoded, strict=True):
        results[f"bits a change, {codec.name}"] = 8 * codecs.num_bytes(parts) / max(len(places), 1)
    for key, seconds in encoding.items():
        results[f"{key}, GB/s (of memcmp's speed)"] = f"{gigabytes / seconds:.2f} ({scan / seconds:.2f})"
    nan = applying[f"apply {name}"]
    for key, seconds in applying.items():
        results[f"{key}, M changes/s (times NaN)"] = f"{len(places) / seconds / 1e6:.1f} ({nan / seconds:.1f})"
    return results


def check(target: weights_data.Patterns, new: weights_data.Patterns) -> None:
    """Fails unless the contender made the new state."""
    if not np.array_equal(target, new):
        raise AssertionError("a contender made another state")


def memcmp(first: weights_data.Patterns, second: weights_data.Patterns) -> None:
    """Reads both at the C library's speed."""
    if _memcmp(first.ctypes.data, second.ctypes.data, first.nbytes):
        raise AssertionError("the arrays differ")


def interleaved(
    work: dict[str, Work], rounds: int, before: Callable[[], None], after: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """Median CPU seconds of each, every one taking a turn in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, task in work.items():
            before()
            started = time.thread_time()
            task()
            seconds[name].append(time.thread_time() - started)
            after()
    return {name: median(taken) for name, taken in seconds.items()}


def show(title: str, results: dict[str, object]) -> None:
    """Prints a table."""
    print(f"\n{title}", flush=True)
    for name, value in results.items():
        print(f"  {name:66} {value:,.4g}" if isinstance(value, float) else f"  {name:66} {value}")


if __name__ == "__main__":
    main()

"""The trainer ranks, torch under `torchrun`, sharded with FSDP2: from a packed batch to the next policy version.

`loop` reads top to bottom and `learner` does one step of it; `objectives` is the method, `policy` and `logprobs` give
the log-probabilities that it needs. `parallel`, `checkpoint`, `publish`, `export` and `client` deal with ranks, disk,
workers and the orchestrator. Nothing here samples, judges or stores.
"""

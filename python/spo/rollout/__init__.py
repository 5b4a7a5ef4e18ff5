"""Rollouts: sampling responses from a behaviour policy and having the judge decide on the programs in them.

A worker is one process around one engine and one judge (`worker`, started by `python -m spo.rollout`). Engines stand
behind the protocol in `engine`; `transformers` and `fake` are built in. Nothing here trains, stores or schedules.
"""

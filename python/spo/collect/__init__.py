"""Offline trajectories, collected into a folder: from human solutions, from any policy, from other stores and runs.

`collection` keeps the folder; `human`, `samples` and `stores` fill it; `cli` is `spo collect`. What is trained on is
decided elsewhere: a run takes a collection by `experience.stores`.
"""

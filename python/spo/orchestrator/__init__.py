"""The orchestrator: the one process of a run that knows everything and computes nothing.

Read `phases.py` first: what a run goes through; then `parts.py` and `run.py`, which put it together. `admission.py`
decides what may start, `dispatch.py` hands work out and takes results in, `online.py`, `values.py` and
`evaluation.py` say what work there is, `batches.py` makes of the results what trainers are given, `trainers.py` and
`workers.py` speak with the other processes. `session.py` is the same workers without trainers, for `estimate.py`
(Q̂_0) and `pivotal.py` (the search of pivotal tokens). No torch, no model and no judge in here; weights never pass
through.
"""

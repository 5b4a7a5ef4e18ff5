"""One trainer rank of `test_trainer`, under torchrun: trains each run directory given, one after the other."""

import os
import sys
from pathlib import Path

from spo.config import read_resolved
from spo.trainer.loop import train
from spo.trainer.parallel import start_ranks, stop_ranks

if __name__ == "__main__":
    ranks = start_ranks("cpu", 1, 60.0)
    for argument in sys.argv[1:]:
        train(read_resolved(argument), Path(argument), ranks)
    stop_ranks()
    # As `spo.train` ends: gloo's threads may still hold tensors, and letting go of them late aborts the interpreter.
    os._exit(0)

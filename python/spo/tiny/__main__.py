"""`python -m spo.tiny DIRECTORY --seed N`: make the reference model of the `tiny` family."""

import argparse
import sys
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers.utils import logging as transformers_logging

from spo.errors import ConfigError
from spo.tiny.reference import ReferenceSettings, make_reference


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    defaults = ReferenceSettings()
    parser = argparse.ArgumentParser(prog="python -m spo.tiny", description=__doc__)
    parser.add_argument("directory", type=Path, help="where the model and its tokenizer are written")
    parser.add_argument("--seed", type=int, default=0, help="decides the data, the start and what is confused")
    parser.add_argument("--steps", type=_positive, default=defaults.num_steps, help="supervised steps")
    parser.add_argument("--threads", type=_positive, default=1, help="torch threads")
    options = parser.parse_args(arguments)
    transformers_logging.disable_progress_bar()  # One progress line is enough.
    columns = (TextColumn("reference"), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.3f}"))
    try:
        with Progress(*columns, TimeRemainingColumn()) as display:
            task = display.add_task("reference", total=options.steps, loss=float("nan"))
            make_reference(
                options.directory,
                options.seed,
                num_threads=options.threads,
                progress=lambda done, _, loss: display.update(task, completed=done, loss=loss),
                settings=ReferenceSettings(num_steps=options.steps),
            )
    except (ConfigError, OSError) as error:
        print(f"spo.tiny: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("spo.tiny: interrupted; nothing was written", file=sys.stderr)
        return 130
    print(f"reference model of seed {options.seed} in {options.directory}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

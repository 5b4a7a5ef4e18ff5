"""What became of the responses to a problem, as a trajectory store tells it."""

from collections import Counter, defaultdict
from pathlib import Path

from rich.table import Table

from spo.errors import ProblemError
from spo.reward import ACCEPTED_REWARD
from spo.store import TrajectoryStore
from spo.store_copy import read_whole

_STRETCHES = 8
"""A source whose policy changed is shown in so many stretches of versions."""


def history_table(path: Path, problem_id: str) -> Table:
    """Responses by source and policy versions: how many, how many were accepted, and with which verdicts.

    Args:
        path: A store, or a run directory with one in it.
        problem_id: Whose responses.

    Raises:
        ProblemError: There is no store.
    """
    folder = path / "store" if (path / "store").is_dir() else path
    responses: defaultdict[str, list[tuple[int, str, float]]] = defaultdict(list)
    try:
        with TrajectoryStore.open(folder, "r") as store:
            for _, item in read_whole(store, store.scan(problem=problem_id)):
                responses[item.source].append((item.max_policy_version, item.verdict, item.reward))
    except FileNotFoundError:
        raise ProblemError(f"{path}: no trajectory store there; give a store, or a run directory") from None
    table = Table("source", "versions", "responses", "accepted", "verdicts", box=None)
    for source, items in sorted(responses.items()):
        items.sort(key=lambda item: item[0])
        step = -(-len(items) // _STRETCHES) if items[0][0] != items[-1][0] else len(items)
        for start in range(0, len(items), step):
            stretch = items[start : start + step]
            verdicts = Counter(verdict for _, verdict, _ in stretch)
            table.add_row(
                source,
                f"{stretch[0][0]}-{stretch[-1][0]}",
                str(len(stretch)),
                f"{sum(reward == ACCEPTED_REWARD for *_, reward in stretch) / len(stretch):.0%}",
                ", ".join(f"{verdict} {count}" for verdict, count in verdicts.most_common()),
            )
    if not responses:
        table.add_row("none", "", "0", "", "")
    return table

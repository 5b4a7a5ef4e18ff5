"""Doing something for each of many items, some at a time."""

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import trio

T = TypeVar("T")


async def for_each(items: Iterable[T], most: int, do: Callable[[T], Awaitable[None]]) -> None:
    """Does something for each item, for at most `most` at once; an item is only made when its turn comes."""
    waiting = iter(items)

    async def take_turns() -> None:
        for item in waiting:
            await do(item)

    async with trio.open_nursery() as nursery:
        for _ in range(most):
            nursery.start_soon(take_turns)

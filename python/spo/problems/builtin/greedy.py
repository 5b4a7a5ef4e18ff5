"""Built-in problems: schedules, pairings and other choices where the right greedy rule is optimal."""

import heapq
import random
from collections.abc import Iterator

from spo.problems.builtin.definition import Case, Definition, Edit, integers, lines


def _spans(generator: random.Random, count: int, high: int, length: int) -> list[tuple[int, int]]:
    starts = integers(generator, count, 0, high)
    return [(start, start + generator.randint(1, length)) for start in starts]


def _meetings_cases(generator: random.Random) -> Iterator[Case]:
    groups = [[(0, 5)], [(0, 2), (2, 4), (4, 6)], [(0, 10), (1, 2), (3, 4)], [(4, 6), (0, 5), (5, 10)]]
    groups.append([(1, 2), (1, 9), (2, 9), (3, 4)])
    groups += [_spans(generator, size, 4 * size, size) for size in (5, 10, 30, 100, 300)]
    for spans in groups:
        count, free = 0, 0
        for start, end in sorted(spans, key=lambda span: span[1]):
            if start >= free:
                count, free = count + 1, end
        yield lines(len(spans), *spans), lines(count)


MEETINGS = Definition(
    name="meetings",
    difficulty="medium",
    task="""
        One room, many meetings: hold as many of them as possible without two at the same time. A meeting may start
        at the moment when another ends.
    """,
    reads="The first line holds n (1 to 1000). Each of the next n lines holds a start and an end, start < end.",
    prints="The largest number of meetings.",
    examples=(("3\n1 4\n3 5\n4 6\n", "2\n"),),
    cases=_meetings_cases,
    right="""
        meetings = [tuple(map(int, input().split())) for _ in range(int(input()))]
        meetings.sort(key=lambda meeting: meeting[1])
        count = free = 0
        for start, end in meetings:
            if start >= free:
                count += 1
                free = end
        print(count)
    """,
    wrong={
        "takes the earliest start first": Edit("meeting[1]", "meeting[0]"),
        "takes the shortest first": """
            meetings = [tuple(map(int, input().split())) for _ in range(int(input()))]
            meetings.sort(key=lambda meeting: meeting[1] - meeting[0])
            chosen = []
            for start, end in meetings:
                if all(end <= a or start >= b for a, b in chosen):
                    chosen.append((start, end))
            print(len(chosen))
        """,
        "wants a pause between meetings": Edit("start >= free", "start > free or count == 0"),
    },
)


def _platforms_cases(generator: random.Random) -> Iterator[Case]:
    groups = [[(1, 2)], [(1, 5), (5, 9)], [(0, 9)] * 7, [(1, 3), (2, 4), (3, 5), (4, 6)]]
    groups += [_spans(generator, size, 3 * size, size) for size in (6, 20, 100, 500)]
    groups.append(_spans(generator, 3000, 10**5, 10**4))
    for spans in groups:
        leaving: list[int] = []
        most = 0
        for start, end in sorted(spans):
            while leaving and leaving[0] < start:
                heapq.heappop(leaving)
            heapq.heappush(leaving, end)
            most = max(most, len(leaving))
        yield lines(len(spans), *spans), lines(most)


PLATFORMS = Definition(
    name="platforms",
    difficulty="medium",
    task="""
        Each train stands at the station from its arrival to its departure, both moments included: a platform that a
        train leaves at time t is taken by it until after t. How many platforms are needed so that no train waits?
    """,
    reads="The first line holds n (1 to 5000). Each of the next n lines holds arrival < departure, from 0 to 10^6.",
    prints="The number of platforms.",
    examples=(("3\n1 4\n4 6\n5 7\n", "2\n"),),
    cases=_platforms_cases,
    right="""
        events = []
        for _ in range(int(input())):
            arrival, departure = map(int, input().split())
            events += [(arrival, 1), (departure + 1, -1)]
        now = most = 0
        for _, change in sorted(events):
            now += change
            most = max(most, now)
        print(most)
    """,
    wrong={
        "frees a platform at the moment of departure": Edit("departure + 1, -1", "departure, -1"),
        "counts the neighbours of each train only": """
            trains = sorted(tuple(map(int, input().split())) for _ in range(int(input())))
            most = now = 1
            for before, after in zip(trains, trains[1:]):
                now = now + 1 if after[0] <= before[1] else 1
                most = max(most, now)
            print(most)
        """,
        "counts the trains that meet the busiest train": """
            trains = [tuple(map(int, input().split())) for _ in range(int(input()))]
            print(max(sum(a <= d and c <= b for c, d in trains) for a, b in trains[:300]))
        """,
    },
)


def _boats_cases(generator: random.Random) -> Iterator[Case]:
    groups = [(100, [50, 50]), (10, [10]), (10, [1, 9, 2, 8, 3, 7]), (10, [3, 3, 3]), (9, [5, 5, 4, 4, 1])]
    groups += [(100, integers(generator, size, 10, 100)) for size in (5, 20, 101, 500)]
    for limit, weights in groups:
        ordered = sorted(weights)
        boats = 0
        while ordered:
            heaviest = ordered.pop()
            if ordered and ordered[0] + heaviest <= limit:
                del ordered[0]
            boats += 1
        yield lines((len(weights), limit), weights), lines(boats)


BOATS = Definition(
    name="boats",
    difficulty="medium",
    task="A boat carries one or two people, and no more than a given weight. How many boats does a group need?",
    reads="""
        The first line holds n (1 to 1000) and the limit (1 to 1000). The second line holds n weights from 1 to the
        limit.
    """,
    prints="The smallest number of boats.",
    examples=(("4 100\n90 20 60 40\n", "3\n"),),
    cases=_boats_cases,
    right="""
        n, limit = map(int, input().split())
        weights = sorted(map(int, input().split()))
        light, heavy, boats = 0, n - 1, 0
        while light <= heavy:
            if weights[light] + weights[heavy] <= limit:
                light += 1
            heavy -= 1
            boats += 1
        print(boats)
    """,
    wrong={
        "pairs neighbours by weight": """
            n, limit = map(int, input().split())
            weights = sorted(map(int, input().split()))
            boats = i = 0
            while i < n:
                i += 2 if i + 1 < n and weights[i] + weights[i + 1] <= limit else 1
                boats += 1
            print(boats)
        """,
        "lets more than two into a boat": """
            n, limit = map(int, input().split())
            boats = room = 0
            for weight in sorted(map(int, input().split())):
                if weight > room:
                    boats, room = boats + 1, limit
                room -= weight
            print(boats)
        """,
        "pairs in the order of arrival": Edit("sorted(map(int, input().split()))", "list(map(int, input().split()))"),
        "keeps a boat below its limit": Edit("<= limit", "< limit"),
    },
)


def _jump_cases(generator: random.Random) -> Iterator[Case]:
    paths = [[0], [0, 5], [1, 0], [1, 0, 3], [2, 3, 1, 1, 4], [4, 1, 1, 3, 1, 1, 1], [1] * 50]
    paths += [integers(generator, size, 0, 5) for size in (6, 12, 30)]
    paths += [integers(generator, size, 1, 6) for size in (20, 100, 500)]
    for stones in paths:
        jumps, reach, edge = 0, 0, 0
        for i, power in enumerate(stones[:-1]):
            reach = max(reach, i + power)
            if i == edge:
                jumps, edge = jumps + 1, reach
            if edge <= i:
                break
        yield lines(len(stones), stones), lines(jumps if edge >= len(stones) - 1 else -1)


STONES = Definition(
    name="stones",
    difficulty="hard",
    task="""
        A frog sits on the first of n stones in a row. From stone i it can jump at most a_i stones forward. What is the
        smallest number of jumps to the last stone?
    """,
    reads="The first line holds n (1 to 1000). The second line holds a_1 to a_n, each from 0 to 1000.",
    prints="The number of jumps, or -1 if the frog cannot get there.",
    examples=(("6\n2 3 1 1 2 0\n", "3\n"), ("3\n1 0 2\n", "-1\n")),
    cases=_jump_cases,
    right="""
        n = int(input())
        powers = list(map(int, input().split()))
        best = [0] + [None] * (n - 1)
        for i, power in enumerate(powers):
            if best[i] is None:
                break
            for j in range(i + 1, min(n, i + power + 1)):
                if best[j] is None:
                    best[j] = best[i] + 1
        print(-1 if best[-1] is None else best[-1])
    """,
    wrong={
        "always jumps as far as it can": """
            n = int(input())
            powers = list(map(int, input().split()))
            place = jumps = 0
            while place < n - 1 and powers[place]:
                place += powers[place]
                jumps += 1
            print(jumps if place >= n - 1 else -1)
        """,
        "needs a jump even where it already is": """
            n = int(input())
            powers = list(map(int, input().split()))
            jumps = reach = edge = 0
            for i, power in enumerate(powers):
                reach = max(reach, i + power)
                if i == edge:
                    jumps, edge = jumps + 1, reach
                if edge >= n - 1:
                    break
            print(jumps if edge >= n - 1 else -1)
        """,
        "jumps a stone short": Edit("i + power + 1", "i + power"),
        "prints None for unreachable": Edit("-1 if best[-1] is None else best[-1]", "best[-1]"),
    },
)

PROBLEMS = (MEETINGS, PLATFORMS, BOATS, STONES)

"""Built-in problems: small dynamic programs."""

import random
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from spo.problems.builtin.definition import Case, Definition, Edit, integers, lines, word


def _stairs_cases(generator: random.Random) -> Iterator[Case]:
    for n in [1, 2, 3, 4, 30, 90, *integers(generator, 4, 5, 80)]:
        ways = [1, 1, 2]
        while len(ways) <= n:
            ways.append(sum(ways[-3:]))
        yield lines(n), lines(ways[n])


STAIRS = Definition(
    name="stairs",
    difficulty="easy",
    task="In how many ways can one climb n steps, taking one, two or three steps at a time?",
    reads="One integer n from 1 to 90.",
    prints="The number of ways.",
    examples=(("4\n", "7\n"),),
    cases=_stairs_cases,
    right="""
        n = int(input())
        a, b, c = 1, 1, 2
        for _ in range(n):
            a, b, c = b, c, a + b + c
        print(a)
    """,
    wrong={
        "takes at most two steps": Edit("a + b + c", "b + c"),
        "is off by one": Edit("print(a)", "print(b)"),
        "branches without memory": """
            def ways(n):
                return 1 if n == 0 else sum(ways(n - step) for step in (1, 2, 3) if step <= n)

            print(ways(int(input())))
        """,
        "loses digits in floating point": Edit("1, 1, 2", "1.0, 1.0, 2.0"),
    },
    time_limit_s=1.0,
)


def _coins_cases(generator: random.Random) -> Iterator[Case]:
    purses = [(6, [1, 3, 4]), (0, [5]), (3, [2]), (11, [4, 6]), (10_000, [1]), (63, [1, 5, 10, 21, 25])]
    purses += [(generator.randint(50, 2000), sorted({*integers(generator, 4, 2, 60)})) for _ in range(6)]
    for amount, coins in purses:
        fewest = [0]
        for value in range(1, amount + 1):
            fewest.append(min((fewest[value - coin] + 1 for coin in coins if coin <= value), default=10**9))
        yield lines((amount, len(coins)), coins), lines(fewest[amount] if fewest[amount] < 10**9 else -1)


COINS = Definition(
    name="coins",
    difficulty="medium",
    task="Pay an amount exactly, with as few coins as possible. There are enough coins of each kind.",
    reads="""
        The first line holds the amount (0 to 10000) and the number of kinds (1 to 10). The second line holds their
        values, different and from 1 to 100.
    """,
    prints="The smallest number of coins, or -1 if the amount cannot be paid.",
    examples=(("8 3\n1 4 5\n", "2\n"), ("3 1\n2\n", "-1\n")),
    cases=_coins_cases,
    right="""
        amount, kinds = map(int, input().split())
        coins = list(map(int, input().split()))
        never = 10**9
        fewest = [0] + [never] * amount
        for coin in coins:
            for value in range(coin, amount + 1):
                fewest[value] = min(fewest[value], fewest[value - coin] + 1)
        print(fewest[amount] if fewest[amount] < never else -1)
    """,
    wrong={
        "takes the largest coin that fits": """
            amount, kinds = map(int, input().split())
            count = 0
            for coin in sorted(map(int, input().split()), reverse=True):
                count += amount // coin
                amount %= coin
            print(count if amount == 0 else -1)
        """,
        "uses each coin once": Edit("range(coin, amount + 1)", "range(amount, coin - 1, -1)"),
        "prints a huge number where there is no way": Edit(
            "fewest[amount] if fewest[amount] < never else -1", "fewest[amount]"
        ),
    },
)


def _increasing_cases(generator: random.Random) -> Iterator[Case]:
    lists = [[1], [5, 5, 5], [5, 4, 3], [1, 2, 3], [3, 1, 2, 1, 3], [10, 1, 2, 11, 3, 4], [-5, -7, -6]]
    lists += [integers(generator, size, -size, size) for size in (8, 20, 100, 1000)]
    lists.append(integers(generator, 20_000, 0, 10**6))
    for numbers in lists:
        ends: list[int] = []
        for number in numbers:
            i = bisect_left(ends, number)
            ends[i : i + 1] = [number]
        yield lines(len(numbers), numbers), lines(len(ends))


INCREASING = Definition(
    name="increasing",
    difficulty="hard",
    task="Cross out as few numbers of a list as possible, so that the rest strictly increases. How many are left?",
    reads="The first line holds n (1 to 20000). The second line holds n integers of at most 10^6 in size.",
    prints="The length of the longest strictly increasing subsequence.",
    examples=(("6\n3 1 4 1 5 5\n", "3\n"),),
    cases=_increasing_cases,
    right="""
        from bisect import bisect_left

        input()
        ends = []
        for number in map(int, input().split()):
            i = bisect_left(ends, number)
            if i == len(ends):
                ends.append(number)
            else:
                ends[i] = number
        print(len(ends))
    """,
    wrong={
        "lets equal numbers follow each other": """
            from bisect import bisect_right

            input()
            ends = []
            for number in map(int, input().split()):
                i = bisect_right(ends, number)
                ends[i : i + 1] = [number]
            print(len(ends))
        """,
        "keeps whatever exceeds the last one kept": """
            input()
            kept = []
            for number in map(int, input().split()):
                if not kept or number > kept[-1]:
                    kept.append(number)
            print(len(kept))
        """,
        "finds the longest run of neighbours": """
            input()
            numbers = list(map(int, input().split()))
            best = run = 1
            for before, after in zip(numbers, numbers[1:]):
                run = run + 1 if after > before else 1
                best = max(best, run)
            print(best)
        """,
        "compares all pairs": """
            n = int(input())
            numbers = list(map(int, input().split()))
            best = [1] * n
            for i in range(n):
                for j in range(i):
                    if numbers[j] < numbers[i]:
                        best[i] = max(best[i], best[j] + 1)
            print(max(best))
        """,
    },
)


def _edit_distance_cases(generator: random.Random) -> Iterator[Case]:
    pairs = [("a", "a"), ("a", "b"), ("abc", "c"), ("intention", "execution"), ("ab", "ba"), ("aaaa", "a")]
    pairs += [(word(generator, 3, size, "abc"), word(generator, 3, size, "abc")) for size in (5, 8, 12, 60, 60)]
    for a, b in pairs:
        row = list(range(len(b) + 1))
        for i, letter in enumerate(a, start=1):
            above, row = row, [i]
            for j, other in enumerate(b):
                row.append(min(above[j] + (letter != other), above[j + 1] + 1, row[j] + 1))
        yield lines(a, b), lines(row[-1])


EDIT_DISTANCE = Definition(
    name="edit_distance",
    difficulty="hard",
    task="""
        How many edits turn one word into another? An edit inserts a letter, deletes one, or replaces one by another.
    """,
    reads="Two lines with a word of 1 to 100 small letters each.",
    prints="The smallest number of edits.",
    examples=(("kitten\nsitting\n", "3\n"),),
    cases=_edit_distance_cases,
    right="""
        a, b = input().strip(), input().strip()
        row = list(range(len(b) + 1))
        for i in range(len(a)):
            new = [i + 1]
            for j in range(len(b)):
                replace = row[j] + (a[i] != b[j])
                new.append(min(replace, row[j + 1] + 1, new[j] + 1))
            row = new
        print(row[-1])
    """,
    wrong={
        "compares letter by letter": """
            a, b = input().strip(), input().strip()
            print(sum(x != y for x, y in zip(a, b)) + abs(len(a) - len(b)))
        """,
        "does not replace": Edit(
            "min(replace, row[j + 1] + 1, new[j] + 1)", "row[j] if a[i] == b[j] else min(row[j + 1], new[j]) + 1"
        ),
        "pays for equal letters": Edit("(a[i] != b[j])", "1"),
    },
)


def _best_stretch_cases(generator: random.Random) -> Iterator[Case]:
    lists = [[5], [-5], [-3, -1, -2], [1, -1, 1, -1, 1], [4, -5, 6], [2, 3, -1, 4], [0, -2]]
    lists += [integers(generator, size, -30, 30) for size in (10, 30, 100)]
    lists.append(integers(generator, 5000, -1000, 1000))
    for numbers in lists:
        sums = list(accumulate(numbers, initial=0))
        lowest = list(accumulate(sums, min))
        yield lines(len(numbers), numbers), lines(max(b - a for a, b in zip(lowest, sums[1:], strict=False)))


BEST_STRETCH = Definition(
    name="best_stretch",
    difficulty="medium",
    task="Find the largest sum of one or more neighbouring numbers of a list.",
    reads="The first line holds n (1 to 5000). The second line holds n integers of at most 1000 in size.",
    prints="The largest sum.",
    examples=(("6\n1 -3 4 -1 2 -6\n", "5\n"),),
    cases=_best_stretch_cases,
    right="""
        input()
        numbers = list(map(int, input().split()))
        best = ending = numbers[0]
        for number in numbers[1:]:
            ending = max(number, ending + number)
            best = max(best, ending)
        print(best)
    """,
    wrong={
        "may take nothing at all": Edit("best = ending = numbers[0]", "best = ending = max(0, numbers[0])"),
        "adds up all that is positive": Edit("max(number, ending + number)", "max(ending, ending + number)"),
        "prints where it ends, not the best": Edit("print(best)", "print(ending)"),
        "adds up every stretch anew": """
            n = int(input())
            numbers = list(map(int, input().split()))
            print(max(sum(numbers[i:j]) for i in range(n) for j in range(i + 1, n + 1)))
        """,
    },
)

PROBLEMS = (STAIRS, COINS, INCREASING, EDIT_DISTANCE, BEST_STRETCH)

"""Built-in problems: lists of numbers and names, searched and sorted."""

import random
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from spo.problems.builtin.definition import Case, Definition, Edit, integers, lines, word


def _second_largest_cases(generator: random.Random) -> Iterator[Case]:
    lists = [[5], [7, 7, 7], [-3, -8], [2, 9, 9], [9, 9, 2, 2], [-1, 0]]
    lists += [integers(generator, generator.randint(2, 30), -20, 20) for _ in range(6)]
    for numbers in lists:
        distinct = sorted(set(numbers))
        yield lines(len(numbers), numbers), lines(distinct[-2] if len(distinct) > 1 else "none")


SECOND_LARGEST = Definition(
    name="second_largest",
    difficulty="easy",
    task="Find the second largest value of a list. Values that occur several times count once.",
    reads="The first line holds n (1 to 1000). The second line holds n integers of at most 10^9 in size.",
    prints='The second largest value, or "none" if all values are equal.',
    examples=(("5\n3 8 8 1 5\n", "5\n"), ("2\n4 4\n", "none\n")),
    cases=_second_largest_cases,
    right="""
        input()
        values = sorted(set(map(int, input().split())))
        print(values[-2] if len(values) > 1 else "none")
    """,
    wrong={
        "counts equal values twice": Edit(
            "sorted(set(map(int, input().split())))", "sorted(map(int, input().split()))"
        ),
        "takes all numbers to be positive": """
            input()
            first = second = 0
            for value in map(int, input().split()):
                if value > first:
                    first, second = value, first
                elif first > value > second:
                    second = value
            print(second if second else "none")
        """,
        "compares as text": Edit("map(int, input().split())", "input().split()"),
    },
)


def _rotate_cases(generator: random.Random) -> Iterator[Case]:
    rotations = [([1, 2, 3], 3), ([4], 10**9), ([1, 2, 3, 4], -1), ([1, 2], 0)]
    for _ in range(7):
        numbers = integers(generator, generator.randint(2, 20), 0, 99)
        rotations.append((numbers, generator.choice([generator.randint(-50, 50), 10**9 - 7])))
    for numbers, k in rotations:
        cut = -k % len(numbers)
        yield lines((len(numbers), k), numbers), lines(numbers[cut:] + numbers[:cut])


ROTATE = Definition(
    name="rotate",
    difficulty="easy",
    task="""
        Rotate a list to the right by k places: each step moves the last element to the front. A negative k rotates
        to the left.
    """,
    reads="The first line holds n (1 to 1000) and k (|k| at most 10^9). The second line holds n integers.",
    prints="The rotated list on one line.",
    examples=(("5 2\n1 2 3 4 5\n", "4 5 1 2 3\n"),),
    cases=_rotate_cases,
    right="""
        n, k = map(int, input().split())
        numbers = input().split()
        cut = -k % n
        print(*numbers[cut:], *numbers[:cut])
    """,
    wrong={
        "rotates the other way": Edit("-k % n", "k % n"),
        "needs k below n": Edit("-k % n", "-k"),
        "moves one element at a time": """
            n, k = map(int, input().split())
            numbers = input().split()
            for _ in range(abs(k)):
                if k > 0:
                    numbers.insert(0, numbers.pop())
                else:
                    numbers.append(numbers.pop(0))
            print(*numbers)
        """,
    },
    time_limit_s=1.0,
)


def _first_seen_cases(generator: random.Random) -> Iterator[Case]:
    lists = [["b", "a", "b"], ["x"], ["Tom", "tom", "TOM"], ["z"] * 5]
    lists += [[word(generator, 1, 2, "abC") for _ in range(generator.randint(5, 40))] for _ in range(7)]
    for names in lists:
        seen = list(dict.fromkeys(names))
        yield lines(len(names), *names), lines(len(seen), *seen)


FIRST_SEEN = Definition(
    name="first_seen",
    difficulty="easy",
    task="""
        A guest book holds names, some of them several times. List each name once, in the order of its first entry.
        Capital and small letters are different.
    """,
    reads="The first line holds n (1 to 1000). Each of the next n lines holds a name of 1 to 20 letters.",
    prints="The number of different names, then the names, one a line.",
    examples=(("4\nMia\nBo\nMia\nAl\n", "3\nMia\nBo\nAl\n"),),
    cases=_first_seen_cases,
    right="""
        names = dict.fromkeys(input() for _ in range(int(input())))
        print(len(names), *names, sep="\\n")
    """,
    wrong={
        "sorts the names": Edit(
            "dict.fromkeys(input() for _ in range(int(input())))", "sorted({input() for _ in range(int(input()))})"
        ),
        "drops only neighbours": """
            names = []
            for _ in range(int(input())):
                name = input()
                if not names or names[-1] != name:
                    names.append(name)
            print(len(names), *names, sep="\\n")
        """,
        "does not print how many": Edit("len(names), ", ""),
        "keeps the order of the last entries": """
            names = [input() for _ in range(int(input()))]
            last = list(dict.fromkeys(names[::-1]))[::-1]
            print(len(last), *last, sep="\\n")
        """,
    },
)


def _ranking_cases(generator: random.Random) -> Iterator[Case]:
    for size in [1, 2, 5, 8, 8, 20, 20, 50]:
        names = list(dict.fromkeys(word(generator, 2, 5) for _ in range(size)))
        scores = [(name, generator.choice([0, 5, 7, 10, 70, 100])) for name in names]
        ranked = sorted(scores, key=lambda score: (-score[1], score[0]))
        places = [1 + sum(other[1] > score[1] for other in scores) for score in ranked]
        rows = [(place, *score) for place, score in zip(places, ranked, strict=True)]
        yield lines(len(scores), *scores), lines(*rows)


RANKING = Definition(
    name="ranking",
    difficulty="medium",
    task="""
        Print the ranking of a contest: highest score first, equal scores by name. Equal scores share a place, and
        the places behind them stay empty: 1, 2, 2, 4.
    """,
    reads="The first line holds n (1 to 1000). Each of the next n lines holds a name of small letters and a score.",
    prints="For each contestant one line with place, name and score.",
    examples=(("4\ncy 70\nbo 90\nal 70\ndi 5\n", "1 bo 90\n2 al 70\n2 cy 70\n4 di 5\n"),),
    cases=_ranking_cases,
    right="""
        scores = [input().split() for _ in range(int(input()))]
        scores.sort(key=lambda row: (-int(row[1]), row[0]))
        place = 0
        for i, (name, score) in enumerate(scores):
            if i == 0 or score != scores[i - 1][1]:
                place = i + 1
            print(place, name, score)
    """,
    wrong={
        "counts places without holes": Edit("place = i + 1", "place += 1"),
        "gives everyone a place of their own": Edit("if i == 0 or score != scores[i - 1][1]:", "if True:"),
        "puts the lowest score, as text, first": Edit("(-int(row[1]), row[0])", "(row[1], row[0])"),
    },
)


def _range_count_cases(generator: random.Random) -> Iterator[Case]:
    for n, q, high in [(1, 3, 5), (10, 5, 10), (50, 20, 30), (1000, 200, 500), (10_000, 10_000, 10**6)]:
        numbers = integers(generator, n, 0, high)
        queries = [sorted(integers(generator, 2, -1, high + 1)) for _ in range(q)]
        queries[0] = [numbers[0], numbers[0]]
        ordered = sorted(numbers)
        counts = [bisect_right(ordered, b) - bisect_left(ordered, a) for a, b in queries]
        yield lines((n, q), numbers, *queries), lines(*counts)


RANGE_COUNT = Definition(
    name="range_count",
    difficulty="medium",
    task="Answer queries about a list of numbers: how many of them lie between a and b, both included?",
    reads="""
        The first line holds n and q, each from 1 to 10000. The second line holds n integers from 0 to 10^6. Each of
        the next q lines holds a and b with a at most b.
    """,
    prints="For each query one line with the count.",
    examples=(("4 2\n5 1 5 8\n2 5\n6 7\n", "2\n0\n"),),
    cases=_range_count_cases,
    right="""
        import sys
        from bisect import bisect_left, bisect_right

        data = list(map(int, sys.stdin.read().split()))
        n = data[0]
        numbers = sorted(data[2 : n + 2])
        for a, b in zip(data[n + 2 :: 2], data[n + 3 :: 2]):
            print(bisect_right(numbers, b) - bisect_left(numbers, a))
    """,
    wrong={
        "leaves the upper end out": Edit("bisect_right(numbers, b)", "bisect_left(numbers, b)"),
        "counts different values": Edit("sorted(data[2 : n + 2])", "sorted(set(data[2 : n + 2]))"),
        "looks at every number for every query": """
            n, q = map(int, input().split())
            numbers = list(map(int, input().split()))
            for _ in range(q):
                a, b = map(int, input().split())
                print(sum(a <= number <= b for number in numbers))
        """,
    },
    time_limit_s=1.0,
)

PROBLEMS = (SECOND_LARGEST, ROTATE, FIRST_SEEN, RANKING, RANGE_COUNT)

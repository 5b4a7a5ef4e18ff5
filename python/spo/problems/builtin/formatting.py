"""Built-in problems: floating point and output of several lines in a given form."""

import math
import random
from collections import Counter
from collections.abc import Iterator

from spo.problems.builtin.definition import Case, Definition, Edit, integers, lines, word


def _average_cases(generator: random.Random) -> Iterator[Case]:
    lists = [[1], [1, 2], [-1, 1], [1, 1, 2], [10**9, 10**9, 10**9 - 1], [-1, -1, -2], [5, 5]]
    lists += [integers(generator, generator.choice([3, 6, 7, 9, 11]), -1000, 1000) for _ in range(6)]
    for numbers in lists:
        mean = sum(numbers) / len(numbers)
        above = sum(number > mean for number in numbers)
        yield lines(len(numbers), numbers), lines(f"{mean:.2f}", above)


AVERAGE = Definition(
    name="average",
    difficulty="easy",
    task="Find the mean of a list, and how many of its numbers are above the mean.",
    reads="The first line holds n (1 to 1000). The second line holds n integers of at most 10^9 in size.",
    prints="The mean with exactly two decimals on the first line, the count on the second.",
    examples=(("3\n1 2 4\n", "2.33\n1\n"), ("2\n5 5\n", "5.00\n0\n")),
    cases=_average_cases,
    right="""
        n = int(input())
        numbers = list(map(int, input().split()))
        mean = sum(numbers) / n
        print(f"{mean:.2f}")
        print(sum(number > mean for number in numbers))
    """,
    wrong={
        "drops zeros at the end": Edit('f"{mean:.2f}"', "round(mean, 2)"),
        "divides integers": Edit("sum(numbers) / n", "sum(numbers) // n"),
        "counts numbers at the mean": Edit("number > mean", "number >= mean"),
        "compares with the rounded mean": """
            n = int(input())
            numbers = list(map(int, input().split()))
            mean = round(sum(numbers) / n)
            print(f"{sum(numbers) / n:.2f}")
            print(sum(number > mean for number in numbers))
        """,
    },
)


def _triangle_cases(generator: random.Random) -> Iterator[Case]:
    triangles = [(3, 4, 5), (1, 1, 1), (1, 2, 3), (1, 1, 5), (7, 7, 13), (1000, 999, 2), (5, 4, 3), (2, 9, 3)]
    triangles += [(a, b, c) for a, b, c in (integers(generator, 3, 1, 40) for _ in range(8))]
    for a, b, c in triangles:
        if a + b <= c or a + c <= b or b + c <= a:
            yield lines((a, b, c)), lines("none")
            continue
        # Heron's formula in integers: the only rounding is that of the root and the division by 4.
        sixteen_area_squared = (a + b + c) * (-a + b + c) * (a - b + c) * (a + b - c)
        yield lines((a, b, c)), lines(f"{math.sqrt(sixteen_area_squared) / 4:.3f}")


TRIANGLE = Definition(
    name="triangle",
    difficulty="medium",
    task="Find the area of a triangle from the lengths of its sides.",
    reads="One line with three integers from 1 to 1000, in any order.",
    prints='The area with exactly three decimals, or "none" if no triangle of positive area has these sides.',
    examples=(("3 4 5\n", "6.000\n"), ("1 2 3\n", "none\n")),
    cases=_triangle_cases,
    right="""
        a, b, c = sorted(map(int, input().split()))
        if a + b <= c:
            print("none")
        else:
            s = (a + b + c) / 2
            print(f"{(s * (s - a) * (s - b) * (s - c)) ** 0.5:.3f}")
    """,
    wrong={
        "takes every triangle to be right-angled": Edit("(s * (s - a) * (s - b) * (s - c)) ** 0.5", "a * b / 2"),
        "halves in integers": Edit("(a + b + c) / 2", "(a + b + c) // 2"),
        "takes a line for a triangle": Edit("a + b <= c", "a + b < c"),
        "trusts the order of the sides": Edit("sorted(map(int, input().split()))", "map(int, input().split())"),
    },
)


def _histogram_cases(generator: random.Random) -> Iterator[Case]:
    lists = [[0], [3], [1, 0, 2], [5, 5, 5], [0, 0, 4, 0]]
    lists += [integers(generator, generator.randint(4, 20), 0, 9) for _ in range(5)]
    for heights in lists:
        top = max(heights)
        rows = ["".join("#" if height >= level else "." for height in heights) for level in range(top, 0, -1)]
        yield lines(len(heights), heights), lines(*rows, "=" * len(heights))


HISTOGRAM = Definition(
    name="histogram",
    difficulty="medium",
    task="""
        Draw a bar chart. Each number is a column of that many # from the ground up; the rest of the chart, which is as
        high as the highest bar, is dots. Below it is a ground line of equals signs.
    """,
    reads="The first line holds n (1 to 50). The second line holds n integers from 0 to 20.",
    prints="The rows of the chart from top to bottom, each n characters wide, then the ground line.",
    examples=(("4\n1 3 0 2\n", ".#..\n.#.#\n##.#\n====\n"),),
    cases=_histogram_cases,
    right="""
        n = int(input())
        heights = list(map(int, input().split()))
        for level in range(max(heights), 0, -1):
            print("".join("#" if height >= level else "." for height in heights))
        print("=" * n)
    """,
    wrong={
        "draws upside down": Edit("range(max(heights), 0, -1)", "range(1, max(heights) + 1)"),
        "lets bars float": Edit("height >= level", "height == level"),
        "draws bars sideways": """
            n = int(input())
            for height in map(int, input().split()):
                print("#" * height)
            print("=" * n)
        """,
        "draws a row too many": Edit("range(max(heights), 0, -1)", "range(max(heights), -1, -1)"),
    },
)


def _word_table_cases(generator: random.Random) -> Iterator[Case]:
    texts = [["one"], ["a a b b"], ["The the THE", "", "end"], ["x", "y", "x"]]
    for size in (5, 20, 60):
        words = [word(generator, 1, 2, "abAB") for _ in range(size)]
        texts.append([" ".join(words[i : i + 7]) for i in range(0, size, 7)])
    for rows in texts:
        counts = Counter(" ".join(rows).lower().split())
        table = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
        total = sum(counts.values())
        answer = [f"{name} {count} {100 * count // total}%" for name, count in table]
        yield lines(len(rows), *rows), lines(*answer, f"total {total}")


WORD_TABLE = Definition(
    name="word_table",
    difficulty="medium",
    task="""
        Count the words of a text; capital and small letters are the same. Print them from the most frequent to the
        rarest, equally frequent ones in alphabetical order, with their count and their share of all words in whole
        percent, rounded down.
    """,
    reads="The first line holds n (1 to 100). The n lines of the text follow; some may be empty.",
    prints='One line "word count share%" for each word in small letters, then "total" and the number of all words.',
    examples=(("2\nto be or\nnot To be\n", "be 2 33%\nto 2 33%\nnot 1 16%\nor 1 16%\ntotal 6\n"),),
    cases=_word_table_cases,
    right="""
        from collections import Counter

        words = [word for _ in range(int(input())) for word in input().lower().split()]
        counts = Counter(words)
        for word in sorted(counts, key=lambda word: (-counts[word], word)):
            print(word, counts[word], f"{100 * counts[word] // len(words)}%")
        print("total", len(words))
    """,
    wrong={
        "keeps capitals apart": Edit(".lower()", ""),
        "orders equally frequent words by first use": Edit("(-counts[word], word)", "-counts[word]"),
        "rounds to the nearest percent": Edit(
            "{100 * counts[word] // len(words)}", "{100 * counts[word] / len(words):.0f}"
        ),
        "totals different words": Edit('"total", len(words)', '"total", len(counts)'),
    },
)


def _compound_cases(generator: random.Random) -> Iterator[Case]:
    plans = [(100, 5, 1), (1, 100, 3), (1000, 1, 10), (250, 7, 2), (0, 5, 2), (999, 10, 20)]
    plans += [(generator.randint(1, 10**4), generator.randint(1, 15), generator.randint(1, 20)) for _ in range(6)]
    for euros, percent, years in plans:
        cents = 100 * euros
        rows = []
        for year in range(1, years + 1):
            cents += cents * percent // 100
            rows.append((year, f"{cents // 100}.{cents % 100:02}"))
        yield lines((euros, percent, years)), lines(*rows)


SAVINGS = Definition(
    name="savings",
    difficulty="medium",
    task="""
        Savings earn interest once a year, on all that is there. The interest of each year is rounded down to whole
        cents. Print how the savings grow.
    """,
    reads="One line with the savings in euros (0 to 10^6), the interest in percent (1 to 100) and the years (1 to 20).",
    prints="For each year one line with its number and the savings at its end, in euros with exactly two decimals.",
    examples=(("10 5 3\n", "1 10.50\n2 11.02\n3 11.57\n"),),
    cases=_compound_cases,
    right="""
        euros, percent, years = map(int, input().split())
        cents = 100 * euros
        for year in range(1, years + 1):
            cents += cents * percent // 100
            print(year, f"{cents // 100}.{cents % 100:02}")
    """,
    wrong={
        "earns interest on the start only": Edit("cents += cents * percent // 100", "cents += euros * percent"),
        "never rounds down": """
            euros, percent, years = map(int, input().split())
            savings = float(euros)
            for year in range(1, years + 1):
                savings *= 1 + percent / 100
                print(year, f"{savings:.2f}")
        """,
        "drops the zero of few cents": Edit("{cents % 100:02}", "{cents % 100}"),
        "starts with year 0": Edit("print(year,", "print(year - 1,"),
    },
)

PROBLEMS = (AVERAGE, TRIANGLE, HISTOGRAM, WORD_TABLE, SAVINGS)

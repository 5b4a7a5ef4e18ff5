"""Built-in problems: integers, their digits and remainders."""

import random
from collections.abc import Iterator

from spo.problems.builtin.definition import Case, Definition, Edit, integers, lines


def _digit_sum_cases(generator: random.Random) -> Iterator[Case]:
    for n in [0, -9, -100, 10**30, *integers(generator, 8, -(10**12), 10**12)]:
        yield lines(n), lines(sum(map(int, str(abs(n)))))


DIGIT_SUM = Definition(
    name="digit_sum",
    difficulty="easy",
    task="Add up the decimal digits of an integer. The sign does not count.",
    reads="One integer n with |n| at most 10^30.",
    prints="The sum of its digits.",
    examples=(("1234\n", "10\n"), ("-50\n", "5\n")),
    cases=_digit_sum_cases,
    right="""
        print(sum(int(digit) for digit in input().strip().lstrip("-")))
    """,
    wrong={
        "stumbles over the minus sign": Edit('.lstrip("-")', ""),
        "sums until one digit is left": """
            n = abs(int(input()))
            while n > 9:
                n = sum(int(digit) for digit in str(n))
            print(n)
        """,
        "leaves negative numbers out": """
            n = int(input())
            total = 0
            while n > 0:
                total += n % 10
                n //= 10
            print(total)
        """,
    },
)


def _leap_year_cases(generator: random.Random) -> Iterator[Case]:
    for year in [1600, 2000, 2100, 1900, 2023, 4, 400, 9999, *integers(generator, 6, 1, 9999)]:
        leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        yield lines(year), lines("yes" if leap else "no")


LEAP_YEAR = Definition(
    name="leap_year",
    difficulty="easy",
    task="""
        A year is a leap year if it is divisible by 4, except that years divisible by 100 are leap years only if
        they are divisible by 400 too. Is this one?
    """,
    reads="One integer, the year, from 1 to 9999.",
    prints='"yes" or "no".',
    examples=(("2024\n", "yes\n"), ("1900\n", "no\n")),
    cases=_leap_year_cases,
    right="""
        year = int(input())
        print("yes" if year % 400 == 0 or (year % 4 == 0 and year % 100 != 0) else "no")
    """,
    wrong={
        "forgets the centuries": 'print("yes" if int(input()) % 4 == 0 else "no")',
        "forgets every fourth century": Edit("year % 400 == 0 or ", ""),
        "answers in Python's words": """
            year = int(input())
            print(year % 400 == 0 or (year % 4 == 0 and year % 100 != 0))
        """,
    },
)


def _clock_cases(generator: random.Random) -> Iterator[Case]:
    moments = [(0, 0, 0), (23, 59, 1), (0, 0, -1), (12, 30, 1440), (9, 5, -100_000)]
    for shift in integers(generator, 8, -(10**5), 10**5):
        moments.append((generator.randrange(24), generator.randrange(60), shift))
    for hour, minute, shift in moments:
        later = (hour * 60 + minute + shift) % (24 * 60)
        yield lines(f"{hour:02}:{minute:02}", shift), lines(f"{later // 60:02}:{later % 60:02}")


CLOCK = Definition(
    name="clock",
    difficulty="easy",
    task="A digital clock shows a time of day. What will it show after some minutes, or what did it show before?",
    reads="""
        The first line holds the time as HH:MM, from 00:00 to 23:59. The second line holds an integer m with |m| at
        most 10^5: the minutes to go forward, or back if it is negative.
    """,
    prints="The time as HH:MM, with two digits each.",
    examples=(("23:50\n15\n", "00:05\n"), ("08:00\n-61\n", "06:59\n")),
    cases=_clock_cases,
    right="""
        hour, minute = map(int, input().split(":"))
        total = (hour * 60 + minute + int(input())) % 1440
        print(f"{total // 60:02}:{total % 60:02}")
    """,
    wrong={
        "drops leading zeros": Edit("{total // 60:02}:{total % 60:02}", "{total // 60}:{total % 60}"),
        "does not wrap at midnight": Edit(" % 1440", ""),
        "goes forward whatever the sign": Edit("int(input())) %", "abs(int(input()))) %"),
    },
)


def _collatz_cases(generator: random.Random) -> Iterator[Case]:
    for start in [1, 2, 27, 97, 837_799, *integers(generator, 6, 3, 10**6)]:
        n, steps = start, 0
        while n != 1:
            n, steps = (n // 2 if n % 2 == 0 else 3 * n + 1), steps + 1
        yield lines(start), lines(steps)


COLLATZ = Definition(
    name="collatz",
    difficulty="easy",
    task="""
        Start from a positive integer n. While it is not 1, halve it if it is even, and replace it by 3n + 1 if it is
        odd. How many steps does it take to reach 1?
    """,
    reads="One integer n from 1 to 10^6.",
    prints="The number of steps.",
    examples=(("6\n", "8\n"),),
    cases=_collatz_cases,
    right="""
        n = int(input())
        steps = 0
        while n != 1:
            n = n // 2 if n % 2 == 0 else 3 * n + 1
            steps += 1
        print(steps)
    """,
    wrong={
        "counts the numbers, not the steps": Edit("steps = 0", "steps = 1"),
        "halves after tripling within one step": Edit("3 * n + 1", "(3 * n + 1) // 2"),
        "starts with a step even from 1": """
            n = int(input())
            steps = 0
            while True:
                n = n // 2 if n % 2 == 0 else 3 * n + 1
                steps += 1
                if n == 1:
                    break
            print(steps)
        """,
    },
)


PROBLEMS = (DIGIT_SUM, LEAP_YEAR, CLOCK, COLLATZ)

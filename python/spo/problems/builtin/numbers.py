"""Built-in problems: divisors, primes and number systems."""

import math
import random
from collections.abc import Iterator

from spo.problems.builtin.definition import Case, Definition, Edit, integers, lines


def _gcd_lcm_cases(generator: random.Random) -> Iterator[Case]:
    pairs = [(1, 1), (999_999_999, 999_999_998), (999_999_937 * 2, 999_999_937 * 3), (7, 49)]
    for factor in integers(generator, 8, 2, 10**4):
        a, b = integers(generator, 2, 1, 10**5)
        pairs.append((a * factor, b * factor))
    for a, b in pairs:
        yield lines((a, b)), lines((math.gcd(a, b), math.lcm(a, b)))


GCD_LCM = Definition(
    name="gcd_lcm",
    difficulty="easy",
    task="Find the greatest common divisor and the least common multiple of two positive integers.",
    reads="One line with two integers a and b, each from 1 to 3 * 10^9.",
    prints="One line with the greatest common divisor and the least common multiple.",
    examples=(("12 18\n", "6 36\n"),),
    cases=_gcd_lcm_cases,
    right="""
        import math

        a, b = map(int, input().split())
        common = math.gcd(a, b)
        print(common, a // common * b)
    """,
    wrong={
        "loses digits in floating point": Edit("a // common * b", "int(a * b / common)"),
        "takes the product for the multiple": Edit("a // common * b", "a * b"),
        "tries every divisor": """
            a, b = map(int, input().split())
            common = max(d for d in range(1, min(a, b) + 1) if a % d == 0 and b % d == 0)
            print(common, a // common * b)
        """,
    },
    time_limit_s=1.0,
)


def _factors(n: int) -> list[int]:
    factors = []
    divisor = 2
    while divisor * divisor <= n:
        while n % divisor == 0:
            factors.append(divisor)
            n //= divisor
        divisor += 1
    return factors + [n] * (n > 1)


def _factorization_cases(generator: random.Random) -> Iterator[Case]:
    for n in [2, 4, 97, 2**33, 99_991**2, 9_999_999_967, *integers(generator, 5, 2, 10**9)]:
        yield lines(n), lines(_factors(n))


FACTORIZATION = Definition(
    name="factorization",
    difficulty="medium",
    task="Write an integer as a product of primes.",
    reads="One integer n from 2 to 10^10.",
    prints="Its prime factors in ascending order on one line, each as often as it divides n.",
    examples=(("60\n", "2 2 3 5\n"), ("13\n", "13\n")),
    cases=_factorization_cases,
    right="""
        n = int(input())
        factors = []
        divisor = 2
        while divisor * divisor <= n:
            while n % divisor == 0:
                factors.append(divisor)
                n //= divisor
            divisor += 1
        if n > 1:
            factors.append(n)
        print(*factors)
    """,
    wrong={
        "prints each prime once": """
            n = int(input())
            factors = []
            divisor = 2
            while divisor * divisor <= n:
                if n % divisor == 0:
                    factors.append(divisor)
                while n % divisor == 0:
                    n //= divisor
                divisor += 1
            if n > 1:
                factors.append(n)
            print(*factors)
        """,
        "forgets the last prime": Edit("if n > 1:", "if n > 1 and not factors:"),
        "does not stop at the square root": Edit("divisor * divisor <= n", "n > 1"),
    },
)


def _base_cases(generator: random.Random) -> Iterator[Case]:
    conversions = [(0, 2), (35, 36), (36, 36), (255, 16), (-8, 2), (10**18, 7)]
    conversions += [(n, generator.randint(2, 36)) for n in integers(generator, 7, -(10**9), 10**12)]
    for n, base in conversions:
        digits, rest = "", abs(n)
        while rest or not digits:
            digits, rest = "0123456789abcdefghijklmnopqrstuvwxyz"[rest % base] + digits, rest // base
        yield lines((n, base)), lines("-" * (n < 0) + digits)


BASE = Definition(
    name="base",
    difficulty="medium",
    task="Write an integer in another base. The digits above 9 are the small letters from a on.",
    reads="One line with n (|n| at most 10^18) and the base b (2 to 36), both in decimal.",
    prints="n in base b, with a minus sign in front if n is negative.",
    examples=(("26 3\n", "222\n"), ("-31 16\n", "-1f\n")),
    cases=_base_cases,
    right="""
        n, base = map(int, input().split())
        rest = abs(n)
        text = ""
        while rest or not text:
            text = "0123456789abcdefghijklmnopqrstuvwxyz"[rest % base] + text
            rest //= base
        print("-" + text if n < 0 else text)
    """,
    wrong={
        "prints nothing for zero": Edit("while rest or not text:", "while rest:"),
        "loses the sign": Edit('"-" + text if n < 0 else text', "text"),
        "writes large digits as numbers": Edit(
            '"0123456789abcdefghijklmnopqrstuvwxyz"[rest % base]', "str(rest % base)"
        ),
        "writes the digits backwards": Edit(
            'text = "0123456789abcdefghijklmnopqrstuvwxyz"[rest % base] + text',
            'text += "0123456789abcdefghijklmnopqrstuvwxyz"[rest % base]',
        ),
    },
)


def _zeros_cases(generator: random.Random) -> Iterator[Case]:
    for n in [0, 4, 10, 24, 25, 125, 10**6, 10**15, *integers(generator, 5, 26, 10**9)]:
        power, zeros = 5, 0
        while power <= n:
            zeros, power = zeros + n // power, power * 5
        yield lines(n), lines(zeros)


TRAILING_ZEROS = Definition(
    name="trailing_zeros",
    difficulty="medium",
    task="With how many zeros does n! = 1 * 2 * ... * n end?",
    reads="One integer n from 0 to 10^15.",
    prints="The number of zeros at the end of n! in decimal.",
    examples=(("10\n", "2\n"), ("3\n", "0\n")),
    cases=_zeros_cases,
    right="""
        n = int(input())
        zeros = 0
        while n:
            n //= 5
            zeros += n
        print(zeros)
    """,
    wrong={
        "forgets that 25 holds two fives": "print(int(input()) // 5)",
        "stops at 25": Edit("while n:", "for _ in range(2):"),
        "computes the factorial": """
            n = int(input())
            product = 1
            for i in range(2, n + 1):
                product *= i
            print(len(str(product)) - len(str(product).rstrip("0")))
        """,
    },
    time_limit_s=1.0,
)

PROBLEMS = (GCD_LCM, FACTORIZATION, BASE, TRAILING_ZEROS)

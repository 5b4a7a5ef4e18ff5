"""Built-in problems: words, letters and lines of text."""

import random
from collections.abc import Iterator
from itertools import groupby

from spo.problems.builtin.definition import Case, Definition, Edit, lines, word


def _vowel_cases(generator: random.Random) -> Iterator[Case]:
    texts = ["rhythm", "AEIOU aeiou", "Why, oh why?", "yyyY y", "Queue up, please"]
    texts += [" ".join(word(generator, 1, 9, "abcdeEiIoOuUyYxyz") for _ in range(6)) for _ in range(6)]
    for text in texts:
        yield lines(text), lines(sum(letter in "aeiouAEIOU" for letter in text))


COUNT_VOWELS = Definition(
    name="count_vowels",
    difficulty="easy",
    task="Count the vowels of a line of text. The vowels are a, e, i, o and u, small or capital.",
    reads="One line of at most 200 characters.",
    prints="The number of vowels.",
    examples=(("An early bird\n", "4\n"),),
    cases=_vowel_cases,
    right="""
        print(sum(letter in "aeiou" for letter in input().lower()))
    """,
    wrong={
        "misses capital letters": Edit(".lower()", ""),
        "counts y as well": Edit("aeiou", "aeiouy"),
        "counts which vowels occur": 'print(len(set(input().lower()) & set("aeiou")))',
        "reads the first word only": Edit("input()", "input().split()[0]"),
    },
)


def _palindrome_cases(generator: random.Random) -> Iterator[Case]:
    phrases = ["Was it a car or a cat I saw", "12 - 21", "Ab", "a", "Able was I", "1a", "!? .", "aab"]
    for _ in range(6):
        half = word(generator, 1, 8, "aAbB12 ,")
        phrases.append("x" + half + generator.choice(["", "-"]) + half[::-1].swapcase() + "X")
    for phrase in phrases:
        kept = [letter.lower() for letter in phrase if letter.isalnum()]
        yield lines(phrase), lines("yes" if kept == kept[::-1] else "no")


PALINDROME = Definition(
    name="palindrome",
    difficulty="easy",
    task="""
        Does a phrase read the same forwards and backwards? Only letters and digits count; capital and small letters
        are the same.
    """,
    reads="One line of at most 200 ASCII characters.",
    prints='"yes" or "no".',
    examples=(("Never odd or even.\n", "yes\n"), ("palindrome\n", "no\n")),
    cases=_palindrome_cases,
    right="""
        kept = [letter.lower() for letter in input() if letter.isalnum()]
        print("yes" if kept == kept[::-1] else "no")
    """,
    wrong={
        "lets spaces and signs count": """
            text = input().lower()
            print("yes" if text == text[::-1] else "no")
        """,
        "drops digits": Edit("isalnum", "isalpha"),
        "keeps capitals apart": Edit(".lower()", ""),
    },
)


def _shift(letter: str, shift: int) -> str:
    if not letter.isalpha():
        return letter
    base = ord("a") if letter.islower() else ord("A")
    return chr(base + (ord(letter) - base + shift) % 26)


def _caesar_cases(generator: random.Random) -> Iterator[Case]:
    messages = [(3, "xyz XYZ"), (-1, "abc."), (26, "Same again"), (1000, "Far, far away")]
    for _ in range(7):
        text = " ".join(word(generator, 1, 8, "aAbBmMyYzZ,") for _ in range(4))
        messages.append((generator.randint(-60, 60), text))
    for shift, text in messages:
        yield lines(shift, text), lines("".join(_shift(letter, shift) for letter in text))


CAESAR = Definition(
    name="caesar",
    difficulty="medium",
    task="""
        Encrypt a message by moving each letter k places on in the alphabet, from z on to a again. Capital letters
        stay capital, and everything that is not a letter stays as it is.
    """,
    reads="The first line holds the integer k, with |k| at most 1000. The second line holds the message.",
    prints="The encrypted message.",
    examples=(("2\nHello, Zoe\n", "Jgnnq, Bqg\n"),),
    cases=_caesar_cases,
    right="""
        k = int(input())
        message = ""
        for letter in input():
            if letter.isalpha():
                base = ord("a") if letter.islower() else ord("A")
                letter = chr(base + (ord(letter) - base + k) % 26)
            message += letter
        print(message)
    """,
    wrong={
        "does not wrap around": Edit(" % 26", ""),
        "wraps once at most": """
            k = int(input())
            message = ""
            for letter in input():
                if letter.isalpha():
                    last = ord("z") if letter.islower() else ord("Z")
                    code = ord(letter) + k
                    letter = chr(code if code <= last else code - 26)
                message += letter
            print(message)
        """,
        "makes everything small": """
            k = int(input())
            print("".join(chr(97 + (ord(c) - 97 + k) % 26) if c.isalpha() else c for c in input().lower()))
        """,
    },
)


def _run_length_cases(generator: random.Random) -> Iterator[Case]:
    texts = ["a", "b" * 100, "abc", "zzy", "aabbaab"]
    texts += ["".join(letter * generator.randint(1, 15) for letter in word(generator, 2, 9)) for _ in range(6)]
    for text in texts:
        runs = [(letter, len(list(run))) for letter, run in groupby(text)]
        yield lines(text), lines("".join(letter + (str(n) if n > 1 else "") for letter, n in runs))


RUN_LENGTH = Definition(
    name="run_length",
    difficulty="easy",
    task="""
        Shorten a word by writing each run of equal letters as the letter and the length of the run. A run of one is
        written as the letter alone.
    """,
    reads="One word of 1 to 200 small letters.",
    prints="The shortened word.",
    examples=(("aaabcc\n", "a3bc2\n"),),
    cases=_run_length_cases,
    right="""
        from itertools import groupby

        for letter, run in groupby(input()):
            length = len(list(run))
            print(letter + (str(length) if length > 1 else ""), end="")
        print()
    """,
    wrong={
        "writes the 1 of a single letter": Edit(' if length > 1 else ""', ""),
        "counts over the whole word": """
            text = input()
            print("".join(c + (str(text.count(c)) if text.count(c) > 1 else "") for c in dict.fromkeys(text)))
        """,
        "forgets the last run": """
            text = input()
            result, start = "", 0
            for i in range(1, len(text)):
                if text[i] != text[start]:
                    result += text[start] + (str(i - start) if i - start > 1 else "")
                    start = i
            print(result)
        """,
    },
)


def _common_letter_cases(generator: random.Random) -> Iterator[Case]:
    texts = ["zebra", "Aa b B b", "xyx yxy x", "c", "ba", "oO aA"]
    texts += [" ".join(word(generator, 3, 9, "abcdEFGH") for _ in range(5)) for _ in range(6)]
    for text in texts:
        letters = [letter for letter in text.lower() if letter.isalpha()]
        best = min(set(letters), key=lambda letter: (-letters.count(letter), letter))
        yield lines(text), lines((best, letters.count(best)))


COMMON_LETTER = Definition(
    name="common_letter",
    difficulty="easy",
    task="""
        Which letter occurs most often in a text? Capital and small letters are the same. If several letters occur
        equally often, take the first of them in the alphabet.
    """,
    reads="One line of letters and spaces, at most 200 characters, with at least one letter.",
    prints="The letter (small) and how often it occurs.",
    examples=(("Banana bread\n", "a 4\n"),),
    cases=_common_letter_cases,
    right="""
        text = input().lower()
        best = max("abcdefghijklmnopqrstuvwxyz", key=text.count)
        print(best, text.count(best))
    """,
    wrong={
        "breaks ties by place in the text": """
            text = input().lower().replace(" ", "")
            best = max(text, key=text.count)
            print(best, text.count(best))
        """,
        "breaks ties from the end of the alphabet": Edit("abcdefghijklmnopqrstuvwxyz", "zyxwvutsrqponmlkjihgfedcba"),
        "keeps capitals apart": Edit(".lower()", ""),
        "lets the space win": Edit('"abcdefghijklmnopqrstuvwxyz"', "sorted(set(text))"),
    },
)

PROBLEMS = (COUNT_VOWELS, PALINDROME, CAESAR, RUN_LENGTH, COMMON_LETTER)

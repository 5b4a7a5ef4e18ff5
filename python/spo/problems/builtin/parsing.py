"""Built-in problems: text with a grammar."""

import random
from collections.abc import Iterator

from spo.problems.builtin.definition import Case, Definition, Edit, lines, word

_PAIRS = {"(": ")", "[": "]", "{": "}"}


def _nested(generator: random.Random, size: int) -> str:
    """A balanced text of `size` pairs of brackets."""
    if size == 0:
        return ""
    inside = generator.randrange(size)
    opening = generator.choice("([{")
    return opening + _nested(generator, inside) + _PAIRS[opening] + _nested(generator, size - 1 - inside)


def _brackets_cases(generator: random.Random) -> Iterator[Case]:
    texts = ["(", ")", "a", "[)", "([)]", "}{", "(((((", "f(x[1]) {}", "())(", "({}"]
    for size in (3, 8, 20, 60):
        balanced = _nested(generator, size)
        texts.append(balanced)
        place = generator.randrange(len(balanced))
        texts.append(balanced[:place] + generator.choice("([{}])") + balanced[place + 1 :])
    for text in texts:
        reduced = "".join(letter for letter in text if letter in "()[]{}")
        while True:
            shorter = reduced.replace("()", "").replace("[]", "").replace("{}", "")
            if shorter == reduced:
                break
            reduced = shorter
        yield lines(text), lines("no" if reduced else "yes")


BRACKETS = Definition(
    name="brackets",
    difficulty="medium",
    task="""
        Do the brackets of a text match? Each of (, [ and { must be closed by its own counterpart, and pairs may not
        cross. All other characters are ignored.
    """,
    reads="One line of 1 to 200 characters.",
    prints='"yes" or "no".',
    examples=(("f(a[0], {1})\n", "yes\n"), ("([)]\n", "no\n")),
    cases=_brackets_cases,
    right="""
        closing = {")": "(", "]": "[", "}": "{"}
        stack = []
        matches = True
        for letter in input():
            if letter in "([{":
                stack.append(letter)
            elif letter in closing:
                if not stack or stack.pop() != closing[letter]:
                    matches = False
                    break
        print("yes" if matches and not stack else "no")
    """,
    wrong={
        "only counts": """
            text = input()
            print("yes" if all(text.count(a) == text.count(b) for a, b in ("()", "[]", "{}")) else "no")
        """,
        "forgets brackets left open": Edit("matches and not stack", "matches"),
        "lets pairs cross": Edit("not stack or stack.pop() != closing[letter]", "closing[letter] not in stack"),
        "fails on a bracket that was never opened": Edit("not stack or ", ""),
    },
)

_NUMERALS = [
    ("M", 1000), ("CM", 900), ("D", 500), ("CD", 400), ("C", 100), ("XC", 90), ("L", 50), ("XL", 40), ("X", 10),
    ("IX", 9), ("V", 5), ("IV", 4), ("I", 1),
]  # fmt: skip


def _roman(n: int) -> str:
    text = ""
    for numeral, value in _NUMERALS:
        text += numeral * (n // value)
        n %= value
    return text


def _roman_cases(generator: random.Random) -> Iterator[Case]:
    for n in [1, 4, 9, 14, 40, 90, 400, 944, 3999, 3888, *(generator.randint(1, 3999) for _ in range(8))]:
        yield lines(_roman(n)), lines(n)


ROMAN = Definition(
    name="roman",
    difficulty="easy",
    task="""
        Read a Roman numeral: I, V, X, L, C, D and M stand for 1, 5, 10, 50, 100, 500 and 1000. A letter in front of a
        larger one is subtracted: IX is 9, XL is 40.
    """,
    reads="One Roman numeral for a number from 1 to 3999, in capital letters.",
    prints="The number in decimal.",
    examples=(("MCMXCIV\n", "1994\n"), ("XII\n", "12\n")),
    cases=_roman_cases,
    right="""
        values = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
        numbers = [values[letter] for letter in input().strip()]
        total = 0
        for number, following in zip(numbers, numbers[1:] + [0]):
            total += -number if number < following else number
        print(total)
    """,
    wrong={
        "never subtracts": Edit("-number if number < following else number", "number"),
        "drops the last letter": Edit("numbers[1:] + [0]", "numbers[1:]"),
        "subtracts equal letters too": Edit("number < following", "number <= following"),
    },
)


def _formula(generator: random.Random, depth: int) -> str:
    if depth == 0 or generator.random() < 0.2:
        return str(generator.randint(0, 20))
    left, right = _formula(generator, depth - 1), _formula(generator, depth - 1)
    text = f"{left} {generator.choice('+-*')} {right}"
    return f"({text})" if generator.random() < 0.5 else text


def _expression_cases(generator: random.Random) -> Iterator[Case]:
    formulas = ["7", "2-3-4", "2 * 3 + 4 * 5", "2*(3+4)*5", "((((1))))", "10 - (2 - 3)", "1 - 2 * 3 - 4"]
    formulas += [_formula(generator, depth) for depth in (2, 3, 3, 4, 4, 5)]
    for formula in formulas:
        # Python agrees with the task on these operators.
        yield lines(formula), lines(eval(formula, {"__builtins__": {}}))


EXPRESSION = Definition(
    name="expression",
    difficulty="hard",
    task="""
        Compute the value of a formula of integers, +, -, * and parentheses. Multiplication binds more strongly;
        operators of equal strength work from left to right.
    """,
    reads="One line of at most 500 characters. There may be spaces between numbers and operators.",
    prints="The value.",
    examples=(("2 + 3 * (4 - 1)\n", "11\n"),),
    cases=_expression_cases,
    right="""
        tokens = input().replace(" ", "")
        place = 0

        def peek():
            return tokens[place] if place < len(tokens) else ""

        def take():
            global place
            place += 1
            return tokens[place - 1]

        def atom():
            if peek() == "(":
                take()
                value = total()
                take()
                return value
            digits = ""
            while peek().isdigit():
                digits += take()
            return int(digits)

        def product():
            value = atom()
            while peek() == "*":
                take()
                value *= atom()
            return value

        def total():
            value = product()
            while peek() in ("+", "-"):
                value = value + product() if take() == "+" else value - product()
            return value

        print(total())
    """,
    wrong={
        "adds before it multiplies": Edit("value *= atom()", "value *= total()"),
        "reads one digit a number": Edit("while peek().isdigit():", "for _ in range(1):"),
        "subtracts from right to left": Edit("else value - product()", "else value - total()"),
        "adds the operand before it takes the operator": Edit(
            'value + product() if take() == "+" else value - product()', "value + product() if take() else 0"
        ),
    },
)


def _settings_cases(generator: random.Random) -> Iterator[Case]:
    files = [
        ["# nothing", ""],
        ["a=1", "a=2", "b = 3"],
        ["path = x=y=z"],
        ["  indented   =   two words  "],
        ["empty ="],
        ["c=1", "B=2", "a=3", "#a=4", "  # b=5"],
    ]
    for size in (4, 10, 30):
        rows = [
            f"{word(generator, 1, 2, 'abAB')}{generator.choice(['=', ' = '])}{word(generator, 1, 5)}"
            for _ in range(size)
        ]
        files.append([generator.choice(["", "", "# "]) + row for row in rows])
    for rows in files:
        settings: dict[str, str] = {}
        for row in rows:
            if row.strip() and not row.strip().startswith("#"):
                key, _, value = row.partition("=")
                settings[key.strip()] = value.strip()
        answer = [f"{key}: {settings[key]}" for key in sorted(settings)]
        yield lines(len(rows), *rows), lines(len(settings), *answer)


SETTINGS = Definition(
    name="settings",
    difficulty="medium",
    task="""
        Read a settings file. Each line is empty, or a comment that starts with # (perhaps after spaces), or has the
        form key = value. The key ends at the first equals sign; spaces around key and value do not count. The last
        value of a key holds.
    """,
    reads="The first line holds n (1 to 100). The n lines of the file follow.",
    prints="""
        The number of keys, then for each key one line "key: value", sorted by key; capital letters come before small
        ones.
    """,
    examples=(("4\n# colors\nsky = blue\ngrass= light green\nsky =grey\n", "2\ngrass: light green\nsky: grey\n"),),
    cases=_settings_cases,
    right="""
        settings = {}
        for _ in range(int(input())):
            line = input().strip()
            if line and not line.startswith("#"):
                key, _, value = line.partition("=")
                settings[key.strip()] = value.strip()
        print(len(settings))
        for key in sorted(settings):
            print(f"{key}: {settings[key]}")
    """,
    wrong={
        "splits at the last equals sign": Edit("partition", "rpartition"),
        "keeps the first value": Edit(
            "settings[key.strip()] = value.strip()", "settings.setdefault(key.strip(), value.strip())"
        ),
        "keeps the order of the file": Edit("sorted(settings)", "settings"),
        "reads comments as settings": Edit('line and not line.startswith("#")', "line"),
    },
)

PROBLEMS = (BRACKETS, ROMAN, EXPRESSION, SETTINGS)

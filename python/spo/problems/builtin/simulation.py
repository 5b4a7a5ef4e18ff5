"""Built-in problems: processes followed step by step."""

import random
from collections import deque
from collections.abc import Iterator

from spo.problems.builtin.definition import Case, Definition, Edit, integers, lines, word

_MOVES = {"N": (0, 1), "E": (1, 0), "S": (0, -1), "W": (-1, 0)}


def _walk(program: str) -> tuple[int, int, str]:
    x, y, facing = 0, 0, "N"
    for command in program:
        if command == "F":
            x, y = x + _MOVES[facing][0], y + _MOVES[facing][1]
        else:
            facing = "NESW"[("NESW".index(facing) + (1 if command == "R" else -1)) % 4]
    return x, y, facing


def _robot_cases(generator: random.Random) -> Iterator[Case]:
    for program in ["F", "L", "RRRR", "LFLF", "FFRFFRFFRFF", *(word(generator, 10, 99, "FFLR") for _ in range(6))]:
        yield lines(program), lines(_walk(program))


ROBOT = Definition(
    name="robot",
    difficulty="easy",
    task="""
        A robot stands at (0, 0) and faces north, towards growing y. It obeys F (one step forward), L (turn left on
        the spot) and R (turn right). East is towards growing x. Where does it end?
    """,
    reads="One word of 1 to 200 letters F, L and R.",
    prints="The robot's x, its y and the direction it faces: N, E, S or W.",
    examples=(("FRFF\n", "2 1 E\n"),),
    cases=_robot_cases,
    right="""
        x, y, dx, dy = 0, 0, 0, 1
        for command in input().strip():
            if command == "F":
                x, y = x + dx, y + dy
            elif command == "L":
                dx, dy = -dy, dx
            else:
                dx, dy = dy, -dx
        print(x, y, {(0, 1): "N", (1, 0): "E", (0, -1): "S", (-1, 0): "W"}[dx, dy])
    """,
    wrong={
        "mixes up left and right": Edit('command == "L"', 'command == "R"'),
        "takes a step when it turns": """
            x, y, facing = 0, 0, 0
            for command in input().strip():
                facing = (facing + {"F": 0, "L": 3, "R": 1}[command]) % 4
                x += (0, 1, 0, -1)[facing]
                y += (1, 0, -1, 0)[facing]
            print(x, y, "NESW"[facing])
        """,
        "takes turns as compass directions": """
            x = y = 0
            for command in input().strip():
                x += {"F": 0, "L": -1, "R": 1}[command]
                y += command == "F"
            print(x, y, "N")
        """,
    },
)


def _account_cases(generator: random.Random) -> Iterator[Case]:
    for size in [1, 3, 10, 10, 40, 40]:
        orders = [(generator.choice(["deposit", "withdraw"]), generator.randint(1, 50)) for _ in range(size)]
        orders[0] = ("withdraw", 1) if size == 1 else ("deposit", 20)
        if size > 1:
            orders[1] = ("withdraw", 20)
        balance = refused = 0
        for kind, amount in orders:
            if kind == "deposit":
                balance += amount
            elif amount <= balance:
                balance -= amount
            else:
                refused += 1
        yield lines(size, *orders), lines(balance, refused)


ACCOUNT = Definition(
    name="account",
    difficulty="easy",
    task="""
        Keep an account that starts empty. A withdrawal of more than the balance is refused and changes nothing.
    """,
    reads="""
        The first line holds n (1 to 1000). Each of the next n lines holds "deposit" or "withdraw" and an amount from
        1 to 10^6.
    """,
    prints="The balance on the first line, the number of refused withdrawals on the second.",
    examples=(("4\ndeposit 10\nwithdraw 12\nwithdraw 10\nwithdraw 1\n", "0\n2\n"),),
    cases=_account_cases,
    right="""
        balance = refused = 0
        for _ in range(int(input())):
            kind, amount = input().split()
            if kind == "deposit":
                balance += int(amount)
            elif int(amount) <= balance:
                balance -= int(amount)
            else:
                refused += 1
        print(balance)
        print(refused)
    """,
    wrong={
        "refuses to empty the account": Edit("int(amount) <= balance", "int(amount) < balance"),
        "lets the balance become negative": """
            balance = refused = 0
            for _ in range(int(input())):
                kind, amount = input().split()
                balance += int(amount) if kind == "deposit" else -int(amount)
                refused += balance < 0
            print(balance)
            print(refused)
        """,
        "pays out what is there": """
            balance = refused = 0
            for _ in range(int(input())):
                kind, amount = input().split()
                if kind == "deposit":
                    balance += int(amount)
                else:
                    refused += int(amount) > balance
                    balance = max(0, balance - int(amount))
            print(balance)
            print(refused)
        """,
    },
)


def _circle_cases(generator: random.Random) -> Iterator[Case]:
    games = [(1, 5), (2, 1), (7, 1), (41, 3), (2000, 1999), (5, 10**6)]
    games += [(generator.randint(2, 300), generator.randint(2, 400)) for _ in range(5)]
    for n, k in games:
        circle, order = deque(range(1, n + 1)), []
        while circle:
            circle.rotate(-(k - 1) % len(circle))
            order.append(circle.popleft())
        yield lines((n, k)), lines(order)


COUNTING_OUT = Definition(
    name="counting_out",
    difficulty="medium",
    task="""
        Children 1 to n stand in a circle. Starting with child 1 they count from 1 to k; whoever says k leaves the
        circle, and the next child starts from 1 again, until nobody is left. In which order do they leave?
    """,
    reads="One line with n (1 to 2000) and k (1 to 10^6).",
    prints="The children on one line, in the order in which they leave.",
    examples=(("5 2\n", "2 4 1 5 3\n"),),
    cases=_circle_cases,
    right="""
        n, k = map(int, input().split())
        circle = list(range(1, n + 1))
        order = []
        i = 0
        while circle:
            i = (i + k - 1) % len(circle)
            order.append(circle.pop(i))
        print(*order)
    """,
    wrong={
        "skips a child too many": Edit("k - 1", "k"),
        "prints only who is last": """
            n, k = map(int, input().split())
            last = 0
            for size in range(1, n + 1):
                last = (last + k) % size
            print(last + 1)
        """,
        "starts over at child 1 each time": Edit("(i + k - 1)", "(k - 1)"),
    },
)


def _elevator_cases(generator: random.Random) -> Iterator[Case]:
    for size in [1, 2, 10, 40]:
        floors = integers(generator, size, -3, 30)
        yield _elevator(floors)
    yield _elevator([0, 0, 5, 5, 5, 2])
    yield _elevator([-3, 30, -3])


def _elevator(floors: list[int]) -> Case:
    moves = [after - before for before, after in zip([0, *floors], floors, strict=False)]
    seconds = sum(3 * abs(move) for move in moves) + 5 * sum(move != 0 for move in moves)
    return lines(len(floors), floors), lines(seconds)


ELEVATOR = Definition(
    name="elevator",
    difficulty="easy",
    task="""
        An elevator waits on floor 0 and serves calls in the given order. It takes 3 seconds a floor, up or down, and
        5 seconds to open and close its doors at the end of each ride. A call from the floor where it stands takes no
        time. How long does it take for all calls?
    """,
    reads="The first line holds n (1 to 1000). The second line holds n floors from -3 to 100.",
    prints="The number of seconds.",
    examples=(("3\n2 2 -1\n", "25\n"),),
    cases=_elevator_cases,
    right="""
        input()
        floor = seconds = 0
        for call in map(int, input().split()):
            if call != floor:
                seconds += 3 * abs(call - floor) + 5
            floor = call
        print(seconds)
    """,
    wrong={
        "opens the doors for every call": Edit("call != floor", "True"),
        "gains time on the way down": Edit("abs(call - floor)", "(call - floor)"),
        "starts from the first call": """
            input()
            calls = list(map(int, input().split()))
            floor, seconds = calls[0], 0
            for call in calls:
                if call != floor:
                    seconds += 3 * abs(call - floor) + 5
                floor = call
            print(seconds)
        """,
    },
)

PROBLEMS = (ROBOT, ACCOUNT, COUNTING_OUT, ELEVATOR)

"""Built-in problems: boards and matrices."""

import random
from collections.abc import Iterator

from spo.problems.builtin.definition import Case, Definition, Edit, integers, lines


def _life_step(grid: list[str]) -> list[str]:
    height, width = len(grid), len(grid[0])

    def alive(row: int, column: int) -> bool:
        return 0 <= row < height and 0 <= column < width and grid[row][column] == "#"

    def next_cell(row: int, column: int) -> str:
        around = sum(alive(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1))
        return "#" if around == 3 or (around == 4 and alive(row, column)) else "."

    return ["".join(next_cell(row, column) for column in range(width)) for row in range(height)]


def _life_cases(generator: random.Random) -> Iterator[Case]:
    for height, width, steps in [(1, 1, 1), (3, 3, 0), (4, 6, 2), (5, 5, 9), (8, 12, 5), (12, 8, 20)]:
        grid = ["".join(generator.choices("#.", k=width)) for _ in range(height)]
        result = grid
        for _ in range(steps):
            result = _life_step(result)
        yield lines((height, width, steps), *grid), lines(*result)


LIFE = Definition(
    name="life",
    difficulty="hard",
    task="""
        The Game of Life on a board with nothing alive beyond its edge. Each cell has up to eight neighbours. In each
        step, all at once, a live cell with two or three live neighbours stays alive, a dead cell with exactly three
        comes alive, and every other cell is dead.
    """,
    reads="""
        The first line holds the height, the width (each 1 to 20) and the number of steps (0 to 20). The board follows,
        one row a line, with # for live and . for dead cells.
    """,
    prints="The board after these steps.",
    examples=(("3 5 1\n.....\n.###.\n.....\n", "..#..\n..#..\n..#..\n"),),
    cases=_life_cases,
    right="""
        h, w, steps = map(int, input().split())
        alive = set()
        for i in range(h):
            row = input()
            alive |= {(i, j) for j in range(w) if row[j] == "#"}
        for _ in range(steps):
            around = {}
            for i, j in alive:
                for a in (i - 1, i, i + 1):
                    for b in (j - 1, j, j + 1):
                        if (a, b) != (i, j) and 0 <= a < h and 0 <= b < w:
                            around[a, b] = around.get((a, b), 0) + 1
            alive = {cell for cell, n in around.items() if n == 3 or (n == 2 and cell in alive)}
        for i in range(h):
            print("".join("#" if (i, j) in alive else "." for j in range(w)))
    """,
    wrong={
        "lets cells live beyond the edge": Edit(" and 0 <= a < h and 0 <= b < w", ""),
        "changes the board while it counts": """
            h, w, steps = map(int, input().split())
            grid = [list(input()) for _ in range(h)]
            for _ in range(steps):
                for i in range(h):
                    for j in range(w):
                        n = sum(
                            grid[a][b] == "#"
                            for a in range(max(0, i - 1), min(h, i + 2))
                            for b in range(max(0, j - 1), min(w, j + 2))
                            if (a, b) != (i, j)
                        )
                        grid[i][j] = "#" if n == 3 or (n == 2 and grid[i][j] == "#") else "."
            print(*map("".join, grid), sep="\\n")
        """,
        "always makes one step": Edit("range(steps)", "range(1)"),
    },
)


def _spiral_cases(generator: random.Random) -> Iterator[Case]:
    for height, width in [(1, 1), (1, 5), (5, 1), (2, 2), (3, 3), (4, 7), (7, 4), (20, 19)]:
        matrix = [integers(generator, width, -99, 99) for _ in range(height)]
        rest, order = matrix, []
        while rest:
            order += rest[0]
            # What is left, turned by a quarter, has the next edge on top.
            rest = [list(row) for row in zip(*rest[1:], strict=True)][::-1]
        yield lines((height, width), *matrix), lines(order)


SPIRAL = Definition(
    name="spiral",
    difficulty="medium",
    task="""
        Read a matrix in a spiral: along the top row to the right, down the last column, back along the bottom row,
        up the first column, and so on inwards.
    """,
    reads="The first line holds the height and the width, each from 1 to 20. The rows of integers follow.",
    prints="All numbers on one line, in that order.",
    examples=(("2 3\n1 2 3\n4 5 6\n", "1 2 3 6 5 4\n"),),
    cases=_spiral_cases,
    right="""
        height, width = map(int, input().split())
        rows = [input().split() for _ in range(height)]
        order = []
        while rows and rows[0]:
            order += rows.pop(0)
            if rows and rows[0]:
                order += [row.pop() for row in rows]
            if rows:
                order += rows.pop()[::-1]
            if rows and rows[0]:
                order += [row.pop(0) for row in rows[::-1]]
        print(*order)
    """,
    wrong={
        "goes round once": Edit("while rows and rows[0]:", "for _ in range(1):"),
        "reads the bottom row forwards": Edit("rows.pop()[::-1]", "rows.pop()"),
        "goes down both sides": Edit("rows[::-1]", "rows"),
    },
)


def _winner(board: list[str]) -> str:
    rows = [*board, *map("".join, zip(*board, strict=True))]
    rows += ["".join(board[i][i] for i in range(3)), "".join(board[i][2 - i] for i in range(3))]
    for player in "XO":
        if player * 3 in rows:
            return player
    return "open" if any("." in row for row in board) else "draw"


def _tic_tac_toe_cases(generator: random.Random) -> Iterator[Case]:
    boards = ["XOXOXOOXO", ".........", "XXX.O.O..", "O..OXXO.X", "X.O.XO..X", "XXOXO.O..", "XXXOOXXOO"]
    for _ in range(8):
        moves = generator.sample(range(9), generator.randint(4, 9))
        board = ["."] * 9
        for turn, place in enumerate(moves):
            if _winner(["".join(board[i : i + 3]) for i in (0, 3, 6)]) == "open":
                board[place] = "XO"[turn % 2]
        boards.append("".join(board))
    for cells in boards:
        rows = [cells[i : i + 3] for i in (0, 3, 6)]
        yield lines(*rows), lines(_winner(rows))


TIC_TAC_TOE = Definition(
    name="tic_tac_toe",
    difficulty="easy",
    task="""
        Who has three in a row, in a column or on a diagonal of a tic-tac-toe board? At most one player has.
    """,
    reads="Three lines of three characters: X, O, or . for an empty cell.",
    prints='"X" or "O" for the winner, "draw" if nobody won and the board is full, else "open".',
    examples=(("XO.\nOXO\n..X\n", "X\n"), ("XO.\n...\n...\n", "open\n")),
    cases=_tic_tac_toe_cases,
    right="""
        board = "".join(input().strip() for _ in range(3))
        rows = ["012", "345", "678", "036", "147", "258", "048", "246"]
        filled = ["".join(board[int(i)] for i in row) for row in rows]
        if "XXX" in filled:
            print("X")
        elif "OOO" in filled:
            print("O")
        else:
            print("open" if "." in board else "draw")
    """,
    wrong={
        "forgets one diagonal": Edit(', "246"', ""),
        "forgets the columns": Edit('"036", "147", "258", ', ""),
        "calls an open board a draw": Edit('"open" if "." in board else "draw"', '"draw"'),
        "looks for a full board first": Edit('if "XXX" in filled:', 'if "XXX" in filled and "." in board:'),
    },
)


def _saddle_cases(generator: random.Random) -> Iterator[Case]:
    for height, width, high in [
        (1, 1, 9),
        (2, 2, 1),
        (1, 4, 2),
        (3, 1, 2),
        (3, 3, 3),
        (4, 5, 20),
        (6, 6, 4),
        (9, 7, 99),
    ]:
        matrix = [integers(generator, width, -high, high) for _ in range(height)]
        yield lines((height, width), *matrix), lines(_count_saddles(matrix))
    yield lines((2, 2), (5, 5), (5, 5)), lines(4)
    yield lines((2, 2), (1, 2), (4, 0)), lines(0)
    yield lines((2, 2), (9, 10), (10, 12)), lines(1)


def _count_saddles(matrix: list[list[int]]) -> int:
    columns = list(zip(*matrix, strict=True))
    return sum(value == max(row) and value == min(columns[j]) for row in matrix for j, value in enumerate(row))


SADDLES = Definition(
    name="saddles",
    difficulty="medium",
    task="""
        Count the saddle points of a matrix: the cells whose number is the largest of its row and the smallest of its
        column. Several cells may share being largest or smallest.
    """,
    reads="The first line holds the height and the width, each from 1 to 50. The rows of integers follow.",
    prints="The number of saddle points.",
    examples=(("2 3\n1 2 3\n7 8 9\n", "1\n"),),
    cases=_saddle_cases,
    right="""
        height, width = map(int, input().split())
        rows = [list(map(int, input().split())) for _ in range(height)]
        lows = [min(column) for column in zip(*rows)]
        print(sum(value == max(row) and value == lows[j] for row in rows for j, value in enumerate(row)))
    """,
    wrong={
        "looks for the opposite": """
            height, width = map(int, input().split())
            rows = [list(map(int, input().split())) for _ in range(height)]
            highs = [max(column) for column in zip(*rows)]
            print(sum(value == min(row) and value == highs[j] for row in rows for j, value in enumerate(row)))
        """,
        "takes one cell a row": """
            height, width = map(int, input().split())
            rows = [list(map(int, input().split())) for _ in range(height)]
            lows = [min(column) for column in zip(*rows)]
            print(sum(max(row) == lows[row.index(max(row))] for row in rows))
        """,
        "compares numbers as text": Edit("list(map(int, input().split()))", "input().split()"),
        "says only whether there is one": Edit("print(sum(", "print(any("),
    },
)

PROBLEMS = (LIFE, SPIRAL, TIC_TAC_TOE, SADDLES)

"""Built-in problems: graphs, mazes and orders."""

import heapq
import random
from collections import deque
from collections.abc import Iterator

from spo.problems.builtin.definition import Case, Definition, Edit, lines

Edges = list[tuple[int, int]]


def edges_between(generator: random.Random, nodes: int, count: int) -> Edges:
    """Different undirected edges between the nodes 1 to `nodes`, `count` at most."""
    drawn = ((generator.randint(1, nodes), generator.randint(1, nodes)) for _ in range(count))
    return list(dict.fromkeys((min(edge), max(edge)) for edge in drawn if edge[0] != edge[1]))


def neighbors_of(nodes: int, edges: Edges) -> list[list[int]]:
    """For each node from 1 on, the other ends of its edges."""
    neighbors: list[list[int]] = [[] for _ in range(nodes + 1)]
    for a, b in edges:
        neighbors[a].append(b)
        neighbors[b].append(a)
    return neighbors


def distances_from(neighbors: list[list[int]], start: int) -> dict[int, int]:
    """For each node that can be reached, the number of edges on the shortest way to it."""
    distances = {start: 0}
    queue = deque([start])
    while queue:
        node = queue.popleft()
        for other in neighbors[node]:
            if other not in distances:
                distances[other] = distances[node] + 1
                queue.append(other)
    return distances


def _islands_cases(generator: random.Random) -> Iterator[Case]:
    graphs = [(1, []), (5, []), (4, [(1, 2), (3, 4), (2, 3)]), (6, [(5, 6), (1, 5), (2, 3)])]
    graphs += [(n, edges_between(generator, n, m)) for n, m in [(6, 4), (10, 6), (40, 25), (300, 200)]]
    graphs.append((3000, [(i, i + 1) for i in range(1, 3000)]))
    for nodes, edges in graphs:
        neighbors = neighbors_of(nodes, edges)
        seen: set[int] = set()
        sizes = []
        for node in range(1, nodes + 1):
            if node not in seen:
                island = distances_from(neighbors, node)
                seen.update(island)
                sizes.append(len(island))
        yield lines((nodes, len(edges)), *edges), lines((len(sizes), max(sizes)))


ISLANDS = Definition(
    name="islands",
    difficulty="medium",
    task="""
        Friendships join people into groups: two people are in one group if a chain of friendships leads from one to
        the other. How many groups are there, and how many people are in the largest?
    """,
    reads="""
        The first line holds n (1 to 3000 people, numbered from 1) and m (at most 5000). Each of the next m lines holds
        two different people who are friends.
    """,
    prints="The number of groups and the size of the largest, on one line.",
    examples=(("5 2\n1 2\n2 4\n", "3 3\n"),),
    cases=_islands_cases,
    right="""
        n, m = map(int, input().split())
        friends = [[] for _ in range(n + 1)]
        for _ in range(m):
            a, b = map(int, input().split())
            friends[a].append(b)
            friends[b].append(a)
        seen = [False] * (n + 1)
        groups = largest = 0
        for start in range(1, n + 1):
            if seen[start]:
                continue
            seen[start] = True
            stack, size = [start], 0
            while stack:
                person = stack.pop()
                size += 1
                for friend in friends[person]:
                    if not seen[friend]:
                        seen[friend] = True
                        stack.append(friend)
            groups += 1
            largest = max(largest, size)
        print(groups, largest)
    """,
    wrong={
        "follows friendships one way only": Edit("friends[b].append(a)", "pass"),
        "forgets people without friends": Edit("groups += 1", "groups += size > 1"),
        "counts direct friends only": Edit("stack.append(friend)", "size += 1"),
        "recurses too deep": """
            n, m = map(int, input().split())
            friends = [[] for _ in range(n + 1)]
            for _ in range(m):
                a, b = map(int, input().split())
                friends[a].append(b)
                friends[b].append(a)
            seen = set()

            def visit(person):
                seen.add(person)
                return 1 + sum(visit(friend) for friend in friends[person] if friend not in seen)

            sizes = [visit(person) for person in range(1, n + 1) if person not in seen]
            print(len(sizes), max(sizes))
        """,
    },
)


def _maze_cases(generator: random.Random) -> Iterator[Case]:
    for height, width, share in [(1, 2, 0.0), (3, 3, 0.2), (5, 8, 0.3), (5, 8, 0.5), (12, 12, 0.3), (40, 40, 0.25)]:
        cells = ["#" if generator.random() < share else "." for _ in range(height * width)]
        start, goal = generator.sample(range(height * width), 2)
        cells[start], cells[goal] = "S", "G"
        yield _maze(["".join(cells[i : i + width]) for i in range(0, height * width, width)])
    yield _maze(["S#G", ".#.", "..."])
    yield _maze(["S.#", ".#.", "#.G"])
    yield _maze(["G....", "####.", "S...."])


def _maze(rows: list[str]) -> Case:
    places = {(i, j): cell for i, row in enumerate(rows) for j, cell in enumerate(row) if cell != "#"}
    [start] = [place for place, cell in places.items() if cell == "S"]
    [goal] = [place for place, cell in places.items() if cell == "G"]
    distances = {start: 0}
    queue = deque([start])
    while queue:
        i, j = queue.popleft()
        for place in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
            if place in places and place not in distances:
                distances[place] = distances[i, j] + 1
                queue.append(place)
    return lines((len(rows), len(rows[0])), *rows), lines(distances.get(goal, -1))


MAZE = Definition(
    name="maze",
    difficulty="medium",
    task="""
        Find the shortest way through a maze from S to G, one cell up, down, left or right at a time. Walls are #, free
        cells are dots.
    """,
    reads="The first line holds the height and the width, each from 1 to 40. The rows of the maze follow.",
    prints="The number of steps, or -1 if there is no way.",
    examples=(("2 4\nS#.G\n....\n", "5\n"),),
    cases=_maze_cases,
    right="""
        from collections import deque

        h, w = map(int, input().split())
        maze = [input() for _ in range(h)]
        start = next((i, j) for i in range(h) for j in range(w) if maze[i][j] == "S")
        steps = {start: 0}
        queue = deque([start])
        answer = -1
        while queue:
            i, j = queue.popleft()
            if maze[i][j] == "G":
                answer = steps[i, j]
                break
            for a, b in (i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1):
                if 0 <= a < h and 0 <= b < w and maze[a][b] != "#" and (a, b) not in steps:
                    steps[a, b] = steps[i, j] + 1
                    queue.append((a, b))
        print(answer)
    """,
    wrong={
        "leaves the maze through its upper and left edge": Edit("0 <= a < h and 0 <= b < w", "a < h and b < w"),
        "walks diagonally": Edit("(i, j + 1):", "(i, j + 1), (i - 1, j - 1), (i + 1, j + 1):"),
        "searches in depth": Edit("queue.popleft()", "queue.pop()"),
        "counts cells": Edit("steps = {start: 0}", "steps = {start: 1}"),
    },
)


def _courses_cases(generator: random.Random) -> Iterator[Case]:
    graphs: list[tuple[int, Edges]] = [(1, []), (4, []), (3, [(3, 1)]), (3, [(1, 2), (2, 3), (3, 1)]), (2, [(2, 1)])]
    for nodes, count in [(6, 5), (15, 15), (15, 15), (60, 80), (500, 900)]:
        order = generator.sample(range(1, nodes + 1), nodes)
        graphs.append((nodes, [(order[a - 1], order[b - 1]) for a, b in edges_between(generator, nodes, count)]))
    for nodes, edges in graphs:
        waiting = {node: {a for a, b in edges if b == node} for node in range(1, nodes + 1)}
        ready = [node for node, before in waiting.items() if not before]
        done: list[int] = []
        while ready:
            node = heapq.heappop(ready)
            done.append(node)
            for other, before in waiting.items():
                if node in before:
                    before.remove(node)
                    if not before:
                        heapq.heappush(ready, other)
        yield lines((nodes, len(edges)), *edges), lines(done if len(done) == nodes else "impossible")


COURSES = Definition(
    name="courses",
    difficulty="hard",
    task="""
        Some courses must be taken before others. Put all of them in order; whenever several may come next, take the
        one with the smallest number.
    """,
    reads="""
        The first line holds n (1 to 500 courses, numbered from 1) and m (at most 1000). Each of the next m lines holds
        a and b: course a must come before course b.
    """,
    prints='The courses in order on one line, or "impossible" if the rules contradict each other.',
    examples=(("4 3\n4 1\n1 2\n3 2\n", "3 4 1 2\n"), ("2 2\n1 2\n2 1\n", "impossible\n")),
    cases=_courses_cases,
    right="""
        import heapq

        n, m = map(int, input().split())
        later = [[] for _ in range(n + 1)]
        missing = [0] * (n + 1)
        for _ in range(m):
            a, b = map(int, input().split())
            later[a].append(b)
            missing[b] += 1
        ready = [course for course in range(1, n + 1) if missing[course] == 0]
        order = []
        while ready:
            course = heapq.heappop(ready)
            order.append(course)
            for other in later[course]:
                missing[other] -= 1
                if missing[other] == 0:
                    heapq.heappush(ready, other)
        print(*order if len(order) == n else ["impossible"])
    """,
    wrong={
        "takes courses first come, first served": Edit("heapq.heappush(ready, other)", "ready.append(other)"),
        "reads the rules backwards": Edit("a, b = map(int, input().split())", "b, a = map(int, input().split())"),
        "prints what it can where rules contradict": Edit('order if len(order) == n else ["impossible"]', "order"),
        "sorts courses by how many must come before": """
            n, m = map(int, input().split())
            before = [0] * (n + 1)
            for _ in range(m):
                before[int(input().split()[1])] += 1
            print(*sorted(range(1, n + 1), key=lambda course: (before[course], course)))
        """,
    },
)

PROBLEMS = (ISLANDS, MAZE, COURSES)

"""Built-in problems: cheapest routes, networks and colourings."""

import random
from collections.abc import Iterator

from spo.problems.builtin.definition import Case, Definition, Edit, lines
from spo.problems.builtin.graphs import distances_from, edges_between, neighbors_of

Road = tuple[int, int, int]


def _roads(generator: random.Random, nodes: int, count: int, high: int) -> list[Road]:
    return [(a, b, generator.randint(1, high)) for a, b in edges_between(generator, nodes, count)]


def _cheapest(nodes: int, roads: list[Road]) -> int:
    """The cheapest way from 1 to `nodes` by relaxing every road until nothing changes; -1 if there is none."""
    costs = {1: 0}
    changed = True
    while changed:
        changed = False
        for a, b, cost in [*roads, *((b, a, cost) for a, b, cost in roads)]:
            if a in costs and costs[a] + cost < costs.get(b, 10**12):
                costs[b] = costs[a] + cost
                changed = True
    return costs.get(nodes, -1)


def _route_cases(generator: random.Random) -> Iterator[Case]:
    maps = [(2, []), (2, [(1, 2, 7)]), (3, [(1, 3, 10), (1, 2, 3), (2, 3, 4)]), (4, [(1, 2, 1), (3, 4, 1)])]
    maps.append((4, [(2, 4, 1), (1, 3, 1), (2, 3, 1), (1, 4, 9)]))
    maps += [(n, _roads(generator, n, m, 50)) for n, m in [(5, 8), (8, 14), (20, 40), (50, 200), (400, 1500)]]
    for nodes, roads in maps:
        yield lines((nodes, len(roads)), *roads), lines(_cheapest(nodes, roads))


ROUTE = Definition(
    name="route",
    difficulty="hard",
    task="What does the cheapest way from town 1 to town n cost? Every road can be used both ways.",
    reads="""
        The first line holds n (2 to 500 towns) and m (at most 2000 roads). Each of the next m lines holds two towns and
        the toll of the road between them, from 1 to 1000.
    """,
    prints="The sum of the tolls, or -1 if town n cannot be reached.",
    examples=(("4 4\n1 2 5\n2 4 5\n1 3 2\n3 4 9\n", "10\n"),),
    cases=_route_cases,
    right="""
        import heapq

        n, m = map(int, input().split())
        roads = [[] for _ in range(n + 1)]
        for _ in range(m):
            a, b, toll = map(int, input().split())
            roads[a].append((b, toll))
            roads[b].append((a, toll))
        costs = {}
        heap = [(0, 1)]
        while heap:
            cost, town = heapq.heappop(heap)
            if town not in costs:
                costs[town] = cost
                for other, toll in roads[town]:
                    heapq.heappush(heap, (cost + toll, other))
        print(costs.get(n, -1))
    """,
    wrong={
        "takes roads one way only": Edit("roads[b].append((a, toll))", "pass"),
        "takes the fewest roads": """
            from collections import deque

            n, m = map(int, input().split())
            roads = [[] for _ in range(n + 1)]
            for _ in range(m):
                a, b, toll = map(int, input().split())
                roads[a].append((b, toll))
                roads[b].append((a, toll))
            costs = {1: 0}
            queue = deque([1])
            while queue:
                town = queue.popleft()
                for other, toll in roads[town]:
                    if other not in costs:
                        costs[other] = costs[town] + toll
                        queue.append(other)
            print(costs.get(n, -1))
        """,
        "always takes the cheapest next road": Edit("(cost + toll, other)", "(toll, other)"),
        "goes wherever the road is cheapest and never back": """
            n, m = map(int, input().split())
            roads = [[] for _ in range(n + 1)]
            for _ in range(m):
                a, b, toll = map(int, input().split())
                roads[a].append((toll, b))
                roads[b].append((toll, a))
            town, total, seen = 1, 0, {1}
            while town != n:
                ways = sorted(road for road in roads[town] if road[1] not in seen)
                if not ways:
                    total = -1
                    break
                total, town = total + ways[0][0], ways[0][1]
                seen.add(town)
            print(total)
        """,
    },
)


def _network_cases(generator: random.Random) -> Iterator[Case]:
    maps = [(1, []), (2, []), (3, [(1, 2, 5), (2, 3, 5), (1, 3, 5)]), (4, [(1, 2, 1), (1, 3, 2), (1, 4, 9), (2, 3, 1)])]
    maps += [(n, _roads(generator, n, m, 30)) for n, m in [(5, 12), (5, 4), (10, 30), (30, 120), (300, 1800)]]
    for nodes, cables in maps:
        reached, total = {1}, 0
        while len(reached) < nodes:
            leaving = [cost for a, b, cost in cables if (a in reached) != (b in reached)]
            if not leaving:
                break
            cheapest = min(leaving)
            total += cheapest
            reached |= next({a, b} for a, b, c in cables if c == cheapest and (a in reached) != (b in reached))
        yield lines((nodes, len(cables)), *cables), lines(total if len(reached) == nodes else "impossible")


NETWORK = Definition(
    name="network",
    difficulty="hard",
    task="Connect all houses by cables, directly or through other houses, as cheaply as possible.",
    reads="""
        The first line holds n (1 to 300 houses) and m (at most 2000 possible cables). Each of the next m lines holds
        two houses and the price of a cable between them, from 1 to 1000.
    """,
    prints='The lowest price of all cables together, or "impossible".',
    examples=(("3 3\n1 2 4\n2 3 1\n1 3 2\n", "3\n"), ("3 1\n1 2 4\n", "impossible\n")),
    cases=_network_cases,
    right="""
        n, m = map(int, input().split())
        cables = sorted((list(map(int, input().split())) for _ in range(m)), key=lambda cable: cable[2])
        parent = list(range(n + 1))

        def root(house):
            while parent[house] != house:
                house = parent[house]
            return house

        total, joined = 0, 1
        for a, b, price in cables:
            a, b = root(a), root(b)
            if a != b:
                parent[a] = b
                total += price
                joined += 1
        print(total if joined == n else "impossible")
    """,
    wrong={
        "takes cables in the order given": Edit(", key=lambda cable: cable[2]", ", key=lambda cable: 0"),
        "buys every house its cheapest cable": """
            n, m = map(int, input().split())
            cheapest = {}
            for i in range(m):
                a, b, price = map(int, input().split())
                for house in a, b:
                    cheapest[house] = min(cheapest.get(house, (price, i)), (price, i))
            bought = set(cheapest.values())
            print(sum(price for price, _ in bought) if len(cheapest) == n else "impossible")
        """,
        "leaves houses alone": Edit('total if joined == n else "impossible"', "total"),
        "buys cables between connected houses": Edit("if a != b:", "if a != b or joined < n:"),
    },
)


def _teams_cases(generator: random.Random) -> Iterator[Case]:
    graphs = [
        (1, []),
        (3, [(1, 2), (2, 3), (1, 3)]),
        (4, [(1, 2), (2, 3), (3, 4), (1, 4)]),
        (5, [(4, 5), (3, 5), (3, 4)]),
    ]
    for nodes, count in [(6, 5), (8, 7), (20, 15), (300, 200)]:
        graphs.append((nodes, edges_between(generator, nodes, count)))
    for nodes, count in [(10, 20), (100, 400), (1000, 3000)]:
        side = generator.sample(range(1, nodes + 1), nodes // 2)
        split = set(side)
        mixed = [edge for edge in edges_between(generator, nodes, count) if (edge[0] in split) != (edge[1] in split)]
        graphs.append((nodes, mixed))
    for nodes, edges in graphs:
        neighbors = neighbors_of(nodes, edges)
        colors: dict[int, int] = {}
        for node in range(1, nodes + 1):
            if node not in colors:
                colors |= {other: hops % 2 for other, hops in distances_from(neighbors, node).items()}
        yield (
            lines((nodes, len(edges)), *edges),
            lines("yes" if all(colors[a] != colors[b] for a, b in edges) else "no"),
        )


TEAMS = Definition(
    name="teams",
    difficulty="medium",
    task="Can children be split into two teams so that no two who quarrel are in the same one?",
    reads="""
        The first line holds n (1 to 1000 children) and m (at most 3000). Each of the next m lines holds two different
        children who quarrel.
    """,
    prints='"yes" or "no".',
    examples=(("3 2\n1 2\n2 3\n", "yes\n"), ("3 3\n1 2\n2 3\n3 1\n", "no\n")),
    cases=_teams_cases,
    right="""
        n, m = map(int, input().split())
        quarrels = [[] for _ in range(n + 1)]
        for _ in range(m):
            a, b = map(int, input().split())
            quarrels[a].append(b)
            quarrels[b].append(a)
        team = [None] * (n + 1)
        possible = True
        for start in range(1, n + 1):
            if team[start] is None:
                team[start] = 0
                stack = [start]
                while stack:
                    child = stack.pop()
                    for other in quarrels[child]:
                        if team[other] is None:
                            team[other] = 1 - team[child]
                            stack.append(other)
                        elif team[other] == team[child]:
                            possible = False
        print("yes" if possible else "no")
    """,
    wrong={
        "looks at the first child's group only": Edit("range(1, n + 1):", "range(1, 2):"),
        "assigns teams in the order of the quarrels": """
            n, m = map(int, input().split())
            team = {}
            possible = True
            for _ in range(m):
                a, b = map(int, input().split())
                if a not in team and b not in team:
                    team[a], team[b] = 0, 1
                elif a not in team:
                    team[a] = 1 - team[b]
                elif b not in team:
                    team[b] = 1 - team[a]
                elif team[a] == team[b]:
                    possible = False
            print("yes" if possible else "no")
        """,
        "takes any ring for a contradiction": """
            n, m = map(int, input().split())
            parent = list(range(n + 1))

            def root(child):
                while parent[child] != child:
                    child = parent[child]
                return child

            possible = True
            for _ in range(m):
                a, b = map(root, map(int, input().split()))
                possible = possible and a != b
                parent[a] = b
            print("yes" if possible else "no")
        """,
        "answers True or False": Edit('"yes" if possible else "no"', "possible"),
    },
)

PROBLEMS = (ROUTE, NETWORK, TEAMS)

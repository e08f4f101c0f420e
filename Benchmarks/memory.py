"""Resident memory: of a server, of connections, of keys, and what is given back."""

import contextlib
import random
import resource
import socket
import statistics
import time
from collections.abc import Iterator
from itertools import islice

from latency import ENGINE_GOAL_USEC, add_engine
from loads import KEY_BYTES, Fill, SetOptions, check_size, fill, key, text
from servers import Bench, exchange, expect, progress, request
from tables import SERVERS, Table

IDLE_GOAL_MB = 8
CONNECTION_GOAL_BYTES = 1024
MEAN_GOALS = {"": 20, " with expiry": 26}  # bytes per key beyond key and value
STEP_GOAL = 28  # the same, for the worst size of the keyspace
ACCOUNT_GOAL = (0.97, 1.03)  # used_memory / resident memory, both beyond the fresh server's
GIVEBACK_GOAL = 1.5  # resident memory / bytes of the keys and values that are left

SETTLE_PAUSE = 1  # seconds before resident memory is read
CONNECTIONS = 2_000
# redis-server frees a client's buffers after 2 s of silence, and its allocator returns the memory
# to the system within another 10 s.
CONNECTIONS_PAUSE = 15
MEMORY_KEYS = 1_000_000

VALUE_BYTES = (8, 16, 32, 64, 128)
# Tables double when they are full: between one power of two and the next lie all states of one.
STEPS = [1_000_000 + 100_000 * step for step in range(11)]
STEP_PAUSE = 0.2  # seconds before resident memory is read in between

GIVEBACK_KEYS = 5_000_000
GIVEBACK_VALUE_BYTES = 200  # at most
GIVEBACK_KEPT = 0.1  # of the keys
GIVEBACK_PAUSE = 30  # seconds to give back what was deleted
BATCH = 1000


def memory(bench: Bench) -> list[Table]:
    """Resident memory of a fresh server, of each idle connection and of each key."""
    connections, keys = CONNECTIONS // bench.divisor, MEMORY_KEYS // bench.divisor
    # For this process and the servers it starts; a hard limit below that ends the section.
    hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (connections + 100, hard_limit))
    cases = {
        "fresh server, MB": (1, IDLE_GOAL_MB),
        f"idle connection ({connections:,} of them), bytes": (0, CONNECTION_GOAL_BYTES),
        f"key of 16 and value of 16 bytes ({keys:,} of them), bytes": (0, None),
    }  # fmt: skip
    used: dict[str, list[float]] = {}
    for name in bench.found:
        progress(f"memory: {name}")
        with bench.launch(name) as server, contextlib.ExitStack() as stack:
            time.sleep(SETTLE_PAUSE)
            fresh = server.resident_bytes()
            for _ in range(connections):
                # One request shows that the connection is accepted, and may leave buffers.
                connection = stack.enter_context(server.connect())
                exchange(connection, b"PING\r\n", b"+PONG\r\n")
            time.sleep(CONNECTIONS_PAUSE / bench.divisor)
            per_connection = (server.resident_bytes() - fresh) / connections
        with bench.launch(name) as server:
            time.sleep(SETTLE_PAUSE)
            empty = server.resident_bytes()
            fill(server, keys, value=b"0123456789abcdef")
            time.sleep(SETTLE_PAUSE)
            per_key = (server.resident_bytes() - empty) / keys
        used[name] = [fresh / 1e6, per_connection, per_key]
    table = Table("Memory", "resident memory")
    for index, (case, (digits, limit)) in enumerate(cases.items()):
        figures = ([used[name][index]] if name in used else [] for name in SERVERS)
        table.add(case, *figures, digits)
        table.goal("valiant", limit)
    return [table]


def far_expiry(low: int, lows: int) -> tuple[str | int, ...]:
    """A different time for each key, more than a day away; always six digits."""
    return ("EX", 100_000 + low * 7919 % lows)


def keys(bench: Bench) -> list[Table]:
    """Bytes per key beyond key and value, for many sizes of the keyspace and of the values."""
    steps = [keys // bench.divisor for keys in STEPS[:: 5 if bench.options.quick else 1]]
    sizes = f"keyspaces of {steps[0]:,} to {steps[-1]:,} keys"
    title = f"Keys of 16 bytes: mean of {len(steps)} {sizes}"
    table = Table(title, "bytes per key beyond key and value", summary=statistics.mean)
    accounts = Table(
        "Keys: does used_memory tell the truth? The size of the keyspace where it is most wrong",
        "used_memory / resident memory, both beyond the fresh server's",
        summary=lambda ratios: max(ratios, key=lambda ratio: abs(ratio - 1)),
    )  # fmt: skip
    for expiry, options in (("", lambda low, lows: ()), (" with expiry", far_expiry)):
        means, all = MEAN_GOALS[expiry], {name: [] for name in SERVERS}
        for value_bytes in VALUE_BYTES:
            progress(f"keys: values of {value_bytes} bytes{expiry}")
            beyond, ratios = ({name: [] for name in SERVERS} for _ in range(2))
            for name in bench.found:
                beyond[name], ratios[name] = fill_in_steps(bench, name, steps, value_bytes, options)
                all[name] += beyond[name]
            case = f"value of {value_bytes} bytes{expiry}"
            add_steps(table, case, beyond)
            accounts.add(case, *ratios.values(), 3)
            least, most = ACCOUNT_GOAL
            accounts.goal("valiant", most, least=least)
        add_steps(table, f"all values{expiry}", all, means, STEP_GOAL)
    return [table, accounts]


def fill_in_steps(
    bench: Bench, name: str, steps: list[int], value_bytes: int, options: SetOptions
) -> tuple[list[float], list[float]]:
    """Bytes per key beyond key and value, and used_memory / resident memory, after each step."""
    beyond, ratios = [], []
    sets = Fill(text(value_bytes), options)
    with bench.launch(name) as server, server.client() as client:
        time.sleep(SETTLE_PAUSE / bench.divisor)
        fresh, fresh_account = server.resident_bytes(), client.used_memory()
        for first, keys in zip([0, *steps], steps):
            sets.send(server, range(first, keys))
            time.sleep(STEP_PAUSE)
            check_size(server, keys)
            growth = server.resident_bytes() - fresh
            beyond.append(growth / keys - KEY_BYTES - value_bytes)
            ratios.append((client.used_memory() - fresh_account) / growth)
    return beyond, ratios


def add_steps(
    table: Table, case: str, beyond: dict[str, list[float]],
    mean_goal: float | None = None, step_goal: float | None = None,
) -> None:  # fmt: skip
    table.add(case, *beyond.values(), 1)
    table.goal("valiant", mean_goal)
    worst = {name: max(figures) for name, figures in beyond.items() if figures}
    table.note("worst step", ", ".join(f"{value:.1f}" for value in worst.values()), worst)
    if step_goal is None:
        table.goal("worst step")
    else:
        table.judge("worst step", f"≤ {step_goal:g}", worst["valiant"] <= step_goal)


def giveback(bench: Bench) -> list[Table]:
    """Memory of keys that were overwritten with other sizes, before and after most are deleted.

    All servers get the same requests at the same time.
    """
    keys = GIVEBACK_KEYS // bench.divisor
    chance, values = random.Random(1), [text(size) for size in range(GIVEBACK_VALUE_BYTES + 1)]
    sizes = bytearray(keys)
    cases = ("after setting", "after overwriting", f"after deleting {1 - GIVEBACK_KEPT:.0%}")
    ratios = {name: {case: [] for case in cases} for name in SERVERS}
    engines = []

    def set_at_random(indices: Iterator[int]) -> None:
        while batch := list(islice(indices, BATCH)):
            requests = []
            for index in batch:
                size = sizes[index] = 1 + int(chance.random() * GIVEBACK_VALUE_BYTES)
                form = b"*3\r\n$3\r\nSET\r\n$16\r\nkey:%012d\r\n$%d\r\n%b\r\n"
                requests.append(form % (index, size, values[size]))
            exchange_all(connections, b"".join(requests), b"+OK\r\n" * len(batch))

    def record(case: str, live: int) -> None:
        for name, server in servers.items():
            check_size(server, live)
            live_bytes = live * KEY_BYTES + sum(sizes)
            ratios[name][case].append((server.resident_bytes() - fresh[name]) / live_bytes)

    with contextlib.ExitStack() as stack:
        servers = bench.launch_all(stack)
        connections = [stack.enter_context(server.connect()) for server in servers.values()]
        time.sleep(SETTLE_PAUSE)
        fresh = {name: server.resident_bytes() for name, server in servers.items()}
        with servers["valiant"].client() as client:
            client.reset_engine()
        progress(f"giveback: setting {keys:,} keys")
        set_at_random(iter(range(keys)))
        time.sleep(SETTLE_PAUSE)
        record(cases[0], keys)
        progress("giveback: overwriting")
        set_at_random(int(chance.random() * keys) for _ in range(keys))
        time.sleep(SETTLE_PAUSE)
        record(cases[1], keys)
        progress("giveback: deleting")
        deleted = (index for index in range(keys) if chance.random() >= GIVEBACK_KEPT)
        live = keys
        while batch := list(islice(deleted, BATCH)):
            reply = b":%d\r\n" % len(batch)
            exchange_all(connections, request("DEL", *map(key, batch)), reply)
            live -= len(batch)
            for index in batch:
                sizes[index] = 0
        time.sleep(GIVEBACK_PAUSE / bench.divisor)
        record(cases[2], live)
        with servers["valiant"].client() as client:
            engines.append(client.engine())
    title = f"Giving back: {keys:,} keys with values of 1 to {GIVEBACK_VALUE_BYTES} bytes, set, "
    title += f"overwritten with other sizes, deleted; {GIVEBACK_PAUSE} s later"
    table = Table(title, "resident memory / bytes of keys and values")
    for case in cases:
        table.add(case, *(ratios[name][case] for name in SERVERS), 2)
        table.goal("valiant", GIVEBACK_GOAL if case == cases[-1] else None)
    add_engine(bench, table, "compaction", engines, ENGINE_GOAL_USEC)
    return [table]


def exchange_all(connections: list[socket.socket], requests: bytes, reply: bytes) -> None:
    """Sends the same to several servers, which work on it at the same time."""
    for connection in connections:
        connection.sendall(requests)
    for connection in connections:
        expect(connection, reply)

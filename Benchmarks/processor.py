"""CPU time and instructions that requests take."""

import contextlib
import functools
import itertools
import os
import statistics
import subprocess
from typing import NamedTuple

from loads import CLIENTS, VALUE, fill, run_load, scaled, text
from servers import START_LIMIT, Bench, BenchError, progress
from tables import SERVERS, Table

# Goals. Ratios are Valiant / redis-server, by pipeline depth, for commands on keys.
CPU_GOALS = {1: 0.95, 16: 0.60, 64: 0.40}
CPU_GOALS_LARGE = {1: 0.95, 16: 0.60, 64: 0.25}  # keyspace much larger than the CPU's caches
MANY_GOAL = 0.40  # MGET and MSET
VALUE_GOAL = 0.90  # values of 1 KiB and more
THREADS_GOAL = 1.15  # CPU per operation with two threads / with one
SHARE_GOAL = (0.40, 0.60)  # least and most of the process's CPU time for each of two threads
INSTRUCTION_GOALS = {("GET", 64): 700, ("SET", 64): 800}
HOT_GOAL = 0.5  # operations per second on one key / on many

# A load takes the server 0.2 to 2 s of CPU time. redis-benchmark works harder than either server,
# so the load lasts 1 to 3 s.
REQUESTS = {1: 150_000, 16: 500_000, 64: 1_500_000}  # for each pipeline depth
# A round without pipelining is cut into slices which the servers take in turn: the ratio is close
# to 1 there, and the machine's own ups and downs must hit both.
SLICES = {1: 5, 16: 1, 64: 1}
SMALL_KEYS, LARGE_KEYS, HUGE_KEYS = 100_000, 2_000_000, 20_000_000
LONG_VALUE_KEYS = 1_000
WARM_UP = 2_000_000  # requests, at most
MANY_REQUESTS = 100_000  # of 10 keys each
VALUE_REQUESTS = {1 << 10: 200_000, 64 << 10: 20_000}  # by size of the value
COUNTED_KEYS = 10_000  # callgrind slows a server down about 50 times
COUNTED_REQUESTS = (6_400, 64_000)  # in the shorter of two loads; how many more in the longer one
HOT_KEYS = (1, 2, SMALL_KEYS)
HOT_PIPELINE = 16


class Case(NamedTuple):
    """A row of the section cpu."""

    command: str
    pipeline: int
    requests: int
    goal: float | None  # for the ratio


class Keyspace(NamedTuple):
    """What servers are filled with, and the cases which are measured on that."""

    keys: int
    value_bytes: int
    cases: list[Case]

    @property
    def description(self) -> str:
        size = self.value_bytes
        values = f" of {size >> 10} KiB" if size >= 1024 else ""
        return f"{self.keys:,} keys{values}"


def cpu_keyspaces(divisor: int) -> list[Keyspace]:
    def cases(command: str, goals: dict[int, float], pipelines=REQUESTS) -> list[Case]:
        return [Case(command, depth, REQUESTS[depth], goals.get(depth)) for depth in pipelines]

    def values(pipeline: int, size: int) -> list[Case]:
        return [Case(name, pipeline, VALUE_REQUESTS[size], VALUE_GOAL) for name in ("SET", "GET")]

    many = [Case(name, 16, MANY_REQUESTS, MANY_GOAL) for name in ("MSET", "MGET")]
    # SETEX gives deadlines to keys that have none, EXPIRE changes them.
    others = [Case(name, 16, REQUESTS[16], None) for name in ("INCR", "SETEX", "EXPIRE", "EVAL")]
    small, short = SMALL_KEYS // divisor, len(VALUE)
    return [
        # The goals are for commands on keys; PING is mostly the kernel's work.
        Keyspace(
            small, short,
            cases("PING", {}) + cases("SET", CPU_GOALS) + cases("GET", CPU_GOALS) + many,
        ),
        Keyspace(small, short, others),
        Keyspace(
            LARGE_KEYS // divisor, short,
            cases("SET", CPU_GOALS_LARGE) + cases("GET", CPU_GOALS_LARGE),
        ),
        Keyspace(
            HUGE_KEYS // divisor, short,
            cases("SET", CPU_GOALS_LARGE, (64,)) + cases("GET", CPU_GOALS_LARGE, (64,)),
        ),
        Keyspace(small, 1 << 10, values(16, 1 << 10)),
        Keyspace(LONG_VALUE_KEYS // divisor, 64 << 10, values(1, 64 << 10)),
    ]  # fmt: skip


def cpu(bench: Bench) -> list[Table]:
    """Server CPU per operation: keyspaces that fit the caches and do not, and longer values."""
    title = f"CPU: {CLIENTS} clients, median of {bench.rounds} rounds"
    table = Table(title, "server CPU, µs per operation")
    for keyspace in cpu_keyspaces(bench.divisor):
        measure_keyspace(bench, keyspace, table)
    return [table]


def measure_keyspace(bench: Bench, keyspace: Keyspace, table: Table) -> None:
    keys, value_bytes, cases = keyspace
    times = {(name, case): [] for name in SERVERS for case in cases}
    unserved: set[tuple[str, Case]] = set()
    with contextlib.ExitStack() as stack:
        servers = bench.launch_all(stack)
        for name, server in servers.items():
            fill(server, keys, VALUE if value_bytes == len(VALUE) else text(value_bytes))
            run_load(bench, server, "GET", scaled(bench, min(keys, WARM_UP), 64), 64, keys)
            for case in cases:
                if case.command in ("MSET", "MGET") and (
                    reason := server.refusal(case.command, "key:000000000000", VALUE)
                ):
                    unserved.add((name, case))
                    table.missing.append(reason)
        for round in range(bench.rounds):
            progress(f"cpu: {keyspace.description}, round {round + 1} of {bench.rounds}")
            for case in cases:
                slices = SLICES[case.pipeline]
                count = scaled(bench, case.requests // slices, case.pipeline)
                able = [name for name in bench.found if (name, case) not in unserved]
                used = dict.fromkeys(able, 0.0)
                for slice in range(slices):
                    for name in bench.in_turn(able, round + slice):
                        part = run_load(
                            bench, servers[name], case.command, count, case.pipeline, keys,
                            value_bytes=value_bytes,
                        )  # fmt: skip
                        used[name] += part.cpu_usec / slices
                for name in able:
                    times[name, case].append(used[name])
    for case in cases:
        name = case.command + (" of 10" if case.command in ("MSET", "MGET") else "")
        where = "" if case.command == "PING" else f", {keyspace.description}"
        table.add(f"{name} P={case.pipeline}{where}", *(times[name, case] for name in SERVERS), 3)
        table.goal("ratio", case.goal, ".2f")


def threads(bench: Bench) -> list[Table]:
    """What a second event loop costs per operation, and whether the two share the work."""
    keys, pipelines = SMALL_KEYS // bench.divisor, (16, 64)
    times = {(threads, pipeline): [] for threads in (1, 2) for pipeline in pipelines}
    shares: dict[int, list[list[float]]] = {pipeline: [] for pipeline in pipelines}
    with contextlib.ExitStack() as stack:
        launch = functools.partial(bench.launch, "valiant", cpus=bench.cpus)
        servers = {n: stack.enter_context(launch(threads=n)) for n in (1, 2)}
        for server in servers.values():
            fill(server, keys)
            run_load(bench, server, "GET", scaled(bench, keys, 64), 64, keys)  # warm up
        for round in range(bench.rounds):
            progress(f"threads: round {round + 1} of {bench.rounds}")
            for pipeline in pipelines:
                count = scaled(bench, REQUESTS[pipeline], pipeline)
                for threads in bench.in_turn([1, 2], round):
                    server = servers[threads]
                    load = run_load(bench, server, "GET", count, pipeline, keys, 2, bench.cpus)
                    times[threads, pipeline].append(load.cpu_usec)
                    if threads == 2:
                        spent = load.thread_seconds
                        busiest = (spent + [0.0])[:2]
                        shares[pipeline].append([part / sum(spent) for part in busiest])
    title = f"Threads: Valiant, 2 loads of {CLIENTS // 2} clients, nothing pinned"
    title += f", median of {bench.rounds} rounds"
    table = Table(title, "server CPU, µs per operation", ("2 threads", "1 thread"))
    least, most = SHARE_GOAL
    for pipeline in pipelines:
        table.add(f"GET P={pipeline}, {keys:,} keys", times[2, pipeline], times[1, pipeline], 3)
        table.goal("ratio", THREADS_GOAL, ".2f")
        busier, quieter = (statistics.median(column) for column in zip(*shares[pipeline]))
        table.note("shares", f"{busier:.0%}, {quieter:.0%}", shares[pipeline])
        met = least <= quieter and busier <= most
        table.judge("shares", f"{least:.0%} to {most:.0%}", met)
    return [table]


def instructions(bench: Bench) -> list[Table]:
    """User instructions per operation: what a longer load adds, so that set-up cancels out."""
    commands = ("PING", "SET", "GET")
    keys, cases = COUNTED_KEYS // bench.divisor, list(itertools.product(commands, (1, 64)))
    counts = {(name, *case): [] for name in SERVERS for case in cases}
    for name in bench.found:
        progress(f"instructions: {name}")
        # Our own prefix for vgdb's pipes: its default depends on TMPDIR, user and host.
        pipes = f"--vgdb-prefix={bench.directory}/vgdb-{name}"
        dump = bench.directory / f"callgrind-{name}"
        # Valgrind follows no exec: a script that starts the server could not be measured.
        valgrind = ("valgrind", "--tool=callgrind", "--instr-atstart=no", pipes)
        with bench.launch(name, under=(*valgrind, f"--callgrind-out-file={dump}")) as server:
            vgdb = ["vgdb", pipes, f"--pid={server.process.pid}"]
            fill(server, keys)
            for command in commands:  # warm up
                run_load(bench, server, command, scaled(bench, keys, 64), 64, keys)
            run_tool([*vgdb, "instrumentation", "on"])
            for command, pipeline in cases:
                base, extra = (scaled(bench, n, pipeline) for n in COUNTED_REQUESTS)
                totals = []
                for requests in (base, base + extra):
                    run_tool([*vgdb, "zero"])
                    run_load(bench, server, command, requests, pipeline, keys)
                    run_tool([*vgdb, "dump"])  # to a new file, with a number at its end
                    newest = max(dump.parent.glob(f"{dump.name}.*"), key=os.path.getmtime)
                    totals.append(int(newest.read_text().rsplit("totals:", 1)[1].split()[0]))
                    newest.unlink()
                if not 0 < totals[0] < totals[1]:
                    raise BenchError(f"callgrind counted {totals} for {name} {command}")
                counts[name, command, pipeline].append((totals[1] - totals[0]) / extra)
    table = Table(f"Instructions: {keys:,} keys", "user instructions per operation")
    for command, pipeline in cases:
        case = (counts[name, command, pipeline] for name in SERVERS)
        table.add(f"{command} P={pipeline}", *case, 0)
        table.goal("valiant", INSTRUCTION_GOALS.get((command, pipeline)))
    return [table]


def run_tool(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_LIMIT)
    if done.returncode != 0:
        raise BenchError(f"{' '.join(command)}: {done.stderr.strip()}")


def hot(bench: Bench) -> list[Table]:
    """Whether threads stand in each other's way when all want the same key."""
    cases = list(itertools.product(("SET", "GET"), HOT_KEYS))
    times = {(name, *case): [] for name in SERVERS for case in cases}
    rates = {(name, *case): [] for name in SERVERS for case in cases}
    count = scaled(bench, REQUESTS[HOT_PIPELINE], HOT_PIPELINE)
    with contextlib.ExitStack() as stack:
        servers = {
            name: stack.enter_context(bench.launch(name, threads=2, cpus=bench.cpus))
            for name in bench.found
        }
        for server in servers.values():
            fill(server, SMALL_KEYS)
        for round in range(bench.rounds):
            progress(f"hot: round {round + 1} of {bench.rounds}")
            for command, keys in cases:
                for name in bench.in_turn(bench.found, round):
                    load = run_load(
                        bench, servers[name], command, count, HOT_PIPELINE, keys, 2, bench.cpus
                    )
                    times[name, command, keys].append(load.cpu_usec)
                    rates[name, command, keys].append(load.per_second)
    title = f"Hot keys: P={HOT_PIPELINE}, 2 loads of {CLIENTS // 2} clients, 2 threads of Valiant"
    title += f" and redis's one, nothing pinned, median of {bench.rounds} rounds"
    costs = Table(title, "server CPU, µs per operation")
    speeds = Table("Hot keys: throughput in the same runs", "thousand operations per second")
    for command, keys in cases:
        case = f"{command}, {keys:,} {'key' if keys == 1 else 'keys'}"
        costs.add(case, *(times[name, command, keys] for name in SERVERS), 3)
        thousands = ([rate / 1e3 for rate in rates[name, command, keys]] for name in SERVERS)
        speeds.add(case, *thousands, 0)
    for command in ("SET", "GET"):
        pairs = (zip(rates[name, command, 1], rates[name, command, SMALL_KEYS]) for name in SERVERS)
        relative = ([one / many for one, many in rounds] for rounds in pairs)
        speeds.add(f"{command}, 1 key / {SMALL_KEYS:,} keys", *relative, 2)
        speeds.goal("valiant", least=HOT_GOAL)
    return [costs, speeds]

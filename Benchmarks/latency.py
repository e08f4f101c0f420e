"""How long a client waits: until the server is up, while it grows, and while it frees a lot."""

import math
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from loads import BATCH, Fill, check_size, expires_at, text
from probes import COMPILER, INTERVAL_USEC, Echo, Probe, percentile
from servers import Bench, BenchError, Client, Server, fields, progress
from tables import SERVERS, Table

GROWTH_GOAL = 1.5  # 99.9th percentile while growing / while overwriting
ENGINE_GOAL_USEC = 200  # for the longest single step of growth, compaction or expiry
STEPS_LIMIT = 120  # seconds for steps.c
MACHINE_ROUNDS = 5  # of steps.c, in all
# Pages of fresh memory that a step writes to: a new segment of the table, a chunk for what is moved.
STEP_PAGES = {"growth": 1, "compaction": 2}
FREEING_GOAL_MS = 1  # beyond the longest latency of an idle server

STARTS = 20
# Of growth and freeing: their tails differ from one round to the next, and one takes redis-server
# about as long as five take Valiant.
ROUNDS = {"valiant": 5, "redis": 1}
GROWTH_KEYS = 20_000_000
FREED_KEYS = 10_000_000
FREED_AT_ONCE = 100_000
VALUE_SECONDS, KEYS_SECONDS = 1, 3  # how long latencies are watched, by what is freed
LEAD = 1.5  # keys that expire are set before, this many times as long as it takes without expiry
LEADS_MAX = 4  # attempts, each with twice the time of the one before
EDGE = 0.01  # seconds before an event that count as a part of it


def start(bench: Bench) -> list[Table]:
    """From fork and exec to the first PONG."""
    times = {name: [] for name in SERVERS}
    starts = STARTS // bench.divisor
    progress(f"start: {starts} times")
    for round in range(starts):
        for name in bench.in_turn(bench.found, round):
            with bench.launch(name) as server:
                times[name].append(server.start_seconds * 1e3)
    table = Table(f"Start: median of {starts}", "start-up, ms")
    table.add("exec to first PONG", *times.values(), 1)
    return [table]


def growth(bench: Bench) -> list[Table]:
    """Latencies while keys are added, against those while the same requests overwrite them."""
    keys = GROWTH_KEYS // bench.divisor
    cases = ("p99.9 while growing", "p99.9 while overwriting", "p99.9 growing / overwriting")
    cases += ("longest while growing", "longest while overwriting")
    cases += ("p99.9 of an echo on the load's CPU", "longest of that echo")
    figures = {(name, case): [] for name in SERVERS for case in cases}
    engines = []
    sets = Fill()
    for name, round in turns(bench):
        progress(f"growth: {name}, round {round}")
        path = bench.directory / f"growth-{name}-{round}.socket"
        with (
            bench.launch(name, unix_socket=path) as server,
            server.client() as client,
            Probe(bench, path) as probe,
            Echo(bench) as echo,
        ):
            client.reset_engine()
            times = [time.monotonic()]
            sets.send(server, range(keys))
            times.append(time.monotonic())
            if name == "valiant":
                engines.append(client.engine())
            sets.send(server, range(keys))
            times.append(time.monotonic())
            probe.end()
            echo.end()
            check_size(server, keys)
        growing, overwriting = (probe.latencies(*times[i : i + 2]) for i in (0, 1))
        noise = echo.latencies(times[0], times[2])
        tails = [percentile(latencies, 0.999) for latencies in (growing, overwriting, noise)]
        values = [*tails[:2], tails[0] / tails[1], growing[-1], overwriting[-1]]
        for case, value in zip(cases, [*values, tails[2], noise[-1]]):
            figures[name, case].append(value)
    title = f"Growth: from 0 to {keys:,} keys, {BATCH:,} pipelined SETs at a time"
    table = Table(title + rounds_in_words(bench), "latency of a GET, µs")
    for case in cases:
        ratio = case == cases[2]
        table.add(case, *(figures[name, case] for name in SERVERS), 2 if ratio else 0)
        table.goal("valiant", GROWTH_GOAL if ratio else None)
    add_engine(bench, table, "growth", engines, ENGINE_GOAL_USEC)
    return [table]


def turns(bench: Bench) -> Iterator[tuple[str, int]]:
    """Which server is measured when, and in which of its rounds, counted from 1."""
    for round in range(1, bench.repeats(max(ROUNDS.values())) + 1):
        yield from ((name, round) for name in bench.found if round <= ROUNDS[name])


def rounds_in_words(bench: Bench) -> str:
    rounds = (f"{bench.repeats(ROUNDS[name])} ({name})" for name in bench.found)
    return f", median of {' and '.join(rounds)} rounds"


def add_engine(
    bench: Bench, table: Table, kind: str, engines: list[dict], goal: float | None = None
) -> None:
    """Adds how long single steps of one kind of work beside the requests took, most of all.

    It is Valiant's own record; `engines` are what Client.engine() returned, by round. Beside it
    stands what the machine itself makes of as many steps of arithmetic of the same length, and of
    as many fresh pages (steps.c), on the server's CPU: if nothing can be quicker than that, the goal
    is not to be slower. That is measured five times at least: the longest of one round is as often
    above as below that of another.
    """
    steps = [engine[kind] for engine in engines if engine.get(kind, {}).get("count")]
    pages = STEP_PAGES.get(kind, 0)
    rounds = math.ceil(bench.repeats(MACHINE_ROUNDS) / max(1, len(steps))) if goal else 1
    machine = [steady_steps(bench, step, pages) for step in steps for _ in range(rounds)]
    fields = (("p99.9 of", "p999_usec"), ("longest of", "max_usec"), ("over 200 µs of", "slow"))
    for what, field in fields:
        unit = "" if field == "slow" else ", µs"
        case = f"{what} {kind} steps{unit} (INFO engine)"
        table.add(case, [step[field] for step in steps], [], 0)
        if not steps:
            continue
        own = [step[field] for step in machine]
        shown = f"{statistics.median(own):,.0f}"
        if goal and field == "max_usec" and len(own) > 1:
            shown += f", at most {max(own):,.0f}"
        table.note("machine itself", shown, own)
        if goal and field == "max_usec":
            value, limit = table.shown("valiant"), max(goal, max(own))
            table.judge("valiant", f"≤ {goal:g}, or the machine's own", value <= limit)


def steady_steps(bench: Bench, step: dict[str, float], pages: int) -> dict[str, float]:
    """What steps.c records of as many steps as `step` tells of, with the same mean length.

    The time for the pages comes on top of that: what counts is the tail.
    """
    program = bench.directory / "steps"
    if not program.exists():
        source = Path(__file__).with_name("steps.c")
        subprocess.run([COMPILER, "-O2", "-o", program, source], check=True, capture_output=True)
    mean = max(1, round(step["total_usec"] * 1e3 / step["count"]))
    output = bench.directory / "steps.out"
    with open(output, "wb") as results:
        command = [str(program), str(round(step["count"])), str(mean), str(pages)]
        process = bench.processes.start(command, bench.server_cpu, stdout=results)
        bench.processes.wait(process, STEPS_LIMIT)
    return fields(output.read_text().strip())


class Event(NamedTuple):
    """Something that makes a server free much memory at once."""

    name: str
    prepare: Callable[[Server, Client], float]  # returns when it happens; 0: when `requests` come
    requests: tuple | None  # the request that makes it happen; None: time does
    seconds: float  # for which latencies are watched


def freeing(bench: Bench) -> list[Table]:
    """The longest latency a client sees while another makes the server free a lot."""
    longest = {name: {} for name in SERVERS}  # by event, for each repetition
    quiet = {name: {} for name in SERVERS}  # the same by seconds, while nothing happens
    missing, engines, cases = [], [], {}  # cases: how long each is watched
    for name, round in turns(bench):
        progress(f"freeing: {name}, round {round}")
        path = bench.directory / f"freeing-{name}-{round}.socket"
        with bench.launch(name, unix_socket=path) as server, server.client() as client:
            client.reset_engine()
            windows = []
            with Probe(bench, path) as probe:
                for event in events(bench, client):
                    cases[event.name] = event.seconds
                    if event.requests and (reason := server.refusal(*event.requests)):
                        missing.append(f"{event.name}: {reason}")
                        continue
                    windows.append((event, *happen(server, client, event)))
                probe.end()
            if name == "valiant":
                engines.append(client.engine())
        for event, before, begin, end in windows:
            for all, key, window in (
                (quiet, event.seconds, (before, begin)),
                (longest, event.name, (begin, end)),
            ):
                latencies = probe.latencies(*window)
                all[name].setdefault(key, []).append(latencies[-1] / 1e3)
    title = f"Freeing: one GET every {INTERVAL_USEC / 1e3:g} ms meanwhile"
    table = Table(title + rounds_in_words(bench), "longest latency, ms")
    table.missing = list(dict.fromkeys(missing))
    for case, seconds in cases.items():
        table.add(case, *(longest[name].get(case, []) for name in SERVERS), 2)
        # What an idle server does in one window says little: all that are as long are taken together.
        idle = [quiet[name].get(seconds, []) for name in SERVERS]
        shown = [f"{statistics.median(values):.2f}" if values else "–" for values in idle]
        table.note("idle", ", ".join(shown), idle)
        value, limit = table.shown("valiant"), f"≤ idle + {FREEING_GOAL_MS}"
        measured = value is not None and idle[0]
        met = value - statistics.median(idle[0]) <= FREEING_GOAL_MS if measured else None
        table.judge("valiant", limit, met)
    add_engine(bench, table, "expiry", engines, ENGINE_GOAL_USEC)
    return [table]


def events(bench: Bench, client: Client) -> list[Event]:
    limit = int(client.ask("CONFIG", "GET", "proto-max-bulk-len")[1])
    value_bytes, keys = limit // bench.divisor, FREED_KEYS // bench.divisor
    watched = VALUE_SECONDS if bench.options.quick else KEYS_SECONDS
    at_once = FREED_AT_ONCE // bench.divisor
    took = 0.0  # seconds that it takes to set `keys`

    def value(server: Server, client: Client) -> float:
        client.ask("SET", "value", text(value_bytes))
        return 0

    def many(server: Server, client: Client) -> float:
        nonlocal took
        began = time.monotonic()
        Fill().send(server, range(keys))
        check_size(server, keys)
        took = time.monotonic() - began
        return 0

    def due(count: int, spread_ms: int) -> Callable[[Server, Client], float]:
        def prepare(server: Server, client: Client) -> float:
            lead = watched + 1 + LEAD * took * count / keys
            for _ in range(LEADS_MAX):
                when = time.monotonic() + lead
                Fill(options=expires_at(time.time() + lead, spread_ms)).send(server, range(count))
                if time.monotonic() + watched < when:
                    check_size(server, count)
                    return when
                client.ask("FLUSHALL")  # the server was busy with what it freed before
                lead *= 2
            raise BenchError(f"{server.name} took too long to set {count:,} keys")

        return prepare

    size = f"value of {value_bytes >> 20} MiB"
    small = ("SET", "value", "small")
    return [
        Event(f"UNLINK of a {size}", value, ("UNLINK", "value"), VALUE_SECONDS),
        Event(f"DEL of a {size}", value, ("DEL", "value"), VALUE_SECONDS),
        Event(f"overwriting a {size}", value, small, VALUE_SECONDS),
        Event(f"FLUSHALL SYNC of {keys:,} keys", many, ("FLUSHALL", "SYNC"), watched),
        Event(f"FLUSHALL ASYNC of {keys:,} keys", many, ("FLUSHALL", "ASYNC"), watched),
        Event(f"{at_once:,} keys expire in a millisecond", due(at_once, 1), None, watched),
        Event(f"{keys:,} keys expire within a second", due(keys, 1000), None, watched),
    ]


def happen(server: Server, client: Client, event: Event) -> tuple[float, float, float]:
    """Has an event happen; returns the begin of a quiet time before, and its begin and end."""
    when = event.prepare(server, client) or time.monotonic() + event.seconds
    sleep_until(when)
    if event.requests:
        client.ask(*event.requests)
    sleep_until(when + event.seconds)
    end = time.monotonic()
    client.ask("FLUSHALL")
    # A request that was sent just before may have to wait, too.
    return when - event.seconds, when - EDGE, end


def sleep_until(when: float) -> None:
    time.sleep(max(0.0, when - time.monotonic()))

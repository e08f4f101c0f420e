"""A limit of memory: what a cache still finds under it, and whether it is kept."""

import contextlib
import itertools
import random
import select
import socket
from collections.abc import Iterator
from typing import NamedTuple

from latency import add_engine
from loads import key, text
from servers import RECEIVE_BYTES, Bench, BenchError, Server, expect, progress
from tables import SERVERS, Table

OWN_POLICY = "allkeys-adaptive"  # the one that Valiant has and redis-server has not
COMMON_POLICIES = ("allkeys-lru", "allkeys-lfu")
EXCESS_GOAL = 1.05, 16 << 20  # resident memory: at most so many times the limit, and so many bytes

# A cache: requests for CACHE_KEYS keys, of which redis-server holds about a fifth. With many more
# keys the requests of the steepest trace would not fill it.
CACHE_BYTES = 10 << 20
CACHE_KEYS = 250_000
CACHE_REQUESTS = 2_000_000
CACHE_BATCH = 100  # requests in a pipeline
CACHE_VALUE = text(100)
HIT, MISS = b"$%d\r\n%b\r\n" % (len(CACHE_VALUE), CACHE_VALUE), b"$-1\r\n"
SCAN_PERIOD, SCAN_SHARE = 200_000, 0.3  # requests; part of them that belong to the scan
SHIFT_PERIOD = 250_000  # requests between two changes of what is popular

LIMIT_BYTES = 256 << 20
WRITTEN_BYTES = 2 << 30
MAGNITUDES = (10, 100, 1_000, 10_000, 100_000)  # values are up to ten times as long
VALUE_MOST = 1 << 20
STRETCHES = 80  # of values of one magnitude each: what is freed fits nothing that follows
LIMIT_BATCH, LIMIT_BATCH_BYTES = 1000, 1 << 20  # requests and bytes of them in a pipeline
HUGE_PIECE = 1 << 20  # bytes of a very long value sent at once
HUGE_SECONDS = 10  # until a server must have taken or refused the next piece


def memory_flags(limit: int, policy: str) -> tuple[str, ...]:
    return ("--maxmemory", str(limit), "--maxmemory-policy", policy)


class Cache:
    """A server used as a cache: what is asked for and not found is set."""

    def __init__(self, server: Server) -> None:
        self.server, self.connection = server, server.connect()
        self.fresh_bytes = server.resident_bytes()
        self.hits = 0
        self.missed: list[int] = []

    def set_missing(self, keys: list[int]) -> None:
        """Reads the replies to GET of `keys`, counts the hits, sends SET for the others."""
        replies, outcome = b"", b""
        # Every value is the same, so a reply becomes one byte. Rests of replies are neither.
        while len(outcome) != len(keys) or outcome.strip(b"01"):
            if not (chunk := self.connection.recv(RECEIVE_BYTES)):
                raise BenchError(f"{self.server.name} has closed the connection")
            replies += chunk
            outcome = replies.replace(HIT, b"1").replace(MISS, b"0")
        self.hits += outcome.count(b"1")
        self.missed = [key for key, found in zip(keys, outcome) if found == ord("0")]
        form = b"*3\r\n$3\r\nSET\r\n$16\r\nkey:%%012d\r\n%b" % HIT
        self.connection.sendall(b"".join([form % key for key in self.missed]))

    def check_set(self) -> None:
        expect(self.connection, b"+OK\r\n" * len(self.missed))


def zipf(exponent: float, keys: int, requests: int, seed: int) -> list[int]:
    """Keys by popularity: the n-th most popular one has a chance proportional to n^-exponent."""
    weights = itertools.accumulate(rank**-exponent for rank in range(1, keys + 1))
    return random.Random(seed).choices(range(keys), cum_weights=list(weights), k=requests)


def scan(keys: int, requests: int, period: int, seed: int) -> list[int]:
    """Zipf 1.0, interrupted by runs of keys which are asked for once and never again."""
    popular = iter(zipf(1.0, keys, requests, seed))
    once = itertools.count(keys)
    run = period - int(period * SCAN_SHARE)
    return [next(popular if i % period < run else once) for i in range(requests)]


def shift(keys: int, requests: int, period: int, seed: int) -> list[int]:
    """Zipf 1.0, but which keys are popular changes at once after every `period`."""
    ranks = zipf(1.0, keys, requests, seed)
    return [(rank + i // period * (keys // 7)) % keys for i, rank in enumerate(ranks)]


def hits(bench: Bench) -> list[Table]:
    """Hit ratios over the second half of several traces, which all servers get at the same time."""
    # A quick run does not divide the cache: a fresh redis-server takes about 1 MiB of it.
    keys, limit, requests = CACHE_KEYS, CACHE_BYTES, CACHE_REQUESTS // bench.divisor
    traces = {
        "Zipf 0.8": lambda: zipf(0.8, keys, requests, 1),
        "Zipf 1.0": lambda: zipf(1.0, keys, requests, 2),
        "Zipf 1.2": lambda: zipf(1.2, keys, requests, 3),
        "scan": lambda: scan(keys, requests, SCAN_PERIOD // bench.divisor, 4),
        "shift": lambda: shift(keys, requests, SHIFT_PERIOD // bench.divisor, 5),
    }
    policies = [("valiant", OWN_POLICY), *itertools.product(bench.found, COMMON_POLICIES)]
    title = f"Hits: maxmemory {limit / (1 << 20):g} MiB, {keys:,} keys, Valiant's {OWN_POLICY} "
    title += "against the better one of redis's allkeys-lru and allkeys-lfu"
    table = Table(title, "found, %")
    memory = Table("Hits: what the servers held at the end", "keys held", summary=max)
    missing = {}
    for trace, make in traces.items():
        progress(f"hits: {trace}")
        caches = {}
        with contextlib.ExitStack() as stack:
            for name, policy in policies:
                if (name, policy) in missing:
                    continue
                try:
                    flags = memory_flags(limit, policy)
                    server = stack.enter_context(bench.launch(name, flags=flags))
                    caches[name, policy] = cache = Cache(server)
                    stack.enter_context(cache.connection)
                except BenchError as error:
                    missing[name, policy] = f"{name} {policy}: {error}"
            shares = play(make(), caches)
            add_hits(table, trace, shares)
            add_held(memory, trace, caches, limit)
    table.missing = list(missing.values())
    return [table, memory]


def play(trace: list[int], caches: dict[tuple, Cache]) -> dict[tuple, float]:
    """Sends a trace to all caches; returns what each finds of the second half, in %."""
    middle = len(trace) // 2 // CACHE_BATCH * CACHE_BATCH
    for begin in range(0, len(trace), CACHE_BATCH):
        if begin == middle:
            for cache in caches.values():
                cache.hits = 0
        batch = trace[begin : begin + CACHE_BATCH]
        gets = b"".join([b"*2\r\n$3\r\nGET\r\n$16\r\nkey:%012d\r\n" % key for key in batch])
        for cache in caches.values():
            cache.connection.sendall(gets)
        for cache in caches.values():
            cache.set_missing(batch)
        for cache in caches.values():
            cache.check_set()
    return {name: cache.hits / (len(trace) - middle) * 100 for name, cache in caches.items()}


def add_hits(table: Table, trace: str, shares: dict[tuple, float]) -> None:
    own = shares.get(("valiant", OWN_POLICY))
    rivals = [shares[key] for key in itertools.product(["redis"], COMMON_POLICIES) if key in shares]
    table.add(trace, [] if own is None else [own], [max(rivals)] if rivals else [], 2)
    beyond, met = "> 1" if trace == "scan" else "≥ 1", None
    if own is not None and rivals:
        met = own > max(rivals) if trace == "scan" else own >= max(rivals)
    table.judge("ratio", beyond, met)
    for name, policy in itertools.product(SERVERS, COMMON_POLICIES):
        share = shares.get((name, policy))
        column = f"{name} {policy.removeprefix('allkeys-')}"
        table.note(column, "–" if share is None else f"{share:.2f}", share)


def add_held(table: Table, trace: str, caches: dict[tuple, Cache], limit: int) -> None:
    """Adds how many keys the servers hold, since who holds more keys finds more of them.

    The figures are those of the server's policy that holds most, and is resident most.
    """
    held = {name: [] for name in SERVERS}
    resident = {name: [] for name in SERVERS}
    for (name, _), cache in caches.items():
        with cache.server.client() as client:
            held[name].append(client.ask("DBSIZE"))
        resident[name].append((cache.server.resident_bytes() - cache.fresh_bytes) / limit)
    table.add(trace, *held.values(), 0)
    for name, ratios in resident.items():
        shown = f"{max(ratios):.2f}" if ratios else "–"
        table.note(f"{name}: resident beyond fresh / maxmemory", shown, ratios)


class Outcome(NamedTuple):
    """How a server took what it was sent."""

    peak_mib: float
    text: str
    good: bool


def limit(bench: Bench) -> list[Table]:
    """The most resident memory, however briefly, when more is written than the limit allows."""
    most, written = LIMIT_BYTES // bench.divisor, WRITTEN_BYTES // bench.divisor
    cases = {
        "noeviction: written until refused": ("noeviction", write_until_refused),
        f"allkeys-lru: {written >> 20:,} MiB written": ("allkeys-lru", write_all),
        "allkeys-lru: one value of proto-max-bulk-len": ("allkeys-lru", write_huge),
    }
    allowed = (most * EXCESS_GOAL[0] + EXCESS_GOAL[1]) / (1 << 20)
    title = f"Limit: maxmemory {most / (1 << 20):g} MiB, values of {MAGNITUDES[0]} bytes to 1 MiB"
    table = Table(title, "most resident memory, MiB")
    engines = []
    for case, (policy, write) in cases.items():
        outcomes: dict[str, Outcome] = {}
        for name in bench.found:
            progress(f"limit: {name}: {case}")
            try:
                with bench.launch(name, flags=memory_flags(most, policy)) as server:
                    text, good = write(server, written)
                    outcomes[name] = Outcome(server.peak_bytes() / (1 << 20), text, good)
                    if name == "valiant":
                        with server.client() as client:
                            engines.append(client.engine())
            except BenchError as error:
                table.missing.append(f"{name}: {case}: {error}")
        peaks = ([outcomes[name].peak_mib] if name in outcomes else [] for name in SERVERS)
        table.add(case, *peaks, 0)
        table.goal("valiant", allowed, ".0f")
        found = [outcomes[name].text if name in outcomes else "–" for name in SERVERS]
        table.note("outcome", "; ".join(dict.fromkeys(found)), dict(zip(SERVERS, found)))
        own = outcomes.get("valiant")
        table.judge("outcome", "as it should be", own and own.good)
    add_engine(bench, table, "eviction", engines)
    return [table]


def mixed_sets(total: int) -> Iterator[tuple[bytes, int]]:
    """Batches of SETs, `total` bytes altogether, and how many requests each has.

    Sizes are of one magnitude for a while, then of another: the memory that the one leaves behind
    does not fit the other.
    """
    chance, source, indices = random.Random(1), text(VALUE_MOST), itertools.count()
    form = b"*3\r\n$3\r\nSET\r\n$16\r\nkey:%012d\r\n$%d\r\n%b\r\n"
    for magnitude in itertools.islice(itertools.cycle(MAGNITUDES), STRETCHES):
        left = total // STRETCHES
        while left > 0:
            requests, room = [], LIMIT_BATCH_BYTES
            while room > 0 and left > 0 and len(requests) < LIMIT_BATCH:
                size = min(int(magnitude * (1 + 9 * chance.random())), VALUE_MOST)
                requests.append(form % (next(indices), size, source[:size]))
                room, left = room - len(requests[-1]), left - len(requests[-1])
            yield b"".join(requests), len(requests)


def write(server: Server, total: int) -> int | None:
    """Sends `mixed_sets`; returns how many were accepted before the first that was refused for want
    of memory, or None if none was."""
    accepted = 0
    with server.connect() as connection:
        for requests, count in mixed_sets(total):
            connection.sendall(requests)
            replies = b""
            while replies.count(b"\n") < count:
                if not (chunk := connection.recv(RECEIVE_BYTES)):
                    raise BenchError(f"{server.name} has closed the connection")
                replies += chunk
            good = replies.split(b"-", 1)[0].count(b"+OK\r\n")
            accepted += good
            if good < count:
                first = replies.split(b"\r\n")[good].decode()
                if not first.startswith("-OOM"):
                    raise BenchError(f"{server.name}: unexpected reply {first[:80]}")
                return accepted
    return None


def write_until_refused(server: Server, total: int) -> tuple[str, bool]:
    accepted = write(server, total)
    if accepted is None:
        return "never refused", False
    with server.client() as client:
        first, last = key(0), key(accepted - 1)
        works = client.ask("GET", last) is not None and client.ask("DEL", first, last) == 2
        works = works and client.ask("GET", last) is None
    return "GET and DEL work when full" if works else "GET or DEL fails when full", works


def write_all(server: Server, total: int) -> tuple[str, bool]:
    all = write(server, total) is None
    return ("all accepted", True) if all else ("refused", False)


def write_huge(server: Server, _: int) -> tuple[str, bool]:
    """Sends the longest value that the protocol allows, as long as the server takes it."""
    with server.client() as client:
        size = int(client.ask("CONFIG", "GET", "proto-max-bulk-len")[1])
        piece = text(HUGE_PIECE)
        connection = client.connection
        connection.settimeout(HUGE_SECONDS)
        try:
            connection.sendall(b"*3\r\n$3\r\nSET\r\n$4\r\nhuge\r\n$%d\r\n" % size)
            for _ in range(size // len(piece)):
                if select.select([connection], [], [], 0)[0]:
                    break  # the server has answered, or hung up
                connection.sendall(piece)
            else:
                connection.sendall(piece[: size % len(piece)] + b"\r\n")
            reply = connection.recv(RECEIVE_BYTES)
        except (BrokenPipeError, ConnectionResetError):
            reply = b""
        except socket.timeout:
            return "neither taken nor refused", False
    if reply.startswith(b"-OOM"):
        return "refused", True
    return ("closed", True) if not reply else ("accepted", False)

"""What is sent to the servers: redis-benchmark's loads, and requests of our own.

Our own requests are for what redis-benchmark cannot do: every key exactly once, values of different
sizes, a schedule of expiry. They are made in large pieces, because a server takes 0.3 µs for a
request and Python 0.5 µs to format one.
"""

import collections
import math
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from servers import HOST, Bench, BenchError, Server, exchange, expect, request

CLIENTS = 50  # redis-benchmark's default
VALUE = b"xxx"  # what redis-benchmark writes with -d 3
KEY_DIGITS, KEY_BYTES = 12, 16
LOAD_LIMIT = 300  # seconds for one run of redis-benchmark
HANG_UP_PAUSE = 0.02  # seconds for the server to notice that the clients of a load are gone

# What redis-benchmark is told for a command: one of its own tests, or a request to repeat.
TESTS = {
    "PING": ("-t", "ping_mbulk"),
    "SET": ("-t", "set"),
    "GET": ("-t", "get"),
    "MSET": ("-t", "mset"),  # of 10 keys
    "MGET": ("MGET", *["key:__rand_int__"] * 10),
    "INCR": ("INCR", "counter:__rand_int__"),
    "SETEX": ("SETEX", "key:__rand_int__", "1000", VALUE.decode()),
    "EVAL": ("EVAL", "return redis.call('GET', KEYS[1])", "1", "key:__rand_int__"),
    "EXPIRE": ("EXPIRE", "key:__rand_int__", "2000"),
}

BLOCK_BYTES = 16 << 20  # formatted at once, at most
BLOCK_DIGITS = 5  # of a key's digits, those that differ within a block, at most
BATCH = 1000  # requests sent before the replies to the batch before are read


def text(size: int) -> bytes:
    """A value that no server can keep as an integer, without digits, dashes or line ends."""
    letters = b"abcdefghijklmnopqrstuvwxyz"
    return (letters * (size // len(letters) + 1))[:size]


def key(index: int) -> bytes:
    """The keys that redis-benchmark uses."""
    return b"key:%012d" % index


class Load(NamedTuple):
    """What a load cost the server."""

    cpu_usec: float  # CPU time per request, user and kernel
    thread_seconds: list[float]  # of each thread, busiest first
    per_second: float  # requests


def scaled(bench: Bench, requests: int, pipeline: int) -> int:
    """Applies --quick and --requests-scale.

    Gives whole pipelines for each client: redis-benchmark would send more than it was told.
    """
    step = CLIENTS * pipeline
    scale = bench.options.requests_scale / bench.divisor
    return max(1, round(requests * scale / step)) * step


def run_load(
    bench: Bench, server: Server, command: str, requests: int, pipeline: int, keys: int,
    processes: int = 1, cpus: set[int] | None = None, value_bytes: int = len(VALUE),
) -> Load:  # fmt: skip
    """Sends `requests` over CLIENTS connections, both divided among `processes` generators."""
    arguments = ["redis-benchmark", "-h", HOST, "-p", str(server.port)]
    arguments += ["-c", str(CLIENTS // processes), "-n", str(requests // processes)]
    arguments += ["-P", str(pipeline), "-r", str(keys), "-d", str(value_bytes), "-q"]
    arguments += TESTS[command]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    before = server.thread_seconds()
    generators: list[subprocess.Popen] = []
    rates = []
    try:
        for _ in range(processes):
            generators.append(bench.processes.start(arguments, cpus or bench.load_cpu, **options))
        for generator in generators:
            output, _ = generator.communicate(timeout=LOAD_LIMIT)
            rate = re.search(r"([0-9.]+) requests per second", output)
            if generator.returncode != 0 or not rate:
                raise BenchError(f"redis-benchmark {command} P={pipeline}: {output.strip()[-300:]}")
            rates.append(float(rate[1]))
    except subprocess.TimeoutExpired:
        raise BenchError(f"redis-benchmark {command}: not done after {LOAD_LIMIT} s")
    finally:
        for generator in generators:
            bench.processes.end(generator)
    time.sleep(HANG_UP_PAUSE)
    after = server.thread_seconds()
    spent = sorted((after[thread] - before.get(thread, 0) for thread in after), reverse=True)
    return Load(sum(spent) / requests * 1e6, spent, sum(rates))


class Pipeline:
    """Keeps two batches of requests under way, so that the server need not wait for this script."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.awaited: collections.deque[bytes] = collections.deque()

    def send(self, requests: bytes | memoryview, replies: bytes) -> None:
        self.connection.sendall(requests)
        self.awaited.append(replies)
        if len(self.awaited) > 1:
            expect(self.connection, self.awaited.popleft())

    def finish(self) -> None:
        while self.awaited:
            expect(self.connection, self.awaited.popleft())


# Further arguments of SET for the key whose last digits are the first number, of so many.
SetOptions = Callable[[int, int], tuple[str | int, ...]]


class Fill:
    """SET requests for every key of a range, in order.

    redis-benchmark picks keys at random, so it would leave many of them out. A block of requests is
    formatted once, with a mark in place of the leading digits of its keys; replacing the mark makes
    ten million requests a second out of it. Keys with the same last digits have the same options.
    """

    def __init__(self, value: bytes = VALUE, options: SetOptions = lambda low, lows: ()) -> None:
        digits = BLOCK_DIGITS
        while digits > 1 and 10**digits * (len(value) + 50) > BLOCK_BYTES:
            digits -= 1
        self.lows = lows = 10**digits
        self.mark = b"-" * (KEY_DIGITS - digits)  # occurs nowhere else
        forms = [
            request("SET", b"key:%b%0*d" % (self.mark, digits, low), value, *options(low, lows))
            for low in range(lows)
        ]
        self.block, self.request_bytes = b"".join(forms), len(forms[0])
        if len(self.block) != lows * self.request_bytes:
            raise BenchError("requests of a block differ in length")

    def batches(self, keys: range) -> Iterator[tuple[memoryview, int]]:
        """Requests for `keys`, and for how many keys each batch has some."""
        for high in range(keys.start // self.lows, -(-keys.stop // self.lows)):
            first = max(keys.start - high * self.lows, 0)
            last = min(keys.stop - high * self.lows, self.lows)
            leading = b"%0*d" % (len(self.mark), high)
            block = memoryview(self.block.replace(self.mark, leading))
            for low in range(first, last, BATCH):
                count = min(BATCH, last - low)
                yield block[low * self.request_bytes :][: count * self.request_bytes], count

    def send(self, server: Server, keys: range) -> None:
        with server.connect() as connection:
            pipeline = Pipeline(connection)
            for requests, count in self.batches(keys):
                pipeline.send(requests, b"+OK\r\n" * count)
            pipeline.finish()


def expires_at(begin: float, spread_ms: int) -> SetOptions:
    """Expiry in order of the last digits of the keys, so that a steady number is due at any time.

    `begin` is in seconds since 1970; the last keys are due almost `spread_ms` later.
    """
    first = math.ceil(begin * 1000)
    return lambda low, lows: ("PXAT", first + low * spread_ms // lows)


def fill(server: Server, keys: int, value: bytes = VALUE) -> None:
    """Sets every key that redis-benchmark may use with -r `keys`: key:000000000000 and up."""
    Fill(value).send(server, range(keys))
    check_size(server, keys)
    with server.connect() as connection:
        for index in (0, keys // 2, keys - 1):
            reply = b"$%d\r\n%b\r\n" % (len(value), value)
            exchange(connection, request("GET", key(index)), reply)


def check_size(server: Server, keys: int) -> None:
    with server.client() as client:
        if (held := client.ask("DBSIZE")) != keys:
            raise BenchError(f"{server.name} has {held:,} keys instead of {keys:,}")

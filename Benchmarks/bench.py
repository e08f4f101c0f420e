#!/usr/bin/env python3
"""Compares Valiant with redis-server on this machine: CPU, threads, instructions, memory, start-up.

    python3 Benchmarks/bench.py                           # everything, about 8 minutes
    python3 Benchmarks/bench.py --only memory,start       # some sections
    python3 Benchmarks/bench.py --quick                   # does this script still work?

Needs Python 3.11, two CPUs and, for the full picture, redis-server, redis-benchmark and valgrind.

How it measures, and why:

* **CPU time of the server, not requests per second.** On one machine the load generator is as busy
  as the server, so throughput says more about redis-benchmark than about either server.
* **Ratios, not microseconds.** Machines are noisy and differ, so both servers run in the same
  minutes: every round measures one, then the other; the next round goes the other way round. A
  ratio is the median of the rounds' ratios. Below 1 means that Valiant needs less.
* **Server on one CPU, load on another**, so that neither takes the other's time or cache.
* **Instructions are counted, not timed** (callgrind): they repeat to about 1 %, on any machine, but
  leave out the kernel, which does most of the work of requests that are not pipelined.

Exit status: 0 when everything asked for was measured, whether or not the goals are met; 1 when
something could not be measured; 2 when nothing could, or the options are wrong; 130 after Ctrl-C.
"""

import argparse
import contextlib
import functools
import itertools
import json
import os
import platform
import re
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HOST = "127.0.0.1"
SERVERS = ("valiant", "redis")
SECTIONS = ("cpu", "threads", "instructions", "memory", "start")  # each is a method of Bench
CLIENTS = 50  # redis-benchmark's default
VALUE = b"xxx"  # what redis-benchmark writes with -d 3
TESTS = {"PING": "ping_mbulk", "SET": "set", "GET": "get"}  # command: redis-benchmark's name for it

# Goals. Ratios are Valiant / redis-server, by pipeline depth, for SET and GET.
CPU_GOALS = {1: 0.95, 16: 0.60, 64: 0.40}
CPU_GOALS_LARGE = {1: 0.95, 16: 0.60, 64: 0.30}  # keyspace much larger than the CPU's caches
THREADS_GOAL = 1.15  # CPU per operation with two threads / with one
SHARE_GOAL = (0.40, 0.60)  # least and most of the process's CPU time for each of two threads
INSTRUCTION_GOALS = {("GET", 64): 700, ("SET", 64): 800}
IDLE_GOAL_MB = 8
CONNECTION_GOAL_BYTES = 1024

# Time limits and pauses, in seconds.
START_LIMIT = 30  # until the first PONG; valgrind alone takes one or two
STOP_LIMIT = 5  # between SIGTERM and SIGKILL
LOAD_LIMIT = 300  # for one run of redis-benchmark
REPLY_LIMIT = 60  # for a reply to our own requests
POLL_PAUSE = 0.0002  # between attempts to connect: the resolution of the start-up times
HANG_UP_PAUSE = 0.02  # for the server to notice that the clients of a load are gone
SETTLE_PAUSE = 1  # before resident memory is read

FILL_BATCH = 1000  # requests written before their replies are read: about 50 KB


# How much work the sections do; --quick divides all of it by QUICK. A load takes the server 0.2 to
# 2 s of CPU time. redis-benchmark works harder than either server, so the load lasts 1 to 3 s.
QUICK = 20
REQUESTS = {1: 150_000, 16: 500_000, 64: 1_500_000}  # for each pipeline depth
# A round without pipelining is cut into slices which the servers take in turn: the ratio is close to
# 1 there, and the machine's own ups and downs must hit both.
SLICES = {1: 5, 16: 1, 64: 1}
SMALL_KEYS, LARGE_KEYS = 100_000, 2_000_000
COUNTED_KEYS = 10_000  # callgrind slows a server down about 50 times
COUNTED_REQUESTS = (6_400, 64_000)  # in the shorter of two loads; how many more in the longer one
CONNECTIONS = 2_000
# redis-server frees a client's buffers after 2 s of silence, and its allocator returns the memory
# to the system within another 10 s.
CONNECTIONS_PAUSE = 15
MEMORY_KEYS = 1_000_000
STARTS = 20


class BenchError(Exception):
    """Something could not be measured; the message says what and why."""


class Processes:
    """Starts processes and knows which are left, so that none outlives this script."""

    def __init__(self) -> None:
        self.running: list[subprocess.Popen] = []

    def start(self, command: list[str], cpus: set[int], **options) -> subprocess.Popen:
        """Starts `command` on `cpus`: it inherits the affinity that this process has meanwhile."""
        own = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cpus)
        try:
            self.running.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, **options))
        finally:
            os.sched_setaffinity(0, own)
        return self.running[-1]

    def end(self, process: subprocess.Popen) -> None:
        process.terminate()
        try:
            process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self.running.remove(process)

    def end_all(self) -> None:
        for process in list(self.running):
            self.end(process)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def exchange(connection: socket.socket, request: bytes, reply: bytes) -> None:
    """Sends `request` and reads exactly `reply`; anything else is an error."""
    connection.sendall(request)
    read = 0
    while read < len(reply):
        chunk = connection.recv(len(reply) - read)
        if not chunk or chunk != reply[read : read + len(chunk)]:
            raise BenchError(f"unexpected reply {chunk[:80]!r} to {request[:40]!r}")
        read += len(chunk)


class Server:
    """A running server; it ends with the `with` block it is used in."""

    def __init__(
        self, processes: Processes, name: str, command: list[str], cpus: set[int], port: int,
        log: Path,
    ) -> None:  # fmt: skip
        self.processes, self.name, self.port, self.log = processes, name, port, log
        with open(log, "wb") as output:
            started = time.perf_counter()
            self.process = processes.start(command, cpus, stdout=output, stderr=output)
        self.wait_for_pong(started + START_LIMIT)
        self.start_seconds = time.perf_counter() - started

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_) -> None:
        self.processes.end(self.process)

    def wait_for_pong(self, deadline: float) -> None:
        while time.perf_counter() < deadline:
            if self.process.poll() is not None:
                log = self.log.read_text(errors="replace").strip()[-500:]
                raise BenchError(f"{self.name} ended with status {self.process.returncode}: {log}")
            try:
                with self.connect() as connection:
                    return exchange(connection, b"PING\r\n", b"+PONG\r\n")
            except OSError:
                time.sleep(POLL_PAUSE)
        raise BenchError(f"{self.name} does not answer PING after {START_LIMIT} s")

    def connect(self) -> socket.socket:
        return socket.create_connection((HOST, self.port), REPLY_LIMIT)

    def fill(self, keys: int, value: bytes = VALUE) -> None:
        """Sets every key that redis-benchmark may use, key:000000000000 and up.

        redis-benchmark itself picks keys at random, so it would leave many of them out.
        """
        form = b"*3\r\n$3\r\nSET\r\n$16\r\nkey:%%012d\r\n$%d\r\n%b\r\n" % (len(value), value)
        with self.connect() as connection:
            for first in range(0, keys, FILL_BATCH):
                batch = range(first, min(first + FILL_BATCH, keys))
                requests = b"".join([form % key for key in batch])
                exchange(connection, requests, b"+OK\r\n" * len(batch))
            for key in (0, keys // 2, keys - 1):
                reply = b"$%d\r\n%b\r\n" % (len(value), value)
                exchange(connection, b"GET key:%012d\r\n" % key, reply)

    def thread_seconds(self) -> dict[str, float]:
        """CPU seconds, user and kernel, of each thread so far. The kernel counts nanoseconds."""
        return {
            task.name: int((task / "schedstat").read_text().split()[0]) / 1e9
            for task in Path(f"/proc/{self.process.pid}/task").iterdir()
        }

    def resident_bytes(self) -> int:
        """Resident memory, counted from the page tables: /proc/PID/status is approximate."""
        rollup = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return int(rollup.split("\nRss:")[1].split()[0]) * 1024


def number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


class Table:
    """The figures of one section, as a table for people and as data for --json."""

    def __init__(self, title: str, unit: str, names: tuple[str, str] = SERVERS) -> None:
        self.title, self.unit, self.names = title, unit, names
        self.figures: list[dict] = []
        self.rows: list[dict[str, str]] = []

    def add(self, case: str, first: list[float], second: list[float], digits: int) -> None:
        """Adds a case with its figures, one for each round; `second` may be empty: not measured."""
        ratio = statistics.median(a / b for a, b in zip(first, second)) if second else None
        both = dict(zip(self.names, (first, second)))
        self.figures.append({"case": case, **both, "ratio": ratio, "goals": []})
        medians = {name: statistics.median(all) if all else None for name, all in both.items()}
        cells = {name: number(value, digits) for name, value in medians.items()}
        self.rows.append({self.unit: case, **cells, "ratio": number(ratio, 2)})

    def goal(self, of: str, limit: float | None, form: str = "g") -> None:
        """Adds the goal of the last case: `of`, a name of a column, is at most `limit`."""
        if limit is None:
            self.rows[-1][f"goal for {of}"] = ""
            return
        value = self.figures[-1][of]
        value = statistics.median(value) if isinstance(value, list) else value
        self.judge(of, f"≤ {limit:{form}}", None if value is None else value <= limit)

    def judge(self, of: str, goal: str, met: bool | None) -> None:
        self.figures[-1]["goals"].append({"of": of, "goal": goal, "met": met})
        verdict = {True: "ok", False: "MISSED", None: "not measured"}[met]
        self.rows[-1][f"goal for {of}"] = f"{goal} {verdict}"

    def __str__(self) -> str:
        """Aligned Markdown; the first column is text, the others are aligned right."""
        lines = [list(self.rows[0])] + [list(row.values()) for row in self.rows]
        widths = [max(len(cell) for cell in column) for column in zip(*lines)]
        cells = [[cell.rjust(width) for cell, width in zip(line, widths)] for line in lines]
        for line in cells:
            line[0] = line[0].strip().ljust(widths[0])
        cells.insert(1, ["-" * widths[0]] + ["-" * (width - 1) + ":" for width in widths[1:]])
        return f"## {self.title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in cells)


class Bench:
    def __init__(self, options: argparse.Namespace, processes: Processes, directory: Path) -> None:
        self.options, self.processes, self.directory = options, processes, directory
        self.divisor = QUICK if options.quick else 1
        self.rounds = options.rounds
        self.cpus = os.sched_getaffinity(0)
        self.server_cpu, self.load_cpu = ({cpu} for cpu in sorted(self.cpus)[:2])
        os.sched_setaffinity(0, self.load_cpu)  # this process is load, too
        self.found = ["valiant"] + (["redis"] if shutil.which("redis-server") else [])
        self.launches = 0

    def launch(
        self, name: str, threads: int = 1, cpus: set[int] | None = None, under: tuple[str, ...] = ()
    ) -> Server:
        """Starts a server: on its own CPU unless `cpus` says otherwise, `under` another program."""
        self.launches += 1
        port = free_port()
        command = [*under, self.options.binary if name == "valiant" else "redis-server"]
        command += ["--port", str(port), "--bind", HOST]
        if name == "valiant":
            command += ["--threads", str(threads)]
        else:
            command += ["--save", "", "--appendonly", "no", "--daemonize", "no"]
            command += ["--dir", str(self.directory)]
        log = self.directory / f"{name}-{self.launches}.log"
        return Server(self.processes, name, command, cpus or self.server_cpu, port, log)

    def in_turn(self, competitors: list, round: int) -> list:
        """The order for a round: who was first in the last one is last now."""
        return competitors if round % 2 == 0 else competitors[::-1]

    def scaled(self, requests: int, pipeline: int) -> int:
        """Applies --quick and --requests-scale.

        Gives whole pipelines for each client: redis-benchmark would send more than it was told.
        """
        step = CLIENTS * pipeline
        scale = self.options.requests_scale / self.divisor
        return max(1, round(requests * scale / step)) * step

    def load(
        self, server: Server, command: str, requests: int, pipeline: int, keys: int,
        processes: int = 1, cpus: set[int] | None = None,
    ) -> tuple[float, list[float]]:  # fmt: skip
        """Sends `requests` over CLIENTS connections, both divided among `processes` generators.

        Returns the server's CPU time in µs per request and in seconds per thread, busiest first.
        """
        arguments = ["redis-benchmark", "-h", HOST, "-p", str(server.port), "-t", TESTS[command]]
        arguments += ["-c", str(CLIENTS // processes), "-n", str(requests // processes)]
        arguments += ["-P", str(pipeline), "-r", str(keys), "-d", str(len(VALUE)), "-q"]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        before = server.thread_seconds()
        generators: list[subprocess.Popen] = []
        try:
            for _ in range(processes):
                generators.append(self.processes.start(arguments, cpus or self.load_cpu, **options))
            for generator in generators:
                output, _ = generator.communicate(timeout=LOAD_LIMIT)
                if generator.returncode != 0 or "requests per second" not in output:
                    raise BenchError(f"{' '.join(arguments)}: {output.strip()[-300:]}")
        except subprocess.TimeoutExpired:
            raise BenchError(f"{' '.join(arguments)}: not done after {LOAD_LIMIT} s")
        finally:
            for generator in generators:
                self.processes.end(generator)
        time.sleep(HANG_UP_PAUSE)
        after = server.thread_seconds()
        spent = sorted((after[thread] - before.get(thread, 0) for thread in after), reverse=True)
        return sum(spent) / requests * 1e6, spent

    def cpu(self) -> Table:
        """Server CPU per operation, for a keyspace that fits the caches and one that does not."""
        title = f"CPU: {CLIENTS} clients, median of {self.rounds} rounds"
        table = Table(title, "server CPU, µs per operation")
        for keys, commands, goals in (
            (SMALL_KEYS // self.divisor, ("PING", "SET", "GET"), CPU_GOALS),
            (LARGE_KEYS // self.divisor, ("SET", "GET"), CPU_GOALS_LARGE),
        ):
            cases = list(itertools.product(commands, REQUESTS))
            times = {(name, *case): [] for name in SERVERS for case in cases}
            with contextlib.ExitStack() as stack:
                servers = {name: stack.enter_context(self.launch(name)) for name in self.found}
                for server in servers.values():
                    server.fill(keys)
                    self.load(server, "GET", self.scaled(keys, 64), 64, keys)  # warm up
                for round in range(self.rounds):
                    progress(f"cpu: {keys:,} keys, round {round + 1} of {self.rounds}")
                    for command, pipeline in cases:
                        slices = SLICES[pipeline]
                        count = self.scaled(REQUESTS[pipeline] // slices, pipeline)
                        used = dict.fromkeys(self.found, 0.0)
                        for slice in range(slices):
                            for name in self.in_turn(self.found, round + slice):
                                part, _ = self.load(servers[name], command, count, pipeline, keys)
                                used[name] += part / slices
                        for name in self.found:
                            times[name, command, pipeline].append(used[name])
            for command, pipeline in cases:
                keyspace = "" if command == "PING" else f", {keys:,} keys"
                case = (times[name, command, pipeline] for name in SERVERS)
                table.add(f"{command} P={pipeline}{keyspace}", *case, 3)
                # The goals are for commands on keys; PING is mostly the kernel's work.
                table.goal("ratio", None if command == "PING" else goals[pipeline], ".2f")
        return table

    def threads(self) -> Table:
        """What a second event loop costs per operation, and whether the two share the work."""
        keys, pipelines = SMALL_KEYS // self.divisor, (16, 64)
        times = {(threads, pipeline): [] for threads in (1, 2) for pipeline in pipelines}
        shares: dict[int, list[list[float]]] = {pipeline: [] for pipeline in pipelines}
        with contextlib.ExitStack() as stack:
            launch = functools.partial(self.launch, "valiant", cpus=self.cpus)
            servers = {n: stack.enter_context(launch(threads=n)) for n in (1, 2)}
            for server in servers.values():
                server.fill(keys)
                self.load(server, "GET", self.scaled(keys, 64), 64, keys)  # warm up
            for round in range(self.rounds):
                progress(f"threads: round {round + 1} of {self.rounds}")
                for pipeline in pipelines:
                    count = self.scaled(REQUESTS[pipeline], pipeline)
                    for threads in self.in_turn([1, 2], round):
                        used, spent = self.load(
                            servers[threads], "GET", count, pipeline, keys, 2, self.cpus
                        )
                        times[threads, pipeline].append(used)
                        if threads == 2:
                            busiest = (spent + [0.0])[:2]
                            shares[pipeline].append([part / sum(spent) for part in busiest])
        title = f"Threads: Valiant, 2 loads of {CLIENTS // 2} clients, nothing pinned"
        title += f", median of {self.rounds} rounds"
        table = Table(title, "server CPU, µs per operation", ("2 threads", "1 thread"))
        least, most = SHARE_GOAL
        for pipeline in pipelines:
            table.add(f"GET P={pipeline}, {keys:,} keys", times[2, pipeline], times[1, pipeline], 3)
            table.goal("ratio", THREADS_GOAL, ".2f")
            busier, quieter = (statistics.median(column) for column in zip(*shares[pipeline]))
            table.figures[-1]["shares"] = shares[pipeline]
            table.rows[-1]["shares"] = f"{busier:.0%}, {quieter:.0%}"
            met = least <= quieter and busier <= most
            table.judge("shares", f"{least:.0%} to {most:.0%}", met)
        return table

    def instructions(self) -> Table:
        """User instructions per operation: what a longer load adds, so that set-up cancels out."""
        keys, cases = COUNTED_KEYS // self.divisor, list(itertools.product(TESTS, (1, 64)))
        counts = {(name, *case): [] for name in SERVERS for case in cases}
        for name in self.found:
            progress(f"instructions: {name}")
            # Our own prefix for vgdb's pipes: its default depends on TMPDIR, user and host.
            pipes = f"--vgdb-prefix={self.directory}/vgdb-{name}"
            dump = self.directory / f"callgrind-{name}"
            # Valgrind follows no exec: a script that starts the server could not be measured.
            valgrind = ("valgrind", "--tool=callgrind", "--instr-atstart=no", pipes)
            with self.launch(name, under=(*valgrind, f"--callgrind-out-file={dump}")) as server:
                vgdb = ["vgdb", pipes, f"--pid={server.process.pid}"]
                server.fill(keys)
                for command in TESTS:  # warm up
                    self.load(server, command, self.scaled(keys, 64), 64, keys)
                run_tool([*vgdb, "instrumentation", "on"])
                for command, pipeline in cases:
                    base, extra = (self.scaled(n, pipeline) for n in COUNTED_REQUESTS)
                    totals = []
                    for requests in (base, base + extra):
                        run_tool([*vgdb, "zero"])
                        self.load(server, command, requests, pipeline, keys)
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
        return table

    def memory(self) -> Table:
        """Resident memory of a fresh server, of each idle connection and of each key."""
        connections, keys = CONNECTIONS // self.divisor, MEMORY_KEYS // self.divisor
        # For this process and the servers it starts; a hard limit below that ends the section.
        hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (connections + 100, hard_limit))
        cases = {
            "fresh server, MB": (1, IDLE_GOAL_MB),
            f"idle connection ({connections:,} of them), bytes": (0, CONNECTION_GOAL_BYTES),
            f"key of 16 and value of 16 bytes ({keys:,} of them), bytes": (0, None),
        }  # fmt: skip
        used: dict[str, list[float]] = {}
        for name in self.found:
            progress(f"memory: {name}")
            with self.launch(name) as server, contextlib.ExitStack() as stack:
                time.sleep(SETTLE_PAUSE)
                fresh = server.resident_bytes()
                for _ in range(connections):
                    # One request shows that the connection is accepted, and may leave buffers.
                    connection = stack.enter_context(server.connect())
                    exchange(connection, b"PING\r\n", b"+PONG\r\n")
                time.sleep(CONNECTIONS_PAUSE / self.divisor)
                per_connection = (server.resident_bytes() - fresh) / connections
            with self.launch(name) as server:
                time.sleep(SETTLE_PAUSE)
                empty = server.resident_bytes()
                server.fill(keys, value=b"0123456789abcdef")
                time.sleep(SETTLE_PAUSE)
                per_key = (server.resident_bytes() - empty) / keys
            used[name] = [fresh / 1e6, per_connection, per_key]
        table = Table("Memory", "resident memory")
        for index, (case, (digits, limit)) in enumerate(cases.items()):
            figures = ([used[name][index]] if name in used else [] for name in SERVERS)
            table.add(case, *figures, digits)
            table.goal("valiant", limit)
        return table

    def start(self) -> Table:
        """From fork and exec to the first PONG."""
        times = {name: [] for name in SERVERS}
        starts = STARTS // self.divisor
        progress(f"start: {starts} times")
        for round in range(starts):
            for name in self.in_turn(self.found, round):
                with self.launch(name) as server:
                    times[name].append(server.start_seconds * 1e3)
        table = Table(f"Start: median of {starts}", "start-up, ms")
        table.add("exec to first PONG", *times.values(), 1)
        return table


def run_tool(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_LIMIT)
    if done.returncode != 0:
        raise BenchError(f"{' '.join(command)}: {done.stderr.strip()}")


def progress(text: str) -> None:
    print(f"… {text}", file=sys.stderr, flush=True)


def what_is_missing(sections: list[str]) -> dict[str, str]:
    """What cannot be measured because a program is not installed, and why."""
    needs = {"cpu": ["redis-benchmark"], "threads": ["redis-benchmark"]}
    needs["instructions"] = ["redis-benchmark", "valgrind", "vgdb"]  # vgdb is a part of valgrind
    missing = {}
    for section in sections:
        if tools := [tool for tool in needs.get(section, []) if not shutil.which(tool)]:
            missing[section] = f"not installed: {', '.join(tools)}"
    if not shutil.which("redis-server") and set(sections) - {"threads"} - set(missing):
        missing["comparison with redis"] = "not installed: redis-server"
    return missing


def describe_machine() -> dict[str, str]:
    models = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    cpu = models[0] if models else platform.machine()
    machine = {"cpu": f"{os.cpu_count()} × {cpu}", "system": platform.platform()}
    if shutil.which("redis-server"):
        version = subprocess.run(["redis-server", "--version"], capture_output=True, text=True)
        machine["redis-server"] = version.stdout.strip()
    return machine


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--binary", default=".build/release/valiant", help="Valiant (default: %(default)s)")
    add("--rounds", type=int, default=5, help="for cpu and threads (default: %(default)s)")
    add("--only", default=",".join(SECTIONS), help="what to measure (default: %(default)s)")
    add("--quick", action="store_true", help="one small round, to check this script")
    add("--json", metavar="FILE", help="write every figure of every round to FILE")
    add("--requests-scale", type=float, default=1, help="multiply the requests by this")
    options = parser.parse_args()
    options.sections = options.only.split(",")
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"--only knows {', '.join(SECTIONS)}, not {', '.join(sorted(unknown))}")
    if options.rounds < 1 or options.requests_scale <= 0:
        parser.error("--rounds and --requests-scale must be above 0")
    if not os.path.isfile(options.binary) or not os.access(options.binary, os.X_OK):
        parser.error(f"{options.binary} is not a program; swift build -c release makes it")
    if len(os.sched_getaffinity(0)) < 2:
        parser.error("needs two CPUs, one for the server and one for the load")
    options.binary = os.path.abspath(options.binary)
    options.rounds = 1 if options.quick else options.rounds
    return options


def run(options: argparse.Namespace, bench: Bench) -> int:
    """Runs the sections, prints their tables and the summary; returns the exit status."""
    machine = describe_machine()
    print("# Valiant compared with redis-server", *machine.values(), sep="\n\n")
    if options.quick:
        print("\nQuick run: it checks this script, its figures mean nothing.")
    problems = what_is_missing(options.sections)
    for what, why in problems.items():
        print(f"\nSKIPPED {what}: {why}", flush=True)
    tables: dict[str, Table] = {}
    for section in options.sections:
        if section not in problems:
            try:
                tables[section] = getattr(bench, section)()
                print(f"\n{tables[section]}", flush=True)
            except (BenchError, OSError, ValueError, subprocess.SubprocessError) as error:
                problems[section] = str(error)
                print(f"\nFAILED {section}: {error}", flush=True)
                bench.processes.end_all()
    figures = {section: table.figures for section, table in tables.items()}
    verdicts = [goal["met"] for all in figures.values() for case in all for goal in case["goals"]]
    summary = f"{verdicts.count(True)} of {len(verdicts)} goals met"
    summary += f", {verdicts.count(None)} not measured" if None in verdicts else ""
    print(f"\n{summary}" + (f"; not run: {', '.join(problems)}" if problems else ""))
    if options.json:
        document = {"machine": machine, "options": vars(options), "figures": figures}
        document |= {"summary": summary, "problems": problems}
        Path(options.json).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return 0 if not problems else 1 if tables else 2


def main() -> int:
    options = parse_options()
    for terminating in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(terminating, lambda number, _: sys.exit(128 + number))
    processes = Processes()
    with tempfile.TemporaryDirectory(prefix="valiant-bench-") as directory:
        try:
            return run(options, Bench(options, processes, Path(directory)))
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        finally:
            # A second Ctrl-C must not leave servers behind.
            for impatient in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(impatient, signal.SIG_IGN)
            processes.end_all()


if __name__ == "__main__":
    sys.exit(main())

"""What the append log costs: how many changes a second are written down, and how fast that is read."""

import subprocess
import time

from loads import KEY_BYTES, VALUE, Fill, check_size
from servers import HOST, Bench, BenchError, Server, progress
from tables import SERVERS, Table

ROUNDS = 3
CONNECTIONS = (1, 50, 500)
# Enough for a second and more.
CHANGES = {("always", 1): 8_000, ("always", 50): 120_000, ("always", 500): 150_000}
CHANGES |= {("everysec", 1): 40_000, ("everysec", 50): 200_000, ("everysec", 500): 200_000}
PIPELINED = 3_000_000
KEYS = 100_000
LOGGED_KEYS = 2_000_000
BETTER = 1  # times what redis-server does
LOAD_GOAL = 1 / 2  # of redis-server's time


def rate(bench: Bench, server: Server, *load: str) -> float:
    """SETs per second of a load."""
    command = ["redis-benchmark", "-h", HOST, "-p", str(server.port), "-t", "set", "-r", str(KEYS), "--csv", *load]
    process = bench.processes.start(command, bench.load_cpu, stdout=subprocess.PIPE, text=True)
    output, _ = process.communicate(timeout=300)
    for line in output.splitlines():
        if line.startswith('"SET"'):
            return float(line.split(",")[1].strip('"'))
    raise BenchError(f"redis-benchmark says nothing of SET: {output}")


def appending(bench: Bench) -> list[Table]:
    """SETs with an append log, by the disk that the bench's folder is on; and how long it takes to read it."""
    cases = {(policy, count): f"appendfsync {policy}, {count} connections" for policy, count in CHANGES}
    figures = {(name, case): [] for name in SERVERS for case in [*cases, "pipelined"]}
    for round in range(bench.repeats(ROUNDS)):
        for name in bench.in_turn(bench.found, round):
            progress(f"appending: {name}, round {round + 1}")
            for policy in ("always", "everysec"):
                flags = ("--appendonly", "yes", "--appendfsync", policy)
                with bench.launch(name, flags=flags) as server:
                    server.wait_until_loaded()
                    for count in CONNECTIONS:
                        changes = max(CHANGES[policy, count] // bench.divisor, count)
                        figures[name, (policy, count)].append(
                            rate(bench, server, "-c", str(count), "-n", str(changes))
                        )
                    if policy == "everysec":
                        changes = PIPELINED // bench.divisor
                        figures[name, "pipelined"].append(
                            rate(bench, server, "-c", "50", "-P", "64", "-n", str(changes))
                        )
    table = Table(
        f"Append log: SETs per second, median of {bench.repeats(ROUNDS)} rounds", "changes"
    )
    for case in [*cases, "pipelined"]:
        title = cases.get(case, "appendfsync everysec, 50 connections, pipelines of 64")
        table.add(title, *(figures[name, case] for name in SERVERS), 0)
        table.goal("ratio", least=BETTER)
    return [table, log_loading(bench)]


def log_loading(bench: Bench) -> Table:
    """From exec until a GET is answered, with a log of SETs without a base."""
    keys = LOGGED_KEYS // bench.divisor
    flags = ("--appendonly", "yes")
    figures = {name: [] for name in SERVERS}
    folder = bench.directory / "log"
    folder.mkdir()
    flags += ("--dir", str(folder), "--auto-aof-rewrite-percentage", "0")
    with bench.launch("valiant", flags=flags) as server, server.client() as client:
        server.wait_until_loaded()
        Fill(VALUE).send(server, range(keys))
        while client.info("persistence")["aof_buffer_length"] != "0":
            time.sleep(0.1)
    for round in range(bench.repeats(ROUNDS)):
        for name in bench.in_turn(bench.found, round):
            progress(f"reading the log: {name}, round {round + 1}")
            began = time.monotonic()
            with bench.launch(name, cpus=bench.cpus, threads=len(bench.cpus), flags=flags) as server:
                server.wait_until_loaded()
                figures[name].append(time.monotonic() - began)
                check_size(server, keys)
    table = Table(
        f"Append log: read, {keys:,} SETs of keys of {KEY_BYTES} bytes and small values, "
        f"median of {bench.repeats(ROUNDS)} rounds", "loading",
    )  # fmt: skip
    table.add("all cores, s", *(figures[name] for name in SERVERS), 2)
    table.goal("ratio", LOAD_GOAL, ".2f")
    return table

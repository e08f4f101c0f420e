"""What snapshots cost: how fast they are written and read, and what clients notice meanwhile."""

import base64
import os
import statistics
import tempfile
import time

from latency import ROUNDS, rounds_in_words, turns
from loads import CLIENTS, KEY_BYTES, Fill, check_size
from probes import Probe, percentile
from servers import HOST, Bench, Server, progress
from tables import SERVERS, Table

TAIL_GOAL = 1.5  # 99.9th percentile while saving / while not
PAUSE_GOAL_MS = 1  # the longest while saving, beyond that while not
MEMORY_GOAL = 5  # % of the data
RATE_GOAL = 500  # MB/s, or as fast as the disk is
LOAD_GOAL = 3e6  # keys per second and core
LOAD_RATIO_GOAL = 1 / 3  # of redis-server's time

SAVED_KEYS = 2_000_000
LOADED_KEYS = 5_000_000
VALUE = base64.b64encode(os.urandom(75))  # 100 bytes that cannot be compressed
QUIET_SECONDS = 5
WARM_SECONDS = 1
MEMORY_FOLDER = "/dev/shm"
DISK_BYTES = 256 << 20
POLL_PAUSE = 0.005


def disk_rate(bench: Bench) -> float:
    """MB per second that a file of this size takes, with its fsync."""
    path, block = bench.directory / "disk", os.urandom(1 << 20)
    began = time.monotonic()
    with open(path, "wb") as file:
        for _ in range(DISK_BYTES // len(block) // bench.divisor):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    took = time.monotonic() - began
    rate = path.stat().st_size / took / 1e6
    path.unlink()
    return rate


def saving(bench: Bench) -> list[Table]:
    """SAVE of a server that does nothing else, then BGSAVE while keys are overwritten.

    The latter to memory: a virtual machine's disk takes time from its processors, which has nothing
    to do with the server.
    """
    keys = SAVED_KEYS // bench.divisor
    data = keys * (KEY_BYTES + len(VALUE))
    ratio, longest, memory = "p99.9 saving / not saving", "longest while saving, ms", "further memory, % of the data"
    rates = ("SAVE, MB/s", "the same without compression, MB/s")
    cases = (*rates, "a file written and synchronized, MB/s", "p99.9 while saving, µs", "p99.9 while not, µs", ratio)
    cases += (longest, "longest while not, ms", memory, "BGSAVE while writing, s")
    figures = {(name, case): [] for name in SERVERS for case in cases}
    for name, round in turns(bench):
        progress(f"saving: {name}, round {round}")
        path = bench.directory / f"saving-{name}-{round}.socket"
        values = []
        with bench.launch(name) as server, server.client() as client:
            Fill(VALUE).send(server, range(keys))
            check_size(server, keys)
            for compression in ("yes", "no"):
                client.ask("CONFIG", "SET", "rdbcompression", compression)
                began = time.monotonic()
                client.ask("SAVE")
                values.append(data / (time.monotonic() - began) / 1e6)
        values.append(disk_rate(bench))
        with (
            tempfile.TemporaryDirectory(dir=MEMORY_FOLDER) as folder,
            bench.launch(name, unix_socket=path, flags=("--dir", folder)) as server,
            server.client() as client,
        ):
            Fill(VALUE).send(server, range(keys))
            check_size(server, keys)
            load = ["redis-benchmark", "-h", HOST, "-p", str(server.port), "-c", str(CLIENTS), "-n", "1000000000"]
            load += ["-t", "set", "-r", str(keys), "-d", str(len(VALUE)), "-q"]
            with Probe(bench, path) as probe:
                process = bench.processes.start(load, bench.load_cpu, stdout=-3, stderr=-3)
                time.sleep(WARM_SECONDS)
                times = [time.monotonic()]
                time.sleep(QUIET_SECONDS / bench.divisor)
                times.append(time.monotonic())
                before = server.forget_peak()
                client.ask("BGSAVE")
                while client.info("persistence")["rdb_bgsave_in_progress"] == "1":
                    time.sleep(POLL_PAUSE)
                times.append(time.monotonic())
                # redis-server's is that of the child, which it counts itself.
                extra = server.peak_bytes() - before
                if name == "redis":
                    extra += int(client.info("persistence")["rdb_last_cow_size"])
                bench.processes.end(process)
                probe.end()
            check_size(server, keys)
        quiet, busy = (probe.latencies(*times[i : i + 2]) for i in (0, 1))
        tails = [percentile(latencies, 0.999) for latencies in (busy, quiet)]
        values += [*tails, tails[0] / tails[1], busy[-1] / 1e3, quiet[-1] / 1e3, extra / data * 100, times[2] - times[1]]
        for case, value in zip(cases, values):
            figures[name, case].append(value)
    title = f"Saving: {keys:,} keys of {KEY_BYTES} bytes with values of {len(VALUE)}, overwritten meanwhile"
    table = Table(title + rounds_in_words(bench), "snapshots")
    for case in cases:
        table.add(case, *(figures[name, case] for name in SERVERS), 0 if "µs" in case or "MB" in case else 2)
        if case in rates:
            disk = statistics.median(figures["valiant", cases[2]])
            table.goal("valiant", least=min(RATE_GOAL, disk))
        elif case == longest:
            idle = statistics.median(figures["valiant", "longest while not, ms"])
            table.goal("valiant", PAUSE_GOAL_MS + idle, ".2f")
        else:
            table.goal("valiant", {ratio: TAIL_GOAL, memory: MEMORY_GOAL}.get(case))
    return [table]


def loading(bench: Bench) -> list[Table]:
    """From exec until a GET is answered, with a file of small keys and with one of longer values."""
    tables = []
    for value, count, what in ((b"xxx", LOADED_KEYS, "values of 3"), (VALUE, SAVED_KEYS, "values of 100")):
        keys = count // bench.divisor
        cases = ("one core, s", "one core, keys/s", "all cores, s")
        figures = {(name, case): [] for name in SERVERS for case in cases}
        folder = bench.directory / f"loading-{len(value)}"
        folder.mkdir()
        with bench.launch("valiant", flags=("--dir", str(folder))) as server, server.client() as client:
            Fill(value).send(server, range(keys))
            client.ask("SAVE")
        for name, round in turns(bench):
            progress(f"loading {what}: {name}, round {round}")
            one = loaded(bench, name, folder, keys, 1, bench.server_cpu)
            both = loaded(bench, name, folder, keys, len(bench.cpus), bench.cpus)
            for case, figure in zip(cases, (one, keys / one, both)):
                figures[name, case].append(figure)
        table = Table(f"Loading: {keys:,} keys of {KEY_BYTES} bytes with {what} bytes" + rounds_in_words(bench), "loading")
        for case in cases:
            table.add(case, *(figures[name, case] for name in SERVERS), 0 if "keys" in case else 2)
            if case == cases[1] and value != VALUE:
                table.goal("valiant", least=LOAD_GOAL / bench.divisor)
            else:
                table.goal("ratio", LOAD_RATIO_GOAL if case == cases[2] else None, ".2f")
        tables.append(table)
    return tables


def loaded(bench: Bench, name: str, folder, keys: int, threads: int, cpus: set[int]) -> float:
    """Seconds until a server that has been started serves what is in the folder."""
    began = time.monotonic()
    with bench.launch(name, threads=threads, cpus=cpus, flags=("--dir", str(folder))) as server:
        server.wait_until_loaded()
        took = time.monotonic() - began
        check_size(server, keys)
    return took

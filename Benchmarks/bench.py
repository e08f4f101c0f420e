#!/usr/bin/env python3
"""Compares Valiant with redis-server on this machine: processor, memory, latency, expiry, eviction.

    python3 Benchmarks/bench.py                           # everything, about 25 minutes
    python3 Benchmarks/bench.py --only memory,start       # some sections
    python3 Benchmarks/bench.py --quick                   # does this script still work?
    python3 Benchmarks/bench.py --readme                  # the newest results into README.md

Needs Python 3.11, two CPUs and, for the full picture, redis-server, redis-benchmark, valgrind, a C
compiler, 6 GB of memory, and root for the real-time priority of the probe.

How it measures, and why:

* **CPU time of the server, not requests per second.** On one machine the load generator is as busy
  as the server, so throughput says more about redis-benchmark than about either server.
* **Ratios, not microseconds.** Machines are noisy and differ, so both servers run in the same
  minutes: every round measures one, then the other; the next round goes the other way round. A
  ratio is the median of the rounds' ratios. Below 1 means that Valiant needs less.
* **Server on one CPU, load on another**, so that neither takes the other's time or cache. What a
  server frees in a thread of its own competes with its requests: the harder case.
* **Instructions are counted, not timed** (callgrind): they repeat to about 1 %, on any machine, but
  leave out the kernel, which does most of the work of requests that are not pipelined.
* **Resident memory, counted by the kernel**, beyond that of the fresh server, for many sizes of the
  keyspace: tables double, and one size alone would show a server at its best or at its worst.
* **Latency is seen by a client of its own** (probe.c), a GET every millisecond, which counts what
  comes due while it waits. A virtual machine pauses now and then: so the same is measured while
  nothing happens, or of a process that only echoes, and of several rounds the median counts. When
  those are above half a millisecond the machine was busy, and the latencies say nothing.
* **Several servers get the same requests at the same time** where it is not time that is measured
  (hits, giveback): this takes less time, and redis-server's LRU clock, which ticks once a second,
  ticks more often.

Figures go to Benchmarks/results/DATE-COMMIT.json; a run of some sections replaces those of the same
commit there. A quick run is not kept.

Exit status: 0 when everything asked for was measured, whether or not the goals are met; 1 when
something could not be measured; 2 when nothing could, or the options are wrong; 130 after Ctrl-C.
"""

import argparse
import datetime
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import appending
import eviction
import expiry
import latency
import memory
import messages
import probes
import processor
import results
import saving
from servers import Bench, BenchError, Processes, progress

SECTIONS = {
    "cpu": processor.cpu,
    "threads": processor.threads,
    "instructions": processor.instructions,
    "memory": memory.memory,
    "start": latency.start,
    "keys": memory.keys,
    "giveback": memory.giveback,
    "growth": latency.growth,
    "freeing": latency.freeing,
    "expiry": expiry.expiry,
    "hot": processor.hot,
    "publish": messages.publish,
    "hits": eviction.hits,
    "limit": eviction.limit,
    "saving": saving.saving,
    "loading": saving.loading,
    "appending": appending.appending,
}


def what_is_missing(sections: list[str]) -> dict[str, str]:
    """What cannot be measured because a program is not installed, and why."""
    needs = {section: ["redis-benchmark"] for section in ("cpu", "threads", "hot", "publish", "saving", "appending")}
    needs["instructions"] = ["redis-benchmark", "valgrind", "vgdb"]  # vgdb is a part of valgrind
    needs |= {section: [probes.COMPILER or "cc"] for section in ("growth", "freeing", "saving")}
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
    add("--rounds", type=int, default=5, help="for cpu, threads and hot (default: %(default)s)")
    add("--only", default=",".join(SECTIONS), help="what to measure (default: %(default)s)")
    add("--quick", action="store_true", help="one small round, to check this script")
    add("--json", metavar="FILE", help="write every figure of every round to FILE")
    add("--requests-scale", type=float, default=1, help="multiply the requests by this")
    add("--readme", action="store_true", help="only put the newest results into README.md")
    options = parser.parse_args()
    if options.readme:
        return options
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
    about = {"binary": os.path.basename(options.binary), "rounds": options.rounds}
    about |= {"quick": options.quick, "requests-scale": options.requests_scale}
    measured: dict[str, dict] = {}
    for section in options.sections:
        if section in problems:
            continue
        began = time.monotonic()
        tables, reasons = [], []
        try:
            tables = SECTIONS[section](bench)
            print(*(f"\n{table}" for table in tables), sep="\n", flush=True)
            reasons = [reason for table in tables for reason in table.missing]
        except (BenchError, OSError, ValueError, subprocess.SubprocessError) as error:
            reasons = [str(error)]
            print(f"\nFAILED {section}: {error}", flush=True)
            bench.processes.end_all()
        progress(f"{section}: took {time.monotonic() - began:.0f} s")
        if reasons:
            problems[section] = "; ".join(reasons)
        measured[section] = {
            "date": str(datetime.date.today()), "options": about,
            "tables": [table.data() for table in tables],
            "problems": [without_paths(reason, bench) for reason in reasons],
        }  # fmt: skip
    incomplete = f"; not measured, or not all: {', '.join(problems)}" if problems else ""
    print(f"\n{results.goals(measured)}{incomplete}")
    if options.json or not options.quick:
        path = results.write(options.json, machine, measured, list(SECTIONS))
        progress(f"figures are in {os.path.relpath(path)}")
    return 0 if not problems else 1 if any(all["tables"] for all in measured.values()) else 2


def without_paths(reason: str, bench: Bench) -> str:
    return reason.replace(str(bench.directory), "…").replace(bench.options.binary, "valiant")


def main() -> int:
    options = parse_options()
    if options.readme:
        try:
            print(results.write_readme())
            return 0
        except (OSError, ValueError) as error:
            print(error, file=sys.stderr)
            return 2
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

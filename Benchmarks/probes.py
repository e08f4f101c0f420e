"""Probes: clients that ask a server at a steady pace and record how long each reply takes."""

import math
import shutil
import struct
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from servers import Bench, BenchError, progress

INTERVAL_USEC = 1000  # between two requests
COMPILER = shutil.which("cc") or shutil.which("clang")
BEGIN_PAUSE = 0.1  # seconds until a probe has its connection and its memory


class Sample(NamedTuple):
    sent: float  # by time.monotonic()
    usec: float  # until the reply


class Probe:
    """A running probe (probe.c says how it works); it ends with the `with` block it is used in.

    It shares the CPU of the load, which it interrupts, and takes about 2 % of it.
    """

    def __init__(self, bench: Bench, path: Path) -> None:
        """`path` is the unix socket to probe."""
        self.bench, self.output = bench, path.with_suffix(".probe")
        self.samples: list[Sample] = []
        self.process = start(bench, path, str(INTERVAL_USEC), self.output)
        time.sleep(BEGIN_PAUSE)

    def __enter__(self) -> "Probe":
        return self

    def __exit__(self, *_) -> None:
        if self.process in self.bench.processes.running:
            self.bench.processes.end(self.process)

    def end(self) -> None:
        """Ends the probe and reads what it saw."""
        self.bench.processes.end(self.process)
        if log := Path(f"{self.output}.log").read_text().strip():
            progress(f"probe: {log}")  # without a real-time priority, for example
        if self.process.returncode != 0:
            raise BenchError(f"the probe failed: {log}")
        pairs = struct.iter_unpack("=QQ", self.output.read_bytes())
        self.samples = [Sample(sent / 1e9, taken / 1e3) for sent, taken in pairs]
        self.output.unlink()

    def latencies(self, begin: float, end: float) -> list[float]:
        """Latencies in µs, sorted, of the requests sent between two times."""
        found = sorted(sample.usec for sample in self.samples if begin <= sample.sent < end)
        if not found:
            raise BenchError("the probe got no reply in a time that was to be measured")
        return found


class Echo(Probe):
    """A probe of a process that only answers, on the same CPU as the probes: their own noise."""

    def __init__(self, bench: Bench) -> None:
        path = bench.directory / f"echo-{time.monotonic_ns()}.socket"
        self.answering = start(bench, path, "echo", path.with_suffix(".echo"))
        super().__init__(bench, path)

    def __exit__(self, *_) -> None:
        super().__exit__()
        self.bench.processes.end(self.answering)


def start(bench: Bench, path: Path, mode: str, output: Path) -> subprocess.Popen:
    program = bench.directory / "probe"
    if not program.exists():
        source = Path(__file__).with_name("probe.c")
        subprocess.run([COMPILER, "-O2", "-o", program, source], check=True, capture_output=True)
    with open(output, "wb") as results, open(f"{output}.log", "wb") as log:
        command = [str(program), str(path), mode]
        return bench.processes.start(command, bench.load_cpu, stdout=results, stderr=log)


def percentile(latencies: list[float], share: float) -> float:
    """The latency that `share` of the requests do not exceed."""
    return latencies[math.ceil(share * len(latencies)) - 1]

"""Starts servers, talks to them, and reads from /proc what they use."""

import argparse
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

HOST = "127.0.0.1"
QUICK = 20  # --quick divides by this how much work the sections do

# Time limits and pauses, in seconds.
START_LIMIT = 30  # until the first PONG; valgrind alone takes one or two
STOP_LIMIT = 5  # between SIGTERM and SIGKILL
REPLY_LIMIT = 60  # for a reply to our own requests
POLL_PAUSE = 0.0002  # between attempts to connect: the resolution of the start-up times
LOADING_PAUSE = 0.005  # the same while keys are loaded, which takes all processors

RECEIVE_BYTES = 1 << 16


class BenchError(Exception):
    """Something could not be measured; the message says what and why."""


class Refused(BenchError):
    """A server answered with an error; the message is its text."""


def progress(text: str) -> None:
    print(f"… {text}", file=sys.stderr, flush=True)


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

    def wait(self, process: subprocess.Popen, limit: float) -> None:
        """Waits for a process that ends by itself, with status 0 and within `limit` seconds."""
        try:
            if status := process.wait(limit):
                raise BenchError(f"{process.args[0]} ended with status {status}")
        except subprocess.TimeoutExpired:
            raise BenchError(f"{process.args[0]} took more than {limit:g} s") from None
        finally:
            if process.poll() is None:
                self.end(process)
            else:
                self.running.remove(process)

    def end_all(self) -> None:
        for process in list(self.running):
            self.end(process)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def request(*arguments: bytes | str | int) -> bytes:
    """A request as clients send it: an array of bulk strings."""
    parts = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        text = argument if isinstance(argument, bytes) else str(argument).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(text), text))
    return b"".join(parts)


def expect(connection: socket.socket, reply: bytes) -> None:
    """Reads exactly `reply`; anything else is an error."""
    read = 0
    while read < len(reply):
        chunk = connection.recv(len(reply) - read)
        if not chunk or chunk != reply[read : read + len(chunk)]:
            raise BenchError(f"unexpected reply {chunk[:80]!r} instead of {reply[:40]!r}")
        read += len(chunk)


def exchange(connection: socket.socket, requests: bytes, reply: bytes) -> None:
    """Sends `requests` and reads exactly `reply`."""
    connection.sendall(requests)
    expect(connection, reply)


class Client:
    """A connection for single requests whose replies are wanted; ends with its `with` block."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.replies = connection.makefile("rb", RECEIVE_BYTES)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_) -> None:
        self.replies.close()
        self.connection.close()

    def ask(self, *arguments: bytes | str | int) -> bytes | int | list | None:
        """Sends a request and returns its reply; an error reply is raised as Refused."""
        self.connection.sendall(request(*arguments))
        return self.reply()

    def reply(self) -> bytes | int | list | None:
        line = self.replies.readline()
        if not line.endswith(b"\r\n"):
            raise BenchError("the server has closed the connection")
        kind, text = line[:1], line[1:-2]
        match kind:
            case b"+":
                return text
            case b":":
                return int(text)
            case b"-":
                raise Refused(text.decode(errors="replace"))
            case b"$":
                return None if text == b"-1" else self.replies.read(int(text) + 2)[:-2]
            case b"*":
                return [self.reply() for _ in range(int(text))]
        raise BenchError(f"unexpected reply {line[:80]!r}")

    def info(self, section: str) -> dict[str, str]:
        """The lines of a section of INFO; nothing when the server does not know the section."""
        lines = self.ask("INFO", section).decode().split("\r\n")
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def keyspace(self) -> int:
        """The keys that are kept, including those that are past due and not freed yet."""
        databases = self.info("keyspace").values()
        return sum(int(fields(line).get("keys", 0)) for line in databases)

    def used_memory(self) -> int:
        return int(self.info("memory")["used_memory"])

    def engine(self) -> dict[str, dict[str, float]]:
        """Valiant's own record of the work it does beside the requests, by kind of work."""
        return {kind: fields(line) for kind, line in self.info("engine").items()}

    def reset_engine(self) -> None:
        with contextlib.suppress(Refused):
            self.ask("CONFIG", "RESETSTAT")


def fields(line: str) -> dict[str, float]:
    """`keys=1,expires=0` as a dictionary."""
    pairs = (pair.split("=", 1) for pair in line.split(",") if "=" in pair)
    return {name: float(value) for name, value in pairs}


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
                # While keys are loaded redis-server answers an error to that.
                if self.first_reply(b"PING\r\n") == b"+PONG\r\n":
                    return
                time.sleep(LOADING_PAUSE)
            except OSError:
                time.sleep(POLL_PAUSE)
        raise BenchError(f"{self.name} does not answer PING after {START_LIMIT} s")

    def first_reply(self, request: bytes) -> bytes:
        """The reply to a short request; nothing while keys are loaded."""
        with self.connect() as connection:
            connection.sendall(request)
            reply = connection.recv(RECEIVE_BYTES)
            return b"" if reply.startswith(b"-LOADING") else reply

    def wait_until_loaded(self) -> None:
        while not self.first_reply(b"GET nothing\r\n"):
            time.sleep(LOADING_PAUSE)
            if self.process.poll() is not None:
                raise BenchError(f"{self.name} ended while it loaded keys")

    def forget_peak(self) -> int:
        """Has `peak_bytes` begin with what is resident now, which is returned."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        return self.resident_bytes()

    def connect(self) -> socket.socket:
        return socket.create_connection((HOST, self.port), REPLY_LIMIT)

    def client(self) -> Client:
        return Client(self.connect())

    def refusal(self, *arguments: bytes | str | int) -> str | None:
        """Why the server does not serve this request; None when it does."""
        try:
            with self.client() as client:
                client.ask(*arguments)
        except Refused as error:
            return f"{self.name}: {str(error).strip()}"
        return None

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

    def peak_bytes(self) -> int:
        """The most that was ever resident, however briefly: the kernel's own record.

        It counts in steps of up to 64 pages for each CPU, so it may be wrong by half a MiB.
        """
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("\nVmHWM:")[1].split()[0]) * 1024


class Bench:
    """What every section is given: the options, the CPUs, and the way to start servers."""

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
        self, name: str, threads: int = 1, cpus: set[int] | None = None,
        under: tuple[str, ...] = (), flags: tuple[str, ...] = (), unix_socket: Path | None = None,
    ) -> Server:  # fmt: skip
        """Starts a server: on its own CPU unless `cpus` says otherwise, `under` another program.

        `flags` are settings that both servers spell alike; `unix_socket` is one to listen on, too.
        """
        self.launches += 1
        port = free_port()
        command = [*under, self.options.binary if name == "valiant" else "redis-server"]
        command += ["--port", str(port), "--bind", HOST, *flags]
        command += ["--unixsocket", str(unix_socket)] if unix_socket else []
        if name == "valiant":
            command += ["--threads", str(threads)]
        else:
            command += ["--daemonize", "no"]
        # `flags` may say something else.
        directory = self.directory / f"{name}-{self.launches}"
        directory.mkdir()
        command[command.index("--bind") : command.index("--bind")] = ["--save", "", "--appendonly", "no", "--dir", str(directory)]
        log = self.directory / f"{name}-{self.launches}.log"
        return Server(self.processes, name, command, cpus or self.server_cpu, port, log)

    def launch_all(self, stack: contextlib.ExitStack) -> dict[str, Server]:
        """One server of each kind, which end with `stack`."""
        return {name: stack.enter_context(self.launch(name)) for name in self.found}

    def in_turn(self, competitors: list, round: int) -> list:
        """The order for a round: who was first in the last one is last now."""
        return competitors if round % 2 == 0 else competitors[::-1]

    def repeats(self, wanted: int) -> int:
        return 1 if self.options.quick else wanted

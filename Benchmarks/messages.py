"""What publishing costs a server, by the number of subscribers."""

import contextlib
import selectors
import socket
import threading
import time

from loads import CLIENTS, TESTS, run_load, scaled
from servers import Bench, BenchError, Server, exchange, progress, request
from tables import SERVERS, Table

CHANNEL, MESSAGE = b"news", b"0123456789abcdef"
DELIVERED = b"*3\r\n$7\r\nmessage\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(CHANNEL), CHANNEL, len(MESSAGE), MESSAGE)
REQUESTS = {1: 200_000, 10: 100_000, 100: 20_000}  # for each number of subscribers
PIPELINE = 16
READ_BYTES = 1 << 18
DELIVERY_LIMIT = 30  # seconds
TESTS["PUBLISH"] = ("PUBLISH", CHANNEL.decode(), MESSAGE.decode())


class Readers:
    """Subscribers that read all that comes, and count its bytes."""

    def __init__(self, server: Server, count: int) -> None:
        self.received = 0
        self.connections: list[socket.socket] = []
        self.selector = selectors.DefaultSelector()
        for _ in range(count):
            connection = server.connect()
            answer = b"*3\r\n$9\r\nsubscribe\r\n$%d\r\n%b\r\n:1\r\n" % (len(CHANNEL), CHANNEL)
            exchange(connection, request("SUBSCRIBE", CHANNEL), answer)
            self.connections.append(connection)
            self.selector.register(connection, selectors.EVENT_READ)
        self.over = False
        self.thread = threading.Thread(target=self.read)
        self.thread.start()

    def read(self) -> None:
        while not self.over:
            for ready, _ in self.selector.select(0.1):
                self.received += len(ready.fileobj.recv(READ_BYTES))

    def wait(self, wanted: int) -> None:
        end = time.monotonic() + DELIVERY_LIMIT
        while self.received < wanted:
            if time.monotonic() > end:
                raise BenchError(f"{self.received:,} of {wanted:,} bytes were delivered")
            time.sleep(0.001)

    def close(self) -> None:
        self.over = True
        self.thread.join()
        for connection in self.connections:
            connection.close()


def publish(bench: Bench) -> list[Table]:
    """Server CPU per PUBLISH, until the last subscriber has its message."""
    times = {(name, count): [] for name in SERVERS for count in REQUESTS}
    with contextlib.ExitStack() as stack:
        servers = bench.launch_all(stack)
        for round in range(bench.rounds):
            progress(f"publish: round {round + 1} of {bench.rounds}")
            for count, requests in REQUESTS.items():
                for name in bench.in_turn(bench.found, round):
                    server = servers[name]
                    requests_sent = scaled(bench, requests, PIPELINE)
                    with contextlib.closing(Readers(server, count)) as readers:
                        before = sum(server.thread_seconds().values())
                        run_load(bench, server, "PUBLISH", requests_sent, PIPELINE, 1)
                        readers.wait(requests_sent * count * len(DELIVERED))
                        spent = sum(server.thread_seconds().values()) - before
                    times[name, count].append(spent / requests_sent * 1e6)
    title = f"Messages: PUBLISH of {len(MESSAGE)} bytes, {CLIENTS} publishers, P={PIPELINE}"
    table = Table(f"{title}, median of {bench.rounds} rounds", "server CPU, µs per PUBLISH")
    for count in REQUESTS:
        case = f"PUBLISH to {count} subscriber{'s' if count > 1 else ''}"
        table.add(case, *(times[name, count] for name in SERVERS), 3)
    return [table]

#!/usr/bin/env python3
"""crash.py BINARY [--rounds N] [--seed S]: kills servers with SIGKILL at random instants while clients write,
starts them again on the same files, and looks for what is missing, what nobody has written, and what does not
fit together.

Each writer has a counter that it increments, a string that it appends to, and a pair of keys that it sets in one
transaction. With `appendfsync always` whatever was acknowledged has to be there, with `everysec` what was
acknowledged a second before (two are promised), and with both nothing that was not sent. Meanwhile the log is
written anew now and then. Its last line is `N passed, N failed`.
"""

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

WRITERS = 6


def encode(*words):
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        word = word if isinstance(word, bytes) else str(word).encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(word), word))
    return b"".join(parts)


class Client:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")

    def reply(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the connection has ended")
        kind, rest = line[:1], line[1:-2]
        if kind == b"$":
            if rest == b"-1":
                return None
            data = self.file.read(int(rest) + 2)
            if len(data) < int(rest) + 2:
                raise ConnectionError("the connection has ended")
            return data[:-2]
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        return int(rest) if kind == b":" else rest

    def send(self, *words):
        self.socket.sendall(encode(*words))
        return self.reply()

    def close(self):
        self.file.close()
        self.socket.close()


class Server:
    def __init__(self, binary, folder, policy):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = open(os.path.join(folder, "log"), "ab")
        self.process = subprocess.Popen(
            [binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", folder, "--save", "",
             "--appendonly", "yes", "--appendfsync", policy, "--auto-aof-rewrite-min-size", "200kb",
             "--auto-aof-rewrite-percentage", "50"],
            stderr=self.log)
        end = time.monotonic() + 30
        while True:
            try:
                client = Client(self.port)
                client.send("GET", "ready")
                client.close()
                return
            except (OSError, RuntimeError):
                if self.process.poll() is not None:
                    raise SystemExit("the server does not start:\n" + open(self.log.name).read()[-3000:])
                if time.monotonic() > end:
                    raise SystemExit("the server does not answer")
                time.sleep(0.01)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.log.close()


class Writer(threading.Thread):
    """Counts up; `sent` and `acknowledged` are the numbers that may, and must, be found."""

    def __init__(self, number, port, first, size):
        super().__init__(daemon=True)
        self.number, self.port, self.size = number, port, size
        self.sent = self.acknowledged = first
        self.times = [(time.monotonic(), first)]

    def run(self):
        name = self.number
        try:
            client = Client(self.port)
            while True:
                self.sent += 1
                filler = b"x" * random.randrange(self.size)
                # One request after the other: each reply has to wait for its own change.
                client.socket.sendall(
                    encode("INCR", f"counter:{name}") + encode("APPEND", f"text:{name}", "%08d" % self.sent)
                    + encode("MULTI") + encode("SET", f"left:{name}", b"%d " % self.sent + filler)
                    + encode("SET", f"right:{name}", b"%d " % self.sent + filler) + encode("EXEC"))
                for _ in range(6):
                    client.reply()
                self.acknowledged = self.sent
                self.times.append((time.monotonic(), self.sent))
                if len(self.times) > 20000:
                    del self.times[:10000]
        except OSError:
            pass

    def acknowledged_at(self, moment):
        found = self.times[0][1]
        for when, number in self.times:
            if when > moment:
                break
            found = number
        return found


def rewrite(port, stop):
    try:
        client = Client(port)
        while not stop.wait(random.uniform(0.02, 0.3)):
            try:
                client.send("BGREWRITEAOF")
            except RuntimeError:
                pass
    except OSError:
        pass


def check(port, name, least, most):
    """What is wrong with a writer's keys, and the number that they have come to."""
    client = Client(port)
    try:
        counter = int(client.send("GET", f"counter:{name}") or 0)
        text = client.send("GET", f"text:{name}") or b""
        left, right = client.send("GET", f"left:{name}"), client.send("GET", f"right:{name}")
    finally:
        client.close()
    problems = []
    numbers = [int(text[index:index + 8]) for index in range(0, len(text), 8)]
    if numbers != list(range(numbers[0] if numbers else 1, len(numbers) + (numbers[0] if numbers else 1))):
        problems.append("the text has gaps")
    last = numbers[-1] if numbers else 0
    pair = int((left or b"0 ").split()[0])
    if left != right:
        problems.append("half of a transaction")
    for what, number in [("counter", counter), ("text", last), ("pair", pair)]:
        if number < least:
            problems.append(f"the {what} says {number}, and {least} was acknowledged")
        if number > most:
            problems.append(f"the {what} says {number}, and no more than {most} was sent")
    # What was written later is not there without what was written before.
    if not counter >= last >= pair >= counter - 1:
        problems.append(f"out of order: counter {counter}, text {last}, pair {pair}")
    return problems, counter, last, pair


def run(binary, policy, rounds):
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        numbers = [0] * WRITERS
        for number in range(rounds):
            server = Server(binary, folder, policy)
            size = random.choice([1, 100, 20_000])
            writers = [Writer(name, server.port, numbers[name], size) for name in range(WRITERS)]
            stop = threading.Event()
            rewriter = threading.Thread(target=rewrite, args=(server.port, stop), daemon=True)
            for thread in writers + [rewriter]:
                thread.start()
            time.sleep(random.uniform(0.02, 0.5) if policy == "always" else random.uniform(1.2, 1.8))
            moment = time.monotonic()
            server.kill()
            stop.set()
            for thread in writers + [rewriter]:
                thread.join()
            server = Server(binary, folder, policy)
            client = Client(server.port)
            for writer in writers:
                least = writer.acknowledged if policy == "always" else writer.acknowledged_at(moment - 1)
                problems, *found = check(server.port, writer.number, least, writer.sent)
                for problem in problems:
                    print(f"not ok - {policy}, round {number}, writer {writer.number}: {problem}")
                failed += bool(problems)
                # All three go on from one number.
                numbers[writer.number] = found[0]
                client.send("MSET", f"left:{writer.number}", f"{found[0]} ", f"right:{writer.number}",
                            f"{found[0]} ", f"text:{writer.number}", "%08d" % found[0])
            # Damage is not to be found by chance only.
            client.send("WAITAOF", "1", "0", "0")
            client.close()
            whole = subprocess.run([binary, "--check", os.path.join(folder, "appendonlydir")],
                                   capture_output=True, text=True)
            if whole.returncode != 0:
                failed += 1
                print(f"not ok - {policy}, round {number}: {whole.stderr}")
            server.kill()
        log = open(os.path.join(folder, "log")).read()
    cut = log.count("are cut off")
    rewritten = log.count("the append log begins with")
    print(f"# {policy}: {rounds} rounds, {sum(numbers)} numbers, {rewritten} new bases, {cut} torn ends")
    return failed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    print(f"# seed {arguments.seed}")
    binary = os.path.realpath(arguments.binary)
    passed = failed = 0
    for policy, rounds in [("always", arguments.rounds), ("everysec", max(1, arguments.rounds // 5))]:
        problems = run(binary, policy, rounds)
        if problems == 0:
            passed += 1
            print(f"ok - killed {rounds} times with appendfsync {policy}: nothing is missing or invented")
        failed += problems
    print(f"\n{passed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""reconnect.py HOST PORT CLIENTS FILE: clients that connect, ask and leave, again and again.

Ends when FILE exists, and prints one line of counts: answered, refused (nobody listened), broken (reset, or ended
without an answer), and the longest time in seconds from connecting to the answer.
"""

import os
import socket
import sys
import threading
import time

host, port, clients, file = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
lock = threading.Lock()
counts = {"answered": 0, "refused": 0, "broken": 0}
longest = 0.0


def once() -> str:
    try:
        connection = socket.create_connection((host, port), 20)
    except ConnectionRefusedError:
        return "refused"
    except OSError:
        return "broken"
    with connection:
        try:
            connection.sendall(b"PING\r\n")
            return "answered" if connection.recv(100) == b"+PONG\r\n" else "broken"
        except OSError:
            return "broken"


def run() -> None:
    global longest
    while not os.path.exists(file):
        start = time.monotonic()
        outcome = once()
        took = time.monotonic() - start
        with lock:
            counts[outcome] += 1
            longest = max(longest, took)
        time.sleep(0.002)


threads = [threading.Thread(target=run) for _ in range(clients)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(f"answered={counts['answered']} refused={counts['refused']} broken={counts['broken']} longest={longest:.2f}")

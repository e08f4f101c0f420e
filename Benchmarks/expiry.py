"""How soon keys that are past due are freed, and at what cost."""

import statistics
import time

from latency import ENGINE_GOAL_USEC, add_engine, sleep_until
from loads import Fill, check_size, expires_at
from servers import Bench, BenchError, progress
from tables import SERVERS, Table

LATE_GOAL = 1  # keys past due that are kept, in % of the live ones
END_GOAL = 1  # seconds from the last due time until all are freed

EXPIRED_KEYS = 2_000_000
SPREAD_SECONDS = 20  # over which they are due, at a steady rate
LEAD_SECONDS = 10  # from the first request to the first due time: the keys must be set by then
SAMPLE_SECONDS = 0.1
LIVE_LEAST = 0.1  # of all keys: with fewer live ones a share of them says little
END_LIMIT = 120  # seconds from the last due time after which we wait no longer
END_PAUSE = 0.01  # seconds between two looks whether all are freed


def expiry(bench: Bench) -> list[Table]:
    """Keys that expire at a steady rate while nobody asks for them."""
    keys, spread = EXPIRED_KEYS // bench.divisor, SPREAD_SECONDS / bench.divisor
    lead = 1 + LEAD_SECONDS / bench.divisor
    cases = {
        "past due but kept, mean, % of live": LATE_GOAL,
        "past due but kept, most, % of live": LATE_GOAL,
        "all freed after the last is due, s": END_GOAL,
        "server CPU per expired key, µs": None,
    }
    figures = {name: [] for name in SERVERS}
    engines = []
    for name in bench.found:
        progress(f"expiry: {name}")
        with bench.launch(name) as server, server.client() as client:
            client.reset_engine()
            # The schedule is in the server's time of day; this process reads the same clock.
            begin = time.time() + lead
            Fill(options=expires_at(begin, round(spread * 1000))).send(server, range(keys))
            check_size(server, keys)
            if time.time() > begin:
                raise BenchError(f"{name} took more than {lead:g} s to set {keys:,} keys")
            sleep_until(time.monotonic() + begin - time.time())
            used = sum(server.thread_seconds().values())
            shares = []
            for sample in range(1, int(spread / SAMPLE_SECONDS)):
                sleep_until(time.monotonic() + begin + sample * SAMPLE_SECONDS - time.time())
                before = time.time()
                kept = client.keyspace()
                # What is due while the server answers counts as live.
                live = keys * (1 - min(1, (before - begin) / spread))
                if live >= LIVE_LEAST * keys:
                    shares.append(max(0, kept - live) / live * 100)
            end = begin + spread
            sleep_until(time.monotonic() + end - time.time())
            while client.keyspace() > 0:
                if time.time() > end + END_LIMIT:
                    raise BenchError(f"{name} keeps keys {END_LIMIT} s after they were due")
                time.sleep(END_PAUSE)
            late = time.time() - end
            used = sum(server.thread_seconds().values()) - used
            figures[name] = [statistics.mean(shares), max(shares), late, used / keys * 1e6]
            if name == "valiant":
                engines.append(client.engine())
    title = f"Expiry: {keys:,} keys that expire within {spread:g} s, seen every "
    table = Table(title + f"{SAMPLE_SECONDS * 1000:g} ms", "lateness and cost")
    for index, (case, limit) in enumerate(cases.items()):
        table.add(case, *([all[index]] if all else [] for all in figures.values()), 2)
        table.goal("valiant", limit)
    add_engine(bench, table, "expiry", engines, ENGINE_GOAL_USEC)
    return [table]

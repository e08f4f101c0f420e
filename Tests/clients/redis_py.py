#!/usr/bin/env python3
"""redis_py.py HOST PORT: what a program does with redis-py, against a running server.

With the library's default settings, then with RESP2 and with RESP3 asked for. Uses keys which begin with `redis-py:`
and removes them. Prints `ok - ...` or `not ok - ...` for each group of checks; exit status 1 if one failed.
"""

import sys
import threading
import time
import traceback
import uuid

import redis

HOST, PORT = sys.argv[1], int(sys.argv[2])
PREFIX = "redis-py:" + uuid.uuid4().hex + ":"


def key(name):
    return PREFIX + name


def set_get_delete(client):
    assert client.ping() is True
    assert client.echo("hello") == b"hello"
    assert client.get(key("a")) is None
    assert client.set(key("a"), "one") is True
    assert client.get(key("a")) == b"one"
    assert client.set(key("b"), 2) is True
    assert client.get(key("b")) == b"2"
    assert client[key("b")] == b"2"
    assert client.exists(key("a"), key("b"), key("c"), key("a")) == 3
    assert client.delete(key("a"), key("b"), key("c")) == 2
    assert client.exists(key("a")) == 0


def options_of_set(client):
    assert client.set(key("a"), 1, xx=True) is None
    assert client.set(key("a"), 1, nx=True) is True
    assert client.set(key("a"), 2, nx=True) is None
    assert client.set(key("a"), 3, get=True) == b"1"
    assert client.set(key("b"), 3, get=True) is None
    assert client.delete(key("a"), key("b")) == 2


def expiry(client):
    assert client.ttl(key("a")) == -2
    client.set(key("a"), 1)
    assert client.ttl(key("a")) == -1
    client.set(key("a"), 1, ex=100)
    assert client.ttl(key("a")) in (99, 100)
    client.set(key("a"), 2, keepttl=True)
    assert 98_000 < client.pttl(key("a")) <= 100_000
    client.set(key("a"), 1, exat=int(time.time()) + 50)
    assert client.ttl(key("a")) in (49, 50)
    client.set(key("a"), 1, px=30)
    time.sleep(0.1)
    assert client.get(key("a")) is None


def binary_values(client):
    every = bytes(range(256))
    client.set(key("binary").encode() + every, every)
    assert client.get(key("binary").encode() + every) == every
    assert client.delete(key("binary").encode() + every) == 1
    client.set(key("empty"), b"")
    assert client.get(key("empty")) == b""
    client.set(key("umlaut"), "Größe €")
    assert client.get(key("umlaut")).decode() == "Größe €"
    assert client.delete(key("empty"), key("umlaut")) == 2


def a_value_of_one_mebibyte(client):
    large = bytes(range(256)) * 4096
    client.set(key("large"), large)
    assert client.get(key("large")) == large
    assert client.echo(large) == large
    assert client.delete(key("large")) == 1


def pipeline(client):
    with client.pipeline(transaction=False) as batch:
        for number in range(1000):
            batch.set(key(f"pipeline:{number}"), number)
        assert batch.execute() == [True] * 1000
        for number in range(1000):
            batch.get(key(f"pipeline:{number}"))
        assert batch.execute() == [b"%d" % number for number in range(1000)]
        batch.set(key("a"), 1).execute_command("NOSUCH").get(key("a"))
        first, error, last = batch.execute(raise_on_error=False)
        assert (first, last) == (True, b"1") and isinstance(error, redis.ResponseError)
        for number in range(1000):
            batch.delete(key(f"pipeline:{number}"))
        assert batch.execute() == [1] * 1000
    assert client.delete(key("a")) == 1


def transactions(client):
    with client.pipeline() as batch:  # MULTI and EXEC
        assert batch.set(key("a"), 1).incr(key("a")).get(key("a")).execute() == [True, 2, b"2"]
        batch.watch(key("a"))
        client.set(key("a"), 5)
        batch.multi()
        batch.set(key("a"), 6)
        try:
            batch.execute()
        except redis.WatchError:
            pass
        else:
            raise AssertionError("a watched key has changed, and nobody was told")

    def add_one(batch):
        value = int(batch.get(key("a")))
        batch.multi()
        batch.set(key("a"), value + 1)

    assert client.transaction(add_one, key("a")) == [True]
    assert client.getdel(key("a")) == b"6"


def messages(client):
    listener = client.pubsub(ignore_subscribe_messages=True)
    heard = []
    listener.subscribe(**{key("news"): lambda message: heard.append(message["data"])})
    listener.psubscribe(**{key("n?ws"): lambda message: heard.append((message["channel"], message["data"]))})
    thread = listener.run_in_thread(sleep_time=0.01)
    end = time.monotonic() + 10
    while client.publish(key("news"), "hello") < 2:
        assert time.monotonic() < end, "nobody listens"
    while len(heard) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    thread.stop()
    thread.join()
    assert heard[-2:] == [b"hello", (key("news").encode(), b"hello")], heard
    assert client.pubsub_numsub(key("news"))[0][1] == 0


def walks(client):
    names = {key(f"walk:{number}").encode() for number in range(2500)}
    client.mset({name: b"" for name in names})
    assert set(client.scan_iter(match=key("walk:*"))) == names
    assert set(client.scan_iter(match=key("walk:*"), count=1000, _type="string")) == names
    assert set(client.keys(key("walk:*"))) == names
    assert client.randomkey() is not None
    assert client.unlink(*names) == len(names)


def strings_and_bits(client):
    assert client.append(key("a"), "foobar") == 6
    assert client.setrange(key("a"), 3, "BAR") == 6 and client.getrange(key("a"), 2, 4) == b"oBA"
    assert client.setbit(key("b"), 7, 1) == 0 and client.bitcount(key("b")) == 1 and client.bitpos(key("b"), 1) == 7
    assert client.bitop("OR", key("c"), key("a"), key("b")) == 6
    assert client.bitfield(key("d")).set("u8", "#1", 200).incrby("u8", "#1", 100, "SAT").execute() == [0, 255]
    assert client.incrbyfloat(key("e"), 0.5) == 0.5
    assert client.rename(key("a"), key("f")) is True and client.copy(key("f"), key("g")) in (True, 1)
    assert client.restore(key("h"), 0, client.dump(key("f"))) == b"OK" and client.get(key("h")) == b"fooBAR"
    assert client.pfadd(key("l"), *range(1000)) == 1 and abs(client.pfcount(key("l")) - 1000) < 50
    assert client.expire(key("h"), 100, nx=True) in (True, 1) and client.persist(key("h")) in (True, 1)
    assert client.lcs(key("f"), key("g")) == b"fooBAR"
    assert client.delete(*(key(name) for name in "bcdefghl")) == 8


def a_cluster_of_one_node(client):
    cluster = redis.RedisCluster(HOST, PORT)
    for number in range(100):
        assert cluster.set(key(f"cluster:{number}"), number) is True
    assert [cluster.get(key(f"cluster:{number}")) for number in range(100)] == [b"%d" % number for number in range(100)]
    assert sum(cluster.delete(key(f"cluster:{number}")) for number in range(100)) == 100
    cluster.close()


def raises(error, call, *arguments):
    try:
        call(*arguments)
    except error:
        return
    raise AssertionError(f"no {error.__name__} for {arguments}")


def a_lock_is_taken_once(client):
    lock = client.lock(key("lock"), timeout=0.3)
    assert lock.acquire(blocking=False) is True and lock.locked() is True
    assert client.lock(key("lock")).acquire(blocking=False) is False
    # It ends by itself, and then it is somebody else's.
    other = client.lock(key("lock"), timeout=60)
    assert other.acquire(blocking_timeout=5) is True
    raises(redis.exceptions.LockNotOwnedError, lock.release)
    assert other.extend(60) is True and other.reacquire() is True and 0 < client.ttl(key("lock")) <= 60
    other.release()
    raises(redis.exceptions.LockError, other.release)
    counted = 0

    def count():
        nonlocal counted
        own = redis.Redis(HOST, PORT)
        for _ in range(20):
            with own.lock(key("lock"), timeout=60, sleep=0.001):
                before = counted
                time.sleep(0.0005)
                counted = before + 1
        own.close()

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted == 80


def scripts(client):
    double = client.register_script("return redis.call('SET', KEYS[1], tonumber(ARGV[1]) * 2)")
    client.script_flush()
    assert double(keys=[key("script")], args=[21]) in (b"OK", True) and client.get(key("script")) == b"42"
    assert client.script_exists(double.sha, "0" * 40) == [True, False]
    with client.pipeline() as pipeline:
        double(keys=[key("script")], args=[4], client=pipeline)
        pipeline.get(key("script"))
        assert pipeline.execute()[1] == b"8"
    raises(redis.exceptions.NoScriptError, client.evalsha, "0" * 40, 0)
    raises(redis.exceptions.ResponseError, client.eval, "return redis.call('INCR', KEYS[1], 1)", 1, key("script"))
    assert client.eval("return {1, 2.9, 'three', false, {KEYS[1]}}", 1, "k") == [1, 2, b"three", None, [b"k"]]
    client.delete(key("script"))


def clients(client):
    with client.client() as one:  # a connection of its own: names belong to connections
        assert one.client_setname("redis-py") is True
        assert one.client_getname() in ("redis-py", b"redis-py")
        number = one.client_id()
        information = one.client_info()
        assert int(information["id"]) == number and information["name"] == "redis-py"
        asked = client.connection_pool.connection_kwargs.get("protocol")
        assert asked is None or int(information["resp"]) == int(asked)
        listed = {int(other["id"]): other for other in client.client_list()}
        assert listed[number]["name"] == "redis-py"


def server(client):
    assert "maxclients" in client.config_get("maxclients")
    assert {"timeout", "maxclients"} <= client.config_get("timeout", "maxclients").keys()
    assert client.config_get("nosuch") == {}
    timeout = client.config_get("timeout")["timeout"]
    assert client.config_set("timeout", timeout) in (True, b"OK")
    information = client.info()
    assert information["tcp_port"] == PORT and information["connected_clients"] >= 1
    assert "redis_version" in client.info("server")
    before = client.dbsize()
    client.set(key("a"), 1)
    assert client.dbsize() == before + 1
    assert client.delete(key("a")) == 1
    assert client.command_count() > 10
    assert abs(client.time()[0] - time.time()) < 5


def errors(client):
    set_nosuch = ("CONFIG", "SET", "nosuch", 1)
    for wrong in ("NOSUCH",), ("GET",), ("SET", key("a"), 1, "BOGUS"), ("SELECT", 99), set_nosuch:
        try:
            client.execute_command(*wrong)
        except redis.ResponseError:
            continue
        raise AssertionError(f"{wrong} was accepted")
    assert client.ping() is True


def eight_threads_on_a_pool(client):
    pool = redis.ConnectionPool(max_connections=8, **client.connection_pool.connection_kwargs)
    shared = redis.Redis(connection_pool=pool)
    problems = []

    def work(thread):
        try:
            for number in range(200):
                name = key(f"thread:{thread}:{number}")
                shared.set(name, number)
                assert shared.get(name) == b"%d" % number
                assert shared.delete(name) == 1
        except Exception as problem:  # noqa: reported by the main thread
            problems.append(f"thread {thread}: {problem!r}")

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pool.disconnect()
    assert not problems, problems


def copies_of_keys(client):
    """The library's own cache, which it allows from Redis 7.4 on; what it needs has been there since 6.0."""
    from redis.cache import CacheConfig
    from redis.connection import CacheProxyConnection

    CacheProxyConnection.MIN_ALLOWED_VERSION = "7.0.0"
    caching = redis.Redis(HOST, PORT, protocol=3, cache_config=CacheConfig())
    try:
        client.set(key("a"), 1)
        assert caching.get(key("a")) == b"1"
        assert caching.get_cache().size == 1
        before = client.info("commandstats").get("cmdstat_get", {"calls": 0})["calls"]
        assert all(caching.get(key("a")) == b"1" for _ in range(50))
        assert client.info("commandstats")["cmdstat_get"]["calls"] == before, "it asked the server"
        client.set(key("a"), 2)
        end = time.monotonic() + 5
        while caching.get(key("a")) != b"2":
            assert time.monotonic() < end, "it never hears of the change"
            time.sleep(0.01)
        assert client.info("clients")["tracking_clients"] >= 1
    finally:
        caching.close()
        client.delete(key("a"))


CHECKS = [set_get_delete, options_of_set, expiry, binary_values, a_value_of_one_mebibyte, pipeline, transactions,
          messages, copies_of_keys, walks, strings_and_bits, a_cluster_of_one_node, a_lock_is_taken_once, scripts, clients, server,
          errors, eight_threads_on_a_pool]
PROTOCOLS = {"default": {}, "RESP2": {"protocol": 2}, "RESP3": {"protocol": 3}}


def main():
    passed = failed = 0
    for protocol, settings in PROTOCOLS.items():
        for check in CHECKS:
            name = f"redis-py, {protocol}: {check.__name__.replace('_', ' ')}"
            client = redis.Redis(HOST, PORT, **settings)
            try:
                check(client)
            except Exception:
                failed += 1
                print(f"not ok - {name}")
                print("".join("# " + line + "\n" for line in traceback.format_exc().splitlines()), end="")
            else:
                passed += 1
                print(f"ok - {name}")
            finally:
                client.close()
    print(f"# redis-py {redis.__version__}: {passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

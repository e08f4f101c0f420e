#!/usr/bin/env python3
"""differential.py BINARY [--requests N] [--seed N]: the same requests to Valiant and to redis-server.

Generates valid, borderline and wrong requests from the grammar below, sends each to both servers, in RESP2 and in
RESP3, and compares the replies byte for byte; now and then it compares everything that the servers hold. A difference
is printed with the requests that led to it, and ends the run. Exit status 1 then; 0 when there was none, or when there
is no redis-server 7.0 to compare with, which it says.

Both servers listen on sockets in a temporary directory and end with this program.
"""

import argparse
import contextlib
import hashlib
import random
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

START_SECONDS = 10
REPLY_SECONDS = 30
END = b"the end of the answers"
SHOWN = 25  # requests before a difference
CHECK_EVERY = 100  # requests between two comparisons of everything, behind which all is removed
LONGEST_SHOWN = 60  # bytes of a request or reply

KEYS = [b"a", b"b", b"key:3", b"\x00\xff\r\n", b"", b"k" * 300]
INTEGERS = [b"0", b"1", b"-1", b"5", b"10", b"100", b"255", b"-300", b"70000", b"-5000000000"]
INTEGERS += [b"9223372036854775807", b"-9223372036854775808", b"9223372036854775806"]
NOT_INTEGERS = [b"", b" 1", b"1 ", b"+1", b"01", b"-0", b"1.0", b"1e3", b"abc", b"0x10", b"--1", b"-"]
NOT_INTEGERS += [b"9223372036854775808", b"-9223372036854775809", b"18446744073709551616", b"1\x00"]
FLOATS = [b"0.1", b"0.2", b"-1.5", b"3.0e3", b"1e17", b"1e-5", b"0x1p3", b"inf", b"-inf", b"nan", b"1e4000", b"5.0", b"-0"]
FLOATS += [b"1e5000", b"1e-5000", b".5", b"5.", b"1.", b"infinity", b"123456789.123456789", b"1e400", b"-1e-7"]
TEXTS = [b"", b"hello", b"foobar", b"x" * 44, b"y" * 45, b"\x00\x01\xfe\xff", b"with blanks", b"z" * 300]
TEXTS += [b"abcdefgh" * 2100, b"0123456789" * 2000]  # one just above 16 KiB

chance = random.Random()


def one_of(*choices: bytes) -> Callable[[], bytes]:
    return lambda: chance.choice(choices)


def key() -> bytes:
    return chance.choice(KEYS)


def integer() -> bytes:
    return chance.choice(NOT_INTEGERS) if chance.random() < 0.15 else chance.choice(INTEGERS)


def index() -> bytes:
    return integer() if chance.random() < 0.3 else b"%d" % chance.randint(-12, 12)


def channel() -> bytes:
    return chance.choice([b"a", b"b", b"key:3", b"", b"\x00\xff\r\n"])


def channels() -> bytes:
    """A pattern that fits none of the channels on which a server tells of keys."""
    return chance.choice([b"?", b"key:*", b"[a-b]", b"k*3", b"\\a", b"", b"key:[3", b"\x00*"])


def offset() -> bytes:
    """A place in a string, hardly ever far behind its end."""
    if chance.random() < 0.05:
        return chance.choice([*NOT_INTEGERS, b"-1", b"536870912", b"9223372036854775807", b"40000"])
    return b"%d" % chance.randint(0, 40)


def bit_offset() -> bytes:
    return chance.choice([*NOT_INTEGERS, b"4294967296", b"-1"]) if chance.random() < 0.05 else b"%d" % chance.randint(0, 400)


def bit() -> bytes:
    return integer() if chance.random() < 0.1 else chance.choice([b"0", b"1"])


def unit() -> list[bytes]:
    return chance.choice([[], [], [b"BYTE"], [b"bit"], [b"BIT"], [b"BITS"]])


def encoding() -> bytes:
    if chance.random() < 0.05:
        return chance.choice([b"u64", b"i65", b"u0", b"i", b"x8", b"u-1", b"", b"u01", b"i9999999999999999999"])
    return b"%b%d" % (chance.choice([b"i", b"u"]), chance.choice([1, 2, 5, 8, 13, 16, 31, 32, 33, 62, 63]))


def field_offset() -> bytes:
    return b"#%b" % offset() if chance.random() < 0.3 else bit_offset()


def field_step() -> list:
    kind = chance.choice(["GET", "SET", "INCRBY", "INCRBY", "OVERFLOW", "BOGUS"])
    if kind == "OVERFLOW":
        return [kind, one_of(b"WRAP", b"sat", b"FAIL", b"FAIL", b"NONE")]
    # Of a number so small Redis believes that it is too large for the field.
    number = integer().replace(b"-9223372036854775808", b"-4611686018427387904")
    return [kind, encoding, field_offset] if kind == "GET" else [kind, encoding, field_offset, number]


def number() -> bytes:
    return chance.choice(FLOATS + INTEGERS + NOT_INTEGERS)


def value() -> bytes:
    kind = chance.random()
    if kind < 0.3:
        return integer()
    return chance.choice(FLOATS) if kind < 0.45 else chance.choice(TEXTS)


# Times are either over, or so far away that none ends within a run. Hardly ever are two the same: which one is later
# would depend on the moment at which a server is asked.
def seconds() -> bytes:
    return integer_or(b"%d" % chance.randint(100, 1_000_000))


def milliseconds() -> bytes:
    return integer_or(b"%d" % chance.randint(100_000, 1_000_000_000))


def unix_seconds() -> bytes:
    return integer_or(b"%d" % (int(time.time()) // 1000 * 1000 + chance.choice([-1, 1]) * chance.randint(5_000, 1_000_000)))


def unix_milliseconds() -> bytes:
    return integer_or(unix_seconds() + b"000")


def integer_or(usual: bytes) -> bytes:
    """Usually `usual`, else a time that is over, wrong, or much too late."""
    if chance.random() < 0.8:
        return usual
    far = [b"0", b"-1", b"9223372036854775807", b"-9223372036854775808", b"9223372036854775", b"-9223372036854776"]
    return chance.choice(far + NOT_INTEGERS)


def expiry(*more: list) -> Callable[[], list[bytes]]:
    """Options of SET and GETEX, mostly one."""
    options = [["EX", seconds], ["PX", milliseconds], ["EXAT", unix_seconds], ["PXAT", unix_milliseconds], *more]
    return lambda: [part for _ in range(chance.choice([0, 1, 1, 1, 2, 3])) for part in chance.choice(options)]


def some(*parts, least: int = 1, most: int = 4) -> Callable[[], list]:
    return lambda: [part for _ in range(chance.randint(least, most)) for part in parts]


CONDITIONS = one_of(b"NX", b"XX", b"GT", b"LT", b"nx", b"BOGUS")
conditions = some(CONDITIONS, least=0, most=2)

def elements() -> list[bytes]:
    """Elements of a HyperLogLog: a few, or so many that its form changes."""
    return [b"%d" % chance.randint(0, 100_000) for _ in range(chance.choice([0, 1, 1, 3, 20, 700]))]


def log() -> bytes:
    """A HyperLogLog that is whole or not."""
    # So long that its encoding does not depend on whether somebody has counted.
    start = chance.choice([b"HYLL\x01", b"HYLL\x01", b"HYLL\x01", b"HYLL\x02", b"HYLL\x00", b"hyll\x01"]) + bytes(11 + 40)
    return start + chance.choice([b"\x7f\xd7", b"\x7f\xd6\x80", b"\x7f\xd6", b"", b"\x7f\xd7\x00", b"\x8b\x8b\x7f\xcf"])


def lcs_option() -> list:
    return chance.choice([["LEN"], ["idx"], ["WITHMATCHLEN"], ["MINMATCHLEN", integer], ["MINMATCHLEN", b"2"], ["bogus"]])


def tracking_option() -> list:
    options = [["BCAST"], ["PREFIX", key], ["OPTIN"], ["optout"], ["NOLOOP"], ["REDIRECT", b"0"], ["PREFIX"], ["bogus"]]
    return chance.choice(options)


def database() -> bytes:
    return integer() if chance.random() < 0.1 else chance.choice([b"0", b"1", b"15", b"16"])


def copy_option() -> list:
    return chance.choice([["DB", database], ["REPLACE"], ["replace"], ["bogus"], ["DB"]])


def pattern() -> bytes:
    return chance.choice([b"*", b"?", b"key:*", b"[a-b]", b"[^a]*", b"k*k", b"\\a", b"", b"*[", b"key:[3", b"a*b*", b"\x00*"])


def payload() -> bytes:
    """What DUMP answers, mostly: a number, plain and compressed text, and what is none of them."""
    good = [b"\xc0{", b"\xc19\x30", b"\xc2\xff\xff\xff\x7f", b"\x03abc", b"\x40\x2c" + b"v" * 44]
    good += [b"\xc3\x0b\x40\x28\x01aa\xe0\x1b\x00\x01aa", b"\x80\x00\x00\x00\x02xy", b"\x81" + bytes(7) + b"\x01z"]
    bad = [b"\x40\xffabc", b"\xc4abc", b"\xc3\x02\x10ab", b"\xff"]
    content = b"\x00" + chance.choice(good if chance.random() < 0.7 else bad) + chance.choice([b"\x0a", b"\x09", b"\x06"]) + b"\x00"
    if chance.random() < 0.1:
        return chance.choice([content, b"", b"x" * 12, content + bytes(8)])
    return content + struct.pack("<Q", crc64(content))


def crc64(data: bytes) -> int:
    remainder = 0
    for byte in data:
        remainder ^= byte
        for _ in range(8):
            remainder = remainder >> 1 ^ (0x95AC9329AC4BC9B5 if remainder & 1 else 0)
    return remainder


def restore_time() -> bytes:
    """Not so late that Redis's sum would overflow."""
    text = milliseconds()
    return b"0" if len(text) > 15 and text.isdigit() else text


def restore_option() -> list:
    options = [["REPLACE"], ["replace"], ["REPLACE"], ["ABSTTL"], ["IDLETIME", integer], ["FREQ", integer], ["bogus"]]
    return chance.choice(options)


def scan_option() -> list:
    return chance.choice([["MATCH", pattern], ["COUNT", b"1000"], ["COUNT", one_of(b"999", b"0", b"-1", b"1e3")]])


SCRIPTS = rb"""
return redis.call('GET', KEYS[1])
return redis.call('SET', KEYS[1], ARGV[1])
return redis.call('MSET', KEYS[1], ARGV[1], KEYS[2], ARGV[2])
return redis.call('INCR', KEYS[1])
return redis.pcall('INCR', KEYS[1])
return {redis.pcall('INCR', KEYS[1]), redis.pcall('GET', KEYS[2])}
for i = 1, 10 do redis.call('APPEND', KEYS[1], i) end return redis.call('STRLEN', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1]) error('behind a change')
redis.call('SELECT', 1) return redis.call('SET', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], 100000) return redis.call('PERSIST', KEYS[1])
redis.call('RENAME', KEYS[1], KEYS[2]) return redis.call('EXISTS', KEYS[1], KEYS[2])
return redis.call('MGET', KEYS[1], KEYS[2])
return redis.call('DBSIZE')
redis.setresp(3) return redis.call('GET', KEYS[1])
redis.setresp(3) return redis.call('MGET', KEYS[1], KEYS[2])
redis.setresp(3) return true
redis.setresp(3) return {double=3.25}
redis.setresp(4)
return redis.setresp()
return {1, 'two', false, {3.7, true}, {}, 4, nil, 5}
return {map={a=1}}
return {set={x=true}}
return {double=-0.1}
return {big_number='123'}
return {verbatim_string={format='txt', string='some'}}
return {ok='fine'}
return {err='BAD thing'}
return {err='-BAD thing'}
return redis.error_reply('My error')
return redis.error_reply('Wordless')
return redis.error_reply('-CODE and text')
return redis.error_reply(1)
return redis.status_reply('STATUS')
return redis.status_reply()
return redis.sha1hex(ARGV[1])
return redis.sha1hex(5)
return redis.sha1hex()
return redis.call()
return redis.call({})
return redis.call('NOSUCH')
return redis.call('GET')
return redis.call('get', KEYS[1], 'more')
return redis.pcall('SUBSCRIBE', 'a')
return redis.call('MULTI')
return redis.call('OBJECT', 'ENCODING', KEYS[1])
return redis.call('OBJECT', 'NOSUCH', KEYS[1])
return redis.call('ECHO', 1/3)
return redis.call('ECHO', 1e20)
return redis.call('ECHO', 12)
return tostring(1/3)
return 1/3
return 2^53
return -1.9
return 1/0
return tostring(0/0)
return math.random(1000)
math.randomseed(7) return tostring(math.random())
return math.random(2, 1)
return bit.band(7, 13)
return bit.tohex(ARGV[1] and 255)
return cjson.encode({1, 2, {a='x'}})
return cjson.decode('[1, 2, {"a": [3, null]}]')[3].a
return cjson.decode('[1,')
x = 1
return x
return KEYS
return ARGV
return #ARGV[1]
return KEYS[9]
return (
return string.format('%s %5.1f', 'text', 3.14)
return ('x'):rep(5)
return print('x')
return dofile('x')
return require('x')
return loadstring('return 5')()
return loadstring('return (')
return load(function() return nil end)
return pcall(function() return redis.call('INCR', KEYS[1]) end)
return select(2, pcall(redis.call, 'INCR', KEYS[1]))
local ok, problem = pcall(redis.call, 'INCR', KEYS[1]) return type(problem) == 'table' and problem.err or 'none'
error('wrong')
error('wrong', 0)
error({err='MINE own'})
error()
redis.nosuch()
local t = nil return t.x
return redis.log(redis.LOG_DEBUG, 'x')
redis.log('x')
redis.log(17, 'x')
return redis.replicate_commands()
return redis.set_repl(redis.REPL_ALL)
redis.call = nil
string.format = nil
_G.x = 1
return _G.KEYS == KEYS
return {coroutine.wrap(function() coroutine.yield(redis.call('PING')) end)()}
""".strip().split(b"\n")
SCRIPTS += [b"#!lua\nreturn 1", b"#!lua flags=no-writes\nreturn redis.call('SET', KEYS[1], ARGV[1])"]
SCRIPTS += [b"#!lua flags=no-writes,allow-oom\nreturn redis.call('GET', KEYS[1])", b"#!lua flags=bogus\nreturn 1"]
SCRIPTS += [b"#!python\nreturn 1", b"#!lua name=x\nreturn 1", b"#!lua", b"\n\nreturn x", b"", b"-- nothing"]


def script() -> bytes:
    return chance.choice(SCRIPTS)


def digest() -> bytes:
    digest = hashlib.sha1(script()).hexdigest().encode()
    return chance.choice([digest, digest, digest, digest.upper(), digest[1:], b"x" * 40, b""])


# A request is a list of words, of functions that make one, and of functions that make several.
GRAMMAR = [
    ["GET", key],
    ["SET", key, value],
    ["SET", key, value, expiry(["NX"], ["XX"], ["GET"], ["KEEPTTL"], ["bogus"])],
    ["SETNX", key, value],
    ["SETEX", key, seconds, value],
    ["PSETEX", key, milliseconds, value],
    ["GETSET", key, value],
    ["GETDEL", key],
    ["GETEX", key, expiry(["PERSIST"], ["KEEPTTL"])],
    ["STRLEN", key],
    ["APPEND", key, value],
    ["SETRANGE", key, offset, value],
    ["SETBIT", key, bit_offset, bit],
    ["GETBIT", key, bit_offset],
    ["BITCOUNT", key],
    ["BITCOUNT", key, index, index, unit],
    ["BITPOS", key, bit],
    ["BITPOS", key, bit, index],
    ["BITPOS", key, bit, index, index, unit],
    ["BITOP", one_of(b"AND", b"or", b"XOR", b"NOT", b"NOT", b"BOGUS"), key, some(key)],
    ["BITFIELD", key, some(field_step)],
    ["BITFIELD_RO", key, some(["GET", encoding, field_offset])],
    ["BITFIELD_RO", key, field_step],
    ["OBJECT", "ENCODING", key],
    ["PFADD", key, elements],
    ["PFADD", key, elements],
    ["PFCOUNT", some(key, most=2)],
    ["PFMERGE", key, some(key, least=0)],
    ["SET", key, log],
    ["LCS", key, key],
    ["LCS", key, key, lcs_option],
    ["LCS", key, key, "IDX", some(lcs_option, least=0, most=2)],
    ["RENAME", key, key],
    ["RENAMENX", key, key],
    ["COPY", key, key],
    ["COPY", key, key, some(copy_option)],
    ["MOVE", key, database],
    ["SELECT", database],
    ["SELECT", "0"],
    ["SWAPDB", database, database],
    ["KEYS", pattern],
    ["RESTORE", key, restore_time, payload, some(restore_option, least=0, most=3)],
    ["SCAN", "0", some(scan_option, least=0, most=2)],
    ["PUBSUB", "NUMSUB", some(channel, least=0)],
    ["PUBSUB", "NUMPAT"],
    ["PUBSUB", "SHARDNUMSUB", some(channel, least=0)],
    ["PUBSUB", "CHANNELS", some(pattern, least=0, most=1)],
    ["PUBSUB", "SHARDCHANNELS", some(pattern, least=0, most=1)],
    ["PUBSUB", "BOGUS"],
    ["PING", some(value, least=0, most=1)],
    ["WAIT", "0", integer],
    ["CLIENT", "UNBLOCK", integer, some(one_of(b"ERROR", b"timeout", b"x"), least=0, most=1)],
    ["CLIENT", "GETREDIR"],
    ["CLIENT", "PAUSE", one_of(b"0", b"-1", b"x", b"1.0"), some(one_of(b"WRITE", b"all", b"x"), least=0, most=2)],
    ["CLIENT", "UNPAUSE"],
    ["CLIENT", "TRACKING", one_of(b"ON", b"on", b"OFF", b"x"), some(tracking_option, least=0, most=3)],
    ["CLIENT", "TRACKINGINFO"],
    ["CLIENT", "CACHING", one_of(b"YES", b"no", b"x")],
    ["COMMAND", "GETKEYS", "BITOP", "AND", some(key, least=2)],
    ["COMMAND", "GETKEYSANDFLAGS", one_of(b"RENAME", b"COPY", b"LCS"), key, key],
    ["COMMAND", "GETKEYSANDFLAGS", "MSET", some(key, value)],
    ["EVAL", script, "2", key, key, value, value],
    ["EVAL", script, "2", key, key, value, value],
    ["EVAL", script, integer, key, key, value, value],
    ["EVAL", script, one_of(b"0", b"1"), key, key, value],
    ["EVAL_RO", script, "2", key, key, value, value],
    ["EVALSHA", digest, "2", key, key, value, value],
    ["EVALSHA_RO", digest, "2", key, key, value, value],
    ["SCRIPT", "LOAD", script],
    ["SCRIPT", "EXISTS", some(digest)],
    ["SCRIPT", "FLUSH", some(one_of(b"ASYNC", b"sync", b"x"), least=0, most=2)],
    ["SCRIPT", "KILL"],
    ["COMMAND", "GETKEYS", one_of(b"EVAL", b"EVALSHA_RO"), "x", one_of(b"0", b"1", b"2", b"3", b"x", b"-1"), key, key],
    ["WATCH", some(key)],
    ["UNWATCH"],
    ["DISCARD"],
    ["EXEC"],
    ["GETRANGE", key, index, index],
    ["SUBSTR", key, index, index],
    ["MGET", some(key)],
    ["MSET", some(key, value)],
    ["MSETNX", some(key, value, most=2)],
    ["INCR", key],
    ["DECR", key],
    ["INCRBY", key, integer],
    ["DECRBY", key, integer],
    ["INCRBYFLOAT", key, number],
    ["DEL", some(key)],
    ["UNLINK", some(key)],
    ["EXISTS", some(key)],
    ["TOUCH", some(key)],
    ["TYPE", key],
    ["TTL", key],
    ["EXPIRETIME", key],
    ["PERSIST", key],
    ["EXPIRE", key, seconds, conditions],
    ["PEXPIRE", key, milliseconds, conditions],
    ["EXPIREAT", key, unix_seconds, conditions],
    ["PEXPIREAT", key, unix_milliseconds, conditions],
]


def requests() -> list[list[bytes]]:
    """One request, or now and then a transaction."""
    if chance.random() > 0.03:
        return [generate()]
    inner = [generate() for _ in range(chance.randint(0, 5))]
    # Their replies could not be compared within another one.
    inner = [request for request in inner if request[0].upper() not in TIMES | SETS]
    return [[b"MULTI"], *inner, [chance.choice([b"EXEC", b"EXEC", b"exec", b"DISCARD"])]]


def generate() -> list[bytes]:
    return spoiled(expand(chance.choice(GRAMMAR)))


def spoiled(request: list[bytes]) -> list[bytes]:
    """The request, or one that is wrong now and then."""
    if chance.random() < 0.05:  # the wrong number of arguments
        if chance.random() < 0.5 and len(request) > 1:
            # A key stays: what is behind it must not become one, which nobody would look at.
            del request[chance.randrange(min(2, len(request) - 1), len(request))]
        else:
            request.append(value())
    if chance.random() < 0.1:
        request[0] = request[0].lower()
    return request


# These have as many answers as there are channels, and messages in front of them.
MESSAGES = [
    ["SUBSCRIBE", some(channel)],
    ["PSUBSCRIBE", some(channels)],
    ["SSUBSCRIBE", some(channel)],
    ["UNSUBSCRIBE", some(channel, least=0)],
    ["PUNSUBSCRIBE", some(channels, least=0)],
    ["SUNSUBSCRIBE", some(channel, least=0)],
    ["PUBLISH", channel, value],
    ["SPUBLISH", channel, value],
]


def expand(part) -> list[bytes]:
    if isinstance(part, str):
        return [part.encode()]
    if isinstance(part, bytes):
        return [part]
    if callable(part):
        return expand(part())
    return [word for inner in part for word in expand(inner)]


def encode(request: list[bytes]) -> bytes:
    return b"*%d\r\n" % len(request) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in request)


class Server:
    """A server of its own, and one connection to it."""

    def __init__(self, name: str, command: list[str], path: Path):
        self.name = name
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.settimeout(REPLY_SECONDS)
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                self.connection.connect(str(path))
                break
            except OSError:
                if time.monotonic() > end or self.process.poll() is not None:
                    self.stop()
                    raise SystemExit(f"{name} does not start: {' '.join(command)}") from None
                time.sleep(0.02)
        self.input = self.connection.makefile("rb")

    def stop(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.wait(START_SECONDS)

    def ask(self, request: list[bytes]) -> bytes:
        self.connection.sendall(encode(request))
        return self.reply()

    def ask_all(self, request: list[bytes]) -> list[bytes]:
        """All that comes before the answer to a PING behind the request."""
        self.connection.sendall(encode(request) + encode([b"PING", END]))
        replies = []
        while not replies or END not in replies[-1]:
            replies.append(self.reply())
        return replies[:-1]

    def listen(self, path: Path, events: bytes) -> None:
        """Has the server tell what happens to keys."""
        self.ask([b"CONFIG", b"SET", b"notify-keyspace-events", events])
        # A subscriber may ask for a value of many megabytes.
        self.ask([b"CONFIG", b"SET", b"client-output-buffer-limit", b"pubsub 0 0 0"])
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.settimeout(REPLY_SECONDS)
        self.listener.connect(str(path))
        self.heard = self.listener.makefile("rb")
        for request in ([b"HELLO", b"3"], [b"PSUBSCRIBE", b"__key*__:*"], [b"CLIENT", b"TRACKING", b"ON", b"BCAST"]):
            self.listener.sendall(encode(request))
            self.reply(self.heard)

    def events(self) -> tuple[list[bytes], set[bytes]]:
        """What has happened to keys since this was last asked, and of which a copy would be invalid now."""
        self.listener.sendall(encode([b"PING", END]))
        events = []
        invalid: set[bytes] = set()
        while not events or END not in events[-1]:
            events.append(self.reply(self.heard, invalid))
        return events[:-1], invalid

    def reply(self, stream=None, invalid: set[bytes] | None = None) -> bytes:
        """One reply as it came; copies that have become invalid are no reply."""
        stream = stream or self.input
        line = stream.readline()
        if not line.endswith(b"\r\n"):
            raise EOFError(f"{self.name} has closed the connection")
        if line == b">2\r\n":
            self.reply(stream)
            keys = sorted_elements(self.reply(stream))
            if invalid is not None:
                # Valiant says of SWAPDB, too, that any key may be another one.
                invalid.update(key for key in keys if key != b"_" and not re.fullmatch(rb"\*\d+", key))
            return self.reply(stream, invalid)
        kind, rest = line[:1], line[1:-2]
        if kind in b"$=" and rest != b"-1":
            return line + stream.read(int(rest) + 2)
        if kind in b"*~>" and rest != b"-1":
            return line + b"".join(self.reply(stream) for _ in range(int(rest)))
        if kind == b"%":
            return line + b"".join(self.reply(stream) for _ in range(2 * int(rest)))
        return line


# The servers are asked one after the other: a second may end in between.
TIMES = {b"TTL", b"EXPIRETIME"}


EXPIRING = {b"SET", b"SETEX", b"PSETEX", b"GETEX", b"RESTORE", b"EXPIRE", b"PEXPIRE", b"EXPIREAT", b"PEXPIREAT", b"EXEC"}
EXPIRING |= {b"EVAL", b"EVALSHA"}


# Both know the same elements, in an order of their own.
SETS = {b"KEYS", b"SCAN", b"PUBSUB"}


def sorted_elements(reply: bytes) -> list[bytes]:
    """The bulk strings of a reply, whatever arrays they are in; an error is one, too."""
    elements = []
    while reply:
        line, reply = reply.split(b"\r\n", 1)
        if line[:1] == b"$" and line != b"$-1":
            count = int(line[1:])
            line, reply = reply[:count], reply[count + 2 :]
        elements.append(line)
    return sorted(elements)


def are_close(first: bytes, second: bytes) -> bool:
    numbers = [int(reply[1:]) if reply[:1] == b":" else -1 for reply in (first, second)]
    return min(numbers) >= 0 and abs(numbers[0] - numbers[1]) <= 1


class Comparison:
    def __init__(self, servers: list[Server], seed: int):
        self.servers = servers
        self.seed = seed
        self.history: deque = deque(maxlen=SHOWN)
        self.compared = 0
        # Keys that may have been set with a time that had passed.
        self.over: set[bytes] = set()

    def ask(self, *words: bytes) -> None:
        """Sends a request to both servers.

        Raises SystemExit when the replies differ.
        """
        request = list(words)
        replies = [server.ask(request) for server in self.servers]
        self.history.append(request)
        self.compared += 1
        name = request[0].upper()
        (events, ours), (others, theirs) = [server.events() for server in self.servers]
        # Redis keeps a key that was over from the beginning until it comes across it.
        if events != others or ours - theirs or theirs - ours - self.over:
            self.differ(*(b"events: %b, invalid: %b" % (b"".join(all), b" ".join(sorted(keys)))
                          for all, keys in ((events, ours), (others, theirs))))
        if name in EXPIRING:
            self.over |= ours
            # Redis comes across them now, and not while it overwrites one.
            for key in sorted(ours):
                self.ask(b"EXISTS", key)
        if replies[0] == replies[1] or (name in TIMES and are_close(*replies)):
            # Redis has changed a damaged HyperLogLog up to the damage, Valiant not at all.
            if b"-INVALIDOBJ" in replies[0]:
                self.remove_all()
            return
        if name in SETS and sorted_elements(replies[0]) == sorted_elements(replies[1]):
            return
        self.differ(*replies)

    def ask_all(self, *words: bytes) -> None:
        """The same for what may have several answers."""
        request = list(words)
        replies = [server.ask_all(request) for server in self.servers]
        self.history.append(request)
        self.compared += len(replies[0])
        # Which of its subscriptions a client loses first, and by which it gets a message first, is for the server to say.
        if len(words) == 1 or words[0].upper() == b"PUBLISH":
            replies = [sorted_elements(b"".join(all)) for all in replies]
        if replies[0] != replies[1]:
            self.differ(*(b" ".join(all) for all in replies))

    def everything(self) -> None:
        """Compares what the servers hold, and removes it; then how often they have found a key."""
        for command in (b"UNSUBSCRIBE", b"PUNSUBSCRIBE", b"SUNSUBSCRIBE"):
            self.ask_all(command)
        for database in (b"15", b"1", b"0"):
            self.ask(b"SELECT", database)
            for name in KEYS:
                for command in (b"GET", b"EXPIRETIME"):
                    self.ask(command, name)
                self.exchange(name)
            # Now that somebody has asked for each, neither server counts one that has expired.
            self.ask(b"DBSIZE")
            for kind in (b"string", b"STRING", b"list"):
                self.ask(b"SCAN", b"0", b"COUNT", b"1000", b"TYPE", kind)
        self.remove_all()
        counts = [re.findall(rb"keyspace_(?:hits|misses):\d+", server.ask([b"INFO", b"stats"])) for server in self.servers]
        if counts[0] != counts[1]:
            self.differ(*(b" ".join(count) for count in counts))

    def remove_all(self) -> None:
        self.ask(b"FLUSHALL")
        self.over.clear()

    def exchange(self, name: bytes) -> None:
        """Gives each server what the other one has dumped of a key."""
        dumps = [server.ask([b"DUMP", name]).split(b"\r\n", 1)[1][:-2] for server in self.servers]
        if not all(dumps):
            if any(dumps):
                self.differ(*dumps)
            return
        for server, dump in zip(self.servers, reversed(dumps)):
            answer = server.ask([b"RESTORE", b"exchanged", b"0", dump, b"REPLACE"])
            if answer != b"+OK\r\n":
                self.differ(answer, b"dumped by the other server: " + dump)
        self.ask(b"GET", b"exchanged")
        self.ask(b"DEL", b"exchanged")

    def differ(self, *answers: bytes) -> None:
        print(f"\nnot ok - a difference (--seed {self.seed}); the last requests:")
        for earlier in self.history:
            print("   ", *(shown(word) for word in earlier))
        for server, answer in zip(self.servers, answers):
            print(f"  {server.name:13}", shown(answer))
        raise SystemExit(1)


def shown(data: bytes) -> str:
    text = repr(data)[1:]
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}… ({len(data)} bytes)"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary")
    parser.add_argument("--requests", type=int, default=20_000, help="for each protocol (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    options = parser.parse_args()
    reference = shutil.which("redis-server")
    version = subprocess.run([reference, "--version"], capture_output=True, text=True).stdout if reference else ""
    if not re.search(r"v=7\.0\.", version):
        print("skipped - there is no redis-server 7.0 to compare with")
        return 0
    chance.seed(options.seed)
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        servers = []
        for name, binary, more in (("valiant", options.binary, ["--threads", "1", "--save", ""]), ("redis-server", reference, ["--save", ""])):
            path = Path(directory) / f"{name}.socket"
            command = [binary, "--port", "0", "--unixsocket", str(path), *more]
            servers.append(Server(name, command, path))
            stack.callback(servers[-1].stop)
            # When a key is seen to be over is for the server to say.
            servers[-1].listen(path, b"KEg$mn")
        comparison = Comparison(servers, options.seed)
        for protocol in (2, 3):
            for server in servers:
                server.ask([b"HELLO", b"%d" % protocol])
            for count in range(1, options.requests + 1):
                if chance.random() < 0.05:
                    comparison.ask_all(*spoiled(expand(chance.choice(MESSAGES))))
                    continue
                for request in requests():
                    comparison.ask(*request)
                if count % CHECK_EVERY == 0:
                    comparison.everything()
            print(f"ok - RESP{protocol}: {comparison.compared:,} replies are the same (seed {options.seed})", flush=True)
            comparison.compared = 0
    return 0


if __name__ == "__main__":
    sys.exit(main())

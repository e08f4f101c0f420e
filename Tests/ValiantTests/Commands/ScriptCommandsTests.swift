import Foundation
import Testing

@testable import Valiant

@Suite("Scripts") struct ScriptCommandsTests {
  let server = TestServer()

  private func eval(_ script: String, _ arguments: [String] = ["0"]) -> String {
    server.send(["EVAL", script] + arguments)
  }

  @Test("values become replies, and replies values") func conversions() {
    #expect(
      eval("return {1, 2.9, 'text', true, {KEYS[1], ARGV[2]}}", ["1", "k", "x", "y"])
        == "*5\r\n:1\r\n:2\r\n$4\r\ntext\r\n:1\r\n*2\r\n$1\r\nk\r\n$1\r\ny\r\n")
    #expect(eval("return false") == "$-1\r\n" && eval("return nil") == "$-1\r\n")
    #expect(eval("return {}") == "*0\r\n")
    #expect(eval("return redis.call('SET', 'a', 5)") == "+OK\r\n")
    #expect(eval("return redis.call('INCR', 'a') + 1") == ":7\r\n")
    #expect(eval("return redis.call('GET', 'none')") == "$-1\r\n")
    #expect(eval("return type(redis.call('MGET', 'a', 'none')[2])") == "$7\r\nboolean\r\n")
    _ = server.send("HELLO 3")
    #expect(eval("return nil") == "_\r\n")
    #expect(eval("redis.setresp(3) return true") == "#t\r\n")
    #expect(eval("redis.setresp(3) return redis.call('GET', 'none') == nil") == "#t\r\n")
    #expect(eval("return {map={a=1}}") == "%1\r\n$1\r\na\r\n:1\r\n")
    #expect(eval("return {set={x=true}}") == "~1\r\n$1\r\nx\r\n")
    #expect(eval("return {double=2.5}") == ",2.5\r\n")
  }

  @Test("an error says where it was, and what was changed before stays") func errors() {
    let digest = SHA1.digest
    let script = "\nredis.call('SET', KEYS[1], 'x')\nredis.call('INCR', KEYS[1])"
    #expect(
      eval(script, ["1", "k"])
        == "-ERR value is not an integer or out of range script: "
        + Array(script.utf8).withBytes { digest($0) } + ", on @user_script:3.\r\n")
    #expect(server.send("GET k") == "$1\r\nx\r\n")
    #expect(
      eval("return redis.pcall('INCR', 'k')")
        == "-ERR value is not an integer or out of range\r\n")
    #expect(eval("return nosuch").contains("nonexistent global variable 'nosuch'"))
    #expect(eval("nosuch = 1").contains("Attempt to modify a readonly table"))
    #expect(eval("return (").hasPrefix("-ERR Error compiling script (new function): "))
    #expect(eval("return redis.call('MULTI')").contains("not allowed from script"))
    #expect(eval("return redis.call('NOSUCH')").contains("Unknown Redis command"))
    #expect(server.send("INFO errorstats").isEmpty == false)
  }

  @Test("a script is called by its digest until it is forgotten") func digests() {
    let digest = server.send(["SCRIPT", "LOAD", "return ARGV[1]"]).split(separator: "\r\n")[1]
    #expect(digest == "098e0f0d1448c0a81dafe820f66d460eb09263da")
    #expect(server.send("EVALSHA \(digest) 0 x") == "$1\r\nx\r\n")
    #expect(server.send("EVALSHA \(digest.uppercased()) 0 x") == "$1\r\nx\r\n")
    #expect(server.send("SCRIPT EXISTS \(digest) \(digest.dropLast())") == "*2\r\n:1\r\n:0\r\n")
    #expect(server.send("INFO memory").contains("number_of_cached_scripts:1\r\n"))
    #expect(server.send("SCRIPT FLUSH") == "+OK\r\n")
    #expect(server.send("EVALSHA \(digest) 0 x").hasPrefix("-NOSCRIPT "))
    #expect(server.send("INFO memory").contains("number_of_cached_scripts:0\r\n"))
    #expect(eval("return ARGV[1]", ["0", "y"]) == "$1\r\ny\r\n")
    #expect(server.send("EVALSHA \(digest) 0 z") == "$1\r\nz\r\n")
  }

  @Test(
    "what runs for too long is ended, if it has changed nothing",
    arguments: [
      "while true do end", "while true do pcall(function() while true do end end) end",
      "local function f() return f() end return f()", "while true do redis.call('GET', 'x') end",
      "coroutine.wrap(function() while true do end end)()",
      "xpcall(function() while true do end end, function() while true do end end)",
      "local function g(d) if d == 0 then for i = 1, 90000 do end else for i = 1, 9000 do "
        + "coroutine.wrap(g)(d - 1) end end end g(2)",
    ])
  func endless(script: String) {
    _ = server.send("CONFIG SET lua-time-limit 30")
    server.turn(3)
    #expect(eval(script).contains("Script ended: "))
    #expect(eval("return 1") == ":1\r\n")
    // What has changed something gets ten times as long.
    let loop = "redis.call('SET', 'a', 1) local start = os.clock() while os.clock() < start "
    #expect(eval(loop + "+ 0.06 do end return 1") == ":1\r\n")
    #expect(eval(loop + "+ 60 do end return 1").contains("ten times lua-time-limit"))
  }

  @Test("memory without end is refused, and the server lives", .timeLimit(.minutes(5)))
  func memory() {
    for script in [
      "local t = {} while true do t[#t + 1] = ('x'):rep(1e6) .. #t end",
      "return ('x'):rep(1e10)", "local s = 'x' while true do s = s .. s end",
    ] {
      let reply = eval(script)
      #expect(reply.contains("not enough memory") || reply.contains("Script ended"), "\(reply)")
      #expect(eval("return \(script.utf8.count)") == ":\(script.utf8.count)\r\n")
    }
  }

  @Test("no script changes what others see") func separation() {
    for attempt in [
      "redis.call = nil", "string.format = nil", "rawset(redis, 'call', 1)", "_G.x = 1",
      "rawset(_G, 'x', 1)", "setmetatable(_G, nil)", "getmetatable('').__index = nil",
      "redis.nosuch.x = 1", "table.insert(redis, 1)", "KEYS = nil ARGV = nil",
    ] {
      _ = eval(attempt)
      #expect(
        eval("return string.format('%s', redis.call('PING').ok) .. #KEYS .. ('a'):upper()")
          == "$6\r\nPONG0A\r\n", "\(attempt)")
      #expect(eval("return x").contains("nonexistent"), "\(attempt)")
    }
    for thrown in ["_G", "redis", "string"] { _ = eval("error(\(thrown))") }
    #expect(
      eval("return tostring(redis.source) .. tostring(rawget(_G, 'line'))") == "$6\r\nnilnil\r\n")
    for hidden in ["io", "os.execute", "require", "debug", "dofile", "setfenv", "string.dump"] {
      #expect(eval("return type(\(hidden))") != "$8\r\nfunction\r\n", "\(hidden)")
    }
    #expect(eval("return (loadstring('\\27Lua'))").contains("$-1"))
    #expect(eval("\u{1b}Lua").contains("precompiled"))
    #expect(eval("SELECT", ["0"]).hasPrefix("-ERR"))
    #expect(eval("redis.call('SELECT', 3) return redis.call('SET', 'there', 1)") == "+OK\r\n")
    #expect(server.send("EXISTS there") == ":0\r\n")
    let random = "math.randomseed(5) return math.random(1000000)"
    #expect(eval(random) == eval(random))
  }

  @Test("what would be too long is refused, and what is long is not") func long() {
    _ = server.send("CONFIG SET proto-max-bulk-len 1mb")
    server.turn(3)
    #expect(eval("local t = {1} t[2] = t return t").contains("-ERR reached lua stack limit"))
    #expect(
      eval("local t = {'x'} for i = 1, 30 do t = {t, t} end return t")
        .hasPrefix("-ERR what the script returns"))
    #expect(
      eval("local t = {} for i = 1, 7900 do t[i] = i end return redis.call('MSET', unpack(t))")
        == "+OK\r\n")
    #expect(
      eval("return #('x'):rep(1000)") == ":1000\r\n"
        && eval("return (''):rep(2^31)") == "$0\r\n\r\n")
    let many = "local s = ('x'):rep(1e6) local t = {} for i = 1, 100 do t[i] = s end "
    #expect(eval(many + "return cjson.encode(t)").contains("Cannot serialise"))
    #expect(eval("return cjson.encode({a = {1, 'x'}})") == "$13\r\n{\"a\":[1,\"x\"]}\r\n")
  }

  @Test("read-only scripts and flags") func readOnly() {
    let refusal = "Write commands are not allowed from read-only scripts."
    let write = "return redis.call('SET', 'a', 1)"
    #expect(server.send(["EVAL_RO", write, "0"]).contains(refusal))
    #expect(eval("#!lua flags=no-writes\n" + write).contains(refusal))
    #expect(server.send(["EVAL_RO", "#!lua\nreturn 1", "0"]).contains("write flag"))
    #expect(server.send(["EVAL_RO", "return redis.call('GET', 'a')", "0"]) == "$-1\r\n")
    #expect(eval("#!lua flags=nosuch\nreturn 1").contains("Unexpected flag"))
    #expect(eval("#!lua\nreturn nosuch").contains("user_script:2:"))
  }

  @Test("within a transaction, with WATCH and events") func transactions() {
    _ = server.send("CONFIG SET notify-keyspace-events KEA")
    server.turn(3)
    let listener = server.connect()
    _ = listener.send("PSUBSCRIBE __keyevent@0__:*")
    _ = server.send("WATCH w")
    let other = server.connect()
    #expect(other.send(["EVAL", "return redis.call('SET', KEYS[1], 1)", "1", "w"]) == "+OK\r\n")
    _ = server.send("MULTI")
    _ = server.send("GET w")
    #expect(server.send("EXEC") == "*-1\r\n")
    #expect(listener.exchange("").contains("__keyevent@0__:set"))
    _ = server.send("MULTI")
    _ = server.send(["SET", "long", String(repeating: "v", count: 40_000)])
    _ = server.send(["EVAL", "return redis.call('STRLEN', KEYS[1])", "1", "long"])
    let copy = "return redis.call('SET', KEYS[2], redis.call('GET', KEYS[1]))"
    _ = server.send(["EVAL", copy, "2", "long", "copy"])
    _ = server.send(["SET", "behind", String(repeating: "w", count: 40_000)])
    #expect(server.send("EXEC") == "*4\r\n+OK\r\n:40000\r\n+OK\r\n+OK\r\n")
    #expect(
      server.send("STRLEN copy") == ":40000\r\n" && server.send("STRLEN behind") == ":40000\r\n")
  }

  @Test("maxmemory holds for what scripts write") func limit() {
    let limited = TestServer {
      $0.maxMemory = Settings.MemoryLimit(bytes: 4 << 20)
      $0.evictionPolicy = .none
    }
    let fill = "for i = 1, 1e6 do redis.call('SET', i, ('v'):rep(1000)) end"
    #expect(limited.send(["EVAL", fill, "0"]).hasPrefix("-OOM command not allowed"))
    #expect(limited.server.store.memory.pool.usedBytes < 5 << 20)
    #expect(limited.send(["EVAL", "return redis.call('DEL', 1)", "0"]) == ":1\r\n")
    #expect(
      limited.send([
        "EVAL", "#!lua flags=allow-oom\nreturn redis.call('SET', 'x', ('v'):rep(100000))", "0",
      ])
        == "+OK\r\n")
    #expect(limited.send(["EVAL", "#!lua\nreturn 1", "0"]).hasPrefix("-OOM allow-oom flag"))
    #expect(limited.send("SCRIPT KILL").hasPrefix("-NOTBUSY "))
    // With a policy room is made before the locks are taken, in a transaction as well.
    let cache = TestServer {
      $0.maxMemory = Settings.MemoryLimit(bytes: 32 << 20)
      $0.evictionPolicy = .allKeysLRU
    }
    let some = "for i = 1, 300 do redis.call('SET', ARGV[1] .. i, ('v'):rep(1000)) end return 1"
    var round = 0
    // A slow build is refused more often, and evicts less in a round.
    while round < 200 || cache.server.store.memory.eviction.evictedCount <= 5000, round < 5000 {
      round += 1
      if round % 2 == 0 { _ = cache.send("MULTI") }
      _ = cache.send(["EVAL", some, "0", "round \(round) "])
      // A slow build may not have room enough in time; then it is refused.
      if round % 2 == 0 {
        let reply = cache.send("EXEC")
        #expect(reply == "*1\r\n:1\r\n" || reply.contains("OOM") || reply.hasPrefix("-EXECABORT"))
      }
      #expect(cache.server.store.memory.pool.usedBytes < 35 << 20)
    }
    #expect(cache.server.store.memory.eviction.evictedCount > 5000)
    #expect(cache.send(["EVAL", fill, "0"]).hasPrefix("-OOM command not allowed"))
    #expect(cache.server.store.memory.pool.usedBytes < 35 << 20)
    #expect(cache.send(["SET", "k", "v"]) == "+OK\r\n")
  }
}

import Testing

@testable import Valiant

@Suite("Server commands") struct ServerCommandsTests {
  let server = TestServer()

  @Test("DBSIZE, FLUSHDB and FLUSHALL") func flush() {
    _ = server.send("SET a 1")
    _ = server.send("SELECT 2")
    _ = server.send("SET b 1")
    #expect(server.send("DBSIZE") == ":1\r\n")
    #expect(server.send("FLUSHDB") == "+OK\r\n")
    #expect(server.send("DBSIZE") == ":0\r\n")
    _ = server.send("SELECT 0")
    #expect(server.send("DBSIZE") == ":1\r\n")
    #expect(server.send("FLUSHALL SYNC") == "+OK\r\n")
    #expect(server.send("DBSIZE") == ":0\r\n")
    for wrong in ["FLUSHALL x", "FLUSHDB ASYNC SYNC", "FLUSHDB x"] {
      #expect(server.send(wrong) == "-ERR syntax error\r\n")
    }
    #expect(server.send("FLUSHALL async") == "+OK\r\n")
  }

  @Test("TIME gives seconds and microseconds") func time() {
    let parts = server.send("TIME").split(separator: "\r\n")
    #expect(parts.count == 5 && parts[0] == "*2")
    #expect((Int(parts[2]) ?? 0) > 1_700_000_000)
    #expect((Int(parts[4]) ?? -1) < 1_000_000)
  }

  @Test("INFO has what clients look for") func info() {
    let info = server.send("INFO")
    for field in [
      "redis_version", "redis_mode", "arch_bits", "run_id", "tcp_port", "uptime_in_seconds",
      "connected_clients", "used_memory", "maxmemory", "rdb_bgsave_in_progress",
      "aof_rewrite_in_progress", "loading", "role", "connected_slaves", "cluster_enabled",
      "total_commands_processed", "expired_keys", "keyspace_hits",
    ] {
      #expect(info.contains("\r\n\(field):"), "\(field)")
    }
    #expect(!info.contains("cmdstat_"))
    #expect(server.send("INFO foo") == "$0\r\n\r\n")
    #expect(server.send("INFO commandstats").contains("cmdstat_info:calls=2,usec="))
    #expect(server.send("INFO server clients").contains("\r\n\r\n# Clients\r\n"))
    #expect(server.send("INFO all").contains("cmdstat_info"))
    _ = server.send("HELLO 3")
    #expect(server.send("INFO server").hasPrefix("="))
  }

  @Test("INFO counts hits, misses, errors and rejected calls") func statistics() {
    _ = server.send("SET k v")
    _ = server.send("GET k")
    _ = server.send("GET none")
    _ = server.send("GET")
    _ = server.send("SET k v EX x")
    let info = server.send("INFO all")
    #expect(info.contains("keyspace_hits:1\r\n"))
    #expect(info.contains("keyspace_misses:1\r\n"))
    #expect(info.contains("total_error_replies:2\r\n"))
    #expect(info.contains("cmdstat_get:calls=2,"))
    #expect(info.contains("rejected_calls=1,failed_calls=0"))
    #expect(info.contains("rejected_calls=0,failed_calls=1"))
  }

  @Test("CONFIG RESETSTAT begins all statistics again") func resetStatistics() {
    for request in ["SET k v", "GET k", "GET none", "GET"] { _ = server.send(request) }
    server.worker.publishTraffic()
    #expect(server.send("CONFIG RESETSTAT") == "+OK\r\n")
    server.worker.publishTraffic()
    let info = server.send("INFO all")
    for field in ["keyspace_hits", "keyspace_misses", "total_error_replies", "expired_keys"] {
      #expect(info.contains("\(field):0\r\n"), "\(field)")
    }
    #expect(info.contains("total_commands_processed:1\r\n"))
    #expect(info.contains("total_net_output_bytes:5\r\n"))
    #expect(!info.contains("cmdstat_get:"))
    #expect(info.contains("cmdstat_config|resetstat:calls=1,"))
  }

  @Test("SHUTDOWN knows its options") func shutdown() {
    for wrong in ["SHUTDOWN x", "SHUTDOWN SAVE NOSAVE", "SHUTDOWN ABORT NOW"] {
      #expect(server.send(wrong) == "-ERR syntax error\r\n")
    }
    #expect(server.send("SHUTDOWN ABORT") == "-ERR No shutdown in progress.\r\n")
  }
}

@Suite("CONFIG") struct ConfigCommandsTests {
  let server = TestServer()

  @Test("GET finds by patterns") func get() {
    #expect(server.send("CONFIG GET maxclients") == "*2\r\n$10\r\nmaxclients\r\n$5\r\n10000\r\n")
    #expect(server.send("CONFIG GET nothing") == "*0\r\n")
    #expect(server.send("CONFIG GET MAXC* timeou?").hasPrefix("*4\r\n"))
    #expect(server.send("CONFIG GET *").hasPrefix("*\(Setting.all.count * 2)\r\n"))
    #expect(server.send("CONFIG GET databases").hasSuffix("$2\r\n16\r\n"))
    _ = server.send("HELLO 3")
    #expect(server.send("CONFIG GET maxclients").hasPrefix("%1\r\n"))
  }

  @Test("SET changes all or nothing") func set() {
    #expect(server.send("CONFIG SET timeout 10 maxclients 20") == "+OK\r\n")
    #expect(server.send("CONFIG GET timeout").hasSuffix("$2\r\n10\r\n"))
    let failed = "-ERR CONFIG SET failed (possibly related to argument"
    #expect(
      server.send("CONFIG SET timeout 30 maxclients 0")
        == "\(failed) 'maxclients') - argument must be between 1 and 1000000 inclusive\r\n")
    #expect(server.send("CONFIG GET timeout").hasSuffix("$2\r\n10\r\n"))
    #expect(
      server.send("CONFIG SET timeout x")
        == "\(failed) 'timeout') - argument couldn't be parsed into an integer\r\n")
    #expect(
      server.send("CONFIG SET port 1") == "\(failed) 'port') - can't set immutable config\r\n")
    #expect(
      server.send("CONFIG SET timeout 1 TIMEOUT 2")
        == "\(failed) 'TIMEOUT') - duplicate parameter\r\n")
    #expect(
      server.send("CONFIG SET foo 1")
        == "-ERR Unknown option or number of arguments for CONFIG SET - 'foo'\r\n")
    #expect(
      server.send("CONFIG SET timeout")
        == "-ERR wrong number of arguments for 'config|set' command\r\n")
    #expect(
      server.send("CONFIG SET loglevel x").hasSuffix(
        "argument(s) must be one of the following: debug, verbose, notice, warning\r\n"))
    #expect(
      server.send("CONFIG SET proto-max-bulk-len x").hasSuffix(
        "argument must be a memory value\r\n"))
  }

  @Test("SET holds for what is pipelined behind it") func atOnce() {
    let client = server.connect()
    #expect(
      client.exchange("CONFIG SET requirepass secret\r\nAUTH secret\r\nAUTH wrong\r\n")
        == "+OK\r\n+OK\r\n-WRONGPASS invalid username-password pair or user is disabled.\r\n")
    #expect(server.connect().send("GET k") == "-NOAUTH Authentication required.\r\n")
  }

  @Test("SET refuses what could not be kept or computed with") func extremes() {
    let error = "-ERR CONFIG SET failed (possibly related to argument 'client-output-buffer-limit')"
    #expect(
      server.send(
        ["CONFIG", "SET", "client-output-buffer-limit", "normal 0 1 9223372036854775807"]
      ).hasPrefix(error))
    #expect(server.send("CONFIG SET timeout 01").hasPrefix("-ERR CONFIG SET failed"))
    #expect(server.send(["CONFIG", "SET", "save", ""]) == "+OK\r\n")
    #expect(
      server.send("CONFIG SET appendonly yes").hasSuffix(
        "there is no directory to write to: dir is empty\r\n"))
    #expect(
      server.send("CONFIG SET aof-use-rdb-preamble no").hasSuffix(
        "only 'yes' is possible in this version\r\n"))
    let bytes = Array("*4\r\n$6\r\nCONFIG\r\n$3\r\nSET\r\n$11\r\nrequirepass\r\n$2\r\n".utf8)
    #expect(
      text(server.connect().exchangeBytes(bytes + [0xff, 0xfe, 13, 10])).hasSuffix(
        "argument must be UTF-8 text\r\n"))
  }

  @Test("a new limit holds for the next request") func takesEffect() {
    #expect(server.send("CONFIG SET proto-max-bulk-len 1mb") == "+OK\r\n")
    server.turn(3)
    #expect(
      server.connect().exchange("*1\r\n$1048577\r\n")
        == "-ERR Protocol error: invalid bulk length\r\n")
  }
}

@Suite("COMMAND") struct IntrospectionCommandsTests {
  let server = TestServer()

  @Test("COUNT, LIST and the bare command agree") func counts() {
    let count = CommandTable.shared.topLevel.count
    #expect(server.send("COMMAND COUNT") == ":\(count)\r\n")
    #expect(server.send("COMMAND").hasPrefix("*\(count)\r\n*10\r\n"))
    // Subcommands are in the list as well.
    #expect(server.send("COMMAND LIST").hasPrefix("*\(CommandTable.shared.count)\r\n"))
    #expect(server.send("COMMAND INFO").hasPrefix("*\(count)\r\n"))
    #expect(server.send("COMMAND DOCS").hasPrefix("*\(count * 2)\r\n"))
    #expect(server.send("COMMAND LIST FILTERBY PATTERN get") == "*1\r\n$3\r\nget\r\n")
    #expect(
      server.send("COMMAND LIST FILTERBY PATTERN m[gs]et")
        == "*2\r\n$4\r\nmget\r\n$4\r\nmset\r\n")
    #expect(server.send("COMMAND LIST FILTERBY MODULE x") == "*0\r\n")
    let strings = server.send("COMMAND LIST FILTERBY ACLCAT string")
    let names = CommandTable.shared.topLevel.filter { $0.category == .string }.map(\.name)
    #expect(
      strings == "*\(names.count)\r\n" + names.map { "$\($0.utf8.count)\r\n\($0)\r\n" }.joined())
    for name in ["get", "set", "mget", "mset", "incr"] { #expect(names.contains(name)) }
    #expect(server.send("COMMAND LIST FILTERBY x y") == "-ERR syntax error\r\n")
    #expect(server.send("COMMAND LIST x") == "-ERR syntax error\r\n")
  }

  @Test("INFO describes keys and flags") func info() {
    #expect(
      server.send("COMMAND INFO get").hasPrefix(
        "*1\r\n*10\r\n$3\r\nget\r\n:2\r\n*2\r\n+readonly\r\n+fast\r\n:1\r\n:1\r\n:1\r\n"
          + "*3\r\n+@read\r\n+@string\r\n+@fast\r\n"))
    #expect(server.send("COMMAND INFO nothing") == "*1\r\n$-1\r\n")
    #expect(server.send("COMMAND INFO config|get").contains("config|get"))
    _ = server.send("HELLO 3")
    #expect(server.send("COMMAND INFO get").contains("~2\r\n+readonly\r\n"))
  }

  @Test("GETKEYS") func getKeys() {
    #expect(server.send("COMMAND GETKEYS GET a") == "*1\r\n$1\r\na\r\n")
    #expect(server.send("COMMAND GETKEYS DEL a b") == "*2\r\n$1\r\na\r\n$1\r\nb\r\n")
    for (request, access) in [
      ("SET a b", ["OW", "update"]), ("SET a b EX 5 get", ["RW", "access", "update"]),
      ("BITFIELD a GET u8 0", ["RO", "access"]),
      ("BITFIELD a GET u8 0 SET u8 0 1", ["RW", "access", "update"]),
    ] {
      #expect(
        server.send("COMMAND GETKEYSANDFLAGS \(request)")
          == "*1\r\n*2\r\n$1\r\na\r\n*\(access.count)\r\n"
          + access.map { "+\($0)\r\n" }.joined(), "\(request)")
    }
    #expect(server.send("COMMAND GETKEYS PING") == "-ERR The command has no key arguments\r\n")
    #expect(server.send("COMMAND GETKEYS FOO a") == "-ERR Invalid command specified\r\n")
    #expect(
      server.send("COMMAND GETKEYS GET a b")
        == "-ERR Invalid number of arguments specified for command\r\n")
  }

  @Test("DOCS follow from the syntax line") func docs() {
    let arguments = CommandSyntax.parse(
      "SET key value [NX|XX] [GET] [EX seconds|KEEPTTL]", nameWords: 1)
    #expect(arguments.map(\.type) == ["key", "string", "oneof", "pure-token", "oneof"])
    #expect(arguments.map(\.isOptional) == [false, false, true, true, true])
    #expect(arguments[4].parts.map(\.token) == ["EX", "KEEPTTL"])
    #expect(arguments[4].parts[0].type == "integer")
    let several = CommandSyntax.parse("DEL key [key ...]", nameWords: 1)
    #expect(several.count == 1 && several[0].isMultiple && !several[0].isOptional)
    let choice = CommandSyntax.parse("CLIENT REPLY <ON|OFF|SKIP>", nameWords: 2)
    #expect(choice.count == 1 && choice[0].parts.count == 3 && !choice[0].isOptional)
    let pairs = CommandSyntax.parse("MSET key value [key value ...]", nameWords: 1)
    #expect(pairs.count == 1 && pairs[0].name == "key_value" && pairs[0].flags == ["multiple"])
    let tokens = CommandSyntax.parse(
      "X [PREFIX prefix [PREFIX prefix ...]] [ID id [id ...]]", nameWords: 1)
    #expect(tokens.map(\.token) == ["PREFIX", "ID"])
    #expect(tokens.map(\.repeatsToken) == [true, false] && tokens.allSatisfy(\.isMultiple))
    let named = CommandTable.shared.topLevel.first { $0.name == "bitop" }
    #expect(named.map { CommandSyntax.arguments(of: $0).map(\.keyIndex) } == [nil, 0, 1])
    #expect(
      server.send("COMMAND DOCS get").hasPrefix("*2\r\n$3\r\nget\r\n*10\r\n$7\r\nsummary\r\n"))
    #expect(server.send("COMMAND DOCS nothing") == "*0\r\n")
  }

  @Test("HELP of each container lists its rows", arguments: ["CLIENT", "CONFIG", "COMMAND"])
  func help(_ container: String) {
    let help = server.send("\(container) HELP")
    let row = CommandTable.shared.topLevel.first { $0.name == container.lowercased() }
    for subcommand in row?.subcommands ?? [] {
      #expect(help.contains(subcommand.summary))
    }
    #expect(help.hasPrefix("*"))
  }
}

import Foundation
import Testing

@testable import Valiant

@Suite("Transactions") struct TransactionCommandsTests {
  let server = TestServer()

  @Test("commands wait for EXEC and run together") func basics() {
    #expect(server.send("MULTI") == "+OK\r\n")
    #expect(server.send("SET a 1") == "+QUEUED\r\n")
    #expect(server.send("INCR a") == "+QUEUED\r\n")
    #expect(server.send("GET b") == "+QUEUED\r\n")
    let other = server.connect()
    #expect(other.send("GET a") == "$-1\r\n")
    #expect(server.send("EXEC") == "*3\r\n+OK\r\n:2\r\n$-1\r\n")
    #expect(other.send("GET a") == "$1\r\n2\r\n")
    #expect(server.send("EXEC") == "-ERR EXEC without MULTI\r\n")
    #expect(server.send("DISCARD") == "-ERR DISCARD without MULTI\r\n")
  }

  @Test("an error while running does not stop the others") func runningError() {
    _ = server.send("SET a text")
    _ = server.send("MULTI")
    _ = server.send("INCR a")
    _ = server.send("SET b 1")
    #expect(
      server.send("EXEC")
        == "*2\r\n-ERR value is not an integer or out of range\r\n+OK\r\n")
  }

  @Test("a refused command spoils all") func refused() {
    for wrong in ["NONSENSE", "GET", "CLIENT NONSENSE", "SHUTDOWN"] {
      _ = server.send("MULTI")
      #expect(server.send("SET a 1") == "+QUEUED\r\n")
      #expect(server.send(wrong).hasPrefix("-ERR"), "\(wrong)")
      #expect(
        server.send("EXEC")
          == "-EXECABORT Transaction discarded because of previous errors.\r\n")
    }
    #expect(server.send("EXISTS a") == ":0\r\n")
    _ = server.send("MULTI")
    #expect(server.send("MULTI") == "-ERR MULTI calls can not be nested\r\n")
    #expect(server.send("WATCH a") == "-ERR WATCH inside MULTI is not allowed\r\n")
    #expect(server.send("SET a 1") == "+QUEUED\r\n")
    #expect(server.send("EXEC") == "*1\r\n+OK\r\n")
  }

  @Test("DISCARD and RESET forget everything") func discard() {
    for end in ["DISCARD", "RESET"] {
      _ = server.send("WATCH a")
      _ = server.send("MULTI")
      _ = server.send("SET a 1")
      #expect(server.send(end).hasPrefix("+"))
      #expect(server.send("EXISTS a") == ":0\r\n")
      #expect(server.send("EXEC") == "-ERR EXEC without MULTI\r\n")
    }
  }

  @Test(
    "EXEC does nothing when a watched key has changed",
    arguments: [
      "SET k 2", "SET k 1", "DEL k", "APPEND k x", "EXPIRE k 100", "PEXPIRE k 100000", "PERSIST k",
      "GETEX k EX 5", "RENAME k other", "SET from 1,RENAME from k", "INCR k", "SETBIT k 5 1",
      "MSET a 1 k 2", "FLUSHALL", "FLUSHDB", "SWAPDB 0 3", "SWAPDB 3 0", "MOVE k 5", "GETDEL k",
      "COPY k other,COPY other k REPLACE", "BITOP NOT k k", "EXPIRE k -1", "MULTI,SET k 1,EXEC",
      "PEXPIRE k 1,wait", "PEXPIRE k 1,wait,sweep",
    ])
  func watch(_ change: String) {
    _ = server.send("SET k 1 EX 1000")
    #expect(server.send("WATCH other2 k k") == "+OK\r\n")
    let other = server.connect()
    for request in change.split(separator: ",") {
      switch request {
      case "wait": Thread.sleep(forTimeInterval: 0.01)
      case "sweep": server.server.store.removeExpired()
      default: #expect(!other.send(String(request)).hasPrefix("-"), "\(request)")
      }
    }
    _ = server.send("MULTI")
    _ = server.send("SET result 1")
    #expect(server.send("EXEC") == "*-1\r\n")
    #expect(server.send("EXISTS result") == ":0\r\n")
    // The next one does not know of it.
    _ = server.send("MULTI")
    #expect(server.send("EXEC") == "*0\r\n")
    server.server.store.checkInvariants()
  }

  @Test(
    "what does not change a watched key does no harm",
    arguments: [
      "GET k", "SET other 1", "SETNX k 2", "SET k 2 NX", "EXPIRE k 10 XX", "PERSIST k", "DEL none",
      "COPY k other", "DUMP k", "TOUCH k", "SELECT 3,SET k 1,FLUSHDB", "SWAPDB 4 5",
      "BITCOUNT k", "LCS k k", "WATCH k,UNWATCH",
    ])
  func unchanged(_ harmless: String) {
    _ = server.send("SET k 1")
    _ = server.send("WATCH k none2")
    let other = server.connect()
    for request in harmless.split(separator: ",") {
      #expect(!other.send(String(request)).hasPrefix("-"), "\(request)")
    }
    _ = server.send("MULTI")
    _ = server.send("SET result 1")
    #expect(server.send("EXEC") == "*1\r\n+OK\r\n")
  }

  @Test("a key that is evicted has changed") func eviction() {
    let server = TestServer { $0.maxMemory = Settings.MemoryLimit(bytes: 4 << 20) }
    _ = server.send("CONFIG SET maxmemory-policy allkeys-random")
    _ = server.send("SET k 1")
    _ = server.send("WATCH k")
    let other = server.connect()
    let value = String(repeating: "v", count: 4000)
    for number in 0..<20_000 where server.server.store.exists("k") {
      _ = other.send(["SET", "\(number)", value])
    }
    #expect(!server.server.store.exists("k"))
    _ = server.send("MULTI")
    #expect(server.send("EXEC") == "*-1\r\n")
  }

  @Test("the store itself tells, too") func embedded() {
    _ = server.send("SET k 1")
    _ = server.send("WATCH k")
    server.server.store.set("k", to: "2")
    _ = server.send("MULTI")
    #expect(server.send("EXEC") == "*-1\r\n")
  }

  @Test("commands over all keys run within a transaction") func wholeKeyspace() {
    _ = server.send("SET a 1")
    let requests = [
      "DBSIZE", "KEYS *", "SCAN 0", "RANDOMKEY", "INFO", "MEMORY STATS", "CONFIG RESETSTAT",
      "SWAPDB 0 1", "FLUSHALL", "DBSIZE",
    ]
    _ = server.send("WATCH a")
    _ = server.send("MULTI")
    for request in requests { #expect(server.send(request) == "+QUEUED\r\n") }
    let reply = server.send("EXEC")
    #expect(reply.hasPrefix("*10\r\n:1\r\n*1\r\n$1\r\na\r\n*2\r\n$1\r\n0\r\n*1\r\n$1\r\na\r\n"))
    #expect(reply.hasSuffix("+OK\r\n+OK\r\n:0\r\n"))
    // All locks are free again.
    #expect(server.send("SET b 1") == "+OK\r\n")
    #expect(server.send("DBSIZE") == ":1\r\n")
  }

  @Test("long values are queued and stored") func longValues() {
    let value = String(repeating: "v", count: 300_000)
    _ = server.send("MULTI")
    #expect(server.send(["SET", "a", value]) == "+QUEUED\r\n")
    #expect(server.send(["MSET", "b", value + "b", "c", value + "c"]) == "+QUEUED\r\n")
    #expect(server.send("CLIENT LIST") == "+QUEUED\r\n")
    let reply = server.send("EXEC")
    #expect(reply.contains(" multi=3 "))
    #expect(server.send("STRLEN a") == ":300000\r\n")
    #expect(server.send("GETRANGE b -2 -1") == "$2\r\nvb\r\n")
    #expect(server.send("GETRANGE c -2 -1") == "$2\r\nvc\r\n")
    server.server.store.checkInvariants()
  }

  @Test("what is queued counts as the client's memory") func memory() {
    let other = server.connect()
    _ = server.send("MULTI")
    let value = String(repeating: "v", count: 10_000)
    for _ in 0..<100 { _ = server.send(["SET", "a", value]) }
    let list = other.send("CLIENT LIST")
    let fields = list.split(whereSeparator: \.isWhitespace)
    #expect(fields.contains("multi=100"))
    let held =
      fields.compactMap { $0.hasPrefix("multi-mem=") ? Int($0.dropFirst(10)) : nil }.max() ?? 0
    #expect(held > 1_000_000)
    #expect(server.server.clients.heldBytes > 1_000_000)
    _ = server.send("DISCARD")
    #expect(server.server.clients.heldBytes < 100_000)
  }

  @Test("without memory nothing is queued, and nothing runs") func outOfMemory() {
    let server = TestServer { $0.maxMemory = Settings.MemoryLimit(bytes: 2 << 20) }
    let value = String(repeating: "v", count: 100_000)
    _ = server.send("MULTI")
    var refused = 0
    for number in 0..<30 {
      if server.send(["SET", "\(number)", value]).hasPrefix("-OOM") { refused += 1 }
    }
    #expect(refused == 0)
    #expect(server.send("EXEC").hasPrefix("-EXECABORT Transaction discarded because of: OOM"))
    #expect(server.send("DBSIZE") == ":0\r\n")
    for number in 0..<30 { _ = server.send(["SET", "\(number)", value]) }
    _ = server.send("MULTI")
    #expect(server.send(["SET", "x", value]).hasPrefix("-OOM command not allowed"))
    #expect(server.send("EXEC").hasPrefix("-EXECABORT Transaction discarded because of previous"))
    // Whatever it is, it would take memory until it runs.
    _ = server.send("CONFIG SET maxmemory 1")
    _ = server.send("MULTI")
    #expect(server.send("GET x").hasPrefix("-OOM command not allowed"))
    #expect(server.send("DISCARD") == "+OK\r\n")
    #expect(server.send("GET x") == "$-1\r\n")
  }

  @Test("a transaction that needs more than its commands say gets it where keys can be evicted")
  func needsMore() {
    let server = TestServer {
      $0.maxMemory = Settings.MemoryLimit(bytes: 4 << 20)
      $0.evictionPolicy = .allKeysLRU
    }
    let value = String(repeating: "v", count: 10_000)
    for number in 0..<600 { _ = server.send(["SET", "\(number)", value]) }
    for _ in 0..<3 {
      _ = server.send("MULTI")
      _ = server.send("SETRANGE k 200000 x")
      _ = server.send("STRLEN k")
      #expect(server.send("EXEC") == "*2\r\n:200001\r\n:200001\r\n")
      _ = server.send("DEL k")
    }
  }

  @Test("a client that goes away watches nothing any more") func leaving() {
    do {
      let other = server.connect()
      _ = other.send("WATCH a b c")
      _ = other.send("MULTI")
      _ = other.send("SET a 1")
    }
    server.turn(5)
    let store = server.server.store
    for index in 0..<Store.shardCount {
      #expect(store.shard(index).keyspace(0).observers.isEmpty)
    }
    #expect(server.send("SET a 1") == "+OK\r\n")
  }
}

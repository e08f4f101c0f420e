import Foundation
import TestSupport
import Testing

@testable import Valiant

@Suite("Clients with copies of keys") struct TrackingCommandsTests {
  let server = TestServer()

  private func invalid(_ keys: String...) -> String {
    ">2\r\n$10\r\ninvalidate\r\n*\(keys.count)\r\n"
      + keys.map { "$\($0.utf8.count)\r\n\($0)\r\n" }.joined()
  }

  private let allInvalid = ">2\r\n$10\r\ninvalidate\r\n_\r\n"

  /// A client of RESP3 that is told what `options` say.
  private func tracker(_ options: String = "") -> TestClient {
    let client = server.connect()
    _ = client.send("HELLO 3")
    #expect(client.send("CLIENT TRACKING ON \(options)") == "+OK\r\n")
    return client
  }

  private var store: Store { server.server.store }

  // MARK: Keys that were read

  @Test("who has read a key is told once when it changes, whichever way")
  func whatWasRead() {
    let reader = tracker()
    let changes = [
      ("SET k 1", "SET k v"), ("SET k 1", "APPEND k v"), ("SET k 1", "SETRANGE k 0 x"),
      ("SET k 1", "SETBIT k 1 1"), ("SET k 1", "DEL k"), ("SET k 1", "INCR k"), ("DEL k", "INCR k"),
      ("SET k 1", "EXPIRE k 100"), ("SET k 1 EX 10", "PERSIST k"), ("SET l 1", "RENAME l k"),
      ("SET l 1", "COPY l k REPLACE"), ("SET l 1", "MSET l 1 k 2"), ("SET k 1", "GETDEL k"),
      ("DEL k", "PFADD k a"), ("SET k 1", "SET k v PXAT 1"),
      ("SET k 1", "MOVE k 3"), ("SET k 1", "EXPIREAT k 1"), ("SET k 1", "BITOP NOT k k"),
    ]
    for (before, change) in changes {
      _ = server.send(before)
      _ = reader.send("MGET k unchanged")
      #expect(!server.send(change).hasPrefix("-"), "\(change)")
      #expect(reader.exchange("") == invalid("k"), "\(change)")
      _ = server.send("SET k v")
      #expect(reader.exchange("").isEmpty, "\(change)")
    }
    #expect(store.memory.observers.readKeyCount == 1)
  }

  @Test("who has not read it, or only changed it, is not told") func whatWasNotRead() {
    let reader = tracker()
    _ = reader.send("SET k v")
    _ = reader.send("GETSET k v")
    _ = reader.send("GETEX k EX 10")
    _ = reader.send("SELECT 1")
    _ = reader.send("GET k")
    _ = server.send("SET k v")
    #expect(reader.exchange("").isEmpty)
    #expect(server.send("SELECT 1") == "+OK\r\n")
    #expect(server.send("SET k v") == "+OK\r\n")
    #expect(reader.exchange("") == invalid("k"))
  }

  @Test("the message comes behind the replies, also to who has changed the key itself")
  func itself() {
    let reader = tracker()
    #expect(reader.send("GET k") == "_\r\n")
    #expect(reader.send("SET k v") == "+OK\r\n" + invalid("k"))
    _ = reader.send("MULTI")
    _ = reader.send("GET k")
    _ = reader.send("SET k w")
    #expect(reader.send("EXEC") == "*2\r\n$1\r\nv\r\n+OK\r\n" + invalid("k"))
    let silent = tracker("NOLOOP")
    _ = silent.send("GET k")
    #expect(silent.send("SET k v") == "+OK\r\n")
    _ = silent.send("GET k")
    _ = server.send("SET k v")
    #expect(silent.exchange("") == invalid("k"))
  }

  @Test("a key that expires or is evicted has changed", arguments: ["lazily", "by the sweep"])
  func expiry(_ way: String) {
    let reader = tracker()
    _ = server.send("SET k v PX 1000")
    _ = reader.send("GET k")
    Thread.sleep(forTimeInterval: 1.01)
    if way == "lazily" { #expect(server.send("EXISTS k") == ":0\r\n") }
    var told = ""
    for _ in 0..<200 where told.isEmpty {
      told = reader.exchange("")
      Thread.sleep(forTimeInterval: 0.01)
    }
    #expect(told == invalid("k"))
  }

  @Test("CACHING says of the next command or transaction whether it counts") func caching() {
    let asking = tracker("OPTIN")
    _ = asking.send("GET a")
    #expect(asking.send("CLIENT CACHING YES") == "+OK\r\n")
    _ = asking.send("CLIENT ID")
    _ = asking.send("GET b")
    _ = asking.send("GET c")
    _ = asking.send("CLIENT CACHING YES")
    _ = asking.send("MULTI")
    _ = asking.send("GET d")
    _ = asking.send("GET e")
    _ = asking.send("EXEC")
    _ = asking.send("GET f")
    let declining = tracker("OPTOUT")
    _ = declining.send("CLIENT CACHING NO")
    _ = declining.send("GET a")
    _ = declining.send("GET b")
    _ = server.send("MSET a 1 b 2 c 3 d 4 e 5 f 6")
    #expect(asking.exchange("") == invalid("b") + invalid("d") + invalid("e"))
    #expect(declining.exchange("") == invalid("b"))
    #expect(
      asking.send("CLIENT CACHING NO").contains("only valid when tracking is enabled in OPTOUT"))
  }

  @Test("FLUSHALL, FLUSHDB, SWAPDB and the program's own removeAll make everything invalid")
  func everything() {
    let (reader, listener) = (tracker(), tracker("BCAST PREFIX x"))
    for command in ["FLUSHALL", "FLUSHDB", "SWAPDB 0 1", ""] {
      _ = reader.send("GET k")
      #expect(store.memory.observers.readKeyCount == 1)
      if command.isEmpty { store.removeAll() } else { _ = server.send(command) }
      #expect(reader.exchange("") == allInvalid, "\(command)")
      #expect(listener.exchange("") == allInvalid, "\(command)")
      #expect(store.memory.observers.readKeyCount == 0)
      _ = server.send("SET k v")
      #expect(reader.exchange("").isEmpty)
    }
    #expect(reader.send("FLUSHALL") == "+OK\r\n" + allInvalid)
  }

  @Test("what the embedding program changes is told as well") func embedded() {
    let (reader, listener) = (tracker(), tracker("BCAST"))
    _ = reader.send("GET k")
    store.set("k", to: "v")
    #expect(reader.exchange("") == invalid("k"))
    #expect(listener.exchange("") == invalid("k"))
  }

  // MARK: Keys that begin in some way

  @Test("BCAST tells of all keys that begin so, once a turn") func broadcast() {
    let (all, some, own) = (
      tracker("BCAST"), tracker("BCAST PREFIX a PREFIX b"), tracker("BCAST NOLOOP")
    )
    _ = server.send("MSET a1 1 a2 2 b1 3 c 4 a1 5")
    #expect(all.exchange("") == invalid("a1", "a2", "b1", "c"))
    #expect(some.exchange("") == invalid("a1", "a2") + invalid("b1"))
    #expect(own.exchange("") == invalid("a1", "a2", "b1", "c"))
    #expect(own.send("SET a1 1") == "+OK\r\n")
    #expect(all.exchange("") == invalid("a1"))
    #expect(some.exchange("") == invalid("a1"))
    // A database that comes later tells as well.
    _ = server.send("SELECT 9")
    _ = server.send("SET b 1")
    #expect(some.exchange("") == invalid("b"))
    #expect(server.send("INFO stats").contains("tracking_total_prefixes:3\r\n"))
    #expect(server.send("INFO clients").contains("tracking_clients:3\r\n"))
    #expect(server.send("CLIENT LIST").contains("flags=tB"))
  }

  // MARK: In place of others

  @Test("another client is told in its place, as a listener in RESP2") func redirect() {
    let (old, other) = (server.connect(), server.connect())
    let id = other.send("CLIENT ID").dropFirst().dropLast()
    #expect(old.send("CLIENT TRACKING ON REDIRECT \(id)") == "+OK\r\n")
    #expect(old.send("CLIENT GETREDIR") == ":\(id)\r\n")
    _ = old.send("GET k")
    _ = server.send("SET k v")
    // It listens to nothing.
    #expect(other.exchange("").isEmpty)
    _ = other.send("SUBSCRIBE __redis__:invalidate")
    _ = old.send("GET k")
    _ = server.send("SET k v")
    let start = "*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n"
    #expect(other.exchange("") == start + "*1\r\n$1\r\nk\r\n")
    _ = server.send("FLUSHALL")
    #expect(other.exchange("") == start + "$-1\r\n")
    #expect(old.exchange("").isEmpty)
    #expect(server.send("CLIENT LIST").contains("redir=\(id) "))
  }

  @Test("who was redirected to somebody who has gone is told that") func brokenRedirect() {
    let reader: TestClient
    do {
      let other = server.connect()
      reader = tracker("REDIRECT " + other.send("CLIENT ID").dropFirst().dropLast())
    }
    server.turn(5)
    _ = reader.send("GET k")
    _ = server.send("SET k v")
    #expect(reader.exchange("").hasPrefix(">2\r\n$21\r\ntracking-redir-broken\r\n:"))
    #expect(reader.send("CLIENT TRACKINGINFO").contains("broken_redirect"))
    #expect(server.send("CLIENT LIST").contains("flags=tR"))
  }

  // MARK: What is remembered

  @Test(
    "nothing is remembered when nobody wants to be told any more",
    arguments: ["OFF", "RESET", "gone"])
  func leaving(_ way: String) {
    do {
      let (reader, listener) = (tracker(), tracker("BCAST PREFIX x"))
      _ = reader.send("MGET k l m")
      #expect(store.memory.observers.readerCount == 3)
      switch way {
      case "OFF":
        _ = reader.send("CLIENT TRACKING OFF")
        _ = listener.send("CLIENT TRACKING OFF")
      case "RESET":
        _ = reader.send("RESET")
        _ = listener.send("RESET")
      default: break
      }
      if way != "gone" {
        _ = server.send("MSET k 1 x 2")
        #expect(reader.exchange("").isEmpty && listener.exchange("").isEmpty)
      }
    }
    server.turn(5)
    #expect(store.memory.observers.readKeyCount == 0)
    #expect(store.memory.observers.prefixCount == 0)
    for index in 0..<Store.shardCount {
      #expect(store.shard(index).keyspace(0).observers.isEmpty)
    }
    #expect(server.send("INFO clients").contains("tracking_clients:0\r\n"))
  }

  @Test("above tracking-table-max-keys readers are told early") func limit() {
    let reader = tracker()
    for number in 0..<3000 { _ = reader.send("GET k\(number)") }
    #expect(store.memory.observers.readKeyCount == 3000)
    _ = server.send("CONFIG SET tracking-table-max-keys 1000")
    var told = ""
    for _ in 0..<100 where store.memory.observers.readKeyCount > 1000 {
      Thread.sleep(forTimeInterval: 0.02)
      told += reader.exchange("")
    }
    told += reader.exchange("")
    #expect(store.memory.observers.readKeyCount == 1000)
    #expect(told.components(separatedBy: "invalidate").count - 1 == 2000)
    #expect(server.send("INFO stats").contains("tracking_total_keys:1000\r\n"))
  }

  @Test("a transaction may begin and end tracking") func transaction() {
    let client = tracker("BCAST")
    _ = client.send("MULTI")
    _ = client.send("CLIENT TRACKING OFF")
    _ = client.send("CLIENT TRACKING ON BCAST PREFIX k")
    _ = client.send("SET k v")
    _ = client.send("SET l v")
    #expect(client.send("EXEC") == "*4\r\n+OK\r\n+OK\r\n+OK\r\n+OK\r\n" + invalid("k"))
  }

  @Test("many readers of one key are all told, each once") func hotKey() {
    let readers = (0..<200).map { _ in tracker() }
    for reader in readers.shuffled() {
      _ = reader.send("GET k")
      _ = reader.send("GET k")
    }
    #expect(store.memory.observers.readerCount == 200)
    _ = server.send("SET k v")
    for reader in readers { #expect(reader.exchange("") == invalid("k")) }
  }

  // MARK: Several threads

  /// The copies of one client, kept by what it is told.
  private final class Cache {
    let client: BlockingClient
    var copies: [String: String] = [:]
    private var input = ""

    init(port: Int, _ options: String) throws {
      client = try BlockingClient(port: port)
      client.write("HELLO 3\r\nCLIENT TRACKING ON \(options)\r\n")
      while !input.hasSuffix("+OK\r\n") { input += client.read() }
      input = ""
    }

    /// Reads a key, unless there is a copy.
    func read(_ key: String) {
      if copies[key] != nil { return }
      client.write("GET \(key)\r\n")
      copies[key] = reply()
    }

    /// Deals with what has come without having been asked for, up to the answer to a PING.
    func settle() {
      client.write("PING\r\n")
      #expect(reply() == "PONG")
    }

    private func line() -> String {
      while true {
        if let end = input.range(of: "\r\n") {
          defer { input.removeSubrange(..<end.upperBound) }
          return String(input[..<end.lowerBound])
        }
        let more = client.read()
        if more.isEmpty { return "" }
        input += more
      }
    }

    private func reply() -> String {
      while true {
        let first = line()
        switch first.first {
        case ">":
          _ = (line(), line())
          let count = line()
          for _ in 0..<(Int(count.dropFirst()) ?? 0) {
            _ = line()
            copies[line()] = nil
          }
        case "$": return line()
        case nil: return ""
        default: return String(first.dropFirst())
        }
      }
    }
  }

  @Test(
    "no copy stays that is out of date, whatever changes on whichever loop",
    arguments: ["", "BCAST", "NOLOOP"])
  func coherence(_ options: String) throws {
    let server = try Server.started(threads: 4)
    defer { server.stop() }
    let port = server.port ?? 0
    let caches = try (0..<8).map { _ in try Cache(port: port, options) }
    let writers = try (0..<4).map { _ in try BlockingClient(port: port) }
    let keys = (0..<16).map { "key\($0)" }
    for key in keys { server.store.set(key, to: "start") }
    let group = DispatchGroup()
    for (number, writer) in writers.enumerated() {
      group.enter()
      Thread.detachNewThread {
        for round in 0..<500 {
          let key = keys[(round * 7 + number * 3) % keys.count]
          switch round % 4 {
          case 0:
            _ = writer.ask("MSET \(key) \(number):\(round) \(keys[round % 16]) x\(number):\(round)")
          case 1: _ = writer.ask("RENAME \(key) \(keys[(round + 1) % 16])")
          default: _ = writer.ask("SET \(key) \(number):\(round)")
          }
        }
        group.leave()
      }
    }
    for (number, cache) in caches.enumerated() {
      group.enter()
      nonisolated(unsafe) let cache = cache
      Thread.detachNewThread {
        for round in 0..<1500 { unsafe cache.read(keys[(round * 5 + number) % keys.count]) }
        group.leave()
      }
    }
    group.wait()
    Thread.sleep(forTimeInterval: 0.05)
    for cache in caches {
      cache.settle()
      for key in keys { cache.read(key) }
    }
    for key in keys.prefix(8) { _ = writers[0].ask("SET \(key) end") }
    // What was changed last has been handed to the loops; a turn later it is told.
    Thread.sleep(forTimeInterval: 0.05)
    for cache in caches {
      cache.settle()
      for (key, copy) in cache.copies {
        #expect(copy == server.store.get(key) ?? "", "\(key)")
      }
      #expect(cache.copies.count == 8)
      cache.client.end()
    }
    for writer in writers { writer.end() }
  }
}

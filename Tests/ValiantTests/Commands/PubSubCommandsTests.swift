import Foundation
import TestSupport
import Testing

@testable import Valiant

@Suite("Publishing and listening") struct PubSubCommandsTests {
  let server = TestServer()

  /// A message as a client of RESP2 or RESP3 gets it.
  private func message(_ type: String, _ words: String...) -> String {
    "\(type)\(words.count)\r\n" + words.map { "$\($0.utf8.count)\r\n\($0)\r\n" }.joined()
  }

  @Test("a message reaches who listens, in the words of its protocol") func basics() {
    let (old, new, other) = (server.connect(), server.connect(), server.connect())
    _ = new.send("HELLO 3")
    #expect(old.send("SUBSCRIBE c") == "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
    #expect(new.send("PSUBSCRIBE c* d").hasSuffix(">3\r\n$10\r\npsubscribe\r\n$1\r\nd\r\n:2\r\n"))
    #expect(other.send("SSUBSCRIBE c") == "*3\r\n$10\r\nssubscribe\r\n$1\r\nc\r\n:1\r\n")
    #expect(server.send("PUBLISH c hello") == ":2\r\n")
    #expect(server.send("PUBLISH cc hello") == ":1\r\n")
    #expect(server.send("PUBLISH x hello") == ":0\r\n")
    #expect(server.send("SPUBLISH c hi") == ":1\r\n")
    #expect(old.exchange("") == message("*", "message", "c", "hello"))
    #expect(
      new.exchange("")
        == message(">", "pmessage", "c*", "c", "hello")
        + message(">", "pmessage", "c*", "cc", "hello"))
    #expect(other.exchange("") == message("*", "smessage", "c", "hi"))
    #expect(server.send("PUBSUB NUMSUB c d") == "*4\r\n$1\r\nc\r\n:1\r\n$1\r\nd\r\n:0\r\n")
    #expect(server.send("PUBSUB NUMPAT") == ":2\r\n")
    let list = server.send("CLIENT LIST TYPE PUBSUB")
    #expect(list.contains("flags=P") && list.contains("sub=0 psub=2 ssub=0"))
    #expect(!list.contains("cmd=client"))
    #expect(server.send("INFO stats").contains("pubsub_channels:1\r\npubsub_patterns:2\r\n"))
  }

  @Test("in RESP2 a listener can hardly do anything else") func restricted() {
    _ = server.send("SUBSCRIBE c")
    #expect(server.send("GET k").hasPrefix("-ERR Can't execute 'get': only (P|S)SUBSCRIBE"))
    #expect(server.send("CLIENT ID").hasPrefix("-ERR Can't execute 'client|id'"))
    #expect(server.send("PING") == "*2\r\n$4\r\npong\r\n$0\r\n\r\n")
    #expect(server.send("PING x") == "*2\r\n$4\r\npong\r\n$1\r\nx\r\n")
    #expect(server.send("UNSUBSCRIBE") == "*3\r\n$11\r\nunsubscribe\r\n$1\r\nc\r\n:0\r\n")
    #expect(server.send("UNSUBSCRIBE") == "*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n")
    #expect(server.send("GET k") == "$-1\r\n")
    _ = server.send("SUBSCRIBE c")
    #expect(server.send("RESET") == "+RESET\r\n")
    #expect(server.send("PUBSUB CHANNELS") == "*0\r\n")
  }

  @Test("who publishes to itself gets the message in front of the answer") func itself() {
    _ = server.send("HELLO 3")
    _ = server.send("SUBSCRIBE c")
    #expect(
      server.send("PUBLISH c hello") == message(">", "message", "c", "hello") + ":1\r\n")
  }

  @Test("who wants no replies gets messages all the same") func silent() {
    let client = server.connect()
    _ = client.send("HELLO 3")
    for way in ["OFF", "SKIP"] {
      #expect(client.send("CLIENT REPLY \(way)").isEmpty)
      #expect(
        client.send("SUBSCRIBE a b")
          == ">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"
          + ">3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n", "\(way)")
      if way == "SKIP" { _ = client.send("CLIENT REPLY SKIP") }
      #expect(client.send("PUBLISH a x") == message(">", "message", "a", "x"), "\(way)")
      if way == "SKIP" { _ = client.send("CLIENT REPLY SKIP") }
      #expect(
        client.send("UNSUBSCRIBE a") == ">3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:1\r\n")
      _ = client.send("CLIENT REPLY ON")
      _ = client.send("UNSUBSCRIBE")
    }
    #expect(client.send("PING") == "+PONG\r\n")
  }

  @Test("who goes away listens no more") func leaving() {
    do {
      let other = server.connect()
      _ = other.send("SUBSCRIBE a b")
      _ = other.send("PSUBSCRIBE c*")
      #expect(server.send("PUBLISH a x") == ":1\r\n")
    }
    server.turn(5)
    #expect(server.send("PUBLISH a x") == ":0\r\n")
    #expect(server.send("PUBSUB NUMPAT") == ":0\r\n")
    #expect(server.server.pubSub.isEmpty)
  }

  @Test("a listener that does not read is closed, and others get everything") func slow() {
    let server = TestServer {
      $0.subscriberOutputLimit = Settings.OutputLimit(
        hardBytes: 1 << 20, softBytes: 0, softSeconds: 0)
    }
    let (slow, quick) = (server.connect(), server.connect())
    _ = slow.send("SUBSCRIBE c")
    _ = quick.send("SUBSCRIBE c")
    let text = String(repeating: "x", count: 10_000)
    var received = 0
    for number in 0..<300 {
      let count = server.send(["PUBLISH", "c", text])
      #expect(count == ":2\r\n" || (count == ":1\r\n" && number > 100), "\(number)")
      received += quick.read().count
    }
    for _ in 0..<10 {
      server.turn()
      received += quick.read().count
    }
    #expect(received == 300 * message("*", "message", "c", text).utf8.count)
    #expect(server.send("PUBSUB NUMSUB c") == "*2\r\n$1\r\nc\r\n:1\r\n")
    #expect(server.worker.statistics.outputLimitDisconnections.value == 1)
  }

  @Test("the limits of both classes are one setting") func limits() {
    #expect(
      server.send("CONFIG GET client-output-buffer-limit").contains(
        "normal 1073741824 1048576 60 slave 268435456 67108864 60 pubsub 33554432 8388608 60"))
    #expect(
      server.send(["CONFIG", "SET", "client-output-buffer-limit", "pubsub 2mb 1mb 5"]) == "+OK\r\n")
    #expect(
      server.send("CONFIG GET client-output-buffer-limit").contains(
        "normal 1073741824 1048576 60 slave 268435456 67108864 60 pubsub 2097152 1048576 5"))
  }

  // MARK: Events of keys

  @Test("letters of events are understood and shown as Redis does") func letters() {
    for (given, shown) in [
      ("KEA", "AKE"), ("Kx$", "$xK"), ("", ""), ("g$lshzxetdE", "AE"), ("Exm", "xEm"), ("Kn", "nK"),
    ] {
      #expect(server.send(["CONFIG", "SET", "notify-keyspace-events", given]) == "+OK\r\n")
      #expect(
        server.send("CONFIG GET notify-keyspace-events").hasSuffix(
          "$\(shown.count)\r\n\(shown)\r\n"), "\(given)")
    }
    #expect(
      server.send("CONFIG SET notify-keyspace-events KQ").contains(
        "Invalid event class character. Use 'Ag$lshzxeKEtmdn'."))
  }

  @Test("the key of a long value is told right, though its memory has become the value's")
  func longValues() {
    let listener = server.connect()
    _ = listener.send("PSUBSCRIBE __keyevent@*")
    _ = server.send("CONFIG SET notify-keyspace-events KEA")
    let value = String(repeating: "v", count: 200_000)
    for request in [["SET", "mykey", value, "EX", "100"], ["SETEX", "mykey", "100", value]] {
      // The second time the server knows what comes.
      for _ in 0..<2 {
        #expect(server.send(request) == "+OK\r\n")
        #expect(
          listener.exchange("")
            == message("*", "pmessage", "__keyevent@*", "__keyevent@0__:set", "mykey")
            + message("*", "pmessage", "__keyevent@*", "__keyevent@0__:expire", "mykey"))
      }
    }
  }

  @Test("what has happened before nobody wanted to hear is told all the same") func lastWords() {
    let listener = server.connect()
    _ = listener.send("PSUBSCRIBE __keyevent@*")
    _ = server.send("CONFIG SET notify-keyspace-events KEA")
    let client = server.connect()
    #expect(
      client.exchange("SET k v\r\nCONFIG SET notify-keyspace-events ''\r\nSET l v\r\n")
        == "+OK\r\n+OK\r\n+OK\r\n")
    #expect(
      listener.exchange("")
        == message("*", "pmessage", "__keyevent@*", "__keyevent@0__:set", "k"))
  }

  @Test("keys that go by themselves are told of", arguments: ["lazily", "by the sweep", "evicted"])
  func removals(_ way: String) {
    let server = TestServer {
      if way == "evicted" { $0.maxMemory = Settings.MemoryLimit(bytes: 3 << 20) }
    }
    let listener = server.connect()
    _ = listener.send("PSUBSCRIBE __keyevent@*")
    _ = server.send("CONFIG SET notify-keyspace-events Exe")
    _ = server.send("SELECT 2")
    #expect(server.send("SET k v PX 10") == "+OK\r\n")
    var heard = ""
    switch way {
    case "lazily":
      // Nobody turns the loop meanwhile.
      Thread.sleep(forTimeInterval: 0.02)
      #expect(server.send("GET k") == "$-1\r\n")
      heard = listener.exchange("")
    case "by the sweep":
      for _ in 0..<200 where heard.isEmpty {
        Thread.sleep(forTimeInterval: 0.01)
        heard = listener.exchange("")
      }
    default:
      _ = server.send("CONFIG SET maxmemory-policy allkeys-random")
      let value = String(repeating: "v", count: 4000)
      for number in 0..<3000 { _ = server.send(["SET", "\(number)", value]) }
      heard = listener.exchange("")
      #expect(heard.contains("__keyevent@2__:evicted"))
      return
    }
    #expect(
      heard == message("*", "pmessage", "__keyevent@*", "__keyevent@2__:expired", "k"))
  }

  @Test("nobody is told any more when nobody wants to hear") func silence() {
    _ = server.send("CONFIG SET notify-keyspace-events Ex")
    server.turn(3)
    let store = server.server.store
    #expect(store.shard(5).keyspace(0).observers == .listener)
    // A database that comes later tells as well.
    #expect(store.shard(5).keyspace(7).observers == .listener)
    _ = server.send(["CONFIG", "SET", "notify-keyspace-events", ""])
    server.turn(3)
    #expect(store.shard(5).keyspace(0).observers.isEmpty)
    #expect(store.shard(5).keyspace(7).observers.isEmpty)
  }

  // MARK: Several threads

  @Test("each listener gets a publisher's messages in their order, on whichever loop")
  func order() throws {
    let server = try Server.started(threads: 4)
    defer { server.stop() }
    let listeners = try (0..<8).map { _ in try BlockingClient(port: server.port ?? 0) }
    for (number, listener) in listeners.enumerated() {
      _ = listener.ask(number % 2 == 0 ? "SUBSCRIBE c" : "PSUBSCRIBE c*")
    }
    let publishers = try (0..<4).map { _ in try BlockingClient(port: server.port ?? 0) }
    let group = DispatchGroup()
    let (rounds, batch) = (40, 25)
    for (number, publisher) in publishers.enumerated() {
      group.enter()
      Thread.detachNewThread {
        for round in 0..<rounds {
          // Some one by one, some pipelined.
          let lines = (0..<batch).map { "PUBLISH c \(number):\(round * batch + $0)\r\n" }
          if round % 2 == 0 {
            publisher.write(lines.joined())
            _ = publisher.read(atLeast: batch * 4)
          } else {
            for line in lines { _ = publisher.ask(String(line.dropLast())) }
          }
        }
        group.leave()
      }
    }
    let all = publishers.count * rounds * batch
    for (number, listener) in listeners.enumerated() {
      var text = ""
      var seen = 0
      var next = [Int](repeating: 0, count: publishers.count)
      while seen < all {
        let more = listener.read()
        if more.isEmpty { break }
        text += more
        var lines = text.components(separatedBy: "\r\n")
        text = lines.removeLast()
        for line in lines where line.contains(":") && !line.hasPrefix(":") {
          let parts = line.split(separator: ":").compactMap { Int($0) }
          #expect(parts.count == 2 && parts[1] == next[parts[0]], "\(line) at \(number)")
          next[parts[0]] += 1
          seen += 1
        }
      }
      #expect(seen == all)
    }
    group.wait()
    for client in listeners + publishers { client.end() }
  }
}

import Foundation
import Testing

@testable import Valiant

@Suite("Long values") struct LongValueTests {
  private func value(_ length: Int, _ seed: UInt8 = 1) -> [UInt8] {
    (0..<length).map { UInt8(truncatingIfNeeded: $0 / 7) &* 31 &+ seed }
  }

  private func bulk(_ value: [UInt8]) -> [UInt8] {
    Array("$\(value.count)\r\n".utf8) + value + Array("\r\n".utf8)
  }

  private func request(_ arguments: [[UInt8]]) -> [UInt8] {
    Array("*\(arguments.count)\r\n".utf8) + arguments.flatMap(bulk)
  }

  private func words(_ text: String) -> [[UInt8]] {
    text.split(separator: " ").map { Array($0.utf8) }
  }

  private let lengths = [16_384, 16_385, 65_536, 70_000, 262_143, 262_144, 1_500_000]

  @Test(
    "come back as they were sent, however they arrive", arguments: [1000, 16_384, 100_000, .max])
  func pieces(_ piece: Int) {
    let server = TestServer()
    let client = server.connect()
    for length in lengths {
      let value = value(length, UInt8(truncatingIfNeeded: length))
      let stream =
        request(words("SET key") + [value]) + request(words("GET key"))
        + request(words("SET next 1")) + request(words("GET next"))
      var reply: [UInt8] = []
      var rest = stream[...]
      while !rest.isEmpty {
        reply += client.exchangeBytes(Array(rest.prefix(piece)))
        rest = rest.dropFirst(piece)
      }
      #expect(
        reply == Array("+OK\r\n".utf8) + bulk(value) + Array("+OK\r\n$1\r\n1\r\n".utf8),
        "length \(length)")
    }
    server.server.store.checkInvariants()
  }

  @Test("go into the store with the memory they were read into") func takenOver() throws {
    let server = TestServer()
    let client = server.connect()
    for (index, length) in lengths.dropFirst(2).enumerated() {
      let key = "key\(index)"
      // The second time the server knows what comes, and reads all of it into one block.
      for _ in 0..<2 {
        let value = value(length)
        #expect(text(client.exchangeBytes(request(words("SET \(key)") + [value]))) == "+OK\r\n")
        let store = server.server.store
        let hash = store.memory.hashing.hash(of: key)
        let shard = store.shard(hash: hash)
        let block = withBytes(key) { bytes in
          shard.withLock {
            shard.keyspace(0).find(bytes, hash: hash, now: .now, store.memory)?.longValue
          }
        }
        let long = try #require(block)
        #expect(!long.block.isShared, "the connection has let go of it")
        // `*3 $3 SET $4 key0 $N` lie in front of it, as they came, or what is left of them.
        #expect(long.offset == 4 + 9 + 10 + 3 + "\(length)".utf8.count, "length \(length)")
        #expect(long.block.capacity < length + length / 8 + 8192)
      }
    }
  }

  @Test("with options, in MSET and pipelines") func commands() {
    let server = TestServer()
    let client = server.connect()
    let (one, two) = (value(300_000, 1), value(300_000, 2))
    func exchange(_ head: String, _ values: [UInt8], _ tail: String = "") -> [UInt8] {
      client.exchangeBytes(request(words(head) + [values] + words(tail)))
    }
    #expect(exchange("SET k", one, "EX 100 GET") == Array("$-1\r\n".utf8))
    #expect(client.send("TTL k") == ":100\r\n")
    #expect(exchange("SET k", two, "KEEPTTL GET") == bulk(one))
    #expect(client.send("TTL k") == ":100\r\n")
    #expect(exchange("SET k", one, "NX") == Array("$-1\r\n".utf8))
    #expect(exchange("SET none", one, "XX") == Array("$-1\r\n".utf8))
    #expect(client.exchangeBytes(encode(["GET", "k"])) == bulk(two))
    #expect(exchange("MSET a 1 b", one, "c 3 d 4") == Array("+OK\r\n".utf8))
    #expect(
      client.exchangeBytes(encode(["MGET", "a", "b", "c", "d"]))
        == Array("*4\r\n$1\r\n1\r\n".utf8) + bulk(one) + Array("$1\r\n3\r\n$1\r\n4\r\n".utf8))
    // The same key twice: the block is let go of at once.
    let twice = request(words("MSET k") + [one] + words("k") + [two])
    #expect(client.exchangeBytes(twice) == Array("+OK\r\n".utf8))
    #expect(client.exchangeBytes(encode(["GET", "k"])) == bulk(two))
    #expect(client.send("OBJECT ENCODING k") == "$3\r\nraw\r\n")
    // A reply on its way stays what it was.
    let pipeline =
      encode(["GET", "k"]) + request(words("SET k") + [one]) + encode(["GET", "k"])
      + encode(["DEL", "k"]) + encode(["GET", "k"])
    #expect(
      client.exchangeBytes(pipeline)
        == bulk(two) + Array("+OK\r\n".utf8) + bulk(one) + Array(":1\r\n$-1\r\n".utf8))
    #expect(client.exchangeBytes(encode(["CLIENT", "REPLY", "OFF"])).isEmpty)
    #expect(exchange("SET k", one).isEmpty)
    #expect(client.exchangeBytes(encode(["GET", "k"])).isEmpty)
    #expect(client.exchangeBytes(encode(["CLIENT", "REPLY", "ON"])) == Array("+OK\r\n".utf8))
    // A key of which its own value would overwrite the beginning.
    let key = value(70_000, 9)
    #expect(
      client.exchangeBytes(request(words("SET") + [key, one])) == Array("+OK\r\n".utf8))
    #expect(client.exchangeBytes(request(words("GET") + [key])) == bulk(one))
    server.server.store.checkInvariants()
  }

  @Test("a reply outlives its key, while the client reads slowly") func outlives() {
    let server = TestServer()
    let client = server.connect()
    let other = server.connect()
    let one = value(3_000_000, 3)
    _ = other.exchangeBytes(request(words("SET k") + [one]))
    _ = client.write(encode(["GET", "k"])[...])
    server.turn(3)
    #expect(other.send("DEL k") == ":1\r\n")
    _ = other.exchangeBytes(request(words("SET k") + [value(3_000_000, 4)]))
    var reply: [UInt8] = []
    for _ in 0..<10_000 where reply.count < one.count + 13 {
      reply += client.read()
      server.turn()
    }
    #expect(reply == bulk(one))
  }

  private func limitedServer(_ bytes: Int, _ policy: EvictionPolicy) -> TestServer {
    TestServer {
      $0.maxMemory = Settings.MemoryLimit(bytes: bytes)
      $0.evictionPolicy = policy
    }
  }

  @Test("are refused while they arrive when there is no room for them") func refused() {
    let server = limitedServer(20 << 20, .none)
    let pool = server.server.store.memory.pool
    let client = server.connect()
    let error = "-OOM command not allowed when used memory > 'maxmemory'.\r\n"
    let huge = value(30 << 20)
    let stream = request(words("SET huge") + [huge] + words("EX 100")) + encode(["PING"])
    var most = 0
    var reply = client.writeAll(stream) { most = max(most, pool.usedBytes) }
    server.turn(3)
    reply += client.read()
    #expect(text(reply) == error + "+PONG\r\n")
    #expect(most < 1 << 20, "nothing of it was kept")
    // One that fits goes in, the next one does not, nor do two in one request.
    let some = value(9 << 20)
    func set(_ key: String) -> String {
      text(client.exchangeBytes(request(words("SET \(key)") + [some])))
    }
    #expect(set("a") == "+OK\r\n")
    #expect(set("b") == "+OK\r\n")
    #expect(set("c") == error)
    #expect(client.send("DEL b") == ":1\r\n")
    let two = request(words("MSET b") + [some] + words("c") + [some])
    #expect(text(client.exchangeBytes(two)) == error)
    #expect(client.send("EXISTS a b c") == ":1\r\n")
    // Without replies it is refused as quietly as it would have been set.
    let quiet = server.connect()
    let silent =
      encode(["CLIENT", "REPLY", "OFF"]) + stream + encode(["CLIENT", "REPLY", "ON"])
    #expect(text(quiet.exchangeBytes(silent)) == "+OK\r\n")
    let skipping = encode(["CLIENT", "REPLY", "SKIP"]) + stream
    #expect(text(quiet.exchangeBytes(skipping)) == "+PONG\r\n")
    #expect(pool.usedBytes < 10 << 20)
    let info = client.send("INFO commandstats")
    #expect(info.contains("cmdstat_set:calls=2,") && info.contains("rejected_calls=4,"), "\(info)")
    #expect(pool.usedBytes < 10 << 20)
  }

  @Test("count as arriving no longer than they arrive") func arriving() {
    let server = limitedServer(4 << 20, .none)
    let pool = server.server.store.memory.pool
    let client = server.connect()
    func arriving() -> Int { pool.usedBytes - pool.blockBytes }
    let pairs = (0..<4000).flatMap { words("key\($0) \(String(repeating: "v", count: 60))") }
    let many = request(words("MSET") + pairs)
    let begun = Array("*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$9000\r\nvalue".utf8)
    let read = Array("*3\r\n$4\r\nMGET\r\n$1\r\na\r\n$100000\r\n".utf8) + value(50_000)
    for next in [begun, read] {
      #expect(client.exchangeBytes(Array(many.dropLast(1000))).isEmpty)
      #expect(arriving() > 200_000)
      // The end of the one comes with the beginning of the next, which is no data, or too short.
      #expect(text(client.exchangeBytes(many.suffix(1000) + next)) == "+OK\r\n")
      #expect(arriving() == 0)
      #expect(server.server.clients.heldBytes == next.count)
      let rest = next == begun ? 9002 - 5 : 100_002 - 50_000
      _ = client.exchangeBytes([UInt8](repeating: 1, count: rest))
    }
    // What follows in the same piece has all the room that there is.
    #expect(client.send("FLUSHALL") == "+OK\r\n")
    let (large, other) = (value(2_500_000), value(1_200_000))
    let first = request(words("SET a") + [large])
    _ = client.exchangeBytes(Array(first.dropLast(10)))
    let second = request(words("SET b") + [other])
    #expect(text(client.exchangeBytes(first.suffix(10) + second)) == "+OK\r\n+OK\r\n")
  }

  @Test("make room by eviction as they come, and count until the client goes") func evicting() {
    let server = limitedServer(16 << 20, .allKeysLRU)
    let pool = server.server.store.memory.pool
    let client = server.connect()
    for number in 0..<1200 {
      _ = server.send(["SET", "k\(number)", String(repeating: "x", count: 10_000)])
    }
    #expect(pool.usedBytes > 12_000_000)
    let huge = value(12 << 20)
    let stream = request(words("SET huge") + [huge])
    let early = client.writeAll(stream.dropLast(1000)) { #expect(pool.usedBytes < 18 << 20) }
    #expect(early.isEmpty)
    #expect(server.turn { pool.usedBytes > 12 << 20 }, "the beginning counts")
    #expect(server.server.store.memory.eviction.evictedCount > 500)
    let other = server.connect()
    _ = other.write(stream.dropLast(12 << 20))
    server.turn()
    let before = pool.usedBytes
    shutdown(client.descriptor, Int32(SHUT_RDWR))
    #expect(
      server.turn { pool.usedBytes < before - (11 << 20) },
      "the client is gone, and what it had sent")
    // The whole of it.
    let last = server.connect()
    var reply = last.writeAll(stream)
    for _ in 0..<100_000 where reply.isEmpty {
      server.turn()
      reply += last.read()
    }
    #expect(text(reply) == "+OK\r\n")
    #expect(last.exchangeBytes(encode(["GET", "huge"])) == bulk(huge))
  }
}

extension SipHash {
  fileprivate func hash(of text: String) -> UInt64 { withBytes(text) { hash($0) } }
}

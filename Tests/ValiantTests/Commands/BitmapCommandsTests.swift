import Foundation
import Testing

@testable import Valiant

/// What the differential test does not reach: long values, and the limits.
@Suite("Editing strings") struct BitmapCommandsTests {
  let server = TestServer()

  /// Keys of one shard.
  private func neighbours(_ count: Int) -> [String] {
    let hashing = server.server.store.memory.hashing
    var byShard: [UInt64: [String]] = [:]
    for number in 0...100_000 {
      let hash = Array("k\(number)".utf8).withBytes { hashing.hash($0) }
      let shard = hash >> UInt64(64 - Store.shardBits)
      byShard[shard, default: []].append("k\(number)")
      if let found = byShard[shard], found.count == count { return found }
    }
    return []
  }

  @Test("keys that expire while several are read do not move the others") func expiring() {
    let keys = neighbours(24)
    server.server.setSweeping(false)
    for round in 0..<40 {
      var expected: [UInt8] = []
      for (index, key) in keys.enumerated() {
        // What dies is worth steps of compaction, which move what is left.
        let value = [UInt8](
          repeating: UInt8(1 << (index % 7)), count: 100 + (index * 397 + round * 131) % 3000)
        _ = server.send(["SET", key, String(decoding: value, as: UTF8.self)])
        if index % 3 != 0 { continue }
        if value.count > expected.count {
          expected += [UInt8](repeating: 0, count: value.count - expected.count)
        }
        for place in value.indices { expected[place] |= value[place] }
      }
      for (index, key) in keys.enumerated() where index % 3 != 0 {
        _ = server.send(["PEXPIRE", key, "1"])
      }
      Thread.sleep(forTimeInterval: 0.003)
      _ = server.send("BITOP OR d \(keys.joined(separator: " "))")
      let text = String(decoding: expected, as: UTF8.self)
      #expect(server.send("GET d") == "$\(text.utf8.count)\r\n\(text)\r\n")
    }
    server.server.store.checkInvariants()
  }

  @Test("a value grows from nothing to megabytes in steps") func growth() {
    let server = TestServer()
    var expected = 0
    for step in 0..<200 {
      let piece = String(repeating: "x", count: step * 137)
      expected += piece.utf8.count
      #expect(server.send(["APPEND", "k", piece]) == ":\(expected)\r\n")
    }
    #expect(server.send("STRLEN k") == ":\(expected)\r\n")
    #expect(server.send("BITCOUNT k") == ":\(expected * 4)\r\n")
    #expect(server.send("SETRANGE k \(expected + 1_000_000) end") == ":\(expected + 1_000_003)\r\n")
    #expect(server.send("BITCOUNT k \(expected) \(expected + 999_999)") == ":0\r\n")
    #expect(server.send("GETRANGE k -4 -1") == "$4\r\n\0end\r\n")
    #expect(server.send("OBJECT ENCODING k") == "$3\r\nraw\r\n")
    server.server.store.checkInvariants()
  }

  @Test("a bit far behind the end costs no copy of what is not there") func sparse() {
    let server = TestServer()
    #expect(server.send("SETBIT k 4294967295 1") == ":0\r\n")
    #expect(server.send("STRLEN k") == ":536870912\r\n")
    #expect(server.send("GETBIT k 4294967295") == ":1\r\n")
    #expect(server.send("SETBIT k 4294967296 1").hasPrefix("-ERR bit offset"))
    #expect(server.send("APPEND k x").hasPrefix("-ERR string exceeds"))
    #expect(server.send("DEL k") == ":1\r\n")
  }

  @Test("what is on its way to a client is not changed") func shared() {
    let server = TestServer()
    let value = String(repeating: "a", count: 20_000_000)
    #expect(server.send(["SET", "k", value]) == "+OK\r\n")
    let reader = server.connect()
    _ = reader.writeAll(Array("GET k\r\n".utf8))
    server.turn(2)
    #expect(server.send("SETRANGE k 19999990 bbbb") == ":20000000\r\n")
    #expect(server.send("GETRANGE k -11 -1") == "$11\r\nabbbbaaaaaa\r\n")
    var reply: [UInt8] = []
    for _ in 0..<100_000 where reply.count < 20_000_013 {
      server.turn()
      reply += reader.read()
    }
    #expect(!reply.contains(UInt8(ascii: "b")))
  }

  @Test("what would exceed maxmemory is refused, and nothing has changed") func limit() {
    let server = TestServer { $0.maxMemory = Settings.MemoryLimit(bytes: 20 << 20) }
    #expect(server.send("SET k 12") == "+OK\r\n")
    for request in [
      "SETRANGE k 30000000 x", "SETBIT k 400000000 1", "BITFIELD k SET u8 400000000 1",
      "SETBIT new 400000000 1",
    ] {
      #expect(server.send(request).hasPrefix("-OOM command not allowed"), "\(request)")
    }
    #expect(server.send("GET k") == "$2\r\n12\r\n")
    #expect(server.send("EXISTS new") == ":0\r\n")
    // Where keys may go, they make room.
    #expect(server.send("CONFIG SET maxmemory-policy allkeys-lru") == "+OK\r\n")
    for number in 0..<12 {
      #expect(server.send("SETBIT k\(number) 8000000 1") == ":0\r\n")
    }
    #expect(server.send("SETRANGE k 12000000 x") == ":12000001\r\n")
    let used = server.server.store.memory.pool.usedBytes
    #expect(used < 21 << 20)
    server.server.store.checkInvariants()
  }
}

import Foundation
import Testing

@testable import Valiant

@Suite("Looking through all keys") struct ScanCommandsTests {
  /// A page of SCAN: the next cursor, and the keys.
  private func page(_ reply: String) -> (cursor: String, keys: [String]) {
    let lines = reply.components(separatedBy: "\r\n")
    let keys = stride(from: 5, to: lines.count - 1, by: 2).map { lines[$0] }
    return (lines[2], keys)
  }

  @Test(
    "SCAN returns every key that is there throughout, while others come and go",
    arguments: [1, 7, 10, 100, 5000])
  func guarantee(_ count: Int) {
    let server = TestServer()
    let store = server.server.store
    for number in 0..<3000 { store.set("stays \(number)", to: "") }
    var seen: [String: Int] = [:]
    var cursor = "0"
    var step = 0
    var pages = 0
    repeat {
      let next = page(server.send("SCAN \(cursor) COUNT \(count)"))
      cursor = next.cursor
      for key in next.keys { seen[key, default: 0] += 1 }
      #expect(next.keys.count <= count * 2 + 40)
      pages += 1
      // Tables grow by half while the walk is under way, and shrink again.
      for _ in 0..<max(1, min(200, count)) {
        step += 1
        if step < 200_000 {
          store.set("passes \(step)", to: "x")
        } else {
          store.delete("passes \(step - 200_000)")
        }
      }
    } while cursor != "0"
    for number in 0..<3000 {
      #expect(seen["stays \(number)"] != nil, "\(number) after \(pages) pages")
    }
    #expect(UInt64(cursor) != nil)
  }

  @Test("one segment's keys are met once each while it splits") func splitting() {
    let server = TestServer()
    let store = server.server.store
    // All in one shard, so that its table splits again and again.
    var names: [String] = []
    var number = 0
    while names.count < 6000 {
      number += 1
      let hash = Array("\(number)".utf8).withBytes { store.memory.hashing.hash($0) }
      if hash >> 54 == 5 { names.append("\(number)") }
    }
    for name in names.prefix(500) { store.set(name, to: "") }
    var seen: Set<String> = []
    var cursor = "0"
    var added = 500
    repeat {
      let next = page(server.send("SCAN \(cursor) COUNT 5"))
      cursor = next.cursor
      seen.formUnion(next.keys)
      for name in names[added..<min(names.count, added + 50)] { store.set(name, to: "") }
      added = min(names.count, added + 50)
    } while cursor != "0"
    #expect(seen.isSuperset(of: names.prefix(500)))
  }

  @Test("any number is a cursor") func cursors() {
    let server = TestServer()
    for number in 0..<100 { server.server.store.set("\(number)", to: "") }
    var random = Random(seed: 1)
    for _ in 0..<200 {
      #expect(server.send("SCAN \(random.next())").hasPrefix("*2\r\n"))
    }
    #expect(server.send("SCAN 18446744073709551616") == "-ERR invalid cursor\r\n")
  }

  @Test("RANDOMKEY finds keys few and many, none of them seldom") func randomKey() {
    let server = TestServer()
    #expect(server.send("RANDOMKEY") == "$-1\r\n")
    server.server.store.set("only", to: "")
    #expect(server.send("RANDOMKEY") == "$4\r\nonly\r\n")
    server.server.store.set("gone", to: "", expiresIn: .milliseconds(1))
    Thread.sleep(forTimeInterval: 0.01)
    for _ in 0..<20 { #expect(server.send("RANDOMKEY") == "$4\r\nonly\r\n") }
    server.server.store.delete("only")
    for number in 0..<20 { server.server.store.set("\(number)", to: "") }
    var seen: Set<String> = []
    for _ in 0..<1000 { seen.insert(server.send("RANDOMKEY")) }
    #expect(seen.count == 20)
  }

  @Test("long values change their names without being copied") func rename() {
    let server = TestServer()
    let value = String(repeating: "v", count: 100_000)
    for name in ["b", String(repeating: "n", count: 500)] {
      _ = server.send(["SET", "a", value])
      let before = server.server.store.memory.pool.usedBytes
      #expect(server.send("EXPIRE a 100") == ":1\r\n")
      #expect(server.send(["RENAME", "a", name]) == "+OK\r\n")
      #expect(server.send(["TTL", name]) == ":100\r\n")
      #expect(server.send(["GET", name]) == "$100000\r\n\(value)\r\n")
      #expect(server.send("EXISTS a") == ":0\r\n")
      #expect(server.server.store.memory.pool.usedBytes - before < 10_000)
      #expect(server.send(["MOVE", name, "3"]) == ":1\r\n")
      #expect(server.send(["EXISTS", name]) == ":0\r\n")
      #expect(server.send("SELECT 3") == "+OK\r\n")
      #expect(server.send(["COPY", name, "a", "DB", "0"]) == ":1\r\n")
      #expect(server.send(["GETDEL", name]) == "$100000\r\n\(value)\r\n")
      #expect(server.send("SELECT 0") == "+OK\r\n")
      #expect(server.send(["GETDEL", "a"]) == "$100000\r\n\(value)\r\n")
      server.server.store.checkInvariants()
    }
    #expect(server.server.store.memory.pool.usedBytes == 0)
  }
}

import Foundation
import Testing

@testable import Valiant

@Suite("maxmemory-clients") struct ClientMemoryTests {
  /// The beginning of a request with an argument of `length` bytes.
  private func beginning(_ command: String, _ length: Int) -> [UInt8] {
    Array("*2\r\n$\(command.utf8.count)\r\n\(command)\r\n$\(length)\r\n".utf8)
  }

  private func server(_ change: (inout Settings) -> Void = { _ in }) -> TestServer {
    TestServer {
      $0.maxMemoryClients = Settings.MemoryLimit(bytes: 4 << 20)
      change(&$0)
    }
  }

  /// Sends so many bytes of a request that never ends.
  private func hold(_ client: TestClient, _ count: Int) {
    _ = client.writeAll(beginning("ECHO", 100 << 20) + [UInt8](repeating: 1, count: count))
  }

  @Test("the client that holds most goes, the others stay") func input() {
    let server = server()
    let (small, large, other) = (server.connect(), server.connect(), server.connect())
    hold(small, 1 << 20)
    hold(large, 2 << 20)
    #expect(other.send("PING") == "+PONG\r\n")
    let held = server.server.clients.heldBytes
    #expect(held > 3 << 20 && held < 4 << 20)
    hold(other, 1_500_000)
    server.turn(3)
    _ = large.read()
    #expect(large.isClosed)
    for client in [small, other] {
      _ = client.read()
      #expect(!client.isClosed)
    }
    #expect(server.send("INFO stats").contains("evicted_clients:1\r\n"))
    #expect(server.server.clients.heldBytes < 3 << 20)
    for client in [small, other] { shutdown(client.descriptor, Int32(SHUT_RDWR)) }
    #expect(server.turn { server.server.clients.heldBytes == 0 }, "what is gone does not count")
  }

  @Test("output counts until it is taken, and no key is evicted for it") func output() {
    let server = server {
      $0.maxMemory = Settings.MemoryLimit(bytes: 8 << 20)
      $0.evictionPolicy = .allKeysLRU
    }
    let value = String(repeating: "v", count: 800_000)
    #expect(server.send(["SET", "big", value]) == "+OK\r\n")
    var readers: [TestClient] = []
    for _ in 0..<4 {
      let client = server.connect()
      _ = client.write(encode(["GET", "big"])[...])
      server.turn(2)
      readers.append(client)
    }
    let held = server.server.clients.heldBytes
    #expect(held > 1 << 20)
    for client in readers {
      var received = 0
      for _ in 0..<1000 where received < value.utf8.count {
        received += client.read().count
        server.turn()
      }
      #expect(received > value.utf8.count)
    }
    #expect(server.server.clients.heldBytes == 0)
    // Now nobody reads.
    for client in readers + (0..<6).map({ _ in server.connect() }) {
      _ = client.write(encode(["GET", "big"])[...])
      server.turn(2)
      readers.append(client)
    }
    server.turn(3)
    #expect(server.server.clients.heldBytes <= 4 << 20)
    #expect(!server.send("INFO stats").contains("evicted_clients:0\r\n"))
    #expect(server.send("EXISTS big") == ":1\r\n")
    #expect(server.server.store.memory.eviction.evictedCount == 0)
  }

  @Test("CLIENT NO-EVICT protects, and data on its way does not count") func exceptions() {
    let server = server { $0.maxMemory = Settings.MemoryLimit(bytes: 100 << 20) }
    let (first, second, writer) = (server.connect(), server.connect(), server.connect())
    #expect(first.send("CLIENT NO-EVICT ON") == "+OK\r\n")
    hold(first, 3 << 20)
    hold(second, 2 << 20)
    server.turn(3)
    for client in [first, second] { _ = client.read() }
    #expect(!first.isClosed && second.isClosed)
    let reply = writer.writeAll(
      Array("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$20000000\r\n".utf8)
        + [UInt8](repeating: 1, count: 20_000_002))
    server.turn(2)
    #expect(text(reply + writer.read()) == "+OK\r\n")
    #expect(!writer.isClosed)
  }

  @Test("is a part of maxmemory when it is given as one") func percent() throws {
    var settings = Settings()
    #expect(settings.clientBytesMax == Int.max)
    let setting = try #require(Setting.named("maxmemory-clients"))
    try setting.read("10%", into: &settings)
    #expect(settings.clientBytesMax == Int.max, "without maxmemory there is no part of it")
    settings.maxMemory = Settings.MemoryLimit(bytes: 1_000_000)
    #expect(settings.clientBytesMax == 100_000)
    #expect(setting.text(in: settings) == "10%")
    try setting.read("1mb", into: &settings)
    #expect(settings.clientBytesMax == 1 << 20)
  }
}

import Foundation
import TestSupport
import Testing

@testable import Valiant

@Suite("Overload") struct OverloadTests {
  @Test("a client that never reads is stopped, costs little memory, and others are served")
  func neverReads() {
    let server = TestServer()
    let value = String(repeating: "v", count: 100_000)
    _ = server.send(["SET", "big", value])
    let greedy = server.connect()
    let other = server.connect()
    // 100 MB of requests' answers; the requests themselves are 20 MB if all were read.
    let request = encode(["GET", "big"])
    var pipeline: [UInt8] = []
    for _ in 0..<1000 { pipeline += request }
    var accepted = 0
    for _ in 0..<200 {
      accepted += greedy.write(pipeline[...])
      server.turn()
      #expect(other.send("PING") == "+PONG\r\n")
    }
    #expect(accepted < 2_000_000, "reading has stopped")
    let list = other.send("CLIENT LIST")
    let output = list.split(separator: " ").compactMap { field in
      field.hasPrefix("omem=") ? Int(field.dropFirst(5)) : nil
    }
    #expect((output.max() ?? 0) > 1 << 20, "back-pressure is at work")
    #expect((output.max() ?? 0) < 3 << 20, "output is bounded")
  }

  @Test("what a client sent before it reset the connection is carried out") func reset() throws {
    let server = TestServer()
    var none: [Socket.Listening] = []
    let listening = try Socket.listen(host: "127.0.0.1", port: 0, backlog: 8, reusing: &none)[0]
    defer { close(listening.descriptor) }
    let client = try BlockingClient(port: listening.port)
    server.worker.adopt(Socket.accept(listening.descriptor), isUnix: false)
    server.turn()
    client.write("CLIENT REPLY OFF\r\nSET first 1\r\nSET second 2\r\n")
    client.reset()
    server.turn(3)
    #expect(server.worker.loop.connectionCount == 0)
    #expect(server.send("EXISTS first second") == ":2\r\n")
  }

  @Test("when it reads again, every answer comes, in order") func readsAgain() {
    let server = TestServer()
    let value = String(repeating: "v", count: 50_000)
    _ = server.send(["SET", "big", value])
    let client = server.connect()
    var requests: [UInt8] = []
    for number in 0..<300 {
      requests += encode(["GET", "big"]) + encode(["ECHO", "\(number)"])
    }
    var expected: [UInt8] = []
    for number in 0..<300 {
      expected += Array("$50000\r\n\(value)\r\n$\(String(number).utf8.count)\r\n\(number)\r\n".utf8)
    }
    var rest = requests[...]
    // First nothing is read at all.
    for _ in 0..<50 {
      rest = rest.dropFirst(client.write(rest))
      server.turn()
    }
    var reply: [UInt8] = []
    for _ in 0..<100_000 where reply.count < expected.count {
      rest = rest.dropFirst(client.write(rest))
      server.turn()
      reply += client.read()
    }
    #expect(reply == expected)
  }

  @Test("a fast reader with an endless pipeline leaves others their turn") func fairness() {
    let server = TestServer()
    _ = server.send(["SET", "big", String(repeating: "v", count: 100_000)])
    let fast = server.connect()
    let other = server.connect()
    var pipeline: [UInt8] = []
    for _ in 0..<10_000 { pipeline += encode(["GET", "big"]) }
    // After each turn of the loop the fast one has taken everything that there was.
    var written = fast.write(pipeline[...])
    var turns = 0
    _ = other.write(encode(["PING"])[...])
    var answer: [UInt8] = []
    while answer.isEmpty, turns < 10 {
      server.turn()
      turns += 1
      _ = fast.read()
      written += fast.write(pipeline[...])
      answer = other.read()
    }
    #expect(text(answer) == "+PONG\r\n")
    #expect(turns <= 3)
  }

  @Test("is closed at the hard output limit") func hardLimit() {
    let server = TestServer { $0.outputLimit.hardBytes = 2 << 20 }
    _ = server.send(["SET", "big", String(repeating: "v", count: 3 << 20)])
    let client = server.connect()
    _ = client.write((encode(["GET", "big"]) + encode(["GET", "big"]))[...])
    server.turn(10)
    _ = client.read()
    server.turn(2)
    _ = client.read()
    #expect(client.isClosed)
    #expect(server.send("INFO stats").contains("client_output_buffer_limit_disconnections:1\r\n"))
  }

  @Test("is closed at the soft output limit when it reads nothing for so long") func softLimit() {
    let server = TestServer {
      $0.outputLimit.softBytes = 1 << 20
      $0.outputLimit.softSeconds = 1
    }
    _ = server.send(["SET", "big", String(repeating: "v", count: 300_000)])
    let client = server.connect()
    for _ in 0..<20 { _ = client.write(encode(["GET", "big"])[...]) }
    let start = Date()
    while server.worker.loop.connectionCount > 1, Date().timeIntervalSince(start) < 6 {
      server.turn()
      Thread.sleep(forTimeInterval: 0.01)
    }
    #expect(server.worker.loop.connectionCount == 1, "only the client that asks is left")
    #expect(Date().timeIntervalSince(start) > 0.9)
  }

  @Test("is bounded and closed also when it asks for little at a time") func littleAtATime() {
    let server = TestServer { $0.outputLimit.hardBytes = 4 << 20 }
    _ = server.send(["SET", "k", String(repeating: "v", count: 50_000)])
    let client = server.connect()
    let request = encode(["GET", "k"])
    var sent = 0
    for _ in 0..<400 {
      sent += client.write(request[...])
      server.turn()
    }
    let list = server.send("CLIENT LIST")
    let output = list.split(separator: " ").compactMap { field in
      field.hasPrefix("omem=") ? Int(field.dropFirst(5)) : nil
    }
    #expect((output.max() ?? 0) >= 1 << 20, "back-pressure is at work")
    #expect((output.max() ?? 0) < 2 << 20, "output is bounded")
  }

  @Test("a slow reader gets every answer after QUIT") func slowAfterQuit() {
    let server = TestServer()
    _ = server.send(["SET", "k", String(repeating: "v", count: 300_000)])
    let client = server.connect()
    var requests: [UInt8] = []
    for _ in 0..<3 { requests += encode(["GET", "k"]) }
    _ = client.write((requests + encode(["QUIT"]))[...])
    // Longer than a connection lingers.
    let start = Date()
    while Date().timeIntervalSince(start) < 1.6 {
      server.turn()
      Thread.sleep(forTimeInterval: 0.01)
    }
    var count = 0
    for _ in 0..<100_000 where !client.isClosed {
      server.turn()
      count += client.read().count
    }
    #expect(count == 3 * (300_000 + 11) + 5)
  }

  @Test("commands that take long leave others their turn") func longCommands() {
    let server = TestServer()
    let greedy = server.connect()
    let other = server.connect()
    var pipeline: [UInt8] = []
    for _ in 0..<4000 { pipeline += encode(["DBSIZE"]) }
    _ = greedy.write(pipeline[...])
    _ = other.write(encode(["PING"])[...])
    var turns = 0
    var answer: [UInt8] = []
    var slowest = 0.0
    while answer.isEmpty, turns < 10 {
      let start = Date()
      server.turn()
      slowest = max(slowest, Date().timeIntervalSince(start))
      turns += 1
      answer = other.read()
    }
    #expect(text(answer) == "+PONG\r\n")
    #expect(turns <= 3)
    // All 4,000 take a good part of a second in a debug build.
    #expect(slowest < 0.2)
  }

  @Test("a request over the query buffer limit closes the client") func queryBuffer() {
    let server = TestServer { $0.queryBufferMaxBytes = 1 << 20 }
    let client = server.connect()
    let half = [UInt8](repeating: 65, count: 600_000)
    _ = client.exchangeBytes(Array("*2\r\n$4\r\nECHO\r\n$3000000\r\n".utf8) + half)
    #expect(!client.isClosed)
    _ = client.exchangeBytes(half)
    server.turn(3)
    _ = client.read()
    #expect(client.isClosed)
  }

  @Test("announced lengths and counts take no memory") func announcedOnly() {
    let server = TestServer()
    let clients = (0..<50).map { _ in server.connect() }
    for client in clients {
      _ = client.exchange("*1048576\r\n$536870912\r\n")
    }
    let list = server.send("CLIENT LIST")
    #expect(list.contains("qbuf=22"))
    for client in clients { #expect(!client.isClosed) }
  }

  @Test("a value in many pieces is put together") func bigValue() {
    let server = TestServer()
    let value = (0..<3_000_000).map { UInt8(truncatingIfNeeded: $0 &* 31) }
    var request = Array("*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$3000000\r\n".utf8) + value
    request += Array("\r\n*2\r\n$3\r\nGET\r\n$3\r\nbig\r\n".utf8)
    let client = server.connect()
    var reply: [UInt8] = []
    for start in stride(from: 0, to: request.count, by: 77_777) {
      reply += client.exchangeBytes(Array(request[start..<min(start + 77_777, request.count)]))
    }
    for _ in 0..<100_000 where reply.count < 3_000_017 {
      server.turn()
      reply += client.read()
    }
    #expect(reply == Array("+OK\r\n$3000000\r\n".utf8) + value + Array("\r\n".utf8))
  }

  @Test("half-closing still gets every answer") func halfClose() {
    let server = TestServer()
    _ = server.send(["SET", "big", String(repeating: "v", count: 100_000)])
    let client = server.connect()
    var requests: [UInt8] = []
    for _ in 0..<100 { requests += encode(["GET", "big"]) }
    _ = client.write(requests[...])
    client.shutdownOutput()
    var count = 0
    for _ in 0..<100_000 where !client.isClosed {
      server.turn()
      count += client.read().count
    }
    #expect(client.isClosed)
    #expect(count == 100 * (100_000 + 11))
  }

  @Test("disconnecting in the middle of anything does no harm") func disconnects() {
    let server = TestServer()
    _ = server.send(["SET", "big", String(repeating: "v", count: 200_000)])
    var random = Random(seed: 7)
    var stream: [UInt8] = []
    for _ in 0..<20 { stream += encode(["GET", "big"]) + encode(["SET", "k", "v"]) }
    for _ in 0..<300 {
      let client = server.connect()
      _ = client.write(stream.prefix(Int.random(in: 0...stream.count, using: &random)))
      server.turn(Int.random(in: 0...3, using: &random))
    }
    #expect(server.send("PING") == "+PONG\r\n")
    #expect(server.turn { server.worker.loop.connectionCount == 1 })
    #expect(server.server.clients.count == 1)
    server.server.store.checkInvariants()
  }

  @Test("an idle client is closed after `timeout`, an active one is not") func idleTimeout() {
    let server = TestServer { $0.timeoutSeconds = 1 }
    let idle = server.connect()
    let start = Date()
    while Date().timeIntervalSince(start) < 3.2 {
      #expect(server.send("PING") == "+PONG\r\n")
      Thread.sleep(forTimeInterval: 0.02)
    }
    _ = idle.read()
    #expect(idle.isClosed)
  }

  @Test("maxclients refuses with an error") func maxClients() {
    let server = TestServer { $0.maxClients = 2 }
    let one = server.connect()
    let two = server.connect()
    let three = server.connect()
    #expect(three.exchange("PING\r\n") == "-ERR max number of clients reached\r\n")
    #expect(three.isClosed)
    #expect(one.send("PING") == "+PONG\r\n")
    #expect(two.send("INFO stats").contains("rejected_connections:1\r\n"))
  }

  @Test("protected mode lets in only this machine") func protectedMode() {
    var settings = Settings()
    let server = Server(settings: settings)
    let outside = Socket.Address(text: "192.0.2.1:5")
    let inside = Socket.Address(text: "127.0.0.1:5", isLoopback: true)
    #expect(!server.admits(outside, settings))
    #expect(server.admits(inside, settings))
    settings.password = "x"
    #expect(server.admits(outside, settings))
    settings.password = ""
    settings.bind = ["192.0.2.7"]
    #expect(server.admits(outside, settings))
    settings.bind = Settings().bind
    settings.isProtected = false
    #expect(server.admits(outside, settings))
  }
}

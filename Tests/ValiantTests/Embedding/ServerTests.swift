import Foundation
import TestSupport
import Testing
import Valiant

@Suite("Embedded server", .serialized) struct ServerTests {
  @Test("the README's example of a server") func example() throws {
    var settings = Settings()
    settings.port = 0
    let server = Server(settings: settings)
    try server.start()
    server.store.set("greeting", to: "hello")
    let port = try #require(server.port)
    let client = try BlockingClient(port: port)
    #expect(client.ask("GET greeting") == "$5\r\nhello\r\n")
    #expect(client.ask("SET answer 42") == "+OK\r\n")
    #expect(server.store.get("answer") == "42")
    client.end()
    server.stop()
    #expect(throws: BlockingClient.Refused.self) { try BlockingClient(port: port) }
  }

  @Test("several run in one process, and on one store") func several() throws {
    var settings = Settings()
    settings.port = 0
    let store = Store()
    let servers = [
      Server(settings: settings, store: store), Server(settings: settings, store: store),
      Server(settings: settings),
    ]
    for server in servers { try server.start() }
    let clients = try servers.map { try BlockingClient(port: $0.port ?? 0) }
    #expect(clients[0].ask("SET k v") == "+OK\r\n")
    #expect(clients[1].ask("GET k") == "$1\r\nv\r\n")
    #expect(clients[2].ask("GET k") == "$-1\r\n")
    for client in clients { client.end() }
    for server in servers { server.stop() }
  }

  @Test("can be started again after it was stopped") func restart() throws {
    var settings = Settings()
    settings.port = 0
    let server = Server(settings: settings)
    for _ in 0..<5 {
      try server.start()
      #expect(throws: Server.StartFailure.self) { try server.start() }
      let client = try BlockingClient(port: server.port ?? 0)
      #expect(client.ask("PING") == "+PONG\r\n")
      let start = Date()
      server.stop()
      #expect(Date().timeIntervalSince(start) < 1)
      #expect(client.read() == "", "the connection has ended")
      client.end()
      #expect(server.port == nil)
    }
    server.stop()
  }

  @Test("a taken port is one sentence") func busyPort() throws {
    var settings = Settings()
    settings.port = 0
    let first = Server(settings: settings)
    try first.start()
    defer { first.stop() }
    settings.port = first.port ?? 0
    let second = Server(settings: settings)
    let failure = try #require(throws: Server.StartFailure.self) { try second.start() }
    #expect(
      failure.description
        == "cannot listen on 127.0.0.1:\(settings.port): Address already in use")
  }

  @Test("connections spread evenly over the loops") func spread() throws {
    let server = try Server.started(threads: 4)
    defer { server.stop() }
    let clients = try (0..<8).map { _ in try BlockingClient(port: server.port ?? 0) }
    for client in clients { #expect(client.ask("PING") == "+PONG\r\n") }
    let info = clients[0].ask("INFO threads")
    for thread in 0..<4 { #expect(info.contains("thread_\(thread):connections=2,")) }
    for client in clients { client.end() }
  }

  @Test("stopping answers what was accepted") func drain() throws {
    var settings = Settings()
    settings.port = 0
    let server = Server(settings: settings)
    try server.start()
    let clients = try (0..<20).map { _ in try BlockingClient(port: server.port ?? 0) }
    for client in clients { client.write("ECHO before\r\n") }
    server.stop()
    for client in clients {
      #expect(client.read() == "$6\r\nbefore\r\n")
      #expect(client.read() == "")
      client.end()
    }
  }

  @Test("stopping under commands that reach all loops") func stopUnderFire() throws {
    var settings = Settings()
    settings.port = 0
    settings.threads = 3
    for _ in 0..<10 {
      let server = Server(settings: settings)
      try server.start()
      let port = server.port ?? 0
      DispatchQueue.concurrentPerform(iterations: 4) { index in
        if index == 0 {
          Thread.sleep(forTimeInterval: 0.03)
          server.stop()
          return
        }
        // One client goes on while the loops without any end.
        guard index == 1, let client = try? BlockingClient(port: port) else { return server.stop() }
        while !client.ask("CONFIG SET timeout 0\r\nCLIENT KILL ID 99999\r\nFLUSHALL").isEmpty {}
        client.end()
      }
      #expect(server.port == nil)
    }
  }

  @Test("a server that nobody refers to goes on until it is stopped") func unreferenced() throws {
    var settings = Settings()
    settings.port = 0
    var server: Server? = Server(settings: settings)
    try server?.start()
    let port = server?.port ?? 0
    weak let kept = server
    server = nil
    let client = try BlockingClient(port: port)
    #expect(client.ask("PING") == "+PONG\r\n")
    Thread.sleep(forTimeInterval: 0.25)
    #expect(client.ask("PING") == "+PONG\r\n")
    client.end()
    kept?.stop()
    #expect(kept == nil)
  }

  @Test("multi-key commands in opposite orders on many threads never block each other")
  func noDeadlock() throws {
    let server = try Server.started(threads: 4)
    defer { server.stop() }
    let port = server.port ?? 0
    let keys = (0..<200).map { "key:\($0)" }
    let up = "EXISTS " + keys.joined(separator: " ")
    let down = "DEL " + keys.reversed().joined(separator: " ")
    DispatchQueue.concurrentPerform(iterations: 8) { index in
      guard let client = try? BlockingClient(port: port) else { return }
      for number in 0..<200 {
        _ = client.ask("SET key:\(number) v")
        precondition(client.ask(index % 2 == 0 ? up : down).hasPrefix(":"))
      }
      client.end()
    }
    let client = try BlockingClient(port: port)
    #expect(client.ask("PING") == "+PONG\r\n")
    client.end()
  }

  @Test("clients are listed and killed from every loop") func crossLoopKill() throws {
    var settings = Settings()
    settings.port = 0
    settings.threads = 3
    let server = Server(settings: settings)
    try server.start()
    defer { server.stop() }
    let clients = try (0..<9).map { _ in try BlockingClient(port: server.port ?? 0) }
    for (index, client) in clients.enumerated() {
      #expect(client.ask("CLIENT SETNAME c\(index)") == "+OK\r\n")
    }
    #expect(
      clients[0].ask("CLIENT LIST").split(separator: "\n").filter { $0.contains("name=c") }.count
        == 9)
    #expect(clients[4].ask("CLIENT KILL TYPE normal") == ":8\r\n")
    for (index, client) in clients.enumerated() where index != 4 { #expect(client.read() == "") }
    #expect(clients[4].ask("PING") == "+PONG\r\n")
    for client in clients { client.end() }
  }

  @Test("the README's example of a store") func storeExample() {
    let store = Store()
    store.set("greeting", to: "hello", expiresIn: .seconds(60))
    #expect(store.get("greeting") == "hello")
    #expect(store.count() == 1)
    store.delete("greeting")
    #expect(!store.exists("greeting"))
  }
}

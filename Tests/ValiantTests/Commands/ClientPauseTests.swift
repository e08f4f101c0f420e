import Foundation
import Testing

@testable import Valiant

@Suite("CLIENT PAUSE") struct ClientPauseTests {
  let server = TestServer()

  @Test("all commands wait, in their order, and are answered behind the pause") func all() {
    let other = server.connect()
    _ = server.send("SET k 1")
    let start = Clock.steadyMilliseconds
    // Long enough for all that follows, on a slow machine as well.
    #expect(server.send("CLIENT PAUSE 3000") == "+OK\r\n")
    #expect(other.exchange("INCR k\r\nGET k\r\nPING\r\n") == "")
    #expect(other.exchange("GET k\r\n") == "")
    let late = server.connect()
    #expect(late.exchange("*2\r\n$3\r\nGET\r\n$1\r\nx\r\n") == "")
    var reply = ""
    while reply.isEmpty, Clock.steadyMilliseconds - start < 30_000 { reply = other.exchange("") }
    #expect(Clock.steadyMilliseconds - start >= 2999)
    #expect(reply == ":2\r\n$1\r\n2\r\n+PONG\r\n$1\r\n2\r\n")
    #expect(late.exchange("") == "$-1\r\n")
    #expect(server.send("PING") == "+PONG\r\n")
  }

  @Test("in a pause for writes others go on") func writes() {
    _ = server.send("SET k 1")
    let (reader, writer, third) = (server.connect(), server.connect(), server.connect())
    #expect(server.send("CLIENT PAUSE 100000 WRITE") == "+OK\r\n")
    #expect(reader.send("INFO clients").contains("paused_actions:write\r\n"))
    #expect(reader.send("GET k") == "$1\r\n1\r\n")
    #expect(writer.exchange("GET k\r\nSET k 2\r\nGET k\r\n") == "$1\r\n1\r\n")
    #expect(third.send("PUBLISH c m") == "")
    #expect(reader.send("GET k") == "$1\r\n1\r\n")
    #expect(reader.exchange("MULTI\r\nGET k\r\nEXEC\r\n") == "+OK\r\n+QUEUED\r\n*1\r\n$1\r\n1\r\n")
    // It never becomes shorter or less strict, but by being ended.
    #expect(reader.send("CLIENT PAUSE 1 ALL") == "+OK\r\n")
    #expect(reader.send("GET k") == "")
    let operation = server.connect()
    #expect(operation.send("CLIENT UNPAUSE") == "+OK\r\n")
    #expect(writer.exchange("") == "+OK\r\n$1\r\n2\r\n")
    #expect(operation.send("INFO clients").contains("paused_actions:none\r\n"))
    #expect(third.exchange("") == ":0\r\n")
    #expect(reader.exchange("") == "$1\r\n2\r\n")
  }

  @Test("who gives up waiting is not kept, and what it asked for is not done") func givenUp() {
    _ = server.send("CLIENT PAUSE 100000 ALL")
    do {
      let other = server.connect()
      #expect(other.send("SET k 1") == "")
      #expect(server.server.clients.count == 2)
    }
    server.turn(3)
    #expect(server.server.clients.count == 1)
    #expect(server.send("CLIENT UNPAUSE") == "+OK\r\n")
    #expect(server.send("EXISTS k") == ":0\r\n")
  }

  @Test(
    "who is let go and begins another pause holds up those behind it", arguments: [true, false])
  func again(endsByItself: Bool) {
    let clients = (0..<6).map { _ in server.connect() }
    _ = server.send("CLIENT PAUSE \(endsByItself ? 3000 : 30_000_000) ALL")
    // Whichever of them is first.
    for (number, client) in clients.enumerated() {
      #expect(client.exchange("CLIENT PAUSE 100000 ALL\r\nSET k\(number) 1\r\n") == "")
    }
    if !endsByItself { #expect(server.connect().send("CLIENT UNPAUSE") == "+OK\r\n") }
    #expect(
      server.turn(until: {
        let left = (server.server.pause?.end ?? 0) - Clock.steadyMilliseconds
        return left > 10_000 && left < 1_000_000
      }))
    let answers = clients.map { $0.exchange("") }
    #expect(answers.filter { $0 == "+OK\r\n" }.count == 1, "\(answers)")
    #expect(answers.filter { $0.isEmpty }.count == 5, "\(answers)")
    #expect(server.send("CLIENT UNPAUSE") == "+OK\r\n")
    #expect(server.send("DBSIZE") == ":0\r\n" || server.send("DBSIZE") == "")
  }

  @Test("a command whose reply is not wanted waits as well, and stays unwanted") func skipped() {
    let other = server.connect()
    _ = server.send("CLIENT PAUSE 100000 WRITE")
    #expect(other.exchange("CLIENT REPLY SKIP\r\nSET k 1\r\nPING\r\n") == "")
    _ = server.send("CLIENT UNPAUSE")
    #expect(other.exchange("") == "+PONG\r\n")
    #expect(server.send("GET k") == "$1\r\n1\r\n")
  }

  @Test("a long value that comes in pieces waits in one piece") func longValue() {
    let other = server.connect()
    _ = server.send("CLIENT PAUSE 100000 ALL")
    let value = String(repeating: "v", count: 300_000)
    #expect(other.send(["SET", "k", value]) == "")
    _ = server.send("CLIENT UNPAUSE")
    var reply = ""
    for _ in 0..<20 where reply.isEmpty { reply = other.exchange("") }
    #expect(reply == "+OK\r\n")
    #expect(server.send("STRLEN k") == ":300000\r\n")
  }

  @Test("may be longer than any timer counts") func long() {
    for timeout in ["3000000000", "4611686018427387902"] {
      #expect(server.send("CLIENT PAUSE \(timeout) WRITE") == "+OK\r\n")
      #expect(server.send("SET k 1") == "")
      #expect(server.connect().send("CLIENT UNPAUSE") == "+OK\r\n")
      #expect(server.send("PING") == "+OK\r\n+PONG\r\n")
    }
    #expect(server.connect().send("GET k") == "$1\r\n1\r\n")
  }

  @Test("says what is wrong") func errors() {
    #expect(server.send("CLIENT PAUSE x") == "-ERR timeout is not an integer or out of range\r\n")
    #expect(server.send("CLIENT PAUSE -1") == "-ERR timeout is negative\r\n")
    #expect(server.send("CLIENT PAUSE 1 x") == "-ERR CLIENT PAUSE mode must be WRITE or ALL\r\n")
    #expect(server.send("CLIENT UNPAUSE") == "+OK\r\n")
  }
}

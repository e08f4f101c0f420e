import Foundation
import Testing

@testable import Valiant

/// Requests of every command, good and bad, as one stream.
private let transcript: [[String]] = [
  ["PING"], ["PING", "x"], ["ECHO", "hello"], ["SET", "k", "v"], ["GET", "k"],
  ["SET", "k", "12345", "EX", "100"], ["TTL", "k"], ["GET", "k"],
  ["SET", "k", "w", "KEEPTTL", "GET"],
  ["SET", "k", "v", "NX"], ["SET", "k", "v", "BOGUS"], ["EXISTS", "k", "none", "k"],
  ["FOO", "bar"], ["GET"], ["SELECT", "1"], ["SET", "other", String(repeating: "x", count: 500)],
  ["GET", "other"], ["SELECT", "0"], ["DEL", "k", "other"], ["DBSIZE"],
  ["CLIENT", "REPLY", "SKIP"],
  ["PING"], ["CLIENT", "SETNAME", "me"], ["CLIENT", "GETNAME"], ["HELLO", "3"], ["GET", "none"],
  ["CONFIG", "GET", "maxclients"], ["COMMAND", "INFO", "get"],
  ["COMMAND", "GETKEYS", "SET", "a", "b"],
  ["RESET"], ["FLUSHALL"], [""], ["PTTL", "none"], ["QUIT"],
]

@Suite("A stream of requests") struct SplitEverywhereTests {
  private var stream: [UInt8] {
    var bytes: [UInt8] = []
    for (index, request) in transcript.enumerated() {
      bytes += encode(request)
      // Inline requests between the others.
      if index % 5 == 0 { bytes += Array("PING\r\n".utf8) }
    }
    return bytes
  }

  @Test("is answered the same however it is cut in two") func cutInTwo() {
    let server = TestServer()
    let bytes = stream
    let whole = normalized(server.connect().exchange(bytes))
    #expect(whole.hasPrefix("+PONG\r\n+PONG\r\n$1\r\nx\r\n"))
    #expect(whole.hasSuffix("+OK\r\n"))
    for cut in 1..<bytes.count {
      let client = server.connect()
      let reply = client.exchange(Array(bytes[..<cut])) + client.exchange(Array(bytes[cut...]))
      #expect(normalized(reply) == whole, "cut at \(cut)")
    }
  }

  @Test("is answered the same byte by byte") func byteByByte() {
    let server = TestServer()
    let whole = normalized(server.connect().exchange(stream))
    let client = server.connect()
    var reply = ""
    for byte in stream { reply += client.exchange([byte]) }
    #expect(normalized(reply) == whole)
  }

  /// HELLO's answer holds the client's number.
  private func normalized(_ reply: String) -> String {
    guard let id = reply.range(of: "$2\r\nid\r\n:") else { return reply }
    return reply.replacingCharacters(
      in: id.upperBound..<(reply[id.upperBound...].firstIndex(of: "\r\n") ?? reply.endIndex),
      with: "N")
  }
}

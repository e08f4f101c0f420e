import Testing

@testable import Valiant

private func written(_ version: Int, _ body: (inout ReplyWriter) -> Void) -> String {
  var reply = ReplyWriter()
  reply.protocolVersion = version
  body(&reply)
  return reply.output.bytes.bytes.text
}

@Suite("Reply writer") struct ReplyWriterTests {
  @Test("writes what is the same in both protocols", arguments: [2, 3]) func common(_ version: Int)
  {
    #expect(written(version) { $0.ok() } == "+OK\r\n")
    #expect(written(version) { $0.status("PONG") } == "+PONG\r\n")
    #expect(written(version) { $0.integer(-42) } == ":-42\r\n")
    #expect(written(version) { $0.integer(.min) } == ":-9223372036854775808\r\n")
    #expect(written(version) { $0.bulkString("a\r\nb") } == "$4\r\na\r\nb\r\n")
    #expect(written(version) { $0.bulkString("") } == "$0\r\n\r\n")
    #expect(written(version) { $0.array(3) } == "*3\r\n")
  }

  @Test("writes nulls, maps, sets and texts as the protocol has them") func different() {
    #expect(written(2) { $0.null() } == "$-1\r\n")
    #expect(written(3) { $0.null() } == "_\r\n")
    #expect(written(2) { $0.nullArray() } == "*-1\r\n")
    #expect(written(3) { $0.nullArray() } == "_\r\n")
    #expect(written(2) { $0.map(2) } == "*4\r\n")
    #expect(written(3) { $0.map(2) } == "%2\r\n")
    #expect(written(2) { $0.set(2) } == "*2\r\n")
    #expect(written(3) { $0.set(2) } == "~2\r\n")
    #expect(written(2) { $0.verbatim("hi") } == "$2\r\nhi\r\n")
    #expect(written(3) { $0.verbatim("hi") } == "=6\r\ntxt:hi\r\n")
  }

  @Test("keeps an error on one line") func errorLine() {
    #expect(written(2) { $0.error(Array("ERR a\r\nb".utf8)) } == "-ERR a  b\r\n")
  }

  @Test("writes bulk strings of every length") func lengths() {
    for length in 0...300 {
      let value = String(repeating: "v", count: length)
      #expect(
        withBytes(value) { bytes in written(2) { $0.bulkString(bytes) } }
          == "$\(length)\r\n\(value)\r\n")
    }
  }
}

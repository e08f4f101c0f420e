import Testing

@testable import Valiant

/// Everything the parser finds in a stream that arrives in the given pieces.
///
/// - Parameter discards: Whether each request that is not whole yet is thrown away.
private func parse(
  _ pieces: [[UInt8]], limits: RequestParser.Limits = .init(), discards: Bool = false
) -> [String] {
  var parser = RequestParser()
  parser.limits = limits
  var found: [String] = []
  var input: [UInt8] = []
  for piece in pieces {
    input += piece
    let used = input.withBytes { bytes -> Int? in
      parser.startBatch()
      while true {
        switch parser.next(bytes) {
        case .request:
          found.append(describe(parser, bytes))
        case .inlineRequest:
          found.append(describe(parser, parser.inlineBytes.bytes))
          parser.startBatch()
        case .incomplete:
          if discards, parser.partialName(bytes) != nil { parser.discard(bytes) }
          return parser.consumed
        case .discarded:
          found.append("discarded")
        case .failed(let error):
          found.append("error: \(error.text)")
          return nil
        case .crossProtocol:
          found.append("http")
          return nil
        }
      }
    }
    guard let used else { return found }
    parser.dropConsumed()
    input.removeFirst(used)
  }
  return found
}

private func describe(_ parser: borrowing RequestParser, _ bytes: Bytes) -> String {
  let request = parser.request(
    in: bytes, firstArgument: parser.requestStart,
    count: parser.arguments.count - parser.requestStart)
  return (0..<request.count).map { "<\(request[$0].text)>" }.joined()
}

private func parse(_ text: String) -> [String] { parse([Array(text.utf8)]) }

/// Streams of which every cut must give the same requests.
private let corpus: [String] = [
  "*1\r\n$4\r\nPING\r\n",
  "*2\r\n$3\r\nGET\r\n$5\r\nhello\r\n*1\r\n$4\r\nPING\r\n",
  "*3\r\n$3\r\nSET\r\n$16\r\nkey:000000000001\r\n$0\r\n\r\n",
  "*2\r\n$4\r\nECHO\r\n$120\r\n\(String(repeating: "x", count: 120))\r\n",
  "*0\r\n*-1\r\n*-2\r\n*1\r\n$4\r\nPING\r\n",
  "*12\r\n$3\r\nDEL\r\n" + (1...11).map { "$2\r\n\($0 + 10)\r\n" }.joined(),
  "PING\r\n\r\n  \r\nGET \"a b\\x41\\n\"\r\nSET a'b' c\n",
  "PING\n*1\r\n$4\r\nPING\r\nPING\r\n",
  "*2\r\n$4\r\nECHO\r\n$2\r\n\r\n\r\n",
  "*1\r\n$4\r\nPINGxy*1\r\n$4\r\nPING\r\n",
  "$4\r\nPING\r\n",
  "*x\r\n", "*1\r\n$x\r\n", "*1\r\n$-1\r\n", "*1\r\n:1\r\n", "*2147483648\r\n",
  "*1\r\n$536870913\r\n", "*+1\r\n", "*01\r\n", "*1\r\n$04\r\nPING\r\n", "* 1\r\n",
  "SET \"a b\r\n", "SET \"a\"b\r\n", "SET 'a\r\n", "POST / HTTP/1.1\r\n", "host: x\r\n",
  "*1\r\n$4\r\nPING\r\nHost: x\r\n",
]

@Suite("Request parser") struct RequestParserTests {
  @Test("finds the same requests however the stream is cut in two", arguments: corpus)
  func twoPieces(_ stream: String) {
    let bytes = Array(stream.utf8)
    let whole = parse([bytes])
    for cut in 0...bytes.count {
      #expect(parse([Array(bytes[..<cut]), Array(bytes[cut...])]) == whole, "cut at \(cut)")
    }
  }

  @Test("finds the same requests byte by byte", arguments: corpus)
  func byteByByte(_ stream: String) {
    let bytes = Array(stream.utf8)
    #expect(parse(bytes.map { [$0] }) == parse([bytes]))
  }

  @Test("throws a request away however it arrives, and finds the others", arguments: corpus)
  func discarding(_ stream: String) {
    let bytes = Array(stream.utf8)
    let whole = parse([bytes])
    var discarded = 0
    for cut in 0...bytes.count {
      let found = parse([Array(bytes[..<cut]), Array(bytes[cut...])], discards: true)
      #expect(found.count == whole.count, "cut at \(cut)")
      for (one, other) in zip(found, whole) where one != other {
        #expect(one == "discarded", "cut at \(cut)")
        discarded += 1
      }
    }
    let pieces = parse(bytes.map { [$0] }, discards: true)
    #expect(pieces.count == whole.count)
    if stream.hasPrefix("*2\r") { #expect(discarded > 0 && pieces.contains("discarded")) }
  }

  @Test("says how much is missing of an argument") func missing() {
    var parser = RequestParser()
    Array("*2\r\n$4\r\nECHO\r\n$100\r\nabc".utf8).withBytes { bytes in
      guard case .incomplete = parser.next(bytes) else { return #expect(Bool(false)) }
      #expect(parser.missing(bytes) == 99)
      #expect(parser.partialName(bytes)?.text == "ECHO")
    }
    var other = RequestParser()
    Array("*2\r\n$4\r\nECHO\r\n$10".utf8).withBytes { bytes in
      guard case .incomplete = other.next(bytes) else { return #expect(Bool(false)) }
      #expect(other.missing(bytes) == 0)
    }
  }

  @Test("understands arrays of bulk strings") func arrays() {
    #expect(parse("*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*1\r\n$4\r\nPING\r\n") == ["<GET><k>", "<PING>"])
    #expect(parse("*0\r\n*-1\r\n*-5\r\n").isEmpty)
    #expect(parse("*1\r\n$0\r\n\r\n") == ["<>"])
    // The bytes behind a payload are skipped unseen.
    #expect(parse("*1\r\n$4\r\nPINGxy*1\r\n$1\r\na\r\n") == ["<PING>", "<a>"])
  }

  @Test("understands inline requests") func inline() {
    #expect(parse("PING\r\n") == ["<PING>"])
    #expect(parse("PING\n \t\r\n\r\nGET  a \r\n") == ["<PING>", "<GET><a>"])
    #expect(parse("S \"a\\x41\\n\\q\\\"\" 'b\\'c\\n' a\"b\"\r\n") == ["<S><aA\nq\"><b'c\\n><ab>"])
    #expect(parse("S \"\" ''\r\n") == ["<S><><>"])
    #expect(parse("$4\r\nPING\r\n") == ["<$4>", "<PING>"])
    // A NUL hides the line's end, as in Redis.
    #expect(parse("PI\0NG\r\n").isEmpty)
  }

  @Test(
    "refuses what is not RESP, in Redis's words",
    arguments: [
      ("*x\r\n", "invalid multibulk length"),
      ("*2147483648\r\n", "invalid multibulk length"),
      ("*\r\n", "invalid multibulk length"),
      ("*+1\r\n", "invalid multibulk length"),
      ("*01\r\n", "invalid multibulk length"),
      ("*1\r\n:1\r\n", "expected '$', got ':'"),
      ("*1\r\n$x\r\n", "invalid bulk length"),
      ("*1\r\n$-1\r\n", "invalid bulk length"),
      ("*1\r\n$536870913\r\n", "invalid bulk length"),
      ("*1\r\n$99999999999999999999\r\n", "invalid bulk length"),
      ("S \"a\r\n", "unbalanced quotes in request"),
      ("S \"a\"b\r\n", "unbalanced quotes in request"),
      ("S 'a'b\r\n", "unbalanced quotes in request"),
    ]) func errors(_ stream: String, _ error: String)
  {
    #expect(parse(stream) == ["error: \(error)"])
    // Requests in front of it are still found.
    #expect(parse("*1\r\n$4\r\nPING\r\n" + stream) == ["<PING>", "error: \(error)"])
  }

  @Test("refuses lines of more than 64 KiB") func longLines() {
    let long = String(repeating: "1", count: 64 * 1024 + 1)
    #expect(parse("*" + long) == ["error: too big mbulk count string"])
    #expect(parse("*1\r\n$" + long) == ["error: too big bulk count string"])
    #expect(parse(long) == ["error: too big inline request"])
    #expect(parse("*" + long.dropLast(3)).isEmpty)
    #expect(parse(String(long.dropLast())).isEmpty)
  }

  @Test("reads only short requests before a client has logged in") func unauthenticated() {
    var limits = RequestParser.Limits()
    limits.isAuthenticated = false
    func found(_ text: String) -> [String] { parse([Array(text.utf8)], limits: limits) }
    #expect(found("*11\r\n") == ["error: unauthenticated multibulk length"])
    #expect(found("*1\r\n$16385\r\n") == ["error: unauthenticated bulk length"])
    #expect(found("*1\r\n$4\r\nPING\r\n") == ["<PING>"])
    #expect(found("*10\r\n$16384\r\n").isEmpty)
  }

  @Test("takes memory only for what has arrived") func announcedOnly() {
    // A count and a length at their limits, of which nothing follows.
    #expect(parse("*2147483647\r\n").isEmpty)
    #expect(parse("*2\r\n$3\r\nSET\r\n$536870912\r\n").isEmpty)
  }

  @Test("recognises HTTP and says nothing") func crossProtocol() {
    #expect(parse("POST / HTTP/1.1\r\n") == ["http"])
    #expect(parse("GET / HTTP/1.1\r\nHost: a\r\n") == ["<GET></><HTTP/1.1>", "http"])
    #expect(parse("hOsT:\r\n") == ["http"])
  }

  @Test("finds requests of many arguments in any pieces") func manyArguments() {
    let arguments = (0..<5000).map { "argument \($0)" }
    let bytes = encode(arguments)
    let whole = arguments.map { "<\($0)>" }.joined()
    for size in [1000, 4096, 65536] {
      let pieces = stride(from: 0, to: bytes.count, by: size).map {
        Array(bytes[$0..<min($0 + size, bytes.count)])
      }
      #expect(parse(pieces) == [whole])
    }
  }
}

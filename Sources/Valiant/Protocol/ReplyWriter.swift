/// Writes replies in RESP2 or RESP3 into the output of a loop.
///
/// Handlers say what a reply is (a map, a null, a text); how that looks in the client's protocol is
/// decided here. Sources: RESP specification; for which type Redis uses where, its replies.
struct ReplyWriter: ~Copyable {
  /// What has been written and not yet been sent.
  var output = OutputBuffer()
  /// 2 or 3: the protocol of the client that is being answered.
  var protocolVersion = 2

  /// The kernel reads what is in no cache more slowly than we do: up to here a value costs 3 to 10 %
  /// less when it is copied first.
  static let attachedMin = 256 * 1024

  init() {}

  // MARK: Simple replies

  @inline(__always)
  mutating func ok() {
    output.bytes.append(literal: "+OK\r\n")
  }

  /// A status, `+text`.
  @inline(__always)
  mutating func status(_ text: StaticString) {
    output.bytes.append(UInt8(ascii: "+"))
    output.bytes.append(literal: text)
    output.bytes.appendLineEnd()
  }

  mutating func status(text: String) {
    output.bytes.append(UInt8(ascii: "+"))
    output.bytes.append(text)
    output.bytes.appendLineEnd()
  }

  /// An error, `-text`; line ends in the text become blanks, so that it stays one line.
  mutating func error(_ text: [UInt8]) { line(UInt8(ascii: "-"), text) }

  /// A status of any bytes, in the same way.
  mutating func status(line text: [UInt8]) { line(UInt8(ascii: "+"), text) }

  private mutating func line(_ type: UInt8, _ text: [UInt8]) {
    output.bytes.append(type)
    for byte in text {
      let endsLine = byte == UInt8(ascii: "\r") || byte == UInt8(ascii: "\n")
      output.bytes.append(endsLine ? UInt8(ascii: " ") : byte)
    }
    output.bytes.appendLineEnd()
  }

  @inline(__always)
  mutating func integer(_ number: Int) {
    output.bytes.append(line: UInt8(ascii: ":"), number)
  }

  @inline(__always)
  mutating func bulkString(_ bytes: Bytes) {
    output.bytes.append(bulk: bytes)
  }

  /// A long bulk string, which is sent from the block that it lies in, unless copying costs less.
  mutating func bulkString(_ bytes: Bytes, in block: SharedBlock) {
    if bytes.count < Self.attachedMin { return bulkString(bytes) }
    header(UInt8(ascii: "$"), bytes.count)
    output.attach(bytes, in: block)
    output.bytes.appendLineEnd()
  }

  /// A number as a bulk string.
  mutating func bulkString(_ number: Int) {
    // One or two digits for the length of at most 20.
    let digits = String(number)
    bulkString(digits)
  }

  mutating func bulkString(_ text: String) {
    header(UInt8(ascii: "$"), text.utf8.count)
    output.bytes.append(text)
    output.bytes.appendLineEnd()
  }

  /// Nothing: a missing key, a refused SET NX.
  @inline(__always)
  mutating func null() {
    if protocolVersion == 3 {
      output.bytes.append(literal: "_\r\n")
    } else {
      output.bytes.append(literal: "$-1\r\n")
    }
  }

  /// Nothing where otherwise an array stands.
  mutating func nullArray() {
    if protocolVersion == 3 {
      output.bytes.append(literal: "_\r\n")
    } else {
      output.bytes.append(literal: "*-1\r\n")
    }
  }

  /// A number with decimals, which are given as text.
  mutating func double(_ text: String) {
    guard protocolVersion == 3 else { return bulkString(text) }
    output.bytes.append(UInt8(ascii: ","))
    output.bytes.append(text)
    output.bytes.appendLineEnd()
  }

  /// A whole number of any length, as text.
  mutating func bigNumber(_ digits: String) {
    guard protocolVersion == 3 else { return bulkString(digits) }
    output.bytes.append(UInt8(ascii: "("))
    output.bytes.append(digits)
    output.bytes.appendLineEnd()
  }

  /// The same of any bytes.
  mutating func bigNumber(line digits: [UInt8]) {
    guard protocolVersion == 3 else { return digits.withBytes { bulkString($0) } }
    line(UInt8(ascii: "("), digits)
  }

  /// Yes or no; in RESP2 1 or 0.
  mutating func boolean(_ value: Bool) {
    if protocolVersion == 3 {
      output.bytes.append(literal: value ? "#t\r\n" : "#f\r\n")
    } else {
      integer(value ? 1 : 0)
    }
  }

  /// Text for people, such as INFO: marked as such in RESP3.
  mutating func verbatim(_ text: String) {
    guard protocolVersion == 3 else { return bulkString(text) }
    header(UInt8(ascii: "="), text.utf8.count + 4)
    output.bytes.append(literal: "txt:")
    output.bytes.append(text)
    output.bytes.appendLineEnd()
  }

  /// The same for text of another format, which three letters say.
  mutating func verbatim(_ format: [UInt8], _ text: [UInt8]) {
    guard protocolVersion == 3 else { return text.withBytes { bulkString($0) } }
    header(UInt8(ascii: "="), text.count + 4)
    (format.prefix(3) + Array(repeating: UInt8(ascii: " "), count: max(0, 3 - format.count)))
      .withBytes { output.bytes.append($0) }
    output.bytes.append(UInt8(ascii: ":"))
    text.withBytes { output.bytes.append($0) }
    output.bytes.appendLineEnd()
  }

  // MARK: Aggregates: the header, behind which the caller writes the elements

  mutating func array(_ count: Int) {
    header(UInt8(ascii: "*"), count)
  }

  /// A map of `count` pairs; in RESP2 an array of twice as many.
  mutating func map(_ count: Int) {
    if protocolVersion == 3 {
      header(UInt8(ascii: "%"), count)
    } else {
      header(UInt8(ascii: "*"), count * 2)
    }
  }

  /// A set; in RESP2 an array.
  mutating func set(_ count: Int) {
    header(protocolVersion == 3 ? UInt8(ascii: "~") : UInt8(ascii: "*"), count)
  }

  /// `count` pairs that say something about the reply behind them. RESP3 only.
  mutating func attribute(_ count: Int) { header(UInt8(ascii: "|"), count) }

  /// What comes without having been asked for, or is treated like that: a message.
  mutating func push(_ count: Int) {
    header(protocolVersion == 3 ? UInt8(ascii: ">") : UInt8(ascii: "*"), count)
  }

  @inline(__always)
  private mutating func header(_ type: UInt8, _ count: Int) {
    output.bytes.append(line: type, count)
  }
}

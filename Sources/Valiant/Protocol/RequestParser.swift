import Glibc

/// Finds requests in a stream of bytes: RESP arrays of bulk strings, and inline lines.
///
///     *2\r\n $3\r\nGET\r\n $5\r\nhello\r\n        an array: any bytes as arguments
///     GET "he llo"\r\n                            inline: what a person types
///
/// The caller keeps the input; the parser keeps a position in it and the ranges of the arguments
/// found so far. A request may arrive in any fragments: scanning goes on where it stopped, so a
/// request costs O(length) however it is cut, and nothing is allocated for a length or a count that
/// was only announced.
///
/// Invariants:
/// 1. `position` is at most the input's count; everything before it has been understood.
/// 2. `argumentsLeft` is 0 between requests; then `arguments` holds whole requests only.
/// 3. `bulkLength` is -1 unless the length line of the argument at `position` has been read.
///
/// Behaviour follows redis-server 7.0.15 to the byte (networking.c is its reference); where that
/// stops looking for a line's end at a NUL byte in an array, this does not.
struct RequestParser: ~Copyable {
  enum Outcome {
    /// A request: its arguments are those from `requestStart` on.
    case request
    /// An inline request; its arguments are ranges of `inlineBytes`.
    case inlineRequest
    /// All complete requests have been taken.
    case incomplete
    /// A request that was discarded has come to its end.
    case discarded
    /// The stream cannot be understood any further.
    case failed(ProtocolError)
    /// An HTTP request: some web page is being used to attack; close without a word.
    case crossProtocol
  }

  struct Limits {
    /// The longest argument, 1 MiB to 4 GiB; Redis's `proto-max-bulk-len`.
    var bulkLengthMax = 512 << 20
    /// Before a client has logged in only short requests are read.
    var isAuthenticated = true

    static let argumentsMax = Int(Int32.max)
    static let lineLengthMax = 64 * 1024
    static let unauthenticatedArgumentsMax = 10
    static let unauthenticatedBulkLengthMax = 16384
  }

  var limits = Limits()
  private(set) var arguments = ArgumentList()
  /// Index in `arguments` of the first argument of the latest request.
  private(set) var requestStart = 0
  /// The unquoted arguments of an inline request.
  private(set) var inlineBytes = ByteBuffer()
  /// How much of the input has been understood.
  private(set) var position = 0
  private var argumentsLeft = 0
  private var bulkLength = -1
  /// Where the request that is being read begins.
  private var start = 0
  /// Whether the rest of that request is thrown away, and what is still to come of an argument.
  private var isDiscarding = false
  private var discardLeft = 0

  init() {}

  /// Whether the input ends within a request of which something has been understood.
  var isWithinRequest: Bool { argumentsLeft > 0 }

  /// Bytes of the input that belong to requests that were returned.
  var consumed: Int { argumentsLeft > 0 && !isDiscarding ? start : position }

  /// Bytes that are missing of the argument in whose middle `input` ends; 0 if it ends elsewhere.
  func missing(_ input: Bytes) -> Int {
    bulkLength < 0 ? 0 : position + bulkLength + 2 - input.count
  }

  /// The name of the command that is being read, if that has been read.
  func partialName(_ input: Bytes) -> Bytes? {
    if argumentsLeft == 0 || isDiscarding || arguments.count == requestStart { return nil }
    return request(in: input, firstArgument: requestStart, count: 1)[0]
  }

  /// Throws away what there is of the request that is being read, and what will come of it.
  mutating func discard(_ input: Bytes) {
    precondition(argumentsLeft > 0, "no request is being read")
    isDiscarding = true
    discardLeft = missing(input)
    if bulkLength >= 0 { position = input.count }
    bulkLength = -1
    arguments.truncate(to: requestStart)
  }

  /// Forgets the requests returned so far; their ranges become invalid.
  @inline(__always)
  mutating func startBatch() {
    if argumentsLeft == 0 { arguments.truncate(to: 0) } else { keepPartialArguments() }
  }

  @inline(never)
  private mutating func keepPartialArguments() {
    if requestStart == 0 { return }
    arguments.rebase(from: requestStart, by: 0)
    requestStart = 0
  }

  /// Tells the parser that the first `consumed` bytes of the input are being dropped.
  mutating func dropConsumed() {
    let dropped = consumed
    if dropped == 0 { return }
    if argumentsLeft > 0, !isDiscarding {
      arguments.rebase(from: requestStart, by: dropped)
    } else {
      arguments.truncate(to: 0)
    }
    requestStart = 0
    position -= dropped
    start = 0
  }

  /// Forgets everything behind `end`, the end of a request, to find it again later.
  mutating func rewind(to end: Int) {
    position = end
    argumentsLeft = 0
    bulkLength = -1
    isDiscarding = false
    discardLeft = 0
  }

  /// The request whose arguments begin at `firstArgument`.
  ///
  /// - Parameter input: The same bytes in which it was found; `inlineBytes` for an inline one.
  @inline(__always)
  func request(in input: Bytes, firstArgument: Int, count: Int) -> Request {
    // SAFETY: ranges were made within this input and list, which the caller keeps in place.
    unsafe Request(
      base: input.pointer, ranges: arguments.pointer(from: firstArgument), count: count)
  }

  /// Looks for the next request in `input`, which begins where it began at the last call, unless
  /// `dropConsumed` was called in between.
  @inline(__always)
  mutating func next(_ input: Bytes) -> Outcome {
    if argumentsLeft == 0, limits.isAuthenticated, takeSimple(input) { return .request }
    return nextSlowly(input)
  }

  /// Takes a request that is complete and written as clients write it: up to 99 arguments of up
  /// to nine digits of length. Whatever else is there is left to `nextSlowly`, from the beginning.
  ///
  /// Nearly all requests are such. Nothing is stored before the end is reached, so that position
  /// and counts stay in registers.
  @inline(__always)
  private mutating func takeSimple(_ input: Bytes) -> Bool {
    let first = position
    // Where the last whole word begins.
    let lastWord = input.count &- 4
    guard first <= lastWord else { return false }
    // SAFETY: just checked, here and below; positions are never negative.
    let head = unsafe input.word(at: first)
    var count = Self.digits(of: head, in: Self.countLine)
    var index = first &+ 4
    if count &- 1 >= 9 {
      // Two digits: requests for many keys.
      let two = Self.digits(of: head, in: Self.longCountLine)
      guard two < 0xa00, (two & 0xff) &- 1 < 9, index < input.count, input[index] == 0x0a else {
        return false
      }
      count = (two & 0xff) &* 10 &+ two &>> 8
      index &+= 1
    }
    // SAFETY: at most `simpleArgumentsMax` ranges are written.
    let ranges = unsafe arguments.freeSpace(Self.simpleArgumentsMax)
    var found = 0
    while found < Int(count) {
      guard index <= lastWord else { return false }
      let line = unsafe input.word(at: index)
      let short = Self.digits(of: line, in: Self.shortLengthLine)
      let two = Self.digits(of: line, in: Self.mediumLengthLine)
      var length: Int
      if short <= 9 {
        length = Int(short)
        index &+= 4
      } else if two < 0xa00, (two & 0xff) &- 1 < 9 {
        length = Int((two & 0xff) &* 10 &+ two &>> 8)
        index &+= 5
      } else {
        length = Int((line &>> 8) & 0xff) &- 0x30
        guard line & 0xff == 0x24, UInt(bitPattern: length &- 1) < 9 else { return false }
        index &+= 2
        let digitsEnd = min(index &+ 8, input.count &- 1)
        while index < digitsEnd {
          let digit = input[index] &- 0x30
          if digit > 9 { break }
          length = length &* 10 &+ Int(digit)
          index &+= 1
        }
        guard index < digitsEnd, input[index] == 0x0d, length <= limits.bulkLengthMax else {
          return false
        }
        index &+= 2
      }
      unsafe ranges[found] = ArgumentRange(offset: index, length: length)
      index &+= length &+ 2
      guard index <= input.count else { return false }
      found &+= 1
    }
    start = first
    requestStart = arguments.count
    arguments.didAppend(found)
    position = index
    return true
  }

  private static let simpleArgumentsMax = 99
  /// `*0\r\n`, `*00\r`, and the same with a dollar sign.
  private static let countLine: UInt32 = 0x0a0d_302a
  private static let longCountLine: UInt32 = 0x0d30_302a
  private static let shortLengthLine: UInt32 = 0x0a0d_3024
  private static let mediumLengthLine: UInt32 = 0x0d30_3024

  /// What four bytes have more than `line`, whose digits are zeros, with the first digit lowest:
  /// if it is a number of digits, they are a line like it. Three instructions for four comparisons.
  @inline(__always)
  private static func digits(of word: UInt32, in line: UInt32) -> UInt32 {
    let rest = word &- line
    return rest &>> 8 | rest &<< 24
  }

  @inline(never)
  private mutating func nextSlowly(_ input: Bytes) -> Outcome {
    if argumentsLeft == 0 {
      // Empty arrays and blank lines are requests for nothing: go on behind them.
      while true {
        guard position < input.count else { return .incomplete }
        start = position
        requestStart = arguments.count
        if input[position] != UInt8(ascii: "*") {
          let outcome = nextInline(input)
          if let outcome { return outcome }
          continue
        }
        let (line, length) = readLength(input)
        switch line {
        case .complete: break
        case .incomplete: return .incomplete
        case .tooLong: return .failed(.multibulkCountTooLong)
        case .notANumber: return .failed(.invalidMultibulkLength)
        }
        if length > Limits.argumentsMax { return .failed(.invalidMultibulkLength) }
        if length > Limits.unauthenticatedArgumentsMax, !limits.isAuthenticated {
          return .failed(.unauthenticatedMultibulkLength)
        }
        if length > 0 {
          argumentsLeft = length
          break
        }
      }
    }
    while true {
      if isDiscarding, !discardArgument(input) { return .incomplete }
      if argumentsLeft == 0 {
        isDiscarding = false
        return .discarded
      }
      if bulkLength < 0 {
        guard position < input.count else { return .incomplete }
        let first = input[position]
        let (line, length) = readLength(input)
        switch line {
        case .complete: break
        case .incomplete: return .incomplete
        case .tooLong: return .failed(.bulkCountTooLong)
        case .notANumber:
          return .failed(
            first == UInt8(ascii: "$") ? .invalidBulkLength : .expectedDollar(got: first))
        }
        if first != UInt8(ascii: "$") { return .failed(.expectedDollar(got: first)) }
        if UInt(bitPattern: length) > UInt(bitPattern: limits.bulkLengthMax) {
          return .failed(.invalidBulkLength)
        }
        if !limits.isAuthenticated, length > Limits.unauthenticatedBulkLengthMax {
          return .failed(.unauthenticatedBulkLength)
        }
        bulkLength = length
      }
      if isDiscarding {
        discardLeft = bulkLength &+ 2
        bulkLength = -1
        continue
      }
      // The two bytes behind the payload are not looked at, as in Redis.
      let end = position &+ bulkLength &+ 2
      if end > input.count { return .incomplete }
      arguments.append(offset: position, length: bulkLength)
      position = end
      bulkLength = -1
      argumentsLeft &-= 1
      if argumentsLeft == 0 { return .request }
    }
  }

  /// Goes over what is left of an argument that is thrown away.
  ///
  /// - Returns: Whether its end was reached, or none was begun.
  private mutating func discardArgument(_ input: Bytes) -> Bool {
    if discardLeft == 0 { return true }
    let count = min(discardLeft, input.count &- position)
    position &+= count
    discardLeft &-= count
    if discardLeft > 0 { return false }
    argumentsLeft &-= 1
    return true
  }

  private enum Line {
    case complete, incomplete, tooLong, notANumber
  }

  /// Reads the number behind the type byte at `position`, and moves behind the line if complete.
  private mutating func readLength(_ input: Bytes) -> (Line, Int) {
    let rest = input.dropFirst(position)
    guard let end = rest.firstIndex(of: UInt8(ascii: "\r")) else {
      return (rest.count > Limits.lineLengthMax ? .tooLong : .incomplete, 0)
    }
    guard end + 1 < rest.count else { return (.incomplete, 0) }
    guard let number = rest[min(1, end)..<end].integer else { return (.notANumber, 0) }
    position += end + 2
    return (.complete, number)
  }

  // MARK: Inline requests

  /// Reads one line; nil when it was blank.
  @inline(never)
  private mutating func nextInline(_ input: Bytes) -> Outcome? {
    let rest = input.dropFirst(position)
    guard let end = rest.firstIndex(of: UInt8(ascii: "\n")),
      // Redis looks for the line's end as in a C string.
      rest[0..<end].firstIndex(of: 0) == nil
    else {
      return rest.count > Limits.lineLengthMax ? .failed(.inlineTooLong) : .incomplete
    }
    position += end + 1
    let hasReturn = end > 0 && rest[end - 1] == UInt8(ascii: "\r")
    inlineBytes.clear(keeping: Limits.lineLengthMax)
    guard splitWords(rest[0..<(hasReturn ? end - 1 : end)]) else {
      arguments.truncate(to: requestStart)
      return .failed(.unbalancedQuotes)
    }
    if arguments.count == requestStart { return nil }
    let request = request(
      in: inlineBytes.bytes, firstArgument: requestStart, count: arguments.count - requestStart)
    if request.name.equalsIgnoringCase("POST") || request.name.equalsIgnoringCase("Host:") {
      return .crossProtocol
    }
    return .inlineRequest
  }

  /// Splits a line at blanks, taking quotes into account. False when a quote is unbalanced.
  private mutating func splitWords(_ line: Bytes) -> Bool {
    var index = 0
    while true {
      while index < line.count, isBlank(line[index]) { index += 1 }
      if index == line.count { return true }
      let wordStart = inlineBytes.count
      var quote: UInt8 = 0
      scan: while true {
        if index == line.count {
          if quote != 0 { return false }
          break
        }
        let byte = line[index]
        switch byte {
        case UInt8(ascii: "\"") where quote == 0, UInt8(ascii: "'") where quote == 0:
          quote = byte
        case _ where quote != 0 && byte == quote:
          // A closing quote ends the word.
          if index + 1 < line.count, !isBlank(line[index + 1]) { return false }
          index += 1
          break scan
        case UInt8(ascii: "\\") where quote == UInt8(ascii: "\"") && index + 1 < line.count:
          index += appendEscape(line.dropFirst(index))
          continue scan
        case UInt8(ascii: "\\")
        where quote == UInt8(ascii: "'") && index + 1 < line.count
          && line[index + 1] == UInt8(ascii: "'"):
          inlineBytes.append(UInt8(ascii: "'"))
          index += 1
        case _ where quote == 0 && isBlank(byte):
          break scan
        default:
          inlineBytes.append(byte)
        }
        index += 1
      }
      arguments.append(offset: wordStart, length: inlineBytes.count - wordStart)
    }
  }

  /// Appends what the escape at the beginning of `text` stands for; returns the escape's length.
  private mutating func appendEscape(_ text: Bytes) -> Int {
    if text[1] == UInt8(ascii: "x"), text.count >= 4,
      let high = hexDigit(text[2]), let low = hexDigit(text[3])
    {
      inlineBytes.append(high << 4 | low)
      return 4
    }
    switch text[1] {
    case UInt8(ascii: "n"): inlineBytes.append(UInt8(ascii: "\n"))
    case UInt8(ascii: "r"): inlineBytes.append(UInt8(ascii: "\r"))
    case UInt8(ascii: "t"): inlineBytes.append(UInt8(ascii: "\t"))
    case UInt8(ascii: "b"): inlineBytes.append(8)
    case UInt8(ascii: "a"): inlineBytes.append(7)
    default: inlineBytes.append(text[1])
    }
    return 2
  }
}

/// A blank as C's `isspace` sees it.
private func isBlank(_ byte: UInt8) -> Bool {
  byte == 0x20 || (byte >= 0x09 && byte <= 0x0d)
}

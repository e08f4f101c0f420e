/// Commands on strings as rows of bits.
enum BitmapCommands: CommandFamily {
  static let category = Command.Category.bitmap
  static let commands: [Command] = [
    Command(
      "SETBIT key offset value", arity: 4, flags: [.write, .denyoom, .repeatable],
      keys: .one("RW", "access", "update"),
      summary:
        "Sets or clears the bit at offset of the string value. Creates the key if it doesn't exist.",
      since: "2.2.0", event: .string("setbit"), handler: setBit),
    Command(
      "GETBIT key offset", arity: 3, flags: [.readonly, .fast], keys: .one("RO", "access"),
      summary: "Returns a bit value by offset.", since: "2.2.0", handler: getBit),
    Command(
      "BITCOUNT key [start end [BYTE|BIT]]", arity: -2, flags: [.readonly],
      keys: .one("RO", "access"), summary: "Counts the number of set bits in a string.",
      complexity: "O(N) where N is the length of the string.", since: "2.6.0", handler: count),
    Command(
      "BITPOS key bit [start [end [BYTE|BIT]]]", arity: -3, flags: [.readonly],
      keys: .one("RO", "access"), summary: "Finds the first set (1) or clear (0) bit in a string.",
      complexity: "O(N) where N is the length of the string.", since: "2.8.7", handler: position),
    Command(
      "BITOP operation destkey key [key ...]", arity: -4, flags: [.write, .denyoom, .repeatable],
      keys: .parts(.range(2, 2, "OW", "update"), .range(3, -1, "RO", "access")),
      summary: "Performs bitwise operations on multiple strings, and stores the result.",
      complexity: "O(N) where N is the length of the longest string.", since: "2.6.0",
      handler: combine),
  ]

  private static func setBit(_ context: inout CommandContext) throws(CommandError) {
    let offset = try bitOffset(context, 2)
    let argument = context.request[3]
    guard argument.count == 1, argument[0] == UInt8(ascii: "0") || argument[0] == UInt8(ascii: "1")
    else { throw .bitValue }
    let bit = Int(argument[0] & 1)
    context.reply.integer(
      try context.edit(
        1, count: offset >> 3 + 1, isChange: { $0 != bit || $1 }, { $0.setBit(offset, bit) }))
  }

  private static func getBit(_ context: inout CommandContext) throws(CommandError) {
    let offset = try bitOffset(context, 2)
    let bit = try context.string(1)?.withBytes { $0.bit(offset) } ?? 0
    context.reply.integer(bit)
  }

  /// The bit's index that argument `index` says.
  ///
  /// - Parameter width: Bits that `#` stands for in front of a number; nil where it must not be.
  static func bitOffset(
    _ context: borrowing CommandContext, _ index: Int, width: Int? = nil
  ) throws(CommandError) -> Int {
    var text = context.request[index]
    var factor = 1
    if let width, !text.isEmpty, text[0] == UInt8(ascii: "#") {
      text = text.dropFirst(1)
      factor = width
    }
    guard let number = text.integer, number >= 0 else { throw .bitOffset }
    let (offset, overflow) = number.multipliedReportingOverflow(by: factor)
    guard !overflow, offset >> 3 < context.settings.bulkLengthMaxBytes else { throw .bitOffset }
    return offset
  }

  // MARK: Ranges

  private static func count(_ context: inout CommandContext) throws(CommandError) {
    guard let value = try context.string(1) else { return context.reply.integer(0) }
    var range = BitRange(bytes: value.count)
    switch context.request.count {
    case 2: break
    case 4, 5:
      let (start, end) = (try context.integer(2), try context.integer(3))
      // Only here, and before BYTE or BIT is looked at, as in Redis.
      if start < 0, end < 0, start > end { return context.reply.integer(0) }
      let isInBits = try isInBits(context, 4)
      range = BitRange(start: start, end: end, isInBits: isInBits, bytes: value.count)
    default: throw .syntax
    }
    let total =
      range.isEmpty ? 0 : value.withBytes { $0.bitCount(range.first, range.last) }
    context.reply.integer(total)
  }

  private static func position(_ context: inout CommandContext) throws(CommandError) {
    let bit = try context.integer(2)
    guard bit == 0 || bit == 1 else { throw .bitArgument }
    // A missing key is an endless row of zeros.
    guard let value = try context.string(1) else { return context.reply.integer(-bit) }
    let count = context.request.count
    var range = BitRange(bytes: value.count)
    switch count {
    case 3: break
    case 4...6:
      let start = try context.integer(3)
      let isInBits = try isInBits(context, 5)
      let end = count > 4 ? try context.integer(4) : -1
      range = BitRange(start: start, end: end, isInBits: isInBits, bytes: value.count)
    default: throw .syntax
    }
    if range.isEmpty { return context.reply.integer(-1) }
    let found = value.withBytes { $0.firstBit(bit, range.first, range.last) }
    // Where no end was given there are zeros behind the value.
    let behind = bit == 0 && count < 5 ? value.count * 8 : -1
    context.reply.integer(found ?? behind)
  }

  /// Whether a range is counted in bits, which argument `index` says if there is one.
  private static func isInBits(
    _ context: borrowing CommandContext, _ index: Int
  ) throws(CommandError) -> Bool {
    if index >= context.request.count { return false }
    let unit = context.request[index]
    if unit.equalsIgnoringCase("BIT") { return true }
    guard unit.equalsIgnoringCase("BYTE") else { throw .syntax }
    return false
  }

  // MARK: BITOP

  private enum Operation {
    case and, or, exclusiveOr, not

    init?(_ name: Bytes) {
      if name.equalsIgnoringCase("AND") {
        self = .and
      } else if name.equalsIgnoringCase("OR") {
        self = .or
      } else if name.equalsIgnoringCase("XOR") {
        self = .exclusiveOr
      } else if name.equalsIgnoringCase("NOT") {
        self = .not
      } else {
        return nil
      }
    }

    /// Combines what `result` begins with with `bytes`. A value that is shorter than others has zeros
    /// behind it.
    func apply(_ bytes: Bytes, to result: MutableBytes) {
      switch self {
      case .and:
        result.combine(bytes) { $0 & $1 }
        result.clear(bytes.count..<result.count)
      case .or: result.combine(bytes) { $0 | $1 }
      case .exclusiveOr: result.combine(bytes) { $0 ^ $1 }
      case .not: result.combine(bytes) { ~$1 }
      }
    }
  }

  private static func combine(_ context: inout CommandContext) throws(CommandError) {
    guard let operation = Operation(context.request[1]) else { throw .syntax }
    let last = context.request.count - 1
    guard operation != .not || last == 3 else { throw .bitOperationNot }
    var count = 0
    context.removeExpired()
    // What is stored as a number is read as text; no key is looked up twice.
    var sources: [Source] = []
    for index in 3...last {
      let value = try context.string(index)
      count = max(count, value?.count ?? 0)
      sources.append(Source(value))
    }
    if count == 0 {
      _ = context.remove(2)
      return context.reply.integer(0)
    }
    try context.set(2, count: count) { result in
      for (number, source) in sources.enumerated() {
        source.withBytes { bytes in
          if number == 0, operation != .not {
            result.replace(at: 0, with: bytes)
          } else {
            operation.apply(bytes, to: result)
          }
        }
      }
    }
    context.reply.integer(count)
  }

  /// A value that is read, as bytes.
  private enum Source {
    case stored(Value)
    case missing

    init(_ value: Value?) { self = value.map { .stored($0) } ?? .missing }

    func withBytes(_ body: (Bytes) -> Void) {
      switch self {
      case .stored(let value): value.withBytes(body)
      case .missing: body(.empty)
      }
    }
  }
}

/// Bits of a string that a command names by their first and last one, or by bytes.
struct BitRange {
  private(set) var first: Int
  private(set) var last: Int

  var isEmpty: Bool { first > last }

  /// All bits of so many bytes.
  init(bytes: Int) {
    first = 0
    last = bytes * 8 - 1
  }

  /// - Parameters:
  ///   - start: Counted from the end when negative, as `end` is.
  ///   - isInBits: Whether they count bits, not bytes.
  ///   - bytes: Of the string.
  init(start: Int, end: Int, isInBits: Bool, bytes: Int) {
    let total = isInBits ? bytes * 8 : bytes
    first = max(start < 0 ? start + total : start, 0)
    last = min(max(end < 0 ? end + total : end, 0), total - 1)
    if isInBits || first > last { return }
    first *= 8
    last = last * 8 + 7
  }
}

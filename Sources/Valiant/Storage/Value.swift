/// A value that is to become that of another entry: a copy, or a long one as it lies in its block.
enum DetachedValue {
  case text([UInt8], isEdited: Bool)
  case number(Int)
  case long(LongValue)

  init(of entry: Entry) {
    switch entry.value {
    case .bytes(let bytes): self = .text(bytes.array, isEdited: entry.isEdited)
    case .integer(let number): self = .number(number)
    case .long: self = .long(entry.longValue)
    }
  }
}

/// The value of an entry, as a view that is good until the shard's lock is released.
///
/// Open to further types: a handler asks the context for the type that it needs, and everything
/// else is a WRONGTYPE error there.
enum Value {
  /// A string.
  case bytes(Bytes)
  /// A string of more than 16 KiB, and the block that it lies in.
  case long(Bytes, SharedBlock)
  /// A string that spells a 64-bit integer in canonical form, stored as a number.
  case integer(Int)

  /// A copy that outlives the view.
  var array: [UInt8] {
    switch self {
    case .bytes(let bytes), .long(let bytes, _): bytes.array
    case .integer(let number): Array(String(number).utf8)
    }
  }

  /// Lends the string's bytes to `body`.
  func withBytes<Result, Failure: Error>(
    _ body: (Bytes) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    switch self {
    case .bytes(let bytes), .long(let bytes, _): return try body(bytes)
    case .integer: return try array.withBytes(body)
    }
  }

  /// The 64-bit integer that the string spells in canonical form, else nil.
  var integer: Int? {
    switch self {
    case .bytes(let bytes): bytes.integer
    case .long: nil
    case .integer(let number): number
    }
  }

  /// Bytes of the string.
  var count: Int {
    switch self {
    case .bytes(let bytes), .long(let bytes, _): bytes.count
    case .integer(let number): decimalLength(number)
    }
  }

  /// Whether the string is the same as `other`.
  func equals(_ other: Bytes) -> Bool {
    switch self {
    case .bytes(let bytes), .long(let bytes, _): bytes == other
    // A number and its text determine each other.
    case .integer(let number): other.integer == number
    }
  }
}

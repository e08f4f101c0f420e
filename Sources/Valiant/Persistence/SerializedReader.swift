/// Reads numbers and strings as Redis writes them to its files.
///
/// Source: the RDB file format.
struct SerializedReader {
  /// Why nothing was read.
  enum Failure: Error, Equatable {
    /// The input ends within it; so many bytes are missing at least.
    case incomplete(missing: Int)
    /// No such thing begins like that.
    case malformed
  }

  private var rest: Bytes
  private let total: Int

  init(_ input: Bytes) {
    rest = input
    total = input.count
  }

  /// Bytes that were read.
  var consumed: Int { total - rest.count }

  @inline(__always)
  mutating func byte() throws(Failure) -> UInt8 { try bytes(1)[0] }

  @inline(__always)
  mutating func bytes(_ count: Int) throws(Failure) -> Bytes {
    guard count <= rest.count else { throw .incomplete(missing: count - rest.count) }
    defer { rest = rest.dropFirst(count) }
    return rest.prefix(count)
  }

  /// A number of `count` bytes, 1...8, with a sign, the lowest byte first.
  @inline(__always)
  mutating func integer(bytes count: Int) throws(Failure) -> Int {
    let bytes = try bytes(count)
    var number = 0
    for index in 0..<count { number |= Int(bytes[index]) << (8 * index) }
    let unused = Int.bitWidth - 8 * count
    return (number << unused) >> unused
  }

  /// The length of something, or another number that is not negative.
  @inline(__always)
  mutating func length() throws(Failure) -> Int {
    let first = try byte()
    switch first {
    case SerializedString.Kind.long: return try bigEndian(4)
    case SerializedString.Kind.longest: return try bigEndian(8)
    case _ where first >> 6 == SerializedString.Kind.short: return Int(first)
    case _ where first >> 6 == SerializedString.Kind.medium:
      return Int(first & 0x3f) << 8 | Int(try byte())
    default: throw .malformed
    }
  }

  private mutating func bigEndian(_ count: Int) throws(Failure) -> Int {
    let bytes = try bytes(count)
    var number: UInt64 = 0
    for index in 0..<count { number = number << 8 | UInt64(bytes[index]) }
    guard let number = Int(exactly: number) else { throw .malformed }
    return number
  }

  /// A string, in whichever form.
  @inline(__always)
  mutating func string() throws(Failure) -> SerializedString.Form {
    let start = rest
    switch try byte() {
    case SerializedString.Kind.integer8: return .number(try integer(bytes: 1))
    case SerializedString.Kind.integer16: return .number(try integer(bytes: 2))
    case SerializedString.Kind.integer32: return .number(try integer(bytes: 4))
    case SerializedString.Kind.compressed:
      let count = try length()
      let full = try length()
      // No server has longer ones, and nothing here could keep them.
      guard max(count, full) <= Store.lengthMax else { throw .malformed }
      return .compressed(try bytes(count), count: full)
    default:
      rest = start
      let count = try length()
      guard count <= Store.lengthMax else { throw .malformed }
      return .plain(try bytes(count))
    }
  }
}

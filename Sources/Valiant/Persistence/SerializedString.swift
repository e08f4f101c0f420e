import CLZF
import Glibc

/// A string as Redis writes it to its files: a number in few bytes, compressed, or as it is.
///
/// Source: the RDB file format.
enum SerializedString {
  /// Two bits of the first byte say how long the length is, or that something else follows.
  enum Kind {
    static let short: UInt8 = 0
    static let medium: UInt8 = 1
    /// The whole byte.
    static let long: UInt8 = 0x80
    static let longest: UInt8 = 0x81
    static let integer8: UInt8 = 0xc0
    static let integer16: UInt8 = 0xc1
    static let integer32: UInt8 = 0xc2
    static let compressed: UInt8 = 0xc3
  }

  /// Longer strings are compressed.
  private static let plainBytesMax = 20
  /// The most digits of a number in 32 bits, and its sign.
  private static let digitsMax = 11

  // MARK: Writing

  static func write(_ value: Bytes, to output: inout ByteBuffer) {
    var compression = Compression()
    write(value, &compression, to: &output)
  }

  /// The same for one of many strings of a kind.
  static func write(_ value: Bytes, _ compression: inout Compression, to output: inout ByteBuffer) {
    if value.count <= digitsMax, let number = value.integer, writeNumber(number, to: &output) {
      return
    }
    if value.count > plainBytesMax, compression.isWorthTrying {
      let isCompressed = writeCompressed(value, to: &output)
      compression.note(isCompressed)
      if isCompressed { return }
    }
    writeLength(value.count, to: &output)
    output.append(value)
  }

  /// Whether strings of a kind are compressed: rarely tried as long as that is in vain, for it takes
  /// three times as long as all else.
  struct Compression {
    private let isWanted: Bool
    private var failures = 0
    private var skips = 0

    private static let failuresMin = 8
    private static let skipsMax = 64

    init(isWanted: Bool = true) { self.isWanted = isWanted }

    fileprivate var isWorthTrying: Bool {
      mutating get {
        if skips == 0 { return isWanted }
        skips -= 1
        return false
      }
    }

    fileprivate mutating func note(_ hasHelped: Bool) {
      failures = hasHelped ? 0 : min(failures + 1, Self.skipsMax)
      if failures >= Self.failuresMin { skips = failures }
    }
  }

  static func write(_ number: Int, to output: inout ByteBuffer) {
    if writeNumber(number, to: &output) { return }
    writeLength(decimalLength(number), to: &output)
    output.append(decimal: number)
  }

  /// - Returns: False for a number of more than 32 bits.
  private static func writeNumber(_ number: Int, to output: inout ByteBuffer) -> Bool {
    if Int8(exactly: number) != nil {
      output.append(Kind.integer8)
      output.append(littleEndian: number, bytes: 1)
    } else if Int16(exactly: number) != nil {
      output.append(Kind.integer16)
      output.append(littleEndian: number, bytes: 2)
    } else if Int32(exactly: number) != nil {
      output.append(Kind.integer32)
      output.append(littleEndian: number, bytes: 4)
    } else {
      return false
    }
    return true
  }

  /// - Returns: False when that would not make it at least four bytes shorter.
  private static func writeCompressed(_ value: Bytes, to output: inout ByteBuffer) -> Bool {
    let room = value.count - 4
    let start = output.count
    output.append(Kind.compressed)
    let header = unsafe output.freeSpace(room + 2 * lengthBytesMax)
    guard let base = header.baseAddress else { return false }
    // Behind the longest head, for how long that will be is not known yet.
    let target = unsafe base + 2 * lengthBytesMax
    let count = Int(
      unsafe lzf_compress(value.pointer, UInt32(value.count), target, UInt32(room)))
    if count == 0 {
      output.truncate(to: start)
      return false
    }
    // SAFETY: there is room for both, and the bytes are moved before anything is appended behind.
    writeLength(count, to: &output)
    writeLength(value.count, to: &output)
    let place = unsafe output.freeSpace(count)
    unsafe memmove(place.baseAddress.unsafelyUnwrapped, target, count)
    output.didAppend(count)
    return true
  }

  /// The longest head of a string of less than 4 GiB.
  private static let lengthBytesMax = 5

  static func writeLength(_ length: Int, to output: inout ByteBuffer) {
    if length < 1 << 6 {
      output.append(UInt8(length))
    } else if length < 1 << 14 {
      output.append(UInt8(length >> 8) | Kind.medium << 6)
      output.append(UInt8(length & 0xff))
    } else {
      output.append(Kind.long)
      for shift in [24, 16, 8, 0] { output.append(UInt8(length >> shift & 0xff)) }
    }
  }

  // MARK: Reading

  /// Bytes that one compressed byte becomes at most: three stand for 264.
  private static let growthMax = 88

  /// A string that was read.
  enum Form {
    /// As it stands in the input.
    case plain(Bytes)
    case number(Int)
    /// Compressed bytes, and how many they become.
    case compressed(Bytes, count: Int)

    /// Calls `body` with the bytes; nil when compressed ones do not become so many.
    func withBytes<Result>(_ body: (Bytes) -> Result) -> Result? {
      switch self {
      case .plain(let bytes): return body(bytes)
      case .number(let number): return Array(String(number).utf8).withBytes(body)
      case .compressed(let bytes, let count):
        guard let text = SerializedString.decompress(bytes, count: count) else { return nil }
        return body(text.bytes)
      }
    }

    /// A copy of the bytes; nil when compressed ones do not become so many.
    var array: [UInt8]? { withBytes(\.array) }
  }

  /// The string that `input` begins with; nil when it does not begin with one.
  static func read(_ input: Bytes) -> Form? {
    var reader = SerializedReader(input)
    return try? reader.string()
  }

  /// Makes `count` bytes of compressed ones; nil when they do not become so many.
  static func decompress(_ bytes: Bytes, count: Int) -> ByteBuffer? {
    var result = ByteBuffer()
    // No byte becomes more; so nobody takes memory by only saying so.
    guard count > 0, count <= UInt32.max, count / Self.growthMax <= bytes.count,
      result.reserveExactly(count)
    else { return nil }
    let space = unsafe result.freeSpace(count)
    let written = unsafe lzf_decompress(
      bytes.pointer, UInt32(bytes.count), space.baseAddress, UInt32(count))
    guard written == count else { return nil }
    result.didAppend(count)
    return result
  }
}

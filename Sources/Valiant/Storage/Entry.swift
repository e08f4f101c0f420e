import Glibc

/// One key with its value and expiry, packed into one block from `malloc`.
///
///     byte   0        flags   bit 0 expires, 1 wide key, 2 wide value, 4-7 type of the value
///            1…       key length      1 byte, or 4 when wide
///            …        value length    1 byte, or 4 when wide
///            …        deadline        8 bytes, only when it expires: ms since 1970
///            …        key bytes
///            …        value bytes     an integer: 1, 2, 4 or 8 bytes, as narrow as it fits
///
/// So a key of 16 bytes with a value of 3 takes 22 bytes, which is glibc's smallest block but one.
/// Numbers are in the byte order of the machine; entries never leave the process. Tried and
/// dropped: a 16-byte header with the hash in it (48 bytes a block instead of 32, while growing
/// must read the key's block anyway); varints (a loop a length, for one byte on some values).
///
/// Invariant: `base` is a block whose header says truly what follows it. Whoever holds an `Entry`
/// holds the lock of the shard that owns it.
@safe struct Entry {
  let base: UnsafeMutablePointer<UInt8>

  private static let expires: UInt8 = 1
  private static let wideKey: UInt8 = 2
  private static let wideValue: UInt8 = 4
  private static let typeShift: UInt8 = 4

  /// The type in the flags' upper half.
  private enum ValueType {
    static let string: UInt8 = 0
    static let integer: UInt8 = 1
  }

  @inline(__always)
  init(base: UnsafeMutablePointer<UInt8>) {
    unsafe self.base = base
  }

  // MARK: Reading

  /// Where the parts of an entry lie, in bytes from its beginning.
  private struct Layout {
    var flags: UInt8
    var keyLength: Int
    var valueLength: Int
    /// Where the deadline would be; the key comes behind it, or in its place.
    var deadlineOffset: Int

    @inline(__always)
    var keyOffset: Int { deadlineOffset &+ (flags & Entry.expires != 0 ? 8 : 0) }
    @inline(__always)
    var size: Int { keyOffset &+ keyLength &+ valueLength }
  }

  @inline(__always)
  private var layout: Layout {
    // SAFETY: the header is within the block.
    let flags = unsafe base[0]
    if flags & (Entry.wideKey | Entry.wideValue) == 0 {
      return unsafe Layout(
        flags: flags, keyLength: Int(base[1]), valueLength: Int(base[2]), deadlineOffset: 3)
    }
    return wideLayout(flags)
  }

  @inline(never)
  private func wideLayout(_ flags: UInt8) -> Layout {
    let raw = unsafe UnsafeRawPointer(base)
    var offset = 1
    func length(isWide: Bool) -> Int {
      defer { offset += isWide ? 4 : 1 }
      return isWide
        ? Int(unsafe raw.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
        : Int(unsafe raw.load(fromByteOffset: offset, as: UInt8.self))
    }
    let keyLength = length(isWide: flags & Entry.wideKey != 0)
    let valueLength = length(isWide: flags & Entry.wideValue != 0)
    return Layout(
      flags: flags, keyLength: keyLength, valueLength: valueLength, deadlineOffset: offset)
  }

  @inline(__always)
  var key: Bytes {
    let layout = layout
    // SAFETY: the header says where the key lies.
    return unsafe Bytes(base: base + layout.keyOffset, count: layout.keyLength)
  }

  @inline(__always)
  var value: Value {
    let layout = layout
    // SAFETY: the header says where the value lies.
    let start = unsafe base + (layout.keyOffset &+ layout.keyLength)
    if layout.flags >> Entry.typeShift == ValueType.string {
      return .bytes(unsafe Bytes(base: start, count: layout.valueLength))
    }
    let raw = UnsafeRawPointer(start)
    switch layout.valueLength {
    case 1: return .integer(Int(unsafe raw.loadUnaligned(as: Int8.self)))
    case 2: return .integer(Int(unsafe raw.loadUnaligned(as: Int16.self)))
    case 4: return .integer(Int(unsafe raw.loadUnaligned(as: Int32.self)))
    default: return .integer(unsafe raw.loadUnaligned(as: Int.self))
    }
  }

  /// When the key expires; nil for never.
  @inline(__always)
  var deadline: Timestamp? {
    // SAFETY: the flag says that the deadline is there.
    if unsafe base[0] & Entry.expires == 0 { return nil }
    let offset = layout.deadlineOffset
    return Timestamp(
      milliseconds: unsafe UnsafeRawPointer(base).loadUnaligned(
        fromByteOffset: offset, as: Int.self))
  }

  @inline(__always)
  var hasDeadline: Bool { unsafe base[0] & Entry.expires != 0 }

  /// Whether the deadline has passed. A key lives through its last millisecond.
  @inline(__always)
  func isExpired(at now: Timestamp) -> Bool {
    guard hasDeadline, let deadline else { return false }
    return deadline < now
  }

  /// Bytes that the entry occupies, the allocator's rounding and header included.
  var allocatedBytes: Int { unsafe Memory.allocatedBytes(base) }

  // MARK: Writing

  /// What an entry is to hold, measured.
  struct Content {
    private let key: Bytes
    private let value: Bytes
    private let number: Int
    private let deadline: Timestamp?
    private let flags: UInt8
    private let valueLength: Int
    private let headerSize: Int

    @inline(__always)
    init(key: Bytes, value: Bytes, deadline: Timestamp?) {
      self.key = key
      self.value = value
      self.deadline = deadline
      var flags: UInt8 = deadline == nil ? 0 : Entry.expires
      var valueLength = value.count
      var number = 0
      if valueLength <= decimalDigitsMax, valueLength > 0, value[0] <= UInt8(ascii: "9"),
        let integer = value.integer
      {
        number = integer
        flags |= ValueType.integer << Entry.typeShift
        valueLength = Content.width(integer)
      }
      var headerSize = 3
      if key.count > 0xff {
        flags |= Entry.wideKey
        headerSize = 6
      }
      if valueLength > 0xff {
        flags |= Entry.wideValue
        headerSize &+= 3
      }
      self.number = number
      self.flags = flags
      self.valueLength = valueLength
      self.headerSize = headerSize &+ (deadline == nil ? 0 : 8)
    }

    /// Bytes that the entry needs.
    @inline(__always)
    var size: Int { headerSize &+ key.count &+ valueLength }

    private static func width(_ number: Int) -> Int {
      if Int8(exactly: number) != nil { return 1 }
      if Int16(exactly: number) != nil { return 2 }
      if Int32(exactly: number) != nil { return 4 }
      return 8
    }

    /// Writes the entry to `base`, writable for `size` bytes.
    @inline(__always)
    @unsafe func write(to base: UnsafeMutablePointer<UInt8>) {
      unsafe base[0] = flags
      var offset = 3
      if flags & (Entry.wideKey | Entry.wideValue) == 0 {
        unsafe base[1] = UInt8(truncatingIfNeeded: key.count)
        unsafe base[2] = UInt8(truncatingIfNeeded: valueLength)
      } else {
        offset = unsafe writeWideLengths(to: base)
      }
      if let deadline {
        unsafe UnsafeMutableRawPointer(base).storeBytes(
          of: deadline.milliseconds, toByteOffset: offset, as: Int.self)
        offset &+= 8
      }
      unsafe copyBytes(base + offset, key.pointer, key.count)
      offset &+= key.count
      if flags >> Entry.typeShift == ValueType.string {
        unsafe copyBytes(base + offset, value.pointer, valueLength)
      } else {
        // Little-endian, so the low bytes are the number.
        var rest = number
        for index in offset..<offset + valueLength {
          unsafe base[index] = UInt8(truncatingIfNeeded: rest)
          rest >>= 8
        }
      }
    }

    @inline(never)
    @unsafe private func writeWideLengths(to base: UnsafeMutablePointer<UInt8>) -> Int {
      let raw = UnsafeMutableRawPointer(base)
      var offset = 1
      func write(_ length: Int, isWide: Bool) {
        if isWide {
          unsafe raw.storeBytes(
            of: UInt32(length), toByteOffset: offset, as: UInt32.self)
        } else {
          unsafe raw.storeBytes(of: UInt8(length), toByteOffset: offset, as: UInt8.self)
        }
        offset += isWide ? 4 : 1
      }
      write(key.count, isWide: flags & Entry.wideKey != 0)
      write(valueLength, isWide: flags & Entry.wideValue != 0)
      return offset
    }
  }

  /// A new block with `content`.
  static func allocate(_ content: Content) -> Entry {
    guard let block = unsafe malloc(content.size) else {
      fatalError("out of memory: \(content.size) bytes for an entry")
    }
    let base = unsafe block.assumingMemoryBound(to: UInt8.self)
    unsafe content.write(to: base)
    return unsafe Entry(base: base)
  }

  /// Writes `content` over the old one if the block is large enough and not far too large.
  ///
  /// The key must be the same. No allocation; the value it replaces is gone.
  @inline(__always)
  func overwrite(_ content: Content) -> Bool {
    let newSize = content.size
    if newSize != layout.size {
      let room = unsafe Memory.usableBytes(base)
      if newSize > room || room > newSize &* 2 &+ 32 { return false }
    }
    // SAFETY: the block has room for `newSize` bytes.
    unsafe content.write(to: base)
    return true
  }

  /// Gives the block back; the entry must not be used again.
  func free() {
    unsafe Glibc.free(base)
  }
}

import Glibc

/// One key with its value and expiry, packed into bytes of an `EntryArena`.
///
///     byte   0        flags   bit 0 expires, 1 wide key, 2 wide value, 3 dead, 4 mark, 5-7 type of the
///                             value
///            1…3      access  when it was last used, or how often: what eviction goes by
///            4…       key length      1 byte, or 4 when wide
///            …        value length    1 byte, or 4 when wide
///            …        lead            4 bytes, only of a long value: how far behind its block's
///                                     beginning the entry begins
///            …        deadline        5 bytes, only when it expires: a `Timestamp`; all ones for one
///                                     after 34 years or in the past, which follows in 8 bytes
///            …        key bytes
///            …        value bytes     an integer: 1, 2, 4 or 8 bytes, as narrow as it fits
///
/// So a key of 16 bytes with a value of 3 takes 25 bytes. Numbers are in the byte order of the
/// machine and not aligned; entries never leave the process. A dead entry is one that was removed;
/// a filler stands where a dead part is shorter than an entry's header says:
///
///     byte   0        flags   dead, type `filler` or `fillerByte`, which is all of one byte
///            1…2      bytes of the filler, these included
///
/// Tried and dropped: a 16-byte header with the hash in it (growing must read the key anyway);
/// varints (a loop a length, for one byte on some values).
///
/// Invariant: `base` points to an entry or a filler of an arena, whose header says truly what
/// follows it. Whoever holds an `Entry` holds the lock of the shard that owns it, and lets go of
/// it before the keyspace is next changed, for that may move entries.
@safe struct Entry {
  let base: UnsafeMutablePointer<UInt8>

  private static let expires: UInt8 = 1
  private static let wideKey: UInt8 = 2
  private static let wideValue: UInt8 = 4
  private static let dead: UInt8 = 8
  private static let marked: UInt8 = 16
  private static let typeShift: UInt8 = 5
  private static let accessOffset = 1
  private static let lengthsOffset = 4

  /// The type in the flags' upper half.
  private enum ValueType {
    static let string: UInt8 = 0
    /// A string that was changed in part: never a number, for it may be changed again.
    static let edited: UInt8 = 1
    static let integer: UInt8 = 2
    /// A string in a block of its own, see `LongValue`.
    static let long: UInt8 = 3
    static let filler: UInt8 = 6
    static let fillerByte: UInt8 = 7
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

    /// Bytes of the deadline.
    var deadlineBytes: Int

    @inline(__always)
    var keyOffset: Int { deadlineOffset &+ deadlineBytes }
    @inline(__always)
    var size: Int { keyOffset &+ keyLength &+ valueLength }
  }

  private static let leadBytes = 4
  private static let deadlineBytes = 5
  private static let farDeadlineBytes = 13
  /// What stands for a deadline that does not fit.
  private static let farDeadline: UInt64 = (1 << 40) - 1

  /// A deadline as the five bytes hold it.
  @inline(__always)
  private static func near(_ deadline: Timestamp) -> UInt64 {
    min(UInt64(bitPattern: Int64(deadline.milliseconds)), farDeadline)
  }

  /// The deadline's five bytes.
  @inline(__always)
  private func nearDeadline(_ offset: Int) -> UInt64 {
    // SAFETY: an entry with a deadline has at least these bytes, and three of header before.
    unsafe UnsafeRawPointer(base).loadUnaligned(fromByteOffset: offset &- 3, as: UInt64.self) &>> 24
  }

  @inline(__always)
  private func deadlineBytes(_ flags: UInt8, _ offset: Int) -> Int {
    if flags & Entry.expires == 0 { return 0 }
    return nearDeadline(offset) == Entry.farDeadline
      ? Entry.farDeadlineBytes : Entry.deadlineBytes
  }

  @inline(__always)
  private var layout: Layout {
    // SAFETY: the header is within the block.
    let flags = unsafe base[0]
    if flags & (Entry.wideKey | Entry.wideValue) == 0 {
      return unsafe Layout(
        flags: flags, keyLength: Int(base[4]), valueLength: Int(base[5]), deadlineOffset: 6,
        deadlineBytes: deadlineBytes(flags, 6))
    }
    return wideLayout(flags)
  }

  @inline(never)
  private func wideLayout(_ flags: UInt8) -> Layout {
    let raw = unsafe UnsafeRawPointer(base)
    var offset = Entry.lengthsOffset
    func length(isWide: Bool) -> Int {
      defer { offset += isWide ? 4 : 1 }
      return isWide
        ? Int(unsafe raw.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
        : Int(unsafe raw.load(fromByteOffset: offset, as: UInt8.self))
    }
    let keyLength = length(isWide: flags & Entry.wideKey != 0)
    let valueLength = length(isWide: flags & Entry.wideValue != 0)
    if flags >> Entry.typeShift == ValueType.long { offset += Entry.leadBytes }
    return Layout(
      flags: flags, keyLength: keyLength, valueLength: valueLength, deadlineOffset: offset,
      deadlineBytes: deadlineBytes(flags, offset))
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
    // Both kinds of strings that lie in the entry, in one comparison.
    if layout.flags >> Entry.typeShift <= ValueType.edited {
      return .bytes(unsafe Bytes(base: start, count: layout.valueLength))
    }
    if layout.flags >> Entry.typeShift == ValueType.long {
      return .long(unsafe Bytes(base: start, count: layout.valueLength), ownBlock)
    }
    let raw = UnsafeRawPointer(start)
    switch layout.valueLength {
    case 1: return .integer(Int(unsafe raw.loadUnaligned(as: Int8.self)))
    case 2: return .integer(Int(unsafe raw.loadUnaligned(as: Int16.self)))
    case 4: return .integer(Int(unsafe raw.loadUnaligned(as: Int32.self)))
    default: return .integer(unsafe raw.loadUnaligned(as: Int.self))
    }
  }

  /// Whether the value is in a block of its own.
  var isLong: Bool { unsafe base[0] >> Entry.typeShift == ValueType.long }

  /// Whether the value is a short string that was changed in part.
  var isEdited: Bool { unsafe base[0] >> Entry.typeShift == ValueType.edited }

  /// The bytes of a string that was changed in part, or of a long value that nobody else holds.
  var mutableValue: MutableBytes {
    precondition(isEdited || isLong, "a value that must not be changed in place")
    let layout = layout
    // SAFETY: the header says where the value lies.
    return unsafe MutableBytes(
      base: base + (layout.keyOffset + layout.keyLength), count: layout.valueLength)
  }

  /// Makes a string that was changed in part longer, zeros behind it, where the caller has made room;
  /// false when its length needs a wider header.
  func lengthen(to count: Int) -> Bool {
    let old = layout
    let isWide = old.flags & Entry.wideValue != 0
    guard isWide || count <= 0xff else { return false }
    let offset = Entry.lengthsOffset + (old.flags & Entry.wideKey == 0 ? 1 : 4)
    if isWide {
      unsafe UnsafeMutableRawPointer(base).storeBytes(
        of: UInt32(count), toByteOffset: offset, as: UInt32.self)
    } else {
      unsafe base[offset] = UInt8(count)
    }
    unsafe memset(base + old.size, 0, count - old.valueLength)
    return true
  }

  /// The block of an entry that has one of its own: of one with more than 16 KiB.
  var ownBlock: SharedBlock {
    unsafe SharedBlock(payload: base - (isLong ? blockOffset : 0))
  }

  /// How far behind its block's beginning the entry of a long value begins.
  var blockOffset: Int {
    let offset = Entry.lengthsOffset + (unsafe base[0] & Entry.wideKey == 0 ? 1 : 4) + 4
    return Int(unsafe UnsafeRawPointer(base).loadUnaligned(fromByteOffset: offset, as: UInt32.self))
  }

  /// The long value as it lies in its block.
  var longValue: LongValue {
    let layout = layout
    let offset = blockOffset + layout.keyOffset + layout.keyLength
    return LongValue(block: ownBlock, offset: offset, count: layout.valueLength, lead: offset)
  }

  /// When the key expires; nil for never.
  @inline(__always)
  var deadline: Timestamp? {
    // SAFETY: the flag says that the deadline is there.
    if unsafe base[0] & Entry.expires == 0 { return nil }
    let offset = layout.deadlineOffset
    let near = nearDeadline(offset)
    if near != Entry.farDeadline {
      return Timestamp(milliseconds: Int(near))
    }
    return Timestamp(
      milliseconds: unsafe UnsafeRawPointer(base).loadUnaligned(
        fromByteOffset: offset &+ Entry.deadlineBytes, as: Int.self))
  }

  /// Writes another deadline in the place of the one there is, if it fits there.
  func replaceDeadline(_ deadline: Timestamp) -> Bool {
    let layout = layout
    let near = Entry.near(deadline)
    guard layout.deadlineBytes == Entry.deadlineBytes, near != Entry.farDeadline else {
      return false
    }
    // SAFETY: five bytes for a deadline begin there.
    unsafe UnsafeMutableRawPointer(base).storeBytes(
      of: UInt32(truncatingIfNeeded: near), toByteOffset: layout.deadlineOffset, as: UInt32.self)
    unsafe base[layout.deadlineOffset + 4] = UInt8(truncatingIfNeeded: near &>> 32)
    return true
  }

  @inline(__always)
  var hasDeadline: Bool { unsafe base[0] & Entry.expires != 0 }

  /// Whether the deadline has passed. A key lives through its last millisecond.
  @inline(__always)
  func isExpired(at now: Timestamp) -> Bool {
    guard hasDeadline, let deadline else { return false }
    return deadline < now
  }

  /// Bytes from the entry's beginning to its end; also for a dead one and a filler.
  @inline(__always)
  var size: Int {
    // SAFETY: the first byte tells entries and fillers apart.
    let flags = unsafe base[0]
    if flags & Entry.dead != 0, flags >> Entry.typeShift >= ValueType.filler {
      return fillerSize(flags)
    }
    return layout.size
  }

  /// The same for an entry that is known to live.
  @inline(__always)
  var livingSize: Int { layout.size }

  @inline(never)
  private func fillerSize(_ flags: UInt8) -> Int {
    if flags >> Entry.typeShift == ValueType.fillerByte { return 1 }
    let raw = unsafe UnsafeRawPointer(base)
    return Int(unsafe raw.loadUnaligned(fromByteOffset: 1, as: UInt16.self))
  }

  /// Bytes of memory that the entry takes.
  var footprint: Int { isLong ? ownBlock.footprint : livingSize }

  /// Whether it was removed, or is a filler.
  @inline(__always)
  var isDead: Bool { unsafe base[0] & Entry.dead != 0 }

  /// What eviction goes by, 24 bits; see `AccessTracking`.
  @inline(__always)
  var access: UInt32 {
    get { unsafe UnsafeRawPointer(base).loadUnaligned(as: UInt32.self) &>> 8 }
    nonmutating set {
      let raw = UnsafeMutableRawPointer(unsafe base)
      let flags = unsafe UInt32(base[0])
      unsafe raw.storeBytes(of: newValue &<< 8 | flags, as: UInt32.self)
    }
  }

  /// Tells entries that a snapshot has not got yet from all others.
  ///
  /// Each keyspace has a mark, which all that is written to it gets; when a snapshot begins, it takes
  /// the other one.
  struct Mark: Equatable, Sendable {
    fileprivate let bits: UInt8

    static let first = Mark(bits: 0)
    var other: Mark { Mark(bits: bits ^ Entry.marked) }
  }

  var mark: Mark {
    get { Mark(bits: unsafe base[0] & Entry.marked) }
    nonmutating set { unsafe base[0] = base[0] & ~Entry.marked | newValue.bits }
  }

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
      var headerSize = 6
      if key.count > 0xff {
        flags |= Entry.wideKey
        headerSize = 9
      }
      if valueLength > 0xff {
        flags |= Entry.wideValue
        headerSize &+= 3
      }
      self.number = number
      self.flags = flags
      self.valueLength = valueLength
      self.headerSize = headerSize &+ Content.bytes(of: deadline)
    }

    /// An entry whose value is a number.
    init(key: Bytes, number: Int, deadline: Timestamp?) {
      self.key = key
      value = .empty
      self.number = number
      self.deadline = deadline
      let wideKey = key.count > 0xff ? Entry.wideKey : 0
      flags =
        (deadline == nil ? 0 : Entry.expires) | wideKey | ValueType.integer << Entry.typeShift
      valueLength = Content.width(number)
      headerSize = (wideKey == 0 ? 6 : 9) + Content.bytes(of: deadline)
    }

    /// An entry whose value is text, whatever it spells.
    init(key: Bytes, text value: Bytes, deadline: Timestamp?) {
      self.init(
        key: key, value, value.count, type: ValueType.string, deadline: deadline)
    }

    /// An entry whose value begins with `value`, and will be changed in part; zeros behind it.
    init(key: Bytes, edited value: Bytes, count: Int, deadline: Timestamp?) {
      self.init(key: key, value, count, type: ValueType.edited, deadline: deadline)
    }

    private init(
      key: Bytes, _ value: Bytes, _ count: Int, type: UInt8, deadline: Timestamp?
    ) {
      self.key = key
      self.value = value
      self.deadline = deadline
      number = 0
      valueLength = count
      let wideKey = key.count > 0xff ? Entry.wideKey : 0
      let wideValue = count > 0xff ? Entry.wideValue : 0
      flags =
        (deadline == nil ? 0 : Entry.expires) | wideKey | wideValue | type << Entry.typeShift
      headerSize =
        (wideKey == 0 ? 6 : 9) + (wideValue == 0 ? 0 : 3) + Content.bytes(of: deadline)
    }

    /// What an entry holds that has no block of its own, with another key and deadline.
    init(of entry: Entry, key: Bytes, deadline: Timestamp?) {
      switch entry.value {
      case .bytes(let bytes) where entry.isEdited:
        self.init(key: key, edited: bytes, count: bytes.count, deadline: deadline)
      case .bytes(let bytes), .long(let bytes, _):
        self.init(key: key, text: bytes, deadline: deadline)
      case .integer(let number): self.init(key: key, number: number, deadline: deadline)
      }
    }

    /// An entry in front of a long value.
    init(key: Bytes, long value: LongValue, deadline: Timestamp?) {
      self.key = key
      self.value = .empty
      self.deadline = deadline
      number = 0
      flags =
        (deadline == nil ? 0 : Entry.expires) | (key.count > 0xff ? Entry.wideKey : 0)
        | Entry.wideValue | ValueType.long << Entry.typeShift
      valueLength = value.count
      headerSize =
        Entry.lengthsOffset + (key.count > 0xff ? 4 : 1) + 4 + Entry.leadBytes
        + Content.bytes(of: deadline)
    }

    /// What a deadline, or none, takes of the header.
    @inline(__always)
    private static func bytes(of deadline: Timestamp?) -> Int {
      guard let deadline else { return 0 }
      return Entry.near(deadline) == Entry.farDeadline
        ? Entry.farDeadlineBytes : Entry.deadlineBytes
    }

    /// Whether the header and the key fit in front of the value.
    func fits(before value: LongValue) -> Bool { headerSize + key.count <= value.lead }

    /// Where the entry begins that ends with the value.
    func start(before value: LongValue) -> UnsafeMutablePointer<UInt8> {
      precondition(fits(before: value), "no room for the key in front of its value")
      return unsafe value.block.payload + (value.offset - headerSize - key.count)
    }

    /// Writes header and key in front of the value. The key may lie there already, or nearby.
    func write(before value: LongValue, access: UInt32, _ mark: Mark) {
      let start = unsafe start(before: value)
      // SAFETY: there is room; the key goes to its place first, for the header may overwrite it.
      unsafe memmove(start + headerSize, key.pointer, key.count)
      unsafe UnsafeMutableRawPointer(start).storeBytes(
        of: UInt32(flags | mark.bits) | access &<< 8, as: UInt32.self)
      var offset = unsafe writeWideLengths(to: start)
      let lead = value.offset - headerSize - key.count
      unsafe UnsafeMutableRawPointer(start).storeBytes(
        of: UInt32(lead), toByteOffset: offset, as: UInt32.self)
      offset += Entry.leadBytes
      if let deadline { _ = unsafe write(deadline, to: start, at: offset) }
    }

    /// - Returns: Where the deadline's bytes end.
    @inline(__always)
    @unsafe private func write(
      _ deadline: Timestamp, to base: UnsafeMutablePointer<UInt8>, at offset: Int
    ) -> Int {
      let near = Entry.near(deadline)
      let raw = UnsafeMutableRawPointer(base)
      unsafe raw.storeBytes(
        of: UInt32(truncatingIfNeeded: near), toByteOffset: offset, as: UInt32.self)
      unsafe base[offset &+ 4] = UInt8(truncatingIfNeeded: near &>> 32)
      let end = offset &+ Entry.deadlineBytes
      if near != Entry.farDeadline { return end }
      unsafe raw.storeBytes(of: deadline.milliseconds, toByteOffset: end, as: Int.self)
      return end &+ 8
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
    @unsafe func write(to base: UnsafeMutablePointer<UInt8>, access: UInt32, _ mark: Mark) {
      unsafe UnsafeMutableRawPointer(base).storeBytes(
        of: UInt32(flags | mark.bits) | access &<< 8, as: UInt32.self)
      var offset = 6
      if flags & (Entry.wideKey | Entry.wideValue) == 0 {
        unsafe base[4] = UInt8(truncatingIfNeeded: key.count)
        unsafe base[5] = UInt8(truncatingIfNeeded: valueLength)
      } else {
        offset = unsafe writeWideLengths(to: base)
      }
      if let deadline { offset = unsafe write(deadline, to: base, at: offset) }
      unsafe copyBytes(base + offset, key.pointer, key.count)
      offset &+= key.count
      if flags >> Entry.typeShift == ValueType.string {
        unsafe copyBytes(base + offset, value.pointer, valueLength)
      } else if flags >> Entry.typeShift == ValueType.edited {
        unsafe copyBytes(base + offset, value.pointer, value.count)
        unsafe memset(base + offset + value.count, 0, valueLength - value.count)
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
      var offset = Entry.lengthsOffset
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

  /// Writes `content` to room of its size.
  @inline(__always)
  func write(_ content: Content, access: UInt32, _ mark: Mark) {
    // SAFETY: the arena has given as much room as the content needs.
    unsafe content.write(to: base, access: access, mark)
  }

  /// Copies another entry of `size` bytes into room of that size.
  @inline(__always)
  func copy(_ other: Entry, size: Int) {
    unsafe copyBytes(base, other.base, size)
  }

  /// Marks an entry as removed; its size stays readable.
  @inline(__always)
  func markDead() { unsafe base[0] |= Entry.dead }

  /// Writes fillers of `size` bytes in all, 1...65,535, where nothing lives.
  func fill(_ size: Int) {
    precondition(size > 0 && size <= 0xffff, "a filler of that size cannot be")
    if size < 3 {
      for index in 0..<size {
        unsafe base[index] = Entry.dead | ValueType.fillerByte << Entry.typeShift
      }
      return
    }
    unsafe base[0] = Entry.dead | ValueType.filler << Entry.typeShift
    unsafe UnsafeMutableRawPointer(base).storeBytes(
      of: UInt16(size), toByteOffset: 1, as: UInt16.self)
  }

  /// What lies `bytes` behind this entry's beginning.
  func advanced(by bytes: Int) -> Entry {
    unsafe Entry(base: base + bytes)
  }
}

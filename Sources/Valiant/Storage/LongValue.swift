/// A value of more than 16 KiB on its way into the store: bytes in a block which the store will take
/// over as it is, with header and key written in front of the value.
///
///     block   [ room for header and key | value | whatever ]
///
/// Who has one holds a reference to the block.
struct LongValue {
  let block: SharedBlock
  /// Where the value begins in the block's payload, in bytes.
  let offset: Int
  let count: Int
  /// Bytes in front of the value that may be overwritten, 0...offset.
  let lead: Int

  /// Longer values have blocks of their own.
  static let shortMax = EntryArena.sharedEntryBytesMax
  /// The longest header of an entry.
  static let headerBytesMax = 32

  init(block: SharedBlock, offset: Int, count: Int, lead: Int) {
    precondition(count > Self.shortMax, "a value that is not long")
    self.block = block
    self.offset = offset
    self.count = count
    self.lead = lead
  }

  /// A copy of `value` in a new block; nil when there is no memory.
  ///
  /// - Parameter keyCount: Bytes of the key that there has to be room for.
  init?(copying value: Bytes, keyCount: Int, _ pool: BlockPool) {
    let lead = keyCount + Self.headerBytesMax
    guard let block = pool.allocateShared(lead + value.count) else { return nil }
    unsafe copyBytes(block.payload + lead, value.pointer, value.count)
    self.init(block: block, offset: lead, count: value.count, lead: lead)
  }

  /// `count` bytes to be filled, zeros, with some room behind them; nil when there is no memory.
  init?(zeros count: Int, keyCount: Int, _ pool: BlockPool) {
    let lead = keyCount + Self.headerBytesMax
    let capacity = Self.roomy(lead + count)
    guard let block = pool.allocateShared(capacity, isZero: true) else { return nil }
    self.init(block: block, offset: lead, count: count, lead: lead)
  }

  /// What is taken for a value that may go on growing: an eighth more, at most a megabyte.
  static func roomy(_ bytes: Int) -> Int { bytes + min(bytes / 8, 1 << 20) }

  /// The value's bytes to be changed, by who holds the only reference to the block.
  var mutableBytes: MutableBytes {
    unsafe MutableBytes(base: block.payload + offset, count: count)
  }

  /// The same value with another length, for which there is room in its block.
  func resized(to count: Int, in block: SharedBlock) -> LongValue {
    precondition(offset + count <= block.capacity, "more bytes than there is room")
    return LongValue(block: block, offset: offset, count: count, lead: lead)
  }

  /// The value, as long as the block is held.
  var bytes: Bytes { unsafe Bytes(base: block.payload + offset, count: count) }
}

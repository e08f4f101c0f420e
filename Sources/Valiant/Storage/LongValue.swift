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

  /// The value, as long as the block is held.
  var bytes: Bytes { unsafe Bytes(base: block.payload + offset, count: count) }
}

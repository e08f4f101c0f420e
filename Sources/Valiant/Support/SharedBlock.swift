import Glibc
import Synchronization

/// Memory for a long value, and whatever else needs tens of kilobytes: shared by counting.
///
/// A long value is not copied on its way. The block that a connection read it into becomes the
/// store's; a reply is sent from the store's block, which lives on until the last byte has left,
/// even if the key is deleted meanwhile.
///
///     block   [ owners: 4 | mapped: 4 | capacity: 8 | payload … ]
///
/// Blocks of less than 32 KiB come from `malloc`; others are mappings of whole pages, which grow
/// without being copied, as long as the system grants the process further mappings. Fresh pages cost
/// the system half a microsecond each, a value of 64 KiB more than all that is done with it; so a few
/// megabytes of mappings are kept for the next one, as long as one comes.
///
/// Any thread may retain and release. Who holds the only reference may write and grow.
///
/// Invariant: `header` points to such a block; there is at least one owner.
@safe struct SharedBlock: Sendable {
  // SAFETY: the count is atomic; capacity changes only while there is one owner.
  nonisolated(unsafe) private let header: UnsafeMutableRawPointer

  private static let headerBytes = 16
  private static let isMappedOffset = 4
  private static let capacityOffset = 8
  private static let mappedMin = 32 * 1024

  /// A block with room for at least `capacity` bytes and one owner; nil when there is no memory.
  init?(capacity: Int) {
    let wanted = capacity + Self.headerBytes
    if wanted >= Self.mappedMin {
      if let kept = unsafe Kept.take(wanted) {
        unsafe self.init(begin: kept.block, bytes: kept.bytes, isMapped: true)
        return
      }
      let bytes = MemoryMap.rounded(wanted)
      if let block = unsafe MemoryMap.map(bytes) {
        unsafe self.init(begin: block, bytes: bytes, isMapped: true)
        return
      }
    }
    guard let block = unsafe malloc(wanted) else { return nil }
    unsafe self.init(begin: block, bytes: wanted, isMapped: false)
  }

  /// A block of zeros.
  init?(zeros capacity: Int) {
    guard let block = SharedBlock(capacity: capacity) else { return nil }
    self = block
    clear(from: 0)
  }

  /// Makes what lies behind `count` zeros, in a block that has just been made.
  private func clear(from count: Int) {
    // Larger ones are fresh from the system.
    if isMapped, capacity + Self.headerBytes > Kept.blockBytesMax { return }
    unsafe memset(payload + count, 0, capacity - count)
  }

  private init(begin block: UnsafeMutableRawPointer, bytes: Int, isMapped: Bool) {
    unsafe header = block
    unsafe block.initializeMemory(as: Atomic<UInt32>.self, to: Atomic(1))
    unsafe block.storeBytes(
      of: isMapped ? 1 : 0, toByteOffset: Self.isMappedOffset, as: UInt32.self)
    unsafe block.storeBytes(
      of: bytes - Self.headerBytes, toByteOffset: Self.capacityOffset, as: Int.self)
  }

  /// The block whose payload begins at `payload`.
  @unsafe init(payload: UnsafeMutablePointer<UInt8>) {
    unsafe header = UnsafeMutableRawPointer(payload) - Self.headerBytes
  }

  @unsafe var payload: UnsafeMutablePointer<UInt8> {
    unsafe (header + Self.headerBytes).assumingMemoryBound(to: UInt8.self)
  }

  /// Bytes of the payload.
  var capacity: Int { unsafe header.load(fromByteOffset: Self.capacityOffset, as: Int.self) }

  /// Bytes that the system, or `malloc`, has given for it.
  var footprint: Int {
    let bytes = capacity + Self.headerBytes
    return isMapped ? bytes : (bytes + 8 + 15) & ~15
  }

  private var isMapped: Bool {
    unsafe header.load(fromByteOffset: Self.isMappedOffset, as: UInt32.self) != 0
  }

  private var owners: UnsafeMutablePointer<Atomic<UInt32>> {
    unsafe header.assumingMemoryBound(to: Atomic<UInt32>.self)
  }

  /// Whether there is another owner than the one who asks.
  var isShared: Bool { unsafe owners.pointee.load(ordering: .acquiring) > 1 }

  /// Adds an owner.
  func retain() { unsafe owners.pointee.wrappingAdd(1, ordering: .relaxed) }

  /// Takes an owner off; the last one frees the block.
  func release() {
    let before = unsafe owners.pointee.wrappingSubtract(1, ordering: .acquiringAndReleasing)
      .oldValue
    if before == 1 { free() }
  }

  private func free() {
    let bytes = capacity + Self.headerBytes
    if !isMapped { return unsafe Glibc.free(header) }
    if unsafe !Kept.put(header, bytes) { unsafe MemoryMap.unmap(header, bytes) }
  }

  /// The same content in a block of at least `capacity`, which replaces this one; nil when there is
  /// no memory, and nothing has changed.
  ///
  /// For the only owner. A mapping's pages move. Others are copied, `count` bytes; so are those of a
  /// process that has as many mappings as the system allows.
  ///
  /// - Parameter zeroing: Whether what lies behind `count` has to be zeros.
  func grown(to capacity: Int, count: Int, zeroing: Bool = false) -> SharedBlock? {
    if isMapped {
      let oldBytes = self.capacity + Self.headerBytes
      let bytes = MemoryMap.rounded(capacity + Self.headerBytes)
      if zeroing { unsafe memset(payload + count, 0, self.capacity - count) }
      if let block = unsafe MemoryMap.resize(header, from: oldBytes, to: bytes) {
        return unsafe SharedBlock(begin: block, bytes: bytes, isMapped: true)
      }
    }
    guard let new = SharedBlock(capacity: capacity) else { return nil }
    unsafe copyBytes(new.payload, payload, count)
    if zeroing { new.clear(from: count) }
    release()
    return new
  }

  /// Bytes of mappings that are kept for the next block.
  static var keptBytes: Int { Kept.bytes }

  /// Frees those kept mappings that were not needed since the last call. Ten times a second.
  static func freeUnneeded() { Kept.freeUnneeded() }
}

/// Mappings that nobody uses at the moment, the latest at the end.
@safe private enum Kept {
  @safe struct Block: @unchecked Sendable {
    // SAFETY of @unchecked Sendable: an address; who takes it off the list owns it.
    let block: UnsafeMutableRawPointer
    let bytes: Int
  }

  /// Invariant: each of `blocks` is a mapping of its length, which belongs to this list alone.
  private struct State {
    var blocks: [Block] = []
    var bytes = 0
    /// The fewest blocks that there were since the last `freeUnneeded`.
    var fewest = 0

    mutating func remove(at index: Int) -> Block {
      let block = blocks.remove(at: index)
      bytes -= block.bytes
      fewest = min(fewest, blocks.count)
      return block
    }
  }

  private static let state = Guarded(State())
  private static let bytesMax = 4 << 20
  /// Larger ones are too rare.
  static let blockBytesMax = 1 << 20

  /// A mapping that is not smaller than `wanted`, and not much larger.
  @unsafe static func take(_ wanted: Int) -> Block? {
    if wanted > blockBytesMax { return nil }
    return state.withLock { state in
      let index = state.blocks.lastIndex {
        (wanted...wanted + wanted / 8 + MemoryMap.pageBytes).contains($0.bytes)
      }
      return index.map { state.remove(at: $0) }
    }
  }

  /// Keeps a mapping, in place of older ones if need be.
  ///
  /// - Returns: False when it is too large.
  @unsafe static func put(_ block: UnsafeMutableRawPointer, _ bytes: Int) -> Bool {
    if bytes > blockBytesMax { return false }
    let old: [Block] = state.withLock { state in
      unsafe state.blocks.append(Block(block: block, bytes: bytes))
      state.bytes += bytes
      var old: [Block] = []
      while state.bytes > bytesMax { old.append(state.remove(at: 0)) }
      return old
    }
    for block in old { unsafe MemoryMap.unmap(block.block, block.bytes) }
    return true
  }

  static var bytes: Int { state.withLock { $0.bytes } }

  static func freeUnneeded() {
    let unneeded: [Block] = state.withLock { state in
      let unneeded = (0..<state.fewest).map { _ in state.remove(at: 0) }
      state.fewest = state.blocks.count
      return unneeded
    }
    for block in unneeded { unsafe MemoryMap.unmap(block.block, block.bytes) }
  }
}

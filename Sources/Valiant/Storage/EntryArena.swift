/// Where an entry lies: a chunk's number and a byte within it, in 32 bits.
///
/// Good until the arena is compacted, which moves entries and writes their new references into
/// the table.
struct EntryReference: Equatable {
  let bits: UInt32

  /// No entry: no chunk has the number 0.
  static var none: EntryReference { EntryReference(bits: 0) }

  @inline(__always)
  var isNone: Bool { bits == 0 }

  @inline(__always)
  init(bits: UInt32) { self.bits = bits }

  @inline(__always)
  init(chunk: UInt32, offset: UInt32) { bits = chunk &<< 16 | offset }

  @inline(__always)
  var chunk: UInt32 { bits &>> 16 }
  @inline(__always)
  var offset: UInt32 { bits & 0xffff }
}

/// The memory of one keyspace's entries: a log of chunks, compacted one chunk at a time.
///
/// A new entry is put behind the last one in the current chunk, to the byte: nothing is rounded.
/// An entry that is removed stays where it is, marked as dead. When more than a seventh of the
/// arena is dead, each removal pays for a few steps of compaction: the entries of the chunk with
/// the most dead bytes are moved behind the current end one by one, and the chunk is freed.
///
/// Chunks are a sixteenth of the arena, 8 KiB to 64 KiB. The current one begins small and grows
/// to that size in steps, for which its bytes are copied: references stay good, and what is not
/// filled yet hardly counts. An entry of more than 16 KiB has a chunk of its own, a `SharedBlock`
/// that begins in front of it, from which it never moves.
///
///     chunk   [ entry | entry | dead entry | entry | … | not used yet ]
///
/// Invariants:
/// 1. Every chunk is a sequence of entries, dead entries and fillers, up to `used`.
/// 2. `dead` of a chunk counts the bytes of dead entries and fillers in it.
/// 3. `deadBytes` is the sum of all chunks' `dead`; `chunkBytes` that of all chunks' sizes.
/// 4. Only the current chunk has room behind `used`.
///
/// Tried on paper and dropped: blocks by size class (rounding costs 4 bytes an entry, and what
/// survives a mass deletion pins all pages), moving entries within a chunk (it would have to be
/// one step for each chunk, or leave holes), chunks of a fixed size (half of one is empty in each
/// of a thousand shards: 3 % of a million keys). All methods need the shard's lock.
@safe struct EntryArena: ~Copyable {
  private(set) var chunks: ChunkList
  /// Chunk numbers that there is room for, and those ever used.
  private var capacity: UInt32 = 0
  private var end: UInt32 = 1
  /// First of the numbers that are free again, chained through `used`.
  private var free: UInt32 = 0
  /// The chunk that is being filled, 0 when there is none, its size, and to what it may grow.
  private var current: UInt32 = 0
  private var currentSize: UInt32 = 0
  private var currentSizeMax: UInt32 = 0
  /// The chunk that is being emptied, 0 when there is none, and how far that has come.
  private var victim: UInt32 = 0
  private var victimOffset: UInt32 = 0
  /// Where the search for the next victim goes on.
  private var searched: UInt32 = 0
  private var deadBytes = 0
  private var chunkBytes = 0
  /// Bytes that have died since the last compaction.
  private var debt = 0

  private static let chunkShare = 16
  private static let chunkBytesMin = 8 * 1024
  private static let chunkBytesMax = BlockPool.pageBytes
  /// An entry larger than this gets a chunk of its own.
  static let sharedEntryBytesMax = 16 * 1024
  private static let chunkCountMax: UInt32 = 1 << 16
  /// A new chunk begins with this part of the size that it may grow to; an arena's first one with
  /// one entry.
  private static let firstShare = 16
  private static let deadShare = 7
  /// Bytes that have to die for one step of compaction, which looks at so many times as many.
  private static let debtMin = 1024
  private static let debtMax = 32 * 1024
  private static let repayment = 8
  static let stepBytesMax = 8 * 1024
  private static let deadShareUnderPressure = 10
  /// Chunks that one search for a victim looks at.
  private static let searchedMax: UInt32 = 64

  init() { chunks = ChunkList() }

  /// Bytes taken from the pool.
  var allocatedBytes: Int {
    chunkBytes + (capacity == 0 ? 0 : BlockPool.capacity(Int(capacity) * ChunkList.strideBytes))
  }

  /// What the arena's memory is used for, in bytes.
  struct Usage {
    /// Living entries.
    var live = 0
    /// Removed entries that compaction has not reached, and what was left at the end of chunks.
    var dead = 0
    /// Room that is not filled yet, rounding, and the list of chunks.
    var spare = 0

    static func += (left: inout Usage, right: Usage) {
      left.live += right.live
      left.dead += right.dead
      left.spare += right.spare
    }
  }

  /// O(chunks).
  var usage: Usage {
    var used = 0
    for number in 1..<max(end, 1) where !chunks[number].isFree { used += Int(chunks[number].used) }
    return Usage(live: used - deadBytes, dead: deadBytes, spare: allocatedBytes - used)
  }

  // MARK: Adding

  /// Room for an entry of `size` bytes; nil when there is no memory.
  ///
  /// References stay good, but entries may be elsewhere in memory afterwards.
  @inline(__always)
  mutating func allocate(_ size: Int, _ pool: BlockPool) -> EntryReference? {
    if current != 0, size <= Self.sharedEntryBytesMax {
      let used = chunks[current].used
      if size <= Int(currentSize &- used) {
        chunks[current].used = used &+ UInt32(truncatingIfNeeded: size)
        return EntryReference(chunk: current, offset: used)
      }
    }
    return allocateElsewhere(size, pool)
  }

  @inline(never)
  private mutating func allocateElsewhere(_ size: Int, _ pool: BlockPool) -> EntryReference? {
    if size > Self.sharedEntryBytesMax {
      guard let block = pool.allocateShared(size) else { return nil }
      let reference = unsafe adopt(block, at: block.payload, size, pool)
      if reference == nil { block.release() }
      return reference
    }
    if current != 0, Int(chunks[current].used) + size <= Int(currentSizeMax) {
      guard growCurrent(by: size, pool) else { return nil }
    } else {
      let sizeMax = max(wantedChunkBytes, Self.powerOfTwo(from: size))
      let isFirst = chunkBytes == 0
      let firstSize = BlockPool.capacity(isFirst ? size : max(size, sizeMax / Self.firstShare))
      guard let number = addChunk(firstSize, pool) else { return nil }
      closeCurrent(pool)
      current = number
      currentSize = UInt32(firstSize)
      currentSizeMax = UInt32(sizeMax)
    }
    let used = chunks[current].used
    chunks[current].used = used + UInt32(size)
    return EntryReference(chunk: current, offset: used)
  }

  /// Makes the last entry of the current chunk longer by `bytes`, which the caller fills.
  ///
  /// - Returns: False for any other entry, and when there is no room behind it.
  mutating func extend(_ reference: EntryReference, size: Int, by bytes: Int) -> Bool {
    guard reference.chunk == current, Int(reference.offset) + size == Int(chunks[current].used),
      bytes <= Int(currentSize - chunks[current].used)
    else { return false }
    chunks[current].used += UInt32(bytes)
    return true
  }

  /// Moves the current chunk into the next larger block that has room for `size` more bytes.
  private mutating func growCurrent(by size: Int, _ pool: BlockPool) -> Bool {
    let used = Int(chunks[current].used)
    let newSize = BlockPool.capacity(max(used + size, Int(currentSize) + 1))
    guard let block = unsafe pool.allocate(newSize) else { return false }
    unsafe block.copyMemory(from: chunks[current].base, byteCount: used)
    unsafe pool.free(chunks[current].base, Int(currentSize))
    unsafe chunks[current].move(to: block)
    chunkBytes += newSize - Int(currentSize)
    currentSize = UInt32(newSize)
    return true
  }

  /// The size of a new chunk.
  private var wantedChunkBytes: Int {
    let share = chunkBytes / Self.chunkShare
    if share <= Self.chunkBytesMin { return Self.chunkBytesMin }
    return min(Self.powerOfTwo(from: share + 1) / 2, Self.chunkBytesMax)
  }

  /// The least power of two that is not below `bytes`.
  private static func powerOfTwo(from bytes: Int) -> Int {
    1 << (Int.bitWidth - (bytes - 1).leadingZeroBitCount)
  }

  private mutating func addChunk(_ size: Int, _ pool: BlockPool) -> UInt32? {
    guard hasNumber(pool), let block = unsafe pool.allocate(size) else { return nil }
    let number = takeNumber()
    chunks[number] = unsafe Chunk(base: block)
    chunkBytes += BlockPool.capacity(size)
    return number
  }

  /// Makes a block with one entry a chunk of its own.
  ///
  /// - Parameters:
  ///   - base: Where in the block's payload the entry begins, or will begin.
  ///   - size: Of the entry.
  /// - Returns: Nil when there is no memory; else one reference to the block is the arena's now.
  private mutating func adopt(
    _ block: SharedBlock, at base: UnsafeMutablePointer<UInt8>, _ size: Int, _ pool: BlockPool
  ) -> EntryReference? {
    guard hasNumber(pool) else { return nil }
    let number = takeNumber()
    chunks[number] = unsafe Chunk(base: UnsafeMutableRawPointer(base), isOwn: true)
    chunks[number].used = UInt32(size)
    pool.adopt(block)
    chunkBytes += block.footprint
    return EntryReference(chunk: number, offset: 0)
  }

  /// Puts the entry of a long value in front of it.
  ///
  /// - Returns: Nil when there is no memory; else the arena has taken over the block.
  mutating func adopt(
    _ content: Entry.Content, _ value: LongValue, access: UInt32, _ mark: Entry.Mark,
    _ pool: BlockPool
  ) -> EntryReference? {
    let base = unsafe content.start(before: value)
    guard let reference = unsafe adopt(value.block, at: base, content.size, pool) else {
      return nil
    }
    content.write(before: value, access: access, mark)
    return reference
  }

  /// Writes the head of a long value's entry anew, which may begin elsewhere then.
  mutating func rewrite(
    _ reference: EntryReference, _ content: Entry.Content, _ value: LongValue, access: UInt32,
    _ mark: Entry.Mark
  ) {
    content.write(before: value, access: access, mark)
    unsafe chunks[reference.chunk].move(to: content.start(before: value))
    chunks[reference.chunk].used = UInt32(content.size)
  }

  /// Makes the value of a long value's entry `count` bytes long, zeros behind what there was. The
  /// arena holds the only reference to its block.
  ///
  /// - Returns: False when there was no memory, and nothing has changed.
  mutating func lengthen(
    _ reference: EntryReference, to count: Int, deadline: Timestamp?, _ pool: BlockPool
  ) -> Bool {
    let entry = chunks.entry(reference)
    var value = entry.longValue
    let (access, mark, start) = (entry.access, entry.mark, entry.blockOffset)
    let (oldCount, footprint) = (value.count, value.block.footprint)
    let end = value.offset + count
    if end > value.block.capacity {
      let capacity = LongValue.roomy(end)
      guard let grown = pool.grow(value.block, to: capacity, count: value.offset + oldCount) else {
        return false
      }
      chunkBytes += grown.footprint - footprint
      value = value.resized(to: count, in: grown)
    } else {
      value = value.resized(to: count, in: value.block)
      value.mutableBytes.clear(oldCount..<count)
    }
    // The head lies where it lay, in a block that may have moved.
    let head = unsafe Entry(base: value.block.payload + start)
    rewrite(
      reference, Entry.Content(key: head.key, long: value, deadline: deadline), value,
      access: access, mark)
    return true
  }

  /// Makes sure that there is a number for another chunk.
  private mutating func hasNumber(_ pool: BlockPool) -> Bool {
    free != 0 || end < capacity || growList(pool)
  }

  private mutating func takeNumber() -> UInt32 {
    if free == 0 {
      end += 1
      return end - 1
    }
    let number = free
    free = chunks[number].used
    return number
  }

  private func giveBack(_ number: UInt32, _ size: Int, _ pool: BlockPool) {
    if chunks[number].isOwn {
      pool.release(ownBlock(number))
    } else {
      unsafe pool.free(chunks[number].base, size)
    }
  }

  /// The block of a chunk with one entry.
  private func ownBlock(_ number: UInt32) -> SharedBlock {
    chunks.entry(EntryReference(chunk: number, offset: 0)).ownBlock
  }

  private mutating func growList(_ pool: BlockPool) -> Bool {
    let wanted = max(4, min(capacity + capacity / 2, Self.chunkCountMax))
    guard wanted > capacity, let list = ChunkList(count: Int(wanted), pool) else { return false }
    list.copy(from: chunks, count: Int(capacity))
    chunks.free(count: Int(capacity), pool)
    chunks = list
    capacity = wanted
    return true
  }

  /// Counts the rest of the current chunk as dead, so that nothing is added to it any more.
  private mutating func closeCurrent(_ pool: BlockPool) {
    guard current != 0 else { return }
    let number = current
    let used = chunks[number].used
    let rest = currentSize - used
    current = 0
    if rest > 0 {
      if used > 0 { chunks.entry(EntryReference(chunk: number, offset: used)).fill(Int(rest)) }
      chunks[number].used = currentSize
      chunks[number].dead += rest
      deadBytes += Int(rest)
    }
    if chunks[number].dead == chunks[number].used { freeChunk(number, pool) }
  }

  // MARK: Removing

  /// Marks the entry as dead. Moves no other entry.
  @inline(__always)
  mutating func remove(_ reference: EntryReference, _ pool: BlockPool) {
    if chunks[reference.chunk].isOwn { return freeChunk(reference.chunk, pool) }
    let entry = chunks.entry(reference)
    let size = entry.size
    entry.markDead()
    countDead(size, in: reference.chunk, pool)
  }

  /// Counts `size` bytes in a chunk as dead, which a dead entry or a filler holds.
  mutating func countDead(_ size: Int, in number: UInt32, _ pool: BlockPool) {
    deadBytes += size
    debt += size
    let dead = chunks[number].dead &+ UInt32(truncatingIfNeeded: size)
    chunks[number].dead = dead
    guard dead == chunks[number].used else { return }
    if number == current {
      // Nothing in it lives: begin again.
      deadBytes -= Int(dead)
      chunks[number].used = 0
      chunks[number].dead = 0
    } else {
      freeChunk(number, pool)
    }
  }

  private mutating func freeChunk(_ number: UInt32, _ pool: BlockPool) {
    let size = Int(chunks[number].used)
    deadBytes -= Int(chunks[number].dead)
    chunkBytes -= chunks[number].isOwn ? ownBlock(number).footprint : BlockPool.capacity(size)
    giveBack(number, size, pool)
    chunks[number].markFree(next: free)
    free = number
    if victim == number { victim = 0 }
  }

  /// Gives all memory back. What was in the arena is gone.
  mutating func removeAll(_ pool: BlockPool) {
    var number: UInt32 = 1
    while number < end {
      if !chunks[number].isFree {
        let size = number == current ? currentSize : chunks[number].used
        giveBack(number, Int(size), pool)
      }
      number += 1
    }
    chunks.free(count: Int(capacity), pool)
    self = EntryArena()
  }

  /// Gives large blocks back, which ending the pool would not; the arena is not used any more.
  func freeLargeBlocks(_ pool: BlockPool) {
    for number in 1..<max(end, 1) where chunks[number].isOwn {
      pool.release(ownBlock(number))
    }
    if Int(capacity) * ChunkList.strideBytes > BlockPool.pageBytes {
      chunks.free(count: Int(capacity), pool)
    }
  }

  // MARK: Compacting

  /// How many bytes a step of compaction should look at now; 0 for none.
  ///
  /// Steps are taken when much is dead, and then often enough to keep up with what dies.
  ///
  /// - Parameter isPressed: Whether memory is short, and keys have to go for what is dead.
  @inline(__always)
  func compactionDue(isPressed: Bool) -> Int {
    if debt < Self.debtMin { return 0 }
    let share = isPressed ? Self.deadShareUnderPressure : Self.deadShare
    if deadBytes &* share <= chunkBytes { return 0 }
    return min(debt &* Self.repayment, Self.stepBytesMax)
  }

  /// Counts off what a step repays. What is left of a large entry is repaid by the next steps.
  mutating func repay(_ bytes: Int) {
    debt = max(0, min(debt, Self.debtMax) - bytes / Self.repayment)
  }

  /// Forgets what has died: there is nothing that would be worth moving.
  mutating func forgetDebt() { debt = 0 }

  /// Living entries of the chunk that is being emptied, a few at once.
  struct Batch {
    var references: InlineArray<8, EntryReference> = .init(repeating: .none)
    var count = 0
  }

  /// The next living entries to move; none when the budget is used up or nothing is worth emptying.
  ///
  /// The caller puts the entries elsewhere and removes these before it asks for others.
  ///
  /// - Parameter budget: Bytes still to be looked at; less by what was.
  mutating func nextToMove(_ budget: inout Int, _ pool: BlockPool) -> Batch {
    var batch = Batch()
    while budget > 0, batch.count < batch.references.count {
      if victim != 0, victimOffset == chunks[victim].used { victim = 0 }
      if victim == 0 {
        // A batch is of one chunk: the next victim could be the same one again.
        if batch.count > 0 || !chooseVictim(pool) { break }
      }
      let reference = EntryReference(chunk: victim, offset: victimOffset)
      let entry = chunks.entry(reference)
      let size = entry.size
      budget -= size
      victimOffset += UInt32(size)
      if entry.isDead { continue }
      batch.references[batch.count] = reference
      batch.count += 1
    }
    return batch
  }

  /// The chunk with the most dead bytes of those that are searched this time.
  private mutating func chooseVictim(_ pool: BlockPool) -> Bool {
    // A current chunk from larger days holds more than all others together.
    if current != 0, Int(currentSize) > 4 * wantedChunkBytes { closeCurrent(pool) }
    var best: UInt32 = 0
    var bestDead: UInt64 = 0
    var looked: UInt32 = 0
    while looked < min(end, Self.searchedMax) {
      looked += 1
      searched = searched + 1 < end ? searched + 1 : 1
      let number = searched
      if number == current || number >= end || chunks[number].isFree { continue }
      // Dead share in 1/256; a chunk of one entry has none.
      let share = UInt64(chunks[number].dead) << 8 / UInt64(chunks[number].used)
      if share > bestDead { (best, bestDead) = (number, share) }
    }
    // Moving nearly everything to win next to nothing is not worth it.
    if bestDead < 256 / 16 {
      // Then it is the current chunk that holds what is dead.
      guard current != 0, chunks[current].dead * 8 > chunks[current].used else { return false }
      best = current
      closeCurrent(pool)
      if chunks[best].isFree { return false }
    }
    victim = best
    victimOffset = 0
    return true
  }

  /// Moves blocks that lie in sparse pages of the pool into fuller ones.
  ///
  /// - Parameter budget: Bytes that may still be moved; less by those that were.
  mutating func consolidate(_ budget: inout Int, _ pool: BlockPool) {
    var number: UInt32 = 1
    while number < end, budget > 0 {
      defer { number += 1 }
      let chunk = chunks[number]
      if chunk.isFree || chunk.isOwn { continue }
      let size = Int(number == current ? currentSize : chunk.used)
      guard let block = unsafe pool.betterBlock(than: chunk.base, size) else { continue }
      unsafe block.copyMemory(from: chunk.base, byteCount: Int(chunk.used))
      unsafe pool.free(chunk.base, size)
      unsafe chunks[number].move(to: block)
      budget -= size
    }
    let listBytes = Int(capacity) * ChunkList.strideBytes
    if capacity > 0, budget > 0, let list = chunks.consolidated(bytes: listBytes, pool) {
      chunks = list
      budget -= listBytes
    }
  }

  /// Stops the process if an invariant does not hold. O(count); for tests.
  ///
  /// - Returns: How many living entries there are, and their bytes.
  func checkInvariants() -> (count: Int, bytes: Int) {
    var (living, livingBytes, dead, bytes) = (0, 0, 0, 0)
    var number: UInt32 = 1
    while number < end {
      defer { number += 1 }
      let chunk = chunks[number]
      if chunk.isFree { continue }
      var offset: UInt32 = 0
      var deadHere: UInt32 = 0
      while offset < chunk.used {
        let entry = chunks.entry(EntryReference(chunk: number, offset: offset))
        if entry.isDead { deadHere += UInt32(entry.size) } else { living += 1 }
        offset += UInt32(entry.size)
      }
      precondition(offset == chunk.used, "a chunk does not end with an entry")
      precondition(deadHere == chunk.dead, "a chunk's dead bytes are wrong")
      precondition(number == current || deadHere < chunk.used, "a chunk without living entries")
      dead += Int(deadHere)
      livingBytes += Int(chunk.used - deadHere)
      let size = Int(number == current ? currentSize : chunk.used)
      bytes += chunk.isOwn ? ownBlock(number).footprint : BlockPool.capacity(size)
    }
    precondition(dead == deadBytes, "the arena's dead bytes are wrong")
    precondition(bytes == chunkBytes, "the arena's bytes are wrong")
    return (living, livingBytes)
  }
}

/// One chunk of an arena.
///
/// Invariant: `base` points to a block of the pool, nil for a number that is free.
@safe struct Chunk {
  private var address: UnsafeMutableRawPointer?
  private var usedAndKind: UInt32 = 0
  /// Bytes of dead entries and fillers.
  var dead: UInt32 = 0

  private static let ownBit: UInt32 = 1 << 31

  /// - Parameter isOwn: Whether it is one entry, in a block of its own.
  init(base: UnsafeMutableRawPointer?, isOwn: Bool = false) {
    unsafe address = base
    usedAndKind = isOwn ? Self.ownBit : 0
  }

  /// Bytes behind which nothing has been put; for a free number the next free one.
  @inline(__always)
  var used: UInt32 {
    get { usedAndKind & ~Self.ownBit }
    set { usedAndKind = newValue | usedAndKind & Self.ownBit }
  }

  var isOwn: Bool { usedAndKind & Self.ownBit != 0 }

  @inline(__always)
  var base: UnsafeMutableRawPointer { unsafe address.unsafelyUnwrapped }

  var isFree: Bool { unsafe address == nil }

  /// Has the content elsewhere, where the caller has copied it.
  mutating func move(to block: UnsafeMutableRawPointer) { unsafe address = block }

  /// Makes the number free; `next` is the next free one.
  mutating func markFree(next: UInt32) {
    self = unsafe Chunk(base: nil)
    used = next
  }
}

/// The chunks of an arena by number: what turns a reference into an entry.
///
/// Invariant: `base` points to as many chunks as the arena's `capacity` says. A reference that
/// stands in the keyspace's table names a living entry of one of them.
@safe struct ChunkList {
  private let base: UnsafeMutablePointer<Chunk>?

  static let strideBytes = MemoryLayout<Chunk>.stride

  init() { unsafe base = nil }

  init?(count: Int, _ pool: BlockPool) {
    guard let block = unsafe pool.allocate(count * Self.strideBytes) else { return nil }
    unsafe base = block.bindMemory(to: Chunk.self, capacity: count)
    unsafe base?.initialize(repeating: Chunk(base: nil), count: count)
  }

  func copy(from other: ChunkList, count: Int) {
    guard let source = unsafe other.base, let target = unsafe base else { return }
    unsafe target.update(from: source, count: count)
  }

  /// The same list in a fuller page of the pool; nil when it lies well, or is large.
  func consolidated(bytes: Int, _ pool: BlockPool) -> ChunkList? {
    guard bytes <= BlockPool.pageBytes, let base = unsafe base else { return nil }
    let old = UnsafeMutableRawPointer(base)
    guard let block = unsafe pool.betterBlock(than: old, bytes) else { return nil }
    unsafe block.copyMemory(from: old, byteCount: bytes)
    unsafe pool.free(old, bytes)
    return unsafe ChunkList(
      base: block.bindMemory(to: Chunk.self, capacity: bytes / Self.strideBytes))
  }

  private init(base: UnsafeMutablePointer<Chunk>) {
    unsafe self.base = base
  }

  func free(count: Int, _ pool: BlockPool) {
    guard let base = unsafe base else { return }
    unsafe pool.free(UnsafeMutableRawPointer(base), count * Self.strideBytes)
  }

  @inline(__always)
  subscript(number: UInt32) -> Chunk {
    get { unsafe base.unsafelyUnwrapped[Int(truncatingIfNeeded: number)] }
    nonmutating _modify {
      yield unsafe &base.unsafelyUnwrapped[Int(truncatingIfNeeded: number)]
    }
  }

  /// The entry at `reference`.
  @inline(__always)
  func entry(_ reference: EntryReference) -> Entry {
    unsafe Entry(base: address(reference))
  }

  @inline(__always)
  private func address(_ reference: EntryReference) -> UnsafeMutablePointer<UInt8> {
    // SAFETY: a reference lies within its chunk.
    let chunk = unsafe base.unsafelyUnwrapped + Int(truncatingIfNeeded: reference.chunk)
    return unsafe (chunk.pointee.base + Int(truncatingIfNeeded: reference.offset))
      .assumingMemoryBound(to: UInt8.self)
  }

  /// Asks the processor for the entry's first cache line.
  @inline(__always)
  func prefetch(_ reference: EntryReference) {
    unsafe Processor.prefetch(address(reference))
  }
}

/// The table under a keyspace: hash and key to entry, growing and shrinking in small steps.
///
/// Extendible hashing. A directory, indexed by the hash's upper bits, points to segments; a segment
/// is an array of at most 323 slots with linear probing. A full segment grows by a fifth to a third,
/// and at 323 slots it splits in two by one more bit of the hash. So the most that one insertion
/// ever moves is one segment, about 280 entries, however many millions there are; the directory,
/// one word a segment, doubles when a segment needs more bits than it has.
///
///     hash             [ shard | directory index …………………………………………… | tag: 16 ]
///     directory word   [ slots: 10 | local depth: 6 | segment's address: 48 ]
///     segment          [ slot | slot | … | earliest deadline: 48, count: 16 | the groups' earliest deadlines: 48, … ]
///     slot             [ tag: 16 | entry's reference: 32 ], 6 bytes; reference 0 = free
///
/// A slot's home is the tag scaled to the number of slots, so segments need not be powers of two:
/// each fills a block of the pool to the last slot, and three sizes for each doubling keep the load
/// between 0.61 and 0.81.
///
/// Invariants:
/// 1. An entry lies in the segment of its hash, at its home slot or behind it, with no free slot
///    in between (cyclic).
/// 2. A segment of local depth d stands in 2^(depth - d) neighbouring words of the directory.
/// 3. A segment holds at most 13/16 of its slots; the word behind the slots counts them.
/// 4. `count` is the sum over the segments.
/// 5. No entry of a segment expires before the segment's earliest deadline, nor before that of its group:
///    those whose tags begin with the same bits, about twenty slots. A walk for expired keys leaves out
///    the groups in which nothing is due.
///
/// A lookup compares the tags of the first five slots at once. In which of them a key stands is chance, so
/// that a loop over them makes the processor guess wrong: a tenth of MGET's time.
///
/// The tag in the slot lets growth and removal shift entries without touching them; only a split
/// reads keys again. Removal shifts back, so there are no tombstones. Tried on paper and dropped:
/// one table a shard that doubles (its stall grows with the shard: 800 µs at 20M keys), two tables
/// with a moving border (two probes while it moves), linear hashing by buckets (unsplit buckets
/// carry twice the load, so chains).
///
/// All methods need the lock of the shard that owns the table. Where entries are looked at, the
/// arena's `ChunkList` says where they lie.
@safe struct HashTable: ~Copyable {
  private var directory: UnsafeMutablePointer<UInt64>?
  /// 64 - depth. The depth is at least 1, for a shift by 64 bits would be none.
  private var shift: UInt64 = 63
  private(set) var count = 0
  /// Bytes of directory and segments.
  private(set) var allocatedBytes = 0

  /// Bits at the top of the hash that choose the shard and are the same in the whole table.
  private static let shardBits: UInt64 = UInt64(Store.shardBits)
  /// Bits that the directory may grow to; behind them come those of the tag.
  private static let depthMax: UInt64 = ScanCursor.prefixBits

  init() {}

  /// Bits of the directory index.
  private var depth: UInt64 { 64 &- shift }

  // MARK: Places

  /// Where an entry stands; valid until the table is next changed.
  @safe struct Position {
    fileprivate let slot: UnsafeMutableRawPointer
    let hash: UInt64
    /// The entry that stands there.
    let entry: Entry

    @inline(__always)
    fileprivate init(slot: UnsafeMutableRawPointer, hash: UInt64, entry: Entry) {
      unsafe self.slot = slot
      self.hash = hash
      self.entry = entry
    }

    @inline(__always)
    var reference: EntryReference {
      EntryReference(bits: unsafe slot.loadUnaligned(as: UInt32.self))
    }

    /// Puts another entry with the same key in its place.
    @inline(__always)
    func replace(with reference: EntryReference) {
      unsafe slot.storeBytes(of: reference.bits, as: UInt32.self)
    }
  }

  @inline(__always)
  private static func slot(_ reference: EntryReference, hash: UInt64) -> UInt64 {
    UInt64(reference.bits) | (hash & 0xffff) &<< 32
  }

  @inline(__always)
  private static func reference(_ slot: UInt64) -> EntryReference {
    EntryReference(bits: UInt32(truncatingIfNeeded: slot))
  }

  @inline(__always)
  private func directoryIndex(_ hash: UInt64) -> Int {
    Int(truncatingIfNeeded: (hash &<< Self.shardBits) &>> shift)
  }

  @inline(__always)
  private func segment(_ hash: UInt64) -> Segment? {
    guard let directory = unsafe directory else { return nil }
    return unsafe Segment(word: directory[directoryIndex(hash)])
  }

  // MARK: Looking up

  /// The slots that a lookup reads, five at a time.
  ///
  /// They are looked at all at once: after how many a loop would end is a matter of chance, and when the
  /// processor guesses wrong, that costs twenty cycles.
  ///
  /// Invariant: `slot` is one of the segment's, `end` what follows its last one.
  @safe private struct Probe {
    private var slot: UnsafeMutableRawPointer
    private let first: UnsafeMutableRawPointer
    private let end: UnsafeMutableRawPointer

    /// What is read for five slots: three words each, the last one the tag, and one that is not theirs.
    static let bytes = 32
    private static let slots = 5
    private static let firstWords: UInt32 = 0b001_001_001_001_001
    private static let tagWord: UInt32 = 2

    @inline(__always)
    init(_ segment: Segment, hash: UInt64) {
      unsafe slot = segment.address(segment.home(hash & 0xffff))
      unsafe first = segment.base
      unsafe end = segment.address(segment.slotCount)
    }

    /// Which words from `slot` on are this one, as bits; none behind the segment's end.
    @inline(__always)
    private func words(_ word: UInt16) -> UInt32 {
      // SAFETY: a segment is longer than what is read, and `slot` lies whole words before its end.
      let start = unsafe min(slot, end - Self.bytes)
      let matches = unsafe Processor.matches(of: word, at: start)
      return unsafe matches &>> UInt32(truncatingIfNeeded: (slot - start) &>> 1)
    }

    /// Which of the slots have this tag, as bits for `slot(_:)`. For 0, free ones are among them.
    @inline(__always)
    func matches(_ tag: UInt16) -> UInt32 {
      words(tag) & Self.firstWords &<< Self.tagWord
    }

    /// The slot of the lowest bit.
    @inline(__always)
    func slot(_ matches: UInt32) -> UnsafeMutableRawPointer {
      unsafe slot + (matches.trailingZeroBitCount &- Int(Self.tagWord)) &* 2
    }

    /// Whether one of the slots is free.
    @inline(__always)
    var hasFree: Bool {
      let zeros = words(0)
      return zeros & zeros &>> 1 & Self.firstWords != 0
    }

    /// Goes on to the next five, or to the segment's beginning.
    @inline(__always)
    mutating func advance() {
      unsafe slot += Self.slots &* Segment.slotBytes
      if unsafe slot >= end { unsafe slot = first }
    }
  }

  /// The position of `key`, nil when it is not there. O(1).
  @inline(__always)
  func find(_ key: Bytes, hash: UInt64, in chunks: ChunkList) -> Position? {
    guard let segment = segment(hash) else { return nil }
    let probe = Probe(segment, hash: hash)
    let matches = probe.matches(UInt16(truncatingIfNeeded: hash))
    if matches != 0,
      let position = unsafe Self.position(of: key, hash, at: probe.slot(matches), in: chunks)
    {
      return position
    }
    return find(key, hash: hash, in: chunks, from: probe, matches & (matches &- 1))
  }

  /// The same for a key that is not near its home, or not there at all, or has a neighbour with the same
  /// tag.
  ///
  /// - Parameter others: Slots near its home that have the tag and have not been looked at.
  @inline(never)
  private func find(
    _ key: Bytes, hash: UInt64, in chunks: ChunkList, from home: Probe, _ others: UInt32
  ) -> Position? {
    var (probe, matches) = (home, others)
    while true {
      while matches != 0 {
        if let position = unsafe Self.position(of: key, hash, at: probe.slot(matches), in: chunks) {
          return position
        }
        matches &= matches &- 1
      }
      if probe.hasFree { return nil }
      probe.advance()
      matches = probe.matches(UInt16(truncatingIfNeeded: hash))
    }
  }

  /// The position of `key` if it is what stands in the slot.
  @inline(__always)
  private static func position(
    of key: Bytes, _ hash: UInt64, at slot: UnsafeMutableRawPointer, in chunks: ChunkList
  ) -> Position? {
    let reference = EntryReference(bits: unsafe slot.loadUnaligned(as: UInt32.self))
    if reference.isNone { return nil }
    let entry = chunks.entry(reference)
    return entry.key == key ? unsafe Position(slot: slot, hash: hash, entry: entry) : nil
  }

  /// The position of an entry that is in the table.
  @inline(__always)
  func find(_ reference: EntryReference, hash: UInt64, in chunks: ChunkList) -> Position {
    guard let segment = segment(hash) else { preconditionFailure("an entry without a table") }
    let wanted = Self.slot(reference, hash: hash)
    var index = segment.home(hash & 0xffff)
    while segment[index] != wanted {
      precondition(segment[index] != 0, "an entry that is not in the table")
      index = segment.after(index)
    }
    return unsafe Position(
      slot: segment.address(index), hash: hash, entry: chunks.entry(reference))
  }

  /// Asks the processor for the slots that a lookup reads first, which may lie in two cache lines.
  @inline(__always)
  func prefetchSlot(hash: UInt64) {
    guard let segment = segment(hash) else { return }
    let slot = unsafe segment.address(segment.home(hash & 0xffff))
    unsafe Processor.prefetch(slot)
    unsafe Processor.prefetch(slot + (Probe.bytes - 1))
  }

  /// Asks the processor for the entry that a lookup would compare first, if that stands in one of ten slots.
  @inline(__always)
  func prefetchEntry(hash: UInt64, in chunks: ChunkList) {
    guard let segment = segment(hash) else { return }
    let tag = UInt16(truncatingIfNeeded: hash)
    var probe = Probe(segment, hash: hash)
    var matches = probe.matches(tag)
    if matches == 0 {
      probe.advance()
      matches = probe.matches(tag)
      if matches == 0 { return }
    }
    let reference = EntryReference(
      bits: unsafe probe.slot(matches).loadUnaligned(as: UInt32.self))
    if !reference.isNone { chunks.prefetch(reference) }
  }

  /// Slots that a walk over a segment's entries asks ahead for: they lie scattered over memory.
  private static let ahead: UInt64 = 8

  /// Asks the processor for the entry of slot `index`, if there is one.
  @inline(__always)
  private static func prefetch(_ segment: Segment, _ index: UInt64, in chunks: ChunkList) {
    if index < segment.slotCount, segment[index] != 0 {
      chunks.prefetch(reference(segment[index]))
    }
  }

  // MARK: Changing

  /// Adds an entry whose key is not in the table.
  ///
  /// O(1) amortised; at worst moves the entries of one segment.
  ///
  /// - Returns: False when there was no memory, and nothing has changed.
  mutating func insert(
    _ reference: EntryReference, hash: UInt64, in chunks: ChunkList,
    _ memory: StorageContext
  ) -> Bool {
    if unsafe directory == nil, !makeDirectory(memory.pool) { return false }
    guard var segment = segment(hash) else { return false }
    while segment.isFull {
      let hasGrown = memory.steps.measure(.growth) {
        segment.bytes < Segment.bytesMax
          ? resize(segment, hash: hash, bytes: Segment.bytes(after: segment.bytes), memory.pool)
          : split(segment, hash: hash, in: chunks, memory)
      }
      guard hasGrown, let next = self.segment(hash) else { return false }
      segment = next
    }
    segment.insert(Self.slot(reference, hash: hash))
    segment.count += 1
    count += 1
    return true
  }

  /// Takes the entry at `position` out of the table. The caller frees it.
  mutating func remove(_ position: Position, _ pool: BlockPool) {
    guard let segment = segment(position.hash) else { preconditionFailure("nothing to remove") }
    // SAFETY: the position lies within this segment's slots.
    segment.remove(at: UInt64(unsafe position.slot - segment.base) / UInt64(Segment.slotBytes))
    count -= 1
    shrink(segment, hash: position.hash, pool)
  }

  /// Makes a segment smaller that holds far less than it could.
  @inline(__always)
  private mutating func shrink(_ segment: Segment, hash: UInt64, _ pool: BlockPool) {
    if count == 0 { return removeAll(pool) }
    if segment.count &* 5 >= segment.slotCount &* 2 || segment.bytes == Segment.bytesMin {
      return
    }
    // Without memory for a smaller one it stays as it is.
    _ = resize(segment, hash: hash, bytes: Segment.bytes(for: segment.count), pool)
  }

  @inline(never)
  private mutating func makeDirectory(_ pool: BlockPool) -> Bool {
    guard let block = unsafe pool.allocate(2 * 8) else { return false }
    guard let segment = Segment(bytes: Segment.bytesMin, localDepth: 0, pool) else {
      unsafe pool.free(block, 2 * 8)
      return false
    }
    let words = unsafe block.bindMemory(to: UInt64.self, capacity: 2)
    unsafe words.initialize(repeating: segment.word, count: 2)
    unsafe directory = words
    shift = 63
    allocatedBytes += segment.bytes + BlockPool.capacity(2 * 8)
    return true
  }

  /// Makes room for about `keys` entries if there are none yet, so that the table need not grow for
  /// them. Without memory for that it grows, as always. O(keys).
  mutating func reserve(_ keys: Int, _ pool: BlockPool) {
    guard unsafe directory == nil, keys > 0 else { return }
    let most = Segment.slots(bytes: Segment.bytesMax) * 2 / 3
    var depth = 1
    while keys >> depth > most { depth += 1 }
    let bytes = 8 << depth
    guard depth <= Int(Self.depthMax), let block = unsafe pool.allocate(bytes) else { return }
    let words = unsafe block.bindMemory(to: UInt64.self, capacity: 1 << depth)
    let segmentBytes = Segment.bytes(for: UInt64(keys >> depth))
    for index in 0..<1 << depth {
      guard let segment = Segment(bytes: segmentBytes, localDepth: UInt64(depth), pool) else {
        for made in 0..<index { unsafe Segment(word: words[made]).free(pool) }
        return unsafe pool.free(block, bytes)
      }
      unsafe words[index] = segment.word
      allocatedBytes += segment.bytes
    }
    allocatedBytes += BlockPool.capacity(bytes)
    unsafe directory = words
    shift = 64 - UInt64(depth)
  }

  /// Moves a segment into one of another size: no key is read.
  @inline(never)
  private mutating func resize(
    _ old: Segment, hash: UInt64, bytes: Int, _ pool: BlockPool
  ) -> Bool {
    guard let new = Segment(bytes: bytes, localDepth: old.localDepth, pool) else { return false }
    for index in 0..<old.slotCount where old[index] != 0 { new.insert(old[index]) }
    new.count = old.count
    new.adoptDeadlines(of: old)
    publish(new, hash: hash)
    allocatedBytes += new.bytes - old.bytes
    old.free(pool)
    return true
  }

  /// Distributes a segment over two by the next bit of its keys' hashes.
  @inline(never)
  private mutating func split(
    _ old: Segment, hash: UInt64, in chunks: ChunkList, _ memory: StorageContext
  ) -> Bool {
    let pool = memory.pool
    if old.localDepth == depth, !doubleDirectory(pool) { return false }
    let bit: UInt64 = 1 << (63 - Self.shardBits - old.localDepth)
    // Which slots go to the upper half.
    var isHigh: InlineArray<6, UInt64> = .init(repeating: 0)
    var highCount: UInt64 = 0
    for index in 0..<old.slotCount {
      Self.prefetch(old, index + Self.ahead, in: chunks)
      let slot = old[index]
      if slot == 0 { continue }
      if memory.hashing.hash(chunks.entry(Self.reference(slot)).key) & bit != 0 {
        isHigh[Int(index >> 6)] |= 1 << (index & 63)
        highCount += 1
      }
    }
    let localDepth = old.localDepth + 1
    guard
      let low = Segment(
        bytes: Segment.bytes(for: old.count - highCount), localDepth: localDepth, pool)
    else { return false }
    guard let high = Segment(bytes: Segment.bytes(for: highCount), localDepth: localDepth, pool)
    else {
      low.free(pool)
      return false
    }
    for index in 0..<old.slotCount where old[index] != 0 {
      (isHigh[Int(index >> 6)] >> (index & 63) & 1 == 0 ? low : high).insert(old[index])
    }
    low.count = old.count - highCount
    high.count = highCount
    low.adoptDeadlines(of: old)
    high.adoptDeadlines(of: old)
    publish(low, hash: hash & ~bit)
    publish(high, hash: hash | bit)
    allocatedBytes += low.bytes + high.bytes - old.bytes
    old.free(pool)
    return true
  }

  @inline(never)
  private mutating func doubleDirectory(_ pool: BlockPool) -> Bool {
    guard let old = unsafe directory, depth < Self.depthMax else { return false }
    let size = 1 << Int(depth)
    guard let block = unsafe pool.allocate(size * 2 * 8) else { return false }
    let new = unsafe block.bindMemory(to: UInt64.self, capacity: size * 2)
    for index in 0..<size {
      unsafe (new + index * 2).initialize(to: old[index])
      unsafe (new + index * 2 + 1).initialize(to: old[index])
    }
    allocatedBytes += BlockPool.capacity(size * 2 * 8) - BlockPool.capacity(size * 8)
    unsafe pool.free(UnsafeMutableRawPointer(old), size * 8)
    unsafe directory = new
    shift -= 1
    return true
  }

  /// Writes a segment into all its words of the directory.
  private mutating func publish(_ segment: Segment, hash: UInt64) {
    guard let directory = unsafe directory else { return }
    let span = 1 << Int(depth - segment.localDepth)
    let first = directoryIndex(hash) & ~(span - 1)
    for index in first..<first + span { unsafe directory[index] = segment.word }
  }

  /// Gives all memory back. Entries are the arena's.
  mutating func removeAll(_ pool: BlockPool) {
    guard let directory = unsafe directory else { return }
    forEachSegment { $0.free(pool) }
    unsafe pool.free(UnsafeMutableRawPointer(directory), 8 << Int(depth))
    unsafe self.directory = nil
    shift = 63
    count = 0
    allocatedBytes = 0
  }

  /// Moves segments that lie in sparse pages of the pool into fuller ones.
  ///
  /// - Parameter budget: Bytes that may still be moved; less by those that were.
  mutating func consolidate(_ budget: inout Int, _ pool: BlockPool) {
    guard let directory = unsafe directory else { return }
    var index = 0
    while index < 1 << Int(depth), budget > 0 {
      let segment = unsafe Segment(word: directory[index])
      let span = 1 << Int(depth - segment.localDepth)
      if let moved = segment.consolidated(pool) {
        for word in index..<index + span { unsafe directory[word] = moved.word }
        budget -= segment.bytes
      }
      index += span
    }
    let bytes = 8 << Int(depth)
    let old = UnsafeMutableRawPointer(directory)
    if budget > 0, bytes <= BlockPool.pageBytes,
      let block = unsafe pool.betterBlock(than: old, bytes)
    {
      unsafe block.copyMemory(from: old, byteCount: bytes)
      unsafe pool.free(old, bytes)
      unsafe self.directory = block.bindMemory(to: UInt64.self, capacity: bytes / 8)
      budget -= bytes
    }
  }

  /// Gives a large directory back, which ending the pool would not; the table is not used any more.
  func freeLargeBlocks(_ pool: BlockPool) {
    guard let directory = unsafe directory, 8 << Int(depth) > BlockPool.pageBytes else { return }
    unsafe pool.free(UnsafeMutableRawPointer(directory), 8 << Int(depth))
  }

  /// The segment at `cursor`, and the cursor of the one behind it, 0 after the last one.
  ///
  /// A cursor is a prefix of the hash, so it stays meaningful while segments split.
  private func segment(at cursor: UInt64) -> (Segment, next: UInt64)? {
    guard let directory = unsafe directory else { return nil }
    let first = Int(truncatingIfNeeded: cursor &>> shift)
    let segment = unsafe Segment(word: directory[first])
    let span = 1 << Int(depth - segment.localDepth)
    let next = (first & ~(span - 1)) + span
    return (segment, next >= 1 << Int(depth) ? 0 : UInt64(next) &<< shift)
  }

  // MARK: Deadlines

  /// Notes that an entry with this hash expires at `deadline`.
  func noteDeadline(_ deadline: Timestamp, hash: UInt64) {
    segment(hash)?.noteDeadline(Self.clamped(deadline), tag: hash & 0xffff)
  }

  /// A deadline in the 48 bits that a segment has for it: those of later than year 10,000 are one.
  static func clamped(_ deadline: Timestamp) -> UInt64 {
    UInt64(min(max(deadline.milliseconds, 0), Int(Segment.noDeadline)))
  }

  /// What a look at one segment has found.
  struct Look {
    /// The next segment's cursor, 0 after the last one.
    var next: UInt64
    /// The segment's earliest deadline, as `clamped` gives it.
    var earliestDeadline: UInt64
    /// Slots that were looked at.
    var seen = 0
  }

  /// The segment at `cursor` if it can have no expired entry; nil if it can. O(1).
  func lookIfNotDue(at cursor: UInt64, now: Timestamp) -> Look? {
    guard let (segment, nextCursor) = segment(at: cursor) else {
      return Look(next: 0, earliestDeadline: Segment.noDeadline)
    }
    if segment.earliestDeadline < Self.clamped(now) { return nil }
    return Look(next: nextCursor, earliestDeadline: segment.earliestDeadline)
  }

  /// Removes the expired entries of the segment at `cursor`. O(320).
  ///
  /// - Parameters:
  ///   - cursor: 0 to begin; afterwards what the last call returned.
  ///   - willRemove: Called with each expired entry.
  mutating func removeExpired(
    at cursor: UInt64, now: Timestamp, in chunks: ChunkList, _ pool: BlockPool,
    _ willRemove: (EntryReference) -> Void
  ) -> Look {
    guard let (segment, nextCursor) = segment(at: cursor) else {
      return Look(next: 0, earliestDeadline: Segment.noDeadline)
    }
    let before = segment.count
    var earliest = Segment.noDeadline
    var seen = 0
    for group in 0..<segment.groupCount {
      var deadline = segment.groupDeadline(group)
      if deadline < Self.clamped(now) {
        deadline = Self.removeExpired(
          of: segment.tags(ofGroup: group), in: segment, now: now, chunks, &seen, willRemove)
        segment.setGroupDeadline(deadline, of: group)
      }
      earliest = min(earliest, deadline)
    }
    segment.earliestDeadline = earliest
    count -= Int(before - segment.count)
    shrink(segment, hash: cursor &>> Self.shardBits, pool)
    return Look(next: count == 0 ? 0 : nextCursor, earliestDeadline: earliest, seen: seen)
  }

  /// Removes the expired entries with these tags, and those that stand among them.
  ///
  /// - Parameter seen: More by the slots that were looked at.
  /// - Returns: The earliest deadline of the others with these tags.
  private static func removeExpired(
    of tags: Range<UInt64>, in segment: Segment, now: Timestamp, _ chunks: ChunkList,
    _ seen: inout Int, _ willRemove: (EntryReference) -> Void
  ) -> UInt64 {
    var earliest = Segment.noDeadline
    let home = segment.home(tags.lowerBound)
    // They stand from the first one's home up to the next free slot behind the last one's.
    let homes = segment.home(tags.upperBound) - home
    var index = home
    var passed: UInt64 = 0
    for next in 0..<min(ahead, homes) { prefetch(segment, home + next, in: chunks) }
    while passed < segment.slotCount {
      seen += 1
      let slot = segment[index]
      if slot == 0 {
        if passed >= homes { break }
      } else {
        let entry = chunks.entry(Self.reference(slot))
        if entry.isExpired(at: now) {
          willRemove(Self.reference(slot))
          // The gap may be filled from behind: this slot is looked at again.
          segment.remove(at: index)
          continue
        }
        if tags.contains(slot &>> 32), let deadline = entry.deadline {
          earliest = min(earliest, Self.clamped(deadline))
        }
      }
      if passed + ahead < homes { prefetch(segment, index + ahead, in: chunks) }
      index = segment.after(index)
      passed += 1
    }
    return earliest
  }

  // MARK: Eviction

  /// The entries of one segment that are worth least.
  struct Worst {
    /// The worst come first; as many as `count`.
    var victims: InlineArray<24, (worth: Int, reference: EntryReference)> = .init(
      repeating: (Int.max, .none))
    var count = 0
    /// The next segment's cursor, 0 after the last one.
    var next: UInt64 = 0
    /// Entries that might have gone, by how often they were used.
    var candidates: InlineArray<4, UInt64> = .init(repeating: 0)
  }

  /// Finds those entries of the segment at `cursor` that should go: a sixteenth, and one at least.
  ///
  /// O(320).
  ///
  /// - Parameters:
  ///   - needsDeadline: Whether only entries with a deadline may go.
  ///   - worth: What an entry is worth; nil when it must not go.
  func worst(
    at cursor: UInt64, needsDeadline: Bool, in chunks: ChunkList, worth: (Entry) -> Int?
  ) -> Worst {
    var worst = Worst()
    guard let (segment, nextCursor) = segment(at: cursor) else { return worst }
    worst.next = nextCursor
    if segment.count == 0 { return worst }
    if needsDeadline, segment.earliestDeadline == Segment.noDeadline { return worst }
    let wanted = min(max(1, (Int(segment.count) + 8) / 16), worst.victims.count)
    // Among equals those come first that are met first: let chance decide which that are.
    var index = FastRandom.next(below: segment.slotCount)
    for _ in 0..<segment.slotCount {
      Self.prefetch(segment, index + Self.ahead, in: chunks)
      let slot = segment[index]
      index = segment.after(index)
      if slot == 0 { continue }
      let entry = chunks.entry(Self.reference(slot))
      guard let value = worth(entry) else { continue }
      worst.candidates[Int(entry.access & AccessTracking.usesMask)] += 1
      if worst.count == wanted, value >= worst.victims[wanted - 1].worth { continue }
      // Into its place among those found so far.
      var place = worst.count < wanted ? worst.count : wanted - 1
      while place > 0, worst.victims[place - 1].worth > value {
        worst.victims[place] = worst.victims[place - 1]
        place -= 1
      }
      worst.victims[place] = (value, Self.reference(slot))
      worst.count = min(worst.count + 1, wanted)
    }
    return worst
  }

  /// Calls `body` with each entry of the segment at `cursor`.
  func forEachEntry(at cursor: UInt64, in chunks: ChunkList, _ body: (Entry) -> Void) {
    guard let (segment, _) = segment(at: cursor) else { return }
    for index in 0..<segment.slotCount where segment[index] != 0 {
      body(chunks.entry(Self.reference(segment[index])))
    }
  }

  // MARK: Walking

  /// Calls `body` with each entry of the segment at `cursor`, as long as that returns true.
  ///
  /// - Returns: Where to go on: the next segment's cursor, 0 after the last one; the same again when
  ///   `body` has returned false.
  func visit(at cursor: UInt64, in chunks: ChunkList, _ body: (Entry) -> Bool) -> UInt64 {
    guard let (segment, next) = segment(at: cursor) else { return 0 }
    for index in 0..<segment.slotCount {
      Self.prefetch(segment, index + Self.ahead, in: chunks)
      if segment[index] == 0 { continue }
      if !body(chunks.entry(Self.reference(segment[index]))) { return max(cursor, 1) }
    }
    return next
  }

  /// Calls `body` with the entries from `cursor` on: about `count` of them, or the rest of their
  /// segment.
  ///
  /// - Parameter count: 1 or more.
  /// - Returns: Where the walk goes on, and how many entries that were.
  func scan(
    from cursor: ScanCursor, count: Int, in chunks: ChunkList, _ body: (Entry) -> Void
  ) -> (next: ScanCursor, seen: Int) {
    guard let (segment, nextPrefix) = segment(at: cursor.prefix) else {
      return (ScanCursor(shard: cursor.shard + 1), 0)
    }
    var left = 0
    for index in 0..<segment.slotCount
    where segment[index] != 0 && segment[index] &>> 32 >= cursor.tag {
      left += 1
    }
    // Tags are spread evenly.
    var end: UInt64 = 1 << 16
    if left > count {
      end = cursor.tag + max(1, (end - cursor.tag) * UInt64(count) / UInt64(left))
    }
    var seen = 0
    for index in 0..<segment.slotCount {
      let slot = segment[index]
      if slot == 0 || slot &>> 32 < cursor.tag || slot &>> 32 >= end { continue }
      body(chunks.entry(Self.reference(slot)))
      seen += 1
    }
    if end < 1 << 16 { return (cursor.moved(toPrefix: cursor.prefix, tag: end), seen) }
    let next =
      nextPrefix == 0
      ? ScanCursor(shard: cursor.shard + 1) : cursor.moved(toPrefix: nextPrefix, tag: 0)
    return (next, seen)
  }

  /// An entry that chance chooses, nil when it has met a free slot: to be tried again.
  func randomEntry(in chunks: ChunkList) -> Entry? {
    guard let segment = segment(FastRandom.next()) else { return nil }
    let slot = segment[FastRandom.next(below: segment.slotCount)]
    return slot == 0 ? nil : chunks.entry(Self.reference(slot))
  }

  // MARK: All entries

  private func forEachSegment(_ body: (Segment) -> Void) {
    guard let directory = unsafe directory else { return }
    var index = 0
    while index < 1 << Int(depth) {
      let segment = unsafe Segment(word: directory[index])
      // Read before the body may free it.
      index += 1 << Int(depth - segment.localDepth)
      body(segment)
    }
  }

  /// Calls `body` with each entry; the table must not be changed meanwhile. O(count).
  func forEachEntry(in chunks: ChunkList, _ body: (Entry) -> Void) {
    forEachSegment { segment in
      for index in 0..<segment.slotCount where segment[index] != 0 {
        body(chunks.entry(Self.reference(segment[index])))
      }
    }
  }

  /// Stops the process if an invariant does not hold. O(count); for tests.
  func checkInvariants(in chunks: ChunkList, hashing: SipHash) {
    var total = 0
    var bytes = 0
    forEachSegment { segment in
      var inSegment = 0
      for index in 0..<segment.slotCount where segment[index] != 0 {
        let entry = chunks.entry(Self.reference(segment[index]))
        precondition(!entry.isDead, "a dead entry in the table")
        let hash = hashing.hash(entry.key)
        precondition(segment[index] &>> 32 == hash & 0xffff, "tag is not the hash's")
        guard let found = find(entry.key, hash: hash, in: chunks) else {
          preconditionFailure("an entry that is not found")
        }
        precondition(unsafe found.entry.base == entry.base, "a key stands twice")
        if let deadline = entry.deadline {
          precondition(
            Self.clamped(deadline) >= segment.earliestDeadline
              && Self.clamped(deadline) >= segment.earliestDeadline(ofTag: hash & 0xffff),
            "an earlier deadline")
        }
        inSegment += 1
      }
      precondition(segment.count == UInt64(inSegment), "a segment's count is wrong")
      precondition(segment.count * 16 <= segment.slotCount * 13 + 16, "a segment is too full")
      total += inSegment
      bytes += segment.bytes
    }
    precondition(total == count, "the table's count is wrong")
    if unsafe directory != nil { bytes += BlockPool.capacity(8 << Int(depth)) }
    precondition(bytes == allocatedBytes, "the table's bytes are wrong")
  }
}

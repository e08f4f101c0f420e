import Glibc

/// The table under a keyspace: hash and key to entry, growing in small steps at any size.
///
/// Extendible hashing. A directory, indexed by the hash's upper bits, points to segments; a segment
/// is an array of at most 256 slots with linear probing. A full segment first doubles, and at 256
/// slots it splits in two by one more bit of the hash. So the most that one insertion ever moves
/// is one segment, about 200 entries, however many millions there are; the directory, one word a
/// segment, doubles when a segment needs more bits than it has.
///
///     hash     [ shard | directory index ……………………………………… | home: 8 | check: 8 ]
///     directory word   [ slots - 1: 8 | local depth: 8 | slots' address: 48 ]
///     slot             [ home: 8 | check: 8 | entry's address: 48 ]      0 = free
///
/// Invariants:
/// 1. An entry lies in the segment of its hash, at its home slot or behind it, with no free slot
///    in between (cyclic).
/// 2. A segment of local depth d stands in 2^(depth - d) neighbouring words of the directory.
/// 3. A segment holds at most 13/16 of its slots; the word behind the slots counts them.
/// 4. `count` is the sum over the segments.
///
/// The home in the slot lets doubling and removal shift entries without touching them; only a
/// split reads keys again. Removal shifts back, so there are no tombstones. Tried on paper and
/// dropped: one table a shard that doubles (its stall grows with the shard: 800 µs at 20M keys),
/// two tables with a moving border (two probes while it moves), linear hashing by buckets
/// (unsplit buckets carry twice the load, so chains).
///
/// All methods need the lock of the shard that owns the table.
@safe struct HashTable: ~Copyable {
  private var directory: UnsafeMutablePointer<UInt64>?
  /// 64 - depth. The depth is at least 1, for a shift by 64 bits would be none.
  private var shift: UInt64 = 63
  private(set) var count = 0
  /// Bytes in directory and segments, with the allocator's rounding.
  private(set) var allocatedBytes = 0

  /// Bits at the top of the hash that choose the shard and are the same in the whole table.
  private static let shardBits: UInt64 = UInt64(Store.shardBits)
  private static let addressMask: UInt64 = (1 << 48) - 1
  private static let tagShift: UInt64 = 48
  private static let slotsMin: UInt64 = 8
  private static let slotsMax: UInt64 = 256

  init() {}

  /// Bits of the directory index.
  private var depth: UInt64 { 64 &- shift }

  /// Frees the segments, not the entries: who owns those calls `forEachEntry` first.
  deinit {
    guard let directory = unsafe directory else { return }
    forEachSegment { $0.free() }
    unsafe directory.deallocate()
  }

  // MARK: Places

  /// A segment, taken apart from its directory word.
  ///
  /// Invariant: `slots` points to 2^exponent slots and the count behind them.
  @safe private struct Segment {
    let slots: UnsafeMutablePointer<UInt64>
    /// One less than the number of slots, a power of two up to 256.
    let mask: UInt64
    let localDepth: UInt64

    @inline(__always)
    init(word: UInt64) {
      // SAFETY: a directory word holds the address of live slots.
      unsafe slots =
        UnsafeMutablePointer(
          bitPattern: UInt(truncatingIfNeeded: word & addressMask)
        ).unsafelyUnwrapped
      mask = word &>> 56
      localDepth = (word &>> 48) & 0xff
    }

    /// - Parameter slotCount: 8, 16 … 256.
    init(slotCount: UInt64, localDepth: UInt64) {
      let words = Int(slotCount) + 1
      guard let block = unsafe calloc(words, 8) else {
        fatalError("out of memory: \(words * 8) bytes for a table segment")
      }
      unsafe slots = block.assumingMemoryBound(to: UInt64.self)
      mask = slotCount - 1
      self.localDepth = localDepth
    }

    var word: UInt64 {
      UInt64(UInt(bitPattern: unsafe slots)) | localDepth << 48 | mask << 56
    }

    var slotCount: UInt64 { mask + 1 }

    var count: UInt64 {
      get { unsafe slots[Int(slotCount)] }
      nonmutating set { unsafe slots[Int(slotCount)] = newValue }
    }

    var isFull: Bool { count >= slotCount * 13 / 16 }

    var allocatedBytes: Int { unsafe Memory.allocatedBytes(slots) }

    /// The slot's index where an entry with this tag would like to be.
    @inline(__always)
    func home(_ tag: UInt64) -> UInt64 { (tag &>> 8) & mask }

    @inline(__always)
    subscript(index: UInt64) -> UInt64 {
      get { unsafe slots[Int(truncatingIfNeeded: index)] }
      nonmutating set { unsafe slots[Int(truncatingIfNeeded: index)] = newValue }
    }

    /// Puts a slot's word into the first free place from its home on.
    @inline(__always)
    func insert(_ slot: UInt64) {
      var index = home(slot &>> tagShift)
      while self[index] != 0 { index = (index &+ 1) & mask }
      self[index] = slot
    }

    /// Takes a slot out and closes the gap.
    func remove(at removed: UInt64) {
      var gap = removed
      var index = (removed &+ 1) & mask
      while self[index] != 0 {
        // An entry may move into the gap unless its home lies behind it.
        let distance = (index &- home(self[index] &>> tagShift)) & mask
        if distance >= (index &- gap) & mask {
          self[gap] = self[index]
          gap = index
        }
        index = (index &+ 1) & mask
      }
      self[gap] = 0
      count -= 1
    }

    func free() { unsafe Glibc.free(slots) }
  }

  /// Where an entry stands; valid until the table is next changed.
  @safe struct Position {
    fileprivate let slot: UnsafeMutablePointer<UInt64>
    fileprivate let hash: UInt64

    @inline(__always)
    fileprivate init(slot: UnsafeMutablePointer<UInt64>, hash: UInt64) {
      unsafe self.slot = slot
      self.hash = hash
    }

    /// The entry that stands there.
    @inline(__always)
    var entry: Entry {
      // SAFETY: an occupied slot holds the address of a live entry.
      unsafe Entry(base: HashTable.address(slot.pointee))
    }

    /// Puts another entry with the same key in its place.
    @inline(__always)
    func replace(with entry: Entry) {
      unsafe slot.pointee = HashTable.slot(entry, tag: slot.pointee &>> tagShift)
    }
  }

  @inline(__always)
  private static func address(_ slot: UInt64) -> UnsafeMutablePointer<UInt8> {
    unsafe UnsafeMutablePointer(bitPattern: UInt(truncatingIfNeeded: slot & addressMask))
      .unsafelyUnwrapped
  }

  @inline(__always)
  private static func slot(_ entry: Entry, tag: UInt64) -> UInt64 {
    UInt64(UInt(bitPattern: unsafe entry.base)) | tag &<< tagShift
  }

  @inline(__always)
  private func directoryIndex(_ hash: UInt64) -> Int {
    Int(truncatingIfNeeded: (hash &<< Self.shardBits) &>> shift)
  }

  // MARK: Looking up

  /// The position of `key`, nil when it is not there. O(1).
  @inline(__always)
  func find(_ key: Bytes, hash: UInt64) -> Position? {
    guard let directory = unsafe directory else { return nil }
    let segment = unsafe Segment(word: directory[directoryIndex(hash)])
    let tag = hash & 0xffff
    var index = segment.home(tag)
    while true {
      let slot = segment[index]
      if slot == 0 { return nil }
      if slot &>> Self.tagShift == tag {
        let entry = unsafe Entry(base: Self.address(slot))
        if entry.key == key {
          return unsafe Position(
            slot: segment.slots + Int(truncatingIfNeeded: index), hash: hash)
        }
      }
      index = (index &+ 1) & segment.mask
    }
  }

  /// Asks the processor for the cache line of the first slot that a lookup would read.
  @inline(__always)
  func prefetchSlot(hash: UInt64) {
    guard let directory = unsafe directory else { return }
    let segment = unsafe Segment(word: directory[directoryIndex(hash)])
    unsafe Processor.prefetch(segment.slots + Int(truncatingIfNeeded: segment.home(hash & 0xffff)))
  }

  /// Asks the processor for the entry that a lookup would compare first.
  @inline(__always)
  func prefetchEntry(hash: UInt64) {
    guard let directory = unsafe directory else { return }
    let segment = unsafe Segment(word: directory[directoryIndex(hash)])
    let tag = hash & 0xffff
    var index = segment.home(tag)
    while true {
      let slot = segment[index]
      if slot == 0 { return }
      if slot &>> Self.tagShift == tag {
        unsafe Processor.prefetch(Self.address(slot))
        return
      }
      index = (index &+ 1) & segment.mask
    }
  }

  // MARK: Changing

  /// Adds an entry whose key is not in the table.
  ///
  /// O(1) amortised; at worst moves the entries of one segment.
  ///
  /// - Parameter rehash: The hash of an entry's key, needed when a segment splits.
  mutating func insert(_ entry: Entry, hash: UInt64, rehash: (Bytes) -> UInt64) {
    let directory = unsafe directory ?? makeDirectory()
    var segment = unsafe Segment(word: directory[directoryIndex(hash)])
    while segment.isFull {
      if segment.slotCount < Self.slotsMax {
        segment = double(segment, hash: hash)
      } else {
        split(segment, hash: hash, rehash: rehash)
        segment = unsafe Segment(
          word: self.directory.unsafelyUnwrapped[directoryIndex(hash)])
      }
    }
    segment.insert(Self.slot(entry, tag: hash & 0xffff))
    segment.count += 1
    count += 1
  }

  /// Takes the entry at `position` out of the table. The caller frees it.
  mutating func remove(_ position: Position) {
    guard let directory = unsafe directory else { preconditionFailure("nothing to remove") }
    let segment = unsafe Segment(word: directory[directoryIndex(position.hash)])
    // SAFETY: the position lies within this segment's slots.
    segment.remove(at: UInt64(unsafe position.slot - segment.slots))
    count -= 1
    if count == 0 { freeMemory() }
  }

  @inline(never)
  private mutating func makeDirectory() -> UnsafeMutablePointer<UInt64> {
    let segment = Segment(slotCount: Self.slotsMin, localDepth: 0)
    let words = UnsafeMutablePointer<UInt64>.allocate(capacity: 2)
    unsafe words.initialize(repeating: segment.word, count: 2)
    unsafe directory = words
    shift = 63
    allocatedBytes += unsafe segment.allocatedBytes + Memory.allocatedBytes(words)
    return unsafe words
  }

  /// Moves a segment into one of twice the size: no key is read.
  @inline(never)
  private mutating func double(_ old: Segment, hash: UInt64) -> Segment {
    let new = Segment(slotCount: old.slotCount * 2, localDepth: old.localDepth)
    for index in 0...old.mask where old[index] != 0 { new.insert(old[index]) }
    new.count = old.count
    publish(new, hash: hash)
    allocatedBytes += new.allocatedBytes - old.allocatedBytes
    old.free()
    return new
  }

  /// Distributes a segment over two by the next bit of its keys' hashes.
  @inline(never)
  private mutating func split(_ old: Segment, hash: UInt64, rehash: (Bytes) -> UInt64) {
    if old.localDepth == depth { doubleDirectory() }
    let low = Segment(slotCount: Self.slotsMax, localDepth: old.localDepth + 1)
    let high = Segment(slotCount: Self.slotsMax, localDepth: old.localDepth + 1)
    let bit: UInt64 = 1 << (63 - Self.shardBits - old.localDepth)
    // Entries are scattered over memory: ask for some ahead while hashing others.
    let ahead: UInt64 = 8
    for index in 0...old.mask {
      if index + ahead <= old.mask {
        unsafe Processor.prefetch(Self.address(old[index + ahead] | 1))
      }
      let slot = old[index]
      if slot == 0 { continue }
      let entry = unsafe Entry(base: Self.address(slot))
      let target = rehash(entry.key) & bit == 0 ? low : high
      target.insert(slot)
      target.count += 1
    }
    publish(low, hash: hash & ~bit)
    publish(high, hash: hash | bit)
    allocatedBytes += low.allocatedBytes + high.allocatedBytes - old.allocatedBytes
    old.free()
  }

  @inline(never)
  private mutating func doubleDirectory() {
    guard let old = unsafe directory else { return }
    let size = 1 << Int(depth)
    let new = UnsafeMutablePointer<UInt64>.allocate(capacity: size * 2)
    for index in 0..<size {
      unsafe (new + index * 2).initialize(to: old[index])
      unsafe (new + index * 2 + 1).initialize(to: old[index])
    }
    allocatedBytes += unsafe Memory.allocatedBytes(new) - Memory.allocatedBytes(old)
    unsafe old.deallocate()
    unsafe directory = new
    shift -= 1
  }

  /// Writes a segment into all its words of the directory.
  private mutating func publish(_ segment: Segment, hash: UInt64) {
    guard let directory = unsafe directory else { return }
    let span = 1 << Int(depth - segment.localDepth)
    let first = directoryIndex(hash) & ~(span - 1)
    for index in first..<first + span { unsafe directory[index] = segment.word }
  }

  private mutating func freeMemory() {
    guard let directory = unsafe directory else { return }
    forEachSegment { $0.free() }
    unsafe directory.deallocate()
    unsafe self.directory = nil
    shift = 63
    allocatedBytes = 0
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
  func forEachEntry(_ body: (Entry) -> Void) {
    forEachSegment { segment in
      for index in 0...segment.mask where segment[index] != 0 {
        body(unsafe Entry(base: Self.address(segment[index])))
      }
    }
  }

  /// Removes the entries of one segment for which `shouldRemove` says so.
  ///
  /// A cursor is a prefix of the hash, so it stays meaningful while segments split. O(256).
  ///
  /// - Parameter cursor: 0 to begin; afterwards what the last call returned.
  /// - Returns: The next segment's cursor, 0 after the last one.
  mutating func removeInSegment(
    at cursor: UInt64, where shouldRemove: (Entry) -> Bool
  ) -> UInt64 {
    guard let directory = unsafe directory else { return 0 }
    let first = Int(truncatingIfNeeded: cursor &>> shift)
    let segment = unsafe Segment(word: directory[first])
    let span = 1 << Int(depth - segment.localDepth)
    let next = (first & ~(span - 1)) + span
    let isLast = next >= 1 << Int(depth)
    let nextCursor = isLast ? 0 : UInt64(next) &<< shift
    var index: UInt64 = 0
    while index <= segment.mask {
      let slot = segment[index]
      if slot != 0, shouldRemove(unsafe Entry(base: Self.address(slot))) {
        // The gap may have been filled from behind: look at this slot again.
        segment.remove(at: index)
        count -= 1
      } else {
        index += 1
      }
    }
    if count == 0 { freeMemory() }
    return nextCursor
  }

  /// Stops the process if an invariant does not hold. O(count); for tests.
  func checkInvariants(rehash: (Bytes) -> UInt64) {
    var total = 0
    var bytes = 0
    forEachSegment { segment in
      var inSegment = 0
      for index in 0...segment.mask where segment[index] != 0 {
        let entry = unsafe Entry(base: Self.address(segment[index]))
        let hash = rehash(entry.key)
        precondition(segment[index] &>> Self.tagShift == hash & 0xffff, "tag is not the hash's")
        guard let found = find(entry.key, hash: hash) else {
          preconditionFailure("an entry that is not found")
        }
        precondition(unsafe found.entry.base == entry.base, "a key stands twice")
        inSegment += 1
      }
      precondition(segment.count == UInt64(inSegment), "a segment's count is wrong")
      precondition(segment.count <= segment.slotCount * 13 / 16, "a segment is too full")
      total += inSegment
      bytes += segment.allocatedBytes
    }
    precondition(total == count, "the table's count is wrong")
    if let directory = unsafe directory { bytes += unsafe Memory.allocatedBytes(directory) }
    precondition(bytes == allocatedBytes, "the table's bytes are wrong")
  }
}

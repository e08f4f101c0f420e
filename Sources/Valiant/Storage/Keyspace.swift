/// The keys of one database within one shard: find, set, remove, expire.
///
/// All methods need the shard's lock. A key whose deadline has passed does not exist any more: who
/// comes across it removes it and counts it as expired.
struct Keyspace: ~Copyable {
  private var table = HashTable()
  /// Keys with a deadline.
  private(set) var expiringCount = 0
  /// Bytes of all entries, with the allocator's rounding.
  private var entryBytes = 0
  /// Keys removed because their deadline had passed.
  private(set) var expiredCount = 0
  private var sweepCursor: UInt64 = 0

  init() {}

  deinit {
    table.forEachEntry { $0.free() }
  }

  /// Keys, including those whose deadline has passed and that nobody has come across.
  var count: Int { table.count }

  /// Bytes that table and entries take from the system.
  var allocatedBytes: Int { table.allocatedBytes + entryBytes }

  @inline(__always)
  func prefetchSlot(hash: UInt64) { table.prefetchSlot(hash: hash) }

  @inline(__always)
  func prefetchEntry(hash: UInt64) { table.prefetchEntry(hash: hash) }

  /// The entry of `key`; nil when it is missing or has expired. O(1).
  @inline(__always)
  mutating func find(_ key: Bytes, hash: UInt64, now: Timestamp) -> Entry? {
    guard let position = table.find(key, hash: hash) else { return nil }
    if position.entry.isExpired(at: now) {
      expire(position)
      return nil
    }
    return position.entry
  }

  /// Sets `key` to `value`, whatever it was before. O(1), and O(value) to copy it.
  ///
  /// Allocates nothing when the old entry has room for the new value.
  ///
  /// - Parameter deadline: When it expires; nil for never.
  @inline(__always)
  mutating func set(
    _ key: Bytes, hash: UInt64, to value: Bytes, deadline: Timestamp?,
    rehash: (Bytes) -> UInt64
  ) {
    let content = Entry.Content(key: key, value: value, deadline: deadline)
    guard let position = table.find(key, hash: hash) else {
      return insert(content, hash: hash, expires: deadline != nil, rehash: rehash)
    }
    let old = position.entry
    if old.hasDeadline { expiringCount &-= 1 }
    if deadline != nil { expiringCount &+= 1 }
    if !old.overwrite(content) { replace(position, with: content) }
  }

  @inline(never)
  private mutating func insert(
    _ content: borrowing Entry.Content, hash: UInt64, expires: Bool, rehash: (Bytes) -> UInt64
  ) {
    let entry = Entry.allocate(content)
    entryBytes += entry.allocatedBytes
    if expires { expiringCount += 1 }
    table.insert(entry, hash: hash, rehash: rehash)
  }

  @inline(never)
  private mutating func replace(
    _ position: HashTable.Position, with content: borrowing Entry.Content
  ) {
    let old = position.entry
    let new = Entry.allocate(content)
    entryBytes += new.allocatedBytes - old.allocatedBytes
    position.replace(with: new)
    old.free()
  }

  /// Removes `key`. O(1).
  ///
  /// - Returns: False when it was missing or had expired.
  mutating func remove(_ key: Bytes, hash: UInt64, now: Timestamp) -> Bool {
    guard let position = table.find(key, hash: hash) else { return false }
    if position.entry.isExpired(at: now) {
      expire(position)
      return false
    }
    remove(position)
    return true
  }

  /// Gives `key` another deadline, or none.
  ///
  /// - Returns: False when the key is missing or has expired.
  mutating func setDeadline(
    _ deadline: Timestamp?, of key: Bytes, hash: UInt64, now: Timestamp,
    rehash: (Bytes) -> UInt64
  ) -> Bool {
    guard let entry = find(key, hash: hash, now: now) else { return false }
    // The header changes its size, so the entry is written anew.
    entry.value.array.withBytes { value in
      set(key, hash: hash, to: value, deadline: deadline, rehash: rehash)
    }
    return true
  }

  @inline(never)
  private mutating func expire(_ position: HashTable.Position) {
    expiredCount += 1
    remove(position)
  }

  private mutating func remove(_ position: HashTable.Position) {
    let entry = position.entry
    forget(entry)
    table.remove(position)
    entry.free()
  }

  private mutating func forget(_ entry: Entry) {
    entryBytes -= entry.allocatedBytes
    if entry.hasDeadline { expiringCount -= 1 }
  }

  /// Removes the expired entries of the next segment of the table.
  ///
  /// The caller bounds how long the lock is held by the number of calls: one looks at no more than
  /// 256 slots.
  ///
  /// - Returns: Entries removed, and whether the end of the table was reached.
  mutating func sweepSegment(now: Timestamp) -> (removed: Int, isAtEnd: Bool) {
    var cursor = sweepCursor
    let removed = removeExpired(at: &cursor, now: now)
    sweepCursor = cursor
    return (removed, cursor == 0)
  }

  /// Removes the expired entries of one segment.
  ///
  /// - Parameter cursor: Where to look, 0 to begin; afterwards where the next segment is, 0 at the
  ///   end.
  mutating func removeExpired(at cursor: inout UInt64, now: Timestamp) -> Int {
    guard expiringCount > 0 else {
      cursor = 0
      return 0
    }
    var removed = 0
    var removedBytes = 0
    cursor = table.removeInSegment(at: cursor) { entry in
      guard entry.isExpired(at: now) else { return false }
      removedBytes += entry.allocatedBytes
      removed += 1
      entry.free()
      return true
    }
    entryBytes -= removedBytes
    expiringCount -= removed
    expiredCount += removed
    return removed
  }

  /// Begins where `old` ends: empty, with its statistics.
  init(after old: borrowing Keyspace) {
    expiredCount = old.expiredCount
  }

  /// Calls `body` with each entry; nothing may change the keyspace meanwhile. O(count).
  func forEachEntry(_ body: (Entry) -> Void) {
    table.forEachEntry(body)
  }

  /// Stops the process if an invariant does not hold. O(count); for tests.
  func checkInvariants(rehash: (Bytes) -> UInt64) {
    table.checkInvariants(rehash: rehash)
    var expiring = 0
    var bytes = 0
    table.forEachEntry { entry in
      if entry.hasDeadline { expiring += 1 }
      bytes += entry.allocatedBytes
    }
    precondition(expiring == expiringCount, "the number of expiring keys is wrong")
    precondition(bytes == entryBytes, "the entries' bytes are wrong")
  }
}

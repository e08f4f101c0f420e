import Glibc

/// The part of the store behind one lock: a keyspace for each of the sixteen databases.
///
///     byte   0   lock                4 bytes
///            8   other databases     address of fifteen keyspaces, nil until one is used
///           16   database 0          a keyspace
///
/// 256 bytes, so that two shards never share a cache line; what a lookup reads lies in the first
/// 64. The parts are addressed one by one instead of through a struct, because the exclusive
/// access that Swift begins on a struct would cover the lock, which other threads read meanwhile.
///
/// Invariant: `base` is such a block, made by `Store` and freed by it. Everything but the lock is
/// touched only by the thread that holds the lock.
@safe struct Shard {
  private let base: UnsafeMutableRawPointer

  static let strideBytes = 256
  static let alignment = 64
  private static let othersOffset = 8
  private static let mainOffset = 16

  @inline(__always)
  init(base: UnsafeMutableRawPointer) {
    unsafe self.base = base
  }

  /// Makes the block at `base` an empty shard.
  static func initialize(_ base: UnsafeMutableRawPointer) {
    precondition(mainOffset + MemoryLayout<Keyspace>.size <= strideBytes, "a shard has outgrown it")
    unsafe base.initializeMemory(as: SpinLock.self, to: SpinLock())
    unsafe (base + othersOffset).initializeMemory(as: Others.self, to: nil)
    unsafe (base + mainOffset).initializeMemory(
      as: Keyspace.self, to: Keyspace())
  }

  /// Ends the shard, not the memory of its keys, which is the pool's. Nobody may use it any more.
  func deinitialize() {
    for database in 0..<usedDatabaseCount {
      unsafe keyspace(database).pointer.deinitialize(count: 1)
    }
    unsafe others.pointee?.deallocate()
    unsafe lockWord.deinitialize(count: 1)
  }

  private typealias Others = UnsafeMutablePointer<Keyspace>?

  @inline(__always)
  private var lockWord: UnsafeMutablePointer<SpinLock> {
    unsafe base.assumingMemoryBound(to: SpinLock.self)
  }

  private var others: UnsafeMutablePointer<Others> {
    unsafe (base + Self.othersOffset).assumingMemoryBound(to: Others.self)
  }

  // MARK: For everybody

  /// Asks the processor for the lock and what a lookup reads first.
  @inline(__always)
  func prefetch() { unsafe Processor.prefetch(base) }

  @inline(__always)
  func lock() { unsafe lockWord.pointee.lock() }

  /// See `SpinLock.lock(withinMicroseconds:)`.
  @inline(__always)
  func lock(withinMicroseconds limit: Int) -> Bool {
    unsafe lockWord.pointee.lock(withinMicroseconds: limit)
  }

  @inline(__always)
  func unlock() { unsafe lockWord.pointee.unlock() }

  /// The same as `withLock` for who may hold the lock already.
  func withLock<Result>(unless isLocked: Bool, _ body: () -> Result) -> Result {
    isLocked ? body() : withLock(body)
  }

  @inline(__always)
  func withLock<Result: ~Copyable, Failure: Error>(
    _ body: () throws(Failure) -> Result
  ) throws(Failure) -> Result {
    lock()
    defer { unlock() }
    return try body()
  }

  // MARK: For the holder of the lock

  /// The keys of `database`, 0...15, in this shard.
  @inline(__always)
  func keyspace(_ database: Int) -> KeyspaceReference {
    if database == 0 {
      // SAFETY: the block holds database 0 there.
      return unsafe KeyspaceReference(
        pointer: (base + Self.mainOffset).assumingMemoryBound(to: Keyspace.self))
    }
    return otherKeyspace(database)
  }

  @inline(never)
  private func otherKeyspace(_ database: Int) -> KeyspaceReference {
    precondition(database > 0 && database < Store.databaseCount, "no such database")
    if let first = unsafe others.pointee {
      return unsafe KeyspaceReference(pointer: first + (database - 1))
    }
    let first = UnsafeMutablePointer<Keyspace>.allocate(capacity: Store.databaseCount - 1)
    let observers = keyspace(0).observers.intersection(.storeWide)
    for index in 0..<Store.databaseCount - 1 {
      unsafe (first + index).initialize(to: Keyspace(database: index + 1))
      unsafe first[index].insertObserver(observers)
    }
    unsafe others.pointee = first
    return unsafe KeyspaceReference(pointer: first + (database - 1))
  }

  /// How many databases were ever used here: the first one, or all.
  var usedDatabaseCount: Int { unsafe others.pointee == nil ? 1 : Store.databaseCount }

  /// The keys of `database`, nil if nobody ever used it here.
  func keyspaceIfUsed(_ database: Int) -> KeyspaceReference? {
    if database == 0 { return keyspace(0) }
    return usedDatabaseCount == 1 ? nil : otherKeyspace(database)
  }
}

/// A keyspace of a shard whose lock the holder of the reference holds.
///
/// Invariant: `pointer` is a live keyspace, and the lock of its shard is held while it is used.
@safe struct KeyspaceReference {
  let pointer: UnsafeMutablePointer<Keyspace>

  @inline(__always)
  init(pointer: UnsafeMutablePointer<Keyspace>) {
    unsafe self.pointer = pointer
  }

  var observers: KeyObservers.Kinds { unsafe pointer.pointee.observers }
  func insertObserver(_ kind: KeyObservers.Kinds) { unsafe pointer.pointee.insertObserver(kind) }
  func removeObserver(_ kind: KeyObservers.Kinds) { unsafe pointer.pointee.removeObserver(kind) }

  var count: Int { unsafe pointer.pointee.count }
  var expiringCount: Int { unsafe pointer.pointee.expiringCount }
  var expiredCount: Int { unsafe pointer.pointee.expiredCount }
  var allocatedBytes: Int { unsafe pointer.pointee.allocatedBytes }
  var tableBytes: Int { unsafe pointer.pointee.tableBytes }
  var entryUsage: EntryArena.Usage { unsafe pointer.pointee.entryUsage }

  @inline(__always)
  func prefetchSlot(hash: UInt64) { unsafe pointer.pointee.prefetchSlot(hash: hash) }

  @inline(__always)
  func prefetchEntry(hash: UInt64) { unsafe pointer.pointee.prefetchEntry(hash: hash) }

  /// See `Keyspace.reserve`.
  func reserve(_ keys: Int, _ pool: BlockPool) { unsafe pointer.pointee.reserve(keys, pool) }

  /// See `Keyspace.freeUnused`.
  func freeUnused(_ memory: StorageContext) { unsafe pointer.pointee.freeUnused(memory) }

  /// See `Keyspace.find`.
  @inline(__always)
  func find(
    _ key: Bytes, hash: UInt64, now: Timestamp, _ memory: StorageContext
  ) -> Entry? {
    unsafe pointer.pointee.find(key, hash: hash, now: now, memory)
  }

  /// See `Keyspace.use`.
  @inline(__always)
  func use(_ key: Bytes, hash: UInt64, now: Timestamp, _ memory: StorageContext) -> Value? {
    unsafe pointer.pointee.use(key, hash: hash, now: now, memory)
  }

  /// See `Keyspace.set`.
  @inline(__always)
  func set(
    _ key: Bytes, hash: UInt64, to value: Bytes, deadline: Timestamp?, now: Timestamp,
    _ memory: StorageContext
  ) -> Bool {
    unsafe pointer.pointee.set(key, hash: hash, to: value, deadline: deadline, now: now, memory)
  }

  /// See `Keyspace.set`.
  func set(
    _ key: Bytes, hash: UInt64, toText value: Bytes, isEdited: Bool = false, deadline: Timestamp?,
    now: Timestamp, _ memory: StorageContext
  ) -> Bool {
    unsafe pointer.pointee.set(
      key, hash: hash, toText: value, isEdited: isEdited, deadline: deadline, now: now, memory)
  }

  /// See `Keyspace.set`.
  func set(
    _ key: Bytes, hash: UInt64, to number: Int, deadline: Timestamp?, now: Timestamp,
    _ memory: StorageContext
  ) -> Bool {
    unsafe pointer.pointee.set(key, hash: hash, to: number, deadline: deadline, now: now, memory)
  }

  /// See `Keyspace.set`.
  func set(
    _ key: Bytes, hash: UInt64, to value: LongValue, deadline: Timestamp?, now: Timestamp,
    _ memory: StorageContext
  ) -> Bool {
    unsafe pointer.pointee.set(key, hash: hash, to: value, deadline: deadline, now: now, memory)
  }

  /// See `Keyspace.set`.
  func set(
    _ key: Bytes, hash: UInt64, to value: DetachedValue, deadline: Timestamp?, now: Timestamp,
    _ memory: StorageContext
  ) -> Bool {
    unsafe pointer.pointee.set(key, hash: hash, to: value, deadline: deadline, now: now, memory)
  }

  /// See `HashTable.scan`.
  func scan(
    from cursor: ScanCursor, count: Int, _ body: (Entry) -> Void
  ) -> (next: ScanCursor, seen: Int) {
    unsafe pointer.pointee.scan(from: cursor, count: count, body)
  }

  /// See `HashTable.randomEntry`.
  var randomEntry: Entry? { unsafe pointer.pointee.randomEntry }

  /// See `Keyspace.forEachEntry`.
  func forEachEntry(_ body: (Entry) -> Void) { unsafe pointer.pointee.forEachEntry(body) }

  var changeCount: Int { unsafe pointer.pointee.changeCount }

  /// See `Keyspace.beginSnapshot`.
  func beginSnapshot() { unsafe pointer.pointee.beginSnapshot() }

  /// See `Keyspace.isUnsaved`.
  func isUnsaved(database: Int) -> Bool { unsafe pointer.pointee.isUnsaved(database: database) }

  /// See `Keyspace.saveSegment`.
  func saveSegment(at cursor: UInt64, _ body: (Entry) -> Bool) -> UInt64 {
    unsafe pointer.pointee.saveSegment(at: cursor, body)
  }

  /// Exchanges all keys with another keyspace of the same shard. O(1).
  func swap(with other: KeyspaceReference) {
    unsafe pointer.pointee.swapKeys(with: &other.pointer.pointee)
  }

  /// See `Keyspace.edit`.
  func edit<Result>(
    _ key: Bytes, hash: UInt64, count: Int, now: Timestamp, _ memory: StorageContext,
    _ body: (MutableBytes) -> Result
  ) -> Result? {
    unsafe pointer.pointee.edit(key, hash: hash, count: count, now: now, memory, body)
  }

  /// See `Keyspace.noteEdit`.
  func noteEdit(_ key: Bytes, hash: UInt64, _ memory: StorageContext) {
    unsafe pointer.pointee.noteEdit(key, hash: hash, memory)
  }

  /// See `Keyspace.noteLength`.
  func noteLength(_ key: Bytes, hash: UInt64, _ memory: StorageContext) {
    unsafe pointer.pointee.noteLength(key, hash: hash, memory)
  }

  /// See `Keyspace.remove`.
  func remove(
    _ key: Bytes, hash: UInt64, now: Timestamp, _ memory: StorageContext
  ) -> Bool {
    unsafe pointer.pointee.remove(key, hash: hash, now: now, memory)
  }

  /// See `Keyspace.setDeadline`.
  func setDeadline(
    _ deadline: Timestamp?, of key: Bytes, hash: UInt64, now: Timestamp,
    _ memory: StorageContext
  ) -> Bool? {
    unsafe pointer.pointee.setDeadline(deadline, of: key, hash: hash, now: now, memory)
  }

  /// See `Keyspace.isWorthWalk`.
  func isWorthWalk(at now: Timestamp) -> Bool { unsafe pointer.pointee.isWorthWalk(at: now) }

  /// See `Keyspace.sweepSegments`.
  func sweepSegments(
    now: Timestamp, _ memory: StorageContext
  ) -> (removed: Int, isAtEnd: Bool) {
    unsafe pointer.pointee.sweepSegments(now: now, memory)
  }

  /// See `Keyspace.consolidate`.
  func consolidate(_ memory: StorageContext) -> Bool {
    unsafe pointer.pointee.consolidate(memory)
  }

  /// See `Keyspace.reclaim`.
  func reclaim(_ memory: StorageContext) { unsafe pointer.pointee.reclaim(memory) }

  /// See `Keyspace.freeLargeBlocks`.
  func freeLargeBlocks(_ pool: BlockPool) { unsafe pointer.pointee.freeLargeBlocks(pool) }

  /// See `Keyspace.evict`.
  func evict(
    _ policy: EvictionPolicy, expert: Eviction.Expert, now: Timestamp, _ memory: StorageContext
  ) -> (evicted: Int, expired: Int) {
    unsafe pointer.pointee.evict(policy, expert: expert, now: now, memory)
  }

  /// Leaves an empty keyspace and returns the full one. O(1).
  func takeAll() -> Keyspace {
    let full = unsafe pointer.move()
    unsafe pointer.initialize(to: Keyspace(after: full))
    return full
  }

  func resetStatistics() { unsafe pointer.pointee.resetStatistics() }

  func checkInvariants(hashing: SipHash) {
    unsafe pointer.pointee.checkInvariants(hashing: hashing)
  }
}

/// The keys of a store at one moment, which a snapshot gets one after the other while others go on
/// changing them.
///
/// No key is copied for the moment to begin: all keyspaces take another mark (`Entry.Mark`), so that
/// what was there before can be told from what is written later. A walk over all segments hands the
/// keys out, a few under one lock. Who is about to change one that the walk has not reached puts a
/// copy of it into a queue first; of a long value it is a reference to its block.
///
/// There is at most one moment of a store at a time. It lasts until `next` has returned false.
final class Moment: Sendable {
  /// What a database had.
  struct Size: Sendable {
    var keys = 0
    var expiring = 0
  }

  let time: Timestamp
  /// By number of the database.
  let sizes: [Size]
  /// `Store.Census.changes` as it was.
  let changes: Int
  /// Whether keys are part of it whose time to live is over, or will be before they are handed out: what
  /// follows in an append log may have to do with them.
  let keepsExpired: Bool
  private let store: Store
  private let lock = SpinLock()
  // SAFETY: both under `lock`.
  nonisolated(unsafe) private var changed = EntryBatch()
  nonisolated(unsafe) private var orphans: [Store.RemovedKeyspaces] = []

  /// Bytes after which a lock is let go, and those that one call of `next` collects.
  private static let lockedBytesMax = 8 * 1024
  private static let batchBytes = 8 * 1024

  /// Begins now; nil when a moment of the store is being read already.
  ///
  /// O(shards), with all locks held.
  ///
  /// - Parameters:
  ///   - isLocked: Whether the caller holds them.
  ///   - keepsExpired: See there.
  init?(of store: Store, isLocked: Bool = false, keepsExpired: Bool = false) {
    if !isLocked { store.lockAll() }
    defer { if !isLocked { store.unlockAll() } }
    self.store = store
    self.keepsExpired = keepsExpired
    time = .now
    guard store.memory.observers.moment == nil else { return nil }
    var sizes = [Size](repeating: Size(), count: Store.databaseCount)
    var changes = 0
    for index in 0..<Store.shardCount {
      let shard = store.shard(index)
      for database in 0..<shard.usedDatabaseCount {
        let keyspace = shard.keyspace(database)
        keyspace.beginSnapshot()
        sizes[database].keys += keyspace.count
        sizes[database].expiring += keyspace.expiringCount
        changes += keyspace.changeCount
      }
    }
    self.sizes = sizes
    self.changes = changes
    store.memory.observers.moment = self
  }

  // MARK: Those who change keys

  /// Takes a copy of an entry that is about to change. Under the lock of its shard.
  ///
  /// - Parameter hasExpired: Whether it goes because its time to live is over.
  func preserve(_ entry: Entry, database: Int, hasExpired: Bool) {
    if !keepsExpired, hasExpired || entry.isExpired(at: time) { return }
    lock.withLock {
      let before = unsafe changed.byteCount
      unsafe changed.append(entry, database: database)
      unsafe store.memory.pool.countArriving(changed.byteCount - before)
    }
  }

  /// Takes keyspaces that have been removed as a whole. Under the locks of all shards.
  func adopt(_ removed: Store.RemovedKeyspaces) {
    lock.withLock { unsafe orphans.append(removed) }
  }

  /// Bytes of copies that wait for the snapshot to take them.
  var waitingBytes: Int { lock.withLock { unsafe changed.byteCount } }

  // MARK: The snapshot

  /// How far the walk has come. Belongs to the one who reads the moment.
  struct Walk {
    fileprivate var shard = 0
    fileprivate var database = 0
    fileprivate var cursor: UInt64 = 0
    fileprivate var isOver = false
  }

  /// Puts the next keys into `batch`, which is empty.
  ///
  /// - Returns: False when there are none any more, and another moment may begin.
  func next(_ walk: inout Walk, into batch: inout EntryBatch) -> Bool {
    if takeChanged(&batch) { return true }
    while walk.shard < Store.shardCount {
      step(&walk, &batch)
      if batch.byteCount >= Self.batchBytes { return true }
    }
    if batch.count > 0 { return true }
    while let removed = lock.withLock({ unsafe orphans.last }) {
      if removed.saveNext({ take($0, database: $1, &batch) }) {
        _ = lock.withLock { unsafe orphans.popLast() }
      }
      if batch.count > 0 { return true }
    }
    // Nobody has a key of the moment any more, so nobody adds one.
    if takeChanged(&batch) { return true }
    if !walk.isOver {
      walk.isOver = true
      store.lockAll()
      store.memory.observers.moment = nil
      store.unlockAll()
    }
    return false
  }

  private func takeChanged(_ batch: inout EntryBatch) -> Bool {
    lock.withLock {
      if unsafe changed.count == 0 { return false }
      unsafe swap(&changed, &batch)
      store.memory.pool.countArriving(-batch.byteCount)
      return true
    }
  }

  private func isPart(_ entry: Entry) -> Bool { keepsExpired || !entry.isExpired(at: time) }

  private func take(_ entry: Entry, database: Int, _ batch: inout EntryBatch) -> Bool {
    if isPart(entry) { batch.append(entry, database: database) }
    return batch.byteCount < Self.lockedBytesMax
  }

  /// Takes keys of one segment, under the lock of its shard.
  private func step(_ walk: inout Walk, _ batch: inout EntryBatch) {
    let shard = store.shard(walk.shard)
    shard.withLock {
      while walk.database < Store.databaseCount {
        if let keyspace = Self.unsaved(walk.database, in: shard) {
          let end = batch.byteCount + Self.lockedBytesMax
          walk.cursor = keyspace.saveSegment(at: walk.cursor) { entry in
            if isPart(entry) { batch.append(entry, database: walk.database) }
            return batch.byteCount < end
          }
          if walk.cursor == 0 { walk.database += 1 }
          return
        }
        walk.cursor = 0
        walk.database += 1
      }
      walk.shard += 1
      walk.database = 0
    }
  }

  /// Where the rest of what was this database is now.
  private static func unsaved(_ database: Int, in shard: Shard) -> KeyspaceReference? {
    for number in 0..<shard.usedDatabaseCount {
      let keyspace = shard.keyspace(number)
      if keyspace.isUnsaved(database: database) { return keyspace }
    }
    return nil
  }
}

/// Copies of entries, to be read when no lock is held any more.
struct EntryBatch: ~Copyable {
  /// The number of a database in one byte and an entry as it lay there, one behind the other.
  private var bytes = ByteBuffer()
  private var longOnes: [Long] = []
  /// Bytes of keys and values, and what goes with them.
  private(set) var byteCount = 0
  private(set) var count = 0

  /// One with a value in a block of its own, which is held.
  private struct Long {
    let database: Int
    let key: [UInt8]
    let value: LongValue
    let deadline: Timestamp?
    let access: UInt32
  }

  /// An entry as it was.
  struct Item {
    let database: Int
    let key: Bytes
    let value: Value
    let deadline: Timestamp?
    /// What eviction goes by.
    let access: UInt32
  }

  init() {}

  deinit { for long in longOnes { long.value.block.release() } }

  mutating func append(_ entry: Entry, database: Int) {
    count += 1
    if entry.isLong {
      let value = entry.longValue
      value.block.retain()
      longOnes.append(
        Long(
          database: database, key: entry.key.array, value: value, deadline: entry.deadline,
          access: entry.access))
      byteCount += entry.livingSize
      return
    }
    let size = entry.livingSize
    bytes.reserve(size + 1)
    bytes.append(UInt8(database))
    // SAFETY: an entry is as long as its header says.
    unsafe bytes.append(Bytes(base: entry.base, count: size))
    byteCount += size + 1
  }

  /// Calls `body` with each entry.
  func visit(_ body: (Item) -> Void) {
    var rest = bytes.bytes
    while !rest.isEmpty {
      // SAFETY: an entry was put behind each number.
      let entry = unsafe Entry(base: UnsafeMutablePointer(mutating: rest.dropFirst(1).pointer))
      body(
        Item(
          database: Int(rest[0]), key: entry.key, value: entry.value, deadline: entry.deadline,
          access: entry.access))
      rest = rest.dropFirst(1 + entry.livingSize)
    }
    for long in longOnes {
      long.key.withBytes { key in
        body(
          Item(
            database: long.database, key: key, value: .long(long.value.bytes, long.value.block),
            deadline: long.deadline, access: long.access))
      }
    }
  }

  /// Lets go of all entries.
  mutating func clear() {
    bytes.clear(keeping: Self.keptBytes)
    for long in longOnes { long.value.block.release() }
    longOnes.removeAll()
    byteCount = 0
    count = 0
  }

  private static let keptBytes = 256 * 1024
}

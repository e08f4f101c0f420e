/// A walk over some shards that removes expired keys, in steps of one segment of a table.
///
/// Several walks can share a store: each takes every n-th shard.
struct ExpirySweep {
  private let first: Int
  private let stride: Int
  private var shard: Int
  private var database = 0

  /// - Parameters:
  ///   - part: Which of the walks this is, 0..<`count`.
  ///   - count: How many walks there are, 1...`Store.shardCount`.
  init(part: Int, of count: Int) {
    first = part
    stride = count
    shard = part
  }

  /// Shards to visit for all of the walk's part to be looked at.
  var shardCount: Int { Store.shardCount / stride }

  /// Looks at one segment of one database of one shard, under its lock, and goes on to the next
  /// shard when there is nothing due in this one.
  ///
  /// - Returns: Keys removed, and whether the shard was left.
  mutating func step(_ store: Store, now: Timestamp) -> (removed: Int, left: Bool) {
    let shard = store.shard(shard)
    let (removed, left) = shard.withLock {
      while database < Store.databaseCount {
        if let keyspace = shard.keyspaceIfUsed(database), keyspace.isWorthWalk(at: now) {
          let (removed, isAtEnd) = keyspace.sweepSegment(now: now, store.memory)
          if isAtEnd { database += 1 }
          return (removed, database == Store.databaseCount)
        }
        database += 1
      }
      return (0, true)
    }
    if left {
      database = 0
      self.shard += stride
      if self.shard >= Store.shardCount { self.shard = first }
    }
    return (removed, left)
  }
}

/// A walk over some shards that moves blocks out of sparse pages of the pool, so that these go back
/// to the system.
struct Consolidation {
  private let first: Int
  private let stride: Int
  private var shard: Int

  /// - Parameters:
  ///   - part: Which of the walks this is, 0..<`count`.
  ///   - count: How many walks there are, 1...`Store.shardCount`.
  init(part: Int, of count: Int) {
    first = part
    stride = count
    shard = part
  }

  /// Moves some blocks of one shard, under its lock.
  ///
  /// - Returns: Whether the walk has come to its end.
  mutating func step(_ store: Store) -> Bool {
    let shard = store.shard(shard)
    let hasMore = shard.withLock {
      var hasMore = false
      for database in 0..<Store.databaseCount {
        guard let keyspace = shard.keyspaceIfUsed(database), keyspace.count > 0 else { continue }
        if keyspace.consolidate(store.memory) { hasMore = true }
      }
      return hasMore
    }
    if hasMore { return false }
    self.shard += stride
    if self.shard < Store.shardCount { return false }
    self.shard = first
    return true
  }
}

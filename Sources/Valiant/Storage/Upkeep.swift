/// The shards of one of several walks that share a store: every n-th.
private struct ShardTurns {
  private let first: Int
  private let stride: Int
  private(set) var shard: Int

  init(part: Int, of count: Int) {
    first = part
    stride = count
    shard = part
  }

  /// Shards in one round.
  var count: Int { Store.shardCount / stride }

  /// Goes on to the next shard.
  ///
  /// - Returns: Whether a round has ended.
  mutating func advance() -> Bool {
    shard += stride
    if shard < Store.shardCount { return false }
    shard = first
    return true
  }
}

extension Shard {
  /// Calls `body` under the lock. A script may keep that for seconds: then the loop has to be there for others.
  ///
  /// - Returns: Nil when somebody else has had it for longer than commands have.
  fileprivate func withLockUnlessKept<Result>(_ body: (Shard) -> Result) -> Result? {
    if !lock(withinMicroseconds: Self.patienceMicroseconds) { return nil }
    defer { unlock() }
    return body(self)
  }

  private static let patienceMicroseconds = 25
}

/// A walk over some shards that removes expired keys, in steps of a few segments of a table.
struct ExpirySweep {
  private var turns: ShardTurns
  private var database = 0
  /// Keys removed so far.
  private(set) var removedCount = 0
  /// Steps so far that have looked at segments.
  private(set) var lookCount = 0

  /// - Parameters:
  ///   - part: Which of the walks that share the store this is, 0..<`count`.
  ///   - count: How many walks there are, 1...`Store.shardCount`.
  init(part: Int, of count: Int) {
    turns = ShardTurns(part: part, of: count)
  }

  /// Shards to visit for all of the walk's part to be looked at.
  var shardCount: Int { turns.count }

  /// Looks at a few segments of one database of one shard, under its lock, and goes on to the next
  /// shard when there is nothing due in this one, or somebody else keeps it.
  ///
  /// - Returns: Whether the shard was left.
  mutating func step(_ store: Store, now: Timestamp, _ memory: StorageContext) -> Bool {
    let isLeft = store.shard(turns.shard).withLockUnlessKept { shard in
      let databaseCount = shard.usedDatabaseCount
      while database < databaseCount {
        let keyspace = shard.keyspace(database)
        if keyspace.isWorthWalk(at: now) {
          lookCount += 1
          let step = keyspace.sweepSegments(now: now, memory)
          removedCount += step.removed
          if step.isAtEnd { database += 1 }
          return database >= databaseCount
        }
        database += 1
      }
      return true
    }
    if isLeft == false { return false }
    database = 0
    _ = turns.advance()
    return true
  }
}

/// A walk over some shards that moves blocks out of sparse pages of the pool, so that these go back
/// to the system.
struct Consolidation {
  private var turns: ShardTurns

  /// - Parameters: As for `ExpirySweep`.
  init(part: Int, of count: Int) {
    turns = ShardTurns(part: part, of: count)
  }

  /// Moves some blocks of one shard, under its lock, unless somebody else keeps it.
  ///
  /// - Returns: Whether the walk has come to its end.
  mutating func step(_ store: Store) -> Bool {
    let hasMore = store.shard(turns.shard).withLockUnlessKept { shard in
      var hasMore = false
      for database in 0..<shard.usedDatabaseCount {
        let keyspace = shard.keyspace(database)
        if keyspace.count == 0 { continue }
        if keyspace.consolidate(store.memory) { hasMore = true }
      }
      return hasMore
    }
    return hasMore == true ? false : turns.advance()
  }
}

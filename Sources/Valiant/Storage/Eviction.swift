import Synchronization

/// Makes room when a store has reached its limit: visits a segment of a table, looks at all of its
/// entries, and lets those go that are worth least.
///
/// A segment is a random sample of the keys, for their hashes decide; a hundred and fifty entries
/// are enough for the worst sixteenth of them to be among the worst of all. So no list is kept, and
/// an entry pays no pointer. Shards take turns.
///
/// **The adaptive policy** has two experts. Each entry has 6 bits: `uses` (0...3, a hit adds one) and
/// `age` (0...15: visits of the segment since the last hit, in steps that grow from one to
/// sixteen).
///
/// 1. *Frequency*: keep by `uses`, chance decides among equals. When entries that were used have to
///    go, as large a part of the others with as many uses loses one: a fractional CLOCK, which
///    holds against scans and loops.
/// 2. *Recency*: keep by (4 + uses) / (age + 1.6): nearly LRU, which holds when what is popular
///    changes.
///
/// One of 32 shards always obeys the first, another always the second; the others obey the one
/// whose shards have lately had fewer misses (insertions of new keys), by more than chance makes of
/// it: during a scan both miss everything, and a change of mind then costs what was popular.
///
/// In a simulation of eleven traces it was never more than 0.65 points below the better of Redis's
/// LRU and LFU with the same number of keys, and up to 12 above the worse one; S3-FIFO, SIEVE and
/// W-TinyLFU each lost 4 to 54 points on some trace. See Decisions.
///
/// Any thread may call any method.
///
/// Invariant: `state` is initialised from `init` to `free`.
@safe struct Eviction: Sendable {
  // SAFETY: atomic fields.
  nonisolated(unsafe) private let state: UnsafeMutablePointer<State>

  private struct State: ~Copyable {
    let evicted = Atomic<Int>(0)
    /// Of each expert's own shards.
    let frequencyMisses = Atomic<Int>(0)
    let recencyMisses = Atomic<Int>(0)
    /// Insertions in the experts' own shards until the next decision.
    let untilDecision = Atomic<Int>(Eviction.decisionMin)
    let winner = Atomic<Int>(Expert.frequency.rawValue)
    /// Until when nobody looks for room again.
    let restsUntil = Atomic<Int>(0)
    /// Where the next visit goes.
    let hand = Atomic<Int>(0)
  }

  enum Expert: Int {
    case frequency, recency
  }

  /// One in so many shards belongs to each expert.
  private static let leaderShare = 32
  private static let decisionMin = 512
  /// Leaders' insertions between decisions: keys divided by this, an eighth of all insertions.
  private static let decisionShare = 128
  /// A difference counts that is more than three times as large as chance makes it.
  private static let significance = 9

  init() {
    unsafe state = .allocate(capacity: 1)
    unsafe state.initialize(to: State())
  }

  func free() {
    unsafe state.deinitialize(count: 1)
    unsafe state.deallocate()
  }

  /// Keys evicted so far.
  var evictedCount: Int { unsafe state.pointee.evicted.load(ordering: .relaxed) }

  /// Counts from zero again.
  func resetStatistics() { unsafe state.pointee.evicted.store(0, ordering: .relaxed) }

  // MARK: The two experts

  /// Whose advice counts in the shard of this hash.
  func expert(hash: UInt64) -> Expert {
    switch Store.shardIndex(hash: hash) % Self.leaderShare {
    case 0: .frequency
    case 1: .recency
    default:
      Expert(rawValue: unsafe state.pointee.winner.load(ordering: .relaxed)) ?? .frequency
    }
  }

  /// Notes that a new key was inserted, which under a cache's use was a miss.
  @inline(__always)
  func noteInsertion(hash: UInt64, keysInShard: Int) {
    let group = Store.shardIndex(hash: hash) % Self.leaderShare
    if group <= 1 { noteLeader(group, keysInShard) }
  }

  @inline(never)
  private func noteLeader(_ group: Int, _ keysInShard: Int) {
    if group == 0 {
      unsafe state.pointee.frequencyMisses.wrappingAdd(1, ordering: .relaxed)
    } else {
      unsafe state.pointee.recencyMisses.wrappingAdd(1, ordering: .relaxed)
    }
    let left = unsafe state.pointee.untilDecision.wrappingSubtract(1, ordering: .relaxed).newValue
    if left == 0 { decide(keysInShard) }
  }

  private func decide(_ keysInShard: Int) {
    let period = max(Self.decisionMin, keysInShard * Store.shardCount / Self.decisionShare)
    let misses = unsafe (
      state.pointee.frequencyMisses.load(ordering: .relaxed),
      state.pointee.recencyMisses.load(ordering: .relaxed)
    )
    let difference = misses.0 - misses.1
    if difference * difference > Self.significance * (misses.0 + misses.1) {
      let winner = difference < 0 ? Expert.frequency : .recency
      unsafe state.pointee.winner.store(winner.rawValue, ordering: .relaxed)
    }
    // What is older counts less.
    unsafe state.pointee.frequencyMisses.store(misses.0 * 4 / 5, ordering: .relaxed)
    unsafe state.pointee.recencyMisses.store(misses.1 * 4 / 5, ordering: .relaxed)
    unsafe state.pointee.untilDecision.store(period, ordering: .relaxed)
  }

  // MARK: Making room

  /// How long one call may take for a small request: one of many that make room together.
  private static let patienceNanoseconds = 500_000
  /// For a large one as long as evicting so much takes, and that again.
  private static let nanosecondsPerByte = 4
  /// Who has taken that long goes on when no more than this is lacking: a part of the limit, and
  /// some bytes.
  private static let toleratedShare = 32
  private static let toleratedBytes = 1 << 20
  /// What a round of compaction has to win for another one: a part of the limit.
  private static let worthwhileShare = 256
  /// How long it is remembered that there was nothing to win.
  private static let restMilliseconds = 10

  /// What came of making room.
  enum Room {
    case made
    /// Some was made; the rest takes more time than one call should.
    case later
    /// There is nothing that may go.
    case none
  }

  /// Wins memory until `bytes` more fit below `limit`, or for half a millisecond.
  ///
  /// What is dead is compacted before anybody is refused. The caller holds no lock. About a third of
  /// a microsecond a key.
  ///
  /// - Returns: `none` when that cannot be, because the policy lets nothing go or nothing is left.
  func makeRoom(
    for bytes: Int, below limit: Int, in store: Store, policy: EvictionPolicy, now: Timestamp,
    _ memory: StorageContext
  ) -> Room {
    let pool = memory.pool
    if pool.usedBytes + bytes <= limit { return .made }
    if bytes > limit || isResting(now) { return .none }
    let start = Clock.steadyNanoseconds
    let patience = Self.patienceNanoseconds + bytes * Self.nanosecondsPerByte
    if policy != .none, hasCandidates(store, policy) {
      var fruitless = 0
      while pool.usedBytes + bytes > limit {
        let found = memory.steps.measure(.eviction) { visit(store, policy, now, memory) }
        fruitless = found > 0 ? 0 : fruitless + 1
        if fruitless >= Store.shardCount {
          // A round over all shards; the last candidate may have gone.
          if !hasCandidates(store, policy) { break }
          fruitless = 0
        }
        if Clock.steadyNanoseconds - start > patience {
          // Nearly there: memory does not grow meanwhile, for each makes room for itself.
          let tolerated = limit + limit / Self.toleratedShare + Self.toleratedBytes
          return pool.usedBytes + bytes <= tolerated ? .made : .later
        }
      }
      if pool.usedBytes + bytes <= limit { return .made }
    }
    return reclaim(bytes, limit, store, memory, now)
  }

  /// Compacts what is dead, shard by shard, until `bytes` fit, or until a round over all shards has
  /// won hardly anything: moving entries leaves new gaps at the ends of chunks.
  private func reclaim(
    _ bytes: Int, _ limit: Int, _ store: Store, _ memory: StorageContext, _ now: Timestamp
  ) -> Room {
    let pool = memory.pool
    var before = Int.max
    while before - pool.usedBytes > limit / Self.worthwhileShare {
      before = pool.usedBytes
      for _ in 0..<Store.shardCount {
        let shard = store.shard(nextShardIndex())
        shard.withLock {
          for database in 0..<shard.usedDatabaseCount {
            let keyspace = shard.keyspace(database)
            if keyspace.count == 0 { continue }
            keyspace.reclaim(memory)
          }
        }
        if pool.usedBytes + bytes <= limit { return .made }
      }
    }
    let until = now.milliseconds + Self.restMilliseconds
    unsafe state.pointee.restsUntil.store(until, ordering: .relaxed)
    return .none
  }

  /// Whether there was nothing to win a moment ago; to look again for each refused request would
  /// cost its loop more than the request.
  private func isResting(_ now: Timestamp) -> Bool {
    unsafe state.pointee.restsUntil.load(ordering: .relaxed) > now.milliseconds
  }

  /// Whether any key may go. O(shards).
  private func hasCandidates(_ store: Store, _ policy: EvictionPolicy) -> Bool {
    (0..<Store.shardCount).contains { index in
      let shard = store.shard(index)
      return shard.withLock {
        (0..<shard.usedDatabaseCount).contains { database in
          let keyspace = shard.keyspace(database)
          return (policy.isVolatile ? keyspace.expiringCount : keyspace.count) > 0
        }
      }
    }
  }

  /// The shard whose turn it is.
  private func nextShardIndex() -> Int {
    let hand = unsafe state.pointee.hand.wrappingAdd(1, ordering: .relaxed).oldValue
    return hand & (Store.shardCount - 1)
  }

  /// Visits a segment of each database of the next shard.
  ///
  /// - Returns: Keys that went.
  private func visit(
    _ store: Store, _ policy: EvictionPolicy, _ now: Timestamp, _ memory: StorageContext
  ) -> Int {
    let index = nextShardIndex()
    let expert = expert(hash: UInt64(index) << UInt64(64 - Store.shardBits))
    let shard = store.shard(index)
    let (evicted, expired) = shard.withLock {
      var evicted = 0
      var expired = 0
      for database in 0..<shard.usedDatabaseCount {
        let keyspace = shard.keyspace(database)
        if keyspace.count == 0 { continue }
        let gone = keyspace.evict(policy, expert: expert, now: now, memory)
        // What goes leaves pages half empty, which are the system's loss, too.
        if memory.pool.isFragmented { _ = keyspace.consolidate(memory) }
        evicted += gone.evicted
        expired += gone.expired
      }
      return (evicted, expired)
    }
    unsafe state.pointee.evicted.wrappingAdd(evicted, ordering: .relaxed)
    return evicted + expired
  }

  // MARK: What an entry is worth

  /// Visits that an age lasts, on average.
  private static let ageWidths: [UInt64] = [1, 1, 1, 1, 1, 1, 2, 2, 2, 4, 4, 4, 8, 16, 16, 0]
  /// Twice the middle of an age in visits.
  private static let ageMiddles = [
    1, 3, 5, 7, 9, 11, 14, 18, 22, 28, 36, 44, 56, 80, 112, 192,
  ]

  /// How much an entry is worth keeping; those with the least go.
  static func worth(
    _ entry: Entry, _ policy: EvictionPolicy, _ expert: Expert, _ access: AccessTracking
  ) -> Int {
    let bits = entry.access
    switch policy {
    case .none, .allKeysRandom, .volatileRandom:
      return Int(truncatingIfNeeded: FastRandom.next() >> 1)
    case .volatileTTL: return entry.deadline?.milliseconds ?? Int.max
    case .allKeysLRU, .volatileLRU: return -access.idleSeconds(bits)
    case .allKeysLFU, .volatileLFU:
      // Of equals that which was not used for longer.
      return access.frequency(bits) << 24 - access.idleSeconds(bits)
    case .allKeysAdaptive, .volatileAdaptive:
      let uses = Int(bits & AccessTracking.usesMask)
      if expert == .frequency {
        return uses << 16 | Int(truncatingIfNeeded: FastRandom.next() >> 48)
      }
      let age = Int((bits & AccessTracking.ageMask) >> AccessTracking.ageShift)
      return (4 + uses) << 20 / (ageMiddles[age] * 5 + 16)
    }
  }

  /// What becomes of the adaptive bits of an entry that was looked at and stays.
  ///
  /// - Parameters:
  ///   - worn: Entries with so many uses lose one with a chance of `wear` / 65536.
  static func aged(_ bits: UInt32, worn: UInt32, wear: UInt64) -> UInt32 {
    var uses = bits & AccessTracking.usesMask
    var age = (bits & AccessTracking.ageMask) >> AccessTracking.ageShift
    let random = FastRandom.next()
    if uses > 0, uses == worn, random & 0xffff < wear { uses -= 1 }
    let chance = random >> 32
    if age == 15 {
      if uses > 0, chance & 63 == 0 { uses -= 1 }
    } else if chance & (ageWidths[Int(age)] - 1) == 0 {
      age += 1
    }
    return bits & ~(AccessTracking.usesMask | AccessTracking.ageMask)
      | age << AccessTracking.ageShift | uses
  }
}

/// The shards of a store, one behind the other.
///
/// Invariant: `base` points to `Store.shardCount` shards from `init` until `free`, which the store
/// that owns them calls at its end. Each shard guards itself by its lock.
@safe struct ShardArray: Sendable {
  nonisolated(unsafe) private let base: UnsafeMutableRawPointer

  init() {
    unsafe base = .allocate(
      byteCount: Store.shardCount * Shard.strideBytes, alignment: Shard.alignment)
    for index in 0..<Store.shardCount {
      unsafe Shard.initialize(base + index * Shard.strideBytes)
    }
  }

  func free() {
    for index in 0..<Store.shardCount { self[index].deinitialize() }
    unsafe base.deallocate()
  }

  @inline(__always)
  subscript(index: Int) -> Shard {
    precondition(UInt(bitPattern: index) < UInt(bitPattern: Store.shardCount), "no such shard")
    return unsafe Shard(base: base + index &* Shard.strideBytes)
  }

  /// The shard of the keys with this hash.
  @inline(__always)
  subscript(hash hash: UInt64) -> Shard {
    // SAFETY: the upper `shardBits` bits are below `shardCount`.
    return unsafe Shard(base: base + Store.shardIndex(hash: hash) &* Shard.strideBytes)
  }
}

/// The shards that a command touches: locked in ascending order, each once, so that two commands
/// can never wait for each other in a circle.
///
/// A bit for each shard, in memory of its own: an array within the value is copied by who reads it, which was
/// 6 % of MGET.
///
/// Invariant: `words` points to sixteen words.
@safe struct ShardSet: ~Copyable {
  private let words: UnsafeMutablePointer<UInt64>
  /// Which of the words are not zero.
  private var used: UInt32 = 0

  init() {
    unsafe words = .allocate(capacity: Self.wordCount)
    unsafe words.initialize(repeating: 0, count: Self.wordCount)
  }

  deinit { unsafe words.deallocate() }

  private static let wordCount = 16

  mutating func removeAll() {
    while used != 0 {
      // SAFETY: only bits of the words are set.
      unsafe words[used.trailingZeroBitCount] = 0
      used &= used &- 1
    }
  }

  /// Adds the shard of a key with this hash.
  @inline(__always)
  mutating func insert(hash: UInt64) {
    insert(Store.shardIndex(hash: hash))
  }

  /// Adds all shards of another set.
  mutating func formUnion(_ other: borrowing ShardSet) {
    for index in 0..<Self.wordCount { unsafe words[index] |= other.words[index] }
    used |= other.used
  }

  /// All shards.
  static var all: ShardSet {
    var all = ShardSet()
    unsafe all.words.update(repeating: UInt64.max, count: wordCount)
    all.used = 0xffff
    return all
  }

  /// Locks them all.
  ///
  /// Who has some already and waits for another one for long gives them back meanwhile. A script may wait for
  /// those, see `extend`, or run for seconds with the other one: nobody else has to wait for it then.
  func lock(in shards: ShardArray) {
    while let missing = lockMost(in: shards) {
      visit { if $0 < missing { shards[$0].unlock() } }
      shards[missing].withLock {}
    }
  }

  /// Far longer than commands keep a shard: of threads that lock many shards each and give way to each other
  /// all the time, none would ever have all.
  private static let patienceMicroseconds = 1000

  /// Locks them in ascending order, as far as nobody has to be waited for long but at the first.
  ///
  /// - Returns: The one that somebody else holds; nil when there is none.
  @inline(__always)
  private func lockMost(in shards: ShardArray) -> Int? {
    var isFirst = true
    return first { shard in
      if isFirst {
        isFirst = false
        shards[shard].lock()
        return false
      }
      return !shards[shard].lock(withinMicroseconds: Self.patienceMicroseconds)
    }
  }

  func unlock(in shards: ShardArray) { visit { shards[$0].unlock() } }

  /// Adds shards to those that are locked, in any order, and waits for them.
  ///
  /// At most one thread may do this at a time: then it waits for nobody who waits for it, for whoever locks
  /// several shards gives them back meanwhile.
  mutating func extend(by other: borrowing ShardSet, in shards: ShardArray) {
    var missing = ShardSet()
    for index in 0..<Self.wordCount {
      let word = unsafe other.words[index] & ~words[index]
      unsafe missing.words[index] = word
      if word != 0 { missing.used |= 1 &<< UInt32(index) }
    }
    missing.visit { shards[$0].lock() }
    formUnion(missing)
  }

  @inline(__always)
  private mutating func insert(_ shard: Int) {
    // SAFETY: there are 1024 shards.
    unsafe words[shard &>> 6] |= 1 &<< UInt64(shard & 63)
    used |= 1 &<< UInt32(shard &>> 6)
  }

  @inline(__always)
  private func visit(_ body: (Int) -> Void) {
    _ = first {
      body($0)
      return false
    }
  }

  /// The first one of which `predicate` is true; it is asked in ascending order.
  @inline(__always)
  private func first(where predicate: (Int) -> Bool) -> Int? {
    var used = used
    while used != 0 {
      let index = used.trailingZeroBitCount
      used &= used &- 1
      // SAFETY: only bits of the words are set.
      var word = unsafe words[index]
      while word != 0 {
        let shard = index &<< 6 &+ word.trailingZeroBitCount
        if predicate(shard) { return shard }
        word &= word &- 1
      }
    }
    return nil
  }
}

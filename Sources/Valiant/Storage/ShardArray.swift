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
struct ShardSet {
  private var words: InlineArray<16, UInt64> = .init(repeating: 0)
  /// Which of the words are not zero.
  private var used: UInt32 = 0

  /// Adds the shard of a key with this hash.
  @inline(__always)
  mutating func insert(hash: UInt64) {
    let shard = Store.shardIndex(hash: hash)
    words[shard &>> 6] |= 1 &<< UInt64(shard & 63)
    used |= 1 &<< UInt32(shard &>> 6)
  }

  /// Adds all shards of another set.
  mutating func formUnion(_ other: ShardSet) {
    for index in 0..<16 { words[index] |= other.words[index] }
    used |= other.used
  }

  /// All shards.
  static var all: ShardSet {
    var all = ShardSet()
    for index in 0..<16 { all.words[index] = UInt64.max }
    all.used = 0xffff
    return all
  }

  func lock(in shards: ShardArray) { forEach { shards[$0].lock() } }
  func unlock(in shards: ShardArray) { forEach { shards[$0].unlock() } }

  @inline(__always)
  private func forEach(_ body: (Int) -> Void) {
    var used = used
    while used != 0 {
      let index = used.trailingZeroBitCount
      used &= used &- 1
      var word = words[index]
      while word != 0 {
        body(index &<< 6 &+ word.trailingZeroBitCount)
        word &= word &- 1
      }
    }
  }
}

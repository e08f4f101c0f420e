/// What changing a keyspace needs from its store, and how uses of its entries are noted.
struct StorageContext {
  /// The hash of keys that move.
  let hashing: SipHash
  /// Where memory comes from.
  let pool: BlockPool
  /// How long the steps of upkeep take.
  let steps: StepTimes
  /// Who goes when there is no room left.
  let eviction: Eviction
  /// How a use of an entry is noted; changes with time and policy.
  var access = AccessTracking()

  init() {
    self.init(hashing: .random())
  }

  init(hashing: SipHash) {
    self.hashing = hashing
    pool = BlockPool()
    steps = StepTimes()
    eviction = Eviction()
  }

  /// Frees what all copies share. Nobody may use one any more.
  func end() {
    pool.end()
    steps.free()
    eviction.free()
  }
}

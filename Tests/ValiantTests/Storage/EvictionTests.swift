import Foundation
import Testing

@testable import Valiant

/// A store with a limit, written to as the server does it.
private final class LimitedStore {
  let store = Store()
  let policy: EvictionPolicy
  let limit: Int
  var memory: StorageContext
  var now = Timestamp(milliseconds: 1_000_000)

  init(_ policy: EvictionPolicy, limit: Int) {
    self.policy = policy
    self.limit = limit
    memory = store.memory
    advance(milliseconds: 0)
  }

  func advance(milliseconds: Int) {
    now.milliseconds += milliseconds
    memory.access = AccessTracking(policy.tracking, now: now)
  }

  /// - Returns: False when there is no room and nothing may go.
  @discardableResult
  func set(_ key: String, _ value: [UInt8], deadline: Timestamp? = nil) -> Bool {
    guard
      memory.eviction.makeRoom(
        for: value.count, below: limit, in: store, policy: policy, now: now, memory) == .made
    else { return false }
    return withKey(key) { keyspace, key, hash in
      value.withBytes {
        keyspace.set(key, hash: hash, to: $0, deadline: deadline, now: now, memory)
      }
    }
  }

  func get(_ key: String) -> Bool {
    withKey(key) { keyspace, key, hash in
      keyspace.use(key, hash: hash, now: now, memory) != nil
    }
  }

  private func withKey<Result>(
    _ key: String, _ body: (KeyspaceReference, Bytes, UInt64) -> Result
  ) -> Result {
    Array(key.utf8).withBytes { bytes in
      let hash = memory.hashing.hash(bytes)
      let shard = store.shard(hash: hash)
      return shard.withLock { body(shard.keyspace(0), bytes, hash) }
    }
  }

  var keys: Int { store.count() }

  /// How many keys with values of 100 bytes stay when more and more of them come.
  static let capacity: Int = {
    let limited = LimitedStore(.allKeysRandom, limit: limitBytes)
    for number in 0..<limitBytes / 80 {
      limited.set("key \(number)", [UInt8](repeating: 120, count: 100))
    }
    return limited.keys
  }()
  static let limitBytes = 4 << 20
}

@Suite("Eviction") struct EvictionTests {
  private let value = [UInt8](repeating: 120, count: 100)

  @Test(
    "keeps to the limit and to its invariants",
    arguments: EvictionPolicy.allCases.filter { $0 != .none }) func limit(_ policy: EvictionPolicy)
  {
    let limit = LimitedStore.limitBytes
    let limited = LimitedStore(policy, limit: limit)
    var random = Random(seed: 7)
    for number in 0..<30_000 {
      let deadline = Timestamp(
        milliseconds: limited.now.milliseconds + Int.random(in: 10_000...1_000_000, using: &random))
      let size = Int.random(in: 0...300, using: &random)
      #expect(
        limited.set(
          "key \(number % 25_000)", [UInt8](repeating: 120, count: size),
          deadline: policy.isVolatile ? deadline : nil))
      if number % 7 == 0 {
        _ = limited.get("key \(Int.random(in: 0..<1000, using: &random))")
      }
      if number % 100 == 0 { limited.advance(milliseconds: 50) }
      if number % 10_000 == 0 { limited.store.checkInvariants() }
    }
    limited.store.checkInvariants()
    // Chunks are taken as a whole.
    #expect(limited.memory.pool.blockBytes <= limit + 128 * 1024)
    let most = limit / 100
    #expect(limited.keys > most / 5 && limited.keys < most, "\(limited.keys)")
    #expect(limited.memory.eviction.evictedCount > 6000)
  }

  @Test("refuses when nothing may go") func refusal() {
    let strict = LimitedStore(.none, limit: 2 << 20)
    var accepted = 0
    while strict.set("key \(accepted)", value) { accepted += 1 }
    #expect(accepted > 8000 && strict.keys == accepted)
    #expect(strict.get("key 0"))

    // Keys without a time to live are safe from the volatile policies.
    let volatile = LimitedStore(.volatileLRU, limit: 2 << 20)
    for number in 0..<2000 {
      let deadline = Timestamp(milliseconds: volatile.now.milliseconds + 1_000_000)
      volatile.set("volatile \(number)", value, deadline: deadline)
    }
    var number = 0
    while volatile.set("key \(number)", value) { number += 1 }
    #expect(number > 8000 && volatile.keys == number)
    volatile.store.checkInvariants()

    // What is larger than everything costs nobody anything.
    let evicting = LimitedStore(.allKeysLRU, limit: 2 << 20)
    evicting.set("key", value)
    #expect(!evicting.set("large", [UInt8](repeating: 1, count: 3 << 20)))
    #expect(evicting.get("key"))
  }

  @Test("what was deleted gives room to others") func deletedRoom() {
    let limited = LimitedStore(.none, limit: LimitedStore.limitBytes)
    var count = 0
    while limited.set("key \(count)", value) { count += 1 }
    for number in stride(from: 0, to: count, by: 4) { limited.store.delete("key \(number)") }
    limited.advance(milliseconds: 1000)
    var accepted = 0
    while limited.set("new \(accepted)", value) { accepted += 1 }
    #expect(accepted > count / 4 / 2, "\(accepted) of \(count / 4)")
    // Emptied at once, it takes as much again at once.
    let removed = limited.store.takeAll(databases: 0...15)
    limited.advance(milliseconds: 1000)
    #expect(limited.set("first", value))
    removed.free()
    limited.store.checkInvariants()
  }

  @Test("finds the few keys that may go among many that may not") func fewCandidates() {
    let limited = LimitedStore(.volatileLRU, limit: 8 << 20)
    let deadline = Timestamp(milliseconds: limited.now.milliseconds + 1_000_000)
    let large = [UInt8](repeating: 1, count: 1 << 20)
    for number in 0..<3 { #expect(limited.set("large \(number)", large, deadline: deadline)) }
    var count = 0
    while limited.memory.eviction.evictedCount < 3 {
      guard limited.set("key \(count)", value) else { break }
      count += 1
    }
    #expect(limited.memory.eviction.evictedCount == 3)
    #expect(limited.keys == count)
  }

  @Test("LRU keeps what was used last") func leastRecentlyUsed() {
    let limited = LimitedStore(.allKeysLRU, limit: LimitedStore.limitBytes)
    let used = LimitedStore.capacity / 5
    for number in 0..<used * 3 { limited.set("key \(number)", value) }
    limited.advance(milliseconds: 10_000)
    for number in 0..<used { _ = limited.get("key \(number)") }
    limited.advance(milliseconds: 10_000)
    var number = 0
    while limited.memory.eviction.evictedCount < used {
      limited.set("new \(number)", value)
      number += 1
    }
    let kept = (0..<used).count { limited.get("key \($0)") }
    let others = (used..<used * 3).count { limited.get("key \($0)") }
    #expect(kept > used * 98 / 100, "\(kept) of \(used)")
    #expect(others < used * 11 / 10, "\(others) of \(used * 2)")
  }

  @Test("LFU keeps what was used often") func leastFrequentlyUsed() {
    let limited = LimitedStore(.allKeysLFU, limit: LimitedStore.limitBytes)
    let used = LimitedStore.capacity / 5
    for number in 0..<used * 3 { limited.set("key \(number)", value) }
    for _ in 0..<20 { for number in 0..<used { _ = limited.get("key \(number)") } }
    for number in 0..<used * 8 { limited.set("new \(number)", value) }
    let kept = (0..<used).count { limited.get("key \($0)") }
    #expect(kept > used * 19 / 20, "\(kept) of \(used)")
  }

  @Test("TTL lets go what ends first") func timeToLive() {
    let limited = LimitedStore(.volatileTTL, limit: LimitedStore.limitBytes)
    let count = LimitedStore.capacity * 3 / 2
    for number in 0..<count {
      let deadline = Timestamp(
        milliseconds: limited.now.milliseconds + 100_000 + (number % 2) * 900_000)
      limited.set("key \(number)", value, deadline: deadline)
    }
    let early = stride(from: 0, to: count, by: 2).count { limited.get("key \($0)") }
    let late = stride(from: 1, to: count, by: 2).count { limited.get("key \($0)") }
    #expect(late > early * 2, "\(early) and \(late)")
  }

  @Test("the adaptive policy withstands a scan, and follows a change") func adaptive() {
    let limited = LimitedStore(.allKeysAdaptive, limit: LimitedStore.limitBytes)
    func use(_ key: String) -> Bool {
      if limited.get(key) { return true }
      limited.set(key, value)
      return false
    }
    var random = Random(seed: 3)
    let popular = LimitedStore.capacity * 2 / 5
    for _ in 0..<popular * 8 { _ = use("key \(Int.random(in: 0..<popular, using: &random))") }
    // Twice as many keys as fit, each asked for once.
    var hits = 0
    for number in 0..<popular * 5 {
      _ = use("scan \(number)")
      if use("key \(Int.random(in: 0..<popular, using: &random))"), number >= popular * 4 {
        hits += 1
      }
    }
    #expect(hits > popular * 9 / 10, "\(hits) of \(popular)")
    hits = 0
    for _ in 0..<popular * 12 {
      _ = use("other \(Int.random(in: 0..<popular, using: &random))")
    }
    for _ in 0..<popular {
      if use("other \(Int.random(in: 0..<popular, using: &random))") { hits += 1 }
    }
    #expect(hits > popular * 9 / 10, "\(hits) of \(popular)")
    limited.store.checkInvariants()
  }

  @Test("several threads make room at the same time") func threads() {
    let store = Store()
    let limit = 4 << 20
    DispatchQueue.concurrentPerform(iterations: 4) { thread in
      let memory = store.memory.copy()
      defer { memory.free() }
      memory.access = AccessTracking(.adaptive, now: Timestamp(milliseconds: 60_000_000))
      for number in 0..<20_000 {
        let now = Timestamp(milliseconds: 60_000_000)
        precondition(
          memory.eviction.makeRoom(
            for: 100, below: limit, in: store, policy: .allKeysAdaptive, now: now, memory) == .made)
        store.set("\(thread) \(number)", to: String(repeating: "x", count: number % 200))
        _ = store.get("\(thread) \(number / 2)")
      }
    }
    store.checkInvariants()
    #expect(store.memory.pool.blockBytes <= limit + 1024 * 1024)
  }

  @Test("compacting for want of room comes to an end", arguments: [2_000, 9_000, 14_000])
  func reclaimingEnds(_ size: Int) {
    // Each moved entry may leave a new gap at the end of a chunk.
    let limited = LimitedStore(.none, limit: 24 << 20)
    var random = Random(seed: 7)
    var number = 0
    func value() -> [UInt8] {
      [UInt8](repeating: 1, count: size + Int.random(in: 0..<size / 8, using: &random))
    }
    while limited.set("k\(number)", value()) { number += 1 }
    #expect(number * size > 16 << 20)
    for step in 0..<50 {
      limited.advance(milliseconds: 20)
      #expect(!limited.set("more \(step)", [UInt8](repeating: 1, count: 1 << 20)))
    }
    limited.store.checkInvariants()
  }

  @Test("times of use are right when the counters of seconds and minutes begin again")
  func wrapping() {
    func tracking(_ kind: AccessTracking.Kind, seconds: Int) -> AccessTracking {
      AccessTracking(kind, now: Timestamp(milliseconds: seconds * 1000))
    }
    // 24 bits of seconds are over after 194 days, 16 bits of minutes after 45.
    let (secondsMax, minutesMax) = (1 << 24, 1 << 16)
    let used = tracking(.clock, seconds: secondsMax - 10).initial
    #expect(tracking(.clock, seconds: secondsMax + 20).idleSeconds(used) == 30)
    for kind in [AccessTracking.Kind.frequency, .adaptive] {
      let used = tracking(kind, seconds: (minutesMax - 10) * 60).initial
      let now = tracking(kind, seconds: (minutesMax + 20) * 60)
      #expect(now.idleSeconds(used) == 30 * 60)
      if kind == .frequency { #expect(now.frequency(used) == 0) }
      let late = tracking(kind, seconds: (minutesMax + 1) * 60)
      let recent = tracking(kind, seconds: (minutesMax - 1) * 60).initial
      if kind == .frequency { #expect(late.frequency(recent) == 3) }
    }
    // What is said to be idle for longer than the machine is up.
    for kind in [AccessTracking.Kind.clock, .adaptive] {
      let now = tracking(kind, seconds: 300)
      let restored = now.restored(idleSeconds: 6000, frequency: nil)
      #expect(now.idleSeconds(restored) == 6000)
      #expect(restored < 1 << 24)
    }
    let restored = tracking(.frequency, seconds: 300).restored(idleSeconds: nil, frequency: 77)
    #expect(tracking(.frequency, seconds: 300).frequency(restored) == 77)
  }

  @Test("frequency counters grow slowly and fall with time") func frequency() {
    var tracking = AccessTracking(.frequency, now: Timestamp(milliseconds: 0))
    var access = tracking.initial
    #expect(tracking.frequency(access) == 5)
    for _ in 0..<100_000 { access = tracking.used(access) }
    let counter = tracking.frequency(access)
    #expect(counter > 60 && counter < 200, "\(counter)")
    tracking = AccessTracking(.frequency, now: Timestamp(milliseconds: 10 * 60_000))
    #expect(tracking.frequency(access) == counter - 10)
    #expect(tracking.idleSeconds(access) == 600)
    let clock = AccessTracking(.clock, now: Timestamp(milliseconds: 5000)).initial
    #expect(AccessTracking(.clock, now: Timestamp(milliseconds: 8000)).idleSeconds(clock) == 3)
  }

  /// Uses so much processor time.
  private func burn(milliseconds: Int) {
    let start = Clock.threadNanoseconds
    while Clock.threadNanoseconds - start < milliseconds * 1_000_000 {}
  }

  @Test("times of steps are counted in buckets a fifth wide") func stepTimes() {
    let steps = StepTimes()
    defer { steps.free() }
    for number in 0..<1000 {
      steps.measure(.growth) { if number == 500 { burn(milliseconds: 20) } }
    }
    let summary = steps.summary(.growth)
    #expect(summary.count == 1000)
    #expect(summary.maxNanoseconds >= 20_000_000)
    #expect(summary.p99Nanoseconds <= summary.p999Nanoseconds)
    #expect(summary.p99Nanoseconds < 20_000_000)
    #expect(steps.summary(.expiry).count == 0)
    steps.reset()
    #expect(steps.summary(.growth).count == 0)
  }
}

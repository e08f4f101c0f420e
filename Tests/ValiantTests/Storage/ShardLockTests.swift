import Foundation
import Testing

@testable import Valiant

/// What waits for a shard that somebody keeps for long, as a script may.
@Suite("Locks of shards") struct ShardLockTests {
  @Test("who waits for one of many shards lets others have the rest") func patience() {
    let shards = ShardArray()
    defer { shards.free() }
    let kept = Store.shardCount - 1
    shards[kept].lock()
    let group = DispatchGroup()
    group.enter()
    Thread.detachNewThread {
      ShardSet.all.lock(in: shards)
      ShardSet.all.unlock(in: shards)
      group.leave()
    }
    #expect(group.wait(timeout: .now() + 0.05) == .timedOut)
    for index in [0, 5, kept - 1] {
      let isLocked = shards[index].lock(withinMicroseconds: 30_000_000)
      #expect(isLocked, "the thread that waits keeps the shard")
      if isLocked { shards[index].unlock() }
    }
    shards[kept].unlock()
    #expect(group.wait(timeout: .now() + 30) == .success)
  }

  @Test("expiry and compaction leave out a shard that is kept, and come back") func upkeep() {
    let store = Store()
    let keys = (0..<5000).map { "k\($0)" }
    for key in keys { store.set(key, to: "v", expiresIn: .milliseconds(1)) }
    let shards = keys.map { key in
      Store.shardIndex(hash: Array(key.utf8).withBytes { store.memory.hashing.hash($0) })
    }
    Thread.sleep(forTimeInterval: 0.01)
    var sweep = ExpirySweep(part: 0, of: 1)
    func round() {
      var left = sweep.shardCount
      while left > 0 {
        if sweep.step(store, now: Timestamp.now, store.memory) { left -= 1 }
      }
    }
    let kept = store.shard(shards[0])
    kept.lock()
    round()
    #expect(sweep.removedCount == shards.count { $0 != shards[0] })
    var consolidation = Consolidation(part: 0, of: 1)
    for _ in 0..<Store.shardCount { _ = consolidation.step(store) }
    kept.unlock()
    round()
    #expect(sweep.removedCount == 5000)
  }
}

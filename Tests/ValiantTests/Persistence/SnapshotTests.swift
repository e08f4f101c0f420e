import Foundation
import Synchronization
import Testing

@testable import Valiant

@Suite("Snapshots") struct SnapshotTests {
  private let path = NSTemporaryDirectory() + "valiant-\(UUID().uuidString).rdb"

  /// What a key holds, and when it expires.
  private struct Content: Equatable {
    var value: [UInt8]
    var deadline: Int?
  }

  private typealias Contents = [ObservedKey: Content]

  /// All that is in a store, whose locks are held.
  private func contents(_ store: Store) -> Contents {
    var all: Contents = [:]
    for index in 0..<Store.shardCount {
      for database in 0..<Store.databaseCount {
        store.shard(index).keyspaceIfUsed(database)?.forEachEntry { entry in
          all[ObservedKey(database: database, key: entry.key.array)] = Content(
            value: entry.value.array, deadline: entry.deadline?.milliseconds)
        }
      }
    }
    return all
  }

  private func load(threads: Int = 3) throws -> Store {
    let store = Store()
    try store.load(from: path, threads: threads)
    store.checkInvariants()
    return store
  }

  private func remove() { try? FileManager.default.removeItem(atPath: path) }

  /// Calls `body` with a random key's keyspace, under its lock.
  private static func withRandomKey(
    _ store: Store, keys: Int, _ body: (KeyspaceReference, Bytes, UInt64) -> Void
  ) {
    let key = Array("key:\(Int.random(in: 0..<keys))".utf8)
    key.withBytes { key in
      let hash = store.memory.hashing.hash(key)
      let shard = store.shard(hash: hash)
      shard.withLock { body(shard.keyspace(Int.random(in: 0..<3)), key, hash) }
    }
  }

  private static func randomValue() -> [UInt8] {
    switch Int.random(in: 0..<20) {
    case 0: return [UInt8](repeating: .random(in: 0...255), count: .random(in: 16_000...40_000))
    case 1...5: return Array(String(Int.random(in: .min ... .max) >> Int.random(in: 0...60)).utf8)
    default: return (0..<Int.random(in: 0..<300)).map { UInt8(truncatingIfNeeded: $0 / 7) }
    }
  }

  /// Changes something in one of the ways in which keys change.
  private static func changeSomething(_ store: Store, keys: Int, flushes: Bool) {
    let memory = store.memory
    let now = Timestamp.now
    let later = Timestamp(milliseconds: now.milliseconds + .random(in: 100_000...9_000_000))
    switch Int.random(in: 0..<1000) {
    case 0 where flushes: _ = store.takeAll(databases: 0...0)
    case 1 where flushes: _ = store.takeAll(databases: 0...Store.databaseCount - 1)
    case 2...3 where flushes: store.swap(0, 1, isLocked: false, by: memory)
    case ..<100:
      withRandomKey(store, keys: keys) { keyspace, key, hash in
        _ = keyspace.remove(key, hash: hash, now: now, memory)
      }
    case ..<200:
      withRandomKey(store, keys: keys) { keyspace, key, hash in
        _ = keyspace.setDeadline(
          Bool.random() ? later : nil, of: key, hash: hash, now: now, memory)
      }
    case ..<350:
      let count = Int.random(in: 0...30) * (Int.random(in: 0...30) == 0 ? 1000 : 1)
      withRandomKey(store, keys: keys) { keyspace, key, hash in
        let isSet: Void? = keyspace.edit(key, hash: hash, count: count, now: now, memory) { bytes in
          if bytes.count > 0 { bytes[Int.random(in: 0..<bytes.count)] = .random(in: 0...255) }
        }
        if isSet != nil { keyspace.noteEdit(key, hash: hash, memory) }
      }
    default:
      let value = randomValue()
      withRandomKey(store, keys: keys) { keyspace, key, hash in
        value.withBytes {
          _ = keyspace.set(
            key, hash: hash, to: $0, deadline: Int.random(in: 0...9) == 0 ? later : nil, now: now,
            memory)
        }
      }
    }
  }

  @Test("what was written is read again, with its times to live", arguments: [1, 4])
  func roundTrip(threads: Int) throws {
    defer { remove() }
    let store = Store()
    for _ in 0..<8000 { Self.changeSomething(store, keys: 2500, flushes: false) }
    let expected = contents(store)
    #expect(expected.count > 3000)
    try store.save(to: path)
    store.checkInvariants()
    #expect(contents(store) == expected)
    #expect(contents(try load(threads: threads)) == expected)
    #expect(try FileCheck.run(path).contains("checksum: right"))
    // What was there is replaced.
    store.removeAll()
    store.removeAll(database: 1)
    store.removeAll(database: 2)
    try store.save(to: path)
    #expect(contents(try load()).isEmpty)
  }

  @Test("a snapshot is of one moment, whatever is changed meanwhile", arguments: [1, 2])
  func pointInTime(threads: Int) throws {
    defer { remove() }
    let store = Store()
    for _ in 0..<8000 { Self.changeSomething(store, keys: 2500, flushes: false) }
    for round in 0..<4 {
      let progress = Progress()
      let group = DispatchGroup()
      for _ in 0..<threads {
        DispatchQueue.global().async(group: group) {
          while !progress.isOver.load(ordering: .relaxed) {
            Self.changeSomething(store, keys: 2500, flushes: round % 2 == 1)
            progress.changed.wrappingAdd(1, ordering: .relaxed)
          }
        }
      }
      store.lockAll()
      let expected = contents(store)
      let snapshot = try #require(Snapshot(of: store, isLocked: true))
      #expect(Snapshot(of: store, isLocked: true) == nil, "only one at a time")
      store.unlockAll()
      // Behind each piece others have the time to change some keys.
      var pieces = 0
      let summary = try snapshot.write(
        to: path,
        pause: {
          pieces += 1
          let enough = progress.changed.load(ordering: .relaxed) + 100
          while pieces < 30, progress.changed.load(ordering: .relaxed) < enough { usleep(10) }
        })
      progress.isOver.store(true, ordering: .relaxed)
      group.wait()
      #expect(summary.keys == expected.count)
      #expect(store.memory.pool.arrivingBytes == 0, "copies are counted off again")
      store.checkInvariants()
      #expect(contents(try load()) == expected)
    }
  }

  private final class Progress: Sendable {
    let isOver = Atomic<Bool>(false)
    let changed = Atomic<Int>(0)
  }

  @Test(
    "whatever fails, the old snapshot stays, and the next one succeeds",
    arguments: OutputFile.Step.allCases.filter { $0 != .cut })
  func faults(step: OutputFile.Step) throws {
    defer { remove() }
    let store = Store()
    for _ in 0..<5000 { Self.changeSomething(store, keys: 1500, flushes: false) }
    try store.save(to: path)
    let old = try Data(contentsOf: URL(fileURLWithPath: path))
    var failures = 0
    for failing in 1...100 {
      let seen = Progress()
      let snapshot = try #require(Snapshot(of: store))
      for _ in 0..<50 { Self.changeSomething(store, keys: 1500, flushes: failing % 9 == 0) }
      do throws(FileError) {
        _ = try snapshot.write(
          to: path,
          fault: { current in
            if current != step { return 0 }
            let number = seen.changed.wrappingAdd(1, ordering: .relaxed).newValue
            return number == failing ? ENOSPC : 0
          })
        break
      } catch {
        failures += 1
        #expect(error.number == ENOSPC && error.description.contains("No space left"))
      }
      store.checkInvariants()
      #expect(store.memory.pool.arrivingBytes == 0)
      #expect(!FileManager.default.fileExists(atPath: path + ".new"))
      if step != .synchronizeFolder {
        #expect(try Data(contentsOf: URL(fileURLWithPath: path)) == old, "changed by \(failing)")
      }
    }
    #expect(failures > 0)
    try store.save(to: path)
    #expect(contents(try load()) == contents(store))
  }

  @Test("a key that has expired is in no snapshot, and in no store that reads an old one")
  func expired() throws {
    defer { remove() }
    let store = Store()
    store.set("gone", to: "1", expiresIn: .milliseconds(1))
    store.set("soon", to: "2", expiresIn: .milliseconds(2000))
    store.set("stays", to: "3")
    usleep(5000)
    try store.save(to: path)
    #expect(try FileCheck.run(path).contains("database 0: 2 keys, 1 with a time to live"))
    usleep(2_010_000)
    let read = try load()
    #expect(read.count() == 1 && read.get("stays") == "3")
  }

  @Test("a file that is damaged is not loaded without a word") func damaged() throws {
    defer { remove() }
    let store = Store()
    for _ in 0..<300 { Self.changeSomething(store, keys: 50, flushes: false) }
    try store.save(to: path)
    let whole = try Data(contentsOf: URL(fileURLWithPath: path))
    for _ in 0..<80 {
      var damaged = whole
      if Bool.random() {
        damaged[Int.random(in: 0..<whole.count)] ^= 1 << UInt8.random(in: 0...7)
      } else {
        damaged = damaged.prefix(Int.random(in: 0..<whole.count))
      }
      try damaged.write(to: URL(fileURLWithPath: path))
      #expect(throws: Store.FileFailure.self) { try load() }
    }
  }
}

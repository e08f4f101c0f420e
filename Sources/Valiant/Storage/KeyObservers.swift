import Synchronization

/// A flag that is raised when a watched key changes, from whichever thread.
final class ChangeFlag: Sendable {
  private let raised = Atomic<Bool>(false)

  var isRaised: Bool { raised.load(ordering: .acquiring) }
  func raise() { raised.store(true, ordering: .releasing) }
}

/// A key in one of the databases, as those who want to know of it name it.
struct ObservedKey: Hashable, Sendable {
  let database: Int
  let key: [UInt8]
}

/// What can happen to a key.
enum KeyChange: Sendable {
  /// A command has set, changed or removed it.
  case commanded
  /// Its time to live was over.
  case expired
  /// It had to make room.
  case evicted
}

/// Who is told when keys change: the single place through which all changes of a store pass.
///
/// A keyspace knows whether there is anybody at all (`Keyspace.observers`), so that a change costs a
/// look at one byte as long as there is nobody.
///
/// Invariant: `state` is initialised from `init` to `free`, and its `tables` has as many places as
/// the store has shards. The table of a shard is touched only by who holds the shard's lock.
@safe struct KeyObservers: Sendable {
  @safe private struct State: ~Copyable {
    let tables: UnsafeMutablePointer<Table?>
    /// How many want to hear of keys that go by themselves.
    let listenerCount = Atomic<Int>(0)
  }

  /// The keys of one shard that somebody watches.
  private final class Table {
    var flags: [ObservedKey: [ChangeFlag]] = [:]
    /// How many of them each database has.
    var counts = [Int](repeating: 0, count: Store.databaseCount)
  }

  // SAFETY: see the invariant.
  nonisolated(unsafe) private let state: UnsafeMutablePointer<State>

  init() {
    let tables = UnsafeMutablePointer<Table?>.allocate(capacity: Store.shardCount)
    unsafe tables.initialize(repeating: nil, count: Store.shardCount)
    unsafe state = .allocate(capacity: 1)
    unsafe state.initialize(to: State(tables: tables))
  }

  func free() {
    unsafe state.pointee.tables.deinitialize(count: Store.shardCount)
    unsafe state.pointee.tables.deallocate()
    unsafe state.deinitialize(count: 1)
    unsafe state.deallocate()
  }

  /// Counts one more or one less who wants to hear of keys that go by themselves.
  ///
  /// - Returns: Whether there is anybody.
  func changeListeners(by difference: Int) -> Bool {
    unsafe state.pointee.listenerCount.wrappingAdd(difference, ordering: .relaxed).newValue > 0
  }

  private static func shard(_ hash: UInt64) -> Int {
    Int(truncatingIfNeeded: hash >> UInt64(64 - Store.shardBits))
  }

  // MARK: Watching, under the lock of the key's shard

  /// Has `flag` raised when `key` changes.
  func watch(_ key: ObservedKey, hash: UInt64, _ flag: ChangeFlag, in keyspace: KeyspaceReference) {
    let place = unsafe state.pointee.tables + Self.shard(hash)
    let table = unsafe place.pointee ?? Table()
    unsafe place.pointee = table
    table.flags[key, default: []].append(flag)
    table.counts[key.database] += 1
    keyspace.insertObserver(.watcher)
  }

  /// Takes back what `watch` has done.
  func unwatch(
    _ key: ObservedKey, hash: UInt64, _ flag: ChangeFlag, in keyspace: KeyspaceReference
  ) {
    let place = unsafe state.pointee.tables + Self.shard(hash)
    guard let table = unsafe place.pointee, var flags = table.flags[key],
      let index = flags.firstIndex(where: { $0 === flag })
    else { return }
    flags.remove(at: index)
    table.flags[key] = flags.isEmpty ? nil : flags
    table.counts[key.database] -= 1
    if table.counts[key.database] == 0 { keyspace.removeObserver(.watcher) }
    if table.flags.isEmpty { unsafe place.pointee = nil }
  }

  // MARK: Changes, under the same lock

  /// Tells of a change of one key.
  func note(_ key: Bytes, hash: UInt64, database: Int) {
    guard let table = unsafe state.pointee.tables[Self.shard(hash)] else { return }
    let watched = ObservedKey(database: database, key: key.array)
    for flag in table.flags[watched] ?? [] { flag.raise() }
  }

  /// Tells that all keys of a database are about to change in one shard.
  ///
  /// - Parameter isThere: Whether a key is there that somebody watches.
  func noteAll(shard: Int, database: Int, _ isThere: (ObservedKey) -> Bool) {
    guard let table = unsafe state.pointee.tables[shard] else { return }
    for (key, flags) in table.flags where key.database == database && isThere(key) {
      for flag in flags { flag.raise() }
    }
  }

  /// Who wants to know what happens in a keyspace.
  struct Kinds: OptionSet, Sendable {
    let rawValue: UInt8

    /// Somebody watches one of its keys.
    static let watcher = Kinds(rawValue: 1)
    /// Somebody wants to hear of expiry and eviction; see `StorageContext.listener`.
    static let listener = Kinds(rawValue: 2)
  }
}

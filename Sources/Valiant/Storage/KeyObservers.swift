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
  /// A command has given it another time to live, and nothing else.
  case timed
  /// Its time to live was over.
  case expired
  /// It had to make room.
  case evicted

  /// Whether a command has done it.
  var isCommanded: Bool { self == .commanded || self == .timed }
}

/// Who is told when keys change: the single place through which all changes of a store pass.
///
/// A keyspace knows whether there is anybody at all (`Keyspace.observers`), so that a change costs a
/// look at one byte as long as there is nobody.
///
/// Locks are taken in this order: those of shards, that of the audience, that of a queue.
///
/// Invariant: `state` is initialised from `init` to `free`, and its `tables` has as many places as
/// the store has shards. The table of a shard is touched only by who holds the shard's lock; the
/// moment and where changes go are changed by who holds all of them, and read by who holds one.
@safe struct KeyObservers: Sendable {
  @safe private struct State: ~Copyable {
    let tables: UnsafeMutablePointer<Table?>
    /// How many want to hear of keys that go by themselves.
    let listenerCount = Atomic<Int>(0)
    /// Keys that somebody has read, and by how many clients each, together.
    let readKeyCount = Atomic<Int>(0)
    let readerCount = Atomic<Int>(0)
    let audience = Guarded(Audience())
    /// Whether there is anybody in it.
    let hasAudience = Atomic<Bool>(false)
    /// What takes keys that are about to change, as long as a snapshot is written.
    var moment: Moment?
    /// What takes changes, as long as somebody writes them down.
    var changes: ChangeQueue?
  }

  /// Loops with clients that have copies of keys.
  private struct Audience {
    var queues: [(queue: InvalidationQueue, clientCount: Int)] = []
    /// Those of a queue follow each other.
    var prefixes: [(prefix: Prefix, clientCount: Int)] = []

    mutating func change(_ prefix: [UInt8], by difference: Int, _ queue: InvalidationQueue) {
      let known = prefixes.firstIndex { $0.prefix.queue === queue && $0.prefix.bytes == prefix }
      guard let known else {
        let place = prefixes.firstIndex { $0.prefix.queue === queue } ?? prefixes.endIndex
        return prefixes.insert((Prefix(bytes: prefix, queue: queue), difference), at: place)
      }
      prefixes[known].clientCount += difference
      if prefixes[known].clientCount == 0 { prefixes.remove(at: known) }
    }
  }

  /// How the keys begin of which somebody wants to hear.
  private struct Prefix {
    let bytes: [UInt8]
    let queue: InvalidationQueue
  }

  /// The keys of one shard that somebody watches or has read.
  private final class Table {
    var flags: [ObservedKey: [ChangeFlag]] = [:]
    /// How many of them each database has.
    var counts = [Int](repeating: 0, count: Store.databaseCount)
    /// By ascending identifiers of clients.
    var readers: [ObservedKey: [KeyReader]] = [:]
    var readCounts = [Int](repeating: 0, count: Store.databaseCount)
    var prefixes: [Prefix] = []

    var isEmpty: Bool { flags.isEmpty && readers.isEmpty && prefixes.isEmpty }
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

  private func table(_ shard: Int) -> Table {
    let place = unsafe state.pointee.tables + shard
    let table = unsafe place.pointee ?? Table()
    unsafe place.pointee = table
    return table
  }

  private func freeIfEmpty(_ shard: Int) {
    if unsafe state.pointee.tables[shard]?.isEmpty ?? false {
      unsafe state.pointee.tables[shard] = nil
    }
  }

  // MARK: Watching, under the lock of the key's shard

  /// Has `flag` raised when `key` changes.
  func watch(_ key: ObservedKey, hash: UInt64, _ flag: ChangeFlag, in keyspace: KeyspaceReference) {
    let table = table(Store.shardIndex(hash: hash))
    table.flags[key, default: []].append(flag)
    table.counts[key.database] += 1
    keyspace.insertObserver(.watcher)
  }

  /// Takes back what `watch` has done.
  func unwatch(
    _ key: ObservedKey, hash: UInt64, _ flag: ChangeFlag, in keyspace: KeyspaceReference
  ) {
    let shard = Store.shardIndex(hash: hash)
    guard let table = unsafe state.pointee.tables[shard], var flags = table.flags[key],
      let index = flags.firstIndex(where: { $0 === flag })
    else { return }
    flags.remove(at: index)
    table.flags[key] = flags.isEmpty ? nil : flags
    table.counts[key.database] -= 1
    if table.counts[key.database] == 0 { keyspace.removeObserver(.watcher) }
    freeIfEmpty(shard)
  }

  // MARK: Reading, under the lock of the key's shard

  /// Has `reader` told when `key` changes next.
  ///
  /// - Parameter keysMax: How many keys may be remembered, about; 0 for any number.
  func remember(
    _ key: ObservedKey, hash: UInt64, _ reader: KeyReader, keysMax: Int, in shard: Shard
  ) {
    let index = Store.shardIndex(hash: hash)
    if keysMax > 0 { _ = forgetReaders(in: shard, index, above: keysMax, steps: 2) }
    let table = table(index)
    guard let count = table.readers[key, default: []].insert(reader) else { return }
    unsafe state.pointee.readerCount.wrappingAdd(1, ordering: .relaxed)
    guard count == 1 else { return }
    unsafe state.pointee.readKeyCount.wrappingAdd(1, ordering: .relaxed)
    table.readCounts[key.database] += 1
    shard.keyspace(key.database).insertObserver(.reader)
  }

  /// Forgets keys of a shard that were read, whose readers are told as if they had changed, as long
  /// as there are too many in all shards.
  ///
  /// - Parameter steps: How many of them at most.
  /// - Returns: Whether there are too many still.
  func forgetReaders(in shard: Shard, _ index: Int, above keysMax: Int, steps: Int) -> Bool {
    for _ in 0..<steps {
      if readKeyCount <= keysMax { return false }
      guard let table = unsafe state.pointee.tables[index], let (key, _) = table.readers.first
      else { break }
      tellReaders(of: key, in: table, author: 0)
      if table.readCounts[key.database] == 0 {
        shard.keyspace(key.database).removeObserver(.reader)
      }
    }
    freeIfEmpty(index)
    return readKeyCount > keysMax
  }

  private func tellReaders(of key: ObservedKey, in table: Table, author: Int) {
    guard let readers = table.readers.removeValue(forKey: key) else { return }
    table.readCounts[key.database] -= 1
    unsafe state.pointee.readKeyCount.wrappingSubtract(1, ordering: .relaxed)
    unsafe state.pointee.readerCount.wrappingSubtract(readers.count, ordering: .relaxed)
    var told: [InvalidationQueue] = []
    for reader in readers where !told.contains(where: { $0 === reader.queue }) {
      told.append(reader.queue)
      reader.queue.add(.read(key.key, by: readers, author: author))
    }
  }

  /// Keys of which somebody may have a copy.
  var readKeyCount: Int { unsafe state.pointee.readKeyCount.load(ordering: .relaxed) }
  /// Copies that clients may have.
  var readerCount: Int { unsafe state.pointee.readerCount.load(ordering: .relaxed) }
  /// Different beginnings of keys of which somebody wants to hear.
  var prefixCount: Int {
    unsafe state.pointee.audience.withLock { Set($0.prefixes.map(\.prefix.bytes)).count }
  }

  // MARK: Who has copies at all

  /// Counts a client that has copies of keys; its loop is told when any key may have changed.
  func beginTracking(_ queue: InvalidationQueue) {
    unsafe state.pointee.audience.withLock { audience in
      if let index = audience.queues.firstIndex(where: { $0.queue === queue }) {
        audience.queues[index].clientCount += 1
      } else {
        audience.queues.append((queue, 1))
      }
      unsafe state.pointee.hasAudience.store(true, ordering: .relaxed)
    }
  }

  /// Takes back what `beginTracking` has done.
  ///
  /// - Returns: Whether nobody is left; then `forgetReadersIfAlone` is to be called.
  func endTracking(_ queue: InvalidationQueue) -> Bool {
    unsafe state.pointee.audience.withLock { audience in
      guard let index = audience.queues.firstIndex(where: { $0.queue === queue }) else {
        return false
      }
      audience.queues[index].clientCount -= 1
      if audience.queues[index].clientCount == 0 { audience.queues.remove(at: index) }
      unsafe state.pointee.hasAudience.store(!audience.queues.isEmpty, ordering: .relaxed)
      return audience.queues.isEmpty
    }
  }

  /// Forgets who has read what, for they have gone. The caller holds the locks of all shards.
  func forgetReadersIfAlone(in shards: ShardArray) {
    if unsafe !state.pointee.hasAudience.load(ordering: .relaxed) { forgetAllReaders(in: shards) }
  }

  /// Tells that any key may have changed. The caller holds the locks of all shards.
  func noteEverything(in shards: ShardArray) {
    guard unsafe state.pointee.hasAudience.load(ordering: .relaxed) else { return }
    forgetAllReaders(in: shards)
    unsafe state.pointee.audience.withLock { audience in
      for (queue, _) in audience.queues { queue.add(.everything) }
    }
  }

  private func forgetAllReaders(in shards: ShardArray) {
    if readKeyCount == 0 { return }
    for index in 0..<Store.shardCount {
      guard let table = unsafe state.pointee.tables[index], !table.readers.isEmpty else { continue }
      table.readers = [:]
      for database in 0..<Store.databaseCount where table.readCounts[database] > 0 {
        table.readCounts[database] = 0
        shards[index].keyspace(database).removeObserver(.reader)
      }
      freeIfEmpty(index)
    }
    unsafe state.pointee.readKeyCount.store(0, ordering: .relaxed)
    unsafe state.pointee.readerCount.store(0, ordering: .relaxed)
  }

  /// Counts one more or one less for each of `changed` who wants to hear of keys that begin like that.
  /// The caller holds the locks of all shards.
  func changeTrackers(
    of changed: [[UInt8]], by difference: Int, _ queue: InvalidationQueue, in shards: ShardArray
  ) {
    let prefixes = unsafe state.pointee.audience.withLock { audience in
      for prefix in changed { audience.change(prefix, by: difference, queue) }
      return audience.prefixes.map(\.prefix)
    }
    for index in 0..<Store.shardCount {
      table(index).prefixes = prefixes
      for database in 0..<shards[index].usedDatabaseCount {
        let keyspace = shards[index].keyspace(database)
        if prefixes.isEmpty {
          keyspace.removeObserver(.prefix)
        } else {
          keyspace.insertObserver(.prefix)
        }
      }
      freeIfEmpty(index)
    }
  }

  // MARK: Snapshots

  /// The moment that a snapshot is written of. To be changed under the locks of all shards.
  var moment: Moment? {
    get { unsafe state.pointee.moment }
    nonmutating set { unsafe state.pointee.moment = newValue }
  }

  /// Keeps a key as it is for the snapshot. Under the lock of its shard.
  func preserve(_ entry: Entry, database: Int, hasExpired: Bool) {
    unsafe state.pointee.moment?.preserve(entry, database: database, hasExpired: hasExpired)
  }

  /// Where changes are added that somebody writes down. To be changed under the locks of all shards.
  var changes: ChangeQueue? {
    get { unsafe state.pointee.changes }
    nonmutating set { unsafe state.pointee.changes = newValue }
  }

  // MARK: Changes, under the same lock

  /// Tells of a change of one key.
  ///
  /// - Parameter author: Identifier of the client that changes it; 0 for nobody.
  /// - Returns: Whether nobody has read any other key of the database in this shard.
  func note(_ key: Bytes, hash: UInt64, database: Int, author: Int) -> Bool {
    guard let table = unsafe state.pointee.tables[Store.shardIndex(hash: hash)] else { return true }
    let changed = ObservedKey(database: database, key: key.array)
    for flag in table.flags[changed] ?? [] { flag.raise() }
    if table.readCounts[database] > 0 { tellReaders(of: changed, in: table, author: author) }
    var told: InvalidationQueue?
    for prefix in table.prefixes
    where prefix.queue !== told && changed.key.starts(with: prefix.bytes) {
      told = prefix.queue
      prefix.queue.add(.prefixed(changed.key, author: author))
    }
    let isUnread = table.readCounts[database] == 0
    if isUnread { freeIfEmpty(Store.shardIndex(hash: hash)) }
    return isUnread
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
    /// Somebody has read one of its keys, and wants to hear when that changes.
    static let reader = Kinds(rawValue: 4)
    /// Somebody wants to hear of keys that begin in some way.
    static let prefix = Kinds(rawValue: 8)
    /// A snapshot has not got all of its keys yet.
    static let saver = Kinds(rawValue: 16)
    /// Somebody writes changes down.
    static let log = Kinds(rawValue: 32)
    /// Those that hold for all keyspaces of a store.
    static let storeWide: Kinds = [.listener, .prefix, .log]
    /// Those that are told by `KeyObservers.note`.
    static let noted: Kinds = [.watcher, .reader, .prefix]
  }
}

import Glibc
import Synchronization

/// Keys and values in memory, for use from any number of threads.
///
/// Keys and values are bytes, any content, up to 512 MiB each. A key can have a time to live, after
/// which it is gone. There are sixteen databases, 0...15, which share nothing but the memory.
///
///     let store = Store()
///     store.set("greeting", to: "hello", expiresIn: .seconds(60))
///     store.get("greeting")     // "hello"
///
/// Every operation is atomic, costs O(1) and holds one small lock for its time; operations on
/// different keys hardly ever wait for each other. The store consists of 1,024 shards, chosen by a
/// keyed hash (SipHash-1-3 under a random key), so nobody can aim many keys at one place.
///
/// A server keeps its keys in such a store (`Server.store`); both can be used at the same time.
@safe public final class Store: Sendable {
  static let shardBits = 10
  static let shardCount = 1 << shardBits

  /// How many databases there are; they are numbered from 0.
  public static let databaseCount = 16
  /// The longest key or value in bytes, 512 MiB.
  public static let lengthMax = 512 << 20

  let shards: ShardArray
  let memory: StorageContext

  /// An empty store. It takes 256 KiB.
  public init() {
    memory = StorageContext()
    shards = ShardArray()
  }

  /// O(shards and chunks), and what the system needs to take the memory back: no key is looked at.
  deinit {
    for index in 0..<Self.shardCount {
      for database in 0..<shard(index).usedDatabaseCount {
        shard(index).keyspace(database).freeLargeBlocks(memory.pool)
      }
    }
    shards.free()
    memory.end()
  }

  // MARK: Shards

  /// Which shard the keys with this hash belong to: its upper bits choose.
  @inline(__always)
  static func shardIndex(hash: UInt64) -> Int {
    Int(truncatingIfNeeded: hash &>> UInt64(64 - shardBits))
  }

  /// Shard `index`, 0..<`shardCount`.
  func shard(_ index: Int) -> Shard { shards[index] }

  /// The shard of the keys with this hash.
  @inline(__always)
  func shard(hash: UInt64) -> Shard { shards[hash: hash] }

  // MARK: Keys as bytes

  /// The value of `key`, nil when there is none.
  public func get(_ key: [UInt8], database: Int = 0) -> [UInt8]? {
    var long: (bytes: Bytes, block: SharedBlock)?
    let short: [UInt8]? = withKey(key, database) { keyspace, key, hash in
      guard let value = keyspace.use(key, hash: hash, now: .now, memory) else { return nil }
      guard case .long(let bytes, let block) = value else { return value.array }
      // Copied without the lock, as long as that takes.
      block.retain()
      long = (bytes, block)
      return nil
    }
    guard let long else { return short }
    defer { long.block.release() }
    return long.bytes.array
  }

  /// Sets `key` to `value`, replacing what it was, its time to live included.
  ///
  /// - Parameters:
  ///   - expiresIn: How long the key lives, from a millisecond up; nil for ever. Zero or less
  ///     removes the key.
  /// - Returns: False when the system has no memory for it; then nothing has changed.
  @discardableResult
  public func set(
    _ key: [UInt8], to value: [UInt8], expiresIn: Duration? = nil, database: Int = 0
  ) -> Bool {
    precondition(key.count <= Self.lengthMax && value.count <= Self.lengthMax, "too long")
    let deadline = expiresIn.map(Self.deadline)
    if let expiresIn, expiresIn <= .zero {
      delete(key, database: database)
      return true
    }
    if value.count <= LongValue.shortMax {
      return changeKey(key, database) { keyspace, key, hash in
        value.withBytes {
          keyspace.set(key, hash: hash, to: $0, deadline: deadline, now: .now, memory)
        }
      }
    }
    // Copied before the lock is taken.
    let copy = value.withBytes { LongValue(copying: $0, keyCount: key.count, memory.pool) }
    guard let copy else { return false }
    return changeKey(key, database) { keyspace, key, hash in
      keyspace.set(key, hash: hash, to: copy, deadline: deadline, now: .now, memory)
    }
  }

  /// Removes `key`.
  ///
  /// - Returns: Whether it was there.
  @discardableResult
  public func delete(_ key: [UInt8], database: Int = 0) -> Bool {
    changeKey(key, database) { keyspace, key, hash in
      keyspace.remove(key, hash: hash, now: .now, memory)
    }
  }

  /// Whether there is a value for `key`.
  public func exists(_ key: [UInt8], database: Int = 0) -> Bool {
    withKey(key, database) { keyspace, key, hash in
      keyspace.find(key, hash: hash, now: .now, memory) != nil
    }
  }

  /// Gives `key` a new time to live.
  ///
  /// - Parameter duration: How long the key lives from now on; nil for ever. Zero or less removes
  ///   the key.
  /// - Returns: Whether the key was there, and there was memory for a deadline.
  @discardableResult
  public func expire(_ key: [UInt8], in duration: Duration?, database: Int = 0) -> Bool {
    if let duration, duration <= .zero { return delete(key, database: database) }
    return changeKey(key, database) { keyspace, key, hash in
      keyspace.setDeadline(
        duration.map(Self.deadline), of: key, hash: hash, now: .now, memory) ?? false
    }
  }

  /// How long a key has still to live.
  public enum TimeToLive: Equatable, Sendable {
    /// There is no such key.
    case missing
    /// The key does not expire.
    case unlimited
    /// The key is gone after this time, exact to a millisecond.
    case remaining(Duration)
  }

  /// How long `key` has still to live.
  public func timeToLive(_ key: [UInt8], database: Int = 0) -> TimeToLive {
    let now = Timestamp.now
    return withKey(key, database) { keyspace, key, hash in
      guard let entry = keyspace.find(key, hash: hash, now: now, memory) else {
        return .missing
      }
      guard let deadline = entry.deadline else { return .unlimited }
      return .remaining(.milliseconds(deadline.milliseconds - now.milliseconds))
    }
  }

  // MARK: Keys as text

  /// The value of `key` as text, nil when there is none; bytes that are not UTF-8 are replaced.
  public func get(_ key: String, database: Int = 0) -> String? {
    get(Array(key.utf8), database: database).map { String(decoding: $0, as: UTF8.self) }
  }

  /// Sets `key` to `value`; see the same method for bytes.
  @discardableResult
  public func set(
    _ key: String, to value: String, expiresIn: Duration? = nil, database: Int = 0
  ) -> Bool {
    set(Array(key.utf8), to: Array(value.utf8), expiresIn: expiresIn, database: database)
  }

  /// Removes `key`; see the same method for bytes.
  @discardableResult
  public func delete(_ key: String, database: Int = 0) -> Bool {
    delete(Array(key.utf8), database: database)
  }

  /// Whether there is a value for `key`.
  public func exists(_ key: String, database: Int = 0) -> Bool {
    exists(Array(key.utf8), database: database)
  }

  /// Gives `key` a new time to live; see the same method for bytes.
  @discardableResult
  public func expire(_ key: String, in duration: Duration?, database: Int = 0) -> Bool {
    expire(Array(key.utf8), in: duration, database: database)
  }

  /// How long `key` has still to live.
  public func timeToLive(_ key: String, database: Int = 0) -> TimeToLive {
    timeToLive(Array(key.utf8), database: database)
  }

  // MARK: The whole store

  /// The number of keys in `database`, those included that have expired and were not yet collected.
  ///
  /// O(shards). Shards are counted one after the other, so keys that come and go meanwhile may or
  /// may not be counted.
  public func count(database: Int = 0) -> Int {
    census(databases: database...database).keys
  }

  /// Bytes that tables, keys and values take.
  public var allocatedBytes: Int {
    census().bytes
  }

  /// Removes all keys of `database`, at one moment for everybody. O(keys) to free them.
  public func removeAll(database: Int = 0) {
    _ = takeAll(databases: database...database)
  }

  /// Removes keys whose time to live is over; without it they go when somebody asks for them.
  ///
  /// A server does this by itself. Call it now and then for a store of your own, as often as you
  /// like: one call takes each lock for microseconds only.
  ///
  /// - Returns: How many keys were removed.
  @discardableResult
  public func removeExpired() -> Int {
    let now = Timestamp.now
    var removed = 0
    for index in 0..<Self.shardCount {
      let shard = shard(index)
      for database in 0..<Self.databaseCount {
        // Another walk may be under way: the first round ends it, the second one is our own.
        for _ in 0..<2 {
          var isAtEnd = false
          while !isAtEnd {
            // Locked for one segment at a time.
            shard.withLock {
              guard let keyspace = shard.keyspaceIfUsed(database) else {
                isAtEnd = true
                return
              }
              let step = keyspace.sweepSegments(now: now, memory)
              removed += step.removed
              isAtEnd = step.isAtEnd
            }
          }
        }
      }
    }
    return removed
  }

  /// What a database holds.
  struct Census {
    var keys = 0
    var expiring = 0
    var expired = 0
    /// How often keys have been changed by commands.
    var changes = 0
    /// Bytes of tables and entries.
    var bytes = 0
    var tableBytes = 0
    var entries = EntryArena.Usage()
  }

  /// Adds up what is in these databases, shard by shard. O(shards).
  ///
  /// - Parameter isLocked: Whether the caller holds the locks of all shards.
  func census(
    databases: ClosedRange<Int> = 0...databaseCount - 1, isLocked: Bool = false
  ) -> Census {
    var census = Census()
    for index in 0..<Self.shardCount {
      let shard = shard(index)
      shard.withLock(unless: isLocked) {
        for database in databases {
          guard let keyspace = shard.keyspaceIfUsed(database) else { continue }
          census.keys += keyspace.count
          census.expiring += keyspace.expiringCount
          census.expired += keyspace.expiredCount
          census.changes += keyspace.changeCount
          census.bytes += keyspace.allocatedBytes
          census.tableBytes += keyspace.tableBytes
          census.entries += keyspace.entryUsage
        }
      }
    }
    return census
  }

  /// Counts expired and evicted keys, and times of steps, from nothing again.
  func resetStatistics(isLocked: Bool = false) {
    for index in 0..<Self.shardCount {
      let shard = shard(index)
      shard.withLock(unless: isLocked) {
        for database in 0..<shard.usedDatabaseCount {
          shard.keyspace(database).resetStatistics()
        }
      }
    }
    memory.steps.reset()
    memory.eviction.resetStatistics()
  }

  /// Keyspaces that have been taken out of the store; their memory is freed by `free`, or with this
  /// object.
  @safe final class RemovedKeyspaces: Sendable {
    /// Kept alive, for it owns the memory.
    private let store: Store
    // SAFETY: both filled before the object is shared; then the one touched by `free` alone, the other
    // one by who reads the moment that its keys belong to.
    nonisolated(unsafe) private var keyspaces: [UnsafeMutablePointer<Keyspace>] =
      unsafe []
    nonisolated(unsafe) private var unsaved: [UnsafeMutablePointer<Keyspace>] =
      unsafe []
    nonisolated(unsafe) private var cursor: UInt64 = 0

    fileprivate init(of store: Store) { self.store = store }

    fileprivate func add(_ keyspace: consuming Keyspace) {
      let pointer = UnsafeMutablePointer<Keyspace>.allocate(capacity: 1)
      store.memory.pool.countLeaving(keyspace.allocatedBytes)
      let isSaved = !keyspace.observers.contains(.saver)
      unsafe pointer.initialize(to: keyspace)
      if isSaved { unsafe keyspaces.append(pointer) } else { unsafe unsaved.append(pointer) }
    }

    /// Whether there are keys that a snapshot has not got yet.
    fileprivate var hasUnsaved: Bool { unsafe !unsaved.isEmpty }

    /// Calls `body` with some keys that the snapshot has not got yet, and frees keyspaces of which it
    /// has all.
    ///
    /// - Returns: Whether these were the last ones.
    func saveNext(_ body: (Entry, _ database: Int) -> Bool) -> Bool {
      guard let pointer = unsafe unsaved.last else { return true }
      let database = unsafe Int(pointer.pointee.savedDatabase)
      unsafe cursor = pointer.pointee.saveSegment(at: cursor) { body($0, database) }
      if unsafe cursor == 0 {
        unsafe unsaved.removeLast()
        unsafe free(pointer)
      }
      return !hasUnsaved
    }

    /// Frees everything now, in the calling thread. Only one thread may call it.
    ///
    /// O(chunks and segments): 100 ns for some hundred keys.
    ///
    /// - Parameter pause: Made after each keyspace.
    func free(_ pause: Background.Pause = .none) {
      while let pointer = unsafe keyspaces.popLast() {
        unsafe free(pointer)
        pause()
      }
    }

    @unsafe private func free(_ pointer: UnsafeMutablePointer<Keyspace>) {
      let bytes = unsafe pointer.pointee.allocatedBytes
      unsafe pointer.pointee.removeAll(store.memory.pool)
      store.memory.pool.countLeaving(-bytes)
      unsafe pointer.deinitialize(count: 1)
      unsafe pointer.deallocate()
    }

    deinit {
      free()
      while let pointer = unsafe unsaved.popLast() { unsafe free(pointer) }
    }
  }

  /// Makes room for so many keys in an empty database, so that its tables need not grow for them.
  func reserve(_ keys: Int, database: Int) {
    // Evenly spread; a shard with a few more grows.
    let share = keys / Self.shardCount
    if share == 0 { return }
    for index in 0..<Self.shardCount {
      let shard = shard(index)
      shard.withLock { shard.keyspace(database).reserve(share, memory.pool) }
    }
  }

  /// Gives back room that was made for keys that have not come.
  func freeUnused() {
    for index in 0..<Self.shardCount {
      let shard = shard(index)
      shard.withLock {
        for database in 0..<shard.usedDatabaseCount {
          shard.keyspace(database).freeUnused(memory)
        }
      }
    }
  }

  /// Empties `databases` at one moment for everybody, and returns what was in them.
  ///
  /// The locks are held for the time of exchanging pointers; freeing is left to the caller.
  ///
  /// - Parameters:
  ///   - isLocked: Whether the caller holds them already.
  ///   - context: By which keys go that have expired.
  func takeAll(
    databases: ClosedRange<Int>, isLocked: Bool = false, by context: StorageContext? = nil
  ) -> RemovedKeyspaces {
    let removed = RemovedKeyspaces(of: self)
    if !isLocked { lockAll() }
    log(by: context ?? memory, isLocked: isLocked, database: databases.lowerBound) { output in
      let isAll = databases.count == Self.databaseCount
      output.bytes.append(
        literal: isAll ? "*1\r\n$8\r\nFLUSHALL\r\n" : "*1\r\n$7\r\nFLUSHDB\r\n")
    }
    for index in 0..<Self.shardCount {
      let shard = shard(index)
      for database in databases {
        guard let keyspace = shard.keyspaceIfUsed(database), keyspace.count > 0 else { continue }
        noteAll(index, database, in: [keyspace], by: context ?? memory)
        removed.add(keyspace.takeAll())
      }
    }
    memory.observers.noteEverything(in: shards)
    if removed.hasUnsaved { memory.observers.moment?.adopt(removed) }
    if !isLocked { unlockAll() }
    return removed
  }

  /// Exchanges two databases at one moment for everybody.
  ///
  /// - Parameter context: By which keys go that have expired.
  func swap(_ first: Int, _ second: Int, isLocked: Bool, by context: StorageContext) {
    if first == second { return }
    if !isLocked { lockAll() }
    for index in 0..<Self.shardCount {
      let shard = shard(index)
      if shard.keyspaceIfUsed(first) == nil, shard.keyspaceIfUsed(second) == nil { continue }
      let both = [shard.keyspace(first), shard.keyspace(second)]
      for database in [first, second] { noteAll(index, database, in: both, by: context) }
    }
    // Behind what has expired in either.
    log(by: context, isLocked: isLocked, database: first) { output in
      output.bytes.append(literal: "*3\r\n$6\r\nSWAPDB\r\n")
      output.bytes.append(bulkNumber: first)
      output.bytes.append(bulkNumber: second)
    }
    for index in 0..<Self.shardCount {
      let shard = shard(index)
      if shard.keyspaceIfUsed(first) == nil, shard.keyspaceIfUsed(second) == nil { continue }
      shard.keyspace(first).swap(with: shard.keyspace(second))
    }
    memory.observers.noteEverything(in: shards)
    if !isLocked { unlockAll() }
  }

  /// Has a command written down that is about to change many keys. Under the locks of all shards.
  ///
  /// - Parameter isLocked: Whether the caller holds them, for it is not the only command of its kind.
  private func log(
    by context: StorageContext, isLocked: Bool, database: Int,
    _ write: (inout OutputBuffer) -> Void
  ) {
    guard let changes = memory.observers.changes else { return }
    var record = OutputBuffer()
    write(&record)
    // Whoever waits for changes to be on the disk waits for this one, too.
    if context.recorder != nil { context.hasChanges = true }
    if isLocked, let recorder = context.recorder {
      recorder.record(&record, database: database)
    } else {
      changes.append(&record, first: database, last: database)
    }
  }

  /// Bytes of copies that wait for a snapshot to take them.
  var snapshotWaitingBytes: Int {
    // Whoever holds one lock may look at the moment.
    shard(0).withLock { memory.observers.moment }?.waitingBytes ?? 0
  }

  // MARK: Who writes changes down

  /// Where changes are added that somebody writes down; nil when nobody does.
  var changeQueue: ChangeQueue? {
    // Whoever holds one lock may look.
    shard(0).withLock { memory.observers.changes }
  }

  /// Has all changes added to a queue from now on, or to none any more.
  ///
  /// O(shards).
  ///
  /// - Parameter isLocked: Whether the caller holds the locks of all shards.
  func setChangeQueue(_ queue: ChangeQueue?, isLocked: Bool) {
    if !isLocked { lockAll() }
    memory.observers.changes = queue
    for index in 0..<Self.shardCount {
      let shard = shard(index)
      for database in 0..<Self.databaseCount {
        guard let keyspace = shard.keyspaceIfUsed(database) else { break }
        if queue == nil {
          keyspace.removeObserver(.log)
        } else {
          keyspace.insertObserver(.log)
        }
      }
    }
    if !isLocked { unlockAll() }
  }

  /// Has all keyspaces tell of keys that expire or are evicted as long as anybody wants to hear it.
  ///
  /// - Parameter difference: 1 for one more who does, -1 for one less.
  func changeListeners(by difference: Int) {
    let isWanted = memory.observers.changeListeners(by: difference)
    for index in 0..<Self.shardCount {
      let shard = shard(index)
      shard.withLock {
        for database in 0..<Self.databaseCount {
          guard let keyspace = shard.keyspaceIfUsed(database) else { continue }
          if isWanted {
            keyspace.insertObserver(.listener)
          } else {
            keyspace.removeObserver(.listener)
          }
        }
      }
    }
  }

  // MARK: Clients with copies of keys

  /// Has a loop told of keys that its clients have read, and whose copies become invalid.
  func beginTracking(_ queue: InvalidationQueue) { memory.observers.beginTracking(queue) }

  /// Takes back what `beginTracking` has done. O(1); behind the last one O(shards), and
  /// O(keys read) to free what was remembered.
  ///
  /// - Parameter isLocked: Whether the caller holds the locks of all shards.
  func endTracking(_ queue: InvalidationQueue, isLocked: Bool) {
    guard memory.observers.endTracking(queue) else { return }
    if !isLocked { lockAll() }
    memory.observers.forgetReadersIfAlone(in: shards)
    if !isLocked { unlockAll() }
  }

  /// Counts one more (1) or one less (-1) for each of `prefixes` who wants to hear of keys that begin
  /// like that.
  ///
  /// O(shards × prefixes).
  ///
  /// - Parameter isLocked: Whether the caller holds the locks of all shards.
  func changeTrackers(
    of prefixes: [[UInt8]], by difference: Int, _ queue: InvalidationQueue, isLocked: Bool
  ) {
    if prefixes.isEmpty { return }
    if !isLocked { lockAll() }
    memory.observers.changeTrackers(of: prefixes, by: difference, queue, in: shards)
    if !isLocked { unlockAll() }
  }

  /// Forgets who has read keys that are too many; those are told as if the keys had changed.
  ///
  /// O(shards): some of each a call.
  ///
  /// - Parameter keysMax: 0 for any number.
  func limitReadKeys(to keysMax: Int) {
    if keysMax == 0 || memory.observers.readKeyCount <= keysMax { return }
    for index in 0..<Self.shardCount {
      let shard = shard(index)
      let isAbove = shard.withLock {
        memory.observers.forgetReaders(
          in: shard, index, above: keysMax, steps: Self.forgottenReadKeysMax)
      }
      if !isAbove { return }
    }
  }

  private static let forgottenReadKeysMax = 64

  /// Tells those who watch keys of a database that all of them change which are in `keyspaces`.
  private func noteAll(
    _ shard: Int, _ database: Int, in keyspaces: [KeyspaceReference], by context: StorageContext
  ) {
    guard keyspaces.contains(where: { !$0.observers.isEmpty }) else { return }
    let now = Timestamp.now
    memory.observers.noteAll(shard: shard, database: database) { watched in
      watched.key.withBytes { key in
        let hash = memory.hashing.hash(key)
        return keyspaces.contains { $0.find(key, hash: hash, now: now, context) != nil }
      }
    }
  }

  func lockAll() { ShardSet.all.lock(in: shards) }
  func unlockAll() { ShardSet.all.unlock(in: shards) }

  /// Stops the process if an invariant of the store does not hold. For tests.
  func checkInvariants() {
    for index in 0..<Self.shardCount {
      let shard = shard(index)
      shard.withLock {
        for database in 0..<Self.databaseCount {
          shard.keyspaceIfUsed(database)?.checkInvariants(hashing: memory.hashing)
        }
      }
    }
  }

  // MARK: Helpers

  private static func deadline(_ duration: Duration) -> Timestamp {
    let parts = duration.components
    let (milliseconds, overflow) = Int(parts.seconds).multipliedReportingOverflow(by: 1000)
    let fraction = Int(parts.attoseconds / 1_000_000_000_000_000)
    let (sum, carry) = (overflow ? Int.max : milliseconds).addingReportingOverflow(fraction)
    let (moment, late) = Timestamp.now.milliseconds.addingReportingOverflow(carry ? Int.max : sum)
    return Timestamp(milliseconds: late ? Int.max : moment)
  }

  /// The same for a `body` that changes the key.
  private func changeKey<Result>(
    _ key: [UInt8], _ database: Int, _ body: (KeyspaceReference, Bytes, UInt64) -> Result
  ) -> Result {
    withKey(key, database) { keyspace, bytes, hash in
      let result = body(keyspace, bytes, hash)
      if keyspace.observers.contains(.log), let changes = memory.observers.changes {
        // The bytes of the key may have gone into the store with a long value.
        key.withBytes { key in
          let entry = keyspace.find(key, hash: hash, now: .never, memory)
          changes.appendState(of: key, entry, database: database)
        }
      }
      return result
    }
  }

  /// Calls `body` with the keyspace of `key`, under its shard's lock.
  @inline(__always)
  private func withKey<Result>(
    _ key: [UInt8], _ database: Int, _ body: (KeyspaceReference, Bytes, UInt64) -> Result
  ) -> Result {
    precondition(database >= 0 && database < Self.databaseCount, "no such database")
    return key.withBytes { bytes in
      let hash = memory.hashing.hash(bytes)
      let shard = shard(hash: hash)
      return shard.withLock { body(shard.keyspace(database), bytes, hash) }
    }
  }
}

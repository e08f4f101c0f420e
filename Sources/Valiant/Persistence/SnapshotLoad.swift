import Synchronization

/// Reads a snapshot into a store, on several threads.
///
/// They take turns at the file: one finds where the next records end and copies them, while the others
/// put what they have got into the store.
final class SnapshotLoad: Sendable {
  /// Bytes of the file.
  let byteCount: Int
  private let store: Store
  private let turn: Guarded<Turn>
  private let readBytes = Atomic<Int>(0)
  private let keys = Atomic<Int>(0)
  private let expired = Atomic<Int>(0)

  private final class Turn {
    var reader: RDBReader
    var failure: RDBError?

    init(_ reader: consuming RDBReader) { self.reader = reader }
  }

  /// - Throws: When the file cannot be read, or is no snapshot.
  init(_ path: String, into store: Store) throws(RDBError) {
    let reader = try RDBReader(path)
    byteCount = reader.byteCount
    self.store = store
    turn = Guarded(Turn(reader))
  }

  /// Bytes of the file that have been read.
  var readByteCount: Int { readBytes.load(ordering: .relaxed) }
  /// Keys that have been put into the store, and those that were over already.
  var keyCount: Int { keys.load(ordering: .relaxed) }
  var expiredCount: Int { expired.load(ordering: .relaxed) }

  /// Reads everything. To be called once.
  ///
  /// - Parameters:
  ///   - threads: How many share the work, 1 or more.
  ///   - access: How uses of entries are noted.
  /// - Throws: What is wrong with the file, and where; then the store holds some of it.
  func run(threads: Int, access: AccessTracking = AccessTracking()) throws(RDBError) {
    Background.share(among: threads) { self.work(access) }
    if let failure = turn.withLock({ $0.failure }) { throw failure }
  }

  private func work(_ access: AccessTracking) {
    let memory = store.memory.copy()
    defer { memory.free() }
    memory.access = access
    var chunk = RDBReader.Chunk()
    while take(&chunk) {
      var inserter = RecordInserter(store, memory, database: chunk.database)
      if let problem = inserter.insert(chunk.bytes.bytes) { fail(problem) }
      keys.wrappingAdd(inserter.keyCount, ordering: .relaxed)
      expired.wrappingAdd(inserter.expiredCount, ordering: .relaxed)
    }
  }

  /// - Returns: False when there are no more, or something is wrong.
  private func take(_ chunk: inout RDBReader.Chunk) -> Bool {
    var taken = RDBReader.Chunk()
    swap(&taken, &chunk)
    defer { swap(&taken, &chunk) }
    return turn.withLock { turn in
      if turn.failure != nil { return false }
      do throws(RDBError) {
        defer { readBytes.store(turn.reader.offset, ordering: .relaxed) }
        return try turn.reader.next(&taken)
      } catch {
        turn.failure = error
        return false
      }
    }
  }

  private func fail(_ text: String) {
    turn.withLock { turn in
      if turn.failure == nil { turn.failure = turn.reader.failure(text) }
    }
  }
}

/// Puts the records of a chunk into a store.
///
/// They are taken in groups: before the first of one is put anywhere, the processor is asked for the
/// memory that all of them need.
private struct RecordInserter {
  private let store: Store
  private let memory: StorageContext
  private let database: Int
  private let now = Timestamp.now
  private let wallOffset = Clock.wallOffsetMilliseconds
  private(set) var keyCount = 0
  private(set) var expiredCount = 0

  private static let groupSize = 16

  init(_ store: Store, _ memory: StorageContext, database: Int) {
    self.store = store
    self.memory = memory
    self.database = database
  }

  /// - Returns: What is wrong with a record; nil when they are all in the store.
  mutating func insert(_ bytes: Bytes) -> String? {
    var reader = SerializedReader(bytes)
    var group: [(key: Bytes, hash: UInt64, record: RDBRecord)] = []
    group.reserveCapacity(Self.groupSize)
    while reader.consumed < bytes.count {
      guard let record = try? RDBReader.record(&reader) else { return RDBReader.damaged }
      if case .plain(let key) = record.key {
        let hash = memory.hashing.hash(key)
        let shard = store.shard(hash: hash)
        shard.withLock { shard.keyspace(database).prefetchSlot(hash: hash) }
        group.append((key, hash, record))
        if group.count == Self.groupSize, let problem = insert(&group) { return problem }
        continue
      }
      let problem: String?? = record.key.withBytes { key in
        insert(key, memory.hashing.hash(key), record)
      }
      guard let problem else { return RDBReader.damaged }
      if let problem { return problem }
    }
    return insert(&group)
  }

  private mutating func insert(
    _ group: inout [(key: Bytes, hash: UInt64, record: RDBRecord)]
  ) -> String? {
    for item in group {
      if let problem = insert(item.key, item.hash, item.record) { return problem }
    }
    group.removeAll(keepingCapacity: true)
    return nil
  }

  private mutating func insert(_ key: Bytes, _ hash: UInt64, _ record: RDBRecord) -> String? {
    var deadline: Timestamp?
    if let milliseconds = record.deadline {
      let moment = Timestamp(milliseconds: milliseconds &- wallOffset)
      if moment < now {
        expiredCount += 1
        return nil
      }
      deadline = moment
    }
    keyCount += 1
    let isSet: Bool?
    switch record.value {
    case .number(let number):
      isSet = inShard(hash) {
        $0.set(key, hash: hash, to: number, deadline: deadline, now: now, memory)
      }
    case .plain, .compressed:
      isSet = record.value.withBytes { value in set(key, hash, to: value, deadline) }
    }
    guard let isSet else { return RDBReader.damaged }
    if !isSet { return "there is no memory for all of it" }
    if record.idleSeconds != nil || record.frequency != nil {
      inShard(hash) { keyspace in
        keyspace.find(key, hash: hash, now: now, memory)?.access = memory.access.restored(
          idleSeconds: record.idleSeconds, frequency: record.frequency)
      }
    }
    return nil
  }

  private func set(_ key: Bytes, _ hash: UInt64, to value: Bytes, _ deadline: Timestamp?) -> Bool {
    if value.count <= LongValue.shortMax {
      return inShard(hash) {
        $0.set(key, hash: hash, to: value, deadline: deadline, now: now, memory)
      }
    }
    // Copied before the lock is taken.
    guard let copy = LongValue(copying: value, keyCount: key.count, memory.pool) else {
      return false
    }
    return inShard(hash) {
      $0.set(key, hash: hash, to: copy, deadline: deadline, now: now, memory)
    }
  }

  @inline(__always)
  private func inShard<Result>(_ hash: UInt64, _ body: (KeyspaceReference) -> Result) -> Result {
    let shard = store.shard(hash: hash)
    return shard.withLock { body(shard.keyspace(database)) }
  }
}

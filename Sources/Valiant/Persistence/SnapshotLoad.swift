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
  private let cancelled = Atomic<Bool>(false)

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

  /// Where the snapshot ends in the file, behind `run`.
  var endOffset: Int { turn.withLock { $0.reader.endOffset } }

  /// Bytes of the file that have been read.
  var readByteCount: Int { readBytes.load(ordering: .relaxed) }
  /// Keys that have been put into the store, and those that were over already.
  var keyCount: Int { keys.load(ordering: .relaxed) }
  var expiredCount: Int { expired.load(ordering: .relaxed) }

  /// Has it end early, as if something were wrong.
  func cancel() { cancelled.store(true, ordering: .relaxed) }
  var isCancelled: Bool { cancelled.load(ordering: .relaxed) }

  /// Reads everything. To be called once.
  ///
  /// - Parameters:
  ///   - threads: How many share the work, 1 or more.
  ///   - access: How uses of entries are noted.
  ///   - keepsExpired: Whether keys are put into the store whose time to live is over.
  ///   - isAlone: Whether the store is empty, and nobody else uses it.
  /// - Throws: What is wrong with the file, and where; then the store holds some of it.
  func run(
    threads: Int, access: AccessTracking = AccessTracking(), keepsExpired: Bool = false,
    isAlone: Bool = false
  ) throws(RDBError) {
    Background.share(among: threads) { self.work(access, keepsExpired) }
    store.freeUnused()
    if let failure = turn.withLock({ $0.failure }) { throw failure }
    // Redis refuses it, too: nobody can say which value is the right one.
    if isAlone, store.census().keys < keyCount {
      throw turn.withLock { $0.reader.failure("a key is there twice") }
    }
  }

  private func work(_ access: AccessTracking, _ keepsExpired: Bool) {
    let memory = store.memory.copy()
    defer { memory.free() }
    memory.access = access
    var chunk = RDBReader.Chunk()
    var inserter = RecordInserter(store, memory, keepsExpired: keepsExpired)
    while take(&chunk) {
      let before = (inserter.keyCount, inserter.expiredCount)
      if let problem = inserter.insert(chunk.bytes.bytes, database: chunk.database) {
        fail(problem)
      }
      keys.wrappingAdd(inserter.keyCount - before.0, ordering: .relaxed)
      expired.wrappingAdd(inserter.expiredCount - before.1, ordering: .relaxed)
    }
  }

  /// - Returns: False when there are no more, or something is wrong.
  private func take(_ chunk: inout RDBReader.Chunk) -> Bool {
    var taken = RDBReader.Chunk()
    swap(&taken, &chunk)
    defer { swap(&taken, &chunk) }
    return turn.withLock { turn in
      if turn.failure != nil { return false }
      if isCancelled {
        turn.failure = turn.reader.failure("reading it was cancelled")
        return false
      }
      do throws(RDBError) {
        defer { readBytes.store(turn.reader.offset, ordering: .relaxed) }
        return try turn.reader.next(&taken) { store.reserve($0, database: $1) }
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

/// Puts the records of chunks into a store.
///
/// Those of a chunk are sorted by shard first. A shard's table and the end of its entries fit into a
/// near cache; taken in the order of the file, each record would have to wait for memory five times.
@safe private struct RecordInserter {
  private let store: Store
  private let memory: StorageContext
  private let keepsExpired: Bool
  private let now = Timestamp.now
  private let wallOffset = Clock.wallOffsetMilliseconds
  private(set) var keyCount = 0
  private(set) var expiredCount = 0
  private var found: [Place] = []
  private var sorted: [Place] = []

  /// A record of a chunk.
  private struct Place {
    let hash: UInt64
    /// Where it begins.
    let offset: Int

    var shard: Int { Store.shardIndex(hash: hash) }
  }

  /// So far ahead the processor is asked for records.
  private static let ahead = 8

  init(_ store: Store, _ memory: StorageContext, keepsExpired: Bool) {
    self.keepsExpired = keepsExpired
    self.store = store
    self.memory = memory
  }

  /// - Returns: What is wrong with a record; nil when they are all in the store.
  mutating func insert(_ bytes: Bytes, database: Int) -> String? {
    guard sort(bytes) else { return RDBReader.damaged }
    var index = 0
    while index < sorted.count {
      let shard = store.shard(sorted[index].shard)
      let problem = shard.withLock { () -> String? in
        let keyspace = shard.keyspace(database)
        let number = sorted[index].shard
        for next in index..<index + Self.ahead { prefetch(bytes, next, number, keyspace) }
        while index < sorted.count, sorted[index].shard == number {
          prefetch(bytes, index + Self.ahead, number, keyspace)
          let place = sorted[index]
          var reader = SerializedReader(bytes.dropFirst(place.offset))
          guard let record = try? RDBReader.record(&reader) else { return RDBReader.damaged }
          let problem: String??
          if case .plain(let key) = record.key {
            problem = insert(key, place.hash, record, keyspace, database)
          } else {
            problem = record.key.withBytes {
              insert($0, place.hash, record, keyspace, database)
            }
          }
          guard let problem else { return RDBReader.damaged }
          if let problem { return problem }
          index += 1
        }
        return nil
      }
      if let problem { return problem }
    }
    return nil
  }

  /// Asks the processor for a record and, while `keyspace` of `shard` is locked, for its place in it.
  @inline(__always)
  private func prefetch(
    _ bytes: Bytes, _ index: Int, _ shard: Int, _ keyspace: KeyspaceReference
  ) {
    if index >= sorted.count { return }
    let place = sorted[index]
    if place.shard == shard { keyspace.prefetchSlot(hash: place.hash) }
    let record = bytes.dropFirst(place.offset)
    // SAFETY: an address is all that is asked for.
    unsafe Processor.prefetch(UnsafeRawPointer(record.pointer))
    unsafe Processor.prefetch(UnsafeRawPointer(record.pointer) + 64)
  }

  /// Finds the records and sorts them by shard.
  ///
  /// - Returns: False when there is something else.
  private mutating func sort(_ bytes: Bytes) -> Bool {
    found.removeAll(keepingCapacity: true)
    var counts = [Int](repeating: 0, count: Store.shardCount + 1)
    var reader = SerializedReader(bytes)
    while reader.consumed < bytes.count {
      let offset = reader.consumed
      guard let record = try? RDBReader.record(&reader) else { return false }
      let hash: UInt64?
      if case .plain(let key) = record.key {
        hash = memory.hashing.hash(key)
      } else {
        hash = record.key.withBytes { memory.hashing.hash($0) }
      }
      guard let hash else { return false }
      let place = Place(hash: hash, offset: offset)
      found.append(place)
      counts[place.shard + 1] += 1
    }
    for shard in 1..<counts.count { counts[shard] += counts[shard - 1] }
    sorted.removeAll(keepingCapacity: true)
    sorted.append(contentsOf: found)
    for place in found {
      sorted[counts[place.shard]] = place
      counts[place.shard] += 1
    }
    return true
  }

  /// Somebody writes down what is put into the store.
  @inline(never)
  private func log(_ key: Bytes, _ hash: UInt64, _ keyspace: KeyspaceReference, _ database: Int) {
    guard let changes = memory.observers.changes else { return }
    let entry = keyspace.find(key, hash: hash, now: .never, memory)
    changes.appendState(of: key, entry, database: database)
  }

  @inline(__always)
  private mutating func insert(
    _ key: Bytes, _ hash: UInt64, _ record: RDBRecord, _ keyspace: KeyspaceReference,
    _ database: Int
  ) -> String? {
    var deadline: Timestamp?
    if let milliseconds = record.deadline {
      let moment = Timestamp(milliseconds: milliseconds.addingClamped(-wallOffset))
      if moment < now, !keepsExpired {
        expiredCount += 1
        return nil
      }
      deadline = moment
    }
    keyCount += 1
    let isSet: Bool?
    switch record.value {
    case .number(let number):
      isSet = keyspace.set(key, hash: hash, to: number, deadline: deadline, now: now, memory)
    case .plain(let value):
      isSet = keyspace.set(key, hash: hash, to: value, deadline: deadline, now: now, memory)
    case .compressed:
      isSet = record.value.withBytes {
        keyspace.set(key, hash: hash, to: $0, deadline: deadline, now: now, memory)
      }
    }
    guard let isSet else { return RDBReader.damaged }
    if !isSet { return "there is no memory for all of it" }
    if record.idleSeconds != nil || record.frequency != nil {
      keyspace.find(key, hash: hash, now: .never, memory)?.access = memory.access.restored(
        idleSeconds: record.idleSeconds, frequency: record.frequency)
    }
    if keyspace.observers.contains(.log) { log(key, hash, keyspace, database) }
    return nil
  }
}

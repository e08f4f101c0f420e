/// What a handler may touch: its request, its client, the keys it named, the reply.
///
/// The dispatcher holds the locks of those keys' shards for as long as the handler runs, so a
/// handler is written as if there were one thread. It belongs to one loop.
@safe struct CommandContext: ~Copyable {
  // SAFETY: a dispatcher ends with its loop, before worker and server (and so the store) do.
  private unowned(unsafe) let serverReference: Server
  private unowned(unsafe) let workerReference: Worker
  private let shards: ShardArray
  /// With this loop's way of noting uses of entries.
  fileprivate(set) var memory: StorageContext

  /// The command that runs, its arguments and who sent it.
  fileprivate(set) var row: UnsafePointer<CommandTable.Row>
  var request: Request
  var client: Client
  var connection: Connection
  /// The time of all commands of one batch.
  var now = Timestamp(milliseconds: 0)
  /// Where the answer goes.
  var reply = ReplyWriter()
  /// Most bytes that the store may take; `Int.max` for no limit.
  private(set) var memoryMax = Int.max
  private var accessMilliseconds = Int.min / 2
  private var settingsGeneration = -1
  fileprivate var hashes = KeyHashes()
  private let statistics: Statistics

  init(server: Server, worker: Worker, idle: Request, client: Client, connection: Connection) {
    unsafe serverReference = server
    unsafe workerReference = worker
    shards = server.store.shards
    memory = server.store.memory
    unsafe row = CommandTable.shared.rows
    request = idle
    self.client = client
    self.connection = connection
    statistics = worker.statistics
  }

  var server: Server { unsafe serverReference }
  var worker: Worker { unsafe workerReference }

  var command: Command { unsafe row.pointee.command }

  /// The settings as this loop knows them.
  var settings: Settings { worker.settings }

  // MARK: Keys

  /// A key whose shard is locked.
  @safe struct LockedKey {
    let keyspace: KeyspaceReference
    let bytes: Bytes
    let hash: UInt64
  }

  /// The key that argument `index` names.
  @inline(__always)
  func key(_ index: Int) -> LockedKey {
    let hash = hashes[index]
    return LockedKey(
      keyspace: shards[hash: hash].keyspace(client.database), bytes: request[index],
      hash: hash)
  }

  /// The entry of the key that argument `index` names; nil when there is none.
  @inline(__always)
  func entry(_ index: Int) -> Entry? {
    let key = key(index)
    return key.keyspace.find(key.bytes, hash: key.hash, now: now, memory)
  }

  /// The string that argument `index` is the key of; nil when there is none.
  ///
  /// - Throws: `wrongType` when the key holds something else.
  @inline(__always)
  func string(_ index: Int) throws(CommandError) -> Value? {
    stringIfAny(index)
  }

  /// The same for who takes any other type for no value at all.
  @inline(__always)
  func stringIfAny(_ index: Int) -> Value? {
    let key = key(index)
    guard let entry = key.keyspace.use(key.bytes, hash: key.hash, now: now, memory) else {
      statistics.keyspaceMisses.add()
      return nil
    }
    statistics.keyspaceHits.add()
    return entry.value
  }

  /// Sets the key that argument `index` names.
  ///
  /// - Throws: `outOfMemory`; then nothing has changed.
  @inline(__always)
  func set(_ index: Int, to value: Bytes, deadline: Timestamp?) throws(CommandError) {
    let key = key(index)
    guard key.keyspace.set(key.bytes, hash: key.hash, to: value, deadline: deadline, memory) else {
      throw .outOfMemory
    }
  }

  /// Removes the key that argument `index` names; false when it was not there.
  func remove(_ index: Int) -> Bool {
    let key = key(index)
    return key.keyspace.remove(key.bytes, hash: key.hash, now: now, memory)
  }

  // MARK: Arguments

  /// Argument `index` as a 64-bit integer.
  func integer(_ index: Int) throws(CommandError) -> Int {
    guard let number = request[index].integer else { throw .notAnInteger }
    return number
  }

  // MARK: For the dispatcher

  /// Prepares for a batch of commands that run at `now`.
  @inline(__always)
  mutating func begin(at now: Timestamp) {
    self.now = now
    // The stamps of entries change once a second at most.
    if now.milliseconds &- accessMilliseconds >= 1000
      || settingsGeneration != worker.settingsGeneration
    {
      renewAccess()
    }
  }

  /// Takes over what the settings say about eviction.
  @inline(never)
  private mutating func renewAccess() {
    let settings = worker.settings
    settingsGeneration = worker.settingsGeneration
    accessMilliseconds = now.milliseconds / 1000 * 1000
    memoryMax = settings.maxMemory.bytes == 0 ? Int.max : settings.maxMemory.bytes
    memory.access = settings.accessTracking(at: now)
  }

  /// Whether memory is limited at all.
  @inline(__always)
  var isLimited: Bool { memoryMax != Int.max }

  /// Makes room for a command that needs `bytes` more, by the eviction policy.
  ///
  /// Before the locks of its keys are taken.
  ///
  /// - Throws: `aboveMemoryMax` when that cannot be.
  @inline(never)
  func makeRoom(for bytes: Int) throws(CommandError) {
    if memory.pool.usedBytes &+ bytes <= memoryMax { return }
    let hasRoom = memory.eviction.makeRoom(
      for: bytes, below: memoryMax, in: server.store, policy: settings.evictionPolicy, now: now,
      memory)
    if !hasRoom { throw .aboveMemoryMax }
  }

  /// Prepares for a command. The hash is that of its first key.
  @inline(__always)
  mutating func begin(_ row: UnsafePointer<CommandTable.Row>, _ request: Request) {
    unsafe self.row = row
    self.request = request
  }

  @inline(__always)
  mutating func setHash(_ hash: UInt64, of index: Int) {
    hashes[index] = hash
  }

  /// Hashes all keys of the request, and returns the shards they are in.
  mutating func hashKeys() -> ShardSet {
    var shards = ShardSet()
    hashes.reserve(request.count)
    for index in unsafe row.pointee.keyIndices(argumentCount: request.count) {
      let hash = memory.hashing.hash(request[index])
      hashes[index] = hash
      shards.insert(hash: hash)
    }
    return shards
  }

  /// Asks the processor for the memory of all keys, which are hashed and locked.
  func prefetchKeys() {
    let database = client.database
    for index in unsafe row.pointee.keyIndices(argumentCount: request.count) {
      let hash = hashes[index]
      shards[hash: hash].keyspace(database).prefetchSlot(hash: hash)
    }
    for index in unsafe row.pointee.keyIndices(argumentCount: request.count) {
      let hash = hashes[index]
      shards[hash: hash].keyspace(database).prefetchEntry(hash: hash)
    }
  }
}

/// Hashes of a request's keys, by argument.
///
/// Invariant: `base` has room for `capacity` hashes.
@safe private struct KeyHashes: ~Copyable {
  private var base: UnsafeMutablePointer<UInt64>
  private var capacity = 64
  private static let keptCapacity = 8192

  init() {
    unsafe base = .allocate(capacity: capacity)
    unsafe base.initialize(repeating: 0, count: capacity)
  }

  deinit { unsafe base.deallocate() }

  /// Makes room for the keys of a request of `count` arguments.
  mutating func reserve(_ count: Int) {
    let wanted = max(64, count)
    if wanted <= capacity, capacity <= Self.keptCapacity { return }
    unsafe base.deallocate()
    capacity = wanted
    unsafe base = .allocate(capacity: capacity)
    unsafe base.initialize(repeating: 0, count: capacity)
  }

  @inline(__always)
  subscript(index: Int) -> UInt64 {
    get {
      precondition(UInt(bitPattern: index) < UInt(bitPattern: capacity), "no such argument")
      return unsafe base[index]
    }
    set {
      precondition(UInt(bitPattern: index) < UInt(bitPattern: capacity), "no such argument")
      unsafe base[index] = newValue
    }
  }
}

extension ReplyWriter {
  /// A stored string.
  @inline(__always)
  mutating func bulkString(_ value: Value) {
    switch value {
    case .bytes(let bytes): bulkString(bytes)
    case .integer(let number): bulkString(number)
    }
  }
}

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
  let memory: StorageContext

  /// The command that runs, its arguments and who sent it.
  fileprivate(set) var row: UnsafePointer<CommandTable.Row>
  var request: Request
  var client: Client
  var connection: Connection
  /// The time of all commands of one batch.
  var now = Timestamp(milliseconds: 0)
  /// What relative times count from: of the log, in which nothing expires, those that somebody has written
  /// by hand.
  var relativeNow: Timestamp { now == .never ? .now : now }
  /// Where the answer goes.
  var reply = ReplyWriter()
  /// Most bytes that the store may take; `Int.max` for no limit.
  private(set) var memoryMax = Int.max
  /// Whether the locks of all shards are held, and not only those of the named keys.
  fileprivate(set) var holdsAllShards = false
  /// The place among the commands of the transaction that runs; nil when none does.
  private var transactionIndex: Int?
  /// Whether room has been made for what the command asked for.
  var hasRoom = false
  private let engine = ScriptEngine.Lazy()
  /// The shards of the request's keys, if these have been hashed all together.
  private(set) var named = ShardSet()
  /// The shards that are locked for the script that runs.
  private var scriptShards = ShardSet()
  /// Whether the command that runs is a script's.
  private var isInScript = false
  /// Whether a script's commands may take more memory than is allowed.
  private var scriptIgnoresLimit = false
  private var accessMilliseconds = Int.min / 2
  private var settingsGeneration = -1
  fileprivate var hashes = KeyHashes()
  /// Long arguments, each in a block that the store can take over. Nearly always none.
  private var longValues: [(command: Int, argument: Int, value: LongValue)] = []
  /// Whether one of them has become the store's, whose key may have been overwritten then.
  private var hasTakenLong = false
  /// Whether a client's changes have been added to those that somebody writes down.
  var hasAppended = false
  private let statistics: Statistics
  /// What has happened to keys, which is published in the end.
  private let events = PendingEvents()
  /// Whether anything of that is published at all.
  private(set) var isTelling = false
  /// Whether uses of keys are not noted, as the client wants it.
  private(set) var leavesAlone = false
  /// Messages that are to be delivered, by the loop.
  private var publications: [[Publication]] = []
  private var hasPublications = false
  /// What a client is to get that wants no reply.
  private var pushesInSilence = ByteBuffer()

  init(server: Server, worker: Worker, idle: Request, client: Client, connection: Connection) {
    unsafe serverReference = server
    unsafe workerReference = worker
    shards = server.store.shards
    memory = server.store.memory.copy()
    unsafe row = CommandTable.shared.rows
    request = idle
    self.client = client
    self.connection = connection
    statistics = worker.statistics
    memory.listener = { [events] in events.add(change: $0, $1, database: $2) }
    memory.recorder = ChangeRecorder()
  }

  deinit { memory.free() }

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

  /// The same key in another database.
  func key(_ index: Int, database: Int) -> LockedKey {
    let hash = hashes[index]
    return LockedKey(
      keyspace: shards[hash: hash].keyspace(database), bytes: request[index], hash: hash)
  }

  /// The entry of a key; nil when there is none.
  func entry(of key: LockedKey) -> Entry? {
    key.keyspace.find(key.bytes, hash: key.hash, now: now, memory)
  }

  /// The entry of the key that argument `index` names; nil when there is none.
  @inline(__always)
  func entry(_ index: Int) -> Entry? {
    let key = key(index)
    return key.keyspace.find(key.bytes, hash: key.hash, now: now, memory)
  }

  /// Removes those of the request's keys that have expired.
  ///
  /// For who keeps views of several keys: looking one up that has expired would move the others.
  func removeExpired() {
    for index in unsafe row.pointee.keyIndices(argumentCount: request.count) { _ = entry(index) }
  }

  /// Notes a use of an entry, if there is one, for a command that leaves it as it is.
  func touch(_ entry: Entry?) {
    if let entry { entry.access = memory.access.used(entry.access) }
  }

  /// The same for a command that reads: whether the key was there goes into the statistics. That the
  /// entry was used is not noted.
  ///
  /// - Parameter tells: Whether it is published that the key was missing.
  func look(_ index: Int, tells: Bool = true) -> Entry? {
    let entry = entry(index)
    if entry == nil { didMiss(index, tells: tells) } else { statistics.keyspaceHits.add() }
    return entry
  }

  /// Counts keys that a command has looked up by itself.
  func count(hits: Int, misses: Int) {
    statistics.keyspaceHits.add(hits)
    statistics.keyspaceMisses.add(misses)
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
    let value = stringUntold(index)
    if value == nil, isTelling { tell(.miss, index) }
    return value
  }

  /// The same for when nothing is told: to tell, even of what is missing only, would cost GET thirty
  /// instructions.
  @inline(__always)
  func stringUntold(_ index: Int) -> Value? {
    let key = key(index)
    guard let value = key.keyspace.use(key.bytes, hash: key.hash, now: now, memory) else {
      statistics.keyspaceMisses.add()
      return nil
    }
    statistics.keyspaceHits.add()
    return value
  }

  private func didMiss(_ index: Int, tells: Bool = true) {
    statistics.keyspaceMisses.add()
    if tells { tell(.miss, index) }
  }

  // MARK: What is published of keys

  /// Publishes what has happened to the key that argument `index` names, if the settings say so.
  func tell(_ event: KeyspaceEvent, _ index: Int, database: Int? = nil) {
    if isTelling { events.add(event, request[index], database: database ?? client.database) }
  }

  /// Publishes what the command's row says of a key, whose name may have been overwritten.
  @inline(never)
  private func tellSet(_ key: [UInt8], isNew: Bool) {
    key.withBytes { key in
      if isNew { events.add(.new, key, database: client.database) }
      unsafe events.add(row.pointee.command.event, key, database: client.database)
    }
  }

  /// Calls `body`, which sets a key, and publishes that it did.
  private func telling(
    _ index: Int, _ body: () throws(CommandError) -> Void
  ) throws(CommandError) {
    if !isTelling { return try body() }
    let key = request[index].array
    let isNew = entry(index) == nil
    try body()
    tellSet(key, isNew: isNew)
  }

  // MARK: Changing

  /// Sets the key that argument `index` names to what argument `value` says.
  ///
  /// A long value is not copied: the store takes over the memory that it was read into. Arguments in
  /// front of it may be overwritten then, and must not be read any more.
  ///
  /// - Parameter event: What is published besides what the row says.
  /// - Throws: `outOfMemory`; then nothing has changed.
  @inline(__always)
  mutating func set(
    _ index: Int, toArgument value: Int, deadline: Timestamp?, tellingOf event: KeyspaceEvent? = nil
  ) throws(CommandError) {
    if isTelling { return try setAndTell(index, value, deadline, event) }
    try setQuietly(index, value, deadline)
  }

  @inline(never)
  private mutating func setAndTell(
    _ index: Int, _ value: Int, _ deadline: Timestamp?, _ event: KeyspaceEvent?
  ) throws(CommandError) {
    let key = request[index].array
    let isNew = entry(index) == nil
    try setQuietly(index, value, deadline)
    tellSet(key, isNew: isNew)
    if let event { key.withBytes { events.add(event, $0, database: client.database) } }
  }

  @inline(__always)
  private mutating func setQuietly(
    _ index: Int, _ value: Int, _ deadline: Timestamp?
  ) throws(CommandError) {
    let key = key(index)
    let bytes = request[value]
    if bytes.count > LongValue.shortMax, let long = takeLongValue(value) {
      let isSet = key.keyspace.set(
        key.bytes, hash: key.hash, to: long, deadline: deadline, now: now, memory)
      if !isSet { throw .outOfMemory }
      return
    }
    let isSet = key.keyspace.set(
      key.bytes, hash: key.hash, to: bytes, deadline: deadline, now: now, memory)
    if !isSet { throw .outOfMemory }
  }

  /// Sets the key that argument `index` names to a value that was made for it.
  ///
  /// - Throws: `outOfMemory`; then nothing has changed.
  ///
  /// - Parameter isEdited: Whether it will be changed in part.
  func set(
    _ index: Int, toText bytes: Bytes, isEdited: Bool = false, deadline: Timestamp?
  ) throws(CommandError) {
    try telling(index) { () throws(CommandError) in
      let key = key(index)
      let isSet = key.keyspace.set(
        key.bytes, hash: key.hash, toText: bytes, isEdited: isEdited, deadline: deadline, now: now,
        memory)
      if !isSet { throw .outOfMemory }
    }
  }

  /// Sets the key that argument `index` names to `count` bytes, zeros at first, which `fill` writes.
  /// The keys keep their values until it has done so.
  ///
  /// - Throws: `needsRoom`, `outOfMemory`; then nothing has changed.
  func set(
    _ index: Int, count: Int, _ fill: (MutableBytes) -> Void
  ) throws(CommandError) {
    try reserve(count)
    try telling(index) { () throws(CommandError) in try setFilled(index, count, fill) }
  }

  private func setFilled(
    _ index: Int, _ count: Int, _ fill: (MutableBytes) -> Void
  ) throws(CommandError) {
    let key = key(index)
    if count <= LongValue.shortMax {
      var buffer = ByteBuffer()
      let bytes = unsafe buffer.appendZeros(count)
      fill(bytes)
      let isSet = key.keyspace.set(
        key.bytes, hash: key.hash, toText: bytes.bytes, isEdited: true, deadline: nil, now: now,
        memory)
      if !isSet { throw .outOfMemory }
      return
    }
    guard let value = LongValue(zeros: count, keyCount: key.bytes.count, memory.pool) else {
      throw .outOfMemory
    }
    fill(value.mutableBytes)
    let isSet = key.keyspace.set(
      key.bytes, hash: key.hash, to: value, deadline: nil, now: now, memory)
    if !isSet { throw .outOfMemory }
  }

  /// Sets the key that argument `index` names to bytes that were made for it, as a client's would be.
  ///
  /// - Throws: `outOfMemory`; then nothing has changed.
  func set(_ index: Int, to bytes: Bytes, deadline: Timestamp?) throws(CommandError) {
    try telling(index) { () throws(CommandError) in
      let key = key(index)
      let isSet = key.keyspace.set(
        key.bytes, hash: key.hash, to: bytes, deadline: deadline, now: now, memory)
      if !isSet { throw .outOfMemory }
    }
  }

  /// The same for a number.
  func set(_ index: Int, to number: Int, deadline: Timestamp?) throws(CommandError) {
    try telling(index) { () throws(CommandError) in
      let key = key(index)
      let isSet = key.keyspace.set(
        key.bytes, hash: key.hash, to: number, deadline: deadline, now: now, memory)
      if !isSet { throw .outOfMemory }
    }
  }

  /// Lends the bytes of the string that argument `index` is the key of to be changed; see
  /// `Keyspace.edit`.
  ///
  /// - Parameters:
  ///   - tells: Whether the change is published.
  ///   - isChange: Whether that counts as a change, by what `body` returns and whether the
  ///     string has become longer.
  /// - Throws: `wrongType`, `tooLong`, `needsRoom`, `outOfMemory`; then nothing has changed.
  func edit<Result>(
    _ index: Int, count: Int, tells: Bool = true,
    isChange: (Result, _ hasGrown: Bool) -> Bool = { _, _ in true },
    _ body: (MutableBytes) -> Result
  ) throws(CommandError) -> Result {
    let value = entry(index)?.value
    let isNew = value == nil
    let old = value?.count ?? 0
    // The setting is never less.
    if count > 1 << 20, count > max(old, settings.bulkLengthMaxBytes) { throw .tooLong }
    if case .long(_, let block) = value, block.isShared {
      try reserve(count)
    } else {
      try reserve(count - old)
    }
    let key = key(index)
    let result = key.keyspace.edit(
      key.bytes, hash: key.hash, count: count, now: now, memory, body)
    guard let result else { throw .outOfMemory }
    if isNew { tell(.new, index) }
    let isChanged = isChange(result, count > old)
    if isChanged {
      key.keyspace.noteEdit(key.bytes, hash: key.hash, memory)
    } else if isNew || count > old {
      key.keyspace.noteLength(key.bytes, hash: key.hash, memory)
    }
    if isChanged, isTelling, tells { tellSet(key.bytes.array, isNew: false) }
    return result
  }

  /// Makes sure that there is memory for `bytes` beyond those of the request itself.
  ///
  /// Called by a handler before it changes or answers anything: it may be called again, when its
  /// locks have been let go and room has been made.
  ///
  /// - Throws: `needsRoom`.
  func reserve(_ bytes: Int) throws(CommandError) {
    // Within a transaction it is too late to make room; that is done before the next command.
    if isInTransaction, settings.evictionPolicy != .none, bytes <= memoryMax { return }
    if bytes > LongValue.shortMax, !hasRoom, memory.pool.usedBytes &+ bytes > memoryMax {
      throw .needsRoom(bytes)
    }
  }

  /// Gives the key that argument `index` names another deadline, or none.
  ///
  /// - Returns: Whether the key was there.
  /// - Throws: `outOfMemory`; then nothing has changed.
  func setDeadline(_ deadline: Timestamp?, of index: Int) throws(CommandError) -> Bool {
    let key = key(index)
    let isSet = key.keyspace.setDeadline(
      deadline, of: key.bytes, hash: key.hash, now: now, memory)
    guard let isSet else { throw .outOfMemory }
    if isSet { tell(deadline == nil ? .persist : .expire, index) }
    return isSet
  }

  /// Gives the value and deadline of the key that argument `index` names to another one, which is not
  /// the same. A long value is not copied.
  ///
  /// - Throws: `outOfMemory`; then nothing has changed.
  func move(_ index: Int, to target: LockedKey) throws(CommandError) {
    guard let entry = entry(index) else { return }
    let (value, deadline) = (DetachedValue(of: entry), entry.deadline)
    let access = memory.access.used(entry.access)
    // How often it was used goes with it.
    defer { self.entry(of: target)?.access = access }
    if case .long(let long) = value {
      // Its block gets the other key's name, so the key goes first.
      long.block.retain()
      long.block.retain()
      _ = removeQuietly(index)
      if set(target, to: value, deadline: deadline) { return long.block.release() }
      // There was room for it a moment ago.
      _ = set(key(index), to: value, deadline: deadline)
      throw .outOfMemory
    }
    guard set(target, to: value, deadline: deadline) else { throw .outOfMemory }
    _ = removeQuietly(index)
  }

  /// Gives a copy of the value and deadline of the key that argument `index` names to another one.
  ///
  /// - Throws: `needsRoom`, `outOfMemory`; then nothing has changed.
  func copy(_ index: Int, to target: LockedKey) throws(CommandError) {
    guard let entry = entry(index) else { return }
    let deadline = entry.deadline
    try reserve(entry.value.count)
    var value = DetachedValue(of: entry)
    if case .long(let long) = value {
      let copy = LongValue(copying: long.bytes, keyCount: target.bytes.count, memory.pool)
      guard let copy else { throw .outOfMemory }
      value = .long(copy)
    }
    guard set(target, to: value, deadline: deadline) else { throw .outOfMemory }
  }

  private func set(_ key: LockedKey, to value: DetachedValue, deadline: Timestamp?) -> Bool {
    key.keyspace.set(
      key.bytes, hash: key.hash, to: value, deadline: deadline, now: now, memory)
  }

  /// Removes the key that argument `index` names; false when it was not there.
  func remove(_ index: Int) -> Bool {
    let isRemoved = removeQuietly(index)
    if isRemoved { tell(.deleted, index) }
    return isRemoved
  }

  /// Does what setting the key that argument `index` names to something that is over comes to.
  func expireAtOnce(_ index: Int) {
    if !removeQuietly(index) {
      // It has been there for no time at all.
      let key = key(index)
      key.keyspace.noteEdit(key.bytes, hash: key.hash, memory)
      tell(.new, index)
    }
    for event in [KeyspaceEvent.set, .expire, .expired] { tell(event, index) }
  }

  @inline(__always)
  private func removeQuietly(_ index: Int) -> Bool {
    let key = key(index)
    return key.keyspace.remove(key.bytes, hash: key.hash, now: now, memory)
  }

  // MARK: Messages

  /// Has a message reach all who listen to a channel, when what is being processed has been.
  ///
  /// The client itself gets it at once, in front of the answer.
  ///
  /// - Returns: How many subscriptions it goes to.
  mutating func publish(_ kind: SubscriptionKind, _ channel: Bytes, _ message: Bytes) -> Int {
    if server.pubSub.isEmpty { return 0 }
    // In front of what has happened later.
    if !events.isEmpty { publishEvents() }
    return publishNow(kind, channel, message)
  }

  private mutating func publishEvents() {
    var all: [([UInt8], [UInt8])] = []
    events.publish { all.append(($0, $1)) }
    for (channel, message) in all {
      channel.withBytes { channel in
        message.withBytes { _ = publishNow(.channel, channel, $0) }
      }
    }
  }

  private mutating func publishNow(
    _ kind: SubscriptionKind, _ channel: Bytes, _ message: Bytes
  ) -> Int {
    let isOwn = client.flags.contains(.subscriber)
    let publication = Publication(kind, channel, message, deliveredTo: isOwn ? client.id : 0)
    var publications = [[Publication]]()
    swap(&publications, &self.publications)
    defer { swap(&publications, &self.publications) }
    let count = server.pubSub.forEachLoop(listeningTo: publication.channel, kind) { index in
      while publications.count <= index { publications.append([]) }
      publications[index].append(publication)
    }
    if count == 0 { return 0 }
    hasPublications = true
    if isOwn {
      var output = ByteBuffer()
      let first = Publication.firstByte(version: client.protocolVersion)
      worker.forEachCopy(of: publication, to: client) {
        output.append(first)
        output.append($0)
      }
      if isSilent {
        pushesInSilence.append(output.bytes)
      } else {
        reply.output.bytes.append(output.bytes)
      }
    }
    return count
  }

  /// Whether the client gets no reply to the command that runs; messages it gets all the same.
  var isSilent: Bool { isInScript || !client.flags.isDisjoint(with: [.replyOff, .skipReply]) }

  /// Has `write` write something that the client gets even if it wants no reply.
  mutating func push(_ write: (inout ReplyWriter) -> Void) {
    if !isSilent { return write(&reply) }
    var writer = ReplyWriter()
    writer.protocolVersion = reply.protocolVersion
    write(&writer)
    pushesInSilence.append(writer.output.bytes.bytes)
  }

  /// Takes the reply back to a command of a client that wants none.
  mutating func dropReply(from start: OutputBuffer.Mark) {
    reply.output.truncate(to: start)
    if pushesInSilence.count == 0 { return }
    reply.output.bytes.append(pushesInSilence.bytes)
    pushesInSilence = ByteBuffer()
  }

  /// Hands messages to the loops that their subscribers belong to.
  @inline(__always)
  mutating func sendPublications() {
    if isTelling, !events.isEmpty { publishEvents() }
    if hasPublications { sendPublicationsNow() }
  }

  @inline(never)
  private mutating func sendPublicationsNow() {
    for index in 0..<publications.count where !publications[index].isEmpty {
      if index == worker.index {
        worker.deliver(publications[index])
      } else {
        server.post(publications[index], to: index)
      }
      publications[index].removeAll(keepingCapacity: index == worker.index)
    }
    hasPublications = false
  }

  // MARK: Uses of keys

  /// Has uses of keys noted, though the client does not want that, until the next command.
  func noteUses() {
    if leavesAlone { memory.access = settings.accessTracking(at: now) }
  }

  /// Has them noted as the client wants it.
  @inline(__always)
  mutating func adoptClient() {
    memory.author = client.id
    if client.flags.contains(.noTouch) != leavesAlone { renewAccess() }
  }

  // MARK: Copies of keys

  /// Has the client told when a key changes that it is about to read, if it wants that.
  ///
  /// Before the command runs: what changes a key between the two is told behind the reply.
  mutating func rememberReads() {
    guard unsafe row.pointee.flags.contains(.readonly), unsafe row.pointee.firstKey > 0,
      client.wantsCopies
    else { return }
    hashKeys()
    if !isInTransaction { named.lock(in: shards) }
    let reader = KeyReader(queue: worker.trackingClients.queue, client: client.id)
    for index in unsafe row.pointee.keyIndices(argumentCount: request.count) {
      let key = key(index)
      // What has expired is gone before anybody reads it.
      _ = entry(index)
      memory.observers.remember(
        ObservedKey(database: client.database, key: key.bytes.array), hash: key.hash, reader,
        keysMax: settings.trackedKeysMax, in: shards[hash: key.hash])
    }
    if !isInTransaction { named.unlock(in: shards) }
  }

  // MARK: All keys

  /// Calls `body` with what each shard holds of the client's database, under the shard's lock.
  func forEachKeyspace(_ body: (KeyspaceReference) -> Void) {
    for index in 0..<Store.shardCount {
      let shard = shards[index]
      shard.withLock(unless: holdsAllShards) {
        if let keyspace = shard.keyspaceIfUsed(client.database) { body(keyspace) }
      }
    }
  }

  /// Calls `body` with the next entries of a walk over the client's database, about `count`.
  ///
  /// - Returns: Where the walk goes on.
  func scan(from cursor: ScanCursor, count: Int, _ body: (Entry) -> Void) -> ScanCursor {
    var cursor = cursor
    var left = count
    repeat {
      let shard = shards[cursor.shard]
      shard.withLock(unless: holdsAllShards) {
        guard let keyspace = shard.keyspaceIfUsed(client.database), keyspace.count > 0 else {
          cursor = ScanCursor(shard: cursor.shard + 1)
          return
        }
        let step = keyspace.scan(from: cursor, count: left, body)
        cursor = step.next
        left -= step.seen
      }
    } while left > 0 && cursor.number > 0
    return cursor
  }

  /// Calls `body` with an entry of the client's database that chance chooses; false when there is
  /// none.
  func withRandomEntry(_ body: (Entry) -> Void) -> Bool {
    for _ in 0..<Self.randomTries
    where tryRandomEntry(Int(FastRandom.next(below: UInt64(Store.shardCount))), 1, body) {
      return true
    }
    // Most shards are empty.
    let start = Int(FastRandom.next(below: UInt64(Store.shardCount)))
    return (0..<Store.shardCount).contains {
      tryRandomEntry((start + $0) % Store.shardCount, Self.randomTries, body)
    }
  }

  private static let randomTries = 100

  private func tryRandomEntry(_ index: Int, _ tries: Int, _ body: (Entry) -> Void) -> Bool {
    let shard = shards[index]
    return shard.withLock(unless: holdsAllShards) {
      guard let keyspace = shard.keyspaceIfUsed(client.database), keyspace.count > 0 else {
        return false
      }
      return (0..<tries).contains { _ in
        guard let entry = keyspace.randomEntry, !entry.isExpired(at: now) else { return false }
        body(entry)
        return true
      }
    }
  }

  // MARK: Arguments

  /// Argument `index` as a 64-bit integer.
  func integer(_ index: Int) throws(CommandError) -> Int {
    guard let number = request[index].integer else { throw .notAnInteger }
    return number
  }

  /// Argument `index` as the number of a database.
  ///
  /// - Throws: `notAnInteger`, `notAnInteger32`, `databaseOutOfRange`.
  func database(_ index: Int) throws(CommandError) -> Int {
    let number = try integer(index)
    guard Int32(exactly: number) != nil else { throw .notAnInteger32 }
    guard (0..<Store.databaseCount).contains(number) else { throw .databaseOutOfRange }
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

  /// Takes over what the settings say about memory and eviction.
  @inline(never)
  mutating func renewAccess() {
    let settings = worker.settings
    settingsGeneration = worker.settingsGeneration
    accessMilliseconds = now.milliseconds / 1000 * 1000
    memoryMax = settings.maxMemory.bytes == 0 ? Int.max : settings.maxMemory.bytes
    memory.access = settings.accessTracking(at: now)
    // What has happened is still told as it was wanted then.
    if isTelling, !events.isEmpty { publishEvents() }
    leavesAlone = client.flags.contains(.noTouch)
    if leavesAlone { memory.access = memory.access.leavingAlone }
    events.wanted = settings.keyspaceEvents.effective
    isTelling = !events.wanted.isEmpty
  }

  /// Whether memory is limited at all.
  @inline(__always)
  var isLimited: Bool { memoryMax != Int.max }

  /// Makes room for the request by the eviction policy, and puts its long arguments into blocks of
  /// their own, unless they lie in such already.
  ///
  /// Before the locks of its keys are taken: so nobody waits for that.
  ///
  /// - Throws: `aboveMemoryMax`, `outOfMemory`.
  mutating func prepareMemory() throws(CommandError) {
    let isLong = request.byteCount > LongValue.shortMax
    if isLong { takeOverValues() }
    // What is taken over counts as needed, and no longer as arriving; all else is needed as well.
    if !longValues.isEmpty { countArriving(0) }
    if isLimited, makeRoom(for: request.byteCount) != .made {
      releaseLongValues()
      throw .aboveMemoryMax
    }
    if isLong { try copyValues(of: 0) }
  }

  /// The same for a command that is repeated: its arguments are in nobody's input.
  ///
  /// - Throws: `outOfMemory`.
  mutating func copyLongValues() throws(CommandError) {
    if request.byteCount > LongValue.shortMax, unsafe row.pointee.needsMemory {
      try copyValues(of: 0)
    }
  }

  private mutating func takeOverValues() {
    for index in 1..<request.count where request[index].count > LongValue.shortMax {
      if let value = takeOver(index) { longValues.append((0, index, value)) }
    }
  }

  private mutating func copyValues(of command: Int) throws(CommandError) {
    for index in 1..<request.count where request[index].count > LongValue.shortMax {
      if longValues.contains(where: { $0.command == command && $0.argument == index }) { continue }
      guard let value = copy(index) else {
        releaseLongValues()
        throw .outOfMemory
      }
      longValues.append((command, index, value))
    }
  }

  /// A long argument in the block of the connection's input, if that holds hardly anything else.
  private func takeOver(_ index: Int) -> LongValue? {
    let count = request[index].count
    guard let block = connection.inputBlock, count >= block.capacity / 4 * 3,
      let offset = request.offset(of: index, in: block),
      let start = request.offset(of: 0, in: block)
    else { return nil }
    block.retain()
    // In front of the name there are two lines: `*3` and `$3`.
    return LongValue(block: block, offset: offset, count: count, lead: offset - start + 8)
  }

  private func copy(_ index: Int) -> LongValue? {
    // A value comes behind its key, or behind the only one.
    let key = max(unsafe row.pointee.firstKey, 1)
    let keyCount = max(request[key].count, request[index - 1].count)
    return LongValue(copying: request[index], keyCount: keyCount, memory.pool)
  }

  /// Takes a long argument out of those that were prepared; its block is the caller's then.
  @inline(never)
  private mutating func takeLongValue(_ argument: Int) -> LongValue? {
    let command = transactionIndex ?? 0
    let index = longValues.firstIndex { $0.command == command && $0.argument == argument }
    guard let index else { return nil }
    hasTakenLong = true
    return longValues.remove(at: index).value
  }

  /// Gives up the long arguments that the command did not want.
  mutating func releaseLongValues() {
    while let last = longValues.popLast() { last.value.block.release() }
  }

  /// Makes room for `bytes` by the eviction policy.
  @inline(never)
  fileprivate func makeRoom(for bytes: Int) -> Eviction.Room {
    if memory.pool.usedBytes &+ bytes <= memoryMax { return .made }
    return memory.eviction.makeRoom(
      for: bytes, below: memoryMax, in: server.store, policy: settings.evictionPolicy, now: now,
      memory)
  }

  /// Makes room for the beginning of a request that needs memory, which counts as data from now on.
  ///
  /// - Parameters:
  ///   - bytes: What there is of it.
  ///   - announced: What there will be at least. Where nothing is evicted there has to be room for
  ///     all of that; else room is made as the bytes come.
  func makeRoomForArriving(_ bytes: Int, of announced: Int) -> Eviction.Room {
    if announced > memoryMax { return .none }
    countArriving(bytes)
    return makeRoom(for: settings.evictionPolicy == .none ? announced - bytes : 0)
  }

  /// Says how much of an unfinished request counts as data.
  func countArriving(_ bytes: Int) {
    if client.arrivingBytes == bytes { return }
    memory.pool.countArriving(bytes - client.arrivingBytes)
    client.arrivingBytes = bytes
  }

  /// Makes room for what a command has found that it needs.
  ///
  /// - Throws: `aboveMemoryMax`.
  mutating func makeRoom(forCommand bytes: Int) throws(CommandError) {
    guard makeRoom(for: bytes) == .made else { throw .aboveMemoryMax }
    hasRoom = true
  }

  // MARK: The append log

  /// Calls a handler, and records what it has changed while its keys are locked.
  @inline(__always)
  mutating func call(_ command: UnsafePointer<CommandTable.Row>) throws(CommandError) {
    do throws(CommandError) {
      try unsafe command.pointee.call(&self)
    } catch {
      if memory.hasChanges { recordChanges(hasFailed: true) }
      throw error
    }
    if memory.hasChanges { recordChanges() }
  }

  /// Records what the command has changed, under the locks of its keys.
  ///
  /// - Parameter hasFailed: Whether it has answered an error, and so would not do the same again.
  @inline(never)
  mutating func recordChanges(hasFailed: Bool = false) {
    memory.hasChanges = false
    guard let recorder = memory.recorder else { return }
    if unsafe row.pointee.flags.contains(.repeatable), !hasTakenLong, !hasFailed {
      recorder.record(argumentCount: request.count, database: client.database) { request[$0] }
    } else {
      recorder.record { key, hash, database in
        shards[hash: hash].keyspace(database).find(key, hash: hash, now: .never, memory)
      }
    }
    hasTakenLong = false
    hasAppended = true
    if !isInTransaction { commitChanges() }
  }

  /// Adds what has been recorded to what is written down, under the same locks.
  func commitChanges() { memory.recorder?.commit(to: memory.observers.changes) }

  // MARK: Transactions

  /// Whether the command is one of a transaction.
  var isInTransaction: Bool { transactionIndex != nil }

  /// Has the client's next transaction fail when the key that argument `index` names changes.
  func watch(_ index: Int, for transaction: Transaction) {
    let key = key(index)
    let watched = ObservedKey(database: client.database, key: key.bytes.array)
    // What has expired is gone before anybody watches it.
    _ = entry(index)
    guard transaction.addWatched(watched, hash: key.hash) else { return }
    memory.observers.watch(watched, hash: key.hash, transaction.change, in: key.keyspace)
  }

  /// Whether a watched key has changed, or expired. The locks of all of them are held.
  func hasChanged(_ transaction: Transaction) -> Bool {
    for watched in transaction.watched {
      watched.key.key.withBytes { key in
        _ = shards[hash: watched.hash].keyspace(watched.key.database)
          .find(key, hash: watched.hash, now: now, memory)
      }
    }
    return transaction.change.isRaised
  }

  /// Makes room for all that a transaction's commands say, before its locks are taken.
  ///
  /// - Throws: `aboveMemoryMax`, `outOfMemory`.
  mutating func prepareMemory(of transaction: Transaction) throws(CommandError) {
    var bytes = 0
    for (number, queued) in transaction.commands.enumerated() {
      unsafe begin(CommandTable.shared.rows + queued.row, transaction.request(queued))
      guard unsafe row.pointee.needsMemory else {
        if unsafe row.pointee.command.category == .scripting { _ = makeRoomForScript() }
        continue
      }
      bytes += request.byteCount
      if request.byteCount > LongValue.shortMax { try copyValues(of: number) }
    }
    if isLimited, bytes > 0, makeRoom(for: bytes) != .made {
      releaseLongValues()
      throw .aboveMemoryMax
    }
  }

  /// Prepares for a command of a transaction.
  mutating func begin(_ transaction: Transaction, _ index: Int) {
    let queued = transaction.commands[index]
    unsafe begin(CommandTable.shared.rows + queued.row, transaction.request(queued))
    transactionIndex = index
  }

  /// - Parameter isWhole: Whether all shards are locked.
  mutating func beginTransaction(isWhole: Bool) { holdsAllShards = isWhole }

  mutating func endTransaction() {
    holdsAllShards = false
    transactionIndex = nil
    releaseLongValues()
  }

  // MARK: Scripts

  /// What runs this loop's scripts.
  var scriptEngine: ScriptEngine { engine.made(for: server) }

  /// What a script interrupts: the command that runs it.
  @safe struct ScriptCaller {
    fileprivate let row: UnsafePointer<CommandTable.Row>
    fileprivate let request: Request
    fileprivate let database: Int
    fileprivate let isInTransaction: Bool
    fileprivate let holdsAllShards: Bool
  }

  /// Makes room by the eviction policy, before the locks are taken.
  ///
  /// - Returns: Whether there is any.
  func makeRoomForScript() -> Bool {
    if !isLimited { return true }
    // Within a transaction they are taken already.
    if isInTransaction { return memory.pool.usedBytes <= memoryMax }
    if settings.evictionPolicy == .none { return makeRoom(for: request.byteCount) == .made }
    for _ in 0..<Self.scriptRoomTries where makeRoom(for: scriptBytes) == .made { return true }
    return false
  }

  private static let scriptRoomTries = 4

  /// Bytes for which room is made before a script runs, for it is too late then; and which it may take beyond
  /// the limit, if that took too long.
  private var scriptBytes: Int { min(max(memoryMax / 64, 256 << 10), 1 << 20) }

  /// Locks the shards of a script's keys, unless all are locked. It may name others, which are locked when
  /// it does.
  ///
  /// - Parameters:
  ///   - keys: The arguments that are its keys.
  ///   - ignoringLimit: Whether its commands may take more memory than is allowed.
  mutating func beginScript(keys: Range<Int>, ignoringLimit: Bool) -> ScriptCaller {
    let caller = unsafe ScriptCaller(
      row: row, request: request, database: client.database, isInTransaction: isInTransaction,
      holdsAllShards: holdsAllShards)
    if !holdsAllShards {
      scriptShards.removeAll()
      for index in keys { scriptShards.insert(hash: memory.hashing.hash(request[index])) }
      server.scripts.lock()
      scriptShards.lock(in: shards)
    }
    scriptIgnoresLimit = ignoringLimit
    isInScript = true
    // Its changes belong together as those of a transaction do.
    if transactionIndex == nil { transactionIndex = 0 }
    return caller
  }

  mutating func endScript(_ caller: ScriptCaller) {
    isInScript = false
    // If it wants no reply either, they take its place.
    if pushesInSilence.count > 0, !isSilent {
      reply.output.bytes.append(pushesInSilence.bytes)
      pushesInSilence = ByteBuffer()
    }
    unsafe begin(caller.row, caller.request)
    client.database = caller.database
    if !caller.isInTransaction {
      transactionIndex = nil
      commitChanges()
    }
    if !caller.holdsAllShards {
      holdsAllShards = false
      scriptShards.unlock(in: shards)
      server.scripts.unlock()
    }
  }

  /// Whether keys must not be changed for now.
  ///
  /// - Throws: `cannotSave`, `cannotLog`.
  func checkWrites() throws(CommandError) {
    switch worker.gate.refusal {
    case .snapshot: throw .cannotSave
    case .log(let why): throw .cannotLog(why)
    case nil: break
    }
  }

  /// Runs a command of a script, and records what it has changed.
  mutating func runForScript(
    _ row: UnsafePointer<CommandTable.Row>, _ request: Request
  ) throws(CommandError) {
    unsafe begin(row, request)
    hashKeys()
    if !holdsAllShards {
      holdsAllShards = unsafe row.pointee.flags.contains(.wholeKeyspace)
      if holdsAllShards {
        scriptShards.extend(by: .all, in: shards)
      } else {
        scriptShards.extend(by: named, in: shards)
      }
    }
    if client.flags.contains(.tracking) { rememberReads() }
    let start = Clock.steadyNanoseconds
    let index = unsafe row.pointee.index
    defer {
      let elapsed = Clock.steadyNanoseconds - start
      statistics.withCommand(index) {
        $0.calls.add()
        $0.nanoseconds.add(elapsed)
      }
    }
    do throws(CommandError) {
      try unsafe callForScript(row)
    } catch {
      statistics.withCommand(index) { $0.failed.add() }
      throw error
    }
  }

  private mutating func callForScript(
    _ row: UnsafePointer<CommandTable.Row>
  ) throws(CommandError) {
    guard unsafe row.pointee.needsMemory else { return try unsafe call(row) }
    if isLimited, !scriptIgnoresLimit {
      // With an eviction policy room was made before the locks were taken, for a usual script.
      let more = settings.evictionPolicy == .none ? 0 : scriptBytes
      if memory.pool.usedBytes &+ request.byteCount > memoryMax &+ more { throw .aboveMemoryMax }
    }
    guard request.byteCount > LongValue.shortMax else { return try unsafe call(row) }
    let number = transactionIndex ?? 0
    try copyValues(of: number)
    defer {
      // Those of queued commands stay.
      for value in longValues where value.command == number { value.value.block.release() }
      longValues.removeAll { $0.command == number }
    }
    try unsafe call(row)
  }

  func countScriptError() { statistics.errorReplies.add() }

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

  /// Hashes all keys of the request. The shards they are in are the named ones then, for which the processor
  /// is asked.
  mutating func hashKeys() {
    named.removeAll()
    if unsafe row.pointee.firstKey == 0 { return }
    hashes.reserve(request.count)
    for index in unsafe row.pointee.keyIndices(argumentCount: request.count) {
      let hash = memory.hashing.hash(request[index])
      hashes[index] = hash
      shards[hash: hash].prefetch()
      named.insert(hash: hash)
    }
  }

  /// Locks the shards of all keys of the request, and asks the processor for what a lookup reads.
  mutating func lockKeys() {
    hashKeys()
    named.lock(in: shards)
    prefetchKeys()
  }

  func unlockKeys() { named.unlock(in: shards) }

  /// Asks the processor for the memory of all keys, which are hashed and locked.
  private func prefetchKeys() {
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

extension ReplyWriter {
  /// A stored string.
  @inline(__always)
  mutating func bulkString(_ value: Value) {
    switch value {
    case .bytes(let bytes): bulkString(bytes)
    case .long(let bytes, let block): bulkString(bytes, in: block)
    case .integer(let number): bulkString(number)
    }
  }
}

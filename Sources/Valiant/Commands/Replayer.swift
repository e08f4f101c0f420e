/// Repeats the commands of an append log, as if a client sent them whom nobody answers.
///
/// Commands of one key are collected, sorted by shard and shared among threads: those of a shard run in
/// their order by one of them, so those of each key do. Everything else runs alone, behind all that
/// comes before it. Nothing expires meanwhile: what has expired is removed by a command of the log.
///
/// Belongs to the thread that loads.
final class Replayer: LogReplaying {
  /// One of the threads that share the work; the first one does what is not shared.
  private let appliers: [Applier]
  private var parser = RequestParser()
  private let table = CommandTable.shared
  private let hashing: SipHash
  private let shards: ShardArray
  /// What is collected: commands one behind the other, and where pieces of them begin in the file.
  private var buffer = ByteBuffer()
  private var pieces: [(start: Int, offset: Int)] = []
  private var items: [Item] = []
  private var database = 0
  /// Commands between MULTI and EXEC.
  private var transaction: Transaction?
  private(set) var openTransaction: Int?
  private(set) var commandCount = 0

  /// A command of one key.
  @safe private struct Item {
    let row: UnsafePointer<CommandTable.Row>
    let hash: UInt64
    let firstArgument: Int
    let argumentCount: Int
    let database: Int
    /// Where it begins in the buffer.
    let start: Int

    var shard: Int { Store.shardIndex(hash: hash) }
  }

  /// Bytes that are collected.
  private static let collectedBytes = 1 << 20
  /// Commands that are not worth another thread.
  private static let sharedItemsMin = 1000

  /// - Parameter workers: One for each thread.
  init(server: Server, workers: [Worker]) {
    appliers = workers.map { Applier(server: server, worker: $0) }
    parser.limits.bulkLengthMax = Store.lengthMax
    hashing = server.store.memory.hashing
    shards = server.store.shards
  }

  func end() {
    for applier in appliers { applier.end() }
  }

  // MARK: Collecting

  func run(_ commands: Bytes, at offset: Int) throws(ReplayFailure) {
    pieces.append((buffer.count, offset))
    buffer.append(commands)
    while parser.position < buffer.count {
      let start = parser.position
      guard case .request = parser.next(buffer.bytes) else {
        try finish()
        throw ReplayFailure(
          offset: offset, text: "it is damaged: there is something that is no command")
      }
      try take(parser.requestStart, parser.arguments.count - parser.requestStart, start)
    }
    if buffer.count >= Self.collectedBytes { try finish() }
  }

  private func request(_ first: Int, _ count: Int) -> Request {
    parser.request(in: buffer.bytes, firstArgument: first, count: count)
  }

  private func take(_ first: Int, _ count: Int, _ start: Int) throws(ReplayFailure) {
    let request = request(first, count)
    guard let row = unsafe table.find(request.name) else {
      throw failure(
        .unknownCommand(name: request.name.prefix(64).array, arguments: []), request, start)
    }
    if transaction == nil, unsafe row.pointee.firstKey > 0,
      unsafe row.pointee.canRun(argumentCount: count),
      unsafe row.pointee.namesOneKey(argumentCount: count), unsafe Applier.mayRepeat(row)
    {
      let hash = unsafe hashing.hash(request[row.pointee.firstKey])
      items.append(
        unsafe Item(
          row: row, hash: hash, firstArgument: first, argumentCount: count, database: database,
          start: start))
      return
    }
    do throws(CommandError) {
      try unsafe take(row, request, start)
    } catch {
      throw failure(error, request, start)
    }
  }

  /// A command that is not like the others.
  private func take(
    _ row: UnsafePointer<CommandTable.Row>, _ request: Request, _ start: Int
  ) throws(CommandError) {
    let name = unsafe row.pointee.command.name
    guard unsafe row.pointee.command.accepts(argumentCount: request.count) else {
      throw .arity(command: name)
    }
    switch name {
    case "multi":
      if transaction != nil { throw .nestedTransaction }
      transaction = Transaction()
      openTransaction = offset(of: start)
    case "exec":
      guard let transaction else { throw .noTransaction("EXEC") }
      self.transaction = nil
      openTransaction = nil
      try runCollected()
      for queued in transaction.commands {
        let row = unsafe table.rows + queued.row
        try unsafe runAlone(row, transaction.request(queued))
      }
    default:
      if let transaction {
        guard transaction.append(request, row: unsafe row.pointee.index) else {
          throw .transactionTooLong
        }
        return
      }
      try runCollected()
      try unsafe runAlone(row, request)
    }
  }

  private func runAlone(
    _ row: UnsafePointer<CommandTable.Row>, _ request: Request
  ) throws(CommandError) {
    commandCount += 1
    appliers[0].database = database
    try unsafe appliers[0].apply(row, request)
    // SELECT may have been it.
    database = appliers[0].database
  }

  /// Runs what has been collected.
  func finish() throws(ReplayFailure) {
    do throws(CommandError) {
      try runCollected()
    } catch {
      guard let failed else { preconditionFailure("an error of no command") }
      throw failure(error, request(failed.firstArgument, failed.argumentCount), failed.start)
    }
    // Ranges of arguments of another buffer are of no use; none is open between pieces.
    buffer.clear(keeping: 2 * Self.collectedBytes)
    pieces.removeAll(keepingCapacity: true)
    parser.rewind(to: 0)
    parser.startBatch()
  }

  private func failure(_ error: CommandError, _ request: Request, _ start: Int) -> ReplayFailure {
    let at = failed?.start ?? start
    let named = failed.map { self.request($0.firstArgument, $0.argumentCount) } ?? request
    let name = String(decoding: named[0].prefix(64).array, as: UTF8.self)
    let text = String(decoding: error.message, as: UTF8.self)
    return ReplayFailure(offset: offset(of: at), text: "cannot repeat '\(name)': \(text)")
  }

  /// Where something in the buffer stands in the file.
  private func offset(of start: Int) -> Int {
    guard let piece = pieces.last(where: { $0.start <= start }) else { return 0 }
    return piece.offset + start - piece.start
  }

  // MARK: Running

  /// The first of the collected commands that could not be repeated.
  private var failed: Item?

  private func runCollected() throws(CommandError) {
    if items.isEmpty { return }
    commandCount += items.count
    defer { items.removeAll(keepingCapacity: true) }
    let count = items.count < Self.sharedItemsMin ? 1 : appliers.count
    let turn = Guarded((next: 0, failure: (item: Item, error: CommandError)?.none))
    // SAFETY: nobody changes what is collected before all threads are through.
    nonisolated(unsafe) let replayer = self
    nonisolated(unsafe) let order = sorted()
    Background.share(among: count) {
      // There may be fewer threads than parts.
      while true {
        let part = turn.withLock { turn in
          defer { turn.next += 1 }
          return turn.next
        }
        if part >= count { return }
        // Whole shards.
        let (from, end) = unsafe (
          replayer.boundary(part, of: count, order), replayer.boundary(part + 1, of: count, order)
        )
        let failure = unsafe replayer.run(order[from..<end], by: replayer.appliers[part])
        guard let failure else { continue }
        turn.withLock { turn in
          if turn.failure == nil || failure.item.start < turn.failure?.item.start ?? 0 {
            turn.failure = failure
          }
        }
      }
    }
    if let failure = turn.withLock({ $0.failure }) {
      failed = failure.item
      throw failure.error
    }
  }

  /// What has been collected, by shard; items of a shard in their order.
  private func sorted() -> [Item] {
    var starts = [Int](repeating: 0, count: Store.shardCount + 1)
    for item in items { starts[item.shard + 1] += 1 }
    for shard in 1..<starts.count { starts[shard] += starts[shard - 1] }
    var sorted = items
    for item in items {
      sorted[starts[item.shard]] = item
      starts[item.shard] += 1
    }
    return sorted
  }

  /// Where a thread's part begins.
  private func boundary(_ part: Int, of count: Int, _ order: [Item]) -> Int {
    var place = order.count * part / count
    while place > 0, place < order.count, order[place].shard == order[place - 1].shard {
      place += 1
    }
    return place
  }

  /// So far ahead the processor is asked for commands.
  private static let ahead = 8

  private func run(
    _ order: ArraySlice<Item>, by applier: Applier
  ) -> (item: Item, error: CommandError)? {
    applier.begin()
    let bytes = buffer.bytes
    for place in order.indices {
      if place + 2 * Self.ahead < order.endIndex {
        let coming = order[place + 2 * Self.ahead]
        // SAFETY: an address is all that is asked for.
        unsafe Processor.prefetch(UnsafeRawPointer(bytes.dropFirst(coming.start).pointer))
        let shard = shards[hash: coming.hash]
        shard.withLock { shard.keyspace(coming.database).prefetchSlot(hash: coming.hash) }
      }
      if place + Self.ahead < order.endIndex {
        let coming = order[place + Self.ahead]
        let shard = shards[hash: coming.hash]
        shard.withLock { shard.keyspace(coming.database).prefetchEntry(hash: coming.hash) }
      }
      let item = order[place]
      applier.database = item.database
      do throws(CommandError) {
        try unsafe applier.apply(
          item.row, request(item.firstArgument, item.argumentCount), hash: item.hash)
      } catch {
        return (item, error)
      }
    }
    return nil
  }
}

/// Runs commands of a log, on one thread.
///
/// Invariant: `context` is initialised from `init` to `end`.
@safe private final class Applier {
  private let context: UnsafeMutablePointer<CommandContext>
  private let client: Client
  private let shards: ShardArray

  init(server: Server, worker: Worker) {
    client = Client(
      id: 0, workerIndex: worker.index, address: Socket.Address(text: ""),
      localAddress: Socket.Address(text: ""), flags: [])
    shards = server.store.shards
    let idle = RequestParser().request(in: .empty, firstArgument: 0, count: 0)
    unsafe context = .allocate(capacity: 1)
    unsafe context.initialize(
      to: CommandContext(
        server: server, worker: worker, idle: idle, client: client,
        connection: Connection(base: client.pointer)))
    begin()
  }

  func end() {
    unsafe context.deinitialize(count: 1)
    unsafe context.deallocate()
    client.free()
  }

  /// Takes the time, by which uses of keys are noted.
  func begin() {
    unsafe context.pointee.begin(at: .now)
    unsafe context.pointee.now = .never
  }

  /// The database that the next command is about.
  var database: Int {
    get { client.database }
    set { if newValue != client.database { client.database = newValue } }
  }

  /// Whether a log may have it.
  static func mayRepeat(_ row: UnsafePointer<CommandTable.Row>) -> Bool {
    unsafe !row.pointee.flags.isDisjoint(with: [.write, .repeatable])
  }

  /// - Parameter hash: Of its only key, of a command that a log may have; nil for any other command.
  func apply(
    _ row: UnsafePointer<CommandTable.Row>, _ request: Request, hash: UInt64? = nil
  ) throws(CommandError) {
    if unsafe hash == nil && !Self.mayRepeat(row) {
      guard unsafe row.pointee.command.name == "select" else {
        throw .unknownCommand(name: request.name.prefix(64).array, arguments: [])
      }
    }
    unsafe context.pointee.begin(row, request)
    try unsafe context.pointee.copyLongValues()
    defer {
      unsafe context.pointee.releaseLongValues()
      unsafe context.pointee.reply.output.reset()
    }
    if let hash {
      unsafe context.pointee.setHash(hash, of: row.pointee.firstKey)
      let shard = shards[hash: hash]
      shard.lock()
      defer { shard.unlock() }
      return try unsafe row.pointee.call(&context.pointee)
    }
    unsafe context.pointee.lockKeys()
    defer { unsafe context.pointee.unlockKeys() }
    try unsafe row.pointee.call(&context.pointee)
  }
}

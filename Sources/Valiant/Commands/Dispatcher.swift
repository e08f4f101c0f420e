/// What a loop does with bytes from a client: find requests, check them, run them, answer.
///
/// Requests are taken in batches of up to sixteen. Before the first of a batch runs, its keys are
/// hashed and the processor is asked for the memory that all of them will need: shard, slot, entry.
/// A key that is not in a cache costs a third of a microsecond when one waits for it, and next to
/// nothing when fifteen others are on their way at the same time.
///
/// Belongs to one loop's thread.
///
/// Invariant: `batch` has room for `batchSize` items, of which those of the current batch are set.
@safe struct Dispatcher: ~Copyable {
  private var context: CommandContext
  private var parser = RequestParser()
  private let batch: UnsafeMutablePointer<Item>
  /// Stands for a client until the first one says something.
  private let nobody: Client
  /// Whether all requests of the batch have the same command.
  private var isUniform = true
  /// Whether any of them names exactly one key.
  private var hasKeys = false
  /// Whether the last command has to wait for the end of a pause.
  private var isPostponed = false
  private let table = CommandTable.shared
  private let exec: UnsafePointer<CommandTable.Row>?
  private let shards: ShardArray
  private let statistics: Statistics

  /// One request of a batch.
  @safe private struct Item {
    /// Nil for a name that no command has.
    var command: UnsafePointer<CommandTable.Row>?
    var firstArgument: Int
    var argumentCount: Int
    /// See `oneKeyHash`.
    var hash: UInt64
    /// Where the request ends in the input.
    var end: Int
  }

  private static let batchSize = 16
  /// Output that is sent before further requests run.
  private static let flushBytes = 64 * 1024
  /// Output of one read event after which others get their turn.
  private static let outputPerTurnBytes = 512 * 1024
  /// Time after which others get their turn.
  private static let turnNanoseconds = 150_000
  /// Unsent output above which a client's requests wait.
  private static let pauseBytes = 1 << 20
  /// Memory that the output buffer keeps between events.
  private static let keptOutputBytes = 256 * 1024

  init(server: Server, worker: Worker) {
    nobody = Client(
      id: 0, workerIndex: worker.index, address: Socket.Address(text: ""),
      localAddress: Socket.Address(text: ""), flags: [])
    let idle = parser.request(in: .empty, firstArgument: 0, count: 0)
    context = CommandContext(
      server: server, worker: worker, idle: idle, client: nobody,
      connection: unsafe Connection(base: nobody.pointer))
    unsafe batch = .allocate(capacity: Self.batchSize)
    shards = server.store.shards
    statistics = worker.statistics
    unsafe exec = Array("exec".utf8).withBytes { [table] in unsafe table.find($0) }
  }

  deinit {
    unsafe batch.deallocate()
    nobody.free()
  }

  // MARK: Reading

  private enum Ending {
    /// There may be more complete requests.
    case more
    /// All complete requests have been taken.
    case incomplete
    /// A request has ended that was thrown away for lack of memory.
    case discarded
    case failed(ProtocolError)
    case crossProtocol
  }

  /// Runs the requests in `input` and sends the answers.
  ///
  /// - Returns: Bytes that were used up; the rest comes again, with what arrives behind it.
  mutating func process(_ connection: Connection, _ input: Bytes) -> Int {
    guard let owner = unsafe connection.owner else { return input.count }
    let client = unsafe Client(owner)
    begin(connection, client)
    let used = serve(connection, client, input)
    client.inputBytes = connection.isClosing ? 0 : input.count &- used
    end(connection, client)
    return used
  }

  @inline(__always)
  private mutating func serve(
    _ connection: Connection, _ client: Client, _ input: Bytes
  ) -> Int {
    var sentBytes = 0
    let start = Clock.steadyNanoseconds
    var time = start
    while true {
      context.begin(at: Timestamp(milliseconds: time / 1_000_000))
      let batchStart = parser.consumed
      let (count, ending, isInline) = parseBatch(input, client)
      if count > 1, hasKeys { prefetch(count, client.database) }
      let (executed, outcome) = runBatch(
        count, isInline ? parser.inlineBytes.bytes : input, connection, client, &sentBytes)
      switch outcome {
      case .all: break
      case .closing:
        account(executed, since: time)
        return finish(connection, input)
      case .postponed:
        if executed > 0 { account(executed, since: time) }
        let end = executed > 0 ? unsafe batch[executed - 1].end : batchStart
        parser.rewind(to: end)
        connection.hold()
        return end
      case .waiting, .unanswered:
        account(executed, since: time)
        let end = unsafe batch[executed - 1].end
        parser.rewind(to: end)
        if outcome == .unanswered { connection.hold(letsGo: false) }
        return end
      }
      if count > 0 { time = account(count, since: time) }
      switch ending {
      case .more:
        // Some commands cost as much as thousands of others.
        if time &- start > Self.turnNanoseconds {
          connection.yield()
          return parser.consumed
        }
      case .discarded: answerDiscarded(client)
      case .incomplete: return incomplete(connection, client, input)
      case .failed(let error): return fail(connection, input, error)
      case .crossProtocol: return refuseHTTP(connection, input)
      }
    }
  }

  private enum BatchOutcome {
    case all
    /// The connection ends after what has been answered.
    case closing
    /// The next command has to wait for the end of a pause.
    case postponed
    /// The last command is answered later.
    case unanswered
    /// The rest has to wait: for the client to read, or for others to have their turn.
    case waiting
  }

  /// Runs the batch, as far as that goes.
  @inline(never)
  private mutating func runBatch(
    _ count: Int, _ bytes: Bytes, _ connection: Connection, _ client: Client,
    _ sentBytes: inout Int
  ) -> (executed: Int, BatchOutcome) {
    var executed = 0
    while executed < count {
      execute(executed, bytes, client)
      executed &+= 1
      if !client.flags.isDisjoint(with: [.closeAfterReply, .gated, .waiting]),
        let end = ended(client)
      {
        return (end == .postponed ? executed &- 1 : executed, end)
      }
      if context.reply.output.reaches(Self.flushBytes) {
        sentBytes += context.reply.output.count
        if !mayGoOn(connection, client, sentBytes) { return (executed, .waiting) }
      }
    }
    return (executed, .all)
  }

  /// Why nothing may follow the last command of a client that is paused, or is to go.
  @inline(never)
  private mutating func ended(_ client: Client) -> BatchOutcome? {
    if isPostponed {
      isPostponed = false
      return .postponed
    }
    if client.flags.contains(.waiting) { return .unanswered }
    return client.flags.contains(.closeAfterReply) ? .closing : nil
  }

  private mutating func begin(_ connection: Connection, _ client: Client) {
    context.client = client
    context.connection = connection
    context.adoptClient()
    context.reply.protocolVersion = client.protocolVersion
    client.lastActive = connection.loopMilliseconds
    if let partial = unsafe client.partialRequest { unsafe swap(&parser, &partial.pointee) }
    parser.limits.bulkLengthMax = context.worker.settings.bulkLengthMaxBytes
    connection.expectNothing()
  }

  /// Sends what was written, and puts away what belongs to this client alone.
  private mutating func end(_ connection: Connection, _ client: Client) {
    context.sendPublications()
    send(connection, client)
    context.worker.deliverInvalidations()
    context.reply.output.bytes.clear(keeping: Self.keptOutputBytes)
    let pending = connection.pendingOutputBytes
    client.outputBytes = pending
    if pending >= Self.pauseBytes { limitOutput(connection, client, pending) }
    parser.dropConsumed()
    if client.arrivingBytes > 0, !parser.isWithinRequest { context.countArriving(0) }
    context.worker.countHeld(client)
    if let partial = unsafe client.partialRequest {
      unsafe swap(&parser, &partial.pointee)
      if unsafe !partial.pointee.isWithinRequest {
        unsafe partial.deinitialize(count: 1)
        unsafe partial.deallocate()
        unsafe client.partialRequest = nil
      }
    } else if parser.isWithinRequest {
      let partial = UnsafeMutablePointer<RequestParser>.allocate(capacity: 1)
      unsafe partial.initialize(to: RequestParser())
      unsafe swap(&parser, &partial.pointee)
      unsafe client.partialRequest = partial
    }
  }

  /// Sends what has been answered; behind changes that are to be on the disk first, when they are.
  @inline(__always)
  private mutating func send(_ connection: Connection, _ client: Client) {
    if context.hasAppended { didAppend(connection, client) }
    connection.send(&context.reply.output)
  }

  @inline(never)
  private mutating func didAppend(_ connection: Connection, _ client: Client) {
    context.hasAppended = false
    context.worker.didAppend(connection, client, &context.reply.output)
  }

  /// Everything complete has been answered; the beginning of another request may be left.
  private mutating func incomplete(
    _ connection: Connection, _ client: Client, _ input: Bytes
  ) -> Int {
    let used = parser.consumed
    let rest = input.count - used
    if rest > context.worker.settings.queryBufferMaxBytes {
      statistics.queryBufferLimitDisconnections.add()
      context.server.log.warning(
        "closing client \(client.id) at \(client.address.text): a request of more than \(rest) bytes"
      )
      connection.close()
    } else if rest > LongValue.shortMax || parser.missing(input) > LongValue.shortMax {
      return receiveLong(connection, client, input)
    }
    // It would be of a request that is over.
    context.countArriving(0)
    return used
  }

  /// The beginning of a long request is there. Its bytes go where they will stay, and count as data
  /// already: there may be no memory for all of them.
  @inline(never)
  private mutating func receiveLong(
    _ connection: Connection, _ client: Client, _ input: Bytes
  ) -> Int {
    let missing = parser.missing(input)
    let rest = input.count - parser.consumed
    connection.expect(missing, behind: rest)
    guard context.isLimited, !context.worker.gate.isLoading, let name = parser.partialName(input),
      let command = unsafe table.find(name), unsafe command.pointee.needsMemory,
      !client.flags.contains(.mustAuthenticate)
    else {
      context.countArriving(0)
      return parser.consumed
    }
    switch context.makeRoomForArriving(rest, of: rest + missing) {
    case .made: return parser.consumed
    case .later:
      // It goes on sending when there is room for what it has sent.
      connection.yield()
      return parser.consumed
    case .none: break
    }
    connection.expectNothing()
    client.refusedCommand = unsafe command.pointee.index
    context.countArriving(0)
    parser.discard(input)
    return parser.consumed
  }

  private mutating func answerDiscarded(_ client: Client) {
    statistics.withCommand(client.refusedCommand) { $0.rejected.add() }
    client.lastCommand = client.refusedCommand
    failTransaction(client)
    let start = beginReply(client)
    answer(.aboveMemoryMax)
    endReply(client, from: start)
  }

  /// Sends what has been answered so far.
  ///
  /// - Returns: Whether more requests of this client may run now.
  private mutating func mayGoOn(
    _ connection: Connection, _ client: Client, _ sentBytes: Int
  ) -> Bool {
    send(connection, client)
    let pending = connection.pendingOutputBytes
    if connection.isClosing || connection.isWithheld { return false }
    if pending >= Self.pauseBytes {
      limitOutput(connection, client, pending)
      return false
    }
    if sentBytes >= Self.outputPerTurnBytes {
      connection.yield()
      return false
    }
    return true
  }

  /// Makes a client that does not read wait, or go.
  private func limitOutput(_ connection: Connection, _ client: Client, _ pending: Int) {
    if connection.isClosing || connection.isFinishing { return }
    let limit = context.worker.settings.outputLimit(ofSubscriber: client.isSubscriber)
    let hardLimit = limit.hardBytes
    if hardLimit > 0, pending > hardLimit {
      context.worker.closeForOutput(connection, client, pending)
    } else {
      connection.pause()
    }
  }

  private mutating func finish(_ connection: Connection, _ input: Bytes) -> Int {
    send(connection, context.client)
    parser.rewind(to: input.count)
    connection.finish()
    return input.count
  }

  private mutating func refuseHTTP(_ connection: Connection, _ input: Bytes) -> Int {
    context.server.log.warning(
      "closing client \(context.client.id) at \(context.client.address.text): it speaks HTTP, possibly an attack from a web page"
    )
    context.reply.output.reset()
    parser.rewind(to: input.count)
    connection.close()
    return input.count
  }

  private mutating func fail(
    _ connection: Connection, _ input: Bytes, _ error: ProtocolError
  ) -> Int {
    statistics.errorReplies.add()
    context.server.log.verbose(
      "protocol error of client \(context.client.id) at \(context.client.address.text): \(error.text)"
    )
    context.reply.error(error.message)
    return finish(connection, input)
  }

  /// Takes up to a batch of requests from the input.
  ///
  /// A function of its own, like the next steps: together they would be too much for the
  /// processor's registers. Called once a batch.
  @inline(never)
  private mutating func parseBatch(
    _ input: Bytes, _ client: Client
  ) -> (count: Int, ending: Ending, isInline: Bool) {
    parser.startBatch()
    isUniform = true
    hasKeys = false
    // A request may be what authenticates the client, and so decides how the next one is read.
    parser.limits.isAuthenticated = !client.flags.contains(.mustAuthenticate)
    let limit = parser.limits.isAuthenticated ? Self.batchSize : 1
    var count = 0
    while count < limit {
      switch parser.next(input) {
      case .request:
        add(count, input)
        count &+= 1
      case .inlineRequest:
        // Inline arguments lie in a buffer that the next one would overwrite.
        if count > 0 {
          parser.rewind(to: unsafe batch[count &- 1].end)
        } else {
          add(0, parser.inlineBytes.bytes)
          return (1, .more, true)
        }
        return (count, .more, false)
      case .incomplete: return (count, .incomplete, false)
      // Nothing comes before it: the input was taken up to there.
      case .discarded: return (count, .discarded, false)
      case .failed(let error): return (count, .failed(error), false)
      case .crossProtocol: return (count, .crossProtocol, false)
      }
    }
    return (count, .more, false)
  }

  /// Puts the request that the parser has just found into the batch.
  @inline(__always)
  private mutating func add(_ index: Int, _ bytes: Bytes) {
    let first = parser.requestStart
    let request = parser.request(
      in: bytes, firstArgument: first, count: parser.arguments.count &- first)
    let command = unsafe table.find(request.name)
    var hash: UInt64 = 0
    if let command = unsafe command {
      hash = unsafe oneKeyHash(command, request)
      if hash != 0 { hasKeys = true }
    }
    unsafe batch[index] = Item(
      command: command, firstArgument: first, argumentCount: request.count, hash: hash,
      end: parser.position)
    if unsafe command != batch[0].command { isUniform = false }
  }

  /// The hash of the key of a request that names exactly one; else 0. A hash that is 0 takes the way of
  /// those with several keys, which is as good.
  @inline(__always)
  private func oneKeyHash(
    _ command: UnsafePointer<CommandTable.Row>, _ request: Request
  ) -> UInt64 {
    if unsafe !command.pointee.namesOneKey(argumentCount: request.count) { return 0 }
    return unsafe context.memory.hashing.hash(request.bytes(command.pointee.firstKey))
  }

  /// Asks for the memory of all requests of the batch, in two rounds that build on each other.
  ///
  /// The table is read under its lock, as everywhere; it is released again at once.
  @inline(never)
  private func prefetch(_ count: Int, _ database: Int) {
    let (shards, batch) = unsafe (shards, batch)
    for index in 0..<count {
      let hash = unsafe batch[index].hash
      if hash == 0 { continue }
      let shard = shards[hash: hash]
      shard.withLock { shard.keyspace(database).prefetchSlot(hash: hash) }
    }
    for index in 0..<count {
      let hash = unsafe batch[index].hash
      if hash == 0 { continue }
      let shard = shards[hash: hash]
      shard.withLock { shard.keyspace(database).prefetchEntry(hash: hash) }
    }
  }

  /// Counts `count` commands and the time they took, shared evenly among them.
  ///
  /// - Returns: The time now.
  @discardableResult
  @inline(never)
  private func account(_ count: Int, since start: Int) -> Int {
    let now = Clock.steadyNanoseconds
    let each = (now &- start) / count
    if isUniform, let command = unsafe batch[0].command {
      // Pipelines mostly repeat one command: it is counted at once.
      statistics.withCommand(unsafe command.pointee.index) {
        $0.calls.add(count)
        $0.nanoseconds.add(count &* each)
      }
    } else {
      for index in 0..<count {
        guard let command = unsafe batch[index].command else { continue }
        statistics.withCommand(unsafe command.pointee.index) {
          $0.calls.add()
          $0.nanoseconds.add(each)
        }
      }
    }
    if let last = unsafe batch[count &- 1].command {
      context.client.lastCommand = unsafe last.pointee.index
    }
    statistics.commandsProcessed.add(count)
    return now
  }

  // MARK: The gate

  /// Checks one request in the order in which a client notices, and runs it.
  @inline(__always)
  private mutating func execute(_ index: Int, _ bytes: Bytes, _ client: Client) {
    let item = unsafe batch + index
    let request = unsafe parser.request(
      in: bytes, firstArgument: item.pointee.firstArgument, count: item.pointee.argumentCount)
    if let command = unsafe item.pointee.command,
      unsafe command.pointee.canRun(argumentCount: request.count), client.flags.isEmpty
    {
      unsafe run(command, request, item.pointee.hash)
    } else {
      executeCarefully(index, request, client)
    }
  }

  /// Begins the reply to a command of a client that may not want one.
  private func beginReply(_ client: Client) -> OutputBuffer.Mark {
    if client.flags.contains(.skipNextReply) {
      client.flags.subtract(.skipNextReply)
      client.flags.insert(.skipReply)
    }
    return context.reply.output.mark
  }

  /// CLIENT REPLY OFF and SKIP: what was written is taken back.
  private mutating func endReply(_ client: Client, from start: OutputBuffer.Mark) {
    if !client.flags.isDisjoint(with: [.replyOff, .skipReply]) {
      context.dropReply(from: start)
      client.flags.remove(.skipReply)
    }
  }

  /// The same for what is not quite usual.
  @inline(never)
  private mutating func executeCarefully(_ index: Int, _ request: Request, _ client: Client) {
    let isSkipped = client.flags.contains(.skipNextReply)
    let start = beginReply(client)
    defer { endReply(client, from: start) }
    runCarefully(index, request, client, isSkipped: isSkipped)
    // CLIENT CACHING is about the next command or transaction.
    if client.flags.contains(.caching), !client.flags.contains(.transaction), !isPostponed,
      !request.name.equalsIgnoringCase("client")
    {
      client.flags.remove(.caching)
    }
  }

  @inline(__always)
  private mutating func runCarefully(
    _ index: Int, _ request: Request, _ client: Client, isSkipped: Bool
  ) {
    do throws(CommandError) {
      let command = try unsafe resolve(batch[index].command, request)
      // Statistics are kept for the subcommand.
      unsafe batch[index].command = command
      isUniform = false
      do throws(CommandError) {
        guard unsafe command.pointee.command.accepts(argumentCount: request.count) else {
          let name = unsafe command.pointee.command.name
          throw .arity(command: name)
        }
        if client.flags.contains(.mustAuthenticate),
          unsafe !command.pointee.flags.contains(.noAuth)
        {
          throw .notAuthenticated
        }
        if client.flags.contains(.subscriber), client.protocolVersion == 2,
          unsafe !command.pointee.flags.contains(.whileSubscribed)
        {
          let name = unsafe command.pointee.command.name
          throw .onlyWhileSubscribed(name)
        }
        if client.flags.contains(.gated) { try unsafe checkGate(command, client) }
        if client.flags.contains(.gated), unsafe mustWait(command, client) {
          isPostponed = true
          if isSkipped { client.flags.insert(.skipNextReply) }
          unsafe batch[index].command = nil
          return
        }
        if client.flags.contains(.transaction),
          unsafe !command.pointee.flags.contains(.unqueued)
        {
          try unsafe queue(command, request, client)
          // It counts when it runs.
          unsafe batch[index].command = nil
          return
        }
      } catch {
        statistics.withCommand(unsafe command.pointee.index) { $0.rejected.add() }
        unsafe batch[index].command = nil
        isUniform = false
        if unsafe command == exec {
          client.endTransaction(in: context.server.store)
          throw error.refusingTransaction
        }
        throw error
      }
      if client.flags.contains(.transaction), unsafe command == exec {
        client.lastCommand = unsafe command.pointee.index
        return executeTransaction(client)
      }
      // The batch was hashed by the container's row.
      unsafe batch[index].hash = oneKeyHash(command, request)
      // CLIENT LIST shows the command that asks, too.
      client.lastCommand = unsafe command.pointee.index
      if client.flags.contains(.tracking) {
        unsafe context.begin(command, request)
        context.rememberReads()
      }
      unsafe run(command, request, batch[index].hash)
    } catch {
      failTransaction(client)
      answer(error)
    }
  }

  /// Whether a command changes keys.
  private func writes(_ command: UnsafePointer<CommandTable.Row>, _ client: Client) -> Bool {
    if unsafe command == exec { return client.transaction?.hasWrites ?? false }
    return unsafe command.pointee.flags.contains(.write)
  }

  /// - Throws: `loading`, `cannotSave`, `cannotLog`.
  private func checkGate(
    _ command: UnsafePointer<CommandTable.Row>, _ client: Client
  ) throws(CommandError) {
    let gate = context.worker.gate
    let isExec = unsafe command == exec
    // Who only looks whether the server is well is told, too.
    if gate.refusal != nil,
      unsafe writes(command, client) || command.pointee.flags.contains(.tellsTrouble)
    {
      try context.checkWrites()
    }
    // Who looks a key up would see it expire, which may be given a longer life by what is still to be
    // read.
    if gate.isLoading, !isExec,
      unsafe command.pointee.flags.isDisjoint(with: [.loading, .whileLoading])
        || command.pointee.firstKey > 0
    {
      throw .loading
    }
  }

  /// Whether a command has to wait: for the end of a pause, or for the disk.
  private func mustWait(
    _ command: UnsafePointer<CommandTable.Row>, _ client: Client
  ) -> Bool {
    if context.worker.gate.isBehind, unsafe writes(command, client) { return true }
    guard let pause = context.worker.gate.pause else { return false }
    // Else nobody could end it.
    if unsafe command.pointee.flags.contains(.endsPause) { return false }
    if !pause.isForWrites { return true }
    if unsafe command == exec { return client.transaction?.hasWrites ?? false }
    return unsafe !command.pointee.flags.isDisjoint(with: [.write, .mayReplicate])
  }

  // MARK: Transactions

  /// A transaction runs as it was meant, or not at all.
  private func failTransaction(_ client: Client) {
    if client.flags.contains(.transaction) { client.transaction?.isFailed = true }
  }

  /// Keeps a request for EXEC.
  private mutating func queue(
    _ command: UnsafePointer<CommandTable.Row>, _ request: Request, _ client: Client
  ) throws(CommandError) {
    if unsafe command.pointee.flags.contains(.noMulti) { throw .notInTransaction }
    // Whatever it is, it takes memory until it runs.
    if context.isLimited {
      unsafe context.begin(command, request)
      try context.makeRoom(forCommand: request.byteCount)
      context.hasRoom = false
    }
    guard client.queue(request, row: unsafe command.pointee.index) else {
      throw .transactionTooLong
    }
    if unsafe !command.pointee.flags.isDisjoint(with: [.write, .mayReplicate]) {
      client.transaction?.hasWrites = true
    }
    context.reply.status("QUEUED")
  }

  /// Runs what is queued, under the locks of all its keys and of those that are watched.
  private mutating func executeTransaction(_ client: Client) {
    guard let transaction = client.transaction else { return }
    client.flags.remove(.transaction)
    // When no lock is held any more.
    defer { client.endTransaction(in: context.server.store) }
    if transaction.isFailed { return answer(.transactionAborted) }
    do throws(CommandError) {
      try context.prepareMemory(of: transaction)
    } catch {
      return answer(error.refusingTransaction)
    }
    defer { context.endTransaction() }
    var named = ShardSet()
    var isWhole = false
    for index in 0..<transaction.commands.count {
      context.begin(transaction, index)
      context.hashKeys()
      named.formUnion(context.named)
      if unsafe context.row.pointee.flags.contains(.wholeKeyspace) { isWhole = true }
    }
    for watched in transaction.watched { named.insert(hash: watched.hash) }
    if isWhole { named = .all }
    named.lock(in: shards)
    defer { named.unlock(in: shards) }
    if context.hasChanged(transaction) { return context.reply.nullArray() }
    context.beginTransaction(isWhole: isWhole)
    context.reply.array(transaction.commands.count)
    for index in 0..<transaction.commands.count {
      context.begin(transaction, index)
      context.hashKeys()
      executeQueued()
    }
    context.commitChanges()
    statistics.commandsProcessed.add(transaction.commands.count)
  }

  private mutating func executeQueued() {
    let command = unsafe context.row
    let start = Clock.steadyNanoseconds
    if context.client.flags.contains(.tracking) { context.rememberReads() }
    do throws(CommandError) {
      try unsafe context.call(command)
    } catch {
      statistics.withCommand(unsafe command.pointee.index) { $0.failed.add() }
      answer(error)
    }
    let elapsed = Clock.steadyNanoseconds - start
    statistics.withCommand(unsafe command.pointee.index) {
      $0.calls.add()
      $0.nanoseconds.add(elapsed)
    }
  }

  /// The row of a request: the command's, or that of its subcommand.
  private func resolve(
    _ command: UnsafePointer<CommandTable.Row>?, _ request: Request
  ) throws(CommandError) -> UnsafePointer<CommandTable.Row> {
    guard let command = unsafe command else {
      throw .unknownCommand(
        name: request.name.prefix(Self.unknownTextBytes).array, arguments: quoted(request))
    }
    if unsafe !command.pointee.isContainer || request.count < 2 { return unsafe command }
    guard let subcommand = unsafe table.find(request[1], in: command) else {
      let container = unsafe command.pointee.command.name
      throw .unknownSubcommand(
        name: request[1].prefix(Self.unknownTextBytes).array, container: container)
    }
    return unsafe subcommand
  }

  private static let unknownTextBytes = 128

  /// The arguments as the error for an unknown command shows them.
  private func quoted(_ request: Request) -> [UInt8] {
    var text: [UInt8] = []
    for index in 1..<max(1, request.count) where text.count < Self.unknownTextBytes {
      let room = Self.unknownTextBytes - text.count
      text += [UInt8(ascii: "'")] + request[index].prefix(room).array
      text += [UInt8(ascii: "'"), UInt8(ascii: " ")]
    }
    return text
  }

  /// Runs a command under the locks of its keys.
  @inline(__always)
  private mutating func run(
    _ command: UnsafePointer<CommandTable.Row>, _ request: Request, _ hash: UInt64
  ) {
    unsafe context.begin(command, request)
    if unsafe command.pointee.needsMemory,
      context.isLimited || request.byteCount > LongValue.shortMax
    {
      return unsafe runWithMemory(command, request, hash)
    }
    unsafe call(command, request, hash)
  }

  /// The same for a command that needs more memory than goes without saying.
  @inline(never)
  private mutating func runWithMemory(
    _ command: UnsafePointer<CommandTable.Row>, _ request: Request, _ hash: UInt64
  ) {
    do throws(CommandError) {
      try context.prepareMemory()
    } catch {
      statistics.withCommand(unsafe command.pointee.index) { $0.rejected.add() }
      return answer(error)
    }
    unsafe call(command, request, hash)
    context.releaseLongValues()
    // What it had sent in pieces has been dealt with; requests behind it count for themselves.
    context.countArriving(0)
  }

  @inline(__always)
  private mutating func call(
    _ command: UnsafePointer<CommandTable.Row>, _ request: Request, _ hash: UInt64
  ) {
    do throws(CommandError) {
      try unsafe runLocked(command, request, hash)
    } catch {
      unsafe didFail(command, request, hash, error)
    }
  }

  @inline(__always)
  private mutating func runLocked(
    _ command: UnsafePointer<CommandTable.Row>, _ request: Request, _ hash: UInt64
  ) throws(CommandError) {
    if hash != 0 {
      context.setHash(hash, of: unsafe command.pointee.firstKey)
      let shard = shards[hash: hash]
      shard.lock()
      defer { shard.unlock() }
      try unsafe context.call(command)
    } else if unsafe command.pointee.firstKey == 0 {
      try unsafe context.call(command)
    } else {
      try unsafe runWithManyKeys(command)
    }
  }

  /// Answers an error, unless making room helps.
  @inline(never)
  private mutating func didFail(
    _ command: UnsafePointer<CommandTable.Row>, _ request: Request, _ hash: UInt64,
    _ error: CommandError
  ) {
    var error = error
    if case .needsRoom(let bytes) = error {
      do throws(CommandError) {
        try context.makeRoom(forCommand: bytes)
        defer { context.hasRoom = false }
        return try unsafe runLocked(command, request, hash)
      } catch let second {
        error = second
      }
    }
    statistics.withCommand(unsafe command.pointee.index) { $0.failed.add() }
    answer(error)
  }

  /// The same for a command that names several keys.
  @inline(never)
  private mutating func runWithManyKeys(
    _ command: UnsafePointer<CommandTable.Row>
  ) throws(CommandError) {
    context.lockKeys()
    defer { context.unlockKeys() }
    try unsafe context.call(command)
  }

  @inline(never)
  private mutating func answer(_ error: CommandError) {
    statistics.errorReplies.add()
    context.reply.error(error.message)
  }
}

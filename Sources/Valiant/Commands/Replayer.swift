/// Repeats the commands of an append log, as if a client sent them whom nobody answers.
///
/// Nothing expires meanwhile: what has expired is removed by a command of the log.
///
/// Belongs to the thread that loads. Invariant: `context` is initialised from `init` to `end`.
@safe final class Replayer: LogReplaying {
  private let context: UnsafeMutablePointer<CommandContext>
  private let client: Client
  private var parser = RequestParser()
  private let table = CommandTable.shared
  private let shards: ShardArray
  /// Commands between MULTI and EXEC.
  private var transaction: Transaction?
  private(set) var openTransaction: Int?
  private(set) var commandCount = 0

  init(server: Server, worker: Worker) {
    client = Client(
      id: 0, workerIndex: worker.index, address: Socket.Address(text: ""),
      localAddress: Socket.Address(text: ""), flags: [])
    parser.limits.bulkLengthMax = Store.lengthMax
    shards = server.store.shards
    let idle = parser.request(in: .empty, firstArgument: 0, count: 0)
    unsafe context = .allocate(capacity: 1)
    unsafe context.initialize(
      to: CommandContext(
        server: server, worker: worker, idle: idle, client: client,
        connection: Connection(base: client.pointer)))
  }

  func end() {
    unsafe context.deinitialize(count: 1)
    unsafe context.deallocate()
    client.free()
  }

  func run(_ commands: Bytes, at offset: Int) throws(ReplayFailure) {
    unsafe context.pointee.begin(at: .now)
    unsafe context.pointee.now = .never
    var left = commands
    var start = offset
    parser.rewind(to: 0)
    while !left.isEmpty {
      parser.startBatch()
      guard case .request = parser.next(left) else {
        throw ReplayFailure(offset: start, text: "it is damaged: no command begins here")
      }
      let request = parser.request(
        in: left, firstArgument: parser.requestStart,
        count: parser.arguments.count - parser.requestStart)
      do throws(CommandError) {
        try run(request, at: start)
      } catch {
        let name = String(decoding: request[0].prefix(64).array, as: UTF8.self)
        let text = String(decoding: error.message, as: UTF8.self)
        throw ReplayFailure(offset: start, text: "cannot repeat '\(name)': \(text)")
      }
      start += parser.consumed
      left = left.dropFirst(parser.consumed)
      parser.rewind(to: 0)
    }
  }

  private func run(_ request: Request, at offset: Int) throws(CommandError) {
    guard let row = unsafe table.find(request[0]) else {
      throw .unknownCommand(name: request[0].prefix(64).array, arguments: [])
    }
    guard unsafe row.pointee.command.accepts(argumentCount: request.count) else {
      throw .arity(command: unsafe row.pointee.command.name)
    }
    switch unsafe row.pointee.command.name {
    case "multi":
      if transaction != nil { throw .nestedTransaction }
      transaction = Transaction()
      openTransaction = offset
    case "exec":
      guard let transaction else { throw .noTransaction("EXEC") }
      self.transaction = nil
      openTransaction = nil
      for queued in transaction.commands {
        try unsafe apply(table.rows + queued.row, transaction.request(queued))
      }
    default:
      if let transaction {
        guard transaction.append(request, row: unsafe row.pointee.index) else {
          throw .transactionTooLong
        }
      } else {
        try unsafe apply(row, request)
      }
    }
  }

  private func apply(
    _ row: UnsafePointer<CommandTable.Row>, _ request: Request
  ) throws(CommandError) {
    let isWriting = unsafe !row.pointee.flags.isDisjoint(with: [.write, .repeatable])
    guard isWriting || (unsafe row.pointee.command.name == "select") else {
      throw .unknownCommand(name: request[0].prefix(64).array, arguments: [])
    }
    commandCount += 1
    unsafe context.pointee.begin(row, request)
    try unsafe context.pointee.copyLongValues()
    defer {
      unsafe context.pointee.releaseLongValues()
      unsafe context.pointee.reply.output.reset()
    }
    let named = unsafe context.pointee.hashKeys()
    named.lock(in: shards)
    defer { named.unlock(in: shards) }
    try unsafe row.pointee.call(&context.pointee)
  }
}

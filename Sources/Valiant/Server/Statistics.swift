/// What one loop has done; INFO adds up those of all loops.
///
/// The loop's thread counts, every thread may read.
///
/// Invariant: `commands` points to `commandCount` initialised counters.
@safe final class Statistics: Sendable {
  let connectionsReceived = Counter()
  let connectionsRejected = Counter()
  let commandsProcessed = Counter()
  let inputBytes = Counter()
  let outputBytes = Counter()
  let keyspaceHits = Counter()
  let keyspaceMisses = Counter()
  let errorReplies = Counter()
  let outputLimitDisconnections = Counter()
  let queryBufferLimitDisconnections = Counter()
  let evictedClients = Counter()

  /// What one command has cost.
  struct CommandCounters: ~Copyable {
    let calls = Counter()
    let nanoseconds = Counter()
    /// Refused before the command ran: arity, authentication.
    let rejected = Counter()
    /// The command answered an error.
    let failed = Counter()
  }

  let commandCount: Int
  nonisolated(unsafe) private let commands: UnsafeMutablePointer<CommandCounters>

  init(commandCount: Int) {
    self.commandCount = commandCount
    unsafe commands = .allocate(capacity: commandCount)
    for index in 0..<commandCount {
      unsafe (commands + index).initialize(to: CommandCounters())
    }
  }

  deinit {
    unsafe commands.deinitialize(count: commandCount)
    unsafe commands.deallocate()
  }

  /// The counters of the command with this index.
  @inline(__always)
  func withCommand<Result>(_ index: Int, _ body: (borrowing CommandCounters) -> Result) -> Result {
    precondition(UInt(bitPattern: index) < UInt(bitPattern: commandCount), "no such command")
    return body(unsafe commands[index])
  }

  /// Begins again with zeros. On the loop's thread.
  func reset() {
    connectionsReceived.reset()
    connectionsRejected.reset()
    commandsProcessed.reset()
    inputBytes.reset()
    outputBytes.reset()
    keyspaceHits.reset()
    keyspaceMisses.reset()
    errorReplies.reset()
    outputLimitDisconnections.reset()
    queryBufferLimitDisconnections.reset()
    evictedClients.reset()
    for index in 0..<commandCount {
      withCommand(index) { command in
        command.calls.reset()
        command.nanoseconds.reset()
        command.rejected.reset()
        command.failed.reset()
      }
    }
  }

  /// The sum of one counter over `all`.
  static func sum(
    _ all: [Statistics], _ counter: (Statistics) -> Int
  ) -> Int {
    all.reduce(0) { $0 + counter($1) }
  }
}

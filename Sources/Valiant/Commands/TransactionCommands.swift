/// Commands that run others together, isolated from all other clients.
///
/// Between MULTI and EXEC the dispatcher queues what comes, and runs EXEC itself.
enum TransactionCommands: CommandFamily {
  static let category = Command.Category.transaction

  private static let flags: Command.Flags = [
    .noscript, .loading, .stale, .fast, .allowBusy, .unqueued,
  ]

  static let commands: [Command] = [
    Command(
      "MULTI", arity: 1, flags: flags, summary: "Starts a transaction.", since: "1.2.0",
      handler: begin),
    Command(
      "EXEC", arity: 1, flags: [.noscript, .loading, .stale, .skipSlowlog, .unqueued],
      summary: "Executes all commands in a transaction.",
      complexity: "Depends on commands in the transaction", since: "1.2.0",
      handler: { context throws(CommandError) in throw .noTransaction("EXEC") }),
    Command(
      "DISCARD", arity: 1, flags: flags, summary: "Discards a transaction.",
      complexity: "O(N), when N is the number of queued commands", since: "2.0.0",
      handler: discard),
    Command(
      "WATCH key [key ...]", arity: -2, flags: flags, keys: .all("RO"),
      summary: "Monitors changes to keys to determine the execution of a transaction.",
      complexity: "O(1) for every key.", since: "2.2.0", handler: watch),
    Command(
      "UNWATCH", arity: 1, flags: [.noscript, .loading, .stale, .fast, .allowBusy],
      summary: "Forgets about watched keys of a transaction.",
      complexity: "O(N) where N is the number of watched keys.", since: "2.2.0",
      handler: unwatch),
  ]

  private static func begin(_ context: inout CommandContext) throws(CommandError) {
    if context.client.flags.contains(.transaction) { throw .nestedTransaction }
    context.client.beginTransaction()
    context.reply.ok()
  }

  private static func discard(_ context: inout CommandContext) throws(CommandError) {
    guard context.client.flags.contains(.transaction) else { throw .noTransaction("DISCARD") }
    context.client.endTransaction(in: context.server.store)
    context.reply.ok()
  }

  private static func watch(_ context: inout CommandContext) throws(CommandError) {
    if context.client.flags.contains(.transaction) { throw .watchInTransaction }
    let transaction = context.client.watchingTransaction
    for index in 1..<context.request.count { context.watch(index, for: transaction) }
    context.reply.ok()
  }

  /// In a transaction it is queued; then EXEC has ended the watching already.
  private static func unwatch(_ context: inout CommandContext) throws(CommandError) {
    if !context.isInTransaction { context.client.endTransaction(in: context.server.store) }
    context.reply.ok()
  }
}

/// Commands on keys, whatever they hold.
enum KeyCommands: CommandFamily {
  static let category = Command.Category.keyspace
  static let commands: [Command] = [
    Command(
      "DEL key [key ...]", arity: -2, flags: [.write], keys: .all("RM", "delete"),
      summary: "Deletes one or more keys.", complexity: "O(N) where N is the number of keys.",
      handler: delete),
    // Memory is freed lazily by both where that would take time.
    Command(
      "UNLINK key [key ...]", arity: -2, flags: [.write, .fast], keys: .all("RM", "delete"),
      summary: "Asynchronously deletes one or more keys.",
      complexity: "O(N) where N is the number of keys.", since: "4.0.0", handler: delete),
    Command(
      "EXISTS key [key ...]", arity: -2, flags: [.readonly, .fast], keys: .all("RO"),
      summary: "Determines whether one or more keys exist.",
      complexity: "O(N) where N is the number of keys.", handler: exists),
    Command(
      "TTL key", arity: 2, flags: [.readonly, .fast], keys: .one("RO", "access"),
      summary: "Returns the expiration time in seconds of a key.", handler: timeToLiveInSeconds),
    Command(
      "PTTL key", arity: 2, flags: [.readonly, .fast], keys: .one("RO", "access"),
      summary: "Returns the expiration time in milliseconds of a key.", since: "2.6.0",
      handler: timeToLive),
  ]

  private static func delete(_ context: inout CommandContext) throws(CommandError) {
    var removed = 0
    for index in 1..<context.request.count where context.remove(index) { removed += 1 }
    context.reply.integer(removed)
  }

  private static func exists(_ context: inout CommandContext) throws(CommandError) {
    var found = 0
    for index in 1..<context.request.count where context.entry(index) != nil { found += 1 }
    context.reply.integer(found)
  }

  private static func timeToLiveInSeconds(_ context: inout CommandContext) throws(CommandError) {
    let milliseconds = millisecondsLeft(context)
    context.reply.integer(milliseconds < 0 ? milliseconds : (milliseconds + 500) / 1000)
  }

  private static func timeToLive(_ context: inout CommandContext) throws(CommandError) {
    context.reply.integer(millisecondsLeft(context))
  }

  /// -2 for a missing key, -1 for one that does not expire.
  private static func millisecondsLeft(_ context: borrowing CommandContext) -> Int {
    guard let entry = context.entry(1) else { return -2 }
    guard let deadline = entry.deadline else { return -1 }
    return deadline.milliseconds - context.now.milliseconds
  }
}

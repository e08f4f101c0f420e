/// Commands on keys, whatever they hold.
enum KeyCommands: CommandFamily {
  static let category = Command.Category.keyspace
  static let commands: [Command] = [
    Command(
      "DEL key [key ...]", arity: -2, flags: [.write], keys: .all("RM", "delete"),
      tips: ["request_policy:multi_shard", "response_policy:agg_sum"],
      summary: "Deletes one or more keys.", complexity: "O(N) where N is the number of keys.",
      handler: delete),
    // Memory is freed lazily by both where that would take time.
    Command(
      "UNLINK key [key ...]", arity: -2, flags: [.write, .fast], keys: .all("RM", "delete"),
      tips: ["request_policy:multi_shard", "response_policy:agg_sum"],
      summary: "Asynchronously deletes one or more keys.",
      complexity: "O(N) where N is the number of keys.", since: "4.0.0", handler: delete),
    Command(
      "EXISTS key [key ...]", arity: -2, flags: [.readonly, .fast], keys: .all("RO"),
      tips: ["request_policy:multi_shard", "response_policy:agg_sum"],
      summary: "Determines whether one or more keys exist.",
      complexity: "O(N) where N is the number of keys.", handler: exists),
    Command(
      "TOUCH key [key ...]", arity: -2, flags: [.readonly, .fast], keys: .all("RO"),
      tips: ["request_policy:multi_shard", "response_policy:agg_sum"],
      summary: "Notes a use of one or more keys and returns how many of them exist.",
      complexity: "O(N) where N is the number of keys.", since: "3.2.1", handler: touch),
    Command(
      "TYPE key", arity: 2, flags: [.readonly, .fast], keys: .one("RO"),
      summary: "Determines the type of value stored at a key.", handler: type),
  ]

  private static func delete(_ context: inout CommandContext) throws(CommandError) {
    var removed = 0
    for index in 1..<context.request.count where context.remove(index) { removed += 1 }
    context.reply.integer(removed)
  }

  private static func exists(_ context: inout CommandContext) throws(CommandError) {
    var found = 0
    for index in 1..<context.request.count where context.look(index) != nil { found += 1 }
    context.reply.integer(found)
  }

  /// Also for a client whose other commands are no uses.
  private static func touch(_ context: inout CommandContext) throws(CommandError) {
    context.noteUses()
    defer { if context.leavesAlone { context.renewAccess() } }
    var found = 0
    for index in 1..<context.request.count where context.stringIfAny(index) != nil { found += 1 }
    context.reply.integer(found)
  }

  private static func type(_ context: inout CommandContext) throws(CommandError) {
    context.reply.status(context.look(1) == nil ? "none" : "string")
  }
}

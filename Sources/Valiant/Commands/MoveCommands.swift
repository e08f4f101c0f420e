/// Commands that give a value to another key, or to another database.
enum MoveCommands: CommandFamily {
  static let category = Command.Category.keyspace
  static let commands: [Command] = [
    Command(
      "RENAME key newkey", arity: 3, flags: [.write, .repeatable],
      keys: .parts(.range(1, 1, "RW", "access", "delete"), .range(2, 2, "OW", "update")),
      summary: "Renames a key and overwrites the destination.",
      handler: { context throws(CommandError) in
        if try rename(&context, overwrites: true) { context.reply.ok() }
      }),
    Command(
      "RENAMENX key newkey", arity: 3, flags: [.write, .fast, .repeatable],
      keys: .parts(.range(1, 1, "RW", "access", "delete"), .range(2, 2, "OW", "insert")),
      summary: "Renames a key only when the target key name doesn't exist.",
      handler: { context throws(CommandError) in
        context.reply.integer(try rename(&context, overwrites: false) ? 1 : 0)
      }),
    Command(
      "COPY source destination [DB destination-db] [REPLACE]", arity: -3,
      flags: [.write, .denyoom, .repeatable],
      keys: .parts(.range(1, 1, "RO", "access"), .range(2, 2, "OW", "update")),
      summary: "Copies the value of a key to a new key.",
      complexity: "O(N) where N is the length of the value.", since: "6.2.0", handler: copy),
    Command(
      "MOVE key db", arity: 3, flags: [.write, .fast, .repeatable],
      keys: .one("RW", "access", "update"),
      summary: "Moves a key to another database.", handler: move),
    Command(
      "SWAPDB index1 index2", arity: 3, flags: [.write, .fast, .dangerous, .wholeKeyspace],
      summary: "Swaps two databases.", since: "4.0.0", handler: swap),
  ]

  /// - Returns: False when the new name is taken and must not be overwritten.
  private static func rename(
    _ context: inout CommandContext, overwrites: Bool
  ) throws(CommandError) -> Bool {
    guard let entry = context.entry(1) else { throw .noSuchKey }
    if context.request[1] == context.request[2] {
      context.touch(entry)
      return overwrites
    }
    if !overwrites, let other = context.entry(2) {
      context.touch(other)
      // Looked up again: the other one may have moved it.
      context.touch(context.entry(1))
      return false
    }
    try context.move(1, to: context.key(2))
    context.tell(.new, 2)
    context.tell(.generic("rename_from"), 1)
    context.tell(.generic("rename_to"), 2)
    return true
  }

  private static func move(_ context: inout CommandContext) throws(CommandError) {
    let database = try context.database(2)
    if database == context.client.database { throw .sameObject }
    let target = context.key(1, database: database)
    guard context.entry(1) != nil, context.entry(of: target) == nil else {
      return context.reply.integer(0)
    }
    try context.move(1, to: target)
    context.tell(.new, 1, database: database)
    context.tell(.generic("move_from"), 1)
    context.tell(.generic("move_to"), 1, database: database)
    context.reply.integer(1)
  }

  private static func copy(_ context: inout CommandContext) throws(CommandError) {
    let request = context.request
    var database = context.client.database
    var overwrites = false
    var index = 3
    while index < request.count {
      if request[index].equalsIgnoringCase("REPLACE") {
        overwrites = true
      } else if request[index].equalsIgnoringCase("DB"), index + 1 < request.count {
        index += 1
        database = try context.database(index)
      } else {
        throw .syntax
      }
      index += 1
    }
    if database == context.client.database, request[1] == request[2] { throw .sameObject }
    let target = context.key(2, database: database)
    let source = context.look(1)
    context.touch(source)
    guard source != nil, overwrites || context.entry(of: target) == nil else {
      return context.reply.integer(0)
    }
    try context.copy(1, to: target)
    context.tell(.new, 2, database: database)
    context.tell(.generic("copy_to"), 2, database: database)
    context.reply.integer(1)
  }

  private static func swap(_ context: inout CommandContext) throws(CommandError) {
    var databases: [Int] = []
    for index in 1...2 {
      guard let number = context.request[index].integer, Int32(exactly: number) != nil else {
        throw .invalidDatabase(index == 1 ? "first" : "second")
      }
      databases.append(number)
    }
    for database in databases where !(0..<Store.databaseCount).contains(database) {
      throw .databaseOutOfRange
    }
    context.server.store.swap(
      databases[0], databases[1], isLocked: context.holdsAllShards, by: context.memory)
    context.reply.ok()
  }
}

/// MEMORY: where the memory is.
enum MemoryCommands: CommandFamily {
  static let category = Command.Category.server
  static let commands: [Command] = [
    .container(
      "MEMORY", summary: "A container for memory diagnostics commands.", since: "4.0.0",
      [
        Command(
          "MEMORY STATS", arity: 2, flags: .wholeKeyspace,
          tips: [
            "nondeterministic_output", "request_policy:all_shards", "response_policy:special",
          ], summary: "Returns details about memory usage.",
          since: "4.0.0", handler: statistics),
        Command(
          "MEMORY USAGE key [SAMPLES count]", arity: -3, flags: [.readonly],
          keys: .second("RO"), summary: "Estimates the memory usage of a key.", since: "4.0.0",
          handler: usage),
        .help("MEMORY", since: "4.0.0"),
      ])
  ]

  private static func usage(_ context: inout CommandContext) throws(CommandError) {
    let request = context.request
    if request.count > 3 {
      guard request.count == 5, request[3].equalsIgnoringCase("SAMPLES") else { throw .syntax }
      guard try context.integer(4) >= 0 else { throw .syntax }
    }
    let key = context.key(2)
    guard let entry = context.entry(2) else { return context.reply.null() }
    // Its share of the table, which is about ten bytes.
    context.reply.integer(entry.footprint + key.keyspace.tableBytes / max(1, key.keyspace.count))
  }

  private static func statistics(_ context: inout CommandContext) throws(CommandError) {
    let usage = MemoryUsage(context.server, isLocked: context.holdsAllShards)
    let resident = ProcessUsage.residentBytes
    let databases = (0..<Store.databaseCount).compactMap {
      database -> (name: String, census: Store.Census)? in
      let census = context.server.store.census(
        databases: database...database, isLocked: context.holdsAllShards)
      return census.keys > 0 ? ("db.\(database)", census) : nil
    }
    let numbers: [(String, Int)] = [
      ("total.allocated", usage.total),
      ("startup.allocated", usage.startup),
      ("replication.backlog", 0),
      ("clients.slaves", 0),
      ("clients.normal", usage.clients),
      ("aof.caches", 0),
    ]
    let more: [(String, Int)] = [
      ("overhead.total", usage.total - usage.dataset),
      ("keys.count", usage.store.keys),
      ("keys.bytes-per-key", (usage.total - usage.startup) / max(1, usage.store.keys)),
      ("dataset.bytes", usage.dataset),
      ("entries.dead", usage.store.entries.dead),
      ("entries.spare", usage.store.entries.spare),
      ("pool.spare", usage.poolSpare),
      ("allocator.allocated", usage.store.bytes),
      ("allocator.resident", usage.store.bytes + usage.poolSpare),
      ("rss-overhead.bytes", resident - usage.total),
    ]
    context.reply.map(numbers.count + databases.count + more.count)
    for (name, value) in numbers {
      context.reply.bulkString(name)
      context.reply.integer(value)
    }
    for (name, census) in databases {
      context.reply.bulkString(name)
      context.reply.map(2)
      context.reply.bulkString("overhead.hashtable.main")
      context.reply.integer(census.tableBytes)
      context.reply.bulkString("overhead.hashtable.expires")
      context.reply.integer(0)
    }
    for (name, value) in more {
      context.reply.bulkString(name)
      context.reply.integer(value)
    }
  }
}

/// OBJECT and MEMORY: what is known of a key besides its value, and where the memory is.
enum MemoryCommands: CommandFamily {
  static let category = Command.Category.server
  static let commands: [Command] = [
    .container(
      "MEMORY", summary: "A container for memory diagnostics commands.", since: "4.0.0",
      [
        Command(
          "MEMORY STATS", arity: 2, flags: [], summary: "Returns details about memory usage.",
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
    context.reply.integer(entry.size + key.keyspace.tableBytes / max(1, key.keyspace.count))
  }

  private static func statistics(_ context: inout CommandContext) throws(CommandError) {
    let usage = MemoryUsage(context.server)
    let resident = ProcessUsage.residentBytes
    let databases = (0..<Store.databaseCount).compactMap {
      database -> (name: String, census: Store.Census)? in
      let census = context.server.store.census(databases: database...database)
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

/// OBJECT: how a value is kept, and when it was last used.
enum ObjectCommands: CommandFamily {
  static let category = Command.Category.keyspace
  static let commands: [Command] = [
    .container(
      "OBJECT", summary: "A container for object introspection commands.", since: "2.2.3",
      [
        Command(
          "OBJECT ENCODING key", arity: 3, flags: [.readonly], keys: .second("RO"),
          summary: "Returns the internal encoding of a Redis object.", since: "2.2.3",
          handler: encoding),
        Command(
          "OBJECT FREQ key", arity: 3, flags: [.readonly], keys: .second("RO"),
          summary: "Returns the logarithmic access frequency counter of a Redis object.",
          since: "4.0.0", handler: frequency),
        Command(
          "OBJECT IDLETIME key", arity: 3, flags: [.readonly], keys: .second("RO"),
          summary: "Returns the time since the last access to a Redis object.", since: "2.2.3",
          handler: idleTime),
        Command(
          "OBJECT REFCOUNT key", arity: 3, flags: [.readonly], keys: .second("RO"),
          summary: "Returns the reference count of a value of a key.", since: "2.2.3",
          handler: referenceCount),
        .help("OBJECT", since: "6.2.0"),
      ])
  ]

  private static func encoding(_ context: inout CommandContext) throws(CommandError) {
    guard let entry = context.entry(2) else { return context.reply.null() }
    switch entry.value {
    case .integer: context.reply.bulkString("int")
    // The border at which Redis keeps a string in a block of its own.
    case .bytes(let bytes): context.reply.bulkString(bytes.count <= 44 ? "embstr" : "raw")
    }
  }

  private static func frequency(_ context: inout CommandContext) throws(CommandError) {
    guard let entry = context.entry(2) else { return context.reply.null() }
    let access = context.memory.access
    guard access.kind == .frequency else { throw .frequencyNotTracked }
    context.reply.integer(access.frequency(entry.access))
  }

  private static func idleTime(_ context: inout CommandContext) throws(CommandError) {
    guard let entry = context.entry(2) else { return context.reply.null() }
    let access = context.memory.access
    guard access.kind != .frequency else { throw .idleTimeNotTracked }
    context.reply.integer(access.idleSeconds(entry.access))
  }

  private static func referenceCount(_ context: inout CommandContext) throws(CommandError) {
    guard context.entry(2) != nil else { return context.reply.null() }
    context.reply.integer(1)
  }
}

/// Commands about the server and its databases as a whole.
enum ServerCommands: CommandFamily {
  static let category = Command.Category.server
  static let commands: [Command] = [
    Command(
      "DBSIZE", arity: 1, flags: [.readonly, .fast, .wholeKeyspace],
      tips: ["request_policy:all_shards", "response_policy:agg_sum"],
      summary: "Returns the number of keys in the database.", handler: databaseSize),
    Command(
      "FLUSHDB [ASYNC|SYNC]", arity: -1, flags: [.write, .dangerous, .wholeKeyspace],
      tips: ["request_policy:all_shards", "response_policy:all_succeeded"],
      summary: "Removes all keys from the current database.",
      complexity: "O(N) where N is the number of keys in the selected database.",
      handler: { context throws(CommandError) in
        let database = context.client.database
        try flush(database...database, &context)
      }),
    Command(
      "FLUSHALL [ASYNC|SYNC]", arity: -1, flags: [.write, .dangerous, .wholeKeyspace],
      tips: ["request_policy:all_shards", "response_policy:all_succeeded"],
      summary: "Removes all keys from all databases.",
      complexity: "O(N) where N is the total number of keys in all databases.",
      handler: { context throws(CommandError) in
        try flush(0...Store.databaseCount - 1, &context)
      }),
    Command(
      "INFO [section [section ...]]", arity: -1,
      flags: [.loading, .stale, .dangerous, .wholeKeyspace],
      tips: ["nondeterministic_output", "request_policy:all_shards", "response_policy:special"],
      summary: "Returns information and statistics about the server.", handler: info),
    Command(
      "LOLWUT [VERSION version]", arity: -1, flags: [.readonly, .fast],
      summary: "Displays computer art and the version.", since: "5.0.0", handler: art),
    Command(
      "TIME", arity: 1, flags: [.loading, .stale, .fast],
      tips: ["nondeterministic_output"], summary: "Returns the server time.", since: "2.6.0",
      handler: time),
    Command(
      "SHUTDOWN [NOSAVE|SAVE] [NOW] [FORCE] [ABORT]", arity: -1,
      flags: [.admin, .noscript, .loading, .stale, .noMulti, .allowBusy],
      summary: "Shuts down the server.", handler: shutdown),
  ]

  private static func databaseSize(_ context: inout CommandContext) throws(CommandError) {
    let database = context.client.database
    let census = context.server.store.census(
      databases: database...database, isLocked: context.holdsAllShards)
    context.reply.integer(census.keys)
  }

  private static func flush(
    _ databases: ClosedRange<Int>, _ context: inout CommandContext
  ) throws(CommandError) {
    let request = context.request
    if request.count > 1 {
      guard request.count == 2,
        request[1].equalsIgnoringCase("SYNC") || request[1].equalsIgnoringCase("ASYNC")
      else { throw .syntax }
    }
    let removed = context.server.store.takeAll(
      databases: databases, isLocked: context.holdsAllShards, by: context.memory)
    // The keys are gone for everybody. Their memory is freed elsewhere in any case: no client of
    // this loop should have to wait for that because one said SYNC.
    Background.run { pause in removed.free(pause) }
    if databases.count == Store.databaseCount {
      context.server.saving.didRemoveAll(on: context.server, isLocked: context.holdsAllShards)
    }
    context.reply.ok()
  }

  /// Rule 30, from one cell down, between the words.
  private static func art(_ context: inout CommandContext) throws(CommandError) {
    if context.request.count > 2, context.request[1].equalsIgnoringCase("VERSION") {
      _ = try context.integer(2)
    }
    let width = 64
    var row: UInt64 = 1 << 32
    var lines: [String] = []
    for _ in 0..<width / 2 {
      lines.append(String((0..<width).map { row >> UInt64($0) & 1 == 1 ? "#" : " " }))
      row = row << 1 ^ (row | row >> 1)
    }
    context.reply.verbatim(
      lines.joined(separator: "\n") + "\n\nValiant ver. \(Version.valiant)\n")
  }

  private static func time(_ context: inout CommandContext) throws(CommandError) {
    let microseconds = Clock.wallMicroseconds
    context.reply.array(2)
    context.reply.bulkString(microseconds / 1_000_000)
    context.reply.bulkString(microseconds % 1_000_000)
  }

  private static func info(_ context: inout CommandContext) throws(CommandError) {
    var names: [String] = []
    for index in 1..<max(1, context.request.count) {
      names.append(context.request[index].text.lowercased())
    }
    context.reply.verbatim(
      Information(
        server: context.server, asker: context.worker, isLocked: context.holdsAllShards
      ).text(sections: names))
  }

  private static func shutdown(_ context: inout CommandContext) throws(CommandError) {
    var aborts = false
    var saves = false
    var skips = false
    var isForced = false
    var isNow = false
    for index in 1..<max(1, context.request.count) {
      let option = context.request[index]
      if option.equalsIgnoringCase("ABORT") {
        aborts = true
      } else if option.equalsIgnoringCase("SAVE") {
        saves = true
      } else if option.equalsIgnoringCase("NOSAVE") {
        skips = true
      } else if option.equalsIgnoringCase("NOW") {
        isNow = true
      } else if option.equalsIgnoringCase("FORCE") {
        isForced = true
      } else {
        throw .syntax
      }
    }
    if (aborts && (saves || skips || isForced || isNow)) || (saves && skips) { throw .syntax }
    if aborts { throw .noShutdown }
    let server = context.server
    let wanted = saves ? true : skips ? false : nil
    if !isForced, let problem = server.savingProblem(wanted) {
      server.log.warning("not shutting down: \(problem)")
      throw .cannotShutDown
    }
    context.server.log.notice("shutting down: asked to by client \(context.client.id)")
    context.client.flags.insert([.closeAfterReply, .replyOff])
    server.requestStop(saving: wanted)
  }
}

/// Scripts in Lua, which run isolated from all other clients, and those that are kept to be called again.
enum ScriptCommands: CommandFamily {
  static let category = Command.Category.scripting

  private static let flags: Command.Flags = [
    .noscript, .stale, .skipMonitor, .noMandatoryKeys, .movableKeys, .wholeKeyspace,
  ]

  private static let complexity = "Depends on the script that is executed."

  static let commands: [Command] = [
    Command(
      "EVAL script numkeys [key [key ...]] [arg [arg ...]]", arity: -3,
      flags: flags.union(.mayReplicate), keys: .counted(2, "RW", "access", "update"),
      summary: "Executes a server-side Lua script.", complexity: complexity, since: "2.6.0",
      handler: { context throws(CommandError) in try evaluate(&context, isReadOnly: false) }),
    Command(
      "EVALSHA sha1 numkeys [key [key ...]] [arg [arg ...]]", arity: -3,
      flags: flags.union(.mayReplicate), keys: .counted(2, "RW", "access", "update"),
      summary: "Executes a server-side Lua script by its SHA1 digest.", complexity: complexity,
      since: "2.6.0",
      handler: { context throws(CommandError) in try evaluateKnown(&context, isReadOnly: false) }),
    Command(
      "EVAL_RO script numkeys [key [key ...]] [arg [arg ...]]", arity: -3,
      flags: flags.union(.readonly), keys: .counted(2, "RO", "access"),
      summary: "Executes a read-only server-side Lua script.", complexity: complexity,
      since: "7.0.0",
      handler: { context throws(CommandError) in try evaluate(&context, isReadOnly: true) }),
    Command(
      "EVALSHA_RO sha1 numkeys [key [key ...]] [arg [arg ...]]", arity: -3,
      flags: flags.union(.readonly), keys: .counted(2, "RO", "access"),
      summary: "Executes a read-only server-side Lua script by its SHA1 digest.",
      complexity: complexity, since: "7.0.0",
      handler: { context throws(CommandError) in try evaluateKnown(&context, isReadOnly: true) }),
    .container(
      "SCRIPT", summary: "A container for Lua scripts management commands.", since: "2.6.0",
      [
        Command(
          "SCRIPT LOAD script", arity: 3, flags: [.noscript, .stale],
          tips: ["request_policy:all_nodes", "response_policy:all_succeeded"],
          summary: "Keeps a Lua script, so that its SHA1 digest, which is returned, calls it.",
          complexity: "O(N) with N being the length in bytes of the script body.", since: "2.6.0",
          handler: load),
        Command(
          "SCRIPT EXISTS sha1 [sha1 ...]", arity: -3, flags: [.noscript],
          tips: ["request_policy:all_shards", "response_policy:agg_logical_and"],
          summary: "Determines whether scripts are kept that have these SHA1 digests.",
          complexity: "O(N) with N being the number of scripts to check.", since: "2.6.0",
          handler: exists),
        Command(
          "SCRIPT FLUSH [ASYNC|SYNC]", arity: -2, flags: [.noscript],
          tips: ["request_policy:all_nodes", "response_policy:all_succeeded"],
          summary: "Forgets all scripts.", complexity: "O(N) with N being the number of scripts.",
          since: "2.6.0", handler: flush),
        Command(
          "SCRIPT KILL", arity: 2, flags: [.noscript, .allowBusy],
          tips: ["request_policy:all_shards", "response_policy:one_succeeded"],
          summary: "Ends the script that runs, if it has changed nothing.", since: "2.6.0",
          handler: kill),
        .help("SCRIPT", since: "5.0.0"),
      ]),
  ]

  private static func evaluate(
    _ context: inout CommandContext, isReadOnly: Bool
  ) throws(CommandError) {
    let keyCount = try keyCount(context)
    try run(try prepared(source: context.request[1], context), keyCount, isReadOnly, &context)
  }

  private static func evaluateKnown(
    _ context: inout CommandContext, isReadOnly: Bool
  ) throws(CommandError) {
    if context.request[1].count != SHA1.digitCount { throw .noScript }
    let keyCount = try keyCount(context)
    try run(try prepared(digest: context.request[1], context), keyCount, isReadOnly, &context)
  }

  /// The script with this source, which is known from now on.
  private static func prepared(
    source: Bytes, _ context: borrowing CommandContext
  ) throws(CommandError) -> ScriptEngine.Prepared {
    let engine = context.scriptEngine
    if let prepared = engine.recent(source: source) { return prepared }
    let digest = SHA1.digest(source)
    if let script = context.server.scripts.find(digest) { return try engine.prepare(script) }
    let script: Script
    do throws(Script.Problem) {
      script = try Script(source, digest: digest)
    } catch {
      throw .script(error.text)
    }
    let prepared = try engine.prepare(script)
    context.server.scripts.add(script)
    return prepared
  }

  /// - Throws: `noScript`.
  private static func prepared(
    digest: Bytes, _ context: borrowing CommandContext
  ) throws(CommandError) -> ScriptEngine.Prepared {
    let engine = context.scriptEngine
    if let prepared = engine.recent(digest: digest) { return prepared }
    guard let script = find(digest, context) else { throw .noScript }
    // Another loop may have been the first to get it.
    return try engine.prepare(script)
  }

  private static func find(_ digest: Bytes, _ context: borrowing CommandContext) -> Script? {
    context.server.scripts.find(
      String(decoding: digest.array.map(asciiLowercase), as: UTF8.self))
  }

  private static func keyCount(_ context: borrowing CommandContext) throws(CommandError) -> Int {
    let count = try context.integer(2)
    if count > context.request.count - 3 {
      throw .script("Number of keys can't be greater than number of args")
    }
    if count < 0 { throw .script("Number of keys can't be negative") }
    return count
  }

  private static func run(
    _ prepared: ScriptEngine.Prepared, _ keyCount: Int, _ isReadOnly: Bool,
    _ context: inout CommandContext
  ) throws(CommandError) {
    let script = prepared.script
    let mayWrite = !(script.flags ?? []).contains(.noWrites)
    if isReadOnly, script.flags != nil, mayWrite {
      throw .script("Can not execute a script with write flag using *_ro command.")
    }
    let hasRoom = context.makeRoomForScript()
    let ignoresLimit = script.flags?.contains(.allowOutOfMemory) ?? false
    if !hasRoom, script.flags != nil, mayWrite, !ignoresLimit { throw .scriptOutOfMemory }
    let engine = context.scriptEngine
    let caller = context.beginScript(keys: 3..<3 + keyCount, ignoringLimit: ignoresLimit)
    engine.run(
      prepared, firstKey: 3, keyCount: keyCount, isReadOnly: isReadOnly || !mayWrite, in: &context)
    context.endScript(caller)
  }

  private static func load(_ context: inout CommandContext) throws(CommandError) {
    context.reply.bulkString(try prepared(source: context.request[2], context).script.digest)
  }

  private static func exists(_ context: inout CommandContext) throws(CommandError) {
    context.reply.array(context.request.count - 2)
    for index in 2..<context.request.count {
      context.reply.integer(find(context.request[index], context) == nil ? 0 : 1)
    }
  }

  private static func flush(_ context: inout CommandContext) throws(CommandError) {
    let request = context.request
    guard
      request.count == 2
        || request.count == 3
          && (request[2].equalsIgnoringCase("ASYNC") || request[2].equalsIgnoringCase("SYNC"))
    else { throw .script("SCRIPT FLUSH only support SYNC|ASYNC option") }
    context.server.scripts.removeAll()
    context.reply.ok()
  }

  private static func kill(_ context: inout CommandContext) throws(CommandError) {
    switch context.server.scripts.wantEnd() {
    case .nothingRuns: throw .noScriptRuns
    case .hasWritten: throw .scriptHasWritten
    case .wanted: context.reply.ok()
    }
  }
}

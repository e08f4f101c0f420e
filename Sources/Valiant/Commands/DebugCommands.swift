/// DEBUG: for tests of clients and of this server. Off unless the settings allow it.
enum DebugCommands: CommandFamily {
  static let category = Command.Category.server

  private static let flags: Command.Flags = [.admin, .noscript, .loading, .stale]

  static let commands: [Command] = [
    .container(
      "DEBUG", summary: "A container for debugging commands.", since: "1.0.0",
      [
        Command(
          "DEBUG SLEEP seconds", arity: 3, flags: flags,
          summary: "Stops the client's event loop for the given time, with decimals.",
          since: "1.0.0", handler: sleep),
        Command(
          "DEBUG ERROR message", arity: 3, flags: flags,
          summary: "Returns a protocol error with the message.", since: "1.0.0",
          handler: { context throws(CommandError) in
            try check(context)
            context.reply.error(context.request[2].array)
          }),
        Command(
          "DEBUG OBJECT key", arity: 3, flags: flags, keys: .second("RO"),
          summary: "Shows low-level information about a key and its value.", since: "1.0.0",
          handler: object),
        Command(
          "DEBUG PROTOCOL type", arity: 3, flags: flags,
          summary: "Returns an example of a type of the protocol.", since: "1.0.0",
          handler: exampleReply),
        Command(
          "DEBUG SET-ACTIVE-EXPIRE <0|1>", arity: 3, flags: flags,
          summary:
            "Whether keys are removed when they expire, or only when somebody asks for them.",
          since: "1.0.0",
          handler: { context throws(CommandError) in
            try check(context)
            context.server.setSweeping(context.request[2].integer ?? 0 != 0)
            context.reply.ok()
          }),
        .help("DEBUG", since: "1.0.0"),
      ])
  ]

  /// - Throws: `debugNotAllowed`.
  private static func check(_ context: borrowing CommandContext) throws(CommandError) {
    switch context.settings.debugCommand {
    case .yes: return
    case .local where context.client.address.isLoopback: return
    case .no, .local: throw .debugNotAllowed
    }
  }

  /// At most ten seconds: others wait for the loop, too.
  private static func sleep(_ context: inout CommandContext) throws(CommandError) {
    try check(context)
    guard let seconds = context.request[2].wideFloat, seconds >= 0, seconds <= 10 else {
      throw .notAFloat
    }
    Clock.sleep(microseconds: Int(seconds * 1_000_000))
    context.reply.ok()
  }

  private static func exampleReply(_ context: inout CommandContext) throws(CommandError) {
    try check(context)
    switch context.request[2].text.lowercased() {
    case "string": context.reply.bulkString("Hello World")
    case "integer": context.reply.integer(12345)
    case "double": context.reply.double("3.141")
    case "null": context.reply.null()
    case "array":
      context.reply.array(3)
      for number in 0..<3 { context.reply.integer(number) }
    case "set":
      context.reply.set(3)
      for number in 0..<3 { context.reply.integer(number) }
    case "map":
      context.reply.map(3)
      for number in 0..<3 {
        context.reply.integer(number)
        context.reply.boolean(number == 1)
      }
    case "attrib":
      if context.reply.protocolVersion == 3 {
        context.reply.attribute(1)
        context.reply.bulkString("key-popularity")
        context.reply.array(2)
        context.reply.bulkString("key:123")
        context.reply.integer(90)
      }
      context.reply.bulkString("Some real reply following the attribute")
    case "push":
      guard context.reply.protocolVersion == 3 else { throw .notInOldProtocol }
      context.reply.push(2)
      context.reply.bulkString("server-cpu-usage")
      context.reply.integer(42)
      context.reply.bulkString("Some real reply following the push reply")
    case "verbatim": context.reply.verbatim("This is a verbatim\nstring")
    case "true": context.reply.boolean(true)
    case "false": context.reply.boolean(false)
    case "bignum": context.reply.bigNumber("1234567999999999999999999999999999999")
    default: throw .unknownProtocolType
    }
  }

  private static func object(_ context: inout CommandContext) throws(CommandError) {
    try check(context)
    guard let entry = context.entry(2) else { throw .noSuchKey }
    var serialized = ByteBuffer()
    entry.value.withBytes { SerializedString.write($0, to: &serialized) }
    context.reply.status(
      text: "Value at:0x0 refcount:1 encoding:\(ObjectCommands.encoding(of: entry)) "
        + "serializedlength:\(serialized.count) lru:\(entry.access) lru_seconds_idle:"
        + "\(context.memory.access.idleSeconds(entry.access))")
  }
}

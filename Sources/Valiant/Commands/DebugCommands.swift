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

/// Commands about the connection itself, and the handshake that clients begin with.
enum ConnectionCommands: CommandFamily {
  static let category = Command.Category.connection
  static let commands: [Command] = [
    Command(
      "PING [message]", arity: -1, flags: [.fast, .whileSubscribed, .whileLoading, .tellsTrouble],
      tips: ["request_policy:all_shards", "response_policy:all_succeeded"],
      summary: "Returns the server's liveliness response.", handler: ping),
    Command(
      "ECHO message", arity: 2, flags: [.fast, .loading, .stale],
      summary: "Returns the given string.", handler: echo),
    Command(
      "AUTH [username] password", arity: -2,
      flags: [.noscript, .loading, .stale, .fast, .noAuth, .allowBusy],
      summary: "Authenticates the connection.", handler: authenticate),
    Command(
      "HELLO [protover [AUTH username password] [SETNAME clientname]]", arity: -1,
      flags: [.noscript, .loading, .stale, .fast, .noAuth, .allowBusy],
      summary: "Handshakes with the server.", since: "6.0.0", handler: hello),
    Command(
      "QUIT", arity: -1,
      flags: [
        .noscript, .loading, .stale, .fast, .noAuth, .allowBusy, .unqueued, .whileSubscribed,
      ],
      summary: "Closes the connection.", handler: quit),
    Command(
      "RESET", arity: 1,
      flags: [
        .noscript, .loading, .stale, .fast, .noAuth, .allowBusy, .unqueued, .whileSubscribed,
      ],
      summary: "Resets the connection.", since: "6.2.0", handler: reset),
    Command(
      "WAIT numreplicas timeout", arity: 3, flags: [.noscript],
      tips: ["request_policy:all_shards", "response_policy:agg_min"],
      summary:
        "Waits for replicas to have the client's changes; there are none, so it returns 0 at once.",
      since: "3.0.0", handler: wait),
    Command(
      "SELECT index", arity: 2, flags: [.loading, .stale, .fast],
      summary: "Changes the selected database.", handler: select),
  ]

  private static func ping(_ context: inout CommandContext) throws(CommandError) {
    if context.client.flags.contains(.subscriber), context.client.protocolVersion == 2,
      context.request.count <= 2
    {
      // Like a message.
      context.reply.array(2)
      context.reply.bulkString("pong")
      return context.reply.bulkString(
        context.request.count == 2 ? context.request[1] : .empty)
    }
    switch context.request.count {
    case 1: context.reply.status("PONG")
    case 2: context.reply.bulkString(context.request[1])
    default: throw .arity(command: "ping")
    }
  }

  private static func echo(_ context: inout CommandContext) throws(CommandError) {
    context.reply.bulkString(context.request[1])
  }

  private static func quit(_ context: inout CommandContext) throws(CommandError) {
    context.reply.ok()
    context.client.flags.insert(.closeAfterReply)
  }

  private static func wait(_ context: inout CommandContext) throws(CommandError) {
    _ = try context.integer(1)
    guard let timeout = context.request[2].integer else { throw .timeoutNotAnInteger }
    if timeout < 0 { throw .timeoutNegative }
    context.reply.integer(0)
  }

  private static func select(_ context: inout CommandContext) throws(CommandError) {
    context.client.database = try context.database(1)
    context.reply.ok()
  }

  private static func reset(_ context: inout CommandContext) throws(CommandError) {
    let client = context.client
    client.endTransaction(in: context.server.store)
    context.worker.unsubscribeAll(client)
    context.worker.trackers?.end(client)
    client.database = 0
    client.protocolVersion = 2
    context.reply.protocolVersion = 2
    client.isNoEvict = false
    client.isNoTouch = false
    client.flags.formIntersection(.gated)
    if !context.settings.password.isEmpty { client.flags.insert(.mustAuthenticate) }
    context.server.clients.setName("", of: client)
    context.renewAccess()
    context.reply.status("RESET")
  }

  // MARK: Authentication

  private static func authenticate(_ context: inout CommandContext) throws(CommandError) {
    switch context.request.count {
    case 2:
      guard !context.settings.password.isEmpty else { throw .noPasswordSet }
      try check(user: nil, password: context.request[1], context)
    case 3:
      try check(user: context.request[1], password: context.request[2], context)
    default:
      throw .syntax
    }
    context.client.flags.remove(.mustAuthenticate)
    context.reply.ok()
  }

  /// There is one user, `default`; without a password set, any will do for it.
  private static func check(
    user: Bytes?, password: Bytes, _ context: borrowing CommandContext
  ) throws(CommandError) {
    let isDefault = user.map { $0.text == "default" } ?? true
    let expected = Array(context.settings.password.utf8)
    guard isDefault, expected.isEmpty || isSame(password, expected) else { throw .wrongPassword }
  }

  /// Compares in a time that tells nothing about where the first difference is.
  private static func isSame(_ given: Bytes, _ expected: [UInt8]) -> Bool {
    var difference = given.count ^ expected.count
    for index in 0..<given.count {
      difference |= Int(given[index] ^ expected[index % expected.count])
    }
    return difference == 0
  }

  // MARK: HELLO

  private static func hello(_ context: inout CommandContext) throws(CommandError) {
    let request = context.request
    var version = context.client.protocolVersion
    if request.count > 1 {
      guard let asked = request[1].integer else { throw .protocolNotAnInteger }
      guard asked == 2 || asked == 3 else { throw .unsupportedProtocol }
      version = asked
    }
    // Everything is checked before anything changes.
    var isAuthenticated = !context.client.flags.contains(.mustAuthenticate)
    var name: String?
    var index = 2
    while index < request.count {
      if request[index].equalsIgnoringCase("AUTH"), index + 2 < request.count {
        try check(user: request[index + 1], password: request[index + 2], context)
        isAuthenticated = true
        index += 3
      } else if request[index].equalsIgnoringCase("SETNAME"), index + 1 < request.count {
        name = try ClientCommands.name(request[index + 1])
        index += 2
      } else {
        throw .helloOption(request[index].array)
      }
    }
    guard isAuthenticated else { throw .helloNotAuthenticated }
    let client = context.client
    client.flags.remove(.mustAuthenticate)
    if let name { context.server.clients.setName(name, of: client) }
    client.protocolVersion = version
    context.reply.protocolVersion = version

    context.reply.map(7)
    context.reply.bulkString("server")
    context.reply.bulkString("redis")
    context.reply.bulkString("version")
    context.reply.bulkString(Version.redis)
    context.reply.bulkString("proto")
    context.reply.integer(version)
    context.reply.bulkString("id")
    context.reply.integer(client.id)
    context.reply.bulkString("mode")
    context.reply.bulkString("standalone")
    context.reply.bulkString("role")
    context.reply.bulkString("master")
    context.reply.bulkString("modules")
    context.reply.array(0)
  }
}

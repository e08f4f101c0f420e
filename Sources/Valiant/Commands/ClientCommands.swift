/// CLIENT and its subcommands.
enum ClientCommands: CommandFamily {
  static let category = Command.Category.connection

  static let everywhere: Command.Flags = [.noscript, .loading, .stale]
  private static let forOperators: Command.Flags = [.admin, .noscript, .loading, .stale]

  static let commands: [Command] = [
    .container(
      "CLIENT", summary: "A container for client connection commands.", since: "2.4.0",
      [
        Command(
          "CLIENT ID", arity: 2, flags: everywhere,
          summary: "Returns the unique client ID of the connection.", since: "5.0.0",
          handler: { context throws(CommandError) in context.reply.integer(context.client.id) }),
        Command(
          "CLIENT GETNAME", arity: 2, flags: everywhere,
          summary: "Returns the name of the connection.", since: "2.6.9", handler: getName),
        Command(
          "CLIENT SETNAME connection-name", arity: 3, flags: everywhere,
          summary: "Sets the connection name.", since: "2.6.9", handler: setName),
        Command(
          "CLIENT SETINFO <LIB-NAME libname|LIB-VER libver>", arity: 4, flags: everywhere,
          summary: "Sets information specific to the client or connection.", since: "7.2.0",
          handler: setInfo),
        Command(
          "CLIENT INFO", arity: 2, flags: everywhere,
          tips: ["nondeterministic_output"], summary: "Returns information about the connection.",
          since: "6.2.0", handler: info),
        Command(
          "CLIENT LIST [TYPE <NORMAL|MASTER|REPLICA|PUBSUB>] [ID client-id [client-id ...]]",
          arity: -2, flags: forOperators,
          tips: ["nondeterministic_output"], summary: "Lists open connections.",
          complexity: "O(N) where N is the number of client connections.", since: "2.4.0",
          handler: list),
        Command(
          "CLIENT KILL <ip:port|[ID client-id] [TYPE <NORMAL|MASTER|REPLICA|PUBSUB>] [USER username] [ADDR ip:port] [LADDR ip:port] [SKIPME <YES|NO>]>",
          arity: -3, flags: forOperators,
          summary: "Terminates open connections.",
          complexity: "O(N) where N is the number of client connections.", since: "2.4.0",
          handler: kill),
        Command(
          "CLIENT NO-EVICT <ON|OFF>", arity: 3, flags: forOperators,
          summary: "Sets the client eviction mode of the connection.", since: "7.0.0",
          handler: noEvict),
        Command(
          "CLIENT REPLY <ON|OFF|SKIP>", arity: 3, flags: everywhere,
          summary: "Instructs the server whether to reply to commands.", since: "3.2.0",
          handler: reply),
        Command(
          "CLIENT NO-TOUCH <ON|OFF>", arity: 3, flags: everywhere,
          summary: "Controls whether commands sent by the client affect the LRU/LFU of keys.",
          since: "7.2.0", handler: noTouch),
        Command(
          "CLIENT PAUSE timeout [WRITE|ALL]", arity: -3, flags: forOperators,
          summary: "Suspends commands processing.", since: "3.0.0", handler: pause),
        Command(
          "CLIENT UNPAUSE", arity: 2, flags: forOperators.union(.endsPause),
          summary: "Resumes processing commands from paused clients.",
          complexity: "O(N) where N is the number of paused clients", since: "6.2.0",
          handler: { context throws(CommandError) in
            context.server.setPause(nil)
            context.reply.ok()
          }),
        Command(
          "CLIENT UNBLOCK client-id [TIMEOUT|ERROR]", arity: -3, flags: forOperators,
          summary: "Unblocks a client blocked by a blocking command from a different connection.",
          since: "5.0.0", handler: unblock),
        Command(
          "CLIENT GETREDIR", arity: 2, flags: everywhere,
          summary:
            "Returns the client ID to which the connection's tracking notifications are redirected.",
          since: "6.0.0",
          handler: { context throws(CommandError) in
            context.reply.integer(context.client.redirect)
          }),
      ] + TrackingCommands.subcommands + [.help("CLIENT", since: "5.0.0")])
  ]

  // MARK: Names

  /// A client's name: printable characters without blanks; empty for none.
  static func name(_ bytes: Bytes) throws(CommandError) -> String {
    guard isPrintable(bytes) else { throw .invalidClientName }
    return bytes.text
  }

  private static func isPrintable(_ bytes: Bytes) -> Bool {
    for index in 0..<bytes.count where bytes[index] < 0x21 || bytes[index] > 0x7e { return false }
    return true
  }

  private static func getName(_ context: inout CommandContext) throws(CommandError) {
    let name = context.server.clients.with(context.client) { $0.name }
    if name.isEmpty { context.reply.null() } else { context.reply.bulkString(name) }
  }

  private static func setName(_ context: inout CommandContext) throws(CommandError) {
    context.server.clients.setName(try name(context.request[2]), of: context.client)
    context.reply.ok()
  }

  private static func setInfo(_ context: inout CommandContext) throws(CommandError) {
    let (field, value) = (context.request[2], context.request[3])
    let isName = field.equalsIgnoringCase("LIB-NAME")
    guard isName || field.equalsIgnoringCase("LIB-VER") else {
      throw .unrecognizedOption(field.array)
    }
    guard isPrintable(value) else {
      throw .invalidLibraryField(isName ? "lib-name" : "lib-ver")
    }
    if isName {
      context.server.clients.setLibraryName(value.text, of: context.client)
    } else {
      context.server.clients.setLibraryVersion(value.text, of: context.client)
    }
    context.reply.ok()
  }

  // MARK: INFO and LIST

  private static func info(_ context: inout CommandContext) throws(CommandError) {
    context.reply.verbatim(context.server.clients.with(context.client, line) + "\n")
  }

  private static func list(_ context: inout CommandContext) throws(CommandError) {
    let request = context.request
    var ids: [Int]?
    var wanted: ClientType?
    if request.count > 2 {
      if request.count == 4, request[2].equalsIgnoringCase("TYPE") {
        wanted = try type(request[3])
      } else if request.count > 3, request[2].equalsIgnoringCase("ID") {
        var named: [Int] = []
        for index in 3..<request.count {
          guard let id = request[index].integer else { throw .invalidClientID }
          named.append(id)
        }
        ids = named
      } else {
        throw .syntax
      }
    }
    var lines: [(id: Int, text: String)] = []
    let named = ids.map { Set($0) }
    context.server.clients.forEachClient { snapshot in
      let client = snapshot.client
      if named?.contains(client.id) ?? true, wanted.map({ $0.includes(client) }) ?? true {
        lines.append((client.id, line(snapshot) + "\n"))
      }
    }
    if let ids {
      // As they were named, one named twice twice.
      let known = Dictionary(lines.map { ($0.id, $0.text) }) { first, _ in first }
      return context.reply.verbatim(ids.compactMap { known[$0] }.joined())
    }
    context.reply.verbatim(lines.map(\.text).joined())
  }

  private enum ClientType {
    case normal, subscriber
    /// There is none.
    case replica

    func includes(_ client: Client) -> Bool {
      self == (client.isSubscriber ? .subscriber : .normal)
    }
  }

  private static func type(_ name: Bytes) throws(CommandError) -> ClientType {
    if name.equalsIgnoringCase("NORMAL") { return .normal }
    if name.equalsIgnoringCase("PUBSUB") { return .subscriber }
    for other in ["MASTER", "REPLICA", "SLAVE"] where name.equalsIgnoringCase(other) {
      return .replica
    }
    throw .unknownClientType(name.array)
  }

  /// One client as Redis describes it; fields for what Valiant does not have say so by their zeros.
  private static func line(_ snapshot: ClientRegistry.Snapshot) -> String {
    let client = snapshot.client
    let now = Clock.steadyMilliseconds
    let command = client.lastCommand < 0 ? "NULL" : CommandTable.shared[client.lastCommand].name
    var flags = client.isNoEvict ? "e" : ""
    if client.queuedCount >= 0 { flags += "x" }
    if client.isNoTouch { flags += "T" }
    if client.isSubscriber { flags += "P" }
    if client.isWaiting { flags += "b" }
    let modes = client.trackingModes
    if modes.contains(.on) { flags += "t" }
    if modes.contains(.brokenRedirect) { flags += "R" }
    if modes.contains(.broadcast) { flags += "B" }
    if client.address.isUnix { flags += "U" }
    let fields: [(String, String)] = [
      ("id", "\(client.id)"),
      ("addr", address(client.address, or: client.localAddress)),
      ("laddr", address(client.localAddress, or: client.localAddress)),
      ("fd", "\(client.id)"),
      ("name", snapshot.name),
      ("age", "\((now - client.connectedAt) / 1000)"),
      ("idle", "\((now - client.lastActive) / 1000)"),
      ("flags", flags.isEmpty ? "N" : flags),
      ("db", "\(client.database)"),
      ("sub", "\(client.subscriptionCount(.channel))"),
      ("psub", "\(client.subscriptionCount(.pattern))"),
      ("ssub", "\(client.subscriptionCount(.shardChannel))"), ("multi", "\(client.queuedCount)"),
      ("qbuf", "\(client.inputBytes)"), ("qbuf-free", "0"), ("argv-mem", "0"),
      ("multi-mem", "\(client.queuedBytes)"),
      ("rbs", "0"), ("rbp", "0"), ("obl", "0"), ("oll", client.outputBytes > 0 ? "1" : "0"),
      ("omem", "\(client.outputBytes)"),
      ("tot-mem", "\(client.inputBytes + client.outputBytes + client.queuedBytes + 1024)"),
      ("events", "r"), ("cmd", command), ("user", "default"), ("redir", "\(client.redirect)"),
      ("resp", "\(client.protocolVersion)"),
      ("lib-name", snapshot.libraryName), ("lib-ver", snapshot.libraryVersion),
    ]
    return fields.map { "\($0)=\($1)" }.joined(separator: " ")
  }

  /// A unix-socket client has no address of its own: that of the socket stands for it.
  private static func address(_ address: Socket.Address, or local: Socket.Address) -> String {
    address.isUnix ? "\(local.text):0" : address.text
  }

  // MARK: KILL

  private struct KillFilter {
    var id: Int?
    var address: String?
    var localAddress: String?
    var type: ClientType?
    var skipsMe = true

    func matches(_ client: Client, from me: Client) -> Bool {
      if let id, client.id != id { return false }
      if let address, ClientCommands.address(client.address, or: client.localAddress) != address {
        return false
      }
      if let localAddress,
        ClientCommands.address(client.localAddress, or: client.localAddress) != localAddress
      {
        return false
      }
      if let type, !type.includes(client) { return false }
      return !(skipsMe && client.id == me.id)
    }
  }

  private static func kill(_ context: inout CommandContext) throws(CommandError) {
    let request = context.request
    var filter = KillFilter()
    let isOldForm = request.count == 3
    if isOldForm {
      filter.address = request[2].text
      filter.skipsMe = false
    } else {
      guard request.count % 2 == 0 else { throw .syntax }
      for index in stride(from: 2, to: request.count, by: 2) {
        try read(option: request[index], request[index + 1], into: &filter)
      }
    }
    let me = context.client
    var ids: Set<Int> = []
    context.server.clients.forEachClient { snapshot in
      if filter.matches(snapshot.client, from: me) { ids.insert(snapshot.client.id) }
    }
    if isOldForm, ids.isEmpty { throw .noSuchClient }
    // Whoever kills itself still gets the answer.
    if ids.contains(me.id) { me.flags.insert(.closeAfterReply) }
    context.server.kill(ids.subtracting([me.id]))
    if isOldForm { context.reply.ok() } else { context.reply.integer(ids.count) }
  }

  private static func read(
    option: Bytes, _ value: Bytes, into filter: inout KillFilter
  ) throws(CommandError) {
    if option.equalsIgnoringCase("ID") {
      guard let id = value.integer, id > 0 else { throw .clientIDNotPositive }
      filter.id = id
    } else if option.equalsIgnoringCase("TYPE") {
      filter.type = try type(value)
    } else if option.equalsIgnoringCase("ADDR") {
      filter.address = value.text
    } else if option.equalsIgnoringCase("LADDR") {
      filter.localAddress = value.text
    } else if option.equalsIgnoringCase("USER") {
      guard value.text == "default" else { throw .noSuchUser(value.array) }
    } else if option.equalsIgnoringCase("SKIPME") {
      guard value.equalsIgnoringCase("YES") || value.equalsIgnoringCase("NO") else {
        throw .syntax
      }
      filter.skipsMe = value.equalsIgnoringCase("YES")
    } else {
      throw .syntax
    }
  }

  // MARK: Modes

  private static func noEvict(_ context: inout CommandContext) throws(CommandError) {
    let mode = context.request[2]
    guard mode.equalsIgnoringCase("ON") || mode.equalsIgnoringCase("OFF") else { throw .syntax }
    context.client.isNoEvict = mode.equalsIgnoringCase("ON")
    context.reply.ok()
  }

  private static func noTouch(_ context: inout CommandContext) throws(CommandError) {
    let mode = context.request[2]
    guard mode.equalsIgnoringCase("ON") || mode.equalsIgnoringCase("OFF") else { throw .syntax }
    context.client.isNoTouch = mode.equalsIgnoringCase("ON")
    context.renewAccess()
    context.reply.ok()
  }

  private static func pause(_ context: inout CommandContext) throws(CommandError) {
    let request = context.request
    var isForWrites = false
    if request.count > 3 {
      guard request.count == 4 else {
        throw .subcommandSyntax(name: request[1].prefix(128).array, container: "CLIENT")
      }
      isForWrites = request[3].equalsIgnoringCase("WRITE")
      guard isForWrites || request[3].equalsIgnoringCase("ALL") else { throw .pauseMode }
    }
    guard let timeout = request[2].integer, timeout < Int.max / 2 else {
      throw .timeoutNotAnInteger
    }
    if timeout < 0 { throw .timeoutNegative }
    let end = Clock.steadyMilliseconds + timeout
    let pause = context.server.setPause(ClientPause(end: end, isForWrites: isForWrites))
    // What comes behind this waits already.
    if let pause { context.worker.setPause(pause) }
    context.reply.ok()
  }

  /// No command blocks yet.
  private static func unblock(_ context: inout CommandContext) throws(CommandError) {
    let request = context.request
    guard request.count <= 4 else {
      throw .subcommandSyntax(name: request[1].prefix(128).array, container: "CLIENT")
    }
    if request.count == 4 {
      guard request[3].equalsIgnoringCase("TIMEOUT") || request[3].equalsIgnoringCase("ERROR")
      else { throw .unblockReason }
    }
    _ = try context.integer(2)
    context.reply.integer(0)
  }

  /// OFF and SKIP answer nothing themselves: the dispatcher drops replies by the client's flags.
  private static func reply(_ context: inout CommandContext) throws(CommandError) {
    let mode = context.request[2]
    if mode.equalsIgnoringCase("ON") {
      context.client.flags.subtract([.replyOff, .skipNextReply, .skipReply])
      context.reply.ok()
    } else if mode.equalsIgnoringCase("OFF") {
      context.client.flags.insert(.replyOff)
    } else if mode.equalsIgnoringCase("SKIP") {
      if !context.client.flags.contains(.replyOff) {
        context.client.flags.insert(.skipNextReply)
      }
    } else {
      throw .syntax
    }
  }
}

/// Subcommands of CLIENT by which clients keep copies of keys, and hear when those are invalid.
enum TrackingCommands {
  private static let flags = ClientCommands.everywhere

  static let subcommands: [Command] = [
    Command(
      "CLIENT TRACKING <ON|OFF> [REDIRECT client-id] [PREFIX prefix [PREFIX prefix ...]] [BCAST] [OPTIN] [OPTOUT] [NOLOOP]",
      arity: -3, flags: flags.union(.wholeKeyspace),
      summary: "Controls server-assisted client-side caching for the connection.",
      complexity: "O(1). Some options may introduce additional complexity.", since: "6.0.0",
      handler: tracking),
    Command(
      "CLIENT CACHING <YES|NO>", arity: 3, flags: flags,
      summary:
        "Instructs the server whether to track the keys in the next request.",
      since: "6.0.0", handler: caching),
    Command(
      "CLIENT TRACKINGINFO", arity: 2, flags: flags,
      summary: "Returns information about server-assisted client-side caching for the connection.",
      since: "6.2.0", handler: information),
  ]

  // MARK: TRACKING

  private struct Options {
    var modes: TrackingModes = []
    var redirect = 0
    var prefixes: [[UInt8]] = []
  }

  private static func tracking(_ context: inout CommandContext) throws(CommandError) {
    let mode = context.request[2]
    var options = try options(context)
    let isLocked = context.holdsAllShards
    if mode.equalsIgnoringCase("OFF") {
      context.worker.trackers?.end(context.client, isLocked: isLocked)
    } else if mode.equalsIgnoringCase("ON") {
      try check(options, of: context.client)
      if options.modes.contains(.broadcast), options.prefixes.isEmpty,
        !context.client.trackedPrefixes.contains([])
      {
        // All keys begin with nothing.
        options.prefixes = [[]]
      }
      context.worker.trackingClients.track(
        context.client, context.connection, options.modes, redirect: options.redirect,
        prefixes: options.prefixes, isLocked: isLocked)
    } else {
      throw .syntax
    }
    context.reply.ok()
  }

  private static func options(
    _ context: borrowing CommandContext
  ) throws(CommandError) -> Options {
    let request = context.request
    var options = Options()
    var index = 3
    while index < request.count {
      let option = request[index]
      let hasValue = index + 1 < request.count
      if option.equalsIgnoringCase("REDIRECT"), hasValue {
        index += 1
        if options.redirect != 0 { throw .redirectTwice }
        options.redirect = try context.integer(index)
        guard context.server.clients.workerIndex(of: options.redirect) != nil else {
          throw .redirectUnknown
        }
      } else if option.equalsIgnoringCase("PREFIX"), hasValue {
        index += 1
        options.prefixes.append(request[index].array)
      } else if let mode = modes.first(where: { option.equalsIgnoringCase($0.name) })?.mode {
        options.modes.insert(mode)
      } else {
        throw .syntax
      }
      index += 1
    }
    return options
  }

  private static let modes: [(name: String, mode: TrackingModes)] = [
    ("BCAST", .broadcast), ("OPTIN", .optIn), ("OPTOUT", .optOut), ("NOLOOP", .noLoop),
  ]

  /// Whether the options agree with each other, and with what the client does already.
  private static func check(_ options: Options, of client: Client) throws(CommandError) {
    let (new, old) = (options.modes, client.trackingModes)
    let isBroadcast = new.contains(.broadcast)
    if !isBroadcast, !options.prefixes.isEmpty { throw .prefixWithoutBroadcast }
    if old.contains(.on), old.contains(.broadcast) != isBroadcast { throw .broadcastSwitch }
    if isBroadcast, !new.isDisjoint(with: [.optIn, .optOut]) { throw .broadcastWithOptions }
    if new.isSuperset(of: [.optIn, .optOut]) { throw .optInAndOut }
    if (new.contains(.optIn) && old.contains(.optOut))
      || (new.contains(.optOut) && old.contains(.optIn))
    {
      throw .optSwitch
    }
    for (index, prefix) in options.prefixes.enumerated() {
      for other in client.trackedPrefixes where overlap(prefix, other) {
        throw .prefixesOverlap(prefix, isOld: true, other)
      }
      for other in options.prefixes[(index + 1)...] where overlap(prefix, other) {
        throw .prefixesOverlap(prefix, isOld: false, other)
      }
    }
  }

  private static func overlap(_ first: [UInt8], _ second: [UInt8]) -> Bool {
    first.starts(with: second) || second.starts(with: first)
  }

  // MARK: CACHING, TRACKINGINFO

  private static func caching(_ context: inout CommandContext) throws(CommandError) {
    let answer = context.request[2]
    let modes = context.client.trackingModes
    guard modes.contains(.on) else { throw .cachingWithoutTracking }
    if answer.equalsIgnoringCase("YES") {
      guard modes.contains(.optIn) else { throw .cachingMode("YES", needs: "OPTIN") }
    } else if answer.equalsIgnoringCase("NO") {
      guard modes.contains(.optOut) else { throw .cachingMode("NO", needs: "OPTOUT") }
    } else {
      throw .syntax
    }
    context.client.flags.insert(.caching)
    context.reply.ok()
  }

  private static func information(_ context: inout CommandContext) throws(CommandError) {
    let client = context.client
    let modes = client.trackingModes
    let isSaid = client.flags.contains(.caching)
    let flags: [(name: String, isSet: Bool)] = [
      ("on", modes.contains(.on)), ("off", !modes.contains(.on)),
      ("bcast", modes.contains(.broadcast)), ("optin", modes.contains(.optIn)),
      ("caching-yes", isSaid && modes.contains(.optIn)), ("optout", modes.contains(.optOut)),
      ("caching-no", isSaid && modes.contains(.optOut)), ("noloop", modes.contains(.noLoop)),
      ("broken_redirect", modes.contains(.brokenRedirect)),
    ]
    context.reply.map(3)
    context.reply.bulkString("flags")
    let set = flags.filter(\.isSet)
    context.reply.set(set.count)
    for flag in set { context.reply.bulkString(flag.name) }
    context.reply.bulkString("redirect")
    context.reply.integer(client.redirect)
    context.reply.bulkString("prefixes")
    let prefixes = client.trackedPrefixes.sorted { $0.lexicographicallyPrecedes($1) }
    context.reply.array(prefixes.count)
    for prefix in prefixes { prefix.withBytes { context.reply.bulkString($0) } }
  }
}

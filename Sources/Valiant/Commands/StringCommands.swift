/// Commands on string values.
enum StringCommands: CommandFamily {
  static let category = Command.Category.string
  static let commands: [Command] = [
    Command(
      "GET key", arity: 2, flags: [.readonly, .fast], keys: .one("RO", "access"),
      summary: "Returns the string value of a key.", handler: get),
    Command(
      "SET key value [NX|XX] [GET] [EX seconds|PX milliseconds|EXAT unix-time-seconds|PXAT unix-time-milliseconds|KEEPTTL]",
      arity: -3, flags: [.write, .denyoom],
      keys: .one("RW", "access", "update", "variable_flags"),
      summary:
        "Sets the string value of a key, ignoring its type. The key is created if it doesn't exist.",
      handler: set),
    Command(
      "MGET key [key ...]", arity: -2, flags: [.readonly, .fast], keys: .all("RO", "access"),
      summary: "Atomically returns the string values of one or more keys.",
      complexity: "O(N) where N is the number of keys to retrieve.", handler: getMany),
    Command(
      "MSET key value [key value ...]", arity: -3, flags: [.write, .denyoom],
      keys: .pairs("OW", "update"),
      summary: "Atomically creates or modifies the string values of one or more keys.",
      complexity: "O(N) where N is the number of keys to set.", since: "1.0.1", handler: setMany),
  ]

  // The two hottest handlers become part of their rows' closures: a call less each.

  @inline(__always)
  private static func get(_ context: inout CommandContext) throws(CommandError) {
    guard let value = try context.string(1) else { return context.reply.null() }
    context.reply.bulkString(value)
  }

  @inline(__always)
  private static func set(_ context: inout CommandContext) throws(CommandError) {
    if context.request.count > 3 { return try setWithOptions(&context) }
    try context.set(1, toArgument: 2, deadline: nil)
    context.reply.ok()
  }

  private static func getMany(_ context: inout CommandContext) throws(CommandError) {
    context.reply.array(context.request.count - 1)
    for index in 1..<context.request.count {
      if let value = context.stringIfAny(index) {
        context.reply.bulkString(value)
      } else {
        context.reply.null()
      }
    }
  }

  /// If memory ends on the way, keys that were set before stay set.
  private static func setMany(_ context: inout CommandContext) throws(CommandError) {
    guard context.request.count % 2 == 1 else { throw .arity(command: context.command.name) }
    for index in stride(from: 1, to: context.request.count, by: 2) {
      try context.set(index, toArgument: index + 1, deadline: nil)
    }
    context.reply.ok()
  }

  private struct SetOptions {
    var onlyIfMissing = false
    var onlyIfPresent = false
    var returnsOld = false
    var keepsDeadline = false
    var deadline: Timestamp?
  }

  private static func setWithOptions(_ context: inout CommandContext) throws(CommandError) {
    let options = try setOptions(context)
    let old = context.entry(1)
    if options.returnsOld {
      if let old { context.reply.bulkString(old.value) } else { context.reply.null() }
    }
    let isRefused = old == nil ? options.onlyIfPresent : options.onlyIfMissing
    if isRefused {
      if !options.returnsOld { context.reply.null() }
      return
    }
    let deadline = options.keepsDeadline ? old?.deadline : options.deadline
    if let deadline, deadline < context.now {
      _ = context.remove(1)
    } else {
      try context.set(1, toArgument: 2, deadline: deadline)
    }
    if !options.returnsOld { context.reply.ok() }
  }

  private static func setOptions(
    _ context: borrowing CommandContext
  ) throws(CommandError) -> SetOptions {
    var options = SetOptions()
    var expiry: (unit: Expiry.Unit, argument: Int)?
    var index = 3
    while index < context.request.count {
      let option = context.request[index]
      if option.equalsIgnoringCase("NX"), !options.onlyIfPresent {
        options.onlyIfMissing = true
      } else if option.equalsIgnoringCase("XX"), !options.onlyIfMissing {
        options.onlyIfPresent = true
      } else if option.equalsIgnoringCase("GET") {
        options.returnsOld = true
      } else if option.equalsIgnoringCase("KEEPTTL"), expiry == nil {
        options.keepsDeadline = true
      } else if let unit = Expiry.Unit(option), expiry == nil, !options.keepsDeadline,
        index + 1 < context.request.count
      {
        index += 1
        expiry = (unit, index)
      } else {
        throw .syntax
      }
      index += 1
    }
    if let expiry {
      options.deadline = try Expiry.deadline(
        context.integer(expiry.argument), expiry.unit, now: context.now)
    }
    return options
  }
}

/// Expiry arguments: a number in one of four units, and the deadline that follows from it.
enum Expiry {
  enum Unit {
    case seconds, milliseconds, unixSeconds, unixMilliseconds

    init?(_ option: Bytes) {
      if option.equalsIgnoringCase("EX") {
        self = .seconds
      } else if option.equalsIgnoringCase("PX") {
        self = .milliseconds
      } else if option.equalsIgnoringCase("EXAT") {
        self = .unixSeconds
      } else if option.equalsIgnoringCase("PXAT") {
        self = .unixMilliseconds
      } else {
        return nil
      }
    }
  }

  /// - Throws: `invalidExpireTime` when the number is not positive, or too large in milliseconds.
  static func deadline(
    _ number: Int, _ unit: Unit, now: Timestamp
  ) throws(CommandError) -> Timestamp {
    guard number > 0 else { throw .invalidExpireTime }
    let isSeconds = unit == .seconds || unit == .unixSeconds
    let (milliseconds, overflow) = number.multipliedReportingOverflow(by: isSeconds ? 1000 : 1)
    if overflow { throw .invalidExpireTime }
    if unit == .unixSeconds || unit == .unixMilliseconds {
      return Timestamp(unixMilliseconds: milliseconds)
    }
    // Too late as a time of day is too late, as in Redis.
    let latest = Int.max - max(Clock.wallMilliseconds, now.milliseconds)
    if milliseconds > latest { throw .invalidExpireTime }
    return Timestamp(milliseconds: now.milliseconds &+ milliseconds)
  }
}

/// Commands on how long keys live.
enum ExpiryCommands: CommandFamily {
  static let category = Command.Category.keyspace
  static let commands: [Command] = [
    Command(
      "TTL key", arity: 2, flags: [.readonly, .fast], keys: .one("RO", "access"),
      tips: ["nondeterministic_output"],
      summary: "Returns the expiration time in seconds of a key.",
      handler: { context throws(CommandError) in
        replyDeadline(&context, isRelative: true, inSeconds: true)
      }),
    Command(
      "PTTL key", arity: 2, flags: [.readonly, .fast], keys: .one("RO", "access"),
      tips: ["nondeterministic_output"],
      summary: "Returns the expiration time in milliseconds of a key.", since: "2.6.0",
      handler: { context throws(CommandError) in
        replyDeadline(&context, isRelative: true, inSeconds: false)
      }),
    Command(
      "EXPIRETIME key", arity: 2, flags: [.readonly, .fast], keys: .one("RO", "access"),
      summary: "Returns the expiration time of a key as a Unix timestamp.", since: "7.0.0",
      handler: { context throws(CommandError) in
        replyDeadline(&context, isRelative: false, inSeconds: true)
      }),
    Command(
      "PEXPIRETIME key", arity: 2, flags: [.readonly, .fast], keys: .one("RO", "access"),
      summary: "Returns the expiration time of a key as a Unix timestamp in milliseconds.",
      since: "7.0.0",
      handler: { context throws(CommandError) in
        replyDeadline(&context, isRelative: false, inSeconds: false)
      }),
    Command(
      "EXPIRE key seconds [NX|XX|GT|LT]", arity: -3, flags: [.write, .fast],
      keys: .one("RW", "update"), summary: "Sets the expiration time of a key in seconds.",
      handler: { context throws(CommandError) in try expire(&context, .seconds) }),
    Command(
      "PEXPIRE key milliseconds [NX|XX|GT|LT]", arity: -3, flags: [.write, .fast],
      keys: .one("RW", "update"), summary: "Sets the expiration time of a key in milliseconds.",
      since: "2.6.0",
      handler: { context throws(CommandError) in try expire(&context, .milliseconds) }),
    Command(
      "EXPIREAT key unix-time-seconds [NX|XX|GT|LT]", arity: -3, flags: [.write, .fast],
      keys: .one("RW", "update"),
      summary: "Sets the expiration time of a key to a Unix timestamp.", since: "1.2.0",
      handler: { context throws(CommandError) in try expire(&context, .unixSeconds) }),
    Command(
      "PEXPIREAT key unix-time-milliseconds [NX|XX|GT|LT]", arity: -3, flags: [.write, .fast],
      keys: .one("RW", "update"),
      summary: "Sets the expiration time of a key to a Unix timestamp in milliseconds.",
      since: "2.6.0",
      handler: { context throws(CommandError) in try expire(&context, .unixMilliseconds) }),
    Command(
      "PERSIST key", arity: 2, flags: [.write, .fast], keys: .one("RW", "update"),
      summary: "Removes the expiration time of a key.", since: "2.2.0", handler: persist),
  ]

  /// -2 for a missing key, -1 for one that does not expire.
  private static func replyDeadline(
    _ context: inout CommandContext, isRelative: Bool, inSeconds: Bool
  ) {
    guard let entry = context.look(1) else { return context.reply.integer(-2) }
    guard let deadline = entry.deadline else { return context.reply.integer(-1) }
    let milliseconds =
      isRelative
      ? deadline.milliseconds &- context.now.milliseconds : deadline.unixMilliseconds
    // Rounded; there is no time so late that this would overflow.
    context.reply.integer(
      inSeconds ? Int((UInt(bitPattern: milliseconds) &+ 500) / 1000) : milliseconds)
  }

  private struct Conditions: OptionSet {
    let rawValue: UInt8
    static let ifNone = Conditions(rawValue: 1)
    static let ifAny = Conditions(rawValue: 2)
    static let ifLater = Conditions(rawValue: 4)
    static let ifEarlier = Conditions(rawValue: 8)
  }

  private static func conditions(
    _ context: borrowing CommandContext
  ) throws(CommandError) -> Conditions {
    var conditions: Conditions = []
    for index in 3..<max(3, context.request.count) {
      let option = context.request[index]
      if option.equalsIgnoringCase("NX") {
        conditions.insert(.ifNone)
      } else if option.equalsIgnoringCase("XX") {
        conditions.insert(.ifAny)
      } else if option.equalsIgnoringCase("GT") {
        conditions.insert(.ifLater)
      } else if option.equalsIgnoringCase("LT") {
        conditions.insert(.ifEarlier)
      } else {
        throw .unsupportedOption(option.array)
      }
    }
    if conditions.contains(.ifNone), conditions != .ifNone { throw .expireOptionsExclusive }
    if conditions.isSuperset(of: [.ifLater, .ifEarlier]) { throw .expireOrderExclusive }
    return conditions
  }

  private static func expire(
    _ context: inout CommandContext, _ unit: Expiry.Unit
  ) throws(CommandError) {
    let conditions = try conditions(context)
    let deadline = try Expiry.deadline(
      context.integer(2), unit, mayBePast: true, in: context)
    guard let entry = context.entry(1) else { return context.reply.integer(0) }
    context.touch(entry)
    let isRefused: Bool
    if let old = entry.deadline {
      isRefused =
        conditions.contains(.ifNone) || (conditions.contains(.ifLater) && deadline <= old)
        || (conditions.contains(.ifEarlier) && deadline >= old)
    } else {
      isRefused = !conditions.isDisjoint(with: [.ifAny, .ifLater])
    }
    if isRefused { return context.reply.integer(0) }
    if deadline <= context.now {
      _ = context.remove(1)
    } else {
      _ = try context.setDeadline(deadline, of: 1)
    }
    context.reply.integer(1)
  }

  private static func persist(_ context: inout CommandContext) throws(CommandError) {
    let entry = context.entry(1)
    context.touch(entry)
    guard let entry, entry.hasDeadline else { return context.reply.integer(0) }
    _ = try context.setDeadline(nil, of: 1)
    context.reply.integer(1)
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

    var isSeconds: Bool { self == .seconds || self == .unixSeconds }
    var isRelative: Bool { self == .seconds || self == .milliseconds }
  }

  /// The milliseconds behind which a deadline would be too late as a time of day, as in Redis.
  static func longestTimeToLive(in context: borrowing CommandContext) -> Int {
    Int.max - max(Clock.wallMilliseconds, context.now.milliseconds)
  }

  /// - Parameter mayBePast: Whether 0 and less are times, too.
  /// - Throws: `invalidExpireTime` when the number is not positive, or too large in milliseconds.
  static func deadline(
    _ number: Int, _ unit: Unit, mayBePast: Bool = false, in context: borrowing CommandContext
  ) throws(CommandError) -> Timestamp {
    let (milliseconds, overflow) = number.multipliedReportingOverflow(
      by: unit.isSeconds ? 1000 : 1)
    let latest = unit.isRelative ? longestTimeToLive(in: context) : Int.max
    if overflow || milliseconds > latest || (number <= 0 && !mayBePast) {
      throw .invalidExpireTime(command: context.command.name)
    }
    let offset =
      unit.isRelative ? context.relativeNow.milliseconds : -Clock.wallOffsetMilliseconds
    let (moment, isTooEarly) = milliseconds.addingReportingOverflow(offset)
    return Timestamp(milliseconds: isTooEarly ? Int.min : moment)
  }
}

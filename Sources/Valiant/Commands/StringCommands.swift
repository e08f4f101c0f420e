/// Commands on string values.
enum StringCommands: CommandFamily {
  static let category = Command.Category.string
  static let commands: [Command] = [
    Command(
      "GET key", arity: 2, flags: [.readonly, .fast], keys: .one("RO", "access"),
      summary: "Returns the string value of a key.", handler: get),
    Command(
      "SET key value [NX|XX|IFEQ comparison-value] [GET] [EX seconds|PX milliseconds|EXAT unix-time-seconds|PXAT unix-time-milliseconds|KEEPTTL]",
      arity: -3, flags: [.write, .denyoom],
      keys: .one("RW", "access", "update", "variable_flags"),
      summary:
        "Sets the string value of a key, ignoring its type. The key is created if it doesn't exist.",
      access: { request in
        (3..<max(3, request.count)).contains { request[$0].equalsIgnoringCase("GET") }
          ? ["RW", "access", "update"] : ["OW", "update"]
      }, handler: set),
    Command(
      "SETNX key value", arity: 3, flags: [.write, .denyoom, .fast], keys: .one("OW", "insert"),
      summary: "Sets the string value of a key only when the key doesn't exist.",
      handler: setIfMissing),
    Command(
      "SETEX key seconds value", arity: 4, flags: [.write, .denyoom], keys: .one("OW", "update"),
      summary: "Sets the string value and expiration time of a key in seconds.", since: "2.0.0",
      handler: { context throws(CommandError) in try setForTime(&context, .seconds) }),
    Command(
      "PSETEX key milliseconds value", arity: 4, flags: [.write, .denyoom],
      keys: .one("OW", "update"),
      summary: "Sets the string value and expiration time of a key in milliseconds.",
      since: "2.6.0",
      handler: { context throws(CommandError) in try setForTime(&context, .milliseconds) }),
    Command(
      "GETSET key value", arity: 3, flags: [.write, .denyoom, .fast],
      keys: .one("RW", "access", "update"),
      summary: "Returns the previous string value of a key after setting it to a new value.",
      replacement: ("6.2.0", "`SET` with the `!GET` argument"), handler: getAndSet),
    Command(
      "GETDEL key", arity: 2, flags: [.write, .fast], keys: .one("RW", "access", "delete"),
      summary: "Returns the string value of a key after deleting the key.", since: "6.2.0",
      handler: getAndDelete),
    Command(
      "GETEX key [EX seconds|PX milliseconds|EXAT unix-time-seconds|PXAT unix-time-milliseconds|PERSIST]",
      arity: -2, flags: [.write, .fast], keys: .one("RW", "access", "update"),
      summary: "Returns the string value of a key after setting its expiration time.",
      since: "6.2.0", handler: getAndExpire),
    Command(
      "DELIFEQ key value", arity: 3, flags: [.write, .fast], keys: .one("RW", "access", "delete"),
      summary: "Deletes a key if its string value is the one given.", since: "9.0.0",
      handler: deleteIfEqual),
    Command(
      "STRLEN key", arity: 2, flags: [.readonly, .fast], keys: .one("RO"),
      summary: "Returns the length of a string value.", since: "2.2.0", handler: length),
    Command(
      "APPEND key value", arity: 3, flags: [.write, .denyoom, .fast, .repeatable],
      keys: .one("RW", "insert"),
      summary:
        "Appends a string to the value of a key. Creates the key if it doesn't exist.",
      since: "2.0.0", event: .string("append"), handler: append),
    Command(
      "SETRANGE key offset value", arity: 4, flags: [.write, .denyoom, .repeatable],
      keys: .one("RW", "update"),
      summary:
        "Overwrites a part of a string value with another by an offset. Creates the key if it doesn't exist.",
      complexity: "O(N) where N is the length of the value.", since: "2.2.0",
      event: .string("setrange"), handler: setRange),
    Command(
      "GETRANGE key start end", arity: 4, flags: [.readonly], keys: .one("RO", "access"),
      summary: "Returns a substring of the string stored at a key.",
      complexity: "O(N) where N is the length of the returned string.", since: "2.4.0",
      handler: range),
    Command(
      "SUBSTR key start end", arity: 4, flags: [.readonly], keys: .one("RO", "access"),
      summary: "Returns a substring from a string value.",
      complexity: "O(N) where N is the length of the returned string.",
      replacement: ("2.0.0", "`GETRANGE`"), handler: range),
    Command(
      "MGET key [key ...]", arity: -2, flags: [.readonly, .fast], keys: .all("RO", "access"),
      tips: ["request_policy:multi_shard"],
      summary: "Atomically returns the string values of one or more keys.",
      complexity: "O(N) where N is the number of keys to retrieve.", handler: getMany),
    Command(
      "MSET key value [key value ...]", arity: -3, flags: [.write, .denyoom],
      keys: .pairs("OW", "update"),
      tips: ["request_policy:multi_shard", "response_policy:all_succeeded"],
      summary: "Atomically creates or modifies the string values of one or more keys.",
      complexity: "O(N) where N is the number of keys to set.", since: "1.0.1", handler: setMany),
    Command(
      "MSETNX key value [key value ...]", arity: -3, flags: [.write, .denyoom],
      keys: .pairs("OW", "insert"),
      tips: ["request_policy:multi_shard", "response_policy:agg_min"],
      summary: "Atomically sets one or more keys only when none of them exists.",
      complexity: "O(N) where N is the number of keys to set.", since: "1.0.1",
      handler: setManyIfMissing),
  ]

  // The two hottest handlers become part of their rows' closures: a call less each.

  @inline(__always)
  private static func get(_ context: inout CommandContext) throws(CommandError) {
    if context.isTelling { return try getAndTell(&context) }
    guard let value = context.stringUntold(1) else { return context.reply.null() }
    context.reply.bulkString(value)
  }

  @inline(never)
  private static func getAndTell(_ context: inout CommandContext) throws(CommandError) {
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

  private static func setMany(_ context: inout CommandContext) throws(CommandError) {
    try checkPairs(context)
    try setPairs(&context)
    context.reply.ok()
  }

  private static func setManyIfMissing(_ context: inout CommandContext) throws(CommandError) {
    try checkPairs(context)
    for index in stride(from: 1, to: context.request.count, by: 2) {
      guard let entry = context.entry(index) else { continue }
      context.touch(entry)
      return context.reply.integer(0)
    }
    try setPairs(&context)
    context.reply.integer(1)
  }

  private static func checkPairs(_ context: borrowing CommandContext) throws(CommandError) {
    guard context.request.count % 2 == 1 else { throw .arity(command: context.command.name) }
  }

  /// If memory ends on the way, keys that were set before stay set.
  private static func setPairs(_ context: inout CommandContext) throws(CommandError) {
    for index in stride(from: 1, to: context.request.count, by: 2) {
      try context.set(index, toArgument: index + 1, deadline: nil)
    }
  }

  private static func setIfMissing(_ context: inout CommandContext) throws(CommandError) {
    if let entry = context.entry(1) {
      context.touch(entry)
      return context.reply.integer(0)
    }
    try context.set(1, toArgument: 2, deadline: nil)
    context.reply.integer(1)
  }

  private static func setForTime(
    _ context: inout CommandContext, _ unit: Expiry.Unit
  ) throws(CommandError) {
    let deadline = try Expiry.deadline(context.integer(2), unit, in: context)
    try context.set(1, toArgument: 3, deadline: deadline, tellingOf: .expire)
    context.reply.ok()
  }

  private static func getAndSet(_ context: inout CommandContext) throws(CommandError) {
    let start = context.reply.output.mark
    try get(&context)
    try set(&context, deadline: nil, answeredFrom: start)
  }

  /// Sets key 1 to argument 2, behind the reply, which is taken back when that fails.
  private static func set(
    _ context: inout CommandContext, deadline: Timestamp?, answeredFrom start: OutputBuffer.Mark,
    tellingOf event: KeyspaceEvent? = nil
  ) throws(CommandError) {
    do throws(CommandError) {
      try context.set(1, toArgument: 2, deadline: deadline, tellingOf: event)
    } catch {
      context.reply.output.truncate(to: start)
      throw error
    }
  }

  private static func getAndDelete(_ context: inout CommandContext) throws(CommandError) {
    try get(&context)
    _ = context.remove(1)
  }

  private static func getAndExpire(_ context: inout CommandContext) throws(CommandError) {
    let options = try StringOptions(context, from: 2, .get)
    let start = context.reply.output.mark
    guard let value = try context.string(1) else { return context.reply.null() }
    let deadline = try options.deadline(in: context)
    context.reply.bulkString(value)
    do throws(CommandError) {
      if let deadline, deadline <= context.now {
        _ = context.remove(1)
      } else if deadline != nil || (options.removesDeadline && context.entry(1)?.deadline != nil) {
        _ = try context.setDeadline(deadline, of: 1)
      }
    } catch {
      context.reply.output.truncate(to: start)
      throw error
    }
  }

  private static func deleteIfEqual(_ context: inout CommandContext) throws(CommandError) {
    let isEqual = context.entry(1)?.value.equals(context.request[2]) ?? false
    context.reply.integer(isEqual && context.remove(1) ? 1 : 0)
  }

  private static func length(_ context: inout CommandContext) throws(CommandError) {
    context.reply.integer(try context.string(1)?.count ?? 0)
  }

  private static func append(_ context: inout CommandContext) throws(CommandError) {
    let added = context.request[2]
    guard let old = context.entry(1)?.value.count else {
      try context.set(1, toArgument: 2, deadline: nil)
      return context.reply.integer(added.count)
    }
    try context.edit(1, count: old + added.count) { $0.replace(at: old, with: added) }
    context.reply.integer(old + added.count)
  }

  private static func setRange(_ context: inout CommandContext) throws(CommandError) {
    let offset = try context.integer(2)
    guard offset >= 0 else { throw .offsetOutOfRange }
    let new = context.request[3]
    let entry = context.entry(1)
    let old = entry?.value.count ?? 0
    if new.isEmpty {
      context.touch(entry)
      return context.reply.integer(old)
    }
    let (end, overflow) = offset.addingReportingOverflow(new.count)
    if overflow { throw .tooLong }
    try context.edit(1, count: end) { $0.replace(at: offset, with: new) }
    context.reply.integer(max(old, end))
  }

  private static func range(_ context: inout CommandContext) throws(CommandError) {
    let (start, end) = (try context.integer(2), try context.integer(3))
    guard let value = try context.string(1) else { return context.reply.bulkString(.empty) }
    let count = value.count
    // Both may count from the end. In front of the beginning is the beginning, as in Redis.
    let first = max(start < 0 ? count + start : start, 0)
    let last = min(max(end < 0 ? count + end : end, 0), count - 1)
    if first > last || (start < 0 && end < 0 && start > end) {
      return context.reply.bulkString(.empty)
    }
    switch value {
    case .bytes(let bytes): context.reply.bulkString(bytes[first..<last + 1])
    case .long(let bytes, let block):
      context.reply.bulkString(bytes[first..<last + 1], in: block)
    case .integer: value.withBytes { context.reply.bulkString($0[first..<last + 1]) }
    }
  }

  private static func setWithOptions(_ context: inout CommandContext) throws(CommandError) {
    let options = try StringOptions(context, from: 3, .set)
    let newDeadline = try options.deadline(in: context)
    let start = context.reply.output.mark
    let old = options.returnsOld ? context.look(1) : context.entry(1)
    if options.returnsOld {
      if let old { context.reply.bulkString(old.value) } else { context.reply.null() }
    }
    if options.refuses(old, context) {
      if !options.returnsOld { context.reply.null() }
      context.touch(old)
      return
    }
    let deadline = options.keepsDeadline ? old?.deadline : newDeadline
    if let deadline, deadline < context.now {
      // As if it had been there for a moment.
      context.expireAtOnce(1)
    } else {
      try set(
        &context, deadline: deadline, answeredFrom: start,
        tellingOf: newDeadline == nil ? nil : .expire)
    }
    if !options.returnsOld { context.reply.ok() }
  }
}

/// Options of SET and GETEX.
private struct StringOptions {
  enum Kind {
    case set, get
  }

  private enum Condition: Equatable {
    case ifMissing, ifPresent
    /// The value is that of this argument.
    case ifEqual(Int)
  }

  private var condition: Condition?
  private(set) var returnsOld = false
  private(set) var keepsDeadline = false
  private(set) var removesDeadline = false
  private var expiry: (unit: Expiry.Unit, argument: Int)?

  /// - Throws: `syntax`.
  init(
    _ context: borrowing CommandContext, from first: Int, _ kind: Kind
  ) throws(CommandError) {
    let request = context.request
    var index = first
    while index < request.count {
      let option = request[index]
      let keepsOrRemoves = keepsDeadline || removesDeadline
      // The same unit twice is allowed, and the last one counts, as in Redis.
      if let unit = Expiry.Unit(option), !keepsOrRemoves, expiry == nil || expiry?.unit == unit,
        index + 1 < request.count
      {
        index += 1
        expiry = (unit, index)
      } else if kind == .get, option.equalsIgnoringCase("PERSIST"), expiry == nil {
        removesDeadline = true
      } else if kind == .set, option.equalsIgnoringCase("KEEPTTL"), expiry == nil {
        keepsDeadline = true
      } else if kind == .set, option.equalsIgnoringCase("GET") {
        returnsOld = true
      } else if kind == .get || !takeCondition(request, &index) {
        throw .syntax
      }
      index += 1
    }
  }

  /// Reads a condition that does not contradict another.
  private mutating func takeCondition(_ request: Request, _ index: inout Int) -> Bool {
    let option = request[index]
    if option.equalsIgnoringCase("NX"), condition == nil || condition == .ifMissing {
      condition = .ifMissing
    } else if option.equalsIgnoringCase("XX"), condition == nil || condition == .ifPresent {
      condition = .ifPresent
    } else if option.equalsIgnoringCase("IFEQ"), condition == nil, index + 1 < request.count {
      index += 1
      condition = .ifEqual(index)
    } else {
      return false
    }
    return true
  }

  /// - Throws: `notAnInteger`, `invalidExpireTime`.
  func deadline(in context: borrowing CommandContext) throws(CommandError) -> Timestamp? {
    guard let expiry else { return nil }
    return try Expiry.deadline(context.integer(expiry.argument), expiry.unit, in: context)
  }

  /// Whether the condition does not hold for what there is.
  func refuses(_ old: Entry?, _ context: borrowing CommandContext) -> Bool {
    switch condition {
    case nil: false
    case .ifMissing: old != nil
    case .ifPresent: old == nil
    case .ifEqual(let argument): !(old?.value.equals(context.request[argument]) ?? false)
    }
  }
}

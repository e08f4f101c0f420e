/// PFADD, PFCOUNT and PFMERGE: how many different elements there were, approximately.
enum HyperLogLogCommands: CommandFamily {
  static let category = Command.Category.hyperloglog
  static let commands: [Command] = [
    Command(
      "PFADD key [element [element ...]]", arity: -2,
      flags: [.write, .denyoom, .fast, .repeatable],
      keys: .one("RW", "insert"),
      summary:
        "Adds elements to a HyperLogLog key. Creates the key if it doesn't exist.",
      complexity: "O(1) to add every element.", since: "2.8.9", event: .string("pfadd"),
      handler: add),
    Command(
      "PFCOUNT key [key ...]", arity: -2, flags: [.readonly, .mayReplicate, .repeatable],
      keys: .all("RW", "access"),
      summary:
        "Returns the approximated cardinality of the set(s) observed by the HyperLogLog key(s).",
      complexity:
        "O(1) with a very small average constant time when called with a single key. O(N) with N being the number of keys, and much bigger constant times, when called with multiple keys.",
      since: "2.8.9", event: .string("pfcount"), handler: count),
    Command(
      "PFMERGE destkey [sourcekey [sourcekey ...]]", arity: -2,
      flags: [.write, .denyoom, .repeatable],
      keys: .parts(.range(1, 1, "RW", "access", "insert"), .range(2, -1, "RO", "access")),
      summary: "Merges one or more HyperLogLog values into a single key.",
      complexity: "O(N) to merge N HyperLogLogs, but with high constant times.", since: "2.8.9",
      event: .string("pfadd"), handler: merge),
  ]

  /// Calls `body`, and says in a client's words what is wrong with a value.
  private static func checked<Result>(
    _ body: () throws(HyperLogLog.Failure) -> Result
  ) throws(CommandError) -> Result {
    do throws(HyperLogLog.Failure) {
      return try body()
    } catch {
      throw error == .corrupt ? .corruptHyperLogLog : .notAHyperLogLog
    }
  }

  private static func stored(_ value: Value) throws(CommandError) -> HyperLogLog {
    try checked { () throws(HyperLogLog.Failure) in
      try value.withBytes { (bytes) throws(HyperLogLog.Failure) in try HyperLogLog(bytes) }
    }
  }

  private static func add(_ context: inout CommandContext) throws(CommandError) {
    let request = context.request
    let value = context.entry(1)?.value
    if let value, try isDense(value) {
      let isRaised = try context.edit(
        1, count: value.count, isChange: { isRaised, _ in isRaised },
        { bytes in
          var isRaised = false
          for index in 2..<max(2, request.count) {
            let register = HyperLogLog.register(of: request[index])
            if HyperLogLog.raise(register.index, to: register.value, in: bytes) {
              isRaised = true
            }
          }
          if isRaised { HyperLogLog.invalidateCount(in: bytes) }
          return isRaised
        })
      return context.reply.integer(isRaised ? 1 : 0)
    }
    var log = try value.map { value throws(CommandError) in try stored(value) } ?? HyperLogLog()
    var isRaised = value == nil
    let sparseMax = context.settings.hyperLogLogSparseMaxBytes
    for index in 2..<max(2, request.count) {
      let register = HyperLogLog.register(of: request[index])
      let raised = try checked { () throws(HyperLogLog.Failure) in
        try log.raise(register.index, to: register.value, sparseMax: sparseMax)
      }
      if raised { isRaised = true }
    }
    if isRaised {
      log.invalidateCount()
      try store(log, &context)
    }
    context.reply.integer(isRaised ? 1 : 0)
  }

  private static func isDense(_ value: Value) throws(CommandError) -> Bool {
    try checked { () throws(HyperLogLog.Failure) in
      try value.withBytes { (bytes) throws(HyperLogLog.Failure) in
        try HyperLogLog.isDense(bytes)
      }
    }
  }

  /// Sets key 1, which keeps its time to live.
  private static func store(
    _ log: HyperLogLog, _ context: inout CommandContext
  ) throws(CommandError) {
    let deadline = context.entry(1)?.deadline
    try log.bytes.withBytes { bytes throws(CommandError) in
      // No server writes one so long, but a client may.
      if bytes.count > LongValue.shortMax {
        return try context.set(1, to: bytes, deadline: deadline)
      }
      try context.set(1, toText: bytes, isEdited: true, deadline: deadline)
    }
  }

  /// Of one key the count is kept with the value until that next changes.
  private static func count(_ context: inout CommandContext) throws(CommandError) {
    if context.request.count > 2 {
      var all = [UInt8](repeating: 0, count: HyperLogLog.registerCount)
      for index in 1..<context.request.count { _ = try merge(index, into: &all, context) }
      return context.reply.integer(HyperLogLog.estimate(all))
    }
    guard let value = try context.string(1) else { return context.reply.integer(0) }
    let log = try stored(value)
    if let count = log.cachedCount { return context.reply.integer(count) }
    let registers = try checked { () throws(HyperLogLog.Failure) in try log.registers() }
    let count = HyperLogLog.estimate(registers)
    try context.edit(1, count: value.count, tells: false) { HyperLogLog.cache(count, in: $0) }
    context.reply.integer(count)
  }

  /// Raises `all` to what the key that argument `index` names holds.
  ///
  /// - Returns: Whether that is in dense form.
  private static func merge(
    _ index: Int, into all: inout [UInt8], _ context: borrowing CommandContext
  ) throws(CommandError) -> Bool {
    guard let value = try context.string(index) else { return false }
    let log = try stored(value)
    let registers = try checked { () throws(HyperLogLog.Failure) in try log.registers() }
    for index in 0..<all.count { all[index] = max(all[index], registers[index]) }
    return log.isDense
  }

  private static func merge(_ context: inout CommandContext) throws(CommandError) {
    var all = [UInt8](repeating: 0, count: HyperLogLog.registerCount)
    var needsDense = false
    for index in 1..<context.request.count where try merge(index, into: &all, context) {
      needsDense = true
    }
    let value = context.entry(1)?.value
    var log = try value.map { value throws(CommandError) in try stored(value) } ?? HyperLogLog()
    let sparseMax = context.settings.hyperLogLogSparseMaxBytes
    try checked { () throws(HyperLogLog.Failure) in
      if needsDense { try log.makeDense() }
      for (index, value) in all.enumerated() where value > 0 {
        _ = try log.raise(index, to: value, sparseMax: sparseMax)
      }
    }
    log.invalidateCount()
    try store(log, &context)
    context.reply.ok()
  }
}

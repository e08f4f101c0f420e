/// Commands that count with strings which spell numbers.
enum NumberCommands: CommandFamily {
  static let category = Command.Category.string
  static let commands: [Command] = [
    Command(
      "INCR key", arity: 2, flags: [.write, .denyoom, .fast],
      keys: .one("RW", "access", "update"),
      summary: "Increments the integer value of a key by one.", event: .string("incrby"),
      handler: { context throws(CommandError) in try increment(&context, by: 1) }),
    Command(
      "DECR key", arity: 2, flags: [.write, .denyoom, .fast],
      keys: .one("RW", "access", "update"),
      summary: "Decrements the integer value of a key by one.", event: .string("incrby"),
      handler: { context throws(CommandError) in try increment(&context, by: -1) }),
    Command(
      "INCRBY key increment", arity: 3, flags: [.write, .denyoom, .fast],
      keys: .one("RW", "access", "update"),
      summary: "Increments the integer value of a key by a number.", event: .string("incrby"),
      handler: { context throws(CommandError) in
        try increment(&context, by: context.integer(2))
      }),
    Command(
      "DECRBY key decrement", arity: 3, flags: [.write, .denyoom, .fast],
      keys: .one("RW", "access", "update"),
      summary: "Decrements the integer value of a key by a number.", event: .string("incrby"),
      handler: { context throws(CommandError) in
        let decrement = try context.integer(2)
        if decrement == Int.min { throw .decrementOverflow }
        try increment(&context, by: -decrement)
      }),
    Command(
      "INCRBYFLOAT key increment", arity: 3, flags: [.write, .denyoom, .fast],
      keys: .one("RW", "access", "update"),
      summary: "Increments the floating point value of a key by a number.", since: "2.6.0",
      event: .string("incrbyfloat"), handler: incrementByFloat),
  ]

  /// A missing key counts from 0; a time to live stays.
  private static func increment(
    _ context: inout CommandContext, by increment: Int
  ) throws(CommandError) {
    let entry = context.entry(1)
    var number = 0
    if let entry {
      guard let stored = entry.value.integer else { throw .notAnInteger }
      number = stored
    }
    let (sum, overflow) = number.addingReportingOverflow(increment)
    if overflow { throw .incrementOverflow }
    try context.set(1, to: sum, deadline: entry?.deadline)
    context.reply.integer(sum)
  }

  private static func incrementByFloat(_ context: inout CommandContext) throws(CommandError) {
    let entry = context.entry(1)
    let stored = entry.map { $0.value.withBytes(\.wideFloat) } ?? 0
    guard let stored, let increment = context.request[2].wideFloat else { throw .notAFloat }
    let sum = stored + increment
    guard sum.isFinite else { throw .incrementNotFinite }
    let deadline = entry?.deadline
    let text = decimal(sum)
    try text.withBytes { text throws(CommandError) in
      try context.set(1, toText: text, deadline: deadline)
      context.reply.bulkString(text)
    }
  }
}

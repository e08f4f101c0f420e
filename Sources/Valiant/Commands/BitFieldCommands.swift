/// BITFIELD: numbers of any width within a string.
enum BitFieldCommands: CommandFamily {
  static let category = Command.Category.bitmap
  static let commands: [Command] = [
    Command(
      "BITFIELD key [GET encoding offset|[OVERFLOW <WRAP|SAT|FAIL>] <SET encoding offset value|INCRBY encoding offset increment> ...]",
      arity: -2, flags: [.write, .denyoom, .repeatable],
      keys: .one("RW", "access", "update", "variable_flags"),
      summary: "Performs arbitrary bitfield integer operations on strings.",
      complexity: "O(1) for each subcommand specified", since: "3.2.0",
      event: .string("setbit"),
      access: { request in
        (2..<max(2, request.count)).contains {
          request[$0].equalsIgnoringCase("SET") || request[$0].equalsIgnoringCase("INCRBY")
        } ? ["RW", "access", "update"] : ["RO", "access"]
      }, handler: { context throws(CommandError) in try run(&context, mayWrite: true) }),
    Command(
      "BITFIELD_RO key [GET encoding offset [GET encoding offset ...]]", arity: -2,
      flags: [.readonly, .fast], keys: .one("RO", "access"),
      summary: "Performs arbitrary read-only bitfield integer operations on strings.",
      complexity: "O(1) for each subcommand specified", since: "6.0.0",
      handler: { context throws(CommandError) in try run(&context, mayWrite: false) }),
  ]

  private enum Overflow { case wrap, saturate, fail }

  /// `i5` or `u16`: at most 64 bits with a sign, 63 without.
  private struct Encoding {
    let isSigned: Bool
    let width: Int

    init(_ text: Bytes) throws(CommandError) {
      guard !text.isEmpty, text[0] == UInt8(ascii: "i") || text[0] == UInt8(ascii: "u"),
        let width = text.dropFirst(1).integer
      else { throw .bitFieldType }
      isSigned = text[0] == UInt8(ascii: "i")
      self.width = width
      guard width >= 1, width <= (isSigned ? 64 : 63) else { throw .bitFieldType }
    }

    var largest: Int { isSigned ? Int.max >> (64 - width) : Int.max >> (63 - width) }
    var least: Int { isSigned ? -largest - 1 : 0 }

    /// The number whose low bits these are.
    func number(_ field: UInt64) -> Int {
      if !isSigned { return Int(field) }
      return (Int(bitPattern: UInt(field)) << (64 - width)) >> (64 - width)
    }

    /// `number` + `increment` in this encoding; nil when it does not fit and is not to be written.
    func sum(_ number: Int, _ increment: Int, _ overflow: Overflow) -> Int? {
      let (sum, carry) = number.addingReportingOverflow(increment)
      // Redis takes a negative number without a sign for a very large one.
      let isHigh =
        carry ? increment > 0 : sum > largest || (!isSigned && number < 0)
      if !isHigh, !carry, sum >= least { return sum }
      switch overflow {
      case .fail: return nil
      case .saturate: return isHigh ? largest : least
      case .wrap:
        let mask = UInt64.max >> UInt64(64 - width)
        return self.number(UInt64(truncatingIfNeeded: sum) & mask)
      }
    }
  }

  private enum Action {
    case get
    case set(Int)
    case increment(Int)
  }

  private struct Step {
    let action: Action
    let encoding: Encoding
    let offset: Int
    let overflow: Overflow
  }

  private static func run(
    _ context: inout CommandContext, mayWrite: Bool
  ) throws(CommandError) {
    let (steps, writtenBits) = try read(context)
    guard writtenBits > 0 else {
      let value = try context.string(1)
      context.reply.array(steps.count)
      for step in steps {
        let field = value?.withBytes { $0.bitField(step.offset, width: step.encoding.width) } ?? 0
        context.reply.integer(step.encoding.number(field))
      }
      return
    }
    guard mayWrite else { throw .bitFieldReadOnly }
    let results = try context.edit(
      1, count: (writtenBits + 7) / 8,
      isChange: { results, hasGrown in
        results.contains { $0.isWritten && ($0.isDifferent || hasGrown) }
      },
      { bytes in steps.map { run($0, bytes) } })
    context.reply.array(results.count)
    for result in results {
      if let result = result.number { context.reply.integer(result) } else { context.reply.null() }
    }
  }

  /// Reads the request.
  ///
  /// - Returns: What to do, and how many bits the string needs for what is written; 0 for nothing.
  private static func read(
    _ context: borrowing CommandContext
  ) throws(CommandError) -> (steps: [Step], writtenBits: Int) {
    let request = context.request
    var steps: [Step] = []
    var writtenBits = 0
    var overflow = Overflow.wrap
    var index = 2
    while index < request.count {
      let (name, left) = (request[index], request.count - index - 1)
      if name.equalsIgnoringCase("OVERFLOW"), left >= 1 {
        overflow = try self.overflow(request[index + 1])
        index += 2
        continue
      }
      let isGet = name.equalsIgnoringCase("GET") && left >= 2
      let isSet = name.equalsIgnoringCase("SET") && left >= 3
      guard isGet || isSet || (name.equalsIgnoringCase("INCRBY") && left >= 3) else {
        throw .syntax
      }
      let encoding = try Encoding(request[index + 1])
      let offset = try BitmapCommands.bitOffset(context, index + 2, width: encoding.width)
      var action = Action.get
      if !isGet {
        writtenBits = max(writtenBits, offset + encoding.width)
        let number = try context.integer(index + 3)
        action = isSet ? .set(number) : .increment(number)
      }
      steps.append(Step(action: action, encoding: encoding, offset: offset, overflow: overflow))
      index += isGet ? 3 : 4
    }
    return (steps, writtenBits)
  }

  private static func overflow(_ name: Bytes) throws(CommandError) -> Overflow {
    if name.equalsIgnoringCase("WRAP") { return .wrap }
    if name.equalsIgnoringCase("SAT") { return .saturate }
    if name.equalsIgnoringCase("FAIL") { return .fail }
    throw .bitFieldOverflow
  }

  private struct Outcome {
    /// Nil for one that does not fit and was not written.
    let number: Int?
    var isWritten = false
    var isDifferent = false
  }

  private static func run(_ step: Step, _ bytes: MutableBytes) -> Outcome {
    let encoding = step.encoding
    let old = encoding.number(bytes.bytes.bitField(step.offset, width: encoding.width))
    let new: Int?
    switch step.action {
    case .get: return Outcome(number: old)
    case .set(let number): new = encoding.sum(number, 0, step.overflow)
    case .increment(let increment): new = encoding.sum(old, increment, step.overflow)
    }
    guard let new else { return Outcome(number: nil) }
    bytes.setBitField(step.offset, width: encoding.width, UInt64(bitPattern: Int64(new)))
    let answer = if case .set = step.action { old } else { new }
    return Outcome(number: answer, isWritten: true, isDifferent: old != new)
  }
}

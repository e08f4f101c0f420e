/// Commands that look through all keys.
enum ScanCommands: CommandFamily {
  static let category = Command.Category.keyspace
  static let commands: [Command] = [
    Command(
      "KEYS pattern", arity: 2, flags: [.readonly, .dangerous, .wholeKeyspace],
      tips: ["request_policy:all_shards", "nondeterministic_output_order"],
      summary: "Returns all key names that match a pattern.",
      complexity: "O(N) where N is the number of keys in the database.", handler: keys),
    Command(
      "SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]", arity: -2,
      flags: [.readonly, .wholeKeyspace],
      tips: ["nondeterministic_output", "request_policy:special"],
      summary: "Iterates over the key names in the database.",
      complexity: "O(1) for every call, O(N) for a whole iteration over N keys.", since: "2.8.0",
      handler: scan),
    Command(
      "RANDOMKEY", arity: 1, flags: [.readonly, .wholeKeyspace],
      tips: ["request_policy:all_shards", "nondeterministic_output"],
      summary: "Returns a random key name from the database.", handler: randomKey),
  ]

  /// Keys on their way into a reply whose header says how many they are.
  private struct Page: ~Copyable {
    private var bytes = ByteBuffer()
    private var count = 0

    mutating func add(_ key: Bytes) {
      bytes.append(bulk: key)
      count += 1
    }

    func write(to reply: inout ReplyWriter) {
      reply.array(count)
      reply.output.bytes.append(bytes.bytes)
    }
  }

  /// Shard by shard: others are not held up, and what is renamed meanwhile may not show.
  private static func keys(_ context: inout CommandContext) throws(CommandError) {
    let pattern = context.request[1]
    let isEverything = GlobPattern.isEverything(pattern)
    let now = context.now
    var page = Page()
    context.forEachKeyspace { keyspace in
      keyspace.forEachEntry { entry in
        let key = entry.key
        if isEverything || GlobPattern.matches(pattern, key), !entry.isExpired(at: now) {
          page.add(key)
        }
      }
    }
    page.write(to: &context.reply)
  }

  private struct Options {
    var pattern: Int?
    var count = 10
    /// Only keys of this type.
    var type: Int?

    init(_ context: borrowing CommandContext) throws(CommandError) {
      let request = context.request
      var index = 2
      while index < request.count {
        guard index + 1 < request.count else { throw .syntax }
        if request[index].equalsIgnoringCase("COUNT") {
          count = try context.integer(index + 1)
          guard count >= 1 else { throw .syntax }
        } else if request[index].equalsIgnoringCase("MATCH") {
          pattern = GlobPattern.isEverything(request[index + 1]) ? nil : index + 1
        } else if request[index].equalsIgnoringCase("TYPE") {
          type = index + 1
        } else {
          throw .syntax
        }
        index += 2
      }
    }
  }

  private static func scan(_ context: inout CommandContext) throws(CommandError) {
    guard let number = cursor(context.request[1]) else { throw .invalidCursor }
    let options = try Options(context)
    let now = context.now
    let request = context.request
    var page = Page()
    var (hits, misses) = (0, 0)
    let next = context.scan(from: ScanCursor(number), count: options.count) { entry in
      let key = entry.key
      let isThere = !entry.isExpired(at: now)
      if let pattern = options.pattern, !GlobPattern.matches(request[pattern], key) { return }
      if let type = options.type {
        if isThere { hits += 1 } else { misses += 1 }
        if !request[type].equalsIgnoringCase("string") { return }
      }
      if isThere { page.add(key) }
    }
    // Redis looks a key up for its type.
    context.count(hits: hits, misses: misses)
    context.reply.array(2)
    context.reply.bulkString(String(next.number))
    page.write(to: &context.reply)
  }

  /// A cursor as C's `strtoul` reads it: `-1` is the largest one.
  private static func cursor(_ text: Bytes) -> UInt64? {
    if text.isEmpty { return 0 }
    let isNegative = text[0] == UInt8(ascii: "-")
    let digits = isNegative || text[0] == UInt8(ascii: "+") ? text.dropFirst(1) : text
    if digits.isEmpty { return nil }
    var number: UInt64 = 0
    for index in 0..<digits.count {
      let digit = digits[index] &- UInt8(ascii: "0")
      let (product, overflow) = number.multipliedReportingOverflow(by: 10)
      let (sum, carry) = product.addingReportingOverflow(UInt64(digit))
      if digit > 9 || overflow || carry { return nil }
      number = sum
    }
    return isNegative ? 0 &- number : number
  }

  private static func randomKey(_ context: inout CommandContext) throws(CommandError) {
    var page = ByteBuffer()
    if context.withRandomEntry({ page.append(bulk: $0.key) }) {
      context.reply.output.bytes.append(page.bytes)
    } else {
      context.reply.null()
    }
  }
}

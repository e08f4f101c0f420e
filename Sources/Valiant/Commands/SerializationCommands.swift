/// DUMP and RESTORE: values in the form in which Redis hands them from server to server.
enum SerializationCommands: CommandFamily {
  static let category = Command.Category.keyspace
  static let commands: [Command] = [
    Command(
      "DUMP key", arity: 2, flags: [.readonly], keys: .one("RO", "access"),
      tips: ["nondeterministic_output"],
      summary: "Returns a serialized representation of the value stored at a key.",
      complexity: "O(N) where N is the length of the value.", since: "2.6.0", handler: dump),
    Command(
      "RESTORE key ttl serialized-value [REPLACE] [ABSTTL] [IDLETIME seconds] [FREQ frequency]",
      arity: -4, flags: [.write, .denyoom, .dangerous], keys: .one("OW", "update"),
      summary: "Creates a key from the serialized representation of a value.",
      complexity: "O(N) where N is the length of the value.", since: "2.6.0",
      event: .generic("restore"), handler: restore),
  ]

  private static let footerBytes = 10

  private static func dump(_ context: inout CommandContext) throws(CommandError) {
    guard let value = try context.string(1) else { return context.reply.null() }
    var payload = ByteBuffer()
    payload.append(RDBCode.string)
    value.withBytes { SerializedString.write($0, to: &payload) }
    payload.append(littleEndian: RDBWriter.version, bytes: 2)
    let checksum = CRC64.checksum(payload.bytes)
    payload.append(littleEndian: Int(bitPattern: UInt(checksum)), bytes: 8)
    context.reply.bulkString(payload.bytes)
  }

  private struct Options {
    var replaces = false
    var isAbsolute = false
    var idleSeconds: Int?
    var frequency: Int?

    init(_ context: borrowing CommandContext) throws(CommandError) {
      let request = context.request
      var index = 4
      while index < request.count {
        let (option, hasMore) = (request[index], index + 1 < request.count)
        if option.equalsIgnoringCase("REPLACE") {
          replaces = true
        } else if option.equalsIgnoringCase("ABSTTL") {
          isAbsolute = true
        } else if option.equalsIgnoringCase("IDLETIME"), hasMore, frequency == nil {
          index += 1
          let seconds = try context.integer(index)
          guard seconds >= 0 else { throw .invalidIdleTime }
          idleSeconds = seconds
        } else if option.equalsIgnoringCase("FREQ"), hasMore, idleSeconds == nil {
          index += 1
          let counter = try context.integer(index)
          guard (0...255).contains(counter) else { throw .invalidFrequency }
          frequency = counter
        } else {
          throw .syntax
        }
        index += 1
      }
    }
  }

  private static func restore(_ context: inout CommandContext) throws(CommandError) {
    let options = try Options(context)
    if !options.replaces, context.entry(1) != nil { throw .keyExists }
    let timeToLive = try context.integer(2)
    guard timeToLive >= 0 else { throw .invalidTimeToLive }
    let value = try value(context.request[3])
    var text = ByteBuffer()
    if case .compressed(let bytes, let count) = value {
      guard count <= context.settings.bulkLengthMaxBytes else { throw .badData }
      try context.reserve(count)
      guard let buffer = SerializedString.decompress(bytes, count: count) else { throw .badData }
      text = buffer
    }
    var deadline: Timestamp?
    if timeToLive > 0 {
      let offset =
        options.isAbsolute ? -Clock.wallOffsetMilliseconds : context.relativeNow.milliseconds
      let milliseconds = min(timeToLive, Expiry.longestTimeToLive(in: context))
      deadline = Timestamp(milliseconds: milliseconds.addingClamped(offset))
    }
    if let deadline, deadline < context.now {
      _ = context.remove(1)
      return context.reply.ok()
    }
    // Also in the place of another one.
    if context.entry(1) != nil { context.tell(.new, 1) }
    switch value {
    case .plain(let bytes): try context.set(1, to: bytes, deadline: deadline)
    case .number(let number): try context.set(1, to: number, deadline: deadline)
    case .compressed: try context.set(1, to: text.bytes, deadline: deadline)
    }
    if let entry = context.entry(1) {
      entry.access = context.memory.access.restored(
        idleSeconds: options.idleSeconds, frequency: options.frequency)
    }
    context.reply.ok()
  }

  /// The string that a payload holds.
  private static func value(_ payload: Bytes) throws(CommandError) -> SerializedString.Form {
    guard payload.count >= footerBytes else { throw .badPayload }
    let footer = payload.dropFirst(payload.count - footerBytes)
    var checksum: UInt64 = 0
    for index in 0..<8 { checksum |= UInt64(footer[2 + index]) << UInt64(8 * index) }
    guard Int(footer[0]) | Int(footer[1]) << 8 <= RDBReader.versions.upperBound,
      checksum == CRC64.checksum(payload.prefix(payload.count - 8))
    else { throw .badPayload }
    let content = payload.prefix(payload.count - footerBytes)
    guard !content.isEmpty, content[0] == RDBCode.string,
      let value = SerializedString.read(content.dropFirst(1))
    else { throw .badData }
    return value
  }
}

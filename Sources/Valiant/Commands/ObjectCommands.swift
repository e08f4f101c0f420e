/// OBJECT: how a value is kept, and when it was last used.
enum ObjectCommands: CommandFamily {
  static let category = Command.Category.keyspace
  static let commands: [Command] = [
    .container(
      "OBJECT", summary: "A container for object introspection commands.", since: "2.2.3",
      [
        Command(
          "OBJECT ENCODING key", arity: 3, flags: [.readonly], keys: .second("RO"),
          tips: ["nondeterministic_output"],
          summary: "Returns the internal encoding of a Redis object.", since: "2.2.3",
          handler: encoding),
        Command(
          "OBJECT FREQ key", arity: 3, flags: [.readonly], keys: .second("RO"),
          tips: ["nondeterministic_output"],
          summary: "Returns the logarithmic access frequency counter of a Redis object.",
          since: "4.0.0", handler: frequency),
        Command(
          "OBJECT IDLETIME key", arity: 3, flags: [.readonly], keys: .second("RO"),
          tips: ["nondeterministic_output"],
          summary: "Returns the time since the last access to a Redis object.", since: "2.2.3",
          handler: idleTime),
        Command(
          "OBJECT REFCOUNT key", arity: 3, flags: [.readonly], keys: .second("RO"),
          tips: ["nondeterministic_output"],
          summary: "Returns the reference count of a value of a key.", since: "2.2.3",
          handler: referenceCount),
        .help("OBJECT", since: "6.2.0"),
      ])
  ]

  private static func encoding(_ context: inout CommandContext) throws(CommandError) {
    guard let entry = context.look(2, tells: false) else { return context.reply.null() }
    context.reply.bulkString(encoding(of: entry))
  }

  /// What Redis would call the way in which it keeps such a value.
  static func encoding(of entry: Entry) -> String {
    switch entry.value {
    case .integer: "int"
    case .long: "raw"
    // The border at which Redis keeps a string in a block of its own.
    case .bytes(let bytes): bytes.count <= 44 && !entry.isEdited ? "embstr" : "raw"
    }
  }

  private static func frequency(_ context: inout CommandContext) throws(CommandError) {
    guard let entry = context.look(2, tells: false) else { return context.reply.null() }
    let access = context.memory.access
    guard access.kind == .frequency else { throw .frequencyNotTracked }
    context.reply.integer(access.frequency(entry.access))
  }

  private static func idleTime(_ context: inout CommandContext) throws(CommandError) {
    guard let entry = context.look(2, tells: false) else { return context.reply.null() }
    let access = context.memory.access
    guard access.kind != .frequency else { throw .idleTimeNotTracked }
    context.reply.integer(access.idleSeconds(entry.access))
  }

  private static func referenceCount(_ context: inout CommandContext) throws(CommandError) {
    guard context.look(2, tells: false) != nil else { return context.reply.null() }
    context.reply.integer(1)
  }
}

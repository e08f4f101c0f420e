/// COMMAND: what the server can do, for clients and interactive tools.
enum IntrospectionCommands: CommandFamily {
  static let category = Command.Category.server

  private static let flags: Command.Flags = [.loading, .stale, .connection]

  static let commands: [Command] = [
    Command(
      "COMMAND", arity: -1, flags: flags,
      tips: ["nondeterministic_output_order"],
      summary: "Returns detailed information about all commands.",
      complexity: "O(N) where N is the number of commands.", since: "2.8.13",
      subcommands: [
        Command(
          "COMMAND COUNT", arity: 2, flags: flags, summary: "Returns a count of commands.",
          since: "2.8.13",
          handler: { context throws(CommandError) in
            context.reply.integer(CommandTable.shared.topLevel.count)
          }),
        Command(
          "COMMAND INFO [command-name [command-name ...]]", arity: -2, flags: flags,
          tips: ["nondeterministic_output_order"],
          summary: "Returns information about one, multiple or all commands.",
          complexity: "O(N) where N is the number of commands to look up.", since: "2.8.13",
          handler: info),
        Command(
          "COMMAND DOCS [command-name [command-name ...]]", arity: -2, flags: flags,
          tips: ["nondeterministic_output_order"],
          summary: "Returns documentary information about one, multiple or all commands.",
          complexity: "O(N) where N is the number of commands to look up.", since: "7.0.0",
          handler: docs),
        Command(
          "COMMAND LIST [FILTERBY <MODULE module-name|ACLCAT category|PATTERN pattern>]",
          arity: -2, flags: flags, tips: ["nondeterministic_output_order"],
          summary: "Returns a list of command names.",
          complexity: "O(N) where N is the number of commands.", since: "7.0.0", handler: list),
        Command(
          "COMMAND GETKEYS command [arg [arg ...]]", arity: -3, flags: flags,
          summary: "Extracts the key names from an arbitrary command.",
          complexity: "O(N) where N is the number of arguments to the command.", since: "2.8.13",
          handler: getKeys),
        Command(
          "COMMAND GETKEYSANDFLAGS command [arg [arg ...]]", arity: -3, flags: flags,
          summary: "Extracts the key names and access flags for an arbitrary command.",
          complexity: "O(N) where N is the number of arguments to the command.", since: "7.0.0",
          handler: getKeysAndFlags),
        .help("COMMAND", since: "5.0.0"),
      ],
      handler: { context throws(CommandError) in
        let all = CommandTable.shared.topLevel
        context.reply.array(all.count)
        for command in all { write(command, to: &context.reply) }
      })
  ]

  /// The row that a name such as `get` or `client|id` names.
  private static func find(_ name: Bytes) -> Command? {
    let table = CommandTable.shared
    for index in 0..<table.count where name.equalsIgnoringCase(table[index].name) {
      return table[index]
    }
    return nil
  }

  private static func info(_ context: inout CommandContext) throws(CommandError) {
    let request = context.request
    if request.count == 2 {
      let all = CommandTable.shared.topLevel
      context.reply.array(all.count)
      for command in all { write(command, to: &context.reply) }
      return
    }
    context.reply.array(request.count - 2)
    for index in 2..<request.count {
      if let command = find(request[index]) {
        write(command, to: &context.reply)
      } else {
        context.reply.null()
      }
    }
  }

  private static func docs(_ context: inout CommandContext) throws(CommandError) {
    let request = context.request
    var chosen: [Command] = []
    if request.count == 2 {
      chosen = CommandTable.shared.topLevel
    } else {
      // A map has each key once; so the answer is never longer than that to all names.
      var seen: Set<String> = []
      for index in 2..<request.count {
        if let command = find(request[index]), seen.insert(command.name).inserted {
          chosen.append(command)
        }
      }
    }
    context.reply.map(chosen.count)
    for command in chosen {
      context.reply.bulkString(command.name)
      CommandDocs.write(command, to: &context.reply)
    }
  }

  private static func list(_ context: inout CommandContext) throws(CommandError) {
    let request = context.request
    let table = CommandTable.shared
    var names = (0..<table.count).map { table[$0] }
    if request.count > 2 {
      guard request.count == 5, request[2].equalsIgnoringCase("FILTERBY") else { throw .syntax }
      let value = request[4]
      if request[3].equalsIgnoringCase("MODULE") {
        names = []
      } else if request[3].equalsIgnoringCase("ACLCAT") {
        let category = "@" + value.text.lowercased()
        names = names.filter { $0.aclCategories.contains(category) }
      } else if request[3].equalsIgnoringCase("PATTERN") {
        names = names.filter { command in
          Array(command.name.utf8).withBytes {
            GlobPattern.matches(value, $0, ignoringCase: true)
          }
        }
      } else {
        throw .syntax
      }
    }
    context.reply.array(names.count)
    for command in names { context.reply.bulkString(command.name) }
  }

  private static func getKeys(_ context: inout CommandContext) throws(CommandError) {
    let asked = context.request.dropFirst(2)
    let keys = try keys(asked)
    context.reply.array(keys.count)
    for key in keys { context.reply.bulkString(asked[key.index]) }
  }

  private static func getKeysAndFlags(_ context: inout CommandContext) throws(CommandError) {
    let asked = context.request.dropFirst(2)
    let keys = try keys(asked)
    context.reply.array(keys.count)
    for key in keys {
      context.reply.array(2)
      context.reply.bulkString(asked[key.index])
      context.reply.set(key.access.count)
      for access in key.access { context.reply.status(text: access) }
    }
  }

  /// Where the keys of a request are, and what its command does with each.
  private static func keys(
    _ asked: Request
  ) throws(CommandError) -> [(index: Int, access: [String])] {
    guard let row = unsafe CommandTable.shared.find(asked) else { throw .invalidCommand }
    let counter = unsafe row.pointee.command.keys.counter
    guard unsafe row.pointee.firstKey > 0 || counter > 0 else { throw .noKeys }
    guard unsafe row.pointee.command.accepts(argumentCount: asked.count) else {
      throw .wrongArgumentsForCommand
    }
    let command = unsafe row.pointee.command
    if counter > 0 {
      let count = asked[counter].integer ?? 0
      guard (0..<asked.count - counter).contains(count) else { return [] }
      return (0..<count).map { (counter + 1 + $0, command.keys.access) }
    }
    return unsafe row.pointee.keyIndices(argumentCount: asked.count).map { index in
      if let access = command.access { return (index, access(asked)) }
      let part = command.keys.parts.first { $0.first <= index && ($0.last < 0 || index <= $0.last) }
      return (index, part?.access ?? command.keys.access)
    }
  }

  /// The ten fields of COMMAND INFO.
  private static func write(_ command: Command, to reply: inout ReplyWriter) {
    reply.array(10)
    reply.bulkString(command.name)
    reply.integer(command.arity)
    let flags = Command.Flags.names.filter { command.flags.contains($0.0) }
    reply.set(flags.count)
    for flag in flags { reply.status(text: flag.1) }
    reply.integer(command.keys.first)
    reply.integer(command.keys.last)
    reply.integer(command.keys.step)
    let categories = command.aclCategories
    reply.set(categories.count)
    for category in categories { reply.status(text: category) }
    reply.set(command.tips.count)
    for tip in command.tips { reply.bulkString(tip) }
    let specifications = command.keys.parts.isEmpty ? [command.keys] : command.keys.parts
    let hasKeys = command.keys.first > 0 || command.keys.counter > 0
    reply.set(hasKeys ? specifications.count : 0)
    if hasKeys { for keys in specifications { writeKeySpecification(keys, to: &reply) } }
    if command.subcommands.isEmpty { reply.set(0) } else { reply.array(command.subcommands.count) }
    for subcommand in command.subcommands {
      write(subcommand.placed(in: command.category, at: subcommand.index), to: &reply)
    }
  }

  private static func writeKeySpecification(
    _ keys: Command.KeyPositions, to reply: inout ReplyWriter
  ) {
    reply.map(3)
    reply.bulkString("flags")
    reply.set(keys.access.count)
    for access in keys.access { reply.status(text: access) }
    reply.bulkString("begin_search")
    reply.map(2)
    reply.bulkString("type")
    reply.bulkString("index")
    reply.bulkString("spec")
    reply.map(1)
    reply.bulkString("index")
    reply.integer(keys.counter > 0 ? keys.counter : keys.first)
    reply.bulkString("find_keys")
    reply.map(2)
    reply.bulkString("type")
    reply.bulkString(keys.counter > 0 ? "keynum" : "range")
    reply.bulkString("spec")
    reply.map(3)
    if keys.counter > 0 {
      for (name, number) in [("keynumidx", 0), ("firstkey", 1), ("keystep", 1)] {
        reply.bulkString(name)
        reply.integer(number)
      }
      return
    }
    reply.bulkString("lastkey")
    reply.integer(keys.last < 0 ? keys.last : keys.last - keys.first)
    reply.bulkString("keystep")
    reply.integer(keys.step)
    reply.bulkString("limit")
    reply.integer(0)
  }
}

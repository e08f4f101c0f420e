/// Documentation that follows from the rows: HELP, COMMAND DOCS, and the README's table.
enum CommandDocs {
  /// The answer of every container's HELP.
  static func help(_ context: inout CommandContext) throws(CommandError) {
    let name = String(context.command.name.split(separator: "|").first ?? "")
    guard let container = CommandTable.shared.topLevel.first(where: { $0.name == name }) else {
      return context.reply.array(0)
    }
    var lines = [
      "\(name.uppercased()) <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
    ]
    if container.arity == -1 { lines += ["(no subcommand)", "    \(container.summary)"] }
    for subcommand in container.subcommands {
      lines.append(String(subcommand.syntax.dropFirst(name.count + 1)))
      lines.append("    \(subcommand.summary)")
    }
    context.reply.array(lines.count)
    for line in lines { context.reply.status(text: line) }
  }

  /// The README's table of commands.
  static var table: String {
    var lines = ["| command | arguments | what it does |", "|---|---|---|"]
    for command in CommandTable.shared.topLevel {
      let rows = command.subcommands.isEmpty ? [command] : bare(command) + command.subcommands
      for row in rows {
        let words = row.name.split(separator: "|").count
        let arguments = row.syntax.split(separator: " ").dropFirst(words).joined(separator: " ")
        let name = row.name.split(separator: "|").joined(separator: " ").uppercased()
        let cell = arguments.isEmpty ? "" : "`\(escaped(arguments))`"
        lines.append("| `\(name)` | \(cell) | \(row.summary) |")
      }
    }
    return lines.joined(separator: "\n") + "\n"
  }

  /// A container that can also be called without a subcommand.
  private static func bare(_ command: Command) -> [Command] { command.arity == -1 ? [command] : [] }

  private static func escaped(_ text: String) -> String {
    text.split(separator: "|", omittingEmptySubsequences: false).joined(separator: "\\|")
  }

  /// Writes one command's documentation, as COMMAND DOCS answers it.
  static func write(_ command: Command, to reply: inout ReplyWriter) {
    let arguments = CommandSyntax.arguments(of: command)
    let parts =
      4 + (arguments.isEmpty ? 0 : 1) + (command.subcommands.isEmpty ? 0 : 1)
      + (command.replacement == nil ? 0 : 3)
    reply.map(parts)
    reply.bulkString("summary")
    reply.bulkString(command.summary)
    reply.bulkString("since")
    reply.bulkString(command.since)
    reply.bulkString("group")
    reply.bulkString(command.category.group)
    reply.bulkString("complexity")
    reply.bulkString(command.complexity)
    if let replacement = command.replacement {
      reply.bulkString("doc_flags")
      reply.set(1)
      reply.status("deprecated")
      reply.bulkString("deprecated_since")
      reply.bulkString(replacement.since)
      reply.bulkString("replaced_by")
      reply.bulkString(replacement.by)
    }
    if !arguments.isEmpty {
      reply.bulkString("arguments")
      write(arguments, to: &reply)
    }
    if !command.subcommands.isEmpty {
      reply.bulkString("subcommands")
      reply.map(command.subcommands.count)
      for subcommand in command.subcommands {
        reply.bulkString(subcommand.name)
        write(
          subcommand.placed(in: command.category, at: subcommand.index), to: &reply)
      }
    }
  }

  private static func write(_ arguments: [CommandSyntax.Argument], to reply: inout ReplyWriter) {
    reply.array(arguments.count)
    for argument in arguments {
      let flags = argument.flags
      reply.map(
        2 + (argument.token == nil ? 0 : 1) + (argument.keyIndex == nil ? 0 : 1)
          + (flags.isEmpty ? 0 : 1) + (argument.parts.isEmpty ? 0 : 1))
      reply.bulkString("name")
      reply.bulkString(argument.name)
      reply.bulkString("type")
      reply.bulkString(argument.type)
      if let keyIndex = argument.keyIndex {
        reply.bulkString("key_spec_index")
        reply.integer(keyIndex)
      }
      if let token = argument.token {
        reply.bulkString("token")
        reply.bulkString(token)
      }
      if !flags.isEmpty {
        reply.bulkString("flags")
        reply.set(flags.count)
        for flag in flags { reply.status(text: flag) }
      }
      if !argument.parts.isEmpty {
        reply.bulkString("arguments")
        write(argument.parts, to: &reply)
      }
    }
  }
}

/// Reads a command's syntax line into the arguments that COMMAND DOCS describes.
///
///     [NX|XX] [EX seconds|KEEPTTL] key [key ...] <ON|OFF>
struct CommandSyntax {
  struct Argument: Equatable {
    var name: String
    /// `key`, `string`, `integer`, `unix-time`, `pure-token`, `oneof` or `block`.
    var type: String
    var token: String?
    var isOptional = false
    var isMultiple = false
    /// Whether the token is repeated as well.
    var repeatsToken = false
    var keyIndex: Int?
    var parts: [Argument] = []

    var flags: [String] {
      (isOptional ? ["optional"] : []) + (isMultiple ? ["multiple"] : [])
        + (repeatsToken ? ["multiple_token"] : [])
    }
  }

  private var text: Substring

  /// The arguments of a command, its keys marked as such.
  static func arguments(of command: Command) -> [Argument] {
    var arguments = parse(command.syntax, nameWords: command.nameWords)
    let keys = command.keys.parts.isEmpty ? [command.keys] : command.keys.parts
    for (index, argument) in arguments.enumerated() where argument.parts.isEmpty {
      let place = index + command.nameWords
      let part = keys.firstIndex {
        $0.first > 0 && $0.first <= place && ($0.last < 0 ? place == $0.first : place <= $0.last)
      }
      let isKey = part != nil && !command.keys.access.contains("not_key")
      if isKey || argument.type == "key" {
        arguments[index].type = isKey ? "key" : "string"
        arguments[index].keyIndex = isKey ? part : nil
      }
    }
    return arguments
  }

  /// - Parameter nameWords: Words of the line that are the command's name.
  static func parse(_ syntax: String, nameWords: Int) -> [Argument] {
    var text = syntax[...]
    for _ in 0..<nameWords { text = text.drop { $0 != " " }.drop { $0 == " " } }
    var parser = CommandSyntax(text: text)
    return parser.sequence()
  }

  /// Arguments one after the other, up to a bracket or the end.
  private mutating func sequence() -> [Argument] {
    var arguments: [Argument] = []
    while true {
      text = text.drop { $0 == " " }
      guard let next = text.first, next != "]", next != ">", next != "|" else { return arguments }
      guard var argument = element() else { continue }
      let count = max(1, argument.parts.count)
      if argument.isMultiple, arguments.count >= count,
        argument.repeats(Array(arguments.suffix(count)))
      {
        // `key [key ...]` is one argument that may be repeated, with its token or without.
        argument.isOptional = false
        argument.repeatsToken = argument.token != nil
        if argument.parts.isEmpty { argument.token = arguments.last?.token }
        arguments.removeLast(count)
      }
      arguments.append(argument)
    }
  }

  private mutating func element() -> Argument? {
    if text.first == "[" || text.first == "<" {
      let isOptional = text.first == "["
      text.removeFirst()
      var argument = alternatives()
      if !text.isEmpty { text.removeFirst() }
      argument.isOptional = isOptional
      return argument
    }
    let word = String(text.prefix { !" ]>|[<".contains($0) })
    text = text.dropFirst(word.count)
    if word == word.uppercased(), word.contains(where: \.isLetter) {
      return tokenArgument(word)
    }
    return Self.value(word)
  }

  /// A word in capitals, with the value behind it if there is one.
  private mutating func tokenArgument(_ token: String) -> Argument {
    let rest = text.drop { $0 == " " }
    let next = String(rest.prefix { !" ]>|[<".contains($0) })
    if !next.isEmpty, next != next.uppercased() {
      text = rest.dropFirst(next.count)
      var argument = Self.value(next)
      argument.token = token
      return argument
    }
    if rest.first == "<" {
      text = rest
      if var argument = element() {
        argument.token = token
        argument.name = token.lowercased()
        return argument
      }
    }
    return Argument(name: token.lowercased(), type: "pure-token", token: token)
  }

  private static func value(_ name: String) -> Argument {
    let type =
      switch name {
      case "key": "key"
      case "unix-time-seconds", "unix-time-milliseconds": "unix-time"
      case "pattern": "pattern"
      default: integers.contains(name) ? "integer" : "string"
      }
    return Argument(name: name, type: type, keyIndex: name == "key" ? 0 : nil)
  }

  private static let integers: Set<String> = [
    "seconds", "milliseconds", "index", "client-id", "protover", "start", "end", "increment",
    "decrement", "offset", "bit", "cursor", "count", "db", "destination-db", "index1", "index2",
    "ttl", "frequency", "port", "numreplicas", "timeout", "version", "min-match-len",
  ]

  /// The inside of a bracket: one argument, several in a row, or a choice.
  private mutating func alternatives() -> Argument {
    var choices: [Argument] = []
    var isRepeated = false
    while true {
      var parts = sequence()
      if parts.last?.name == "..." {
        parts.removeLast()
        isRepeated = true
      }
      if parts.count == 1 {
        choices.append(parts[0])
      } else if !parts.isEmpty {
        choices.append(.block(parts))
      }
      guard text.first == "|" else { break }
      text.removeFirst()
    }
    if choices.count == 1 {
      if isRepeated { choices[0].isMultiple = true }
      return choices[0]
    }
    return Argument(
      name: choices.first.map { $0.name + "-choice" } ?? "choice", type: "oneof",
      isMultiple: isRepeated, parts: choices)
  }
}

extension CommandSyntax.Argument {
  /// Several arguments that belong together; a token in front of them is that of all.
  fileprivate static func block(_ parts: [Self]) -> Self {
    var parts = parts
    let isLed =
      parts[0].token != nil && parts[0].parts.isEmpty
      && parts.dropFirst().allSatisfy { $0.token == nil }
    let token = isLed ? parts[0].token : nil
    if isLed { parts[0].token = nil }
    // What may be missing does not give it a name.
    let names = parts.filter { !$0.isOptional && $0.parts.isEmpty }.map(\.name)
    return Self(
      name: names.isEmpty ? parts[0].name : names.joined(separator: "_"), type: "block",
      token: token, parts: parts)
  }

  /// Whether this is what the arguments in front of it say once more.
  fileprivate func repeats(_ others: [Self]) -> Bool {
    if parts.isEmpty { return others.count == 1 && others[0].name == name }
    var others = others
    if token != nil, others[0].token == token { others[0].token = nil }
    return others == parts
  }
}

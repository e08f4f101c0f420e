/// One command or subcommand: everything that is to be known about it, and the function that runs.
///
/// Arity, key extraction, the checks before it runs, COMMAND, COMMAND DOCS, HELP and the README's
/// table follow from this row.
struct Command: Sendable {
  typealias Handler = @Sendable (inout CommandContext) throws(CommandError) -> Void

  /// Lower case; a subcommand's begins with its container's: `client|id`.
  let name: String
  /// How it is written: name in capitals, arguments in small letters, `[optional]`, `a|b`, `…`.
  let syntax: String
  /// Arguments including the name; negative for a minimum.
  let arity: Int
  let flags: Flags
  let keys: KeyPositions
  /// What clients of several servers go by, in the words of COMMAND INFO.
  let tips: [String]
  /// One sentence that says what it does.
  let summary: String
  let complexity: String
  /// The version of Redis in which it appeared, or of Valiant for what Redis does not have.
  let since: String
  /// What a key is said to have met with when this command has set or edited it.
  let event: KeyspaceEvent
  /// Since when there is something better, and what.
  let replacement: (since: String, by: String)?
  /// What the command does with its keys, where that depends on its arguments.
  let access: (@Sendable (Request) -> [String])?
  let subcommands: [Command]
  let handler: Handler
  fileprivate(set) var category = Category.connection
  /// Position in the table, by which statistics are kept.
  fileprivate(set) var index = 0

  init(
    _ syntax: String, arity: Int, flags: Flags = [], keys: KeyPositions = .none,
    tips: [String] = [], summary: String, complexity: String = "O(1)", since: String = "1.0.0",
    event: KeyspaceEvent = .set, replacement: (since: String, by: String)? = nil,
    access: (@Sendable (Request) -> [String])? = nil, subcommands: [Command] = [],
    handler: @escaping Handler
  ) {
    // Bytes rather than characters: those would bring Unicode's tables into memory at every start.
    let words = syntax.utf8.split(separator: UInt8(ascii: " ")).prefix { word in
      word.allSatisfy {
        $0 &- UInt8(ascii: "A") < 26 || $0 == UInt8(ascii: "-") || $0 == UInt8(ascii: "_")
      }
    }
    let lowerCase = words.map { word in word.map(asciiLowercase) }
    name = String(
      decoding: Array(lowerCase.joined(separator: [UInt8(ascii: "|")])), as: UTF8.self)
    self.syntax = syntax
    self.arity = arity
    self.flags = flags
    self.keys = keys
    self.tips = tips
    self.summary = summary
    self.complexity = complexity
    self.since = since
    self.event = event
    self.replacement = replacement
    self.access = access
    self.subcommands = subcommands
    self.handler = handler
  }

  /// A command that only exists with a subcommand.
  static func container(
    _ name: String, summary: String, since: String, _ subcommands: [Command]
  ) -> Command {
    Command(
      name, arity: -2, summary: summary, complexity: "Depends on subcommand.", since: since,
      subcommands: subcommands,
      handler: { context throws(CommandError) in throw .arity(command: context.command.name) })
  }

  /// A container's subcommand HELP, whose answer is made from the rows beside it.
  static func help(_ container: String, since: String) -> Command {
    Command(
      "\(container) HELP", arity: 2, flags: [.loading, .stale],
      summary: "Lists the subcommands.", since: since, handler: CommandDocs.help)
  }

  /// Whether a request may have `argumentCount` arguments, its name included.
  func accepts(argumentCount: Int) -> Bool {
    arity < 0 ? argumentCount >= -arity : argumentCount == arity
  }

  /// Words of the syntax line that are the name.
  var nameWords: Int { name.split(separator: "|").count }

  /// The row with its place in the table.
  func placed(in category: Category, at index: Int) -> Command {
    var placed = self
    placed.category = category
    placed.index = index
    return placed
  }

  struct Flags: OptionSet, Sendable {
    let rawValue: UInt32

    /// Changes keys.
    static let write = Flags(rawValue: 1 << 0)
    /// Reads keys and changes none.
    static let readonly = Flags(rawValue: 1 << 1)
    /// May need memory, so it is refused when there is none left.
    static let denyoom = Flags(rawValue: 1 << 2)
    /// For operators.
    static let admin = Flags(rawValue: 1 << 3)
    /// Not callable from scripts.
    static let noscript = Flags(rawValue: 1 << 4)
    /// Allowed while data is being loaded.
    static let loading = Flags(rawValue: 1 << 5)
    /// Allowed on a replica with stale data.
    static let stale = Flags(rawValue: 1 << 6)
    /// O(1) or O(log n).
    static let fast = Flags(rawValue: 1 << 7)
    /// Allowed before the client has given its password.
    static let noAuth = Flags(rawValue: 1 << 8)
    /// Not allowed in a transaction.
    static let noMulti = Flags(rawValue: 1 << 9)
    /// Allowed while a script runs for too long.
    static let allowBusy = Flags(rawValue: 1 << 10)
    /// Could do harm in the wrong hands.
    static let dangerous = Flags(rawValue: 1 << 11)

    /// Looks at keys that it does not name, and locks their shards itself.
    static let wholeKeyspace = Flags(rawValue: 1 << 12)

    /// Runs at once where others are queued for EXEC.
    static let unqueued = Flags(rawValue: 1 << 13)
    /// Not allowed while data is being loaded beside what is served.
    static let noAsyncLoading = Flags(rawValue: 1 << 17)
    /// For access control about the connection, whatever its group is.
    static let connection = Flags(rawValue: 1 << 18)
    /// Waits in a pause for writes although it changes no keys.
    static let mayReplicate = Flags(rawValue: 1 << 19)
    /// Runs in any pause.
    static let endsPause = Flags(rawValue: 1 << 20)
    /// Runs while keys are loaded, although clients are not told so.
    static let whileLoading = Flags(rawValue: 1 << 21)
    /// Answers an error while keys must not be changed.
    static let tellsTrouble = Flags(rawValue: 1 << 22)
    /// May make its client wait.
    static let blocking = Flags(rawValue: 1 << 24)
    /// Is written into the append log as it is: repeating it costs less than what comes of it.
    static let repeatable = Flags(rawValue: 1 << 23)
    /// Not shown by MONITOR.
    static let skipMonitor = Flags(rawValue: 1 << 25)
    /// May name no key although it can name some.
    static let noMandatoryKeys = Flags(rawValue: 1 << 26)
    /// Where its keys are depends on the other arguments.
    static let movableKeys = Flags(rawValue: 1 << 27)
    /// About messages.
    static let pubsub = Flags(rawValue: 1 << 15)
    /// Allowed in RESP2 while the client listens to channels.
    static let whileSubscribed = Flags(rawValue: 1 << 16)
    /// Does not count as slow.
    static let skipSlowlog = Flags(rawValue: 1 << 14)

    /// Names in the order in which COMMAND INFO gives them.
    static let names: [(Flags, String)] = [
      (.write, "write"), (.readonly, "readonly"), (.denyoom, "denyoom"), (.admin, "admin"),
      (.pubsub, "pubsub"), (.noscript, "noscript"), (.blocking, "blocking"), (.loading, "loading"),
      (.stale, "stale"), (.skipMonitor, "skip_monitor"),
      (.fast, "fast"),
      (.skipSlowlog, "skip_slowlog"), (.noAuth, "no_auth"), (.noMulti, "no_multi"),
      (.noMandatoryKeys, "no_mandatory_keys"), (.movableKeys, "movablekeys"),
      (.noAsyncLoading, "no_async_loading"), (.allowBusy, "allow_busy"),
    ]
  }

  /// Where the keys are among the arguments.
  struct KeyPositions: Sendable {
    /// Index of the first key; 0 for none.
    let first: Int
    /// Index of the last key; negative counts from the end.
    let last: Int
    /// Distance from one key to the next.
    let step: Int
    /// What the command does with them, in the words of COMMAND INFO.
    let access: [String]
    /// Keys that something else is done with; empty when the same is done with all.
    private(set) var parts: [KeyPositions] = []
    /// Index of the argument that says how many keys there are behind it; 0 for none.
    private(set) var counter = 0

    /// Index of the first key that is in a shard; 0 for none.
    var firstStored: Int { access == ["not_key"] ? 0 : first }

    static let none = KeyPositions(first: 0, last: 0, step: 0, access: [])

    /// Keys one behind the other with which different things are done.
    static func parts(_ parts: KeyPositions...) -> KeyPositions {
      var all = KeyPositions(
        first: parts[0].first, last: parts[parts.count - 1].last, step: 1, access: [])
      all.parts = parts
      return all
    }

    /// As many keys behind argument `index` as that says.
    static func counted(_ index: Int, _ access: String...) -> KeyPositions {
      var keys = KeyPositions(first: 0, last: 0, step: 0, access: access)
      keys.counter = index
      return keys
    }

    /// Arguments `first` to `last`.
    static func range(_ first: Int, _ last: Int, _ access: String...) -> KeyPositions {
      KeyPositions(first: first, last: last, step: 1, access: access)
    }

    static func one(_ access: String...) -> KeyPositions {
      KeyPositions(first: 1, last: 1, step: 1, access: access)
    }

    /// The one key of a subcommand.
    static func second(_ access: String...) -> KeyPositions {
      KeyPositions(first: 2, last: 2, step: 1, access: access)
    }

    static func all(_ access: String...) -> KeyPositions {
      KeyPositions(first: 1, last: -1, step: 1, access: access)
    }

    /// Every second argument, each followed by its value.
    static func pairs(_ access: String...) -> KeyPositions {
      KeyPositions(first: 1, last: -1, step: 2, access: access)
    }
  }

  /// What a command is about; gives its group in the documentation and its ACL category.
  enum Category: String, Sendable {
    case string, bitmap, hyperloglog, keyspace, pubsub, transaction, connection, server, cluster,
      scripting

    /// The group as COMMAND DOCS calls it.
    var group: String {
      switch self {
      case .keyspace: "generic"
      case .transaction: "transactions"
      default: rawValue
      }
    }
  }

  /// ACL categories, which follow from the flags and the family.
  var aclCategories: [String] {
    // What runs is a subcommand, mostly.
    if !subcommands.isEmpty, !flags.contains(.connection) { return ["@slow"] }
    if category == .scripting { return ["@slow", "@scripting"] }
    // In Redis's order.
    let all: [(name: String, applies: Bool)] = [
      (
        "@keyspace",
        category == .keyspace || flags.contains([.write, .dangerous])
          || flags.contains([.readonly, .wholeKeyspace])
      ),
      ("@read", flags.contains(.readonly)),
      ("@write", flags.contains(.write)),
      ("@string", category == .string),
      ("@bitmap", category == .bitmap),
      ("@hyperloglog", category == .hyperloglog),
      ("@pubsub", category == .pubsub),
      ("@admin", flags.contains(.admin)),
      ("@fast", flags.contains(.fast)),
      ("@slow", !flags.contains(.fast)),
      ("@blocking", flags.contains(.blocking)),
      ("@dangerous", !flags.isDisjoint(with: [.admin, .dangerous])),
      ("@connection", category == .connection || flags.contains(.connection)),
      ("@transaction", category == .transaction),
    ]
    return all.filter(\.applies).map(\.name)
  }
}

/// Commands that belong together: rows first, then the functions that they name.
protocol CommandFamily {
  static var category: Command.Category { get }
  static var commands: [Command] { get }
}

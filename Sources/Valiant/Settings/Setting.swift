/// One setting: its name everywhere, its type and range, and when it can be changed.
///
/// From the rows in `all` follow the flags, the directives of the configuration file, CONFIG GET
/// and SET, `--help` and the table in the README. Adding a setting means a row here and a property
/// in `Settings`.
struct Setting: Sendable {
  /// Name of directive, flag (behind `--`) and CONFIG parameter.
  let name: String
  let kind: Kind
  let change: Change
  /// One sentence, with the meaning of 0 or the empty value where it has one.
  let summary: String

  init(_ name: String, _ kind: Kind, change: Change, summary: String) {
    self.name = name
    self.kind = kind
    self.change = change
    self.summary = summary
  }

  /// Not to be shown in logs.
  var isSecret: Bool { name == "requirepass" }

  enum Change: Sendable {
    /// By CONFIG SET and SIGHUP.
    case anyTime
    /// Only when the server starts.
    case atStart
  }

  typealias Property<Value> = WritableKeyPath<Settings, Value> & Sendable

  enum Kind: Sendable {
    case integer(any Property<Int>, ClosedRange<Int>)
    /// A number of bytes, with `k`, `kb`, `m`, `mb`, `g`, `gb` behind it.
    case bytes(any Property<Int>, ClosedRange<Int>)
    /// Permissions in octal digits.
    case permissions(any Property<Int>)
    case flag(any Property<Bool>)
    case text(any Property<String>)
    /// Words separated by blanks.
    case words(any Property<[String]>)
    case logLevel(any Property<LogLevel>)
    case outputLimits
    case events
    case choice(Choice)
    /// A number of bytes, or a part of something, which is known as a number of bytes.
    case memoryLimit(any Property<Settings.MemoryLimit>)
    /// The same, a part of `maxmemory`.
    case memoryShare(any Property<Settings.MemoryLimit>)
    /// The name of a file, without folders.
    case fileName(any Property<String>)
    case saveRules
    /// What this version can only do in one way; said where clients of Redis ask for it.
    case fixed(String)
  }

  /// One of several words.
  struct Choice: Sendable {
    let words: [String]
    fileprivate let get: @Sendable (Settings) -> String
    /// False for any other word.
    fileprivate let set: @Sendable (inout Settings, String) -> Bool

    init<Value: RawRepresentable<String> & CaseIterable & SendableMetatype>(
      _ property: any Property<Value>
    ) {
      words = Value.allCases.map(\.rawValue)
      get = { $0[keyPath: property].rawValue }
      set = { settings, word in
        guard let value = Value(rawValue: word) else { return false }
        settings[keyPath: property] = value
        return true
      }
    }
  }

  static let all: [Setting] = [
    Setting(
      "bind", .words(\.bind), change: .atStart,
      summary:
        "Addresses or names to listen on; one behind `-` may be missing; `\"\"` for no TCP."),
    Setting(
      "port", .integer(\.port, 0...65535), change: .atStart,
      summary: "TCP port; 0 lets the system choose a free one."),
    Setting(
      "unixsocket", .text(\.unixSocket), change: .atStart,
      summary:
        "Path of a unix socket to listen on as well; a relative one lies in `$RUNTIME_DIRECTORY`."),
    Setting(
      "unixsocketperm", .permissions(\.unixSocketPermissions), change: .atStart,
      summary: "Permissions of the unix socket in octal; 0 leaves them to the umask."),
    Setting(
      "threads", .integer(\.threads, 0...256), change: .atStart,
      summary: "Event loops, a thread each; 0 for one per processor the process may use."),
    Setting(
      "maxclients", .integer(\.maxClients, 1...1_000_000), change: .anyTime,
      summary: "Most clients at once; further ones get an error."),
    Setting(
      "timeout", .integer(\.timeoutSeconds, 0...Int(Int32.max)), change: .anyTime,
      summary: "Seconds without a request after which a client is closed; 0 for never."),
    Setting(
      "tcp-keepalive", .integer(\.keepaliveSeconds, 0...Int(Int32.max)), change: .anyTime,
      summary: "Seconds of silence after which a peer is probed; 0 for never. For new clients."),
    Setting(
      "tcp-backlog", .integer(\.backlog, 1...65535), change: .atStart,
      summary: "Connections that may wait to be accepted."),
    Setting(
      "requirepass", .text(\.password), change: .anyTime,
      summary: "Password that clients must give before anything else; empty for none."),
    Setting(
      "protected-mode", .flag(\.isProtected), change: .anyTime,
      summary: "Refuse other machines while there is neither a password nor a `bind`."),
    Setting(
      "proto-max-bulk-len", .bytes(\.bulkLengthMaxBytes, (1 << 20)...(512 << 20)), change: .anyTime,
      summary: "Longest argument of a request."),
    Setting(
      "client-query-buffer-limit",
      .bytes(\.queryBufferMaxBytes, (1 << 20)...(4 << 30) - (16 << 20)),
      change: .anyTime,
      summary: "Most bytes of an unfinished request; a client above it is closed."),
    Setting(
      "client-output-buffer-limit", .outputLimits, change: .anyTime,
      summary:
        "`CLASS HARD SOFT SECONDS`, for `normal` clients and those of `pubsub`: a client is closed with HARD bytes of unsent replies, or with SOFT when it has read nothing for SECONDS; 0 for no limit."
    ),
    Setting(
      "maxmemory", .memoryLimit(\.maxMemory), change: .anyTime,
      summary:
        "Most memory for keys and values; `NN%` is a part of the machine's or the control group's; 0 for no limit."
    ),
    Setting(
      "maxmemory-policy", .choice(Setting.Choice(\.evictionPolicy)), change: .anyTime,
      summary: "What goes at maxmemory; for a cache `allkeys-adaptive` is the best choice."),
    Setting(
      "maxmemory-clients", .memoryShare(\.maxMemoryClients), change: .anyTime,
      summary:
        "Most memory for the input and output of all clients; `NN%` is a part of maxmemory; clients with most are closed above it; 0 for no limit."
    ),
    Setting(
      "enable-debug-command", .choice(Setting.Choice(\.debugCommand)), change: .atStart,
      summary: "Whether DEBUG is possible: `no`, `yes`, or `local` for clients of this machine."),
    Setting(
      "hll-sparse-max-bytes", .bytes(\.hyperLogLogSparseMaxBytes, 0...Int.max), change: .anyTime,
      summary: "Bytes above which a HyperLogLog takes its full twelve kilobytes."),
    Setting(
      "notify-keyspace-events", .events, change: .anyTime,
      summary:
        "Which events of keys are published: `K` and `E` for channels of keys and of events, `g` `$` `x` `e` `m` `n` for commands of no type, of strings, expiry, eviction, misses and new keys, `A` for most; empty for none."
    ),
    Setting(
      "tracking-table-max-keys", .integer(\.trackedKeysMax, 0...Int.max), change: .anyTime,
      summary:
        "Keys of which clients in tracking mode may have copies at most: behind that some are told early that theirs are invalid; 0 for any number."
    ),
    Setting(
      "lua-time-limit", .integer(\.scriptMilliseconds, 0...Int(Int32.max)), change: .anyTime,
      summary:
        "Milliseconds behind which a script is ended that has changed nothing, and ten times as many for any other: who wants its keys waits meanwhile; 0 for never."
    ),
    Setting(
      "lfu-log-factor", .integer(\.lfuLogFactor, 0...1_000_000), change: .anyTime,
      summary: "How slowly the counters of the LFU policies grow."),
    Setting(
      "lfu-decay-time", .integer(\.lfuDecayMinutes, 0...1_000_000), change: .anyTime,
      summary: "Minutes in which a counter of the LFU policies loses one; 0 for never."),
    Setting(
      "dir", .text(\.directory), change: .atStart,
      summary:
        "Folder of the files that keys are kept in; by default `$STATE_DIRECTORY`, which systemd sets, or where the program was started."
    ),
    Setting(
      "dbfilename", .fileName(\.fileName), change: .atStart,
      summary: "Name of the snapshot's file in `dir`; Redis reads it, and its files are read."),
    Setting(
      "save", .saveRules, change: .anyTime,
      summary:
        "`SECONDS CHANGES`, any number of times: a snapshot is written SECONDS after the last one, if there have been that many CHANGES, and when the server stops; `\"\"` for no snapshots."
    ),
    Setting(
      "rdbcompression", .flag(\.compressesSnapshots), change: .anyTime,
      summary: "Whether strings in snapshots are compressed."),
    Setting(
      "rdbchecksum", .flag(\.checksumsSnapshots), change: .anyTime,
      summary: "Whether snapshots have a checksum, so that damage is noticed."),
    Setting(
      "stop-writes-on-bgsave-error", .flag(\.refusesWritesUnsaved), change: .anyTime,
      summary:
        "Refuse commands that change keys while snapshots are wanted and cannot be written."),
    Setting(
      "appendonly", .flag(\.appendsToLog), change: .anyTime,
      summary:
        "Whether every change of a key is written to an append log in `dir`, from which the keys are read at the start."
    ),
    Setting(
      "appendfsync", .choice(Setting.Choice(\.syncPolicy)), change: .anyTime,
      summary:
        "When changes are forced onto the disk: `always`, before they are acknowledged; `everysec`, once a second; `no`, when the system thinks fit."
    ),
    Setting(
      "appenddirname", .fileName(\.logFolder), change: .atStart,
      summary: "Name of the append log's folder in `dir`."),
    Setting(
      "appendfilename", .fileName(\.logName), change: .atStart,
      summary:
        "With what the names of the append log's files begin; Redis reads them, and its are read."
    ),
    Setting(
      "auto-aof-rewrite-percentage", .integer(\.logGrowthPercent, 0...1_000_000_000),
      change: .anyTime,
      summary:
        "By how many percent the append log grows before it is written anew, without what has been overwritten; 0 for never."
    ),
    Setting(
      "auto-aof-rewrite-min-size", .bytes(\.logRewriteMinBytes, 0...Int.max), change: .anyTime,
      summary: "A smaller append log is not written anew by itself."),
    Setting(
      "aof-load-truncated", .flag(\.loadsTornLog), change: .anyTime,
      summary:
        "Whether to start with an append log whose end is missing, as after a crash; with `no` that is an error."
    ),
    Setting(
      "aof-use-rdb-preamble", .fixed("yes"), change: .anyTime,
      summary: "Whether the append log begins with a snapshot; always."),
    Setting(
      "loglevel", .logLevel(\.logLevel), change: .anyTime,
      summary: "Least level that is logged: debug, verbose, notice or warning."),
    Setting(
      "databases", .fixed("16"), change: .atStart,
      summary: "Databases that SELECT chooses from; always 16."),
    Setting(
      "cluster-enabled", .fixed("no"), change: .atStart,
      summary: "Whether it is a node of a cluster; this version is one server."),
  ]

  static func named(_ name: String) -> Setting? {
    all.first { $0.name == name.lowercased() }
  }

  // MARK: Values as text

  /// What kind of value it takes, in words.
  var valueText: String {
    switch kind {
    case .integer(_, let range): "a number from \(range.lowerBound) to \(range.upperBound)"
    case .bytes(_, let range):
      "bytes, with k, kb, m, mb, g or gb behind them, from \(range.lowerBound) to \(range.upperBound)"
    case .permissions: "octal digits from 0 to 777"
    case .flag: "yes or no"
    case .text: "text"
    case .words: "words"
    case .logLevel: "one of \(LogLevel.allCases.map(\.name).joined(separator: ", "))"
    case .choice(let choice): "one of \(choice.words.joined(separator: ", "))"
    case .events: "some of the letters KEg$lshzxetdmn, A for g$lshzxetd"
    case .outputLimits: "CLASS HARD SOFT SECONDS"
    case .memoryLimit, .memoryShare:
      "bytes, with k, kb, m, mb, g or gb behind them, or a part from 1% to 100%"
    case .fileName: "the name of a file"
    case .saveRules: "SECONDS CHANGES"
    case .fixed(let only): "always \(only.isEmpty ? "\"\"" : only)"
    }
  }

  /// The value that holds when nobody says anything, as it is written in the configuration file.
  var defaultText: String {
    let text = text(in: Settings())
    return text.isEmpty ? "\"\"" : text
  }

  /// The value as CONFIG GET gives it.
  func text(in settings: Settings) -> String {
    switch kind {
    case .integer(let property, _), .bytes(let property, _): String(settings[keyPath: property])
    case .permissions(let property): String(settings[keyPath: property], radix: 8)
    case .flag(let property): settings[keyPath: property] ? "yes" : "no"
    case .text(let property): settings[keyPath: property]
    case .words(let property): settings[keyPath: property].joined(separator: " ")
    case .logLevel(let property): settings[keyPath: property].name
    case .choice(let choice): choice.get(settings)
    case .events: settings.keyspaceEvents.letters
    case .outputLimits:
      "normal \(Self.text(settings.outputLimit)) "
        + "slave \(Self.text(settings.replicaOutputLimit)) "
        + "pubsub \(Self.text(settings.subscriberOutputLimit))"
    // Tools compute with it.
    case .memoryLimit(let property): String(settings[keyPath: property].bytes)
    case .memoryShare(let property):
      settings[keyPath: property].percent.map { "\($0)%" }
        ?? String(settings[keyPath: property].bytes)
    case .fileName(let property): settings[keyPath: property]
    case .saveRules:
      settings.saveRules.map { "\($0.seconds) \($0.changes)" }.joined(separator: " ")
    case .fixed(let text): text
    }
  }

  /// The value as a configuration file is to give it.
  func written(in settings: Settings) -> String {
    if case .memoryLimit(let property) = kind, let percent = settings[keyPath: property].percent {
      return "\(percent)%"
    }
    return text(in: settings)
  }

  private static func text(_ limit: Settings.OutputLimit) -> String {
    "\(limit.hardBytes) \(limit.softBytes) \(limit.softSeconds)"
  }

  /// Reads `text` into `settings`.
  ///
  /// - Throws: What is wrong with the text, in Redis's words where it has some.
  func read(_ text: String, into settings: inout Settings) throws(SettingError) {
    switch kind {
    case .integer(let property, let range):
      guard let number = Array(text.utf8).withBytes({ $0.integer }) else {
        throw SettingError("argument couldn't be parsed into an integer")
      }
      settings[keyPath: property] = try Self.check(number, range)
    case .bytes(let property, let range):
      guard let number = Self.byteCount(text) else {
        throw SettingError("argument must be a memory value")
      }
      settings[keyPath: property] = try Self.check(number, range)
    case .permissions(let property):
      guard let number = Int(text, radix: 8), (0...0o777).contains(number) else {
        throw SettingError("argument must be octal digits between 0 and 777")
      }
      settings[keyPath: property] = number
    case .flag(let property):
      guard let value = ["yes": true, "no": false][text.lowercased()] else {
        throw SettingError("argument must be 'yes' or 'no'")
      }
      settings[keyPath: property] = value
    case .text(let property):
      settings[keyPath: property] = text
    case .words(let property):
      settings[keyPath: property] = text.split { $0.isWhitespace }.map(String.init)
    case .logLevel(let property):
      guard let level = LogLevel.allCases.first(where: { $0.name == text.lowercased() }) else {
        let names = LogLevel.allCases.map(\.name).joined(separator: ", ")
        throw SettingError("argument(s) must be one of the following: \(names)")
      }
      settings[keyPath: property] = level
    case .choice(let choice):
      guard choice.set(&settings, text.lowercased()) else {
        let words = choice.words.joined(separator: ", ")
        throw SettingError("argument(s) must be one of the following: \(words)")
      }
    case .events:
      guard let events = KeyspaceEvents(letters: text) else {
        throw SettingError("Invalid event class character. Use 'Ag$lshzxeKEtmdn'.")
      }
      settings.keyspaceEvents = events
    case .outputLimits: try Self.readOutputLimits(text, &settings)
    case .memoryLimit(let property), .memoryShare(let property):
      settings[keyPath: property] = try Self.memoryLimit(text)
    case .fileName(let property):
      guard !text.isEmpty, !text.contains("/") else {
        throw SettingError("\(name) can't be a path, just a filename")
      }
      settings[keyPath: property] = text
    case .saveRules: settings.saveRules = try Self.saveRules(text)
    case .fixed(let only):
      guard text.lowercased() == only else {
        throw SettingError("only '\(only)' is possible in this version")
      }
    }
  }

  private static func check(_ number: Int, _ range: ClosedRange<Int>) throws(SettingError) -> Int {
    guard range.contains(number) else {
      throw SettingError(
        "argument must be between \(range.lowerBound) and \(range.upperBound) inclusive")
    }
    return number
  }

  /// `100`, `1k` (1000), `1kb` (1024), likewise `m`, `mb`, `g`, `gb`, in any case.
  static func byteCount(_ text: String) -> Int? {
    let digits = text.prefix { $0.isASCII && $0.isNumber }
    let units = [
      "": 1, "b": 1, "k": 1000, "kb": 1 << 10, "m": 1_000_000, "mb": 1 << 20,
      "g": 1_000_000_000, "gb": 1 << 30,
    ]
    guard let number = Int(digits), let unit = units[text.dropFirst(digits.count).lowercased()]
    else { return nil }
    let (bytes, overflow) = number.multipliedReportingOverflow(by: unit)
    return overflow ? nil : bytes
  }

  /// A number of bytes as `byteCount` reads it, or `50%`.
  private static func memoryLimit(_ text: String) throws(SettingError) -> Settings.MemoryLimit {
    if text.last == "%" {
      guard text.first != "+", let percent = Int(text.dropLast()), (1...100).contains(percent)
      else {
        throw SettingError("argument must be a memory value or a part from 1% to 100%")
      }
      return Settings.MemoryLimit(percent: percent)
    }
    guard let bytes = byteCount(text) else {
      throw SettingError("argument must be a memory value")
    }
    return Settings.MemoryLimit(bytes: bytes)
  }

  /// Whether several lines of a file add up.
  var addsUp: Bool { if case .saveRules = kind { true } else { false } }

  /// `SECONDS CHANGES`, any number of times.
  private static func saveRules(_ text: String) throws(SettingError) -> [Settings.SaveRule] {
    let numbers = text.split { $0.isWhitespace }.map { Int($0) ?? -1 }
    guard numbers.count % 2 == 0 else { throw SettingError("Invalid save parameters") }
    var rules: [Settings.SaveRule] = []
    for index in stride(from: 0, to: numbers.count, by: 2) {
      let (seconds, changes) = (numbers[index], numbers[index + 1])
      guard seconds >= 1, changes >= 0 else { throw SettingError("Invalid save parameters") }
      rules.append(Settings.SaveRule(seconds: seconds, changes: changes))
    }
    return rules
  }

  /// `CLASS HARD SOFT SECONDS`, any number of times.
  private static func readOutputLimits(
    _ text: String, _ settings: inout Settings
  ) throws(SettingError) {
    let words = text.split { $0.isWhitespace }.map(String.init)
    guard words.count % 4 == 0 else {
      throw SettingError("Wrong number of arguments in buffer limit configuration.")
    }
    for start in stride(from: 0, to: words.count, by: 4) {
      let name = words[start].lowercased()
      guard ["normal", "slave", "replica", "pubsub"].contains(name) else {
        throw SettingError("Invalid client class specified in buffer limit configuration.")
      }
      guard let hard = byteCount(words[start + 1]), let soft = byteCount(words[start + 2]),
        let seconds = Int(words[start + 3]), (0...Int(Int32.max)).contains(seconds)
      else {
        throw SettingError(
          "Error in hard, soft or soft_seconds setting in buffer limit configuration.")
      }
      let limit = Settings.OutputLimit(hardBytes: hard, softBytes: soft, softSeconds: seconds)
      switch name {
      case "normal": settings.outputLimit = limit
      case "pubsub": settings.subscriberOutputLimit = limit
      default: settings.replicaOutputLimit = limit
      }
    }
  }
}

/// What is wrong with the value of a setting.
struct SettingError: Error, Equatable, CustomStringConvertible {
  let description: String

  init(_ description: String) {
    self.description = description
  }
}

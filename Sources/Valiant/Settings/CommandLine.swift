import Glibc

/// What the program was asked to do.
enum CommandLineRequest {
  case serve(Invocation)
  case help
  case version
  /// One of `Manual.names`.
  case print(String)
  /// A file of keys.
  case check(String)
}

/// A configuration file and flags, of which the flags win; can be read again on SIGHUP.
struct Invocation: Sendable {
  var file: String?
  /// Values of flags, in order.
  var flags: [(setting: Setting, value: String)] = []
  /// Where CONFIG REWRITE writes what it may not write to `file`, behind which this one is read.
  var stateFile: String?

  /// The settings that follow from defaults, credentials, files and flags.
  ///
  /// - Throws: One sentence saying what is wrong, for a file with its line.
  func settings(readingStateFile: Bool = true) throws(StartError) -> Settings {
    var settings = Settings()
    settings.logsToStandardError = true
    try Credentials.read(into: &settings)
    if let file {
      try SettingsFile.read(file, into: &settings)
      if readingStateFile, let stateFile, !isMissing(stateFile) {
        try SettingsFile.read(stateFile, into: &settings)
      }
    }
    for flag in flags {
      do throws(SettingError) {
        try flag.setting.read(flag.value, into: &settings)
      } catch {
        throw StartError("--\(flag.setting.name) '\(flag.value)': \(error)")
      }
    }
    settings.unixSocket = Self.absolute(settings.unixSocket)
    settings.directory = Self.stateDirectory(settings.directory)
    return settings
  }

  /// Names of the settings that hold because of `stateFile`, whatever `file` says.
  func namesInStateFile() throws(StartError) -> [String] {
    let (with, without) = (try settings(), try settings(readingStateFile: false))
    return Setting.all.filter { $0.written(in: with) != $0.written(in: without) }.map(\.name)
  }

  /// A relative path of a socket means systemd's folder for such things, if it gave us one.
  private static func absolute(_ path: String) -> String {
    guard !path.isEmpty, !path.hasPrefix("/"), let folder = folder("RUNTIME_DIRECTORY") else {
      return path
    }
    return "\(folder)/\(path)"
  }

  /// The folder in which keys are kept, as an absolute path: what was said, or the default.
  private static func stateDirectory(_ path: String) -> String {
    let path = path.isEmpty ? folder("STATE_DIRECTORY").map(String.init) ?? "." : path
    if path.hasPrefix("/") { return path }
    guard let current = unsafe getcwd(nil, 0) else { return path }
    defer { unsafe free(current) }
    let start = unsafe String(cString: current)
    return path == "." ? start : "\(start)/\(path)"
  }

  /// A folder that systemd has made for the service; the first if there are several.
  private static func folder(_ variable: String) -> Substring? {
    environment(variable)?.split(separator: ":").first
  }

  /// Reads the program's arguments.
  ///
  ///     valiant [FILE] [--config FILE] [--NAME VALUE…]…
  ///
  /// A flag's value is every word up to the next one that begins with `--`, or what follows `=`.
  static func parse(_ arguments: [String]) throws(StartError) -> CommandLineRequest {
    var invocation = Invocation()
    invocation.stateFile = folder("STATE_DIRECTORY").map { "\($0)/valiant.conf" }
    var rest = arguments[...]
    if let first = rest.first, !first.hasPrefix("-") {
      invocation.file = first
      rest.removeFirst()
    }
    while let word = rest.popFirst() {
      if word == "-h" || word == "--help" { return .help }
      if word == "-v" || word == "--version" { return .version }
      guard word.hasPrefix("--") else {
        throw StartError("unexpected argument '\(word)'; see valiant --help")
      }
      let parts = word.dropFirst(2).split(
        separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
      let name = String(parts[0])
      var values: [String] = []
      if parts.count == 2 {
        values = [String(parts[1])]
      } else {
        while let value = rest.first, !value.hasPrefix("--") {
          values.append(value)
          rest.removeFirst()
        }
      }
      guard !values.isEmpty || Setting.named(name) == nil else {
        throw StartError("--\(name) needs a value")
      }
      let value = values.joined(separator: " ")
      if name == "config" {
        guard values.count == 1 else { throw StartError("--config needs one file") }
        invocation.file = value
      } else if name == "print" {
        return .print(value)
      } else if name == "check" {
        return .check(value)
      } else if let setting = Setting.named(name) {
        invocation.flags.append((setting, value))
      } else {
        throw StartError("unknown flag '--\(name)'; see valiant --help")
      }
    }
    return .serve(invocation)
  }

  /// The text of `--help`.
  static var help: String {
    var lines = [
      "Usage: valiant [FILE] [--config FILE] [--SETTING VALUE]…",
      "",
      "An in-memory key-value server that speaks RESP, the protocol of Redis.",
      "Settings come from FILE and from flags, of which the flags win.",
      "",
    ]
    for setting in Setting.all {
      lines.append("  --\(setting.name) (default: \(setting.defaultText))")
      lines.append("        \(setting.summary)")
    }
    lines += [
      "",
      "  --check FILE",
      "        Read a snapshot, such as Redis's dump.rdb, to its end, and say what is in it.",
      "  --help, --version",
      "  --print \(Manual.names.joined(separator: "|"))",
      "        Print a configuration file with all defaults, or a piece of the documentation.",
      "",
      "Exit status: 0 after SIGTERM, SIGINT or SHUTDOWN; 1 when an address is taken, the system",
      "refuses, or --check finds damage; 2 for a mistake in flags or configuration, or a damaged",
      "snapshot.",
      "",
    ]
    return lines.joined(separator: "\n")
  }
}

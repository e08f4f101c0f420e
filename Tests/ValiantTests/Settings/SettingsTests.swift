import Foundation
import Testing

@testable import Valiant

private func settings(_ lines: String) throws -> Settings {
  var settings = Settings()
  for line in lines.split(separator: "\n") { try SettingsFile.read(line: line, into: &settings) }
  return settings
}

@Suite("Settings") struct SettingsTests {
  @Test("every row reads back what it writes") func roundTrip() throws {
    var changed = Settings()
    for setting in Setting.all {
      try setting.read(setting.text(in: Settings()), into: &changed)
    }
    #expect(changed == Settings())
  }

  @Test("names are unique and lower case") func names() {
    #expect(Set(Setting.all.map(\.name)).count == Setting.all.count)
    for setting in Setting.all { #expect(setting.name == setting.name.lowercased()) }
  }

  @Test("a file's directives are understood") func directives() throws {
    let read = try settings(
      """
      # a comment that isn't one to trip over
        port 4300
      bind 127.0.0.1  ::1
      requirepass "a b"
      timeout 5
      PROTECTED-MODE no
      proto-max-bulk-len 2mb
      unixsocketperm 770
      loglevel debug
      client-output-buffer-limit normal 10mb 1mb 5
      client-output-buffer-limit pubsub 32mb 8mb 60
      save ""
      appendonly no
      """)
    #expect(read.port == 4300)
    #expect(read.bind == ["127.0.0.1", "::1"])
    #expect(read.password == "a b")
    #expect(read.timeoutSeconds == 5)
    #expect(!read.isProtected)
    #expect(read.bulkLengthMaxBytes == 2 << 20)
    #expect(read.unixSocketPermissions == 0o770)
    #expect(read.logLevel == .debug)
    #expect(read.outputLimit.hardBytes == 10 << 20 && read.outputLimit.softSeconds == 5)
  }

  @Test(
    "mistakes are refused",
    arguments: [
      ("prot 1", "unknown directive 'prot'"),
      ("port", "'port' needs a value"),
      ("port x", "port 'x': argument couldn't be parsed into an integer"),
      ("port 70000", "port '70000': argument must be between 0 and 65535 inclusive"),
      ("protected-mode maybe", "protected-mode 'maybe': argument must be 'yes' or 'no'"),
      ("requirepass \"x", "unbalanced quotes"),
      ("dbfilename a/b", "dbfilename 'a/b': dbfilename can't be a path, just a filename"),
      ("save 1", "save '1': Invalid save parameters"),
      ("save 0 1", "save '0 1': Invalid save parameters"),
      ("cluster-enabled yes", "cluster-enabled 'yes': only 'no' is possible in this version"),
      (
        "appendfsync sometimes",
        "appendfsync 'sometimes': argument(s) must be one of the following: always, everysec, no"
      ),
      (
        "unixsocketperm 999",
        "unixsocketperm '999': argument must be octal digits between 0 and 777"
      ),
      (
        "client-output-buffer-limit normal 1",
        "client-output-buffer-limit 'normal 1': Wrong number of arguments in buffer limit configuration."
      ),
    ]) func mistakes(_ line: String, _ message: String)
  {
    #expect(throws: SettingError(message)) { try settings(line) }
  }

  @Test("sizes have Redis's units") func units() {
    #expect(Setting.byteCount("1k") == 1000)
    #expect(Setting.byteCount("1kb") == 1024)
    #expect(Setting.byteCount("2MB") == 2 << 20)
    #expect(Setting.byteCount("1gb") == 1 << 30)
    #expect(Setting.byteCount("5") == 5)
    for wrong in ["", "x", "1x", "-1", "1 k", "99999999999999999999", "9999999999999gb"] {
      #expect(Setting.byteCount(wrong) == nil)
    }
  }

  @Test("a file's mistake is told with its line") func fileAndLine() throws {
    let path = NSTemporaryDirectory() + "valiant-\(UUID().uuidString).conf"
    defer { try? FileManager.default.removeItem(atPath: path) }
    try Data("port 4300\n\nnonsense 1\n".utf8).write(to: URL(fileURLWithPath: path))
    var read = Settings()
    let error = #expect(throws: StartError.self) { try SettingsFile.read(path, into: &read) }
    #expect(error?.description == "\(path):3: unknown directive 'nonsense'")
    for (text, rules) in [
      ("save 1 2\nsave 3 4 5 6\n", [1, 2, 3, 4, 5, 6]), ("save 1 2\nsave \"\"\n", []),
      ("save \"\"\nsave 7 8\n", [7, 8]),
    ] {
      try Data(text.utf8).write(to: URL(fileURLWithPath: path))
      try SettingsFile.read(path, into: &read)
      #expect(read.saveRules.flatMap { [$0.seconds, $0.changes] } == rules)
    }
    #expect(throws: StartError.self) { try SettingsFile.read(path + "x", into: &read) }
  }
}

@Suite("Rewriting the configuration") struct ConfigurationTests {
  /// A value that is not the default.
  private func otherValue(_ setting: Setting) -> String? {
    switch setting.kind {
    case .integer(_, let range), .bytes(_, let range): String(range.lowerBound + 2)
    case .flag(let property): Settings()[keyPath: property] ? "no" : "yes"
    case .text: "with 'both' \"quotes\" and # more"
    case .logLevel: "warning"
    case .outputLimits: "normal 1 2 3 slave 7 8 9 pubsub 4 5 6"
    case .events: "AKE"
    case .fileName: "other.rdb"
    case .saveRules: "7 8 9 10"
    case .memoryLimit, .memoryShare: "17%"
    case .choice(let choice): choice.words.last
    case .permissions, .words, .fixed: nil
    }
  }

  @Test("every setting that CONFIG SET can change is found again") func everySetting() throws {
    let path = NSTemporaryDirectory() + "valiant-\(UUID().uuidString).conf"
    defer { try? FileManager.default.removeItem(atPath: path) }
    let old = "# mine\r\nport 7\r\n  MaxClients 5\nmaxclients 6\n# the end"
    try Data(old.utf8).write(to: URL(fileURLWithPath: path))
    let invocation = Invocation(file: path)
    let said = try invocation.settings()
    #expect(said.port == 7 && said.maxClients == 6)
    let configuration = Configuration(invocation, saying: said)
    var running = said
    var changed: Set<String> = []
    for setting in Setting.all where setting.change == .anyTime {
      guard let value = otherValue(setting) else { continue }
      try setting.read(value, into: &running)
      changed.insert(setting.name)
    }
    let rewrite = try configuration.rewrite(running, changed: changed)
    #expect(Set(rewrite.names) == changed && rewrite.path == path)
    #expect(try invocation.settings() == running)
    #expect(try configuration.reload().isEmpty)
    let text = try String(contentsOfFile: path, encoding: .utf8)
    #expect(text.hasPrefix("# mine\nport 7\nmaxclients 3\n# the end\n"))
    // What nobody has changed is not written, though another value may hold.
    running.timeoutSeconds += 1
    #expect(try configuration.rewrite(running, changed: []).names.isEmpty)
    #expect(try String(contentsOfFile: path, encoding: .utf8) == text)
  }

  @Test("what was kept aside moves into the file when that can be written") func moving() throws {
    let folder = NSTemporaryDirectory() + "valiant-\(UUID().uuidString)"
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let (file, aside) = (folder + "/a.conf", folder + "/b.conf")
    try Data("timeout 3\n".utf8).write(to: URL(fileURLWithPath: file))
    try Data("timeout 4\n".utf8).write(to: URL(fileURLWithPath: aside))
    let invocation = Invocation(file: file, stateFile: aside)
    #expect(try invocation.namesInStateFile() == ["timeout"])
    let said = try invocation.settings()
    #expect(said.timeoutSeconds == 4)
    _ = try Configuration(invocation, saying: said).rewrite(said, changed: [])
    #expect(try String(contentsOfFile: file, encoding: .utf8) == "timeout 4\n")
    #expect(!FileManager.default.fileExists(atPath: aside))
  }
}

@Suite("Command line") struct CommandLineTests {
  private func serve(_ arguments: [String]) throws -> Invocation {
    guard case .serve(let invocation) = try Invocation.parse(arguments) else { throw Problem() }
    return invocation
  }

  @Test("flags set what directives set") func flags() throws {
    let settings = try serve(["--port", "5", "--bind", "127.0.0.1", "-::1", "--timeout=7"])
      .settings()
    #expect(settings.port == 5)
    #expect(settings.bind == ["127.0.0.1", "-::1"])
    #expect(settings.timeoutSeconds == 7)
  }

  @Test("a file comes first or behind --config") func file() throws {
    #expect(try serve(["a.conf", "--port", "5"]).file == "a.conf")
    #expect(try serve(["--port", "5", "--config", "b.conf"]).file == "b.conf")
  }

  @Test(
    "mistakes are refused",
    arguments: [["--nonsense", "1"], ["--port"], ["-x"], ["a", "b"], ["--config"]])
  func mistakes(_ arguments: [String]) {
    #expect(throws: StartError.self) { try Invocation.parse(arguments) }
  }

  @Test("--help names every setting") func help() {
    for setting in Setting.all { #expect(Invocation.help.contains("--\(setting.name) ")) }
  }
}

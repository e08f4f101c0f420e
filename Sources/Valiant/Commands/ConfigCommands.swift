/// CONFIG: settings at run time.
enum ConfigCommands: CommandFamily {
  static let category = Command.Category.server

  private static let flags: Command.Flags = [.admin, .noscript, .loading, .stale]

  static let commands: [Command] = [
    .container(
      "CONFIG", summary: "A container for server configuration commands.", since: "2.0.0",
      [
        Command(
          "CONFIG GET parameter [parameter ...]", arity: -3, flags: flags,
          summary: "Returns the effective values of configuration parameters.",
          complexity: "O(N) where N is the number of parameters.", since: "2.0.0", handler: get),
        Command(
          "CONFIG SET parameter value [parameter value ...]", arity: -4, flags: flags,
          tips: ["request_policy:all_nodes", "response_policy:all_succeeded"],
          summary: "Sets configuration parameters in-flight.",
          complexity: "O(N) where N is the number of parameters.", since: "2.0.0", handler: set),
        Command(
          "CONFIG RESETSTAT", arity: 2, flags: flags.union(.wholeKeyspace),
          summary: "Resets the server's statistics.", since: "2.0.0", handler: resetStatistics),
        Command(
          "CONFIG REWRITE", arity: 2, flags: flags,
          tips: ["request_policy:all_nodes", "response_policy:all_succeeded"],
          summary: "Persists the effective configuration to file.", since: "2.8.0",
          handler: rewrite),
        .help("CONFIG", since: "5.0.0"),
      ])
  ]

  private static func get(_ context: inout CommandContext) throws(CommandError) {
    let request = context.request
    // Whoever names one gets it by that name, in small letters or capitals.
    let found = Setting.all.compactMap { setting -> (setting: Setting, name: [UInt8])? in
      let name = Array(setting.name.utf8)
      let match = name.withBytes { name in
        (2..<request.count).first { GlobPattern.matches(request[$0], name, ignoringCase: true) }
      }
      guard let match else { return nil }
      return (
        setting, request[match].equalsIgnoringCase(setting.name) ? request[match].array : name
      )
    }
    let settings = context.server.settings
    context.reply.map(found.count)
    for (setting, name) in found {
      name.withBytes { context.reply.bulkString($0) }
      context.reply.bulkString(setting.text(in: settings))
    }
  }

  /// All of the parameters are changed, or none is.
  private static func set(_ context: inout CommandContext) throws(CommandError) {
    let request = context.request
    guard request.count % 2 == 0 else { throw .syntax }
    var named: Set<String> = []
    var changes: [(setting: Setting, name: [UInt8], value: String)] = []
    for index in stride(from: 2, to: request.count, by: 2) {
      guard let setting = Setting.named(request[index].text) else {
        throw .unknownSetting(request[index].array)
      }
      let name = request[index].array
      guard setting.change == .anyTime else {
        throw .settingFailed(name, reason: "can't set immutable config")
      }
      guard named.insert(setting.name).inserted else {
        throw .settingFailed(name, reason: "duplicate parameter")
      }
      guard let value = String(validating: request[index + 1].array, as: UTF8.self) else {
        throw .settingFailed(name, reason: "argument must be UTF-8 text")
      }
      changes.append((setting, name, value))
    }
    var failure: CommandError?
    context.server.changeSettings { settings in
      var new = settings
      for change in changes {
        do throws(SettingError) {
          try change.setting.read(change.value, into: &new)
        } catch {
          failure = .settingFailed(change.name, reason: error.description)
          return []
        }
      }
      guard Server.clientRoom(new) == new.maxClients else {
        failure = .settingFailed(
          Array("maxclients".utf8), reason: "the system does not allow that many open files")
        return []
      }
      if let why = context.server.appendOnly.refusal(of: new, on: context.server) {
        failure = .settingFailed(Array("appendonly".utf8), reason: why)
        return []
      }
      settings = new
      return named
    }
    if let failure { throw failure }
    // The other loops hear of it in their next turn; what follows here counts on it now.
    context.worker.apply(context.server.settings)
    context.renewAccess()
    context.reply.ok()
  }

  private static func rewrite(_ context: inout CommandContext) throws(CommandError) {
    let server = context.server
    let rewrite: Configuration.Rewrite?
    do throws(StartError) {
      rewrite = try server.rewriteSettings()
    } catch {
      server.log.warning("CONFIG REWRITE: \(error)")
      throw .rewriteFailed(error.description)
    }
    guard let rewrite else { throw .noSettingsFile }
    let names = rewrite.names.isEmpty ? "nothing" : rewrite.names.joined(separator: ", ")
    server.log.notice("CONFIG REWRITE: wrote \(names) to \(rewrite.path)")
    for name in rewrite.overridden {
      server.log.warning("the flag --\(name) will win over \(rewrite.path)")
    }
    context.reply.ok()
  }

  /// The other loops forget theirs in their next turn.
  private static func resetStatistics(_ context: inout CommandContext) throws(CommandError) {
    context.worker.resetStatistics()
    context.server.resetStatistics(
      but: context.worker, isLocked: context.holdsAllShards)
    context.reply.ok()
  }
}

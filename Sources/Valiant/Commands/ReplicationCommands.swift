/// Commands on replicas, which there are none of yet, and a snapshot for who asks as one.
enum ReplicationCommands: CommandFamily {
  static let category = Command.Category.server

  private static let flags: Command.Flags = [.admin, .noscript, .stale, .noAsyncLoading]

  static let commands: [Command] = [
    Command(
      "REPLICAOF host port", arity: 3, flags: flags,
      summary: "Configures a server as replica of another, or promotes it to a master.",
      since: "5.0.0", handler: replicate),
    Command(
      "SLAVEOF host port", arity: 3, flags: flags,
      summary: "Sets a server as a replica of another, or promotes it to being a master.",
      replacement: ("5.0.0", "`REPLICAOF`"), handler: replicate),
    Command(
      "ROLE", arity: 1, flags: [.noscript, .loading, .stale, .fast, .dangerous, .admin],
      summary: "Returns the replication role.", since: "2.8.12",
      handler: { context throws(CommandError) in
        context.reply.array(3)
        context.reply.bulkString("master")
        context.reply.integer(0)
        context.reply.array(0)
      }),
    Command(
      "REPLCONF [option value [option value ...]]", arity: -1,
      flags: [.admin, .noscript, .loading, .stale, .allowBusy],
      summary: "Says what a client of SYNC can do with the answer.", since: "3.0.0",
      handler: configure),
    Command(
      "SYNC", arity: 1, flags: [.admin, .noscript, .noMulti, .noAsyncLoading],
      summary: "Sends a snapshot of the keys, to a client that has said `REPLCONF rdb-only 1`.",
      complexity: "O(N) where N is the total number of keys in all databases", handler: sync),
  ]

  private static func configure(_ context: inout CommandContext) throws(CommandError) {
    let request = context.request
    guard request.count % 2 == 1 else { throw .syntax }
    for index in stride(from: 1, to: request.count, by: 2) {
      let option = request[index]
      if option.equalsIgnoringCase("rdb-only") {
        if try context.integer(index + 1) != 0 {
          context.client.flags.insert(.snapshotOnly)
        } else {
          context.client.flags.remove(.snapshotOnly)
        }
      } else if !option.equalsIgnoringCase("capa") {
        throw .unrecognizedReplicaOption(option.array)
      }
    }
    context.reply.ok()
  }

  private static func sync(_ context: inout CommandContext) throws(CommandError) {
    guard context.client.flags.contains(.snapshotOnly) else { throw .noReplica }
    if context.settings.directory.isEmpty {
      throw .savingImpossible("there is no directory to write to: dir is empty")
    }
    context.client.isWaiting = true
    // Behind what is answered so far.
    let id = context.client.id
    context.worker.post { $0.sendSnapshot(to: id) }
  }

  private static func replicate(_ context: inout CommandContext) throws(CommandError) {
    guard context.request[1].equalsIgnoringCase("NO"),
      context.request[2].equalsIgnoringCase("ONE")
    else {
      guard let port = context.request[2].integer, (0...65535).contains(port) else {
        throw .invalidMasterPort
      }
      throw .noReplication
    }
    context.reply.ok()
  }
}

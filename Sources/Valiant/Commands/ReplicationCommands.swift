/// Commands on replicas, which there are none of yet.
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
  ]

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

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
      handler: replicate),
  ]

  private static func replicate(_ context: inout CommandContext) throws(CommandError) {
    guard context.request[1].equalsIgnoringCase("NO"),
      context.request[2].equalsIgnoringCase("ONE")
    else { throw .noReplication }
    context.reply.ok()
  }
}

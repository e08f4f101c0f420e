/// CLUSTER, answered as a cluster of one node that has all slots: so clients for clusters connect.
enum ClusterCommands: CommandFamily {
  static let category = Command.Category.cluster
  static let commands: [Command] = [
    .container(
      "CLUSTER", summary: "A container for Redis Cluster commands.", since: "3.0.0",
      [
        Command(
          "CLUSTER INFO", arity: 2, flags: [.stale], tips: ["nondeterministic_output"],
          summary: "Returns information about the state of a node.", since: "3.0.0",
          handler: info),
        Command(
          "CLUSTER MYID", arity: 2, flags: [.stale], summary: "Returns the ID of a node.",
          since: "3.0.0",
          handler: { context throws(CommandError) in
            context.reply.bulkString(context.server.runIdentifier)
          }),
        Command(
          "CLUSTER KEYSLOT key", arity: 3, flags: [.stale],
          summary: "Returns the hash slot for a key.",
          complexity: "O(N) where N is the number of bytes in the key", since: "3.0.0",
          handler: { context throws(CommandError) in
            context.reply.integer(KeySlot.slot(of: context.request[2]))
          }),
        Command(
          "CLUSTER NODES", arity: 2, flags: [.stale], tips: ["nondeterministic_output"],
          summary: "Returns the cluster configuration for a node.", since: "3.0.0",
          handler: nodes),
        Command(
          "CLUSTER SLOTS", arity: 2, flags: [.stale], tips: ["nondeterministic_output"],
          summary: "Returns the mapping of cluster slots to nodes.", since: "3.0.0",
          replacement: ("7.0.0", "`CLUSTER SHARDS`"), handler: slots),
        Command(
          "CLUSTER SHARDS", arity: 2, flags: [.stale], tips: ["nondeterministic_output"],
          summary: "Returns the mapping of cluster slots to shards.", since: "7.0.0",
          handler: shards),
        .help("CLUSTER", since: "5.0.0"),
      ]),
    Command(
      "READONLY", arity: 1, flags: [.loading, .stale, .fast, .connection],
      summary: "Enables read-only queries for a connection to a cluster's replica node.",
      since: "3.0.0", handler: { context throws(CommandError) in context.reply.ok() }),
    Command(
      "READWRITE", arity: 1, flags: [.loading, .stale, .fast, .connection],
      summary: "Enables read-write queries for a connection to a cluster's replica node.",
      since: "3.0.0", handler: { context throws(CommandError) in context.reply.ok() }),
  ]

  /// Where the client has reached this node: so it will find it there again.
  private static func address(
    _ context: borrowing CommandContext
  ) -> (host: String, port: Int) {
    let address = context.client.localAddress
    guard !address.isUnix, let colon = address.text.lastIndex(of: ":") else {
      return ("127.0.0.1", context.server.port ?? context.settings.port)
    }
    let host = address.text[..<colon]
    return (String(host.hasPrefix("[") ? host.dropFirst().dropLast() : host), address.port)
  }

  private static func info(_ context: inout CommandContext) throws(CommandError) {
    let fields = [
      ("cluster_state", "ok"), ("cluster_slots_assigned", "\(KeySlot.count)"),
      ("cluster_slots_ok", "\(KeySlot.count)"), ("cluster_slots_pfail", "0"),
      ("cluster_slots_fail", "0"), ("cluster_known_nodes", "1"), ("cluster_size", "1"),
      ("cluster_current_epoch", "1"), ("cluster_my_epoch", "1"),
    ]
    context.reply.verbatim(fields.map { "\($0):\($1)\r\n" }.joined())
  }

  private static func nodes(_ context: inout CommandContext) throws(CommandError) {
    let (host, port) = address(context)
    context.reply.verbatim(
      "\(context.server.runIdentifier) \(host):\(port)@\(port + 10_000) myself,master - 0 0 1 "
        + "connected 0-\(KeySlot.count - 1)\n")
  }

  private static func slots(_ context: inout CommandContext) throws(CommandError) {
    let (host, port) = address(context)
    context.reply.array(1)
    context.reply.array(3)
    context.reply.integer(0)
    context.reply.integer(KeySlot.count - 1)
    context.reply.array(4)
    context.reply.bulkString(host)
    context.reply.integer(port)
    context.reply.bulkString(context.server.runIdentifier)
    context.reply.array(0)
  }

  private static func shards(_ context: inout CommandContext) throws(CommandError) {
    let (host, port) = address(context)
    context.reply.array(1)
    context.reply.map(2)
    context.reply.bulkString("slots")
    context.reply.array(2)
    context.reply.integer(0)
    context.reply.integer(KeySlot.count - 1)
    context.reply.bulkString("nodes")
    context.reply.array(1)
    context.reply.map(7)
    context.reply.bulkString("id")
    context.reply.bulkString(context.server.runIdentifier)
    context.reply.bulkString("port")
    context.reply.integer(port)
    for (name, value) in [("ip", host), ("endpoint", host), ("role", "master")] {
      context.reply.bulkString(name)
      context.reply.bulkString(value)
    }
    context.reply.bulkString("replication-offset")
    context.reply.integer(0)
    context.reply.bulkString("health")
    context.reply.bulkString("online")
  }
}

/// Publishing messages, and listening to them.
enum PubSubCommands: CommandFamily {
  static let category = Command.Category.pubsub

  private static let flags: Command.Flags = [
    .pubsub, .noscript, .loading, .stale, .whileSubscribed,
  ]

  static let commands: [Command] = [
    Command(
      "SUBSCRIBE channel [channel ...]", arity: -2, flags: flags,
      summary: "Listens for messages published to channels.",
      complexity: "O(N) where N is the number of channels to subscribe to.", since: "2.0.0",
      handler: { context throws(CommandError) in subscribe(&context, .channel) }),
    Command(
      "UNSUBSCRIBE [channel [channel ...]]", arity: -1, flags: flags,
      summary: "Stops listening to messages posted to channels.",
      complexity: "O(N) where N is the number of channels to unsubscribe.", since: "2.0.0",
      handler: { context throws(CommandError) in unsubscribe(&context, .channel) }),
    Command(
      "PSUBSCRIBE pattern [pattern ...]", arity: -2, flags: flags,
      summary: "Listens for messages published to channels that match one or more patterns.",
      complexity: "O(N) where N is the number of patterns to subscribe to.", since: "2.0.0",
      handler: { context throws(CommandError) in subscribe(&context, .pattern) }),
    Command(
      "PUNSUBSCRIBE [pattern [pattern ...]]", arity: -1, flags: flags,
      summary: "Stops listening to messages published to channels that match patterns.",
      complexity: "O(N) where N is the number of patterns to unsubscribe.", since: "2.0.0",
      handler: { context throws(CommandError) in unsubscribe(&context, .pattern) }),
    Command(
      "SSUBSCRIBE shardchannel [shardchannel ...]", arity: -2, flags: flags,
      keys: .all("not_key"), summary: "Listens for messages published to shard channels.",
      complexity: "O(N) where N is the number of shard channels to subscribe to.",
      since: "7.0.0",
      handler: { context throws(CommandError) in
        if context.isInTransaction { throw .shardSubscriptionInTransaction }
        subscribe(&context, .shardChannel)
      }),
    Command(
      "SUNSUBSCRIBE [shardchannel [shardchannel ...]]", arity: -1, flags: flags,
      keys: .all("not_key"), summary: "Stops listening to messages posted to shard channels.",
      complexity: "O(N) where N is the number of shard channels to unsubscribe.",
      since: "7.0.0",
      handler: { context throws(CommandError) in unsubscribe(&context, .shardChannel) }),
    Command(
      "PUBLISH channel message", arity: 3,
      flags: [.pubsub, .loading, .stale, .fast, .mayReplicate],
      summary: "Posts a message to a channel.",
      complexity:
        "O(N+M) where N is the number of clients subscribed to the receiving channel and M is the total number of subscribed patterns (by any client).",
      since: "2.0.0",
      handler: { context throws(CommandError) in publish(&context, .channel) }),
    Command(
      "SPUBLISH shardchannel message", arity: 3,
      flags: [.pubsub, .loading, .stale, .fast, .mayReplicate],
      keys: .one("not_key"), summary: "Posts a message to a shard channel.",
      complexity:
        "O(N) where N is the number of clients subscribed to the receiving shard channel.",
      since: "7.0.0",
      handler: { context throws(CommandError) in publish(&context, .shardChannel) }),
    .container(
      "PUBSUB", summary: "A container for Pub/Sub commands.", since: "2.8.0",
      [
        Command(
          "PUBSUB CHANNELS [pattern]", arity: -2, flags: [.pubsub, .loading, .stale],
          summary: "Returns the active channels.",
          complexity: "O(N) where N is the number of active channels.", since: "2.8.0",
          handler: { context throws(CommandError) in try channels(&context, .channel) }),
        Command(
          "PUBSUB NUMSUB [channel [channel ...]]", arity: -2, flags: [.pubsub, .loading, .stale],
          summary: "Returns a count of subscribers to channels.",
          complexity: "O(N) where N is the number of requested channels.", since: "2.8.0",
          handler: { context throws(CommandError) in counts(&context, .channel) }),
        Command(
          "PUBSUB NUMPAT", arity: 2, flags: [.pubsub, .loading, .stale],
          summary: "Returns a count of unique pattern subscriptions.", since: "2.8.0",
          handler: { context throws(CommandError) in
            context.reply.integer(context.server.pubSub.count(.pattern))
          }),
        Command(
          "PUBSUB SHARDCHANNELS [pattern]", arity: -2, flags: [.pubsub, .loading, .stale],
          summary: "Returns the active shard channels.",
          complexity: "O(N) where N is the number of active shard channels.", since: "7.0.0",
          handler: { context throws(CommandError) in try channels(&context, .shardChannel) }),
        Command(
          "PUBSUB SHARDNUMSUB [shardchannel [shardchannel ...]]", arity: -2,
          flags: [.pubsub, .loading, .stale],
          summary: "Returns the count of subscribers of shard channels.",
          complexity: "O(N) where N is the number of requested shard channels.", since: "7.0.0",
          handler: { context throws(CommandError) in counts(&context, .shardChannel) }),
        .help("PUBSUB", since: "6.2.0"),
      ]),
  ]

  // MARK: Listening

  /// One answer a channel.
  private static func subscribe(_ context: inout CommandContext, _ kind: SubscriptionKind) {
    for index in 1..<context.request.count {
      let name = context.request[index]
      context.worker.subscribe(context.client, context.connection, kind, name.array)
      let count = context.client.subscriptions?.count(with: kind) ?? 0
      answer(&context, kind, "subscribe", name, count)
    }
  }

  private static func unsubscribe(_ context: inout CommandContext, _ kind: SubscriptionKind) {
    if context.request.count == 1 { return unsubscribeAll(&context, kind) }
    for index in 1..<context.request.count {
      let name = context.request[index]
      context.worker.unsubscribe(context.client, kind, name.array)
      let count = context.client.subscriptions?.count(with: kind) ?? 0
      answer(&context, kind, "unsubscribe", name, count)
    }
  }

  private static func unsubscribeAll(_ context: inout CommandContext, _ kind: SubscriptionKind) {
    let names = context.client.subscriptions?.names(kind) ?? []
    for name in names {
      context.worker.unsubscribe(context.client, kind, name)
      let count = context.client.subscriptions?.count(with: kind) ?? 0
      name.withBytes { answer(&context, kind, "unsubscribe", $0, count) }
    }
    if names.isEmpty {
      let count = context.client.subscriptions?.count(with: kind) ?? 0
      answer(&context, kind, "unsubscribe", nil, count)
    }
  }

  private static func answer(
    _ context: inout CommandContext, _ kind: SubscriptionKind, _ word: String, _ name: Bytes?,
    _ count: Int
  ) {
    let prefix = [SubscriptionKind.channel: "", .pattern: "p", .shardChannel: "s"][kind] ?? ""
    context.push { reply in
      reply.push(3)
      reply.bulkString(prefix + word)
      if let name { reply.bulkString(name) } else { reply.null() }
      reply.integer(count)
    }
  }

  // MARK: Publishing

  private static func publish(_ context: inout CommandContext, _ kind: SubscriptionKind) {
    context.reply.integer(context.publish(kind, context.request[1], context.request[2]))
  }

  // MARK: PUBSUB

  private static func channels(
    _ context: inout CommandContext, _ kind: SubscriptionKind
  ) throws(CommandError) {
    guard context.request.count <= 3 else {
      throw .subcommandSyntax(name: context.request[1].prefix(128).array, container: "PUBSUB")
    }
    var names = context.server.pubSub.names(kind)
    if context.request.count == 3 {
      let pattern = context.request[2].array
      names = names.filter { PubSub.matches(pattern, $0) }
    }
    context.reply.array(names.count)
    for name in names { name.withBytes { context.reply.bulkString($0) } }
  }

  private static func counts(_ context: inout CommandContext, _ kind: SubscriptionKind) {
    context.reply.array((context.request.count - 2) * 2)
    for index in 2..<max(2, context.request.count) {
      let name = context.request[index]
      context.reply.bulkString(name)
      context.reply.integer(context.server.pubSub.subscriberCount(kind, name.array))
    }
  }
}

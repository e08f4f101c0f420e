import Synchronization

/// What a client can subscribe to.
enum SubscriptionKind: Int, CaseIterable, Sendable {
  /// A channel.
  case channel
  /// All channels whose names match a pattern.
  case pattern
  /// A channel of its own kind, as those of a cluster's shards are.
  case shardChannel
}

/// A message that was published.
struct Publication: Sendable {
  /// `channel` or `shardChannel`.
  let kind: SubscriptionKind
  let channel: [UInt8]
  let message: [UInt8]
  /// Identifier of a client that has it already; 0 for none.
  var deliveredTo = 0
}

/// Which channels somebody listens to, and on which loops.
///
/// A message is published under the lock of this registry only; it reaches clients by the loops that
/// they belong to (`Subscribers`). So messages of one publisher reach each subscriber in their order.
final class PubSub: Sendable {
  /// How many subscribers each loop has.
  private typealias Audience = [Int: Int]

  private struct State {
    /// By kind and name.
    var audiences: [[[UInt8]: Audience]] = SubscriptionKind.allCases.map { _ in [:] }
  }

  private let state = Guarded(State())
  /// Subscriptions of all clients.
  private let total = Atomic<Int>(0)

  /// Whether nobody listens to anything.
  var isEmpty: Bool { total.load(ordering: .relaxed) == 0 }

  func subscribe(_ kind: SubscriptionKind, _ name: [UInt8], worker: Int) {
    total.wrappingAdd(1, ordering: .relaxed)
    state.withLock { $0.audiences[kind.rawValue][name, default: [:]][worker, default: 0] += 1 }
  }

  func unsubscribe(_ kind: SubscriptionKind, _ name: [UInt8], worker: Int) {
    total.wrappingSubtract(1, ordering: .relaxed)
    state.withLock { state in
      guard var audience = state.audiences[kind.rawValue][name], let count = audience[worker]
      else { return }
      audience[worker] = count > 1 ? count - 1 : nil
      state.audiences[kind.rawValue][name] = audience.isEmpty ? nil : audience
    }
  }

  /// Who gets a message on `channel`: how many subscriptions, and on which loops.
  ///
  /// O(patterns).
  func audience(_ kind: SubscriptionKind, _ channel: [UInt8]) -> (count: Int, workers: [Int]) {
    if isEmpty { return (0, []) }
    return state.withLock { state in
      var audience = state.audiences[kind.rawValue][channel] ?? [:]
      if kind == .channel {
        for (pattern, listeners) in state.audiences[SubscriptionKind.pattern.rawValue]
        where Self.matches(pattern, channel) {
          audience.merge(listeners) { $0 + $1 }
        }
      }
      return (audience.values.reduce(0, +), Array(audience.keys))
    }
  }

  static func matches(_ pattern: [UInt8], _ channel: [UInt8]) -> Bool {
    pattern.withBytes { pattern in
      channel.withBytes { GlobPattern.matches(pattern, $0) }
    }
  }

  // MARK: What PUBSUB and INFO ask

  /// Names of a kind that have subscribers.
  func names(_ kind: SubscriptionKind) -> [[UInt8]] {
    state.withLock { Array($0.audiences[kind.rawValue].keys) }
  }

  func count(_ kind: SubscriptionKind) -> Int {
    state.withLock { $0.audiences[kind.rawValue].count }
  }

  /// Subscribers of one channel, patterns not counted.
  func subscriberCount(_ kind: SubscriptionKind, _ name: [UInt8]) -> Int {
    state.withLock { $0.audiences[kind.rawValue][name]?.values.reduce(0, +) ?? 0 }
  }
}

/// Who listens on one loop, and how messages come to them. Belongs to the loop's thread.
final class Subscribers {
  /// A client of this loop that listens to something.
  struct Subscriber {
    let client: Client
    let connection: Connection
  }

  private var subscribers: [[[UInt8]: [Subscriber]]] = SubscriptionKind.allCases.map { _ in [:] }

  func add(_ subscriber: Subscriber, _ kind: SubscriptionKind, _ name: [UInt8]) {
    subscribers[kind.rawValue][name, default: []].append(subscriber)
  }

  func remove(_ client: Client, _ kind: SubscriptionKind, _ name: [UInt8]) {
    guard var list = subscribers[kind.rawValue][name] else { return }
    list.removeAll { $0.client.id == client.id }
    subscribers[kind.rawValue][name] = list.isEmpty ? nil : list
  }

  /// Calls `deliver` with each who gets the message, and with its bytes for the client's protocol.
  ///
  /// Who listens to a channel and to patterns gets it more than once.
  func forEach(of publication: Publication, _ deliver: (Subscriber, Bytes) -> Void) {
    send(
      to: subscribers[publication.kind.rawValue][publication.channel] ?? [],
      publication.kind == .channel ? ["message"] : ["smessage"], nil, publication, deliver)
    if publication.kind != .channel { return }
    for (pattern, list) in subscribers[SubscriptionKind.pattern.rawValue]
    where PubSub.matches(pattern, publication.channel) {
      send(to: list, ["pmessage"], pattern, publication, deliver)
    }
  }

  private func send(
    to list: [Subscriber], _ words: [String], _ pattern: [UInt8]?, _ publication: Publication,
    _ deliver: (Subscriber, Bytes) -> Void
  ) {
    if list.isEmpty { return }
    // Both protocols differ in the first byte only.
    var messages: [[UInt8]?] = [nil, nil]
    for subscriber in list where !subscriber.connection.isClosing {
      let version = subscriber.client.protocolVersion
      let bytes = messages[version - 2] ?? encode(words, pattern, publication, version)
      messages[version - 2] = bytes
      bytes.withBytes { deliver(subscriber, $0) }
    }
  }

  private func encode(
    _ words: [String], _ pattern: [UInt8]?, _ publication: Publication, _ version: Int
  ) -> [UInt8] {
    var writer = ReplyWriter()
    writer.protocolVersion = version
    writer.push(pattern == nil ? 3 : 4)
    for word in words { writer.bulkString(word) }
    if let pattern { pattern.withBytes { writer.bulkString($0) } }
    publication.channel.withBytes { writer.bulkString($0) }
    publication.message.withBytes { writer.bulkString($0) }
    return writer.output.bytes.bytes.array
  }
}

/// What one client listens to. Belongs to the thread of the client's loop.
final class Subscriptions {
  private var names: [Set<[UInt8]>] = SubscriptionKind.allCases.map { _ in [] }

  /// Subscriptions of a kind.
  func names(_ kind: SubscriptionKind) -> Set<[UInt8]> { names[kind.rawValue] }

  func insert(_ kind: SubscriptionKind, _ name: [UInt8]) -> Bool {
    names[kind.rawValue].insert(name).inserted
  }

  func remove(_ kind: SubscriptionKind, _ name: [UInt8]) -> Bool {
    names[kind.rawValue].remove(name) != nil
  }

  var isEmpty: Bool { names.allSatisfy(\.isEmpty) }

  /// Channels and patterns, or channels of shards: what (un)subscribing counts together.
  func count(with kind: SubscriptionKind) -> Int {
    kind == .shardChannel
      ? names[kind.rawValue].count
      : names[SubscriptionKind.channel.rawValue].count
        + names[SubscriptionKind.pattern.rawValue].count
  }
}

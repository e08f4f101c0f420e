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

/// A message that was published, in the bytes that its subscribers get.
///
/// Any thread may read it: nothing of it changes.
final class Publication: @unchecked Sendable {
  // SAFETY of @unchecked Sendable: `wire` is written in `init` only.

  /// `channel` or `shardChannel`.
  let kind: SubscriptionKind
  let channel: [UInt8]
  /// Identifier of a client that has it already; 0 for none.
  let deliveredTo: Int
  /// The message as RESP writes it, but for the first byte, in which its two versions differ.
  private let wire: ByteBuffer
  /// Where channel and message begin in it.
  private let payload: Int

  init(_ kind: SubscriptionKind, _ channel: Bytes, _ message: Bytes, deliveredTo: Int) {
    self.kind = kind
    self.channel = channel.array
    self.deliveredTo = deliveredTo
    var wire = ByteBuffer()
    wire.reserve(channel.count + message.count + 80)
    wire.append(literal: kind == .channel ? "3\r\n$7\r\nmessage\r\n" : "3\r\n$8\r\nsmessage\r\n")
    payload = wire.count
    wire.append(bulk: channel)
    wire.append(bulk: message)
    self.wire = wire
  }

  /// What who listens to the channel gets, without the first byte.
  var bytes: Bytes { wire.bytes }

  /// The same for who listens to a pattern.
  func bytes(for pattern: [UInt8]) -> [UInt8] {
    var wire = ByteBuffer()
    wire.append(literal: "4\r\n$8\r\npmessage\r\n")
    pattern.withBytes { wire.append(bulk: $0) }
    wire.append(self.wire.bytes.dropFirst(payload))
    return wire.bytes.array
  }

  /// The byte in front: a push, or an array.
  static func firstByte(version: Int) -> UInt8 { UInt8(ascii: version == 3 ? ">" : "*") }
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

  /// Calls `body` with each loop on which somebody gets a message on `channel`.
  ///
  /// O(patterns).
  ///
  /// - Returns: How many subscriptions that are.
  func forEachLoop(
    listeningTo channel: [UInt8], _ kind: SubscriptionKind, _ body: (Int) -> Void
  ) -> Int {
    if isEmpty { return 0 }
    return state.withLock { state in
      var audience = state.audiences[kind.rawValue][channel] ?? [:]
      if kind == .channel, !state.audiences[SubscriptionKind.pattern.rawValue].isEmpty {
        for (pattern, listeners) in state.audiences[SubscriptionKind.pattern.rawValue]
        where Self.matches(pattern, channel) {
          audience.merge(listeners) { $0 + $1 }
        }
      }
      var count = 0
      for (worker, listeners) in audience {
        count += listeners
        body(worker)
      }
      return count
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

  /// Calls `deliver` with each who gets the message, and with its bytes behind the first one.
  ///
  /// Who listens to a channel and to patterns gets it more than once.
  func forEach(of publication: Publication, _ deliver: (Subscriber, Bytes) -> Void) {
    for subscriber in subscribers[publication.kind.rawValue][publication.channel] ?? [] {
      deliver(subscriber, publication.bytes)
    }
    if publication.kind != .channel { return }
    for (pattern, list) in subscribers[SubscriptionKind.pattern.rawValue]
    where PubSub.matches(pattern, publication.channel) {
      publication.bytes(for: pattern).withBytes { bytes in
        for subscriber in list { deliver(subscriber, bytes) }
      }
    }
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

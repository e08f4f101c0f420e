/// How a client wants to be told that keys have changed of which it may have copies.
struct TrackingModes: OptionSet, Sendable {
  let rawValue: UInt8

  /// It wants to be told at all.
  static let on = TrackingModes(rawValue: 1)
  /// Of all keys that begin in some way, rather than of those that it has read.
  static let broadcast = TrackingModes(rawValue: 2)
  /// Only of what it reads behind CLIENT CACHING YES.
  static let optIn = TrackingModes(rawValue: 4)
  /// But for what it reads behind CLIENT CACHING NO.
  static let optOut = TrackingModes(rawValue: 8)
  /// But for what it changes itself.
  static let noLoop = TrackingModes(rawValue: 16)
  /// Another client was to be told, which has gone.
  static let brokenRedirect = TrackingModes(rawValue: 32)
}

/// The clients of one loop that have copies of keys, and how they are told that those are invalid.
///
/// Belongs to the loop's thread.
final class TrackingClients {
  typealias Subscriber = Subscribers.Subscriber

  /// Where the store puts what becomes invalid.
  let queue: InvalidationQueue
  private unowned let worker: Worker
  private var trackers: [Int: Subscriber] = [:]

  init(of worker: Worker) {
    self.worker = worker
    queue = InvalidationQueue { [weak worker] in worker?.post { $0.deliverInvalidations() } }
  }

  /// Begins to tell a client, or does it differently from now on.
  ///
  /// - Parameters:
  ///   - prefixes: How keys begin of which it wants to hear as well as of those named before.
  ///   - isLocked: Whether the caller holds the locks of all shards.
  func track(
    _ client: Client, _ connection: Connection, _ modes: TrackingModes, redirect: Int,
    prefixes: [[UInt8]], isLocked: Bool
  ) {
    let store = worker.server.store
    if trackers[client.id] == nil {
      trackers[client.id] = Subscriber(client: client, connection: connection)
      store.beginTracking(queue)
    }
    client.trackingModes = modes.union(.on)
    client.redirect = redirect
    if modes.contains(.broadcast) {
      client.trackedPrefixes += prefixes
      store.changeTrackers(of: prefixes, by: 1, queue, isLocked: isLocked)
    } else {
      client.flags.insert(.tracking)
    }
  }

  /// Tells a client no more.
  ///
  /// - Parameter isLocked: Whether the caller holds the locks of all shards.
  func end(_ client: Client, isLocked: Bool = false) {
    guard trackers.removeValue(forKey: client.id) != nil else { return }
    let store = worker.server.store
    store.changeTrackers(of: client.trackedPrefixes, by: -1, queue, isLocked: isLocked)
    store.endTracking(queue, isLocked: isLocked)
    client.trackedPrefixes = []
    client.trackingModes = []
    client.redirect = -1
    client.flags.subtract([.tracking, .caching])
  }

  // MARK: Telling

  /// Tells the loop's clients what has become invalid since this was last called.
  @inline(never)
  func deliver() {
    let invalidations = queue.takeAll()
    if invalidations.isEmpty { return }
    var changed: [Changed] = []
    for invalidation in invalidations {
      switch invalidation {
      case .read(let key, let readers, let author):
        for reader in readers where reader.queue === queue { tell(reader.client, key, author) }
      case .prefixed(let key, let author): changed.append(Changed(key: key, author: author))
      case .everything:
        for tracker in trackers.values { tell(tracker, InvalidationMessage(nil)) }
      }
    }
    if !changed.isEmpty { broadcast(changed) }
  }

  /// A key, and the client that has changed it.
  private struct Changed {
    let key: [UInt8]
    let author: Int
  }

  private func tell(_ id: Int, _ key: [UInt8], _ author: Int) {
    guard let tracker = trackers[id], !tracker.client.trackingModes.contains(.broadcast) else {
      return
    }
    if author == id, tracker.client.trackingModes.contains(.noLoop) { return }
    tell(tracker, InvalidationMessage([key]))
  }

  /// Tells each client which of the keys begin as it wants, each key once.
  private func broadcast(_ changed: [Changed]) {
    let authors = Set(changed.map(\.author))
    // Most clients get the same.
    var messages: [[UInt8]: InvalidationMessage] = [:]
    for tracker in trackers.values {
      let isOwn =
        tracker.client.trackingModes.contains(.noLoop) && authors.contains(tracker.client.id)
      for prefix in tracker.client.trackedPrefixes {
        let message: InvalidationMessage
        if !isOwn, let known = messages[prefix] {
          message = known
        } else {
          var seen: Set<[UInt8]> = []
          let keys = changed.filter { changed in
            changed.key.starts(with: prefix) && !(isOwn && changed.author == tracker.client.id)
              && seen.insert(changed.key).inserted
          }
          message = InvalidationMessage(keys.map(\.key))
          if !isOwn { messages[prefix] = message }
        }
        if !message.isEmpty { tell(tracker, message) }
      }
    }
  }

  private func tell(_ tracker: Subscriber, _ message: InvalidationMessage) {
    let client = tracker.client
    if client.redirect > 0 {
      let tracked = client.id
      worker.server.tell(client.redirect, message) { [weak worker] in
        worker?.post { $0.redirectDidBreak(of: tracked) }
      }
    } else if client.protocolVersion == 3 {
      worker.enqueue(UInt8(ascii: ">"), message.push, to: tracker)
    }
  }

  /// Tells a client that the one which was to be told in its place has gone.
  func redirectDidBreak(of id: Int) {
    guard let tracker = trackers[id] else { return }
    tracker.client.trackingModes.insert(.brokenRedirect)
    if tracker.client.protocolVersion == 3 {
      let text = "2\r\n$21\r\ntracking-redir-broken\r\n:\(tracker.client.redirect)\r\n"
      worker.enqueue(UInt8(ascii: ">"), Array(text.utf8), to: tracker)
    }
  }
}

/// Says of which keys copies are invalid.
struct InvalidationMessage: Sendable {
  /// As RESP writes it; empty for all keys.
  private let keys: [UInt8]
  /// Whether it names no key, and does not mean all of them either.
  let isEmpty: Bool

  /// - Parameter keys: Nil for all.
  init(_ keys: [[UInt8]]?) {
    isEmpty = keys?.isEmpty ?? false
    guard let keys else {
      self.keys = []
      return
    }
    var bytes = ByteBuffer()
    bytes.append(line: UInt8(ascii: "*"), keys.count)
    for key in keys { key.withBytes { bytes.append(bulk: $0) } }
    self.keys = bytes.bytes.array
  }

  /// What a client of RESP3 gets, without the first byte.
  var push: [UInt8] {
    Array("2\r\n$10\r\ninvalidate\r\n".utf8) + (keys.isEmpty ? Array("_\r\n".utf8) : keys)
  }

  /// The same for a client of RESP2 that listens to channels.
  var channelMessage: [UInt8] {
    Array("3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n".utf8)
      + (keys.isEmpty ? Array("$-1\r\n".utf8) : keys)
  }
}

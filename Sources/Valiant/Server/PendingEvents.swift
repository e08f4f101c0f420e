/// Events of keys that one loop has still to publish. Belongs to the loop's thread.
final class PendingEvents {
  private var events: [(event: KeyspaceEvent, key: [UInt8], database: Int)] = []
  /// Which are published at all.
  var wanted: KeyspaceEvents = []

  var isEmpty: Bool { events.isEmpty }

  func add(_ event: KeyspaceEvent, _ key: Bytes, database: Int) {
    if wanted.contains(event.kind) { events.append((event, key.array, database)) }
  }

  /// A keyspace tells of a key that went by itself.
  func add(change: KeyChange, _ key: Bytes, database: Int) {
    switch change {
    case .commanded, .timed: break
    case .expired: add(KeyspaceEvent.expired, key, database: database)
    case .evicted: add(KeyspaceEvent.evicted, key, database: database)
    }
  }

  /// Calls `publish` with the channel and the message of each, and forgets them.
  func publish(_ publish: (_ channel: [UInt8], _ message: [UInt8]) -> Void) {
    let all = events
    events = []
    for (event, key, database) in all {
      let name = Array(event.name.utf8)
      if wanted.contains(.onKeyspace) { publish("__keyspace@\(database)__:".utf8 + key, name) }
      if wanted.contains(.onKeyevent) { publish("__keyevent@\(database)__:".utf8 + name, key) }
    }
  }
}

private func + (left: String.UTF8View, right: [UInt8]) -> [UInt8] { Array(left) + right }

/// Which events of keys are published, as `notify-keyspace-events` says.
struct KeyspaceEvents: OptionSet, Sendable {
  let rawValue: UInt16

  /// On `__keyspace@<db>__:<key>`, the event as the message.
  static let onKeyspace = KeyspaceEvents(rawValue: 1 << 0)
  /// On `__keyevent@<db>__:<event>`, the key as the message.
  static let onKeyevent = KeyspaceEvents(rawValue: 1 << 1)
  /// Commands that know no type, such as DEL, EXPIRE and RENAME.
  static let generic = KeyspaceEvents(rawValue: 1 << 2)
  static let string = KeyspaceEvents(rawValue: 1 << 3)
  /// A time to live was over.
  static let expired = KeyspaceEvents(rawValue: 1 << 4)
  static let evicted = KeyspaceEvents(rawValue: 1 << 5)
  /// A key was asked for that is not there.
  static let miss = KeyspaceEvents(rawValue: 1 << 6)
  /// A key has come into being.
  static let new = KeyspaceEvents(rawValue: 1 << 7)

  /// Letters in the order in which they are shown; those without events of ours are kept.
  private static let letters: [(letter: Character, event: KeyspaceEvents)] = [
    ("g", .generic), ("$", .string), ("l", KeyspaceEvents(rawValue: 1 << 8)),
    ("s", KeyspaceEvents(rawValue: 1 << 9)), ("h", KeyspaceEvents(rawValue: 1 << 10)),
    ("z", KeyspaceEvents(rawValue: 1 << 11)), ("x", .expired), ("e", .evicted),
    ("t", KeyspaceEvents(rawValue: 1 << 12)), ("d", KeyspaceEvents(rawValue: 1 << 13)),
  ]
  private static let others: [(letter: Character, event: KeyspaceEvents)] = [
    ("n", .new), ("K", .onKeyspace), ("E", .onKeyevent), ("m", .miss),
  ]
  private static let all = letters.reduce(into: KeyspaceEvents()) { $0.insert($1.event) }

  /// Nil when a letter is none of them.
  init?(letters text: String) {
    self = []
    for letter in text {
      if letter == "A" {
        formUnion(Self.all)
        continue
      }
      let known = (Self.letters + Self.others).first { $0.letter == letter }
      guard let known else { return nil }
      insert(known.event)
    }
  }

  init(rawValue: UInt16) { self.rawValue = rawValue }

  var letters: String {
    let classes =
      isSuperset(of: Self.all)
      ? "A" : String(Self.letters.filter { contains($0.event) }.map(\.letter))
    return classes + String(Self.others.filter { contains($0.event) }.map(\.letter))
  }

  /// Nothing, when no kind of channel is named.
  var effective: KeyspaceEvents {
    isDisjoint(with: [.onKeyspace, .onKeyevent]) ? [] : self
  }

  /// Whether anybody wants to hear of keys that go by themselves.
  var wantsRemovals: Bool { !effective.isDisjoint(with: [.expired, .evicted]) }
}

/// What has happened to a key, as subscribers read it.
struct KeyspaceEvent: Sendable {
  let kind: KeyspaceEvents
  let name: String

  static let set = KeyspaceEvent(kind: .string, name: "set")
  static let deleted = KeyspaceEvent(kind: .generic, name: "del")
  static let expire = KeyspaceEvent(kind: .generic, name: "expire")
  static let persist = KeyspaceEvent(kind: .generic, name: "persist")
  static let expired = KeyspaceEvent(kind: .expired, name: "expired")
  static let evicted = KeyspaceEvent(kind: .evicted, name: "evicted")
  static let new = KeyspaceEvent(kind: .new, name: "new")
  static let miss = KeyspaceEvent(kind: .miss, name: "keymiss")

  static func string(_ name: String) -> KeyspaceEvent { KeyspaceEvent(kind: .string, name: name) }
  static func generic(_ name: String) -> KeyspaceEvent {
    KeyspaceEvent(kind: .generic, name: name)
  }
}

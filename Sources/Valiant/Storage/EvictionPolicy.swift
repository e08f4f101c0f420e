import Synchronization

/// Which keys go when `maxmemory` is reached; the names are those of Redis, and two of our own.
enum EvictionPolicy: String, CaseIterable, Sendable {
  case none = "noeviction"
  case allKeysAdaptive = "allkeys-adaptive"
  case allKeysLRU = "allkeys-lru"
  case allKeysLFU = "allkeys-lfu"
  case allKeysRandom = "allkeys-random"
  case volatileAdaptive = "volatile-adaptive"
  case volatileLRU = "volatile-lru"
  case volatileLFU = "volatile-lfu"
  case volatileRandom = "volatile-random"
  case volatileTTL = "volatile-ttl"

  /// Whether only keys with a time to live may go.
  var isVolatile: Bool {
    switch self {
    case .volatileAdaptive, .volatileLRU, .volatileLFU, .volatileRandom, .volatileTTL: true
    default: false
    }
  }

  /// Whether it goes by when an entry was last used, or how often.
  var isRanked: Bool {
    switch self {
    case .none, .allKeysRandom, .volatileRandom, .volatileTTL: false
    default: true
    }
  }

  /// What is to be known of an entry's use.
  var tracking: AccessTracking.Kind {
    switch self {
    case .allKeysLFU, .volatileLFU: .frequency
    case .allKeysAdaptive, .volatileAdaptive: .adaptive
    default: .clock
    }
  }
}

/// How an entry's 24 bits of access are written: by whom it is used, and when.
///
///     clock       [ seconds: 24 ]                              wraps after 194 days
///     frequency   [ minutes: 16 | counter: 8 ]                 Redis's logarithmic counter
///     adaptive    [ minutes: 16 | 0: 2 | age: 4 | uses: 2 ]    see `Eviction`
///
/// Minutes and seconds are those of the steady clock. When the policy changes, bits of the old kind
/// are read as the new one until an entry is next used, as in Redis.
struct AccessTracking: Sendable {
  enum Kind: Sendable {
    case clock, frequency, adaptive
  }

  let kind: Kind
  /// The upper bits of an entry that is used now, or all of them.
  private let stamp: UInt32
  /// Whether uses are noted by the stamp alone, which is quick.
  private var isStampOnly: Bool
  /// Whether uses are not noted at all.
  private var leavesAlone = false
  /// Redis's `lfu-log-factor` and `lfu-decay-time` in minutes.
  private let logFactor: UInt32
  private let decayMinutes: UInt32

  private static let initialFrequency: UInt32 = 5
  static let usesMask: UInt32 = 3
  static let ageShift: UInt32 = 2
  static let ageMask: UInt32 = 0x3c

  init(
    _ kind: Kind = .clock, now: Timestamp = Timestamp(milliseconds: 0), logFactor: Int = 10,
    decayMinutes: Int = 1
  ) {
    self.kind = kind
    isStampOnly = kind == .clock
    let seconds = now.milliseconds / 1000
    stamp =
      kind == .clock
      ? UInt32(truncatingIfNeeded: seconds) & 0xff_ffff
      : UInt32(truncatingIfNeeded: seconds / 60 & 0xffff) << 8
    self.logFactor = UInt32(clamping: logFactor)
    self.decayMinutes = UInt32(clamping: decayMinutes)
  }

  /// The bits of a new entry.
  @inline(__always)
  var initial: UInt32 { kind == .frequency ? stamp | Self.initialFrequency : stamp }

  /// The bits of an entry that had `access` and is used now.
  @inline(__always)
  func used(_ access: UInt32) -> UInt32 {
    if isStampOnly { return stamp }
    return usedSlowly(access)
  }

  /// The same for who does not want his uses noted.
  var leavingAlone: AccessTracking {
    var other = self
    other.isStampOnly = false
    other.leavesAlone = true
    return other
  }

  @inline(never)
  private func usedSlowly(_ access: UInt32) -> UInt32 {
    if leavesAlone { return access }
    if kind == .adaptive { return stamp | min(access & Self.usesMask + 1, Self.usesMask) }
    let counter = frequency(access)
    if counter == 255 { return stamp | 255 }
    // One in so many uses counts: the more, the more there were.
    let base = max(0, counter - Int(Self.initialFrequency))
    let counts = FastRandom.next(below: UInt64(base * Int(logFactor) + 1)) == 0
    return stamp | UInt32(counter + (counts ? 1 : 0))
  }

  /// The counter of an entry under a frequency policy, 0...255, less what time has taken from it.
  func frequency(_ access: UInt32) -> Int {
    let counter = Int(access & 0xff)
    if decayMinutes == 0 { return counter }
    return max(0, counter - minutesSince(access) / Int(decayMinutes))
  }

  private func minutesSince(_ access: UInt32) -> Int {
    Int(((stamp >> 8) &- (access >> 8)) & 0xffff)
  }

  /// The bits of an entry that is new here, but was last used a while ago or used so often, where that
  /// is told and kept.
  func restored(idleSeconds: Int?, frequency: Int?) -> UInt32 {
    if kind == .frequency { return frequency.map { stamp | UInt32($0) } ?? initial }
    guard let idleSeconds else { return initial }
    if kind == .clock { return (stamp &- UInt32(truncatingIfNeeded: idleSeconds)) & 0xff_ffff }
    let minutes = (stamp >> 8) &- UInt32(truncatingIfNeeded: idleSeconds / 60)
    return (minutes & 0xffff) << 8 | initial & 0xff
  }

  /// Seconds since the entry was last used; whole minutes under a policy that counts in them.
  func idleSeconds(_ access: UInt32) -> Int {
    kind == .clock ? Int((stamp &- access) & 0xff_ffff) : minutesSince(access) * 60
  }
}

/// Random numbers of no great quality, for any thread, at the cost of a few instructions.
enum FastRandom {
  private static let state = Atomic<UInt64>(0x2545_F491_4F6C_DD1D)

  static func next() -> UInt64 {
    // Two threads may get the same number, which does no harm.
    var value = state.load(ordering: .relaxed)
    value ^= value << 13
    value ^= value >> 7
    value ^= value << 17
    state.store(value, ordering: .relaxed)
    return value
  }

  /// A number in 0..<`bound`.
  static func next(below bound: UInt64) -> UInt64 {
    next().multipliedFullWidth(by: bound).high
  }
}

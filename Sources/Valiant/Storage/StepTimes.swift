import Synchronization

/// How long the steps took that the store's upkeep adds to a command or takes from a loop.
///
/// Growth of a table, compaction, expiry and eviction are done in small steps; here is the proof.
/// Times are processor times of the thread: what another process takes meanwhile is not ours.
///
///     buckets   four to each doubling of nanoseconds: at most a fifth is lost to rounding
///
/// Any thread may record and read; a reader may miss what is being recorded.
///
/// Invariant: `counters` points to `kinds × stride` counters from `init` to `free`.
@safe struct StepTimes: Sendable {
  enum Kind: Int, CaseIterable, Sendable {
    case growth, compaction, expiry, eviction
  }

  // SAFETY: atomic counters.
  nonisolated(unsafe) private let counters: UnsafeMutablePointer<Atomic<Int>>

  private static let bucketCount = 160
  /// Behind the buckets: the longest time, the sum of all, and how many were slow.
  private static let longest = bucketCount
  private static let sum = bucketCount + 1
  private static let slow = bucketCount + 2
  private static let stride = bucketCount + 3
  /// No step should take longer.
  private static let slowNanoseconds = 200_000

  init() {
    let count = Kind.allCases.count * Self.stride
    unsafe counters = .allocate(capacity: count)
    for index in 0..<count { unsafe (counters + index).initialize(to: Atomic(0)) }
  }

  func free() {
    unsafe counters.deinitialize(count: Kind.allCases.count * Self.stride)
    unsafe counters.deallocate()
  }

  /// Runs one step and records its time.
  @inline(__always)
  func measure<Result>(_ kind: Kind, _ step: () -> Result) -> Result {
    let start = Clock.threadNanoseconds
    defer { record(kind, nanoseconds: Clock.threadNanoseconds &- start) }
    return step()
  }

  private func record(_ kind: Kind, nanoseconds: Int) {
    let first = unsafe counters + kind.rawValue * Self.stride
    unsafe first[Self.bucket(nanoseconds)].wrappingAdd(1, ordering: .relaxed)
    unsafe first[Self.longest].max(nanoseconds, ordering: .relaxed)
    unsafe first[Self.sum].wrappingAdd(nanoseconds, ordering: .relaxed)
    if nanoseconds > Self.slowNanoseconds {
      unsafe first[Self.slow].wrappingAdd(1, ordering: .relaxed)
    }
  }

  private static func bucket(_ nanoseconds: Int) -> Int {
    let value = max(nanoseconds, 4)
    let exponent = Int.bitWidth - 1 - value.leadingZeroBitCount
    return min((exponent - 2) * 4 + (value >> (exponent - 2)) & 3, bucketCount - 1)
  }

  /// The upper end of a bucket in nanoseconds.
  private static func end(_ bucket: Int) -> Int { (bucket & 3 + 5) << (bucket >> 2) }

  struct Summary {
    var count = 0
    var p99Nanoseconds = 0
    var p999Nanoseconds = 0
    var maxNanoseconds = 0
    /// Of all steps together.
    var totalNanoseconds = 0
    /// Steps of more than 200 microseconds.
    var slowCount = 0
  }

  /// What was recorded of `kind` since the beginning or the last `reset`.
  func summary(_ kind: Kind) -> Summary {
    let first = unsafe counters + kind.rawValue * Self.stride
    let buckets = (0..<Self.bucketCount).map { unsafe first[$0].load(ordering: .relaxed) }
    let longest = unsafe first[Self.longest].load(ordering: .relaxed)
    let count = buckets.reduce(0, +)
    func quantile(_ share: Double) -> Int {
      var left = Int(Double(count) * (1 - share))
      for index in buckets.indices.reversed() {
        left -= buckets[index]
        if left < 0 { return min(Self.end(index), longest) }
      }
      return 0
    }
    return Summary(
      count: count, p99Nanoseconds: quantile(0.99), p999Nanoseconds: quantile(0.999),
      maxNanoseconds: longest,
      totalNanoseconds: unsafe first[Self.sum].load(ordering: .relaxed),
      slowCount: unsafe first[Self.slow].load(ordering: .relaxed))
  }

  /// Forgets everything.
  func reset() {
    for index in 0..<Kind.allCases.count * Self.stride {
      unsafe counters[index].store(0, ordering: .relaxed)
    }
  }
}

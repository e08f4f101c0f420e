import Glibc
import Synchronization

/// A moment in milliseconds of the steady clock, the unit in which keys expire.
///
/// Not the time of day: when somebody sets the clock, no key dies early and none lives longer.
/// Deadlines that are given as a time of day are converted when they arrive, and back when they
/// are shown.
struct Timestamp: Comparable, Sendable {
  var milliseconds: Int

  static func < (left: Timestamp, right: Timestamp) -> Bool {
    left.milliseconds < right.milliseconds
  }

  /// Earlier than any deadline: nothing has expired.
  static let never = Timestamp(milliseconds: Int.min)

  static var now: Timestamp { Timestamp(milliseconds: Clock.steadyNanoseconds / 1_000_000) }

  /// The moment of a time of day, milliseconds since 1970, by the clock as it stands now.
  init(unixMilliseconds: Int) {
    milliseconds = unixMilliseconds &- Clock.wallOffsetMilliseconds
  }

  /// The same moment as a time of day, milliseconds since 1970, by the clock as it stands now.
  /// The latest there is for what would be later than that.
  var unixMilliseconds: Int { milliseconds.addingClamped(Clock.wallOffsetMilliseconds) }

  init(milliseconds: Int) {
    self.milliseconds = milliseconds
  }
}

/// The two clocks of the system.
enum Clock {
  /// Since 1970; may jump when somebody sets the clock.
  static var wallNanoseconds: Int { read(CLOCK_REALTIME) }
  static var wallMicroseconds: Int { wallNanoseconds / 1000 }
  static var wallMilliseconds: Int { wallNanoseconds / 1_000_000 }
  /// Since the machine started, sleep included; never jumps.
  @inline(__always)
  static var steadyNanoseconds: Int { read(CLOCK_BOOTTIME) }
  static var steadyMilliseconds: Int { steadyMicroseconds / 1000 }
  static var steadyMicroseconds: Int { steadyNanoseconds / 1000 }

  /// Has the calling thread do nothing for a while.
  static func sleep(microseconds: Int) { usleep(UInt32(clamping: microseconds)) }

  /// Processor time of the calling thread. A call of the system: a third of a microsecond.
  static var threadNanoseconds: Int { read(CLOCK_THREAD_CPUTIME_ID) }

  /// By how many milliseconds the time of day is ahead of the steady clock.
  ///
  /// It changes only when somebody sets the clock: so a deadline that was given as a time of day is
  /// shown as it was given, to the millisecond.
  static var wallOffsetMilliseconds: Int {
    let measured = measuredOffset
    let known = knownOffset.load(ordering: .relaxed)
    if abs(measured - known) <= offsetTolerance { return known / 1_000_000 }
    knownOffset.store(measured, ordering: .relaxed)
    return measured / 1_000_000
  }

  private static let knownOffset = Atomic(0)
  /// The clocks cannot be read at one moment.
  private static let offsetTolerance = 1_000_000
  private static let readAttempts = 10

  private static var measuredOffset: Int {
    var offset = 0
    var least = Int.max
    for _ in 0..<readAttempts {
      let before = steadyNanoseconds
      let wall = wallNanoseconds
      let taken = steadyNanoseconds - before
      if taken < least { (offset, least) = (wall - before - taken / 2, taken) }
      if least < offsetTolerance / 10 { break }
    }
    return offset
  }

  @inline(__always)
  private static func read(_ clock: clockid_t) -> Int {
    var time = timespec()
    unsafe clock_gettime(clock, &time)
    return time.tv_sec &* 1_000_000_000 &+ time.tv_nsec
  }
}

import Glibc

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

  static var now: Timestamp { Timestamp(milliseconds: Clock.steadyNanoseconds / 1_000_000) }

  /// The moment of a time of day, milliseconds since 1970, by the clock as it stands now.
  init(unixMilliseconds: Int) {
    milliseconds = unixMilliseconds &- Clock.wallMilliseconds &+ Timestamp.now.milliseconds
  }

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

  /// Processor time of the calling thread. A call of the system: a third of a microsecond.
  static var threadNanoseconds: Int { read(CLOCK_THREAD_CPUTIME_ID) }

  @inline(__always)
  private static func read(_ clock: clockid_t) -> Int {
    var time = timespec()
    unsafe clock_gettime(clock, &time)
    return time.tv_sec &* 1_000_000_000 &+ time.tv_nsec
  }
}

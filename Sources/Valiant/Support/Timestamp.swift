import Glibc

/// A moment of wall-clock time in milliseconds since 1970, the unit in which keys expire.
struct Timestamp: Comparable, Sendable {
  var milliseconds: Int

  static func < (left: Timestamp, right: Timestamp) -> Bool {
    left.milliseconds < right.milliseconds
  }

  static var now: Timestamp { Timestamp(milliseconds: Clock.wallNanoseconds / 1_000_000) }
}

/// The two clocks of the system.
enum Clock {
  /// Since 1970; may jump when somebody sets the clock.
  @inline(__always)
  static var wallNanoseconds: Int { read(CLOCK_REALTIME) }
  static var wallMicroseconds: Int { wallNanoseconds / 1000 }
  /// Since some moment in the past; never jumps.
  static var steadyMilliseconds: Int { steadyMicroseconds / 1000 }
  static var steadyMicroseconds: Int { read(CLOCK_MONOTONIC) / 1000 }

  @inline(__always)
  private static func read(_ clock: clockid_t) -> Int {
    var time = timespec()
    unsafe clock_gettime(clock, &time)
    return time.tv_sec &* 1_000_000_000 &+ time.tv_nsec
  }
}

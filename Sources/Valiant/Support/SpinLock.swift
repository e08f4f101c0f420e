import Glibc
import Synchronization

/// A four-byte lock for critical sections of microseconds.
///
/// Spins about a thousand pauses, then yields the processor: with more threads than cores, a
/// preempted holder would otherwise cost the waiter its whole time slice. Five nanoseconds when
/// nobody contends, half of what a mutex takes. Not recursive, not fair.
struct SpinLock: ~Copyable, Sendable {
  private let word = Atomic<UInt32>(0)

  private static let pausesMax = 1000

  @inline(__always)
  borrowing func lock() {
    if word.compareExchange(expected: 0, desired: 1, ordering: .acquiring).exchanged { return }
    lockContended()
  }

  @inline(__always)
  borrowing func unlock() {
    word.store(0, ordering: .releasing)
  }

  @inline(__always)
  borrowing func withLock<Result: ~Copyable, Failure: Error>(
    _ body: () throws(Failure) -> Result
  ) throws(Failure) -> Result {
    lock()
    defer { unlock() }
    return try body()
  }

  /// Waits for the lock no longer than so many microseconds, 0...
  ///
  /// - Returns: Whether the lock was taken.
  @inline(__always)
  borrowing func lock(withinMicroseconds limit: Int) -> Bool {
    word.compareExchange(expected: 0, desired: 1, ordering: .acquiring).exchanged
      || lockContended(until: Clock.steadyMicroseconds + limit)
  }

  @inline(never)
  private borrowing func lockContended() { _ = lockContended(until: Int.max) }

  /// - Parameter end: In microseconds of the steady clock, which nobody reads if it is `Int.max`.
  @inline(never)
  private borrowing func lockContended(until end: Int) -> Bool {
    var pauses = 0
    while true {
      // Reading first keeps the cache line shared until the lock looks free.
      if word.load(ordering: .relaxed) == 0,
        word.weakCompareExchange(expected: 0, desired: 1, ordering: .acquiring).exchanged
      {
        return true
      }
      if end < Int.max, Clock.steadyMicroseconds > end { return false }
      if pauses < Self.pausesMax {
        pauses += 1
        Processor.spinPause()
      } else {
        sched_yield()
      }
    }
  }
}

import Glibc

/// A value that only one thread at a time can touch, behind a sleeping lock.
///
/// For what is rare or takes its time; `SpinLock` is for microseconds. The C library's mutex rather
/// than the standard library's `Mutex`, because ThreadSanitizer knows it: it cannot see that the
/// other one orders anything, and would report each use as a race.
///
/// Invariant: `mutex` is initialised from `init` to `deinit`; `value` is touched under it only.
@safe final class Guarded<Contents>: @unchecked Sendable {
  // SAFETY of @unchecked Sendable: see the invariant.
  private let mutex: UnsafeMutablePointer<pthread_mutex_t>
  private var value: Contents

  init(_ value: Contents) {
    self.value = value
    unsafe mutex = .allocate(capacity: 1)
    unsafe pthread_mutex_init(mutex, nil)
  }

  deinit {
    unsafe pthread_mutex_destroy(mutex)
    unsafe mutex.deallocate()
  }

  /// The same if nobody else has it at the moment.
  ///
  /// - Returns: False when somebody has; then nothing has happened.
  func withLockIfFree(_ body: (inout Contents) -> Void) -> Bool {
    if unsafe pthread_mutex_trylock(mutex) != 0 { return false }
    defer { unsafe pthread_mutex_unlock(mutex) }
    body(&value)
    return true
  }

  /// Calls `body` with the value, while nobody else touches it. Not recursive.
  func withLock<Result>(_ body: (inout Contents) -> Result) -> Result {
    unsafe pthread_mutex_lock(mutex)
    defer { unsafe pthread_mutex_unlock(mutex) }
    return body(&value)
  }
}

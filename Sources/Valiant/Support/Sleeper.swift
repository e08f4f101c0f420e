import Glibc

/// Where one thread sleeps until another one wakes it, or some time has passed.
///
/// Invariant: `mutex` and `condition` are initialised from `init` to `deinit`; `isAwake` is touched
/// under the mutex only.
@safe final class Sleeper: @unchecked Sendable {
  // SAFETY of @unchecked Sendable: see the invariant.
  private let mutex: UnsafeMutablePointer<pthread_mutex_t>
  private let condition: UnsafeMutablePointer<pthread_cond_t>
  private var isAwake = false

  init() {
    unsafe mutex = .allocate(capacity: 1)
    unsafe condition = .allocate(capacity: 1)
    unsafe pthread_mutex_init(mutex, nil)
    var attributes = pthread_condattr_t()
    unsafe pthread_condattr_init(&attributes)
    // The time of day may be set meanwhile.
    unsafe pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
    unsafe pthread_cond_init(condition, &attributes)
    unsafe pthread_condattr_destroy(&attributes)
  }

  deinit {
    unsafe pthread_cond_destroy(condition)
    unsafe pthread_mutex_destroy(mutex)
    unsafe condition.deallocate()
    unsafe mutex.deallocate()
  }

  /// Ends the sleep, or the next one before it begins.
  func wake() {
    unsafe pthread_mutex_lock(mutex)
    let wasAwake = isAwake
    isAwake = true
    unsafe pthread_mutex_unlock(mutex)
    if !wasAwake { unsafe pthread_cond_signal(condition) }
  }

  /// Returns when `wake` has been called since the last sleep, or after so long.
  func sleep(milliseconds: Int) {
    var end = timespec()
    unsafe clock_gettime(CLOCK_MONOTONIC, &end)
    let nanoseconds = end.tv_nsec + milliseconds % 1000 * 1_000_000
    end.tv_sec += milliseconds / 1000 + nanoseconds / 1_000_000_000
    end.tv_nsec = nanoseconds % 1_000_000_000
    unsafe pthread_mutex_lock(mutex)
    while !isAwake {
      if unsafe pthread_cond_timedwait(condition, mutex, &end) != 0 { break }
    }
    isAwake = false
    unsafe pthread_mutex_unlock(mutex)
  }
}

import Glibc

/// Runs work on a thread of its own: what would hold up a loop, such as freeing millions of entries.
enum Background {
  private final class Work: Sendable {
    let body: @Sendable () -> Void
    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
  }

  /// Has another thread run `body`. When there is no further thread, it is run here and now.
  static func run(_ body: @escaping @Sendable () -> Void) {
    var thread = pthread_t()
    let work = unsafe Unmanaged.passRetained(Work(body))
    let result = unsafe pthread_create(
      &thread, nil,
      { argument in
        let work = unsafe Unmanaged<Work>.fromOpaque(argument.unsafelyUnwrapped)
        unsafe work.takeRetainedValue().body()
        return nil
      }, work.toOpaque())
    if result == 0 {
      pthread_detach(thread)
    } else {
      unsafe work.takeRetainedValue().body()
    }
  }
}

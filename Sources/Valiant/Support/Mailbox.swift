/// Messages for one thread from all others, in order of arrival.
///
/// Anybody may post; only the owner drains. What wakes the owner is given as a closure, so that
/// the mailbox itself knows nothing of event loops.
final class Mailbox: Sendable {
  typealias Message = @Sendable () -> Void

  private let lock = SpinLock()
  nonisolated(unsafe) private var messages: [Message] = []  // SAFETY: only under `lock`.
  private let wake: @Sendable () -> Void

  init(wake: @escaping @Sendable () -> Void) {
    self.wake = wake
  }

  /// Queues `message` to be run by the owner, and wakes it.
  func post(_ message: @escaping Message) {
    lock.withLock { unsafe messages.append(message) }
    wake()
  }

  /// Runs what was posted. The owner's thread only.
  func drain() {
    let taken = lock.withLock {
      let all = unsafe messages
      unsafe messages = []
      return all
    }
    for message in taken { message() }
  }
}

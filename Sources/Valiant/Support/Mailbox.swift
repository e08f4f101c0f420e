/// Messages for one thread from all others, in order of arrival.
///
/// Anybody may post; only the owner drains and closes. What wakes the owner is given as a closure,
/// so that the mailbox itself knows nothing of event loops.
final class Mailbox: Sendable {
  typealias Message = @Sendable () -> Void

  private let lock = SpinLock()
  // SAFETY: both only under `lock`.
  nonisolated(unsafe) private var messages: [Message] = []
  nonisolated(unsafe) private var isClosed = false
  private let wake: @Sendable () -> Void

  /// - Parameter wake: Wakes the owner, without waiting for anything; called under the lock, and
  ///   not any more once `close` has returned.
  init(wake: @escaping @Sendable () -> Void) {
    self.wake = wake
  }

  /// Queues `message` to be run by the owner, and wakes it.
  ///
  /// - Returns: False when the owner has gone; then the message is dropped.
  @discardableResult
  func post(_ message: @escaping Message) -> Bool {
    lock.withLock {
      if unsafe isClosed { return false }
      unsafe messages.append(message)
      wake()
      return true
    }
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

  /// Takes no more messages; those that are left are dropped. The owner's thread only.
  func close() {
    let dropped = lock.withLock {
      unsafe isClosed = true
      let all = unsafe messages
      unsafe messages = []
      return all
    }
    _ = dropped
  }
}

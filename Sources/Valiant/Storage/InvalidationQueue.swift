import Synchronization

/// What makes copies of keys invalid that clients of one loop may have.
///
/// Any thread puts invalidations in, under the locks of shards; the loop takes them out, and is woken
/// by the first.
final class InvalidationQueue: Sendable {
  enum Invalidation: Sendable {
    /// A key has changed that these clients have read; some belong to other loops.
    case read([UInt8], by: [KeyReader], author: Int)
    /// A key has changed, and somebody wants to hear of all that begin like it.
    case prefixed([UInt8], author: Int)
    /// Any key may have changed.
    case everything
  }

  private let lock = SpinLock()
  // SAFETY: only under `lock`.
  nonisolated(unsafe) private var waiting: [Invalidation] = []
  private let wake: @Sendable () -> Void

  /// - Parameter wake: Wakes the loop, without waiting for anything.
  init(wake: @escaping @Sendable () -> Void) {
    self.wake = wake
  }

  func add(_ invalidation: Invalidation) {
    let isFirst = lock.withLock {
      unsafe waiting.append(invalidation)
      return unsafe waiting.count == 1
    }
    if isFirst { wake() }
  }

  /// What has been put in since this was last called.
  func takeAll() -> [Invalidation] {
    lock.withLock {
      let all = unsafe waiting
      unsafe waiting = []
      return all
    }
  }
}

/// A client that may have a copy of a key.
struct KeyReader: Sendable {
  /// That of the client's loop.
  let queue: InvalidationQueue
  let client: Int
}

extension [KeyReader] {
  /// Puts a client in its place among others, which are in the order of their identifiers.
  ///
  /// - Returns: How many there are then; nil when it was there.
  mutating func insert(_ reader: KeyReader) -> Int? {
    var (low, high) = (0, count)
    while low < high {
      let middle = (low + high) / 2
      if self[middle].client < reader.client { low = middle + 1 } else { high = middle }
    }
    if low < count, self[low].client == reader.client { return nil }
    insert(reader, at: low)
    return count
  }
}

import Synchronization

/// A statistic that one thread adds to and every thread may read.
///
/// With a single writer an increment needs no locked instruction: a relaxed load and store are
/// plain moves. Who adds from several threads uses `Atomic` directly.
struct Counter: ~Copyable, Sendable {
  private let count = Atomic<Int>(0)

  var value: Int { count.load(ordering: .relaxed) }

  @inline(__always)
  borrowing func add(_ amount: Int = 1) {
    count.store(count.load(ordering: .relaxed) &+ amount, ordering: .relaxed)
  }

  borrowing func reset() {
    count.store(0, ordering: .relaxed)
  }
}

import Glibc

/// Runs work on a thread of its own: what would hold up a loop, such as freeing millions of entries.
enum Background {
  /// Work in pieces, after each of which it pauses.
  typealias Body = @Sendable (Pause) -> Void

  /// A moment in which a thread of its own lets others go first; none for work that holds up its
  /// caller.
  struct Pause {
    fileprivate let microseconds: UInt32

    static let none = Pause(microseconds: 0)

    func callAsFunction() {
      if microseconds > 0 { usleep(microseconds) }
    }
  }

  /// Has a thread of its own sleep twice as long as it works, while there is work for others.
  ///
  /// They may share its processor, and the scheduler would let it go on for milliseconds although
  /// they have something to do.
  struct Courtesy {
    private var began = Clock.steadyMicroseconds
    private var othersBefore = 0
    /// When others were last seen to have worked.
    private var seen = Int.min / 2

    private static let leastMicroseconds = 50
    private static let mostMicroseconds = 1000
    /// They may have had no chance to work since then.
    private static let rememberedMicroseconds = 20_000

    /// To be called after each piece of work, which should take no more than a tenth of a millisecond.
    ///
    /// - Parameter others: A number that grows while others work.
    mutating func pause(others: Int) {
      let now = Clock.steadyMicroseconds
      let worked = now - began
      if worked < Self.leastMicroseconds { return }
      if others != othersBefore { seen = now }
      othersBefore = others
      if now - seen < Self.rememberedMicroseconds {
        usleep(UInt32(min(2 * worked, Self.mostMicroseconds)))
      }
      began = Clock.steadyMicroseconds
    }
  }

  private final class Work: Sendable {
    let body: Body
    init(_ body: @escaping Body) { self.body = body }
  }

  /// Has several threads run `body`, this one among them, and returns when all have.
  ///
  /// - Parameter count: 1 or more; there may be fewer when the system has no more.
  static func share(among count: Int, _ body: @escaping @Sendable () -> Void) {
    var threads: [pthread_t] = []
    for _ in 1..<max(1, count) {
      var thread = pthread_t()
      let work = unsafe Unmanaged.passRetained(Work { _ in body() })
      let result = unsafe pthread_create(&thread, nil, main, work.toOpaque())
      if result == 0 { threads.append(thread) } else { unsafe work.release() }
    }
    body()
    for thread in threads { pthread_join(thread, nil) }
  }

  private static let main: @convention(c) (UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? =
    { argument in
      let work = unsafe Unmanaged<Work>.fromOpaque(argument.unsafelyUnwrapped)
      unsafe work.takeRetainedValue().body(Pause(microseconds: 20))
      return nil
    }

  /// Has another thread run `body`. When there is no further thread, it is run here and now.
  ///
  /// If the thread shares a processor with a loop, the scheduler lets it go on for milliseconds
  /// although the loop has something to do; so it sleeps for a moment between its pieces. Giving way
  /// (`sched_yield`) instead left one of three loops waiting for more than a millisecond.
  static func run(_ body: @escaping Body) {
    if !start(body) { body(.none) }
  }

  /// The same for work that cannot be done here.
  ///
  /// - Returns: False when there is no further thread; then nothing is done.
  static func start(_ body: @escaping Body) -> Bool {
    var thread = pthread_t()
    let work = unsafe Unmanaged.passRetained(Work(body))
    let result = unsafe pthread_create(&thread, nil, main, work.toOpaque())
    if result == 0 { pthread_detach(thread) } else { unsafe work.release() }
    return result == 0
  }
}

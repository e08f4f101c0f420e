import CLibUV
import Glibc

/// One libuv loop and the thread in which it runs.
///
/// Owns the buffer into which all its connections read, and knows its connections. Everything but
/// `post` belongs to the loop's own thread once `start` has been called.
///
/// Invariant: `pointer` and `state` are made in `init` and freed in `deinit`, which runs after the
/// thread has been joined.
@safe final class EventLoop: @unchecked Sendable {
  // SAFETY of @unchecked Sendable: only the mailbox is used by other threads; `start` and `join`
  // are called by the one thread that owns the object.

  /// What the loop does with its connections' events.
  struct Handlers {
    /// Bytes have arrived, or processing of held bytes can go on; called once per read event.
    ///
    /// Returns how many of the bytes were used up. The rest is kept and comes again, with what
    /// arrives behind it.
    var onRead: (Connection, Bytes) -> Int
    /// The peer has taken output that was waiting for it.
    var onWrite: (Connection) -> Void
    /// The connection is closed; its owner can be freed.
    var onClose: (Connection) -> Void
    /// The loop is about to wait for events, as `callBeforeWaiting` has asked to be told.
    var onWait: () -> Void = {}
  }

  /// The part that callbacks reach through raw memory.
  @safe struct State {
    var handlers: Handlers
    var readBuffer: UnsafeMutablePointer<UInt8>
    /// First of the doubly linked list of connections.
    var firstConnection: UnsafeMutableRawPointer?
    var connectionCount = 0
    /// Connections that are only waiting for their peer to close.
    var lingeringCount = 0
    /// Connections that gave way to others, and those of them that go on in this turn.
    var yielded: [Connection] = []
    var resuming: [Connection] = []
    /// Called before the loop looks for events, which it does not wait for then, and behind them.
    var yieldIdle: UnsafeMutablePointer<uv_idle_t>
    var yieldCheck: UnsafeMutablePointer<uv_check_t>
    /// Called before the loop waits for events, when it was asked to.
    var beforeWait: UnsafeMutablePointer<uv_prepare_t>
    var isToldBeforeWait = false
    var bytesRead = 0
    var bytesWritten = 0
  }

  /// What one read event hands to the server at most, unless a longer request is under way.
  static let readBufferBytes = 64 * 1024

  let pointer: UnsafeMutablePointer<uv_loop_t>
  let state: UnsafeMutablePointer<State>
  private var mailbox: Mailbox?
  private var wakeup: Wakeup?
  private var thread = uv_thread_t()

  /// - Throws: When there are no descriptors left for it.
  init() throws(NetworkError) {
    let loop = UnsafeMutablePointer<uv_loop_t>.allocate(capacity: 1)
    let failure = unsafe uv_loop_init(loop)
    if failure < 0 {
      unsafe loop.deallocate()
      throw NetworkError(attempt: "make an event loop", code: -failure)
    }
    unsafe pointer = loop
    unsafe state = .allocate(capacity: 1)
    let idle = UnsafeMutablePointer<uv_idle_t>.allocate(capacity: 1)
    let check = UnsafeMutablePointer<uv_check_t>.allocate(capacity: 1)
    let prepare = UnsafeMutablePointer<uv_prepare_t>.allocate(capacity: 1)
    unsafe state.initialize(
      to: State(
        handlers: Handlers(
          onRead: { _, bytes in bytes.count }, onWrite: { _ in }, onClose: { _ in }),
        readBuffer: .allocate(capacity: Self.readBufferBytes),
        yieldIdle: idle, yieldCheck: check, beforeWait: prepare))
    unsafe pointer.pointee.data = UnsafeMutableRawPointer(state)

    unsafe uv_idle_init(pointer, idle)
    unsafe uv_check_init(pointer, check)
    unsafe uv_prepare_init(pointer, prepare)

    let wakeup = Wakeup(on: self) { [unowned self] in self.mailbox?.drain() }
    mailbox = Mailbox { wakeup.send() }
    self.wakeup = wakeup
  }

  deinit {
    unsafe state.pointee.readBuffer.deallocate()
    unsafe state.pointee.yieldIdle.deallocate()
    unsafe state.pointee.yieldCheck.deallocate()
    unsafe state.pointee.beforeWait.deallocate()
    unsafe state.deinitialize(count: 1)
    unsafe state.deallocate()
    unsafe pointer.deallocate()
  }

  /// Says what happens with the events of connections. Before `start`.
  func setHandlers(_ handlers: Handlers) {
    unsafe state.pointee.handlers = handlers
  }

  // MARK: For any thread

  /// Has the loop's thread run `message` in one of its next turns.
  ///
  /// - Returns: False when the loop has ended; then the message is dropped.
  @discardableResult
  func post(_ message: @escaping Mailbox.Message) -> Bool { mailbox?.post(message) ?? false }

  /// Starts the thread; `close` ends it. Call once.
  func start() throws(NetworkError) {
    let box = unsafe Unmanaged.passRetained(self)
    let result = unsafe uv_thread_create(
      &thread,
      { argument in
        let loop = unsafe Unmanaged<EventLoop>.fromOpaque(argument.unsafelyUnwrapped)
        unsafe loop.takeUnretainedValue().run()
        unsafe loop.release()
      }, box.toOpaque())
    if result != 0 {
      unsafe box.release()
      throw NetworkError(attempt: "start a thread", code: -result)
    }
  }

  /// Waits until the thread has ended.
  func join() {
    unsafe uv_thread_join(&thread)
  }

  /// Turns the loop in the calling thread until every handle is closed.
  func run() {
    // SAFETY: the loop was set up by `init`, and only this thread turns it.
    unsafe uv_run(pointer, UV_RUN_DEFAULT)
    let result = unsafe uv_loop_close(pointer)
    precondition(result == 0, "a handle was left open")
  }

  /// Handles the events that are there and returns. For tests, which are the loop's thread.
  func turn() {
    unsafe uv_run(pointer, UV_RUN_NOWAIT)
  }

  // MARK: For the loop's thread

  var connectionCount: Int { unsafe state.pointee.connectionCount }
  var lingeringCount: Int { unsafe state.pointee.lingeringCount }
  var bytesRead: Int { unsafe state.pointee.bytesRead }
  var bytesWritten: Int { unsafe state.pointee.bytesWritten }

  /// Counts bytes from zero again.
  func resetTraffic() {
    unsafe state.pointee.bytesRead = 0
    unsafe state.pointee.bytesWritten = 0
  }

  /// Has `onWait` called once, when the events that are there have been dealt with.
  func callBeforeWaiting() {
    if unsafe state.pointee.isToldBeforeWait { return }
    unsafe state.pointee.isToldBeforeWait = true
    unsafe uv_prepare_start(state.pointee.beforeWait) { prepare in
      let state = unsafe stateOf(prepare.unsafelyUnwrapped.pointee.loop)
      unsafe uv_prepare_stop(state.pointee.beforeWait)
      unsafe state.pointee.isToldBeforeWait = false
      unsafe state.pointee.handlers.onWait()
    }
  }

  /// Calls `body` with each connection, which it may close.
  func forEachConnection(_ body: (Connection) -> Void) {
    var next = unsafe state.pointee.firstConnection
    while let base = unsafe next {
      let connection = unsafe Connection(base: base)
      unsafe next = connection.nextInLoop
      body(connection)
    }
  }

  /// Closes the loop's own handles, so that `run` returns when the others are closed too.
  func close() {
    // First, so that nobody wakes a handle that is gone.
    mailbox?.close()
    wakeup?.close()
    let idle = unsafe state.pointee.yieldIdle
    unsafe uv_close(UnsafeMutableRawPointer(idle).assumingMemoryBound(to: uv_handle_t.self), nil)
    let check = unsafe state.pointee.yieldCheck
    unsafe uv_close(UnsafeMutableRawPointer(check).assumingMemoryBound(to: uv_handle_t.self), nil)
    let prepare = unsafe state.pointee.beforeWait
    unsafe uv_close(
      UnsafeMutableRawPointer(prepare).assumingMemoryBound(to: uv_handle_t.self), nil)
  }

}

/// The state of the loop that a callback's handle belongs to.
@inline(__always)
@unsafe func stateOf(_ loop: UnsafeMutablePointer<uv_loop_t>?) -> UnsafeMutablePointer<
  EventLoop.State
> {
  unsafe loop.unsafelyUnwrapped.pointee.data.unsafelyUnwrapped
    .assumingMemoryBound(to: EventLoop.State.self)
}

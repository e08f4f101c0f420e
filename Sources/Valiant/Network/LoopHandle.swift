import CLibUV
import Glibc

/// Memory of one libuv handle and the closure that its events call.
///
/// For handles of which there are few: timers, wakeups, signals, listeners. Connections, of which
/// there are many, have their own layout.
///
/// Invariant: `memory` is a handle of the size given, whose `data` holds a reference to this
/// object from `init` until libuv has called back for the close; only the loop's thread uses it.
@safe final class LoopHandle {
  private let memory: UnsafeMutableRawPointer
  var action: () -> Void
  private var isClosing = false

  /// - Parameters:
  ///   - type: Which handle it will be.
  ///   - initialize: Calls the handle's `uv_…_init`.
  @unsafe init(
    _ type: uv_handle_type, action: @escaping () -> Void,
    initialize: (UnsafeMutableRawPointer) -> Int32
  ) {
    unsafe memory = .allocate(byteCount: uv_handle_size(type), alignment: 16)
    self.action = action
    let result = unsafe initialize(memory)
    precondition(result == 0, "libuv could not make a handle: \(systemErrorText(-result))")
    unsafe handle.pointee.data = Unmanaged.passRetained(self).toOpaque()
  }

  @unsafe var handle: UnsafeMutablePointer<uv_handle_t> {
    unsafe memory.assumingMemoryBound(to: uv_handle_t.self)
  }

  @unsafe func pointer<Handle>(as type: Handle.Type) -> UnsafeMutablePointer<Handle> {
    unsafe memory.assumingMemoryBound(to: type)
  }

  /// The object behind a handle that libuv calls back with.
  @inline(__always)
  static func of<Handle>(_ handle: UnsafeMutablePointer<Handle>?) -> LoopHandle {
    // SAFETY: `data` was set in `init` and the object lives until the close callback.
    let generic = unsafe UnsafeMutableRawPointer(handle.unsafelyUnwrapped)
      .assumingMemoryBound(to: uv_handle_t.self)
    return unsafe Unmanaged<LoopHandle>.fromOpaque(generic.pointee.data).takeUnretainedValue()
  }

  /// Ends the handle; its closure is not called again. The loop's thread only; may be repeated.
  ///
  /// - Returns: False when it had been ended before.
  @discardableResult
  func close() -> Bool {
    if isClosing { return false }
    isClosing = true
    action = {}
    unsafe uv_close(handle) { handle in
      let object = unsafe Unmanaged<LoopHandle>.fromOpaque(handle.unsafelyUnwrapped.pointee.data)
      unsafe object.takeUnretainedValue().freeMemory()
      unsafe object.release()
    }
    return true
  }

  private func freeMemory() {
    unsafe memory.deallocate()
  }
}

/// Calls a closure again and again on a loop's thread.
///
/// By a timer of the kernel's with a descriptor of its own: with one of libuv's, each time that the
/// loop waits for events it would set an alarm and take it back, 2 % of a request. Without a free
/// descriptor it is one of libuv's.
struct Timer {
  private let handle: LoopHandle
  /// Negative for none.
  private let descriptor: Int32

  /// - Parameter milliseconds: From one call to the next; also before the first one.
  init(on loop: EventLoop, every milliseconds: Int, _ action: @escaping () -> Void) {
    let descriptor = valiant_timer(Int32(milliseconds))
    self.descriptor = descriptor
    if descriptor < 0 {
      unsafe handle = LoopHandle(UV_TIMER, action: action) { memory in
        unsafe uv_timer_init(loop.pointer, memory.assumingMemoryBound(to: uv_timer_t.self))
      }
      let callback: uv_timer_cb = { timer in unsafe LoopHandle.of(timer).action() }
      let interval = UInt64(milliseconds)
      unsafe uv_timer_start(handle.pointer(as: uv_timer_t.self), callback, interval, interval)
      return
    }
    let takeAndAct = {
      var count: UInt64 = 0
      // Without it the descriptor would stay readable.
      _ = unsafe Glibc.read(descriptor, &count, MemoryLayout<UInt64>.size)
      action()
    }
    unsafe handle = LoopHandle(UV_POLL, action: takeAndAct) { memory in
      unsafe uv_poll_init(loop.pointer, memory.assumingMemoryBound(to: uv_poll_t.self), descriptor)
    }
    let callback: uv_poll_cb = { timer, _, _ in unsafe LoopHandle.of(timer).action() }
    unsafe uv_poll_start(
      handle.pointer(as: uv_poll_t.self), Int32(UV_READABLE.rawValue), callback)
  }

  /// May be repeated.
  func close() {
    if handle.close(), descriptor >= 0 { Glibc.close(descriptor) }
  }
}

/// Lets any thread make a loop call a closure soon; several calls may become one.
struct Wakeup: Sendable {
  // SAFETY: only `send`, which libuv allows from every thread, is called by others.
  nonisolated(unsafe) private let handle: LoopHandle

  init(on loop: EventLoop, _ action: @escaping () -> Void) {
    unsafe handle = LoopHandle(UV_ASYNC, action: action) { memory in
      unsafe uv_async_init(loop.pointer, memory.assumingMemoryBound(to: uv_async_t.self)) { async in
        unsafe LoopHandle.of(async).action()
      }
    }
  }

  func send() {
    _ = unsafe uv_async_send(handle.pointer(as: uv_async_t.self))
  }

  func close() { unsafe handle.close() }
}

/// Calls a closure on a loop's thread when the process gets a signal.
struct Signal {
  private let handle: LoopHandle

  init(on loop: EventLoop, number: Int32, _ action: @escaping () -> Void) {
    unsafe handle = LoopHandle(UV_SIGNAL, action: action) { memory in
      unsafe uv_signal_init(loop.pointer, memory.assumingMemoryBound(to: uv_signal_t.self))
    }
    let callback: uv_signal_cb = { signal, _ in unsafe LoopHandle.of(signal).action() }
    unsafe uv_signal_start(handle.pointer(as: uv_signal_t.self), callback, number)
  }

  func close() { handle.close() }
}

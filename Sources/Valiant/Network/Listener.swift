import CLibUV
import Glibc

/// Accepts the connections of one listening socket.
///
/// libuv says when there is one; accepting itself is a plain system call, so that the descriptor
/// can go to any loop, and so that running out of descriptors is in our hands: libuv would accept
/// and drop the connections that wait, here they stay in the kernel's queue until there is room.
///
/// Belongs to its loop's thread.
final class Listener {
  let socket: Socket.Listening
  private let handle: LoopHandle
  private let onAccept: (Int32) -> Void
  private let onTrouble: (NetworkError) -> Void
  private var retry: Timer?
  private var isClosed = false
  /// Accepting has failed and not succeeded since.
  private var isInTrouble = false

  /// Connections that are accepted in one turn before others get theirs.
  private static let acceptsPerTurn = 1000
  /// How long to wait when descriptors or memory have run out.
  private static let retryMilliseconds = 100

  /// - Parameters:
  ///   - onAccept: Gets the descriptor of each new connection, non-blocking, and owns it.
  ///   - onTrouble: Is told why accepting has to wait, once until it succeeds again.
  init(
    _ socket: Socket.Listening, on loop: EventLoop,
    onTrouble: @escaping (NetworkError) -> Void, onAccept: @escaping (Int32) -> Void
  ) {
    self.socket = socket
    self.onAccept = onAccept
    self.onTrouble = onTrouble
    let idle: () -> Void = {}
    unsafe handle = LoopHandle(UV_POLL, action: idle) { memory in
      unsafe uv_poll_init(
        loop.pointer, memory.assumingMemoryBound(to: uv_poll_t.self), socket.descriptor)
    }
    handle.action = { [unowned self, unowned loop] in self.acceptAll(on: loop) }
    poll()
  }

  private func poll() {
    unsafe uv_poll_start(handle.pointer(as: uv_poll_t.self), Int32(UV_READABLE.rawValue)) {
      poll, _, _ in
      unsafe LoopHandle.of(poll).action()
    }
  }

  private func acceptAll(on loop: EventLoop) {
    for _ in 0..<Self.acceptsPerTurn {
      let descriptor = Socket.accept(socket.descriptor)
      if descriptor >= 0 {
        isInTrouble = false
        onAccept(descriptor)
        continue
      }
      switch -descriptor {
      case EINTR, ECONNABORTED: continue
      case EAGAIN: return
      default: return wait(on: loop, code: -descriptor)
      }
    }
  }

  /// Stops looking for a while: the socket stays readable, and the loop would spin.
  private func wait(on loop: EventLoop, code: Int32) {
    if !isInTrouble {
      onTrouble(NetworkError(attempt: "accept a connection on \(socket.address)", code: code))
    }
    isInTrouble = true
    if isClosed { return }
    unsafe uv_poll_stop(handle.pointer(as: uv_poll_t.self))
    retry?.close()
    retry = Timer(on: loop, every: Self.retryMilliseconds) { [unowned self] in
      self.retry?.close()
      self.retry = nil
      if !self.isClosed { self.poll() }
    }
  }

  /// Accepts what is already waiting, then accepts no more.
  func close(on loop: EventLoop) {
    if isClosed { return }
    isClosed = true
    acceptAll(on: loop)
    retry?.close()
    retry = nil
    handle.close()
    if socket.keeper == .nobody { socket.discard() } else { Glibc.close(socket.descriptor) }
  }
}

import CLibUV
import Glibc

/// One TCP or unix-socket connection of a loop.
///
/// It reads into the loop's buffer and owns memory only for what could not be dealt with at once:
/// the beginning of a request, or output that the peer does not take. So an idle connection costs
/// its handle and this record, about 450 bytes.
///
///     base → [ libuv's handle | State ]        one block, freed in the close callback
///
/// All of it belongs to the loop's thread.
///
/// Invariant: `base` is such a block until `onClose` of the loop's handlers has returned.
@safe struct Connection {
  private let base: UnsafeMutableRawPointer

  @safe private struct State: ~Copyable {
    var loop: UnsafeMutablePointer<EventLoop.State>
    /// The server's record of this client, opaque here.
    var owner: UnsafeMutableRawPointer?
    var next: UnsafeMutableRawPointer?
    var previous: UnsafeMutableRawPointer?
    /// Bytes that arrived and were not used up.
    var input = ByteBuffer()
    /// Output behind the one that libuv is writing.
    var queued = ByteBuffer()
    /// Bytes handed to libuv; 0 when nothing is under way.
    var inFlightBytes = 0
    /// The turn in which it last got a buffer.
    var turn: UInt64 = 0
    var isReading = false
    var isReadingIntoInput = false
    var isPaused = false
    var isYielded = false
    var isAtEnd = false
    var isFinishing = false
    var isLingering = false
    var lingerTicks: UInt8 = 0
    var lingerPendingBytes = 0
    var isClosing = false
    var isProcessing = false
  }

  /// One `uv_write` under way, with the bytes it writes.
  @safe private struct Write: ~Copyable {
    var request = unsafe uv_write_t()
    var bytes: ByteBuffer
  }

  // Room for the larger of the two kinds of stream. From the types rather than from libuv's
  // function, so that it is a constant; the sizes agree as long as header and library do.
  private static let stateOffset =
    (unsafe max(MemoryLayout<uv_tcp_t>.size, MemoryLayout<uv_pipe_t>.size) + 15) & ~15

  @inline(__always)
  init(base: UnsafeMutableRawPointer) {
    unsafe self.base = base
  }

  @inline(__always)
  private var state: UnsafeMutablePointer<State> {
    unsafe (base + Self.stateOffset).assumingMemoryBound(to: State.self)
  }

  @inline(__always)
  private var stream: UnsafeMutablePointer<uv_stream_t> {
    unsafe base.assumingMemoryBound(to: uv_stream_t.self)
  }

  private var handle: UnsafeMutablePointer<uv_handle_t> {
    unsafe base.assumingMemoryBound(to: uv_handle_t.self)
  }

  // MARK: Opening and closing

  /// Makes a connection of an accepted socket and begins to read.
  ///
  /// - Parameters:
  ///   - descriptor: The socket, which the connection now owns; closed if this fails.
  ///   - owner: What `owner` of the connection will be; freed by the loop's `onClose`.
  static func open(
    _ descriptor: Int32, isUnix: Bool, on loop: EventLoop, owner: UnsafeMutableRawPointer?
  ) throws(NetworkError) -> Connection {
    precondition(
      uv_handle_size(UV_TCP) <= stateOffset && uv_handle_size(UV_NAMED_PIPE) <= stateOffset,
      "libuv's library is not the one of its header")
    let base = UnsafeMutableRawPointer.allocate(
      byteCount: stateOffset + MemoryLayout<State>.stride, alignment: 16)
    let connection = unsafe Connection(base: base)
    unsafe connection.state.initialize(to: State(loop: loop.state, owner: owner))
    let result: Int32
    if isUnix {
      let pipe = unsafe base.assumingMemoryBound(to: uv_pipe_t.self)
      unsafe uv_pipe_init(loop.pointer, pipe, 0)
      result = unsafe uv_pipe_open(pipe, descriptor)
    } else {
      let tcp = unsafe base.assumingMemoryBound(to: uv_tcp_t.self)
      unsafe uv_tcp_init(loop.pointer, tcp)
      result = unsafe uv_tcp_open(tcp, descriptor)
    }
    connection.link()
    if result < 0 {
      Glibc.close(descriptor)
      unsafe connection.state.pointee.owner = nil
      connection.close()
      throw NetworkError(attempt: "open a connection", code: -result)
    }
    connection.resumeReading()
    return connection
  }

  private func link() {
    let loop = unsafe state.pointee.loop
    unsafe state.pointee.next = loop.pointee.firstConnection
    if let first = unsafe loop.pointee.firstConnection {
      unsafe Connection(base: first).state.pointee.previous = base
    }
    unsafe loop.pointee.firstConnection = base
    unsafe loop.pointee.connectionCount += 1
  }

  private func unlink() {
    let loop = unsafe state.pointee.loop
    let (next, previous) = unsafe (state.pointee.next, state.pointee.previous)
    if let next = unsafe next { unsafe Connection(base: next).state.pointee.previous = previous }
    if let previous = unsafe previous {
      unsafe Connection(base: previous).state.pointee.next = next
    } else {
      unsafe loop.pointee.firstConnection = next
    }
    unsafe loop.pointee.connectionCount -= 1
  }

  /// Closes at once; output that was not sent is lost. May be repeated.
  func close() {
    if unsafe state.pointee.isClosing { return }
    unsafe state.pointee.isClosing = true
    if unsafe state.pointee.isLingering { unsafe state.pointee.loop.pointee.lingeringCount -= 1 }
    unsafe uv_close(handle) { handle in
      let connection = unsafe Connection(base: UnsafeMutableRawPointer(handle.unsafelyUnwrapped))
      connection.didClose()
    }
  }

  private func didClose() {
    let loop = unsafe state.pointee.loop
    if unsafe state.pointee.isYielded {
      unsafe loop.pointee.yielded.removeAll { unsafe $0.base == base }
    }
    unlink()
    if unsafe state.pointee.owner != nil { unsafe loop.pointee.handlers.onClose(self) }
    unsafe state.deinitialize(count: 1)
    unsafe base.deallocate()
  }

  /// Sends what is queued, says that nothing more will come, and closes when the peer has.
  ///
  /// Closing a socket with unread input resets the connection, and the peer may lose the reply
  /// that tells it why; so what still arrives is read and thrown away. `closeLingering` ends that.
  func finish() {
    if unsafe state.pointee.isFinishing || state.pointee.isClosing { return }
    unsafe state.pointee.isFinishing = true
    unsafe state.pointee.isPaused = false
    unsafe state.pointee.isLingering = true
    unsafe state.pointee.loop.pointee.lingeringCount += 1
    if unsafe state.pointee.isAtEnd {
      if pendingOutputBytes == 0 { close() }
      return
    }
    resumeReading()
    if pendingOutputBytes == 0 { shutdownOutput() }
  }

  private func shutdownOutput() {
    if shutdown(descriptor, Int32(SHUT_WR)) != 0 { close() }
  }

  /// Ends a connection that has been waiting for its peer to close for `ticks` of these calls.
  ///
  /// As long as the peer takes what is still to be sent, it has all the time it needs.
  func closeIfLingering(ticks: UInt8) {
    if unsafe !state.pointee.isLingering || isClosing { return }
    let pending = pendingOutputBytes
    if unsafe pending < state.pointee.lingerPendingBytes { unsafe state.pointee.lingerTicks = 0 }
    unsafe state.pointee.lingerPendingBytes = pending
    unsafe state.pointee.lingerTicks += 1
    // A peer that has not even taken its answers gets longer.
    let ticks = pending > 0 ? 255 : ticks
    if unsafe state.pointee.lingerTicks >= ticks { close() }
  }

  // MARK: What others may ask

  /// The steady clock as the loop read it before it handed out this turn's events.
  @inline(__always)
  var loopMilliseconds: Int {
    unsafe Int(truncatingIfNeeded: uv_now(stream.pointee.loop))
  }

  @inline(__always)
  var owner: UnsafeMutableRawPointer? { unsafe state.pointee.owner }

  var nextInLoop: UnsafeMutableRawPointer? { unsafe state.pointee.next }

  @inline(__always)
  var isClosing: Bool { unsafe state.pointee.isClosing }

  var isFinishing: Bool { unsafe state.pointee.isFinishing }

  /// Whether processing was stopped although there are bytes to process.
  var isHeldUp: Bool { unsafe state.pointee.isPaused || state.pointee.isYielded }

  /// Bytes of output that the peer's socket has not taken yet.
  @inline(__always)
  var pendingOutputBytes: Int {
    if unsafe state.pointee.inFlightBytes == 0 { return 0 }
    return unsafe uv_stream_get_write_queue_size(stream) + state.pointee.queued.count
  }

  private var descriptor: Int32 {
    var descriptor: uv_os_fd_t = -1
    unsafe uv_fileno(handle, &descriptor)
    return descriptor
  }

  // MARK: Reading

  private func resumeReading() {
    if unsafe state.pointee.isReading || state.pointee.isAtEnd || isClosing { return }
    unsafe state.pointee.isReading = true
    unsafe uv_read_start(
      stream,
      { handle, _, buffer in
        let connection = unsafe Connection(base: UnsafeMutableRawPointer(handle.unsafelyUnwrapped))
        unsafe connection.provideBuffer(buffer.unsafelyUnwrapped)
      },
      { stream, count, _ in
        let connection = unsafe Connection(base: UnsafeMutableRawPointer(stream.unsafelyUnwrapped))
        connection.didRead(count)
      })
  }

  private func stopReading() {
    if unsafe !state.pointee.isReading { return }
    unsafe state.pointee.isReading = false
    unsafe uv_read_stop(stream)
  }

  /// Gives libuv the loop's buffer, the free end of the connection's own, or nothing.
  ///
  /// Nothing, when the connection already had a buffer in this turn: a peer that sends as fast as
  /// we read would otherwise keep the whole thread to itself. libuv then goes on with the others
  /// and comes back in the next turn, without a system call.
  @inline(__always)
  private func provideBuffer(_ buffer: UnsafeMutablePointer<uv_buf_t>) {
    let loop = unsafe state.pointee.loop
    if unsafe state.pointee.turn == loop.pointee.turn || state.pointee.isYielded {
      unsafe buffer.pointee = uv_buf_t(base: nil, len: 0)
      return
    }
    unsafe state.pointee.turn = loop.pointee.turn
    // The beginning of a short request does not get a long buffer of its own.
    if unsafe state.pointee.input.count < Self.ownBufferBytes || state.pointee.isFinishing {
      unsafe state.pointee.isReadingIntoInput = false
      unsafe buffer.pointee = uv_buf_t(
        base: UnsafeMutableRawPointer(loop.pointee.readBuffer).assumingMemoryBound(to: CChar.self),
        len: EventLoop.readBufferBytes)
    } else {
      unsafe state.pointee.isReadingIntoInput = true
      let space = unsafe state.pointee.input.freeSpace(EventLoop.readBufferBytes)
      // A long value comes in long pieces; requests that came before it are long dealt with.
      let length = min(space.count, Self.longReadBytes)
      unsafe buffer.pointee = uv_buf_t(
        base: UnsafeMutableRawPointer(space.baseAddress.unsafelyUnwrapped)
          .assumingMemoryBound(to: CChar.self), len: length)
    }
  }

  private static let longReadBytes = 1 << 20
  /// Held input from which on the connection reads into a buffer of its own.
  private static let ownBufferBytes = 16 * 1024

  @inline(__always)
  private func didRead(_ count: Int) {
    if count > 0 {
      unsafe state.pointee.loop.pointee.bytesRead &+= count
      if unsafe state.pointee.isFinishing { return }
      if unsafe state.pointee.isReadingIntoInput {
        unsafe state.pointee.input.didAppend(count)
        processInput()
      } else {
        // SAFETY: libuv has just read `count` bytes into the loop's buffer.
        let bytes = unsafe Bytes(base: state.pointee.loop.pointee.readBuffer, count: count)
        if unsafe state.pointee.input.isEmpty {
          process(bytes)
        } else {
          unsafe state.pointee.input.append(bytes)
          processInput()
        }
      }
    } else if count == Int(UV_ENOBUFS.rawValue) || count == 0 {
      return
    } else {
      didReachEnd(wasReset: count != Int(UV_EOF.rawValue))
    }
  }

  /// The peer will send no more; what it sent is still answered.
  @inline(never)
  private func didReachEnd(wasReset: Bool) {
    unsafe state.pointee.isAtEnd = true
    stopReading()
    if wasReset { return close() }
    if unsafe state.pointee.isFinishing {
      if pendingOutputBytes == 0 { close() }
      return
    }
    // Held input is processed first, and `processInput` then comes back here by `finish`.
    if !isHeldUp { finish() }
  }

  /// Hands bytes of the loop's buffer to the server, and keeps what is left of them.
  @inline(__always)
  private func process(_ bytes: Bytes) {
    let used = unsafe state.pointee.loop.pointee.handlers.onRead(self, bytes)
    if used < bytes.count, unsafe !state.pointee.isFinishing {
      unsafe state.pointee.input.append(bytes.dropFirst(used))
    }
    if unsafe state.pointee.isPaused { stopReading() }
  }

  /// Hands the held bytes to the server.
  private func processInput() {
    if isClosing || isFinishing { return }
    let used = unsafe state.pointee.loop.pointee.handlers.onRead(self, state.pointee.input.bytes)
    unsafe state.pointee.input.removeFirst(used)
    if unsafe state.pointee.input.isEmpty || state.pointee.isFinishing {
      unsafe state.pointee.input.clear(keeping: 0)
    }
    if unsafe state.pointee.isPaused {
      stopReading()
    } else if unsafe state.pointee.isAtEnd {
      if !isHeldUp { finish() }
    } else {
      resumeReading()
    }
  }

  /// Stops processing and reading until the peer has taken all output: back-pressure.
  ///
  /// Called within `onRead`; bytes it does not report as used come again later.
  func pause() {
    unsafe state.pointee.isPaused = true
  }

  /// Lets other connections go first; processing goes on in the loop's next turn.
  ///
  /// Called within `onRead`; bytes it does not report as used come again then.
  func yield() {
    if unsafe state.pointee.isYielded { return }
    unsafe state.pointee.isYielded = true
    let loop = unsafe state.pointee.loop
    unsafe loop.pointee.yielded.append(self)
    // An active idle handle keeps the loop from waiting for events.
    unsafe uv_idle_start(loop.pointee.yieldIdle) { idle in
      unsafe Connection.resumeYielded(stateOf(idle.unsafelyUnwrapped.pointee.loop))
    }
  }

  private static func resumeYielded(_ loop: UnsafeMutablePointer<EventLoop.State>) {
    let connections = unsafe loop.pointee.yielded
    unsafe loop.pointee.yielded = []
    unsafe uv_idle_stop(loop.pointee.yieldIdle)
    for connection in connections {
      unsafe connection.state.pointee.isYielded = false
      if unsafe !connection.state.pointee.isPaused { connection.processInput() }
    }
  }

  // MARK: Writing

  /// Sends all of `output` and empties it.
  ///
  /// What the socket does not take at once is kept and sent as it becomes free, in order.
  @inline(__always)
  func send(_ output: inout ByteBuffer) {
    if output.isEmpty { return }
    unsafe state.pointee.loop.pointee.bytesWritten &+= output.count
    if unsafe state.pointee.inFlightBytes == 0, !isClosing {
      var buffer = unsafe uv_buf_t(
        base: UnsafeMutableRawPointer(mutating: output.bytes.pointer)
          .assumingMemoryBound(to: CChar.self), len: output.count)
      let written = unsafe uv_try_write(stream, &buffer, 1)
      if Int(written) == output.count {
        output.truncate(to: 0)
        return
      }
      sendRest(&output, written: written)
    } else {
      queue(&output)
    }
  }

  @inline(never)
  private func sendRest(_ output: inout ByteBuffer, written: Int32) {
    if written < 0, written != UV_EAGAIN.rawValue {
      output.truncate(to: 0)
      return close()
    }
    output.removeFirst(Int(max(0, written)))
    startWrite(take(&output))
  }

  @inline(never)
  private func queue(_ output: inout ByteBuffer) {
    if unsafe state.pointee.isFinishing || isClosing {
      output.truncate(to: 0)
    } else if unsafe state.pointee.queued.isEmpty {
      unsafe state.pointee.queued = take(&output)
    } else {
      unsafe state.pointee.queued.append(output.bytes)
      output.truncate(to: 0)
    }
  }

  /// A long output changes hands; a short one is copied, so that the loop keeps its buffer.
  private func take(_ output: inout ByteBuffer) -> ByteBuffer {
    if output.count > 16 * 1024 { return output.take() }
    var copy = ByteBuffer()
    copy.append(output.bytes)
    output.truncate(to: 0)
    return copy
  }

  private func startWrite(_ bytes: consuming ByteBuffer) {
    let write = UnsafeMutablePointer<Write>.allocate(capacity: 1)
    unsafe state.pointee.inFlightBytes = bytes.count
    unsafe write.initialize(to: Write(bytes: bytes))
    let request = unsafe UnsafeMutableRawPointer(write).assumingMemoryBound(to: uv_write_t.self)
    var buffer = unsafe uv_buf_t(
      base: UnsafeMutableRawPointer(mutating: write.pointee.bytes.bytes.pointer)
        .assumingMemoryBound(to: CChar.self), len: write.pointee.bytes.count)
    let result = unsafe uv_write(request, stream, &buffer, 1) { request, status in
      let raw = unsafe UnsafeMutableRawPointer(request.unsafelyUnwrapped)
      let stream = unsafe request.unsafelyUnwrapped.pointee.handle
      let connection = unsafe Connection(base: UnsafeMutableRawPointer(stream.unsafelyUnwrapped))
      let write = unsafe raw.assumingMemoryBound(to: Write.self)
      unsafe write.deinitialize(count: 1)
      unsafe write.deallocate()
      connection.didWrite(status)
    }
    if result < 0 {
      unsafe write.deinitialize(count: 1)
      unsafe write.deallocate()
      unsafe state.pointee.inFlightBytes = 0
      close()
    }
  }

  private func didWrite(_ status: Int32) {
    unsafe state.pointee.inFlightBytes = 0
    if isClosing { return }
    if status < 0 { return close() }
    if unsafe !state.pointee.queued.isEmpty {
      return startWrite(unsafe state.pointee.queued.take())
    }
    if unsafe state.pointee.isFinishing {
      if unsafe state.pointee.isAtEnd { close() } else { shutdownOutput() }
    } else if unsafe state.pointee.isPaused {
      unsafe state.pointee.isPaused = false
      if unsafe !state.pointee.isYielded { processInput() }
    }
  }
}

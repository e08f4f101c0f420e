import CLibUV
import Glibc

/// One TCP or unix-socket connection of a loop.
///
/// libuv says when the socket can be read or written; reading and writing are our own calls, which
/// cost the kernel less than libuv's (see Decisions). A connection reads into the loop's buffer and
/// owns memory only for what could not be dealt with at once: the beginning of a request, or output
/// that the peer does not take. So an idle one costs its handle and this record, about 320 bytes.
///
///     base → [ uv_poll_t | State ]        one block, freed in the close callback
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
    /// Bytes that are still missing of a long argument whose beginning is at the end of `input`.
    var expected = 0
    /// Output that the socket did not take.
    var unsent = OutputBuffer()
    let descriptor: Int32
    /// What libuv was asked to wait for, a set of `uv_poll_event`.
    var watched: Int32 = 0
    var isReading = false
    var isPaused = false
    var isYielded = false
    /// Whether only `resume` ends the pause.
    var isHeld = false
    var isLetGo = false
    /// Whether nothing is sent, nor read, before `release`.
    var isWithheld = false
    var isAtEnd = false
    var isFinishing = false
    var isLingering = false
    /// Bytes of the last request with a long argument: the next one may be like it. 0 for unknown.
    var usual: UInt32 = 0
    var isClosing = false
    /// Whether something was enqueued that `flush` has to send.
    var isFlushDue = false
    /// Whether the peer may have a long value under way.
    var hasWideWindow = false
    var lingerTicks: UInt8 = 0
    var lingerPendingBytes = 0
  }

  private static let stateOffset = unsafe (MemoryLayout<uv_poll_t>.size + 15) & ~15

  @inline(__always)
  init(base: UnsafeMutableRawPointer) {
    unsafe self.base = base
  }

  @inline(__always)
  private var state: UnsafeMutablePointer<State> {
    unsafe (base + Self.stateOffset).assumingMemoryBound(to: State.self)
  }

  private var handle: UnsafeMutablePointer<uv_poll_t> {
    unsafe base.assumingMemoryBound(to: uv_poll_t.self)
  }

  @inline(__always)
  private var descriptor: Int32 { unsafe state.pointee.descriptor }

  // MARK: Opening and closing

  /// Makes a connection of an accepted socket and begins to read.
  ///
  /// - Parameters:
  ///   - descriptor: The socket, non-blocking, which the connection now owns; closed if this fails.
  ///   - owner: What `owner` of the connection will be; freed by the loop's `onClose`.
  static func open(
    _ descriptor: Int32, on loop: EventLoop, owner: UnsafeMutableRawPointer?
  ) throws(NetworkError) -> Connection {
    let base = UnsafeMutableRawPointer.allocate(
      byteCount: stateOffset + MemoryLayout<State>.stride, alignment: 16)
    let connection = unsafe Connection(base: base)
    let result = unsafe uv_poll_init(loop.pointer, connection.handle, descriptor)
    if result < 0 {
      unsafe base.deallocate()
      Glibc.close(descriptor)
      throw NetworkError(attempt: "open a connection", code: -result)
    }
    unsafe connection.state.initialize(
      to: State(loop: loop.state, owner: owner, descriptor: descriptor))
    connection.link()
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
    let generic = unsafe UnsafeMutableRawPointer(handle).assumingMemoryBound(to: uv_handle_t.self)
    unsafe uv_close(generic) { handle in
      let connection = unsafe Connection(base: UnsafeMutableRawPointer(handle.unsafelyUnwrapped))
      connection.didClose()
    }
    // libuv no longer looks at it.
    Glibc.close(descriptor)
  }

  private func didClose() {
    let loop = unsafe state.pointee.loop
    if unsafe state.pointee.isYielded { takeBackYield() }
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
    unsafe Int(truncatingIfNeeded: uv_now(handle.pointee.loop))
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
  var pendingOutputBytes: Int { unsafe state.pointee.unsent.count }

  /// The block of the held input, which can be taken over with what is in it; nil if it is short.
  var inputBlock: SharedBlock? { unsafe state.pointee.input.block }

  // MARK: Events

  /// Asks libuv for the events that matter now.
  private func watch() {
    var events: Int32 = 0
    if unsafe state.pointee.isReading { events |= Self.readable }
    if pendingOutputBytes > 0, unsafe !state.pointee.isWithheld { events |= Self.writable }
    // Who gives up waiting is not kept until the end of a pause.
    if unsafe state.pointee.isHeld && state.pointee.isLetGo && !state.pointee.isAtEnd {
      events |= Self.disconnected
    }
    if unsafe state.pointee.watched == events || state.pointee.isClosing { return }
    unsafe state.pointee.watched = events
    // No events at all is the same as stopping.
    unsafe uv_poll_start(handle, events) { handle, status, events in
      let connection = unsafe Connection(base: UnsafeMutableRawPointer(handle.unsafelyUnwrapped))
      connection.didBecomeReady(status, events)
    }
  }

  private static let readable = Int32(UV_READABLE.rawValue)
  private static let writable = Int32(UV_WRITABLE.rawValue)
  private static let disconnected = Int32(UV_DISCONNECT.rawValue)

  @inline(__always)
  private func didBecomeReady(_ status: Int32, _ events: Int32) {
    if status < 0 { return didFail() }
    if events & Self.disconnected != 0, unsafe state.pointee.isHeld { return close() }
    if events & Self.writable != 0 { didBecomeWritable() }
    if events & Self.readable != 0, unsafe state.pointee.isReading { read() }
  }

  /// The peer has reset the connection. What it sent before is carried out as far as no answer is
  /// owed: sending that ends the connection.
  @inline(never)
  private func didFail() {
    while !isClosing, unsafe !state.pointee.isPaused {
      if unsafe state.pointee.isYielded {
        // There is nobody left who could wait for its turn.
        takeBackYield()
        processInput()
        continue
      }
      let before = unsafe state.pointee.loop.pointee.bytesRead
      if unsafe state.pointee.isReading { read() }
      if unsafe state.pointee.loop.pointee.bytesRead == before { break }
    }
    close()
  }

  // MARK: Reading

  private func resumeReading() {
    if unsafe state.pointee.isAtEnd { return }
    unsafe state.pointee.isReading = true
    watch()
  }

  private func stopReading() {
    unsafe state.pointee.isReading = false
    watch()
  }

  /// Reads what has arrived: one buffer, so that a peer that sends as fast as we read does not get
  /// the whole thread. The rest comes in the loop's next turn.
  @inline(__always)
  private func read() {
    // The loop does not sleep meanwhile, and tells again.
    if unsafe state.pointee.isYielded || isClosing { return }
    // Mostly nothing comes before the reply, so nothing is said to libuv.
    if unsafe state.pointee.isWithheld { return stopReading() }
    let loop = unsafe state.pointee.loop
    // The beginning of a short request does not get a long buffer of its own.
    let held = unsafe state.pointee.input.count &+ state.pointee.expected
    let likely = unsafe held &+ Int(state.pointee.usual)
    if likely >= Self.ownBufferBytes, !isFinishing {
      return readIntoInput()
    }
    let wanted = EventLoop.readBufferBytes
    let count = unsafe Socket.receive(descriptor, into: loop.pointee.readBuffer, wanted)
    if count <= 0 { return didNotRead(count) }
    unsafe loop.pointee.bytesRead &+= count
    if isFinishing { return }
    // SAFETY: that many bytes have just been read into the loop's buffer.
    let bytes = unsafe Bytes(base: loop.pointee.readBuffer, count: count)
    if unsafe state.pointee.input.isEmpty {
      process(bytes)
    } else {
      unsafe state.pointee.input.append(bytes)
      processInput()
    }
    // The rest of a long value is there already, mostly.
    if count == wanted, unsafe state.pointee.expected >= Self.ownBufferBytes { readIntoInput() }
  }

  /// A long value comes in long pieces, which go where they will stay; requests that came before it
  /// are long dealt with.
  @inline(never)
  private func readIntoInput() {
    if unsafe state.pointee.isYielded || state.pointee.isPaused || isClosing || isFinishing {
      return
    }
    var expected = unsafe state.pointee.expected
    if expected == 0, unsafe state.pointee.input.isEmpty {
      expected = Int(unsafe state.pointee.usual)
    }
    guard makeRoom(expected > 0 ? expected : EventLoop.readBufferBytes) else { return }
    let space = unsafe state.pointee.input.freeSpace(0)
    // No byte of the next request, for the store may take over the memory.
    let wanted = min(space.count, Self.longReadBytes, expected > 0 ? expected : Int.max)
    let count = unsafe Socket.receive(descriptor, into: space.baseAddress.unsafelyUnwrapped, wanted)
    if count <= 0 { return didNotRead(count) }
    unsafe state.pointee.loop.pointee.bytesRead &+= count
    unsafe state.pointee.input.didAppend(count)
    if unsafe state.pointee.input.count < Self.ownBufferBytes { unsafe state.pointee.usual = 0 }
    processInput()
  }

  /// Makes room for bytes that are expected: at once for up to a megabyte, then for as many as are
  /// there already. A client that only announces a long value gets no memory for it.
  ///
  /// - Returns: False when there is no memory; then the connection ends.
  private func makeRoom(_ expected: Int) -> Bool {
    let count = unsafe state.pointee.input.count
    let room = unsafe state.pointee.input.capacity - count
    if room > 0, room >= min(expected, Self.longReadBytes) { return true }
    if unsafe state.pointee.input.reserveExactly(min(expected, max(count, Self.longReadBytes))) {
      return true
    }
    close()
    return false
  }

  private static let longReadBytes = 1 << 20
  private static let usualBytesMax: UInt32 = 256 * 1024
  /// Held input from which on the connection reads into a buffer of its own.
  private static let ownBufferBytes = 16 * 1024

  /// Says how many bytes are missing of the argument in whose middle the input ends, 0 for unknown.
  ///
  /// Called within `onRead`.
  ///
  /// - Parameter there: Bytes of the request that are there.
  func expect(_ bytes: Int, behind there: Int) {
    unsafe state.pointee.expected = bytes
    if unsafe !state.pointee.hasWideWindow, bytes + there >= Self.ownBufferBytes {
      unsafe state.pointee.hasWideWindow = true
      Socket.widenWindow(descriptor, Int32(Self.usualBytesMax))
    }
    // A longer one is no worse off with the pieces that it comes in.
    unsafe state.pointee.usual = min(UInt32(clamping: bytes + there), Self.usualBytesMax)
  }

  /// Says that the input does not end in the middle of an argument, as far as is known.
  @inline(__always)
  func expectNothing() { unsafe state.pointee.expected = 0 }

  /// - Parameter result: 0 at the end of what the peer sends, or a negative error number.
  @inline(never)
  private func didNotRead(_ result: Int) {
    if !Self.isPassing(result) { didReachEnd(wasReset: result < 0) }
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
    if used < bytes.count, unsafe !state.pointee.isFinishing { keep(bytes.dropFirst(used)) }
    if unsafe state.pointee.isPaused { stopReading() }
  }

  @inline(never)
  private func keep(_ bytes: Bytes) {
    let expected = unsafe state.pointee.expected
    if expected >= Self.ownBufferBytes, !makeRoom(bytes.count + expected) { return }
    unsafe state.pointee.input.append(bytes)
  }

  /// Hands the held bytes to the server.
  private func processInput() {
    if unsafe isClosing || isFinishing || state.pointee.isWithheld { return }
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

  /// Stops processing and reading until `resume` is called.
  ///
  /// Called within `onRead`; bytes it does not report as used come again later.
  ///
  /// - Parameter letsGo: Whether it is closed when the peer says that it will send no more.
  func hold(letsGo: Bool = true) {
    unsafe state.pointee.isHeld = true
    unsafe state.pointee.isLetGo = letsGo
    unsafe state.pointee.isPaused = true
  }

  /// Goes on with a connection that is held.
  func resume() {
    if unsafe !state.pointee.isHeld || isClosing { return }
    unsafe state.pointee.isHeld = false
    unsafe state.pointee.isPaused = false
    if unsafe !state.pointee.isYielded { processInput() }
  }

  /// Lets other connections go first; processing goes on when the loop has handled the events that
  /// are there in its next turn.
  ///
  /// Called within `onRead`; bytes it does not report as used come again then.
  func yield() {
    if unsafe state.pointee.isYielded { return }
    unsafe state.pointee.isYielded = true
    let loop = unsafe state.pointee.loop
    unsafe loop.pointee.yielded.append(self)
    // Between the one and the other the loop deals with what has arrived meanwhile.
    unsafe uv_idle_start(loop.pointee.yieldIdle) { idle in
      let loop = unsafe stateOf(idle.unsafelyUnwrapped.pointee.loop)
      unsafe loop.pointee.resuming = loop.pointee.yielded
      unsafe loop.pointee.yielded = []
    }
    unsafe uv_check_start(loop.pointee.yieldCheck) { check in
      unsafe Connection.resumeYielded(stateOf(check.unsafelyUnwrapped.pointee.loop))
    }
  }

  private func takeBackYield() {
    unsafe state.pointee.isYielded = false
    unsafe state.pointee.loop.pointee.yielded.removeAll { unsafe $0.base == base }
    unsafe state.pointee.loop.pointee.resuming.removeAll { unsafe $0.base == base }
  }

  private static func resumeYielded(_ loop: UnsafeMutablePointer<EventLoop.State>) {
    let connections = unsafe loop.pointee.resuming
    unsafe loop.pointee.resuming = []
    if unsafe loop.pointee.yielded.isEmpty {
      unsafe uv_idle_stop(loop.pointee.yieldIdle)
      unsafe uv_check_stop(loop.pointee.yieldCheck)
    }
    for connection in connections {
      unsafe connection.state.pointee.isYielded = false
      if unsafe !connection.state.pointee.isPaused { connection.processInput() }
    }
  }

  // MARK: Writing

  /// Sends all of `output` and empties it.
  ///
  /// What the socket does not take at once is kept and sent as it becomes free, in order. Long values
  /// are sent from the store's memory.
  @inline(__always)
  func send(_ output: inout OutputBuffer) {
    if output.isEmpty { return }
    unsafe state.pointee.loop.pointee.bytesWritten &+= output.count
    if pendingOutputBytes == 0, !isClosing, output.isPlain {
      let sent = Socket.send(descriptor, output.bytes.bytes)
      if sent == output.count {
        output.bytes.truncate(to: 0)
      } else {
        keepRest(&output, sent: sent)
      }
    } else {
      sendBehind(&output)
    }
  }

  /// Sends what lies in several places, or puts it behind what is unsent already.
  @inline(never)
  private func sendBehind(_ output: inout OutputBuffer) {
    if isClosing { return output.reset() }
    if pendingOutputBytes > 0 {
      if isFinishing { output.reset() } else { unsafe state.pointee.unsent.append(&output) }
      return
    }
    let sent = Socket.send(descriptor, output)
    if sent == output.count { output.reset() } else { keepRest(&output, sent: sent) }
  }

  /// - Parameter sent: Bytes that the socket took, or a negative error number.
  @inline(never)
  private func keepRest(_ output: inout OutputBuffer, sent: Int) {
    if sent < 0, !Self.isPassing(sent) {
      output.reset()
      return close()
    }
    output.removeFirst(max(0, sent))
    unsafe state.pointee.unsent.append(&output)
    watch()
  }

  /// Another descriptor of the socket, for a thread that sends something while the connection is held and
  /// has nothing to send itself; nil when there is none left.
  func duplicateDescriptor() -> Int32? {
    let copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 0)
    return copy < 0 ? nil : copy
  }

  /// Whether `release` has to come before anything is sent.
  var isWithheld: Bool { unsafe state.pointee.isWithheld }

  /// Takes over `output`, and sends nothing more, nor goes on with requests, before `release`.
  func withhold(_ output: inout OutputBuffer) {
    if unsafe isClosing || state.pointee.isFinishing { return output.reset() }
    unsafe state.pointee.loop.pointee.bytesWritten &+= output.count
    unsafe state.pointee.unsent.append(&output)
    unsafe state.pointee.isWithheld = true
  }

  /// Sends what was withheld, and goes on.
  func release() {
    if unsafe isClosing || !state.pointee.isWithheld { return }
    unsafe state.pointee.isWithheld = false
    unsafe state.pointee.isFlushDue = false
    didBecomeWritable()
    if isClosing { return }
    if pendingOutputBytes > 0 { watch() }
    if unsafe state.pointee.isPaused || state.pointee.isYielded || state.pointee.isFinishing {
      return
    }
    if unsafe !state.pointee.input.isEmpty {
      processInput()
    } else if unsafe !state.pointee.isReading {
      resumeReading()
    }
  }

  /// Puts a byte and others behind what is unsent, to be sent by `flush`, which has to follow.
  ///
  /// - Returns: Whether they are the first since the last `flush`.
  @inline(__always)
  func enqueue(_ first: UInt8, _ bytes: Bytes) -> Bool {
    if unsafe isClosing || state.pointee.isFinishing { return false }
    unsafe state.pointee.unsent.append(first, bytes)
    if unsafe state.pointee.isFlushDue { return false }
    unsafe state.pointee.isFlushDue = true
    return true
  }

  /// Sends what was enqueued, as far as the socket takes it at once.
  func flush() {
    unsafe state.pointee.isFlushDue = false
    // What was unsent before waits for the socket to have room.
    if unsafe !state.pointee.isWithheld && pendingOutputBytes > 0
      && state.pointee.watched & Self.writable == 0
    {
      didBecomeWritable()
      if pendingOutputBytes > 0 { watch() }
    }
  }

  private func didBecomeWritable() {
    if unsafe isClosing || state.pointee.isWithheld { return }
    let sent = unsafe Socket.send(descriptor, state.pointee.unsent)
    if sent < 0 {
      if !Self.isPassing(sent) { close() }
      return
    }
    unsafe state.pointee.unsent.removeFirst(sent)
    unsafe state.pointee.loop.pointee.handlers.onWrite(self)
    if pendingOutputBytes > 0 { return }
    watch()
    if unsafe state.pointee.isFinishing {
      if unsafe state.pointee.isAtEnd { close() } else { shutdownOutput() }
    } else if unsafe state.pointee.isPaused && !state.pointee.isHeld {
      unsafe state.pointee.isPaused = false
      if unsafe !state.pointee.isYielded { processInput() }
    }
  }

  /// Whether a socket that gave this error just has no room, or was interrupted.
  private static func isPassing(_ result: Int) -> Bool {
    result == -Int(EAGAIN) || result == -Int(EINTR) || result == -Int(ENOBUFS)
  }
}

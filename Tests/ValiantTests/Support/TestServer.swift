import Foundation

@testable import Valiant

/// A whole server in the test's own thread: one worker, whose loop turns when the test says so.
///
/// Clients are the other ends of socket pairs. Nothing listens, nothing waits.
final class TestServer {
  let server: Server
  let worker: Worker
  private var first: TestClient?

  init(_ change: (inout Settings) -> Void = { _ in }) {
    var settings = Settings()
    settings.threads = 1
    change(&settings)
    server = Server(settings: settings)
    do {
      worker = try server.makeWorkers(settings)[0]
    } catch {
      preconditionFailure("\(error)")
    }
  }

  deinit {
    first = nil
    worker.drain()
    for _ in 0..<1000 where worker.loop.connectionCount > 0 {
      worker.loop.forEachConnection { $0.close() }
      turn()
    }
    if worker.loop.connectionCount == 0 { worker.drain() }
    worker.loop.run()
  }

  /// A new client.
  func connect() -> TestClient {
    var ends: [Int32] = [0, 0]
    precondition(unsafe socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &ends) == 0)
    for end in ends { _ = fcntl(end, F_SETFL, fcntl(end, F_GETFL) | O_NONBLOCK) }
    worker.adopt(ends[0], isUnix: true)
    return TestClient(descriptor: ends[1], server: self)
  }

  /// Lets the loop deal with what is there.
  func turn(_ times: Int = 1) {
    for _ in 0..<times { worker.loop.turn() }
  }

  /// Turns the loop until `isDone`, for what takes longer the slower the machine is: reading ends
  /// a turn by the clock, and large memory is freed by another thread.
  ///
  /// - Returns: Whether it was done within half a minute.
  func turn(until isDone: () -> Bool) -> Bool {
    let end = ContinuousClock.now + .seconds(30)
    while !isDone() {
      if ContinuousClock.now > end { return false }
      worker.loop.turn()
    }
    return true
  }

  /// Sends a request, words separated by blanks, from a client that is always the same.
  func send(_ request: String) -> String {
    if first == nil { first = connect() }
    return first?.send(request) ?? ""
  }

  /// Sends a request of these arguments.
  func send(_ arguments: [String]) -> String {
    if first == nil { first = connect() }
    return first?.send(arguments) ?? ""
  }
}

/// A client of a `TestServer`.
final class TestClient {
  let descriptor: Int32
  private unowned let server: TestServer
  /// Whether the server has closed its side.
  private(set) var isClosed = false

  init(descriptor: Int32, server: TestServer) {
    self.descriptor = descriptor
    self.server = server
  }

  deinit { close(descriptor) }

  /// Sends a request of words separated by blanks, and returns the reply as text.
  func send(_ request: String) -> String {
    exchange(encode(request.split(separator: " ").map(String.init)))
  }

  /// Sends a request of these arguments, and returns the reply as text.
  func send(_ arguments: [String]) -> String { exchange(encode(arguments)) }

  /// Sends bytes as they are, and returns what the server answers, bytes above 127 replaced.
  func exchange(_ bytes: [UInt8]) -> String { text(exchangeBytes(bytes)) }

  func exchange(_ text: String) -> String { exchange(Array(text.utf8)) }

  func exchangeBytes(_ bytes: [UInt8]) -> [UInt8] {
    var rest = bytes[...]
    var reply: [UInt8] = []
    repeat {
      rest = rest.dropFirst(write(rest))
      server.turn(2)
      reply += read()
    } while !rest.isEmpty && !isClosed
    var quiet = 0
    while quiet < 3, !isClosed {
      server.turn()
      let more = read()
      reply += more
      quiet = more.isEmpty ? quiet + 1 : 0
    }
    return reply
  }

  /// Writes all of `bytes` as the server takes them, unless it closes the connection, and returns
  /// what it answers meanwhile.
  ///
  /// - Parameter each: Called after each turn of the loop.
  func writeAll(_ bytes: [UInt8], _ each: () -> Void = {}) -> [UInt8] {
    var rest = bytes[...]
    var reply: [UInt8] = []
    for _ in 0..<100_000 where !rest.isEmpty && !isClosed {
      rest = rest.dropFirst(write(rest))
      server.turn()
      reply += read()
      each()
    }
    precondition(rest.isEmpty || isClosed, "the server takes no more")
    return reply
  }

  /// Writes what the socket takes, and returns how much that was.
  func write(_ bytes: ArraySlice<UInt8>) -> Int {
    if bytes.isEmpty { return 0 }
    let count = unsafe bytes.withUnsafeBytes {
      unsafe Foundation.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
    }
    if count < 0, errno == EPIPE { isClosed = true }
    return max(0, count)
  }

  /// Reads what is there.
  func read() -> [UInt8] {
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 64 * 1024)
    while true {
      let count = unsafe Foundation.read(descriptor, &chunk, chunk.count)
      if count == 0 || (count < 0 && errno != EAGAIN) { isClosed = true }
      if count <= 0 { return bytes }
      bytes += chunk.prefix(count)
    }
  }

  /// Says that nothing more will come.
  func shutdownOutput() {
    shutdown(descriptor, Int32(SHUT_WR))
  }
}

/// A request as clients write it.
func encode(_ arguments: [String]) -> [UInt8] {
  var bytes = Array("*\(arguments.count)\r\n".utf8)
  for argument in arguments {
    bytes += Array("$\(argument.utf8.count)\r\n\(argument)\r\n".utf8)
  }
  return bytes
}

func text(_ bytes: [UInt8]) -> String { String(decoding: bytes, as: UTF8.self) }

/// Lends the bytes of a text.
func withBytes<Result>(_ text: String, _ body: (Bytes) -> Result) -> Result {
  Array(text.utf8).withBytes(body)
}

extension Server {
  /// A server with threads of its own, on a free port; the caller stops it.
  static func started(threads: Int) throws -> Server {
    var settings = Settings()
    settings.port = 0
    settings.threads = threads
    let server = Server(settings: settings)
    try server.start()
    return server
  }
}

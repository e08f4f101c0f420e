import Foundation

/// A client over TCP on the loopback interface, which waits for what it asks for.
public struct BlockingClient: Sendable {
  public let descriptor: Int32

  public struct Refused: Error {}

  /// Reads give up after ten seconds.
  ///
  /// - Throws: `Refused` when nobody listens there.
  public init(port: Int) throws {
    descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = UInt16(port).bigEndian
    address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
    let result = unsafe withUnsafePointer(to: &address) { pointer in
      unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        unsafe connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
      }
    }
    guard result == 0 else {
      close(descriptor)
      throw Refused()
    }
    var limit = timeval(tv_sec: 10, tv_usec: 0)
    unsafe setsockopt(
      descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
  }

  public func write(_ text: String) {
    let bytes = Array(text.utf8)
    unsafe _ = send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL))
  }

  /// What the next read gives; empty at the end.
  public func read() -> String {
    var buffer = [UInt8](repeating: 0, count: 65536)
    let count = unsafe recv(descriptor, &buffer, buffer.count, 0)
    return String(decoding: buffer.prefix(max(0, count)), as: UTF8.self)
  }

  /// Reads until there are `count` bytes, or to the end.
  public func read(atLeast count: Int) -> String {
    var received = ""
    while received.utf8.count < count {
      let more = read()
      if more.isEmpty { break }
      received += more
    }
    return received
  }

  /// Sends one line, and returns what the next read gives.
  public func ask(_ line: String) -> String {
    write(line + "\r\n")
    return read()
  }

  public func end() { close(descriptor) }

  /// Ends the connection by a reset, as a process that is killed with unread replies does.
  public func reset() {
    var now = linger(l_onoff: 1, l_linger: 0)
    unsafe setsockopt(
      descriptor, SOL_SOCKET, SO_LINGER, &now, socklen_t(MemoryLayout<linger>.size))
    close(descriptor)
  }
}

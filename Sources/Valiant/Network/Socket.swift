import CLibUV
import Glibc

/// Listening sockets and addresses: what has to be settled before libuv takes over.
enum Socket {
  /// A socket that listens.
  struct Listening: Sendable, Equatable {
    var descriptor: Int32
    /// Where it can be reached: `127.0.0.1:4200`, `[::1]:4200`, `/run/valiant.sock`.
    var address: String
    /// The TCP port, 0 for a unix socket.
    var port: Int
    var isUnix: Bool
    var keeper = Keeper.nobody

    /// Closes it for good, for who keeps it as well: nobody listens there any more.
    ///
    /// - Parameter removesFile: Whether the file of a unix socket is surely its own.
    func discard(removesFile: Bool = true) {
      if isUnix, removesFile { unsafe unlink(address) }
      shutdown(descriptor, Int32(SHUT_RDWR))
      close(descriptor)
    }
  }

  /// Who else has a listening socket open, so that it lives on when we end.
  enum Keeper: Sendable {
    case nobody
    /// systemd, which was given it to keep until we start again.
    case store
    /// A socket unit of systemd.
    case unit
  }

  /// Listens on `host`, a name or an IPv4 or IPv6 address; `*` is every IPv4, `::` every IPv6 one.
  ///
  /// - Parameters:
  ///   - port: 0...65535; 0 lets the system choose.
  ///   - kept: Sockets of a former life, from which those that listen there already are taken.
  static func listen(
    host: String, port: Int, backlog: Int, reusing kept: inout [Listening]
  ) throws(NetworkError) -> [Listening] {
    let place = host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
    let resolved = unsafe resolve(host, port)
    guard let first = unsafe resolved.first else {
      throw NetworkError(
        attempt: "find the address '\(host)'", code: unsafe resolved.code)
    }
    defer { unsafe freeaddrinfo(first) }
    var sockets: [Listening] = []
    var next: UnsafeMutablePointer<addrinfo>? = unsafe first
    while let info = unsafe next {
      do throws(NetworkError) {
        sockets.append(try unsafe listen(info.pointee, backlog, "listen on \(place)", &kept))
      } catch {
        for socket in sockets { close(socket.descriptor) }
        throw error
      }
      unsafe next = info.pointee.ai_next
    }
    return sockets
  }

  @unsafe private static func listen(
    _ info: addrinfo, _ backlog: Int, _ attempt: String, _ kept: inout [Listening]
  ) throws(NetworkError) -> Listening {
    if let address = unsafe info.ai_addr,
      let old = take(unsafe text(address, info.ai_addrlen).text, backlog, from: &kept)
    {
      return old
    }
    let type = unsafe info.ai_socktype | openFlags
    let descriptor = unsafe socket(info.ai_family, type, info.ai_protocol)
    guard descriptor >= 0 else { throw NetworkError(attempt: attempt, code: errno) }
    setOption(descriptor, SOL_SOCKET, SO_REUSEADDR, 1)
    // An IPv6 socket must not take the IPv4 port as well: that one has a socket of its own.
    if unsafe info.ai_family == AF_INET6 {
      setOption(descriptor, Int32(IPPROTO_IPV6), IPV6_V6ONLY, 1)
    }
    guard unsafe bind(descriptor, info.ai_addr, info.ai_addrlen) == 0,
      Glibc.listen(descriptor, Int32(clamping: backlog)) == 0
    else {
      let code = errno
      close(descriptor)
      throw NetworkError(attempt: attempt, code: code)
    }
    return describe(descriptor)
  }

  /// Texts of the addresses on which `listen(host:port:…)` would listen; none for an unknown name.
  static func addresses(host: String, port: Int) -> [String] {
    guard let first = unsafe resolve(host, port).first else { return [] }
    defer { unsafe freeaddrinfo(first) }
    var texts: [String] = []
    var next: UnsafeMutablePointer<addrinfo>? = unsafe first
    while let info = unsafe next {
      if let address = unsafe info.pointee.ai_addr {
        texts.append(unsafe text(address, info.pointee.ai_addrlen).text)
      }
      unsafe next = info.pointee.ai_next
    }
    return texts
  }

  /// - Returns: A list that the caller frees, or nil and why there is none.
  @unsafe private static func resolve(
    _ host: String, _ port: Int
  ) -> (first: UnsafeMutablePointer<addrinfo>?, code: Int32) {
    var hints = unsafe addrinfo()
    unsafe hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV
    unsafe hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
    var found: UnsafeMutablePointer<addrinfo>?
    let result = unsafe getaddrinfo(host == "*" ? "0.0.0.0" : host, String(port), &hints, &found)
    // A name that nobody knows is a mistake in the settings, not a state of the system.
    if result != 0 { return (nil, result == EAI_SYSTEM ? errno : EINVAL) }
    return unsafe (found, 0)
  }

  /// Whether somebody listens on the unix socket at `path`.
  static func isReachable(_ path: String) -> Bool {
    guard isSocket(path), let address = unixAddress(path) else { return false }
    let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | openFlags, 0)
    guard descriptor >= 0 else { return false }
    defer { close(descriptor) }
    // EAGAIN: its queue is full, so there is one.
    return connect(descriptor, to: address) == 0 || errno == EAGAIN
  }

  /// Takes the socket that listens at `address` out of `kept`.
  private static func take(
    _ address: String, _ backlog: Int, from kept: inout [Listening]
  ) -> Listening? {
    guard let index = kept.firstIndex(where: { $0.address == address }) else { return nil }
    let socket = kept.remove(at: index)
    // Once more, for the length of the queue may have been changed.
    Glibc.listen(socket.descriptor, Int32(clamping: backlog))
    return socket
  }

  /// Listens on a unix socket, replacing a stale one that nobody listens on.
  ///
  /// - Parameters:
  ///   - permissions: Of the socket's file, such as 0o700; 0 leaves them to the umask.
  ///   - kept: Sockets of a former life; the one that listens there already is taken.
  static func listen(
    path: String, permissions: Int, backlog: Int, reusing kept: inout [Listening]
  ) throws(NetworkError) -> Listening {
    let attempt = "listen on \(path)"
    if let old = take(path, backlog, from: &kept) {
      if permissions != 0, unsafe chmod(path, mode_t(permissions)) != 0 {
        let code = errno
        close(old.descriptor)
        throw NetworkError(attempt: attempt, code: code)
      }
      return old
    }
    guard let address = unixAddress(path) else {
      throw NetworkError(attempt: attempt, code: ENAMETOOLONG)
    }
    let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | openFlags, 0)
    guard descriptor >= 0 else { throw NetworkError(attempt: attempt, code: errno) }
    // Only a refused connection proves that the file is a leftover; a file of another kind refuses
    // as well, and must not be removed.
    if connect(descriptor, to: address) == 0 {
      close(descriptor)
      throw NetworkError(attempt: attempt, code: EADDRINUSE)
    }
    if errno == ECONNREFUSED, isSocket(path) { unsafe unlink(path) }
    var code: Int32 = 0
    if unsafe call(bind, descriptor, address) != 0 { code = errno }
    if code == 0, permissions != 0, unsafe chmod(path, mode_t(permissions)) != 0 { code = errno }
    if code == 0, Glibc.listen(descriptor, Int32(clamping: backlog)) != 0 { code = errno }
    if code != 0 {
      close(descriptor)
      throw NetworkError(attempt: attempt, code: code)
    }
    return Listening(descriptor: descriptor, address: path, port: 0, isUnix: true)
  }

  /// Nil when the path is too long.
  private static func unixAddress(_ path: String) -> sockaddr_un? {
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    let bytes = Array(path.utf8)
    guard bytes.count < MemoryLayout.size(ofValue: address.sun_path) else { return nil }
    unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: bytes) }
    return address
  }

  private static func connect(_ descriptor: Int32, to address: sockaddr_un) -> Int32 {
    unsafe call(Glibc.connect, descriptor, address)
  }

  /// Calls `bind` or `connect`.
  @unsafe private static func call(
    _ function: (Int32, UnsafePointer<sockaddr>?, socklen_t) -> Int32, _ descriptor: Int32,
    _ address: sockaddr_un
  ) -> Int32 {
    var address = address
    return unsafe withUnsafePointer(to: &address) { pointer in
      unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        unsafe function(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
  }

  /// The listening sockets that systemd passed to this process, from descriptor 3 on.
  ///
  /// Takes the variables out of the environment, so that no child believes them. Source:
  /// sd_listen_fds(3).
  ///
  /// - Parameter storedName: The name under which this program had systemd keep its own sockets.
  static func inherited(storedName: String) -> [Listening] {
    guard environment("LISTEN_PID") == String(getpid()),
      let text = environment("LISTEN_FDS"), let count = Int32(text),
      (1...inheritedMax).contains(count)
    else { return [] }
    let names = (environment("LISTEN_FDNAMES") ?? "").split(
      separator: ":", omittingEmptySubsequences: false)
    for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] { unsafe unsetenv(name) }
    return (0..<count).compactMap { index in
      let descriptor = index + 3
      _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
      var isListening: Int32 = 0
      var length = socklen_t(MemoryLayout<Int32>.size)
      let result = unsafe getsockopt(descriptor, SOL_SOCKET, SO_ACCEPTCONN, &isListening, &length)
      guard result == 0, isListening == 1 else {
        close(descriptor)
        return nil
      }
      _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK)
      var socket = describe(descriptor)
      let isStored = names.indices.contains(Int(index)) && names[Int(index)] == storedName
      socket.keeper = isStored ? .store : .unit
      return socket
    }
  }

  private static let inheritedMax: Int32 = 1000

  private static func describe(_ descriptor: Int32) -> Listening {
    let address = localAddress(of: descriptor)
    return Listening(
      descriptor: descriptor, address: address.text, port: address.port, isUnix: address.isUnix)
  }

  private static let openFlags = Int32(SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue)

  // MARK: Datagrams

  /// Sends `text` as one datagram to a unix socket.
  ///
  /// - Parameters:
  ///   - descriptor: Goes along, so that the receiver has it open too.
  ///   - path: Of the socket; that of an abstract one begins with `@`.
  ///   - waits: Whether to wait when the receiver is slow; an event loop must not.
  /// - Returns: False when it was not sent.
  @discardableResult
  static func sendDatagram(
    _ text: String, descriptor: Int32?, to path: String, waits: Bool
  ) -> Bool {
    let channel = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
    guard channel >= 0 else { return false }
    defer { close(channel) }
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    var name = Array(path.utf8)
    guard name.count < MemoryLayout.size(ofValue: address.sun_path) else { return false }
    if name.first == UInt8(ascii: "@") { name[0] = 0 }
    unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: name) }
    var bytes = Array(text.utf8)
    // A control message as cmsg(3) lays it out on 64-bit machines: length, level, type, descriptor.
    var control: [Int32] = [20, 0, SOL_SOCKET, Int32(SCM_RIGHTS), descriptor ?? -1, 0]
    // SAFETY: all that the message points to stays in place until sendmsg has returned.
    return unsafe withUnsafeMutablePointer(to: &address) { address in
      unsafe bytes.withUnsafeMutableBytes { bytes in
        unsafe control.withUnsafeMutableBytes { control in
          var part = unsafe iovec(iov_base: bytes.baseAddress, iov_len: bytes.count)
          return unsafe withUnsafeMutablePointer(to: &part) { part in
            var message = unsafe msghdr()
            unsafe message.msg_name = UnsafeMutableRawPointer(address)
            unsafe message.msg_namelen = socklen_t(MemoryLayout<sa_family_t>.size + name.count)
            unsafe message.msg_iov = part
            unsafe message.msg_iovlen = 1
            if descriptor != nil {
              unsafe message.msg_control = control.baseAddress
              unsafe message.msg_controllen = control.count
            }
            let flags = Int32(MSG_NOSIGNAL) | (waits ? 0 : Int32(MSG_DONTWAIT))
            return unsafe sendmsg(channel, &message, flags) >= 0
          }
        }
      }
    }
  }

  // MARK: Accepted sockets

  /// Takes the next connection off a listening socket's queue.
  ///
  /// - Returns: A descriptor, or the negative error number.
  static func accept(_ listening: Int32) -> Int32 {
    let descriptor = valiant_accept(listening)
    return descriptor >= 0 ? descriptor : -errno
  }

  /// Reads up to `capacity` bytes that have arrived.
  ///
  /// `recv` and `send` rather than `read` and `write`: the kernel's way to the socket is shorter.
  ///
  /// - Returns: How many, 0 when the peer will send no more, or the negative error number.
  @inline(__always)
  @unsafe static func receive(
    _ descriptor: Int32, into buffer: UnsafeMutablePointer<UInt8>, _ capacity: Int
  ) -> Int {
    let count = unsafe valiant_receive(descriptor, buffer, capacity)
    return count >= 0 ? count : -Int(errno)
  }

  /// Gives the socket as many of `bytes` as it takes now.
  ///
  /// - Returns: How many, or the negative error number.
  @inline(__always)
  static func send(_ descriptor: Int32, _ bytes: Bytes) -> Int {
    let count = unsafe valiant_send(descriptor, bytes.pointer, bytes.count)
    return count >= 0 ? count : -Int(errno)
  }

  /// Sends all of `bytes`, by a thread that may wait for the peer.
  ///
  /// - Parameter isOver: Asked a few times a second whether to give up.
  /// - Returns: False when the peer has gone, or it was given up.
  static func sendAll(_ bytes: Bytes, to descriptor: Int32, unless isOver: () -> Bool) -> Bool {
    var rest = bytes
    while !rest.isEmpty {
      if isOver() { return false }
      let sent = send(descriptor, rest)
      if sent >= 0 {
        rest = rest.dropFirst(sent)
      } else if sent == -Int(EAGAIN) {
        var waiting = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
        _ = unsafe poll(&waiting, 1, sendPollMilliseconds)
      } else if sent != -Int(EINTR) {
        return false
      }
    }
    return true
  }

  private static let sendPollMilliseconds: Int32 = 100

  /// The same for bytes that lie in several places.
  static func send(_ descriptor: Int32, _ output: borrowing OutputBuffer) -> Int {
    let pieces = output.pieces
    var vectors = unsafe InlineArray<16, iovec>(repeating: iovec())
    for index in 0..<pieces.count {
      let piece = pieces.all[index]
      unsafe vectors[index] = iovec(
        iov_base: UnsafeMutableRawPointer(mutating: piece.pointer), iov_len: piece.count)
    }
    // SAFETY: all that the message points to stays in place until sendmsg has returned.
    return unsafe withUnsafeMutablePointer(to: &vectors) { vectors in
      var message = unsafe msghdr()
      unsafe message.msg_iov = UnsafeMutableRawPointer(vectors)
        .assumingMemoryBound(to: iovec.self)
      unsafe message.msg_iovlen = pieces.count
      let count = unsafe valiant_send_message(descriptor, &message)
      return count >= 0 ? count : -Int(errno)
    }
  }

  /// Sends small replies at once, and finds peers that are gone without a word.
  ///
  /// - Parameter keepaliveSeconds: Silence before the first probe; 0 for no probes. Three probes
  ///   a third of that apart must stay unanswered.
  static func configure(_ descriptor: Int32, keepaliveSeconds: Int) {
    setOption(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, 1)
    if keepaliveSeconds > 0 {
      let seconds = Int32(clamping: keepaliveSeconds)
      setOption(descriptor, SOL_SOCKET, SO_KEEPALIVE, 1)
      setOption(descriptor, Int32(IPPROTO_TCP), TCP_KEEPIDLE, seconds)
      setOption(descriptor, Int32(IPPROTO_TCP), TCP_KEEPINTVL, max(1, seconds / 3))
      setOption(descriptor, Int32(IPPROTO_TCP), TCP_KEEPCNT, 3)
    }
  }

  /// Lets a peer have so many bytes under way at once, however slowly the system would get there.
  ///
  /// Else the sender of a long value has to wait in its middle, and each part costs an event. The
  /// size of the receive buffer cannot be set without ending its adjustment by the system; but it
  /// never is too small for the bytes that a reader says to wait for.
  static func widenWindow(_ descriptor: Int32, _ bytes: Int32) {
    setOption(descriptor, SOL_SOCKET, SO_RCVLOWAT, bytes)
    setOption(descriptor, SOL_SOCKET, SO_RCVLOWAT, 1)
  }

  private static func setOption(_ descriptor: Int32, _ level: Int32, _ name: Int32, _ value: Int32)
  {
    var value = value
    unsafe setsockopt(descriptor, level, name, &value, socklen_t(MemoryLayout<Int32>.size))
  }

  /// An end of a connection, in words.
  struct Address: Sendable {
    /// `127.0.0.1:4200`, `[::1]:4200`; a unix socket's path, which may be empty.
    var text: String
    var port = 0
    var isUnix = false
    var isLoopback = false
  }

  static func localAddress(of descriptor: Int32) -> Address {
    unsafe address(descriptor, getsockname)
  }
  static func peerAddress(of descriptor: Int32) -> Address {
    unsafe address(descriptor, getpeername)
  }

  @unsafe private static func address(
    _ descriptor: Int32,
    _ call: (Int32, UnsafeMutablePointer<sockaddr>, UnsafeMutablePointer<socklen_t>) -> Int32
  ) -> Address {
    var storage = sockaddr_storage()
    var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
    return unsafe withUnsafeMutablePointer(to: &storage) { storage in
      unsafe storage.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
        guard unsafe call(descriptor, address, &length) == 0 else { return Address(text: "?:0") }
        return unsafe text(address, length)
      }
    }
  }

  @unsafe private static func text(
    _ address: UnsafePointer<sockaddr>, _ length: socklen_t
  ) -> Address {
    if unsafe address.pointee.sa_family == sa_family_t(AF_UNIX) {
      let path = unsafe UnsafeRawPointer(address) + 2
      let text =
        length > 2 ? unsafe String(cString: path.assumingMemoryBound(to: CChar.self)) : ""
      return Address(text: text, isUnix: true, isLoopback: true)
    }
    var host = [CChar](repeating: 0, count: Int(hostLengthMax))
    var service = [CChar](repeating: 0, count: Int(serviceLengthMax))
    let result = unsafe getnameinfo(
      address, length, &host, socklen_t(host.count), &service, socklen_t(service.count),
      NI_NUMERICHOST | NI_NUMERICSERV)
    guard result == 0 else { return Address(text: "?:0") }
    let (name, port) = (text(host), text(service))
    let isLoopback = name.hasPrefix("127.") || name == "::1" || name.hasPrefix("::ffff:127.")
    return Address(
      text: name.contains(":") ? "[\(name)]:\(port)" : "\(name):\(port)",
      port: Int(port) ?? 0, isLoopback: isLoopback)
  }

  private static func text(_ characters: [CChar]) -> String {
    String(decoding: characters.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}

private let hostLengthMax = 1025
private let serviceLengthMax = 32

import Glibc

/// What systemd gave the program, and how the program talks to it.
///
/// A message is a datagram of lines `NAME=value` to the socket in `NOTIFY_SOCKET`; without that
/// nothing is sent. Sources: sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3).
struct ServiceManager: Sendable {
  /// Listening sockets of our former life, which systemd kept.
  let storedSockets: [Socket.Listening]
  /// Listening sockets of a socket unit.
  let activatedSockets: [Socket.Listening]
  /// Time without a sign of life after which systemd ends the program; 0 for never.
  let watchdogMilliseconds: Int
  /// Where messages go; the name of an abstract socket begins with `@`.
  private let notifySocket: String

  /// The name under which systemd keeps our sockets.
  private static let storeName = "listen"

  /// Reads the environment and takes what is meant for this process alone out of it.
  init() {
    let sockets = Socket.inherited(storedName: Self.storeName)
    storedSockets = sockets.filter { $0.keeper == .store }
    activatedSockets = sockets.filter { $0.keeper == .unit }
    notifySocket = environment("NOTIFY_SOCKET") ?? ""
    let isOurs = [nil, String(getpid())].contains(environment("WATCHDOG_PID"))
    let microseconds = isOurs ? Int(environment("WATCHDOG_USEC") ?? "") ?? 0 : 0
    watchdogMilliseconds = max(0, microseconds / 1000)
    for name in ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"] { unsafe unsetenv(name) }
  }

  var isPresent: Bool { !notifySocket.isEmpty }

  // MARK: Messages

  /// Clients can connect, for the first time or after `reloading`.
  ///
  /// - Returns: False when it could not be said.
  @discardableResult
  func ready(status: String, waits: Bool) -> Bool {
    send("READY=1\nSTATUS=\(status)", waits: waits)
  }

  /// The configuration is being read again; `ready` says when that is done.
  func reloading() { send("RELOADING=1\nMONOTONIC_USEC=\(Clock.steadyMicroseconds)") }

  func stopping() { send("STOPPING=1\nSTATUS=Stopping") }

  /// What `systemctl status` shows.
  func status(_ text: String) { send("STATUS=\(text)") }

  /// Asks for more time to start or to stop, with what is being done. To be repeated each second.
  func isBusy(_ text: String) {
    send("EXTEND_TIMEOUT_USEC=\(Self.extensionMicroseconds)\nWATCHDOG=1\nSTATUS=\(text)")
  }

  private static let extensionMicroseconds = 30_000_000

  /// A sign of life for the watchdog.
  func isAlive() { send("WATCHDOG=1") }

  /// Has systemd keep these sockets, and only these, so that they are there when we start again.
  ///
  /// systemd keeps as many as the unit's `FileDescriptorStoreMax` says and does not tell of others.
  ///
  /// - Returns: The sockets as they are then: those that had no keeper have one.
  func keep(_ sockets: [Socket.Listening]) -> [Socket.Listening] {
    guard isPresent else { return sockets }
    send("FDSTOREREMOVE=1\nFDNAME=\(Self.storeName)", waits: true)
    return sockets.map { socket in
      if socket.keeper == .unit { return socket }
      send(
        "FDSTORE=1\nFDNAME=\(Self.storeName)", descriptor: socket.descriptor, waits: true)
      var kept = socket
      kept.keeper = .store
      return kept
    }
  }

  /// - Parameter waits: Whether to wait when systemd is slow; an event loop must not.
  @discardableResult
  private func send(_ text: String, descriptor: Int32? = nil, waits: Bool = false) -> Bool {
    isPresent
      && Socket.sendDatagram(text, descriptor: descriptor, to: notifySocket, waits: waits)
  }
}

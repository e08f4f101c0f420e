/// Tells systemd now and then how a server is doing. Belongs to the first worker's thread.
final class Supervision {
  private unowned let server: Server
  private let manager: ServiceManager
  private var lastStatus = ""
  private var lastStatusAt = 0
  private var lastSignAt = 0
  /// Turns of each worker's timer at the last sign of life.
  private var lastTurns: [Int] = []
  /// systemd has not yet heard that a reload is over.
  private var owesReady = false

  private static let statusMilliseconds = 5000

  init(server: Server, manager: ServiceManager) {
    self.server = server
    self.manager = manager
  }

  /// Milliseconds between two calls of `report`.
  var interval: Int {
    manager.watchdogMilliseconds == 0 ? 1000 : min(1000, max(10, manager.watchdogMilliseconds / 8))
  }

  /// Has `action` read the configuration again, and tells of it.
  func reload(_ action: () -> Void) {
    manager.reloading()
    action()
    owesReady = true
    report()
  }

  /// Sends what is due.
  func report() {
    let now = Clock.steadyMilliseconds
    if owesReady { owesReady = !manager.ready(status: server.statusText, waits: false) }
    if manager.watchdogMilliseconds > 0, now - lastSignAt >= manager.watchdogMilliseconds / 3 {
      signOfLife(now)
    }
    if let progress = server.loadProgress {
      let percent = progress.read * 100 / max(1, progress.total)
      manager.isBusy("Loading: \(percent) % of \(progress.total) bytes, \(progress.keys) keys")
      return
    }
    if now - lastStatusAt >= Self.statusMilliseconds {
      lastStatusAt = now
      let status = server.statusText
      if status != lastStatus { manager.status(status) }
      lastStatus = status
    }
  }

  /// Only when every loop has turned since the last one: a loop that hangs is reason to restart.
  private func signOfLife(_ now: Int) {
    let turns = server.workers.map(\.turns)
    if lastTurns.count == turns.count, zip(turns, lastTurns).contains(where: { $0 == $1 }) {
      return
    }
    lastTurns = turns
    lastSignAt = now
    manager.isAlive()
  }
}

extension Server {
  /// One line for `systemctl status`.
  var statusText: String {
    let (clients, keys) = (clients.count, store.census().keys)
    return "Serving \(clients) \(clients == 1 ? "client" : "clients"), "
      + "\(keys) \(keys == 1 ? "key" : "keys")"
  }
}

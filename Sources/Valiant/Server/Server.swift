import Glibc
import Synchronization

/// A Valiant server: listens, and answers clients on as many event loops as it was told.
///
///     var settings = Settings()
///     settings.port = 0
///     let server = Server(settings: settings)
///     try server.start()
///     print(server.port)
///     server.stop()
///
/// Several can run in one process, each with a store of its own or on a common one. All methods
/// may be called from any thread. A running server ignores SIGPIPE for the whole process, because
/// a client that has gone away must not end it.
public final class Server: Sendable {
  /// The keys that this server serves; usable directly while it runs.
  public let store: Store
  let log: Log
  let clients = ClientRegistry()
  /// Forty hexadecimal digits that tell this run from others.
  let runIdentifier = Random.hexIdentifier(40)
  /// Index of each command in `Statistics`, by name.
  let commandNames: [String]

  private let makeReader: MakeReader
  private let state: Mutex<State>
  private let loads: Mutex<[Int]>
  private let onShutdown: Mutex<(@Sendable () -> Void)?>

  /// Makes what a worker does with bytes from its clients; the layer above knows commands.
  typealias MakeReader = @Sendable (Server, Worker) -> (Connection, Bytes) -> Int

  private struct State {
    var settings: Settings
    var workers: [Worker] = []
    var addresses: [Socket.Listening] = []
    var isRunning = false
    var isStopping = false
    var startedAt = 0
    var configurationFile = ""
    var operationsPerSecond = 0
    var lastSample = (operations: 0, milliseconds: 0)
  }

  /// Why a server could not start.
  public struct StartFailure: Error, CustomStringConvertible, Sendable {
    /// Whether starting again with the same settings would fail again for certain.
    var isMisconfiguration = false
    /// One sentence, such as `cannot listen on 127.0.0.1:4200: Address already in use`.
    public let description: String
  }

  init(
    settings: Settings, store: Store, commandNames: [String], makeReader: @escaping MakeReader
  ) {
    self.store = store
    self.commandNames = commandNames
    self.makeReader = makeReader
    log = Log(level: settings.logLevel, isEnabled: settings.logsToStandardError)
    state = Mutex(State(settings: settings))
    loads = Mutex([])
    onShutdown = Mutex(nil)
  }

  // MARK: Starting and stopping

  /// Listens and starts the threads; returns when clients can connect.
  ///
  /// - Throws: `StartFailure` when an address is taken or the system refuses something; then
  ///   nothing is left running.
  public func start() throws(StartFailure) {
    try start(inherited: [], prepare: { _ in })
  }

  /// Stops accepting, answers for about 100 ms what still arrives, closes all connections and
  /// waits for the threads to end: within a second. Does nothing when the server is not running.
  ///
  /// Must not be called by one of the server's own threads.
  public func stop() {
    requestStop()
    waitUntilStopped()
  }

  /// The TCP port on which the server listens; nil when it does not.
  public var port: Int? {
    state.withLock { $0.addresses.first { !$0.isUnix }?.port }
  }

  /// Where the server can be reached: `127.0.0.1:4200`, `[::1]:4200`, a unix socket's path.
  public var addresses: [String] {
    state.withLock { $0.addresses.map(\.address) }
  }

  /// - Parameters:
  ///   - inherited: Listening sockets to use instead of the settings' addresses.
  ///   - prepare: Is called with the first worker before its thread runs, to add signals.
  func start(
    inherited: [Socket.Listening], prepare: (Worker) -> Void
  ) throws(StartFailure) {
    let isFirst = state.withLock { state in
      defer { state.isRunning = true }
      return !state.isRunning
    }
    guard isFirst else { throw StartFailure(description: "the server is already running") }
    do throws(NetworkError) {
      let sockets = inherited.isEmpty ? try listen(settings) : inherited
      try startWorkers(sockets, prepare)
    } catch {
      state.withLock { $0.isRunning = false }
      throw StartFailure(
        isMisconfiguration: error.code == EINVAL, description: "\(error)")
    }
  }

  private func listen(_ settings: Settings) throws(NetworkError) -> [Socket.Listening] {
    var sockets: [Socket.Listening] = []
    do throws(NetworkError) {
      for word in settings.bind {
        let isOptional = word.hasPrefix("-")
        let host = isOptional ? String(word.dropFirst()) : word
        // A port chosen by the system for the first address serves for the others as well.
        let port = settings.port == 0 ? sockets.first?.port ?? 0 : settings.port
        do throws(NetworkError) {
          sockets += try Socket.listen(host: host, port: port, backlog: settings.backlog)
        } catch {
          let isMissing = [EADDRNOTAVAIL, EAFNOSUPPORT].contains(error.code)
          // Somebody else may have that free port at the other address.
          let isUnlucky = settings.port == 0 && error.code == EADDRINUSE
          guard isOptional, isMissing || isUnlucky else { throw error }
        }
      }
      if !settings.unixSocket.isEmpty {
        sockets.append(
          try Socket.listen(
            path: settings.unixSocket, permissions: settings.unixSocketPermissions,
            backlog: settings.backlog))
      }
      guard !sockets.isEmpty else {
        throw NetworkError(
          attempt: "listen anywhere: bind and unixsocket name no address", code: EINVAL)
      }
    } catch {
      for socket in sockets { close(socket.descriptor) }
      throw error
    }
    return sockets
  }

  private func startWorkers(
    _ sockets: [Socket.Listening], _ prepare: (Worker) -> Void
  ) throws(NetworkError) {
    var settings = self.settings
    let loops = Self.loopCount(settings)
    settings.maxClients = Self.raiseDescriptorLimit(
      for: settings.maxClients, spare: Self.spareDescriptors + loops * Self.spareDescriptorsPerLoop,
      log)
    let workers = makeWorkers(settings)
    for socket in sockets { workers[0].listen(on: socket) }
    prepare(workers[0])
    state.withLock { $0.addresses = sockets }
    // The first worker accepts, so it starts last, when the others can take connections.
    for worker in workers.reversed() { try worker.loop.start() }
  }

  private static func loopCount(_ settings: Settings) -> Int {
    settings.threads == 0 ? ProcessUsage.processorCount : settings.threads
  }

  /// Makes the workers, ready to take connections; their loops do not turn yet.
  func makeWorkers(_ settings: Settings) -> [Worker] {
    // libuv writes without MSG_NOSIGNAL.
    signal(SIGPIPE, SIG_IGN)
    let count = Self.loopCount(settings)
    let workers = (0..<count).map { index in
      Worker(index: index, server: self, settings: settings, commandCount: commandNames.count)
    }
    for worker in workers { worker.prepare(onRead: makeReader(self, worker)) }
    loads.withLock { $0 = Array(repeating: 0, count: count) }
    state.withLock { state in
      state.settings = settings
      state.workers = workers
      state.isStopping = false
      state.startedAt = Clock.steadyMilliseconds
      state.lastSample = (0, state.startedAt)
    }
    return workers
  }

  /// Descriptors for everything that is not a client: loops, listeners, files.
  private static let spareDescriptors = 64
  private static let spareDescriptorsPerLoop = 24

  /// Makes room for `maxClients` connections, as far as the system allows.
  ///
  /// - Returns: How many clients there is room for.
  private static func raiseDescriptorLimit(
    for maxClients: Int, spare: Int, _ log: Log
  ) -> Int {
    var limit = rlimit()
    guard unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else {
      return maxClients
    }
    let wanted = rlim_t(maxClients + spare)
    if limit.rlim_cur < wanted {
      limit.rlim_cur = min(wanted, limit.rlim_max)
      _ = unsafe setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    }
    let room = max(1, Int(clamping: limit.rlim_cur) - spare)
    if room < maxClients {
      log.warning(
        "maxclients \(maxClients) lowered to \(room): the system allows \(limit.rlim_cur) open files"
      )
    }
    return min(room, maxClients)
  }

  /// Begins to stop; returns at once. May be repeated, and called by the server's own threads.
  func requestStop() {
    let workers = state.withLock { state in
      if !state.isRunning || state.isStopping { return [Worker]() }
      state.isStopping = true
      return state.workers
    }
    // Connections that the first worker accepts meanwhile are handed on before `drain` comes.
    workers.first?.post { first in
      first.closeListeners()
      for worker in workers { worker.post { $0.drain() } }
    }
  }

  /// Returns when the threads of a server that was told to stop have ended.
  func waitUntilStopped() {
    let workers = state.withLock { $0.workers }
    for worker in workers { worker.loop.join() }
    state.withLock { state in
      state.workers = []
      state.addresses = []
      state.isRunning = false
    }
  }

  // MARK: Connections

  /// Hands an accepted socket to the worker with the fewest clients.
  func distribute(_ descriptor: Int32, isUnix: Bool) {
    let index = loads.withLock { loads in
      var least = 0
      for index in loads.indices where loads[index] < loads[least] { least = index }
      loads[least] += 1
      return least
    }
    let worker = state.withLock { $0.workers[index] }
    if !worker.post({ $0.adopt(descriptor, isUnix: isUnix) }) {
      close(descriptor)
      didLeave(worker)
    }
  }

  /// A connection of `worker` has ended.
  func didLeave(_ worker: Worker) {
    loads.withLock { $0[worker.index] -= 1 }
  }

  /// Whether protected mode lets a client from `peer` in.
  func admits(_ peer: Socket.Address, _ settings: Settings) -> Bool {
    !settings.isProtected || !settings.password.isEmpty || peer.isLoopback
      || settings.bind != Settings().bind
  }

  /// Closes the clients with these identifiers, each on its own loop.
  func kill(_ ids: Set<Int>) {
    for worker in workers { worker.post { $0.kill(ids) } }
  }

  // MARK: Settings

  var settings: Settings { state.withLock { $0.settings } }

  func setConfigurationFile(_ path: String) {
    state.withLock { $0.configurationFile = path }
  }

  /// Changes the settings, one change at a time, and tells all loops.
  func changeSettings(_ change: (inout Settings) -> Void) {
    // Told under the lock, so that all loops see all changes in the same order.
    state.withLock { state in
      change(&state.settings)
      let new = state.settings
      log.level = new.logLevel
      for worker in state.workers { worker.post { $0.apply(new) } }
    }
  }

  // MARK: What INFO asks

  /// Connections of each worker.
  var connectionLoads: [Int] { loads.withLock { $0 } }
  /// Path of the configuration file, empty for none.
  var configurationFile: String { state.withLock { $0.configurationFile } }
  var workers: [Worker] { state.withLock { $0.workers } }
  var statistics: [Statistics] { workers.map(\.statistics) }
  var uptimeMilliseconds: Int { Clock.steadyMilliseconds - state.withLock { $0.startedAt } }
  var operationsPerSecond: Int { state.withLock { $0.operationsPerSecond } }

  /// Works out the rate since the last call. Once a second.
  func sampleRates() {
    let operations = Statistics.sum(statistics) { $0.commandsProcessed.value }
    let now = Clock.steadyMilliseconds
    state.withLock { state in
      let elapsed = max(1, now - state.lastSample.milliseconds)
      state.operationsPerSecond = (operations - state.lastSample.operations) * 1000 / elapsed
      state.lastSample = (operations, now)
    }
  }
}

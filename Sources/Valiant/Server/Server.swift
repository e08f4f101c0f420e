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
/// whoever reads its log may go away and must not end it.
public final class Server: Sendable {
  /// The keys that this server serves; usable directly while it runs.
  public let store: Store
  let log: Log
  let clients = ClientRegistry()
  let pubSub = PubSub()
  /// The files in which keys are kept.
  let saving: Saving
  let scripts: Scripts
  let appendOnly: AppendOnly
  /// Forty hexadecimal digits that tell this run from others.
  let runIdentifier = Random.hexIdentifier(40)
  /// Index of each command in `Statistics`, by name.
  let commandNames: [String]

  private let makeReader: MakeReader
  private let state: Guarded<State>
  private let loads: Guarded<[Int]>

  /// Makes what a worker does with bytes from its clients; the layer above knows commands.
  typealias MakeReader = @Sendable (Server, Worker) -> (Connection, Bytes) -> Int

  private let sweeping = Atomic<Bool>(true)

  private struct State {
    var settings: Settings
    var workers: [Worker] = []
    var addresses: [Socket.Listening] = []
    var phase = Phase.stopped
    /// `requestStop` came while the server was starting.
    var isStopWanted = false
    /// The threads refer to the server: as long as they run, it stays.
    var keptAlive: Server?
    /// What SHUTDOWN has said of the last snapshot; nil when the settings say it.
    var savesAtEnd: Bool?
    var startedAt = 0
    /// Where the settings come from; nil for an embedded server.
    var configuration: Configuration?
    /// Names of settings that CONFIG SET has changed.
    var changedSettings: Set<String> = []
    var manager: ServiceManager?
    var pause: ClientPause?
    /// Whether the store tells this server of keys that go by themselves.
    var isListening = false
    var operationsPerSecond = 0
    var lastSample = (operations: 0, milliseconds: 0)
  }

  private enum Phase { case stopped, starting, running, stopping }

  /// Workers whose threads run; held while those are started, and while they are waited for.
  private let threads = Guarded([Worker]())

  /// Why a server could not start.
  public struct StartFailure: Error, CustomStringConvertible, Sendable {
    /// Whether starting again with the same settings would fail again for certain.
    var isMisconfiguration = false
    /// One sentence, such as `cannot listen on 127.0.0.1:4200: Address already in use`.
    public let description: String
  }

  init(
    settings: Settings, store: Store, commandNames: [String], makeReader: @escaping MakeReader,
    makeReplayer: @escaping AppendOnly.MakeReplayer
  ) {
    self.store = store
    self.commandNames = commandNames
    self.makeReader = makeReader
    log = Log(level: settings.logLevel, isEnabled: settings.logsToStandardError)
    saving = Saving(log: log)
    scripts = Scripts()
    appendOnly = AppendOnly(log: log, makeReplayer: makeReplayer)
    state = Guarded(State(settings: settings))
    loads = Guarded([])
  }

  // MARK: Starting and stopping

  /// Listens, starts the threads and reads the keys of `Settings.directory`; returns when clients
  /// are served. Those that come earlier are told that keys are being loaded. A store that was given to the
  /// server is not to be used meanwhile.
  ///
  /// - Throws: `StartFailure` when an address is taken, the system refuses something, or the keys
  ///   cannot be read; then nothing is left running.
  public func start() throws(StartFailure) {
    try start(under: nil, prepare: { _ in })
  }

  /// Stops accepting, answers for about 100 ms what still arrives, closes all connections and
  /// waits for the threads to end: within a second. Then saves the keys if `Settings.directory` and
  /// `saveRules` say so. Does nothing when the server is not running.
  ///
  /// A running server stays alive even when nobody refers to it; only this ends it. Must not be
  /// called by one of the server's own threads.
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
  ///   - manager: What started the program: it may have sockets for us, and keeps ours.
  ///   - prepare: Is called with the first worker before its thread runs, to add signals.
  func start(
    under manager: ServiceManager?, prepare: (Worker) -> Void
  ) throws(StartFailure) {
    let isFirst = state.withLock { state in
      guard state.phase == .stopped else { return false }
      state.phase = .starting
      state.isStopWanted = false
      state.manager = manager
      return true
    }
    guard isFirst else { throw StartFailure(description: "the server is already running") }
    do throws(StartFailure) {
      try saving.open(settings)
      try appendOnly.open(settings, into: store)
      if !appendOnly.hasFiles { try saving.find(into: store) }
    } catch {
      saving.close()
      state.withLock { $0.phase = .stopped }
      throw error
    }
    let failure: NetworkError? = threads.withLock { running in
      do throws(NetworkError) {
        running = try startWorkers(try listen(settings, under: manager), prepare)
        return nil
      } catch {
        return error
      }
    }
    let isStopWanted = state.withLock { state in
      state.phase = failure == nil ? .running : .stopped
      state.keptAlive = failure == nil ? self : nil
      return state.isStopWanted
    }
    if let failure {
      saving.close()
      throw StartFailure(
        isMisconfiguration: failure.code == EINVAL, description: "\(failure)")
    }
    if isStopWanted { requestStop() }
    if isLoading { manager?.isBusy("Loading") }
    do throws(StartFailure) {
      try saving.load(on: self)
      if !saving.isLoading { try appendOnly.load(on: self) }
      if !isLoading { for worker in workers { worker.post { $0.setLoading(false) } } }
    } catch {
      requestStop(saving: false)
      waitUntilStopped()
      throw error
    }
  }

  /// Listens where the settings say, or where a socket unit does.
  ///
  /// Sockets of a former life that systemd kept are used as they are, so that clients who connected
  /// meanwhile are served; what the settings no longer name is closed.
  private func listen(
    _ settings: Settings, under manager: ServiceManager?
  ) throws(NetworkError) -> [Socket.Listening] {
    guard let manager else {
      var none: [Socket.Listening] = []
      return try listen(settings, reusing: &none)
    }
    var settings = settings
    if !manager.activatedSockets.isEmpty {
      settings.bind = []
      settings.unixSocket = ""
    }
    var kept = Self.wanted(manager.storedSockets, settings)
    let sockets =
      manager.activatedSockets.isEmpty
      ? try listen(settings, reusing: &kept) : manager.activatedSockets
    // Something of ours may still be there that an optional address has let go.
    for socket in kept { socket.discard(removesFile: false) }
    let isAsBefore =
      !sockets.contains { $0.keeper == .nobody }
      && sockets.count { $0.keeper == .store } == manager.storedSockets.count
    return isAsBefore ? sockets : manager.keep(sockets)
  }

  /// Of the sockets of a former life, those that the settings still name; the others are let go
  /// first, for an address may be part of a new one, as 127.0.0.1 is of `*`.
  private static func wanted(
    _ kept: [Socket.Listening], _ settings: Settings
  ) -> [Socket.Listening] {
    var addresses: [String] = []
    if settings.port != 0 {
      for word in settings.bind {
        addresses += Socket.addresses(host: host(word).name, port: settings.port)
      }
    }
    return kept.filter { socket in
      // Without its file, or with that of another one, nobody reaches a unix socket any more.
      let isReachable = !socket.isUnix || Socket.isReachable(socket.address)
      if isReachable,
        socket.isUnix ? socket.address == settings.unixSocket : addresses.contains(socket.address)
      {
        return true
      }
      socket.discard(removesFile: isReachable)
      return false
    }
  }

  /// A word of `bind`: a host, which may be missing when a `-` stands before it.
  private static func host(_ word: String) -> (name: String, isOptional: Bool) {
    word.hasPrefix("-") ? (String(word.dropFirst()), true) : (word, false)
  }

  private func listen(
    _ settings: Settings, reusing kept: inout [Socket.Listening]
  ) throws(NetworkError) -> [Socket.Listening] {
    var sockets: [Socket.Listening] = []
    do throws(NetworkError) {
      for word in settings.bind {
        let (host, isOptional) = Self.host(word)
        // A port chosen by the system for the first address serves for the others as well.
        let port = settings.port == 0 ? sockets.first?.port ?? 0 : settings.port
        do throws(NetworkError) {
          sockets += try Socket.listen(
            host: host, port: port, backlog: settings.backlog, reusing: &kept)
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
            backlog: settings.backlog, reusing: &kept))
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
  ) throws(NetworkError) -> [Worker] {
    var settings = self.settings
    let room = Self.clientRoom(settings)
    if room < settings.maxClients {
      log.warning(
        "maxclients \(settings.maxClients) lowered to \(room): the system allows no more open files"
      )
      settings.maxClients = room
    }
    let workers: [Worker]
    do throws(NetworkError) {
      workers = try makeWorkers(settings)
    } catch {
      for socket in sockets { close(socket.descriptor) }
      throw error
    }
    for socket in sockets { workers[0].listen(on: socket) }
    prepare(workers[0])
    state.withLock { $0.addresses = sockets }
    // The first worker accepts, so it starts last, when the others can take connections.
    var waiting = workers
    do throws(NetworkError) {
      while let worker = waiting.last {
        try worker.loop.start()
        waiting.removeLast()
      }
      return workers
    } catch {
      Self.abandon(waiting)
      for worker in workers.dropFirst(waiting.count) {
        worker.post { $0.drain() }
        worker.loop.join()
      }
      forgetWorkers()
      throw error
    }
  }

  /// Ends workers whose threads were never started, in this one.
  private static func abandon(_ workers: [Worker]) {
    for worker in workers {
      worker.closeListeners()
      worker.drain()
      worker.loop.run()
    }
  }

  private func forgetWorkers() {
    state.withLock { state in
      state.workers = []
      state.addresses = []
    }
  }

  private static func loopCount(_ settings: Settings) -> Int {
    settings.threads == 0 ? ProcessUsage.processorCount : settings.threads
  }

  /// Makes the workers, ready to take connections; their loops do not turn yet.
  func makeWorkers(_ settings: Settings) throws(NetworkError) -> [Worker] {
    // Whoever reads the log may go away.
    signal(SIGPIPE, SIG_IGN)
    let count = Self.loopCount(settings)
    var workers: [Worker] = []
    do throws(NetworkError) {
      for index in 0..<count {
        let worker = try Worker(
          index: index, of: count, server: self, settings: settings,
          commandCount: commandNames.count)
        worker.prepare(onRead: makeReader(self, worker))
        workers.append(worker)
      }
    } catch {
      Self.abandon(workers)
      throw error
    }
    loads.withLock { $0 = Array(repeating: 0, count: count) }
    state.withLock { state in
      state.settings = settings
      state.workers = workers
      state.startedAt = Clock.steadyMilliseconds
      state.lastSample = (0, state.startedAt)
    }
    listenAsSet()
    return workers
  }

  /// Descriptors for everything that is not a client: loops, listeners, files.
  private static let spareDescriptors = 64
  private static let spareDescriptorsPerLoop = 24

  /// Makes room for `maxClients` connections, as far as the system allows.
  ///
  /// - Returns: How many clients there is room for.
  private static func raiseDescriptorLimit(for maxClients: Int, spare: Int) -> Int {
    var limit = rlimit()
    guard unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else {
      return maxClients
    }
    let wanted = rlim_t(maxClients + spare)
    if limit.rlim_cur < wanted {
      limit.rlim_cur = min(wanted, limit.rlim_max)
      _ = unsafe setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    }
    return min(max(1, Int(clamping: limit.rlim_cur) - spare), maxClients)
  }

  /// How many of `settings.maxClients` the system leaves room for; raises its limit if it may.
  static func clientRoom(_ settings: Settings) -> Int {
    raiseDescriptorLimit(
      for: settings.maxClients,
      spare: spareDescriptors + loopCount(settings) * spareDescriptorsPerLoop)
  }

  /// Begins to stop; returns at once. May be repeated, and called by the server's own threads.
  ///
  /// - Parameter saves: Whether a snapshot is written in the end; nil when the settings say it.
  func requestStop(saving saves: Bool? = nil) {
    let (workers, manager) = state.withLock { state -> ([Worker], ServiceManager?) in
      if state.phase == .starting { state.isStopWanted = true }
      guard state.phase == .running else { return ([], nil) }
      state.phase = .stopping
      state.savesAtEnd = saves
      return (state.workers, state.manager)
    }
    // The last snapshot, which comes behind the last client, is not meant.
    if !workers.isEmpty {
      saving.cancel()
      appendOnly.cancel()
    }
    manager?.stopping()
    // Connections that the first worker accepts meanwhile are handed on before `drain` comes.
    workers.first?.post { first in
      first.closeListeners()
      for worker in workers { worker.post { $0.drain() } }
    }
  }

  /// Returns when the threads have ended; who calls it later waits until the first one is through.
  func waitUntilStopped() {
    let kept = threads.withLock { running -> Server? in
      if running.isEmpty { return nil }
      for worker in running { worker.loop.join() }
      running = []
      saveAtEnd()
      saving.waitUntilIdle()
      appendOnly.finish(on: self)
      saving.close()
      forgetWorkers()
      return state.withLock { state in
        state.phase = .stopped
        defer { state.keptAlive = nil }
        return state.keptAlive
      }
    }
    // Let go outside the locks, which end with the server.
    _ = kept
  }

  /// Writes the last snapshot, if there is to be one: nobody changes a key any more.
  private func saveAtEnd() {
    let (settings, saves, manager) = state.withLock { ($0.settings, $0.savesAtEnd, $0.manager) }
    // What has not been read as a whole must not replace anything.
    guard saves ?? !settings.saveRules.isEmpty, !isLoading else { return }
    var lastReport = Int.min / 2
    saving.finish(on: self, retries: manager != nil) {
      let now = Clock.steadyMilliseconds
      guard let manager, now - lastReport >= 1000 else { return }
      lastReport = now
      manager.isBusy(self.savingText)
    }
  }

  /// Why the last snapshot could not be written, as far as that can be known before; nil when it can,
  /// or need not.
  ///
  /// - Parameter saves: Whether there is to be one; nil when the settings say it.
  func savingProblem(_ saves: Bool?) -> String? {
    let settings = settings
    if let failure = appendOnly.failure { return failure.description }
    guard saves ?? !settings.saveRules.isEmpty, !settings.directory.isEmpty else { return nil }
    do throws(FileError) {
      try saving.check(settings)
      return nil
    } catch {
      return error.description
    }
  }

  private var savingText: String {
    guard let snapshot = saving.current else { return "Stopping: the keys could not be saved yet" }
    return "Stopping: saved \(snapshot.savedKeyCount) of \(snapshot.keyCount) keys"
  }

  /// Answers a client on whichever loop that has been waiting.
  func finishWaiting(
    _ client: Int, on worker: Int, _ isSilent: Bool,
    _ write: @escaping @Sendable (inout ReplyWriter) -> Void
  ) {
    self.worker(worker)?.post { worker in
      if isSilent { return worker.finishWaiting(client, nil) }
      worker.finishWaiting(client, write)
    }
  }

  /// Ends a client on whichever loop that has got what it was waiting for.
  func closeWaiting(_ client: Int, on worker: Int) {
    self.worker(worker)?.post { $0.closeWaiting(client) }
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

  /// Closes the clients whose buffers take most, if all together take more than they may.
  func evictClients(above limit: Int) {
    if clients.heldBytes <= limit { return }
    let workers = workers
    for (id, index) in clients.chooseEvicted(above: limit) { workers[index].post { $0.evict(id) } }
  }

  // MARK: Settings

  var settings: Settings { state.withLock { $0.settings } }

  func setConfiguration(_ configuration: Configuration) {
    state.withLock { $0.configuration = configuration }
  }

  /// Changes the settings, one change at a time, and tells all loops.
  ///
  /// - Parameter change: Returns the names of settings that from now on have other values than their
  ///   sources say.
  func changeSettings(_ change: (inout Settings) -> Set<String>) {
    // Told under the lock, so that all loops see all changes in the same order.
    state.withLock { state in
      state.changedSettings.formUnion(change(&state.settings))
      let new = state.settings
      log.level = new.logLevel
      for worker in state.workers { worker.post { $0.apply(new) } }
    }
    listenAsSet()
    workers.first?.post { $0.server.appendOnly.settingsDidChange(on: $0.server) }
  }

  /// Has the store tell of expiry and eviction if the settings want it told. By the first loop, for
  /// the caller may hold locks of the store.
  private func listenAsSet() {
    let first = state.withLock { $0.workers.first }
    first?.post { worker in
      let server = worker.server
      let difference = server.state.withLock { state -> Int in
        let wants = state.settings.keyspaceEvents.wantsRemovals
        defer { state.isListening = wants }
        return wants == state.isListening ? 0 : wants ? 1 : -1
      }
      if difference != 0 { server.store.changeListeners(by: difference) }
    }
  }

  /// Has what CONFIG SET has changed hold after a restart; see `Configuration.rewrite`.
  ///
  /// - Returns: Nil when there is no configuration file.
  func rewriteSettings() throws(StartError) -> Configuration.Rewrite? {
    let (configuration, running, changed) = state.withLock {
      ($0.configuration, $0.settings, $0.changedSettings)
    }
    guard let configuration, configuration.invocation.file != nil else { return nil }
    return try configuration.rewrite(running, changed: changed)
  }

  /// Whether loops remove keys that have expired.
  var isSweeping: Bool { sweeping.load(ordering: .relaxed) }

  /// Has keys removed when they expire, or only when somebody comes across them.
  func setSweeping(_ isOn: Bool) { sweeping.store(isOn, ordering: .relaxed) }

  /// The pause that makes clients wait at the moment.
  var pause: ClientPause? {
    let pause = state.withLock { $0.pause }
    return pause.flatMap { $0.end > Clock.steadyMilliseconds ? $0 : nil }
  }

  /// Has commands of all clients wait, or nobody any more, from the loops' next turns on.
  ///
  /// - Returns: The pause that holds.
  @discardableResult
  func setPause(_ pause: ClientPause?) -> ClientPause? {
    state.withLock { state in
      let joined = pause?.joined(with: state.pause)
      state.pause = joined
      for worker in state.workers { worker.post { $0.setPause(joined) } }
      return joined
    }
  }

  /// Tells a client, on whichever loop, of which keys copies are invalid.
  ///
  /// - Parameter isGone: Called, on whichever thread, when there is no such client any more.
  func tell(
    _ client: Int, _ message: InvalidationMessage, isGone: @escaping @Sendable () -> Void
  ) {
    guard let index = clients.workerIndex(of: client) else { return isGone() }
    workers[index].post { if !$0.tell(client, message) { isGone() } }
  }

  /// Has messages reach the subscribers of one loop.
  func post(_ publications: [Publication], to worker: Int) {
    self.worker(worker)?.post { $0.deliver(publications) }
  }

  /// The worker with this index; nil when it has ended.
  private func worker(_ index: Int) -> Worker? {
    state.withLock { index < $0.workers.count ? $0.workers[index] : nil }
  }

  // MARK: Loading

  /// Whether keys are being read from files.
  var isLoading: Bool { saving.isLoading || appendOnly.isLoading }

  /// How far that has come; nil when it is over.
  var loadProgress: (read: Int, total: Int, keys: Int, began: Int)? {
    saving.loadProgress ?? appendOnly.loadProgress
  }

  /// Workers whose loops do not turn, by which commands are repeated, as many as there are others; ended
  /// by `end`.
  func makeLoadingWorkers() throws(NetworkError) -> [Worker] {
    var settings = settings
    // What fitted once is not evicted now, and nobody hears of it.
    settings.maxMemory = Settings.MemoryLimit()
    settings.keyspaceEvents = []
    settings.bulkLengthMaxBytes = Store.lengthMax
    var made: [Worker] = []
    do throws(NetworkError) {
      for _ in workers {
        made.append(
          try Worker(
            index: 0, of: 1, server: self, settings: settings, commandCount: commandNames.count))
      }
    } catch {
      Self.abandon(made)
      throw error
    }
    return made
  }

  func end(_ workers: [Worker]) { Self.abandon(workers) }

  // MARK: What INFO asks

  /// Connections of each worker.
  var connectionLoads: [Int] { loads.withLock { $0 } }
  /// Path of the configuration file, empty for none.
  var configurationFile: String {
    state.withLock { $0.configuration?.invocation.file } ?? ""
  }
  var workers: [Worker] { state.withLock { $0.workers } }
  var statistics: [Statistics] { workers.map(\.statistics) }
  var uptimeMilliseconds: Int { Clock.steadyMilliseconds - state.withLock { $0.startedAt } }
  var operationsPerSecond: Int { state.withLock { $0.operationsPerSecond } }

  /// Begins all statistics again; `worker` has begun its own.
  ///
  /// - Parameter isLocked: Whether the caller holds the locks of all shards.
  func resetStatistics(but worker: Worker, isLocked: Bool) {
    store.resetStatistics(isLocked: isLocked)
    for other in workers where other !== worker { other.post { $0.resetStatistics() } }
  }

  /// Works out the rate since the last call. Once a second.
  func sampleRates() {
    let operations = Statistics.sum(statistics) { $0.commandsProcessed.value }
    let now = Clock.steadyMilliseconds
    state.withLock { state in
      let elapsed = max(1, now - state.lastSample.milliseconds)
      // After CONFIG RESETSTAT there are fewer than there were.
      let count = max(0, operations - state.lastSample.operations)
      state.operationsPerSecond = count * 1000 / elapsed
      state.lastSample = (operations, now)
    }
  }
}

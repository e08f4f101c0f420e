import Glibc

/// When a server's keys are written to a file and read from it, and how that went.
///
/// May be used from any thread.
final class Saving: Sendable {
  private let state = Guarded(State())
  private let log: Log

  private struct State {
    /// The folder, which no other server may write to.
    var folder: SavedFolder?
    var path = ""
    /// As long as not all that is in the file is in the store.
    var load: SnapshotLoad?
    var loadBegan = 0
    /// Whether a snapshot is being written, or is about to begin.
    var isSaving = false
    var snapshot: Snapshot?
    /// Whether another snapshot is wanted behind the one that is written.
    var isScheduled = false
    var waiting: [Waiting] = []
    var report = Report()
    /// Changes of keys when the last snapshot that was written began.
    var savedChanges = 0
    /// When the last attempt began, in milliseconds of the steady clock.
    var lastTry = Int.min / 2
  }

  /// A client that waits for the snapshot that is being written.
  private struct Waiting {
    let worker: Int
    let client: Int
    let isSilent: Bool
  }

  /// How saving and loading went, as INFO tells it.
  struct Report: Sendable {
    var isLastGood = true
    /// When a snapshot was written last, or the server started: seconds since 1970.
    var lastSave = Clock.wallMilliseconds / 1000
    /// Seconds that the last attempt took, -1 for none.
    var lastSeconds = -1
    /// Snapshots that have been written.
    var count = 0
    /// The most bytes that waited in the last one, because they were about to change.
    var lastWaitingBytes = 0
    var loadedKeys = 0
    var expiredKeys = 0
  }

  /// Seconds behind a failure after which the rules count again.
  private static let retryMilliseconds = 5000

  init(log: Log) {
    self.log = log
  }

  // MARK: The folder

  /// Makes sure of the folder.
  ///
  /// - Throws: Why the server must not start.
  func open(_ settings: Settings) throws(Server.StartFailure) {
    if settings.directory.isEmpty { return }
    state.withLock { $0.path = "\(settings.directory)/\(settings.fileName)" }
    if !settings.saveRules.isEmpty || settings.appendsToLog {
      do throws(FileError) {
        let folder = try SavedFolder(settings.directory)
        state.withLock { $0.folder = folder }
      } catch {
        throw Server.StartFailure(
          isMisconfiguration: error.number != EWOULDBLOCK,
          description:
            "\(error.description); dir says where keys are kept, and save \"\" that they are not")
      }
    }
  }

  /// Looks for a file to be loaded.
  ///
  /// - Throws: Why the server must not start.
  func find(into store: Store) throws(Server.StartFailure) {
    let path = state.withLock { $0.path }
    if path.isEmpty || isMissing(path) { return }
    // What the embedding program has put there is newer.
    guard store.census().keys == 0 else {
      return log.notice("\(path) is not loaded: there are keys already")
    }
    do throws(RDBError) {
      let load = try SnapshotLoad(path, into: store)
      state.withLock { state in
        state.load = load
        state.loadBegan = Clock.wallMilliseconds
      }
    } catch {
      throw Self.failure(error)
    }
  }

  private static func failure(_ error: RDBError) -> Server.StartFailure {
    Server.StartFailure(
      isMisconfiguration: true,
      description: "\(error); see valiant --check, and put another file there or none")
  }

  /// Lets another server write to the folder.
  func close() {
    state.withLock { state in
      state.folder = nil
      state.load = nil
    }
  }

  // MARK: Loading

  var isLoading: Bool { state.withLock { $0.load != nil } }

  /// Reads what there is, while clients are told so.
  ///
  /// - Throws: Why the server must not go on.
  func load(on server: Server) throws(Server.StartFailure) {
    guard let load = state.withLock({ $0.load }) else { return }
    let settings = server.settings
    let start = Clock.steadyMilliseconds
    do throws(RDBError) {
      try load.run(
        threads: server.workers.count, access: settings.accessTracking(at: .now), isAlone: true)
    } catch {
      if load.isCancelled { return }
      throw Self.failure(error)
    }
    let changes = server.store.census().changes
    didLoad(changes: changes)
    state.withLock { state in
      state.load = nil
      state.report.loadedKeys = load.keyCount
      state.report.expiredKeys = load.expiredCount
    }
    let elapsed = Clock.steadyMilliseconds - start
    log.notice(
      "loaded \(load.keyCount) keys in \(Self.seconds(elapsed)) s; the time to live of \(load.expiredCount) was over"
    )
  }

  /// Counts changes from here on, for what is in the store has been read from a file.
  func didLoad(changes: Int) { state.withLock { $0.savedChanges = changes } }

  /// Stops loading and saving, for the server is to stop.
  func cancel() {
    state.withLock { state in
      state.load?.cancel()
      state.snapshot?.cancel()
      state.isScheduled = false
    }
  }

  /// How far loading has come; nil when that is over.
  var loadProgress: (read: Int, total: Int, keys: Int, began: Int)? {
    state.withLock { state in
      guard let load = state.load else { return nil }
      return (load.readByteCount, load.byteCount, load.keyCount, state.loadBegan / 1000)
    }
  }

  // MARK: Saving

  /// What became of the wish for a snapshot.
  enum Beginning {
    case began
    /// Another one is being written.
    case isBusy
    /// There is no place for it, in one sentence.
    case impossible(String)
  }

  /// Begins to write a snapshot of this moment, on a thread of its own.
  ///
  /// - Parameter isLocked: Whether the caller holds the locks of all shards.
  func begin(on server: Server, isLocked: Bool) -> Beginning {
    let settings = server.settings
    let path = state.withLock { $0.path }
    if path.isEmpty { return .impossible("there is no directory to write to: dir is empty") }
    do throws(FileError) {
      try takeFolder(settings)
    } catch {
      return .impossible(error.description)
    }
    guard let snapshot = take(server.store, isLocked: isLocked) else { return .isBusy }
    let hasBegun = Background.start { [self] _ in
      _ = write(snapshot, path, settings, server)
      let isScheduled = state.withLock { state in
        defer { state.isScheduled = false }
        return state.isScheduled
      }
      if isScheduled { _ = begin(on: server, isLocked: false) }
    }
    if hasBegun { return .began }
    // The store has to be let go of, when no lock is held any more.
    snapshot.cancel()
    server.workers.first?.post { [self] _ in _ = write(snapshot, path, settings, server) }
    return .impossible("the system has no thread for it")
  }

  /// Begins a moment, which has to be written; nil when another one is being written.
  private func take(_ store: Store, isLocked: Bool = false) -> Snapshot? {
    let isFree = state.withLock { state in
      defer { state.isSaving = true }
      return !state.isSaving
    }
    if !isFree { return nil }
    let snapshot = Snapshot(of: store, isLocked: isLocked)
    state.withLock { state in
      state.snapshot = snapshot
      state.isSaving = snapshot != nil
      state.lastTry = Clock.steadyMilliseconds
    }
    return snapshot
  }

  /// Makes sure that no other server writes to the folder.
  func takeFolder(_ settings: Settings) throws(FileError) {
    if state.withLock({ $0.folder != nil }) { return }
    let folder = try SavedFolder(settings.directory)
    state.withLock { $0.folder = folder }
  }

  /// - Returns: Whether the file is written.
  private func write(
    _ snapshot: Snapshot, _ path: String, _ settings: Settings, _ server: Server,
    pause: (() -> Void)? = nil
  ) -> Bool {
    let start = Clock.steadyMilliseconds
    let options = options(settings)
    var summary: Snapshot.Summary?
    var failure: FileError?
    do throws(FileError) {
      summary = try snapshot.write(
        to: path, options, facts: Self.facts(of: server, isBase: false),
        pause: pause ?? Self.courtesy(on: server))
    } catch {
      failure = error
    }
    let elapsed = Clock.steadyMilliseconds - start
    let wasCancelled = failure != nil && snapshot.isCancelled
    let waiting: [Waiting] = state.withLock { state in
      state.snapshot = nil
      state.isSaving = false
      if !wasCancelled {
        state.report.isLastGood = failure == nil
        state.report.lastSeconds = elapsed / 1000
        state.report.lastWaitingBytes = snapshot.waitingBytesMax
      }
      if let summary {
        state.report.count += 1
        state.report.lastSave = Clock.wallMilliseconds / 1000
        state.savedChanges = summary.changes
      }
      defer { state.waiting = [] }
      return state.waiting
    }
    if let summary {
      log.notice(
        "saved \(summary.keys) keys to \(path): \(summary.bytes) bytes in \(Self.seconds(elapsed)) s"
      )
    } else if let failure, !wasCancelled {
      log.warning("saving failed: \(failure)")
    }
    let hasFailed = failure != nil
    if !wasCancelled { tell(server, hasFailed: hasFailed) }
    for one in waiting {
      server.finishWaiting(one.client, on: one.worker, one.isSilent) { reply in
        if hasFailed { reply.error(Array("ERR".utf8)) } else { reply.ok() }
      }
    }
    return !hasFailed
  }

  /// Milliseconds as seconds.
  private static func seconds(_ milliseconds: Int) -> String {
    decimalText(milliseconds / 10, places: 2)
  }

  /// How snapshots are written.
  func options(_ settings: Settings) -> RDBWriter.Options {
    var options = RDBWriter.Options()
    options.compresses = settings.compressesSnapshots
    options.hasChecksum = settings.checksumsSnapshots
    if settings.evictionPolicy.isRanked { options.access = settings.accessTracking(at: .now) }
    return options
  }

  /// What is to be called after each few hundred keys of a snapshot: lets clients go first.
  static func courtesy(on server: Server) -> () -> Void {
    var courtesy = Background.Courtesy()
    let statistics = server.statistics
    return { courtesy.pause(others: Statistics.sum(statistics) { $0.commandsProcessed.value }) }
  }

  /// What a snapshot says of itself.
  ///
  /// - Parameter isBase: Whether it is the base of an append log.
  static func facts(of server: Server, isBase: Bool) -> [(name: String, value: String)] {
    [
      ("redis-ver", Version.redis), ("redis-bits", "64"), ("valiant-ver", Version.valiant),
      ("ctime", "\(Clock.wallMilliseconds / 1000)"),
      ("used-mem", "\(server.store.memory.pool.usedBytes)"), ("aof-base", isBase ? "1" : "0"),
    ]
  }

  /// Has a client get its reply when the snapshot is written that is being written now.
  ///
  /// - Returns: False when there is none any more.
  func wait(client: Int, worker: Int, isSilent: Bool) -> Bool {
    state.withLock { state in
      if state.snapshot == nil { return false }
      state.waiting.append(Waiting(worker: worker, client: client, isSilent: isSilent))
      return true
    }
  }

  /// Replaces the file, as there are no keys any more: else they would come back after a crash.
  ///
  /// - Parameter isLocked: Whether the caller holds the locks of all shards.
  func didRemoveAll(on server: Server, isLocked: Bool) {
    // It may be one of a log that is being read.
    if server.isLoading || server.settings.saveRules.isEmpty || state.withLock({ $0.path.isEmpty })
    {
      return
    }
    // One that is under way is of keys that nobody wants; the next one follows it.
    let isBusy = state.withLock { state in
      state.snapshot?.cancel()
      state.isScheduled = state.isSaving
      return state.isScheduled
    }
    if !isBusy { _ = begin(on: server, isLocked: isLocked) }
  }

  /// Begins a snapshot if the rules ask for one. Once a second.
  func followRules(on server: Server) {
    let settings = server.settings
    // What has not been read as a whole must not replace anything.
    if settings.saveRules.isEmpty || server.isLoading { return }
    let now = Clock.steadyMilliseconds
    let (isIdle, report, savedChanges, lastTry) = state.withLock {
      (
        !$0.isSaving && !$0.path.isEmpty, $0.report, $0.savedChanges,
        $0.lastTry
      )
    }
    guard isIdle, report.isLastGood || now - lastTry >= Self.retryMilliseconds else { return }
    let elapsed = Clock.wallMilliseconds / 1000 - report.lastSave
    guard settings.saveRules.contains(where: { elapsed > $0.seconds }) else { return }
    let changes = server.store.census().changes - savedChanges
    guard
      let rule = settings.saveRules.first(where: {
        elapsed > $0.seconds && changes >= $0.changes
      })
    else { return }
    log.notice(
      "\(changes) changes in \(elapsed) seconds: saving (save \(rule.seconds) \(rule.changes))")
    if case .impossible(let why) = begin(on: server, isLocked: false) {
      log.warning("saving failed: \(why)")
      state.withLock { state in
        state.lastTry = now
        state.report.isLastGood = false
      }
      tell(server, hasFailed: true)
    }
  }

  /// Has all loops know how the last snapshot went.
  private func tell(_ server: Server, hasFailed: Bool) {
    for worker in server.workers { worker.post { $0.setSavingFailed(hasFailed) } }
  }

  /// Whether a file could be written at all, as far as that can be known before.
  ///
  /// - Throws: Why not.
  func check(_ settings: Settings) throws(FileError) {
    let path = state.withLock { $0.path }
    try takeFolder(settings)
    // It is removed again, and is not that of a snapshot that is being written.
    _ = try OutputFile(replacing: "\(path).try")
  }

  /// Writes all keys behind the last client, unless the file has them.
  ///
  /// - Parameters:
  ///   - retries: Whether it goes on trying until that succeeds.
  ///   - report: Called now and then meanwhile.
  func finish(on server: Server, retries: Bool, _ report: @escaping () -> Void) {
    let (path, isLoading, savedChanges) = state.withLock {
      ($0.path, $0.load != nil, $0.savedChanges)
    }
    // What has not been read as a whole must not replace it.
    if path.isEmpty || isLoading { return }
    let changes = server.store.census().changes
    if changes == savedChanges, !isMissing(path) { return }
    let settings = server.settings
    while true {
      // One that is to be cancelled may still be letting go.
      guard let snapshot = take(server.store) else {
        Clock.sleep(microseconds: 1000)
        continue
      }
      if write(snapshot, path, settings, server, pause: report) || !retries { return }
      report()
      Clock.sleep(microseconds: 1_000_000)
    }
  }

  /// Returns when no snapshot is being written any more, of those that have been cancelled.
  func waitUntilIdle() {
    while state.withLock({ $0.isSaving }) { Clock.sleep(microseconds: 1000) }
  }

  // MARK: What INFO asks

  var report: Report { state.withLock { $0.report } }
  /// Seconds since 1970 of the last snapshot.
  var lastSave: Int { report.lastSave }
  /// The snapshot that is being written.
  var current: Snapshot? { state.withLock { $0.snapshot } }
  /// Seconds since that began.
  var currentSeconds: Int {
    state.withLock { !$0.isSaving ? -1 : (Clock.steadyMilliseconds - $0.lastTry) / 1000 }
  }
  var waitingCount: Int { state.withLock { $0.waiting.count } }

  /// How often keys have been changed since the last snapshot.
  ///
  /// - Parameter changes: How often in all.
  func unsaved(of changes: Int) -> Int { max(0, changes - state.withLock { $0.savedChanges }) }
}

/// The folder of a server's files, locked against others as long as this object is there.
private final class SavedFolder: Sendable {
  private let descriptor: Int32

  /// - Throws: `FileError`, with EWOULDBLOCK when another server has it.
  init(_ path: String) throws(FileError) {
    descriptor = unsafe Glibc.open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard descriptor >= 0 else { throw FileError("use the directory", path) }
    if unsafe access(path, W_OK | X_OK) != 0 {
      let error = FileError("write to the directory", path)
      Glibc.close(descriptor)
      throw error
    }
    if flock(descriptor, LOCK_EX | LOCK_NB) != 0, errno == EWOULDBLOCK {
      Glibc.close(descriptor)
      throw FileError(
        number: EWOULDBLOCK, "another server keeps its keys in the directory \(path)")
    }
  }

  deinit { Glibc.close(descriptor) }
}

import Glibc
import Synchronization

/// Whether and how a server writes down what becomes of its keys, and reads that again.
///
/// May be used from any thread.
final class AppendOnly: Sendable {
  /// What has become of keys, until it is written.
  let changes = ChangeQueue()
  private let state = Guarded(State())
  /// Whether replies wait for the disk.
  private let withholding = Guarded(false)
  private let log: Log
  private let makeReplayer: MakeReplayer
  private let cancelled = Atomic<Bool>(false)

  typealias MakeReplayer = @Sendable (Server, [Worker]) -> any LogReplaying

  private struct State {
    var place: AppendLog.Place?
    var writer: AppendLog?
    /// What is to be loaded, until it is.
    var load: LogLoad?
    /// When loading began, or what comes instead, in milliseconds since 1970; nil when that is over.
    var beginning: Int?
    var isRewriting = false
    var snapshot: Snapshot?
    var report = Report()
    var waiting: [Waiting] = []
    var isBehind = false
    /// When the next attempt is due to begin the log, or to write it anew.
    var retryAt = 0
    var fault: OutputFile.Fault?
  }

  /// A client that waits for changes to be on the disk.
  private struct Waiting {
    let worker: Int
    let client: Int
    let isSilent: Bool
    let position: Int
    /// Whether it waits for more than there is to be had.
    let isHopeless: Bool
    /// In milliseconds of the steady clock; nil for never.
    let deadline: Int?
  }

  /// How rewriting went, as INFO tells it.
  struct Report: Sendable {
    var isLastRewriteGood = true
    /// Seconds, -1 for none.
    var lastRewriteSeconds = -1
    var rewriteCount = 0
    var failuresInRow = 0
    /// When the one began that is under way, in milliseconds of the steady clock.
    var rewriteBegan: Int?
    var lastWaitingBytes = 0
    var delayedCount = 0
  }

  /// Milliseconds behind the first failure, which double with each one.
  private static let retryMilliseconds = 1000
  private static let retryMillisecondsMax = 60_000
  /// Age of what has not been written above which changes wait, and how much of it there may be.
  private static let behindMilliseconds = 2000
  private static let behindBytes = 64 << 20

  init(log: Log, makeReplayer: @escaping MakeReplayer) {
    self.log = log
    self.makeReplayer = makeReplayer
  }

  /// Has steps of the next log fail, or take their time. For tests.
  func setFault(_ fault: OutputFile.Fault?) { state.withLock { $0.fault = fault } }

  private var writer: AppendLog? { state.withLock { $0.writer } }

  // MARK: Starting

  /// Looks for files to be loaded.
  ///
  /// - Throws: Why the server must not start.
  func open(_ settings: Settings, into store: Store) throws(Server.StartFailure) {
    cancelled.store(false, ordering: .relaxed)
    state.withLock { state in
      state.load = nil
      state.beginning = nil
    }
    if settings.directory.isEmpty {
      if !settings.appendsToLog { return }
      throw Server.StartFailure(
        isMisconfiguration: true, description: "appendonly needs a directory: dir is empty")
    }
    let place = AppendLog.Place(
      folder: "\(settings.directory)/\(settings.logFolder)", name: settings.logName)
    state.withLock { $0.place = place }
    guard settings.appendsToLog else { return }
    // Clients wait until it has been read, or begun.
    state.withLock { $0.beginning = Clock.wallMilliseconds }
    if store.changeQueue != nil {
      throw Server.StartFailure(
        description: "another server writes an append log of the same store")
    }
    if store.census().keys > 0 {
      return log.notice("\(place.folder) is not loaded: there are keys already")
    }
    do throws(LogError) {
      guard let manifest = try Self.manifest(at: place, settings) else { return }
      let load = try LogLoad(manifest, at: place)
      state.withLock { $0.load = load }
    } catch {
      throw Self.failure(error)
    }
  }

  /// The files that there are; nil for none. A log of one file, as Redis before 7 has it, becomes the
  /// base of one.
  private static func manifest(
    at place: AppendLog.Place, _ settings: Settings
  ) throws(LogError) -> LogManifest? {
    var manifest = LogManifest()
    let isNew = isMissing(place.manifestPath)
    if isNew {
      if isMissing("\(settings.directory)/\(settings.logName)") { return nil }
      manifest.base = LogManifest.File(name: settings.logName, sequence: 1)
    } else {
      manifest = try LogManifest(path: place.manifestPath)
    }
    do throws(FileError) {
      if isNew {
        try makeFolder(place.folder)
        try AppendLog.write(manifest, at: place)
      }
      try moveOldFile(manifest, to: place, settings)
      return manifest
    } catch {
      throw LogError(error.description)
    }
  }

  /// Moves a log of one file where the manifest says that it is, unless that has been done.
  private static func moveOldFile(
    _ manifest: LogManifest, to place: AppendLog.Place, _ settings: Settings
  ) throws(FileError) {
    let old = "\(settings.directory)/\(settings.logName)"
    let new = place.path(settings.logName)
    guard manifest.base?.name == settings.logName, isMissing(new), !isMissing(old) else { return }
    if unsafe rename(old, new) != 0 { throw FileError("move", old) }
    try synchronizeFolder(of: new)
    try synchronizeFolder(of: old)
  }

  /// Why there can be no log where the settings want one; nil when there can, or need not.
  func refusal(of settings: Settings, on server: Server) -> String? {
    guard settings.appendsToLog else { return nil }
    if settings.directory.isEmpty { return "there is no directory to write to: dir is empty" }
    if writer == nil, server.store.changeQueue != nil {
      return "another server writes an append log of the same store"
    }
    do throws(FileError) {
      try server.saving.takeFolder(settings)
      return nil
    } catch {
      return error.description
    }
  }

  private static func makeFolder(_ path: String) throws(FileError) {
    if unsafe mkdir(path, 0o750) != 0, errno != EEXIST { throw FileError("create", path) }
    try synchronizeFolder(of: path)
  }

  private static func failure(_ error: LogError) -> Server.StartFailure {
    Server.StartFailure(isMisconfiguration: true, description: "\(error)")
  }

  /// Whether there are files that are to be loaded.
  var hasFiles: Bool { state.withLock { $0.load != nil } }

  var isLoading: Bool { state.withLock { $0.beginning != nil } }

  /// How far loading has come; nil when that is over.
  var loadProgress: (read: Int, total: Int, keys: Int, began: Int)? {
    state.withLock { state in
      guard let beginning = state.beginning else { return nil }
      let began = beginning / 1000
      if let load = state.load {
        return (load.readByteCount, load.byteCount, load.keyCount, began)
      }
      let (saved, all) = (state.snapshot?.savedKeyCount ?? 0, state.snapshot?.keyCount ?? 0)
      return (saved, all, all, began)
    }
  }

  /// Reads the files that were found, and begins to write, if the settings say so. Nobody changes keys
  /// meanwhile.
  ///
  /// - Throws: Why the server must not go on.
  func load(on server: Server) throws(Server.StartFailure) {
    let settings = server.settings
    guard settings.appendsToLog, let place = state.withLock({ $0.place }) else { return }
    do throws(LogError) {
      if let load = state.withLock({ $0.load }) {
        try self.load(load, at: place, on: server)
      } else {
        try beginLog(at: place, on: server)
      }
    } catch {
      if cancelled.load(ordering: .relaxed) { return }
      throw Self.failure(error)
    }
    let changes = server.store.census().changes
    server.saving.didLoad(changes: changes)
    state.withLock { state in
      state.load = nil
      state.beginning = nil
    }
  }

  private func load(
    _ load: LogLoad, at place: AppendLog.Place, on server: Server
  ) throws(LogError) {
    let began = Clock.steadyMilliseconds
    let settings = server.settings
    let loaded = try load.run(on: server, makeReplayer, log)
    do throws(FileError) {
      if load.manifest.increments.isEmpty, let base = load.manifest.base,
        loaded.count < load.byteCount
      {
        // Nothing is written behind it, so nobody else cuts its torn end off.
        _ = try AppendFile(place.path(base.name), count: loaded.count)
      }
      let writer = try AppendLog(
        changes, at: place, policy: settings.syncPolicy, manifest: load.manifest,
        count: loaded.count, otherBytes: loaded.otherBytes, listener: listener(on: server),
        fault: state.withLock { $0.fault })
      server.store.setChangeQueue(changes, isLocked: false)
      try start(writer, on: server)
    } catch {
      throw LogError(error.description)
    }
    let elapsed = Clock.steadyMilliseconds - began
    log.notice(
      "loaded the append log, \(server.store.census().keys) keys and \(loaded.commands) commands, in \(decimalText(elapsed / 10, places: 2)) s"
    )
  }

  /// Begins a log with the keys that there are.
  private func beginLog(at place: AppendLog.Place, on server: Server) throws(LogError) {
    let old = try Self.manifest(at: place, server.settings) ?? LogManifest()
    state.withLock { $0.isRewriting = true }
    defer { state.withLock { $0.isRewriting = false } }
    do throws(FileError) {
      // The keys of an embedding program are newer than an old log.
      try begin(at: place, after: old, on: server)
    } catch {
      throw LogError(error.description)
    }
  }

  /// Begins a log behind files that count no more.
  private func begin(
    at place: AppendLog.Place, after old: LogManifest, on server: Server
  ) throws(FileError) {
    try Self.makeFolder(place.folder)
    let writer = AppendLog(
      changes, after: old, at: place, policy: server.settings.syncPolicy,
      listener: listener(on: server), fault: state.withLock { $0.fault })
    try start(writer, on: server)
    do throws(FileError) {
      try rewrite(writer, on: server, begins: true)
    } catch {
      state.withLock { $0.writer = nil }
      server.store.setChangeQueue(nil, isLocked: false)
      _ = writer.stop()
      for worker in server.workers { worker.post { $0.setLogFailure(nil) } }
      throw error
    }
  }

  private func start(_ writer: AppendLog, on server: Server) throws(FileError) {
    guard writer.start() else {
      server.store.setChangeQueue(nil, isLocked: false)
      throw FileError(number: EAGAIN, "the system has no thread for the append log")
    }
    state.withLock { $0.writer = writer }
    withholdAsSet(on: server)
  }

  private func listener(on server: Server) -> AppendLog.Listener {
    // The server waits for the thread before it goes.
    AppendLog.Listener(
      didSynchronize: { [self, unowned server] in didSynchronize($0, server) },
      didFail: { [self, unowned server] in didFail($0, server) },
      needsBase: { [self, unowned server] in
        let isDue = state.withLock { Clock.steadyMilliseconds >= $0.retryAt }
        if isDue { beginRewrite(on: server) }
      })
  }

  // MARK: Writing

  /// Has what has been added written: now, or soon.
  ///
  /// - Returns: The position up to which everything is on the disk.
  func commit() -> Int {
    guard let writer else { return 0 }
    writer.commit()
    return writer.durablePosition
  }

  private func didSynchronize(_ position: Int, _ server: Server) {
    for worker in server.workers where worker.isWithholding {
      worker.post { $0.release(upTo: position) }
    }
    endWaiting(on: server)
  }

  private func didFail(_ failure: FileError?, _ server: Server) {
    if let failure {
      log.warning("the append log: \(failure)")
    } else {
      log.notice("the append log is written again")
    }
    let why = failure.map { systemErrorText($0.number) }
    for worker in server.workers { worker.post { $0.setLogFailure(why) } }
  }

  /// Has replies wait, or not any more, as the settings say.
  private func withholdAsSet(on server: Server) {
    // One after the other, so that what comes last holds.
    withholding.withLock { isWithholding in
      let always = server.settings.syncPolicy == .always
      isWithholding = always && state.withLock { $0.writer }?.report.isActive ?? false
      let isOn = isWithholding
      for worker in server.workers { worker.post { $0.setWithholding(isOn) } }
    }
  }

  // MARK: Writing anew

  /// What became of the wish for a new base.
  enum Beginning {
    case began
    /// It begins when the snapshot is written that is being written now.
    case scheduled
    case isBusy
    case isOff
  }

  /// Begins to write the log anew, on a thread of its own.
  @discardableResult
  func beginRewrite(on server: Server) -> Beginning {
    let (writer, isFree) = state.withLock { state -> (AppendLog?, Bool) in
      guard let writer = state.writer else { return (nil, false) }
      defer { state.isRewriting = true }
      return (writer, !state.isRewriting)
    }
    guard let writer else { return .isOff }
    if !isFree { return .isBusy }
    let isSaving = server.saving.current != nil
    let hasBegun = Background.start { [self] _ in
      do throws(FileError) {
        try rewrite(writer, on: server, begins: false)
      } catch {
        if !cancelled.load(ordering: .relaxed) {
          log.warning("the append log was not written anew: \(error)")
        }
      }
      state.withLock { $0.isRewriting = false }
    }
    if !hasBegun { state.withLock { $0.isRewriting = false } }
    return hasBegun ? isSaving ? .scheduled : .began : .isBusy
  }

  /// Writes all keys of one moment to a new base, behind which another file begins.
  ///
  /// - Parameter begins: Whether changes are written down from that moment on.
  private func rewrite(
    _ writer: AppendLog, on server: Server, begins: Bool
  ) throws(FileError) {
    let start = Clock.steadyMilliseconds
    state.withLock { $0.report.rewriteBegan = start }
    let base = writer.place.base(writer.nextBaseSequence)
    var result: Result<Snapshot.Summary, FileError>
    var isOffered = false
    do throws(FileError) {
      writer.setRewriting(true)
      defer { writer.setRewriting(false) }
      let (snapshot, position) = try take(server, begins: begins)
      state.withLock { $0.snapshot = snapshot }
      if cancelled.load(ordering: .relaxed) { snapshot.cancel() }
      let summary = try snapshot.write(
        to: writer.place.path(base.name), server.saving.options(server.settings),
        facts: Saving.facts(of: server, isBase: true), pause: Saving.courtesy(on: server))
      state.withLock { $0.report.lastWaitingBytes = snapshot.waitingBytesMax }
      let isOver = { self.cancelled.load(ordering: .relaxed) }
      guard writer.waitForFile(behind: position, unless: isOver) else {
        throw FileError(number: EIO, "no file could be begun behind the new base")
      }
      isOffered = true
      try writer.adopt(base, bytes: summary.bytes)
      result = .success(summary)
    } catch {
      result = .failure(error)
      // Later the manifest may name it, although something has failed behind that.
      if !isOffered { unsafe unlink(writer.place.path(base.name)) }
    }
    let elapsed = Clock.steadyMilliseconds - start
    state.withLock { state in
      state.snapshot = nil
      state.report.rewriteBegan = nil
      state.report.lastRewriteSeconds = elapsed / 1000
      switch result {
      case .success:
        state.report.isLastRewriteGood = true
        state.report.rewriteCount += 1
        state.report.failuresInRow = 0
      case .failure:
        state.report.isLastRewriteGood = false
        state.report.failuresInRow += 1
        let pause = Self.retryMilliseconds << min(state.report.failuresInRow - 1, 6)
        state.retryAt = Clock.steadyMilliseconds + min(pause, Self.retryMillisecondsMax)
      }
    }
    let summary = try result.get()
    withholdAsSet(on: server)
    log.notice(
      "the append log begins with \(summary.keys) keys, \(summary.bytes) bytes, written in \(decimalText(elapsed / 10, places: 2)) s"
    )
  }

  /// The moment that a base is of, behind which changes go to another file.
  private func take(
    _ server: Server, begins: Bool
  ) throws(FileError) -> (Snapshot, position: Int) {
    let store = server.store
    while !cancelled.load(ordering: .relaxed) {
      store.lockAll()
      let snapshot = Snapshot(of: store, isLocked: true, keepsExpired: true)
      var position = 0
      if snapshot != nil {
        if begins { store.setChangeQueue(changes, isLocked: true) }
        position = changes.endFile()
      }
      store.unlockAll()
      if let snapshot { return (snapshot, position) }
      // Another one is being written.
      Clock.sleep(microseconds: 10_000)
    }
    throw FileError(number: ECANCELED, "the server stops")
  }

  // MARK: Now and then

  /// What is to be looked at ten times a second, by the first loop.
  func check(on server: Server, isWholeSecond: Bool) {
    let writer = writer
    if !changes.isEmpty { writer?.wake() }
    noteBehind(writer, on: server)
    endWaiting(on: server)
    if isWholeSecond { followSettings(writer, on: server) }
  }

  /// Has changes wait while more of them wait for the disk than should: in this log, or in a snapshot
  /// that is being written.
  private func noteBehind(_ writer: AppendLog?, on server: Server) {
    var isBehind = server.store.snapshotWaitingBytes > Self.behindBytes
    if let writer {
      let now = Clock.steadyMilliseconds
      let report = writer.report
      var began = min(changes.oldest ?? now, report.busySince ?? now)
      if server.settings.syncPolicy == .everysec { began = min(began, report.unsyncedSince ?? now) }
      // Who waits for that gets no reply, or an error, anyway.
      if report.failure == nil, now - began > Self.behindMilliseconds { isBehind = true }
      if changes.end - writer.writtenPosition > Self.behindBytes { isBehind = true }
    }
    let hasChanged = state.withLock { state in
      defer { state.isBehind = isBehind }
      if isBehind, !state.isBehind { state.report.delayedCount += 1 }
      return state.isBehind != isBehind
    }
    guard hasChanged else { return }
    let now = isBehind
    for worker in server.workers { worker.post { $0.setBehind(now) } }
  }

  /// Begins or ends the log when the settings have changed, and writes it anew when it has grown.
  private func followSettings(_ writer: AppendLog?, on server: Server) {
    let settings = server.settings
    if let writer {
      writer.setPolicy(settings.syncPolicy)
      if !settings.appendsToLog { return end(on: server) }
      let report = writer.report
      let growth = report.bytes - report.bytesAtBase
      let isDue = state.withLock {
        !$0.isRewriting && Clock.steadyMilliseconds >= $0.retryAt
      }
      if isDue, report.isActive, report.failure == nil, settings.logGrowthPercent > 0,
        report.bytes >= settings.logRewriteMinBytes,
        growth / max(1, report.bytesAtBase / 100) >= settings.logGrowthPercent
      {
        log.notice("the append log has grown by \(growth) bytes: writing it anew")
        beginRewrite(on: server)
      }
    } else if settings.appendsToLog {
      beginWhileRunning(on: server)
    }
  }

  /// What a change of settings means for the log, at once.
  func settingsDidChange(on server: Server) {
    followSettings(writer, on: server)
    if let writer, writer.report.isActive { withholdAsSet(on: server) }
  }

  private func beginWhileRunning(on server: Server) {
    // It begins behind that anyway, if it is wanted then.
    if server.isLoading { return }
    let place = state.withLock { state -> AppendLog.Place? in
      guard let place = state.place, !state.isRewriting, state.load == nil, state.writer == nil,
        Clock.steadyMilliseconds >= state.retryAt
      else { return nil }
      state.isRewriting = true
      return place
    }
    guard let place else { return }
    let hasBegun = Background.start { [self] _ in
      do throws(LogError) {
        let old = try Self.manifest(at: place, server.settings) ?? LogManifest()
        do throws(FileError) {
          try begin(at: place, after: old, on: server)
        } catch {
          throw LogError(error.description)
        }
      } catch {
        log.warning("the append log could not be begun: \(error)")
        state.withLock { $0.retryAt = Clock.steadyMilliseconds + Self.retryMilliseconds }
      }
      state.withLock { $0.isRewriting = false }
    }
    if !hasBegun { state.withLock { $0.isRewriting = false } }
  }

  /// Ends the log while the server goes on.
  private func end(on server: Server) {
    let writer = state.withLock { state -> AppendLog? in
      if state.isRewriting { return nil }
      defer { state.writer = nil }
      return state.writer
    }
    guard let writer else { return }
    server.store.setChangeQueue(nil, isLocked: false)
    // What waits for the disk is still written, which may take its time.
    state.withLock { $0.isRewriting = true }
    Background.run { [self] _ in
      if !writer.stop() { log.warning("the append log could not be written to its end") }
      withholdAsSet(on: server)
      for worker in server.workers { worker.post { $0.setLogFailure(nil) } }
      log.notice("the append log has ended: appendonly no")
      state.withLock { $0.isRewriting = false }
    }
  }

  /// Has loading and writing anew end early, for the server is to stop.
  func cancel() {
    cancelled.store(true, ordering: .relaxed)
    state.withLock { state in
      state.load?.cancel()
      state.snapshot?.cancel()
    }
  }

  /// Writes what there is, behind the last client.
  func finish(on server: Server) {
    while state.withLock({ $0.isRewriting }) { Clock.sleep(microseconds: 1000) }
    let writer = state.withLock { state -> AppendLog? in
      state.load = nil
      state.beginning = nil
      state.waiting = []
      defer { state.writer = nil }
      return state.writer
    }
    guard let writer else { return }
    server.store.setChangeQueue(nil, isLocked: false)
    if !writer.stop() { log.warning("the append log lacks what could not be written") }
  }

  // MARK: Clients that wait

  /// Whether everything that has been changed so far is on the disk.
  var isDurable: Bool {
    guard let writer else { return false }
    return writer.durablePosition >= changes.end
  }

  /// Has a client get its reply when everything that has been changed so far is on the disk, or some
  /// time is over.
  ///
  /// - Parameters:
  ///   - isHopeless: Whether only the time ends it.
  ///   - milliseconds: 0 for ever.
  func wait(
    client: Int, worker: Int, isSilent: Bool, isHopeless: Bool, milliseconds: Int
  ) {
    let deadline = milliseconds == 0 ? nil : Clock.steadyMilliseconds + milliseconds
    state.withLock {
      $0.waiting.append(
        Waiting(
          worker: worker, client: client, isSilent: isSilent, position: changes.end,
          isHopeless: isHopeless, deadline: deadline))
    }
    self.writer?.synchronize()
  }

  private func endWaiting(on server: Server) {
    let now = Clock.steadyMilliseconds
    let (position, isOff) = (writer?.durablePosition ?? 0, writer == nil)
    let over = state.withLock { state -> [Waiting] in
      if state.waiting.isEmpty { return [] }
      func isOver(_ one: Waiting) -> Bool {
        if let deadline = one.deadline, now >= deadline { return true }
        return !one.isHopeless && (isOff || one.position <= position)
      }
      defer { state.waiting.removeAll(where: isOver) }
      return state.waiting.filter(isOver)
    }
    for one in over { answer(one, isDurable: !isOff && one.position <= position, server) }
  }

  private func answer(_ one: Waiting, isDurable: Bool, _ server: Server) {
    server.finishWaiting(one.client, on: one.worker, one.isSilent) { reply in
      reply.array(2)
      reply.integer(isDurable ? 1 : 0)
      reply.integer(0)
    }
  }

  // MARK: What INFO asks

  var report: Report { state.withLock { $0.report } }
  var isRewriting: Bool { state.withLock { $0.report.rewriteBegan != nil } }
  var waitingCount: Int { state.withLock { $0.waiting.count } }
  /// How the log is; nil when there is none.
  var logReport: AppendLog.Report? { writer?.report }
  /// Bytes that have not been written yet.
  var bufferedBytes: Int { writer.map { max(0, changes.end - $0.writtenPosition) } ?? 0 }
  /// Why it cannot be written.
  var failure: FileError? { writer?.report.failure }
}

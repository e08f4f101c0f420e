import Glibc
import Synchronization

/// When what was written to the append log is forced onto the disk.
enum SyncPolicy: String, CaseIterable, Sendable {
  /// Before it is acknowledged.
  case always
  /// Once a second.
  case everysec
  /// When the system thinks fit.
  case no
}

/// Writes down what becomes of a store's keys, on a thread of its own, or on those who commit.
///
/// The log is a base, which has all keys of one moment, and files with what has happened since. All
/// that has been added to the queue when the thread looks goes into blocks with checksums
/// (`LogBlock`), and onto the disk by one call for all clients of all loops.
///
/// When a call that forces files onto the disk has failed, nobody knows what is there: then nothing
/// counts as kept until a new base has been written elsewhere.
final class AppendLog: Sendable {
  /// Whom it tells, on its own thread.
  struct Listener: Sendable {
    /// Everything up to this position is on the disk.
    var didSynchronize: @Sendable (_ position: Int) -> Void = { _ in }
    /// Something cannot be written, and why; nil when everything is well again.
    var didFail: @Sendable (_ why: FileError?) -> Void = { _ in }
    /// The files are of no use, and a new base is needed. Repeated every second.
    var needsBase: @Sendable () -> Void = {}
  }

  /// Where the files are.
  struct Place: Sendable {
    let folder: String
    /// With which their names begin.
    let name: String

    var manifestPath: String { path("\(name).manifest") }
    func path(_ name: String) -> String { "\(folder)/\(name)" }
    func base(_ sequence: Int) -> LogManifest.File {
      LogManifest.File(name: "\(name).\(sequence).base.rdb", sequence: sequence)
    }
    func increment(_ sequence: Int) -> LogManifest.File {
      LogManifest.File(name: "\(name).\(sequence).incr.aof", sequence: sequence)
    }
  }

  /// How it is, as INFO tells it.
  struct Report: Sendable {
    var failure: FileError?
    /// The highest number that a base has had, 0 for none.
    var baseSequence = 0
    /// Bytes of all files that count, the base among them.
    var bytes = 0
    /// Bytes when the base was new, or the log was opened.
    var bytesAtBase = 0
    /// Whether something that was written is not known to be on the disk.
    var isSyncDue = false
    /// Since when it has been busy with one round, in milliseconds of the steady clock; nil when it
    /// has nothing to do.
    var busySince: Int?
    /// When the first change was added that is written and not on the disk for certain.
    var unsyncedSince: Int?
    /// Whether there is a base: before that nothing counts as kept.
    var isActive = false
  }

  let place: Place
  private let changes: ChangeQueue
  private let sleeper = Sleeper()
  private let shared: Guarded<Shared>
  /// Who has it writes.
  private let turn: Guarded<Files>
  private let isQuick = Atomic<Bool>(false)
  private let written = Atomic<Int>(0)
  private let durable = Atomic<Int>(0)

  private struct Shared {
    var report = Report()
    var policy: SyncPolicy
    var isStopping = false
    var hasEnded = false
    var isSyncWanted = false
    var wantedBase: (base: LogManifest.File, bytes: Int)?
    var adoption: Result<Void, FileError>?
    /// The last position behind which another file was to begin, and whether it does.
    var fileEnd = (position: -1, isGood: false)
  }

  /// What belongs to whose turn it is.
  private final class Files {
    var manifest: LogManifest
    var file: AppendFile?
    /// Files that have been begun since the last base was.
    var sinceBase: [LogManifest.File] = []
    var sequence: Int
    /// Bytes of the manifest's files but for the one that is written to.
    var otherBytes = 0
    var isActive: Bool
    /// Whether the manifest's files are of no use; and the one that is written to, which may be a new
    /// one that is not in the manifest yet.
    var isBroken = false
    var isFileBroken = false
    var isRewriting = false
    var hasFailed = false
    var isSyncDue = false
    var isSyncWanted = false
    /// When the first change was added that is written and not on the disk for certain.
    var unsyncedSince: Int?
    var syncedAt = Clock.steadyMilliseconds
    /// How long that takes, about.
    var syncMicroseconds = 0
    var retryAt = 0
    var pending: [ChangeQueue.Piece] = []
    let listener: Listener
    let fault: OutputFile.Fault?

    init(
      _ manifest: LogManifest, isActive: Bool, _ listener: Listener, _ fault: OutputFile.Fault?
    ) {
      self.manifest = manifest
      self.isActive = isActive
      self.listener = listener
      self.fault = fault
      sequence = (manifest.increments + manifest.history).map(\.sequence).max() ?? 0
    }
  }

  private static let retryMilliseconds = 1000
  private static let syncMilliseconds = 1000
  private static let idleMilliseconds = 1000
  /// A disk that takes no longer is quick.
  private static let quickMicroseconds = 500
  /// So long changes are collected that nobody waits for.
  private static let collectMicroseconds = 1000

  /// Goes on with a log that has been read.
  ///
  /// - Parameters:
  ///   - manifest: The files that there are.
  ///   - count: Whole bytes of the last of them.
  ///   - otherBytes: Bytes of all files but the last one.
  /// - Throws: When the last file cannot be written to.
  convenience init(
    _ changes: ChangeQueue, at place: Place, policy: SyncPolicy, manifest: LogManifest,
    count: Int, otherBytes: Int, listener: Listener,
    fault: OutputFile.Fault? = nil
  ) throws(FileError) {
    let files = Files(manifest, isActive: true, listener, fault)
    files.otherBytes = otherBytes
    if let last = manifest.increments.last {
      files.file = try AppendFile(place.path(last.name), count: count, fault: fault)
    } else {
      files.otherBytes += count
      _ = try Self.beginFile(files, place)
    }
    self.init(changes, at: place, policy, files)
  }

  /// A log that begins with `adopt`.
  ///
  /// - Parameter old: Files that are there, and do not count.
  convenience init(
    _ changes: ChangeQueue, after old: LogManifest, at place: Place, policy: SyncPolicy,
    listener: Listener, fault: OutputFile.Fault? = nil
  ) {
    self.init(changes, at: place, policy, Files(old, isActive: false, listener, fault))
  }

  private init(
    _ changes: ChangeQueue, at place: Place, _ policy: SyncPolicy, _ files: Files
  ) {
    self.changes = changes
    self.place = place
    turn = Guarded(files)
    var shared = Shared(policy: policy)
    shared.report.isActive = files.isActive
    shared.report.baseSequence = files.manifest.base?.sequence ?? 0
    shared.report.bytes = files.otherBytes + (files.file?.count ?? 0)
    shared.report.bytesAtBase = shared.report.bytes
    self.shared = Guarded(shared)
    durable.store(files.isActive ? changes.end : -1, ordering: .relaxed)
    written.store(changes.end, ordering: .relaxed)
  }

  /// Starts the thread.
  ///
  /// - Returns: False when the system has none.
  func start() -> Bool { Background.start { [self] _ in run() } }

  // MARK: For any thread

  var report: Report { shared.withLock { $0.report } }

  /// Up to where everything is on the disk, and has been written to files.
  var durablePosition: Int { durable.load(ordering: .sequentiallyConsistent) }
  var writtenPosition: Int { written.load(ordering: .acquiring) }

  /// Has it look at what has been added.
  func wake() { sleeper.wake() }

  func setPolicy(_ policy: SyncPolicy) {
    shared.withLock { $0.policy = policy }
    wake()
  }

  /// Has everything that has been added forced onto the disk as soon as possible.
  func synchronize() {
    shared.withLock { $0.isSyncWanted = true }
    wake()
  }

  /// Waits until another file has begun behind `position`, which `ChangeQueue.endFile` has given.
  ///
  /// - Parameter isOver: Asked whether to give up.
  /// - Returns: False when there is none.
  func waitForFile(behind position: Int, unless isOver: () -> Bool = { false }) -> Bool {
    wake()
    while !isOver() {
      let (end, hasEnded) = shared.withLock { ($0.fileEnd, $0.hasEnded) }
      if end.position >= position { return end.isGood }
      if hasEnded { return false }
      Clock.sleep(microseconds: 200)
    }
    return false
  }

  /// Has a new base, behind which the last file has begun, take the place of all older files. Returns
  /// when that is on the disk.
  func adopt(_ base: LogManifest.File, bytes: Int) throws(FileError) {
    shared.withLock { shared in
      shared.adoption = nil
      shared.wantedBase = (base, bytes)
    }
    wake()
    while true {
      let (result, hasEnded) = shared.withLock { ($0.adoption, $0.hasEnded) }
      if let result { return try result.get() }
      if hasEnded { throw FileError(number: ECANCELED, "the append log was closed") }
      Clock.sleep(microseconds: 200)
    }
  }

  /// The number of the next base.
  var nextBaseSequence: Int { report.baseSequence + 1 }

  /// Writes what there is, and ends the thread. Returns when it has.
  ///
  /// - Returns: Whether everything is on the disk.
  func stop() -> Bool {
    shared.withLock { $0.isStopping = true }
    wake()
    while !shared.withLock({ $0.hasEnded }) {
      Clock.sleep(microseconds: 200)
    }
    return durablePosition == changes.end
  }

  /// Has everything that has been added written, and on the disk if that is the policy: by this thread
  /// as long as the disk is quick, for waking another one takes half as long then.
  func commit() {
    guard isQuick.load(ordering: .relaxed) else { return wake() }
    let isDone = turn.withLockIfFree { files in
      // Somebody else may have done it meanwhile.
      if durablePosition < changes.end { round(files) }
    }
    // Whoever has the turn may be at something that takes its time.
    if !isDone { wake() }
  }

  /// Says that a new base is being written, during which the disk is busy, and files change.
  func setRewriting(_ isRewriting: Bool) {
    turn.withLock { $0.isRewriting = isRewriting }
    wake()
  }

  // MARK: The thread

  private func run() {
    var isOver = false
    while !isOver {
      let pause = turn.withLock { files -> Int in
        isOver = round(files)
        return sleepMilliseconds(files)
      }
      if isOver { break }
      sleeper.sleep(milliseconds: pause)
      let (policy, isStopping) = shared.withLock { ($0.policy, $0.isStopping) }
      if policy != .always, !isStopping {
        Clock.sleep(microseconds: Self.collectMicroseconds)
      }
    }
    turn.withLock { $0.file = nil }
    shared.withLock { $0.hasEnded = true }
  }

  /// Does what is to be done.
  ///
  /// - Returns: Whether it was the last time.
  @discardableResult
  private func round(_ files: Files) -> Bool {
    // Before what has been added is taken: that is what it is about.
    let (policy, isStopping) = shared.withLock { shared in
      if shared.isSyncWanted { files.isSyncWanted = true }
      shared.isSyncWanted = false
      return (shared.policy, shared.isStopping)
    }
    files.pending += changes.take()
    if !files.pending.isEmpty || files.isSyncDue {
      shared.withLock { $0.report.busySince = Clock.steadyMilliseconds }
    }
    write(files)
    shared.withLock { $0.report.unsyncedSince = files.unsyncedSince }
    synchronizeIfDue(files, policy, isLast: isStopping)
    adoptIfWanted(files)
    if files.isBroken, Clock.steadyMilliseconds >= files.retryAt, !isStopping {
      files.retryAt = Clock.steadyMilliseconds + Self.retryMilliseconds
      files.listener.needsBase()
    }
    let isQuick =
      policy == .always && files.isActive && !files.hasFailed && !isStopping && !files.isRewriting
      && files.syncMicroseconds < Self.quickMicroseconds
    self.isQuick.store(isQuick, ordering: .relaxed)
    shared.withLock { shared in
      shared.report.busySince = nil
      shared.report.unsyncedSince = files.unsyncedSince
      shared.report.isSyncDue = files.isSyncDue
      shared.report.bytes = files.otherBytes + (files.file?.count ?? 0)
    }
    return isStopping && (changes.isEmpty || files.hasFailed)
  }

  private func sleepMilliseconds(_ files: Files) -> Int {
    let now = Clock.steadyMilliseconds
    let policy = shared.withLock { $0.policy }
    if files.hasFailed { return max(1, files.retryAt - now) }
    if policy == .everysec, files.isSyncDue {
      return max(1, files.syncedAt + Self.syncMilliseconds - now)
    }
    return Self.idleMilliseconds
  }

  /// Writes what has been taken, as far as that goes.
  private func write(_ files: Files) {
    if files.hasFailed, !files.isBroken, Clock.steadyMilliseconds < files.retryAt { return }
    var done = 0
    defer { files.pending.removeFirst(done) }
    for piece in files.pending {
      do throws(FileError) {
        try write(piece, files)
      } catch {
        // A base is on its way, which has all of that: nobody has to wait for this file.
        let hasEnd = files.pending.contains(where: \.isLast)
        fail(files, error, isBroken: hasEnd)
        if !hasEnd { return }
      }
      if piece.isLast { endFile(files, behind: piece.end) }
      written.store(piece.end, ordering: .releasing)
      done += 1
    }
    if done > 0, files.hasFailed, !files.isBroken { recover(files) }
  }

  private func write(_ piece: ChangeQueue.Piece, _ files: Files) throws(FileError) {
    let count = piece.output.count - LogBlock.headerBytes
    // What a broken file does not get is in the base that comes.
    guard count > 0, !files.isFileBroken, let file = files.file else { return }
    if count > LogBlock.bytesMax {
      return fail(
        files, FileError(number: EFBIG, "cannot write \(count) bytes to \(file.path)"),
        isBroken: true)
    }
    var checksum: UInt64 = 0
    var left = LogBlock.headerBytes
    piece.output.forEachPiece { bytes in
      checksum = CRC64.checksum(bytes.dropFirst(min(left, bytes.count)), after: checksum)
      left -= min(left, bytes.count)
    }
    var header = ByteBuffer()
    LogBlock(count: count, checksum: checksum).write(to: &header, at: file.count)
    piece.fillReserved(with: header.bytes)
    try file.append(piece.output)
    files.isSyncDue = true
    if files.unsyncedSince == nil { files.unsyncedSince = piece.began }
  }

  private func synchronizeIfDue(_ files: Files, _ policy: SyncPolicy, isLast: Bool) {
    let now = Clock.steadyMilliseconds
    let isDue =
      switch policy {
      case .always: true
      case .everysec: now - files.syncedAt >= Self.syncMilliseconds
      case .no: false
      }
    guard isDue || files.isSyncWanted || isLast else { return }
    if files.isSyncDue { synchronizeFile(files) }
    if !files.isSyncDue, files.isActive, !files.isBroken {
      if files.pending.isEmpty { files.isSyncWanted = false }
      tellDurable(files)
    }
  }

  private func synchronizeFile(_ files: Files) {
    guard let file = files.file, !files.isFileBroken else { return }
    do throws(FileError) {
      let start = Clock.steadyMicroseconds
      try file.synchronize()
      files.isSyncDue = false
      files.unsyncedSince = nil
      files.syncedAt = Clock.steadyMilliseconds
      let taken = Clock.steadyMicroseconds - start
      files.syncMicroseconds += (taken - files.syncMicroseconds) / 8
    } catch {
      fail(files, error, isBroken: true)
    }
  }

  private func tellDurable(_ files: Files) {
    let position = writtenPosition
    if durablePosition == position { return }
    durable.store(position, ordering: .sequentiallyConsistent)
    files.listener.didSynchronize(position)
  }

  /// Begins another file, if that can be.
  private func endFile(_ files: Files, behind position: Int) {
    if files.isSyncDue { synchronizeFile(files) }
    let old = files.file
    let isOldKept = files.isActive && !files.isBroken
    let before = files.manifest
    let new = try? Self.beginFile(files, place)
    if new == nil, files.manifest != before {
      // The disk may have a manifest with a file behind this one, which then must have its end.
      fail(
        files, FileError(number: EIO, "cannot say for sure which files there are"), isBroken: true)
    }
    if let new {
      files.otherBytes += old?.count ?? 0
      files.sinceBase = [new]
      files.isFileBroken = false
      // Nobody knows of it, and what is in it is in the base that comes.
      if let old, !isOldKept,
        !files.manifest.increments.contains(where: { place.path($0.name) == old.path })
      {
        unsafe unlink(old.path)
      }
    }
    shared.withLock { $0.fileEnd = (position, new != nil) }
  }

  /// Has what follows written to a new file.
  private static func beginFile(
    _ files: Files, _ place: Place
  ) throws(FileError) -> LogManifest.File {
    let new = place.increment(files.sequence + 1)
    let file = try AppendFile(place.path(new.name), count: 0, fault: files.fault)
    files.sequence += 1
    if files.isActive, !files.isBroken {
      var manifest = files.manifest
      manifest.increments.append(new)
      try write(manifest, at: place, files)
    }
    files.file = file
    return new
  }

  /// Writes a manifest, which may be the one on the disk although this has failed.
  private static func write(
    _ manifest: LogManifest, at place: Place, _ files: Files
  ) throws(FileError) {
    try write(manifest, at: place, files.fault) { files.manifest = manifest }
  }

  /// - Parameter didReplace: Called when it may be the one on the disk.
  static func write(
    _ manifest: LogManifest, at place: Place, _ fault: OutputFile.Fault? = nil,
    _ didReplace: () -> Void = {}
  ) throws(FileError) {
    let file = try OutputFile(replacing: place.manifestPath, fault: fault)
    try file.write(text: manifest.text)
    defer { if file.hasReplaced { didReplace() } }
    try file.commit()
  }

  private func adoptIfWanted(_ files: Files) {
    let wanted = shared.withLock { shared in
      defer { shared.wantedBase = nil }
      return shared.wantedBase
    }
    guard let wanted else { return }
    var result: Result<Void, FileError> = .success(())
    do throws(FileError) {
      try adopt(files, wanted.base, wanted.bytes)
    } catch {
      result = .failure(error)
    }
    shared.withLock { $0.adoption = result }
  }

  private func adopt(
    _ files: Files, _ base: LogManifest.File, _ bytes: Int
  ) throws(FileError) {
    guard let file = files.file, !files.isFileBroken else {
      throw FileError(number: EIO, "there is no file behind the new base")
    }
    // The manifest on the disk may name it from now on, whatever else fails.
    shared.withLock { $0.report.baseSequence = base.sequence }
    // Whatever counts as kept from now on has to be there.
    try file.synchronize()
    var manifest = LogManifest()
    manifest.base = base
    manifest.increments = files.sinceBase
    let old = files.manifest
    manifest.history =
      (old.files + old.history).filter {
        $0 != base && !manifest.increments.contains($0)
      }
    try Self.write(manifest, at: place, files)
    files.isActive = true
    files.isBroken = false
    files.isSyncDue = false
    files.unsyncedSince = nil
    files.otherBytes = bytes
    shared.withLock { shared in
      shared.report.isActive = true
      shared.report.bytes = bytes + file.count
      shared.report.bytesAtBase = bytes + file.count
    }
    if files.hasFailed { recover(files) }
    tellDurable(files)
    removeHistory(files)
  }

  private func removeHistory(_ files: Files) {
    if files.manifest.history.isEmpty { return }
    for file in files.manifest.history { removeInBackground(place.path(file.name)) }
    var manifest = files.manifest
    manifest.history = []
    // Else it is done next time.
    try? Self.write(manifest, at: place, files)
  }

  private func fail(_ files: Files, _ error: FileError, isBroken: Bool) {
    files.hasFailed = true
    if isBroken {
      files.isBroken = true
      files.isFileBroken = true
    }
    files.retryAt = Clock.steadyMilliseconds + Self.retryMilliseconds
    shared.withLock { $0.report.failure = error }
    files.listener.didFail(error)
  }

  private func recover(_ files: Files) {
    files.hasFailed = false
    shared.withLock { $0.report.failure = nil }
    files.listener.didFail(nil)
  }
}

/// Removes a file, whose bytes are given back by another thread: for gigabytes that takes its time.
private func removeInBackground(_ path: String) {
  let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
  unsafe unlink(path)
  if descriptor >= 0 { Background.run { _ in close(descriptor) } }
}

import Synchronization

/// Repeats the commands of an append log; the layer above knows commands.
protocol LogReplaying: AnyObject {
  /// Commands that have been repeated.
  var commandCount: Int { get }
  /// Where a transaction begins in the file whose end has not come yet.
  var openTransaction: Int? { get }

  /// Repeats commands, now or later.
  ///
  /// - Parameter offset: Where they begin in the file.
  func run(_ commands: Bytes, at offset: Int) throws(ReplayFailure)
  /// Repeats what has not been yet.
  func finish() throws(ReplayFailure)
  /// Ends it; no other method may be called any more.
  func end()
}

/// Why a command of an append log cannot be repeated.
struct ReplayFailure: Error {
  /// Where it begins in the file.
  let offset: Int
  let text: String
}

/// Reads the files of an append log into a server's store.
final class LogLoad: Sendable {
  /// What was read.
  struct Summary {
    /// Bytes of the last file that count.
    var count = 0
    /// Bytes of all files before it.
    var otherBytes = 0
    /// Commands that have been repeated.
    var commands = 0
  }

  let manifest: LogManifest
  /// Bytes of all files.
  let byteCount: Int
  private let files: [(path: String, size: Int)]
  private let readBytes = Atomic<Int>(0)
  private let cancelled = Atomic<Bool>(false)
  /// The base, while it is read and afterwards.
  private let snapshot = Guarded(SnapshotLoad?.none)

  /// - Throws: When a file is not there.
  init(_ manifest: LogManifest, at place: AppendLog.Place) throws(LogError) {
    self.manifest = manifest
    var files: [(String, Int)] = []
    for file in manifest.files {
      let path = place.path(file.name)
      if isMissing(path) {
        throw LogError("\(place.manifestPath) names \(file.name), which is not there")
      }
      do throws(FileError) {
        files.append((path, try InputFile(path).size))
      } catch {
        throw LogError(error.description)
      }
    }
    self.files = files
    byteCount = files.reduce(0) { $0 + $1.1 }
  }

  /// Bytes that have been read, and keys that the base has had so far.
  var readByteCount: Int {
    max(readBytes.load(ordering: .relaxed), snapshot.withLock { $0 }?.readByteCount ?? 0)
  }
  var keyCount: Int { snapshot.withLock { $0 }?.keyCount ?? 0 }

  /// Has it end early, as if something were wrong.
  func cancel() {
    cancelled.store(true, ordering: .relaxed)
    snapshot.withLock { $0?.cancel() }
  }

  private var isCancelled: Bool { cancelled.load(ordering: .relaxed) }

  /// Reads everything. To be called once; nobody changes keys meanwhile.
  ///
  /// - Throws: What is wrong with which file, and where.
  func run(
    on server: Server, _ makeReplayer: AppendOnly.MakeReplayer, _ log: Log
  ) throws(LogError) -> Summary {
    let settings = server.settings
    var summary = Summary()
    for (index, file) in files.enumerated() {
      summary.otherBytes += summary.count
      summary.count = file.size
      let isBase = index == 0 && manifest.base != nil
      var offset = 0
      if isBase, try RDBReader.isSnapshot(file.path) {
        offset = try loadSnapshot(file.path, on: server)
        if offset == file.size { continue }
      }
      let isLast = index == files.count - 1
      let replayed = try replay(
        file.path, from: offset, mayBeTorn: isLast && settings.loadsTornLog, summary.otherBytes,
        on: server, makeReplayer, log)
      summary.count = replayed.count
      summary.commands += replayed.commands
    }
    return summary
  }

  /// - Returns: Where it ends in the file.
  private func loadSnapshot(_ path: String, on server: Server) throws(LogError) -> Int {
    do throws(RDBError) {
      let load = try SnapshotLoad(path, into: server.store)
      snapshot.withLock { $0 = load }
      if isCancelled { load.cancel() }
      // What follows may give keys another time to live.
      try load.run(
        threads: server.workers.count, access: server.settings.accessTracking(at: .now),
        keepsExpired: true, isAlone: true)
      readBytes.store(load.readByteCount, ordering: .relaxed)
      return load.endOffset
    } catch {
      throw LogError("\(error); see valiant --check")
    }
  }

  /// Repeats the commands of a file.
  ///
  /// - Parameters:
  ///   - mayBeTorn: Whether its end may be missing.
  ///   - before: Bytes of the files before it.
  /// - Returns: Bytes of it that count, and commands in it.
  private func replay(
    _ path: String, from start: Int, mayBeTorn: Bool, _ before: Int, on server: Server,
    _ makeReplayer: AppendOnly.MakeReplayer, _ log: Log
  ) throws(LogError) -> (count: Int, commands: Int) {
    var reader = try LogReader(path, from: start)
    let workers: [Worker]
    do throws(NetworkError) {
      workers = try server.makeLoadingWorkers()
    } catch {
      throw LogError("\(error)")
    }
    let replayer = makeReplayer(server, workers)
    defer {
      replayer.end()
      server.end(workers)
    }
    while true {
      if isCancelled { throw reader.failure("reading it was cancelled") }
      switch try reader.next() {
      case .commands(let isBlock):
        do throws(ReplayFailure) {
          try replayer.run(reader.bytes, at: reader.offset)
        } catch {
          throw LogError("\(path), byte \(error.offset): \(error.text)")
        }
        if isBlock, replayer.openTransaction != nil {
          throw reader.failure("a transaction has no end")
        }
        readBytes.store(before + reader.offset, ordering: .relaxed)
      case .torn, .end:
        do throws(ReplayFailure) {
          try replayer.finish()
        } catch {
          throw LogError("\(path), byte \(error.offset): \(error.text)")
        }
        let count = replayer.openTransaction ?? reader.offset
        readBytes.store(before + reader.byteCount, ordering: .relaxed)
        if count == reader.byteCount { return (count, replayer.commandCount) }
        let rest = reader.byteCount - count
        if !mayBeTorn {
          throw LogError(
            "\(path), byte \(count): it ends within a command; aof-load-truncated yes would give up the last \(rest) bytes of the last file"
          )
        }
        log.warning(
          "\(path) ends within a command: its last \(rest) bytes, from byte \(count) on, are cut off"
        )
        return (count, replayer.commandCount)
      }
    }
  }
}

import Glibc
import Synchronization

/// Writes the keys of a store as they are at one moment to a file that Redis reads.
///
/// Others go on reading and changing the store meanwhile; see `Moment`.
final class Snapshot: Sendable {
  /// What was written.
  struct Summary: Sendable {
    var keys = 0
    var bytes = 0
    /// `Store.Census.changes` of the moment.
    var changes = 0
  }

  private let moment: Moment
  private let savedKeys = Atomic<Int>(0)
  private let peakWaitingBytes = Atomic<Int>(0)
  private let cancelled = Atomic<Bool>(false)

  /// The moment is now; nil when another snapshot of the store is being written.
  ///
  /// - Parameters:
  ///   - isLocked: Whether the caller holds the locks of all shards.
  ///   - keepsExpired: See `Moment`.
  init?(of store: Store, isLocked: Bool = false, keepsExpired: Bool = false) {
    let moment = Moment(of: store, isLocked: isLocked, keepsExpired: keepsExpired)
    guard let moment else { return nil }
    self.moment = moment
  }

  /// Keys that there were.
  var keyCount: Int { moment.sizes.reduce(0) { $0 + $1.keys } }
  /// Keys that have been written.
  var savedKeyCount: Int { savedKeys.load(ordering: .relaxed) }
  /// Bytes of keys that have changed and wait to be written, and the most that there were.
  var waitingBytes: Int { moment.waitingBytes }
  var waitingBytesMax: Int { peakWaitingBytes.load(ordering: .relaxed) }

  /// Has it fail.
  func cancel() { cancelled.store(true, ordering: .relaxed) }
  var isCancelled: Bool { cancelled.load(ordering: .relaxed) }

  /// Writes everything, and has the file at `path` replaced when it is complete and on the disk.
  ///
  /// To be called once, and always: who changes keys copies them for the snapshot until then.
  ///
  /// - Parameters:
  ///   - facts: What is told about the snapshot, by name.
  ///   - pause: Made after each few hundred keys.
  /// - Throws: `FileError`; then the file is what it was.
  func write(
    to path: String, _ options: RDBWriter.Options = RDBWriter.Options(),
    facts: [(name: String, value: String)] = [], fault: OutputFile.Fault? = nil,
    pause: () -> Void = {}
  ) throws(FileError) -> Summary {
    var walk = Moment.Walk()
    defer { finish(&walk) }
    let file = try OutputFile(replacing: path, fault: fault)
    var writer = RDBWriter(to: file, options, facts: facts)
    var batch = EntryBatch()
    while moment.next(&walk, into: &batch) {
      if isCancelled { throw FileError(number: ECANCELED, "writing \(path) was cancelled") }
      try writer.append(batch, sizes: moment.sizes)
      savedKeys.wrappingAdd(batch.count, ordering: .relaxed)
      batch.clear()
      let waiting = waitingBytes
      if waiting > waitingBytesMax { peakWaitingBytes.store(waiting, ordering: .relaxed) }
      pause()
    }
    try writer.end()
    try file.commit()
    return Summary(keys: savedKeyCount, bytes: file.count, changes: moment.changes)
  }

  /// Lets go of what has not been written.
  private func finish(_ walk: inout Moment.Walk) {
    var batch = EntryBatch()
    while moment.next(&walk, into: &batch) { batch.clear() }
  }
}

extension Store {
  /// Why a file could not be written, or read.
  public struct FileFailure: Error, CustomStringConvertible, Sendable {
    /// One sentence, such as `cannot write dump.rdb.new: No space left on device`.
    public let description: String
  }

  /// Writes all keys as they are at one moment to a file that Redis 7 reads, too (its `dump.rdb`).
  ///
  /// O(keys). Other threads go on using the store meanwhile; what they change is copied first. The file
  /// is replaced when the new one is complete and on the disk.
  ///
  /// - Throws: When the file cannot be written, which then is what it was; or when another one is
  ///   being written.
  public func save(to path: String) throws(FileFailure) {
    guard let snapshot = Snapshot(of: self) else {
      throw FileFailure(description: "another snapshot is being written")
    }
    do throws(FileError) {
      _ = try snapshot.write(to: path)
    } catch {
      throw FileFailure(description: error.description)
    }
  }

  /// Adds the keys of a snapshot, by this program or by Redis, in place of those of the same names.
  ///
  /// O(keys). Keys whose time to live is over are left out. Reads versions 1 to 12 of the format, as
  /// far as they hold strings.
  ///
  /// - Parameter threads: How many share the work, 1 or more.
  /// - Throws: When the file is damaged or holds what cannot be kept; some keys have been added then.
  public func load(from path: String, threads: Int = 1) throws(FileFailure) {
    do throws(RDBError) {
      try SnapshotLoad(path, into: self).run(threads: threads)
    } catch {
      throw FileFailure(description: error.description)
    }
  }
}

import Synchronization

/// What has become of a store's keys, as commands that repeat it, in the order in which it has happened:
/// what an append log is made of.
///
/// Changes are added under the lock of the keys that they are of, so their order is that of the
/// changes. Who writes them down takes them in pieces. A position is the number of bytes that have been
/// added so far; it only grows.
///
/// Lock order: behind those of shards.
final class ChangeQueue: Sendable {
  /// Changes that belong together, and where they end.
  final class Piece {
    fileprivate(set) var output = OutputBuffer()
    /// The position behind it.
    fileprivate(set) var end = 0
    /// Whether what follows belongs into another file.
    fileprivate(set) var isLast = false
    /// When its first change was added, in milliseconds of the steady clock.
    fileprivate(set) var began = 0

    /// Puts something into the room that is at its beginning.
    func fillReserved(with bytes: Bytes) { output.bytes.replaceFirst(with: bytes) }
  }

  /// Room at the beginning of each piece for what a file has in front of it.
  static let reservedBytes = 40

  private let lock = SpinLock()
  // SAFETY: under `lock`.
  nonisolated(unsafe) private var pieces: [Piece] = []
  /// The database that the last change is of, -1 when that is not known where it is read.
  nonisolated(unsafe) private var database = -1
  private let endPosition = Atomic<Int>(0)

  /// Bytes from which on another piece is begun.
  private static let pieceBytes = 256 * 1024

  /// The position behind the last change.
  var end: Int { endPosition.load(ordering: .acquiring) }

  /// When the oldest change was added that nobody has taken; nil when there is none.
  var oldest: Int? { lock.withLock { unsafe pieces.first?.began } }

  /// Whether there is anything to take.
  var isEmpty: Bool { lock.withLock { unsafe pieces.isEmpty } }

  /// Adds changes, all of which are repeated or none. `records` is empty afterwards.
  ///
  /// - Parameters:
  ///   - first: The database of the first of them.
  ///   - last: That of the last one.
  func append(_ records: inout OutputBuffer, first: Int, last: Int) {
    if records.isEmpty { return }
    lock.withLock {
      let piece = unsafe openPiece()
      let before = piece.output.count
      if unsafe database != first { ChangeRecord.select(first, &piece.output) }
      piece.output.append(&records)
      unsafe database = last
      unsafe didAppend(piece, piece.output.count - before)
    }
  }

  /// Adds that a key has gone.
  func appendRemoval(of key: Bytes, database: Int) {
    var record = OutputBuffer()
    ChangeRecord.delete(key, &record)
    append(&record, first: database, last: database)
  }

  /// Adds what a key is now; that it is gone for nil.
  func appendState(of key: Bytes, _ entry: Entry?, database: Int) {
    var record = OutputBuffer()
    ChangeRecord.state(of: key, entry, &record)
    append(&record, first: database, last: database)
  }

  /// Says that what follows belongs into another file. Under the locks of all shards.
  ///
  /// - Returns: The position.
  func endFile() -> Int {
    lock.withLock {
      let piece = unsafe openPiece()
      piece.isLast = true
      unsafe database = -1
      // No other end has the same position.
      unsafe didAppend(piece, 1)
      return piece.end
    }
  }

  @unsafe private func openPiece() -> Piece {
    if let last = unsafe pieces.last, !last.isLast, last.output.count < Self.pieceBytes {
      return last
    }
    let piece = Piece()
    _ = unsafe piece.output.bytes.appendZeros(Self.reservedBytes)
    piece.began = Clock.steadyMilliseconds
    unsafe pieces.append(piece)
    return piece
  }

  @unsafe private func didAppend(_ piece: Piece, _ count: Int) {
    let end = endPosition.wrappingAdd(count, ordering: .releasing).newValue
    piece.end = end
  }

  /// Takes all that has been added.
  func take() -> [Piece] {
    lock.withLock {
      let taken = unsafe pieces
      unsafe pieces = []
      return taken
    }
  }
}

/// Commands that repeat changes, in RESP.
enum ChangeRecord {
  static func select(_ database: Int, _ output: inout OutputBuffer) {
    output.bytes.append(literal: "*2\r\n$6\r\nSELECT\r\n")
    output.bytes.append(bulkNumber: database)
  }

  static func delete(_ key: Bytes, _ output: inout OutputBuffer) {
    output.bytes.append(literal: "*2\r\n$3\r\nDEL\r\n")
    output.bytes.append(bulk: key)
  }

  /// What a key is now; that it is gone for nil.
  static func state(of key: Bytes, _ entry: Entry?, _ output: inout OutputBuffer) {
    guard let entry else { return delete(key, &output) }
    let deadline = entry.deadline
    if deadline == nil {
      output.bytes.append(literal: "*3\r\n$3\r\nSET\r\n")
    } else {
      output.bytes.append(literal: "*5\r\n$3\r\nSET\r\n")
    }
    output.bytes.append(bulk: key)
    switch entry.value {
    case .bytes(let bytes): output.bytes.append(bulk: bytes)
    case .integer(let number): output.bytes.append(bulkNumber: number)
    case .long(let bytes, let block): append(bytes, in: block, &output)
    }
    if let deadline {
      output.bytes.append(literal: "$4\r\nPXAT\r\n")
      output.bytes.append(bulkNumber: deadline.unixMilliseconds)
    }
  }

  /// Until when a key lives.
  static func deadline(of key: Bytes, _ deadline: Timestamp?, _ output: inout OutputBuffer) {
    guard let deadline else {
      output.bytes.append(literal: "*2\r\n$7\r\nPERSIST\r\n")
      return output.bytes.append(bulk: key)
    }
    output.bytes.append(literal: "*3\r\n$9\r\nPEXPIREAT\r\n")
    output.bytes.append(bulk: key)
    output.bytes.append(bulkNumber: deadline.unixMilliseconds)
  }

  /// Above that a value is not copied.
  private static let copiedBytesMax = 64 * 1024

  private static func append(
    _ bytes: Bytes, in block: SharedBlock, _ output: inout OutputBuffer
  ) {
    if bytes.count <= copiedBytesMax { return output.bytes.append(bulk: bytes) }
    output.bytes.append(line: UInt8(ascii: "$"), bytes.count)
    output.attach(bytes, in: block)
    output.bytes.appendLineEnd()
  }
}

/// What one thread is changing, until it is added to the queue.
///
/// A command may change several keys: all of that is repeated, or nothing.
final class ChangeRecorder {
  private struct Change {
    let database: Int
    let hash: UInt64
    let keyEnd: Int
    let isTimed: Bool
  }

  /// Keys that have changed since `record`, one behind the other in `keys`.
  private var changes: [Change] = []
  private var keys = ByteBuffer()
  private var output = OutputBuffer()
  private var recordCount = 0
  private var firstDatabase = -1
  private var lastDatabase = -1

  /// Whether something is recorded that has not been added to a queue.
  var isEmpty: Bool { recordCount == 0 }

  /// Notes that a key has changed, or is about to.
  ///
  /// - Parameter isTimed: Whether in nothing but its time to live.
  func note(_ key: Bytes, hash: UInt64, database: Int, isTimed: Bool) {
    keys.append(key)
    changes.append(
      Change(database: database, hash: hash, keyEnd: keys.count, isTimed: isTimed))
  }

  /// Records what has become of the keys that have been noted.
  ///
  /// - Parameter find: The entry of a key, of a shard that is locked.
  func record(_ find: (_ key: Bytes, _ hash: UInt64, _ database: Int) -> Entry?) {
    var start = 0
    for change in changes {
      let key = keys.bytes[start..<change.keyEnd]
      start = change.keyEnd
      let entry = find(key, change.hash, change.database)
      begin(change.database)
      if change.isTimed, let entry {
        ChangeRecord.deadline(of: key, entry.deadline, &output)
      } else {
        ChangeRecord.state(of: key, entry, &output)
      }
    }
    forgetChanges()
  }

  /// Records a command that repeats what has been noted.
  func record(argumentCount: Int, database: Int, _ argument: (Int) -> Bytes) {
    forgetChanges()
    begin(database)
    output.bytes.append(line: UInt8(ascii: "*"), argumentCount)
    for index in 0..<argumentCount { output.bytes.append(bulk: argument(index)) }
  }

  /// Records a command that stands in `command`, behind what has been noted.
  func record(_ command: inout OutputBuffer, database: Int) {
    begin(database)
    output.append(&command)
  }

  /// Records that a key has gone by itself.
  func recordRemoval(of key: Bytes, database: Int) {
    begin(database)
    ChangeRecord.delete(key, &output)
  }

  private func forgetChanges() {
    changes.removeAll(keepingCapacity: true)
    keys.clear(keeping: Self.keptBytes)
  }

  private static let keptBytes = 16 * 1024

  private func begin(_ database: Int) {
    if recordCount == 0 {
      firstDatabase = database
    } else if database != lastDatabase {
      ChangeRecord.select(database, &output)
    }
    lastDatabase = database
    recordCount += 1
  }

  /// Adds what has been recorded to a queue, as one. Under the locks of all keys that it is of.
  ///
  /// - Parameter queue: Nil when nobody writes changes down any more.
  func commit(to queue: ChangeQueue?) {
    if recordCount == 0 { return }
    guard let queue else {
      output.reset()
      recordCount = 0
      return
    }
    if recordCount > 1 {
      var whole = OutputBuffer()
      whole.bytes.append(literal: "*1\r\n$5\r\nMULTI\r\n")
      whole.append(&output)
      whole.bytes.append(literal: "*1\r\n$4\r\nEXEC\r\n")
      queue.append(&whole, first: firstDatabase, last: lastDatabase)
    } else {
      queue.append(&output, first: firstDatabase, last: lastDatabase)
    }
    recordCount = 0
  }
}

extension ByteBuffer {
  /// Appends a number as RESP's bulk string.
  mutating func append(bulkNumber number: Int) {
    append(line: UInt8(ascii: "$"), decimalLength(number))
    append(decimal: number)
    appendLineEnd()
  }
}

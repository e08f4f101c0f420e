/// Reads a snapshot as Redis writes it to `dump.rdb`, of versions 1 to 12, one record after the other.
///
/// Source: the RDB file format. Memory: a buffer of a mebibyte, or of the longest record.
struct RDBReader: ~Copyable {
  /// What is in a snapshot. Its bytes are good until the next one is read.
  enum Item {
    /// Something that the writer says about itself or the snapshot.
    case auxiliary(name: [UInt8], value: [UInt8])
    /// What follows belongs to this database.
    case database(Int)
    /// How many keys follow in this database, and how many of them expire.
    case sizes(keys: Int, expiring: Int)
    case record(RDBRecord)
  }

  private let file: InputFile
  private var window = ByteBuffer()
  /// Where the next item begins in the window, and where the window begins in the file.
  private var position = 0
  private var isAtEnd = false
  /// Where the last item began in the window.
  private var itemStart = 0
  private var windowStart = 0
  private var checksum: UInt64 = 0
  /// The version of the format, 1...12.
  let version: Int
  /// Where the snapshot ends in the file, behind the last item; mostly that is the file's end.
  private(set) var endOffset = 0
  /// Whether the file has a checksum, which was found right at its end.
  private(set) var hasChecksum = false

  static let versions = 1...12
  private static let windowBytes = 1 << 20
  private static let headerBytes = 9
  private static let checksumBytes = 8
  private static let checksumVersionMin = 5

  /// - Throws: When it cannot be read, or is no snapshot.
  init(_ path: String) throws(RDBError) {
    let file: InputFile
    var header = ByteBuffer()
    do throws(FileError) {
      file = try InputFile(path)
      while header.count < Self.headerBytes,
        try file.read(Self.headerBytes - header.count, into: &header) > 0
      {}
    } catch {
      throw RDBError(error.description)
    }
    guard header.count == Self.headerBytes, header.bytes.prefix(5).equalsIgnoringCase("REDIS"),
      let version = Int(header.bytes.dropFirst(5).text)
    else { throw RDBError("\(path) is no snapshot") }
    guard Self.versions.contains(version) else {
      throw RDBError("\(path) has version \(version) of the format, which is not known")
    }
    self.file = file
    self.version = version
    checksum = CRC64.checksum(header.bytes)
    windowStart = Self.headerBytes
  }

  /// Whether a file begins like a snapshot.
  ///
  /// - Throws: When it cannot be read.
  static func isSnapshot(_ path: String) throws(LogError) -> Bool {
    do throws(FileError) {
      var start = ByteBuffer()
      _ = try InputFile(path).read(5, into: &start)
      return start.bytes.equalsIgnoringCase("REDIS")
    } catch {
      throw LogError(error.description)
    }
  }

  /// Bytes of the file.
  var byteCount: Int { file.size }

  /// Where the next item begins in the file.
  var offset: Int { windowStart + position }

  /// The next item; nil at the end, where the checksum is found to be right.
  ///
  /// - Throws: When the file is damaged, cut off, or holds what cannot be kept.
  mutating func next() throws(RDBError) -> Item? {
    if isAtEnd { return nil }
    while true {
      itemStart = position
      var reader = SerializedReader(window.bytes.dropFirst(position))
      let parsed: Parsed
      do throws(SerializedReader.Failure) {
        parsed = try Self.parse(&reader, version)
      } catch {
        try recover(from: error)
        continue
      }
      switch parsed {
      case .item(let item):
        position += reader.consumed
        return item
      case .skipped: position += reader.consumed
      case .unsupported(let what): throw failure(what)
      case .end(let sum):
        try checkEnd(reader.consumed, sum)
        isAtEnd = true
        return nil
      }
    }
  }

  /// Records of one database, as they stand in the file.
  struct Chunk: ~Copyable {
    fileprivate(set) var database = 0
    fileprivate(set) var bytes = ByteBuffer()
  }

  /// Reads records of one database into `chunk`, in place of what is there.
  ///
  /// - Returns: False at the end; see `next`.
  ///
  /// - Parameter expect: Called with how many keys follow in a database, as far as that is told.
  mutating func next(
    _ chunk: inout Chunk, expect: (_ keys: Int, _ database: Int) -> Void
  ) throws(RDBError) -> Bool {
    chunk.bytes.clear(keeping: 2 * Self.chunkBytes)
    // Behind the end there may be a checksum, and other things.
    if isAtEnd { return false }
    while chunk.bytes.count < Self.chunkBytes {
      if takeRun(&chunk) { continue }
      guard let item = try next() else { return !chunk.bytes.isEmpty }
      switch item {
      case .record:
        chunk.bytes.append(window.bytes.prefix(position).dropFirst(itemStart))
        chunk.database = database
      case .database(let number):
        guard number < Store.databaseCount else {
          throw failure("there is no database \(number) here")
        }
        database = number
        if !chunk.bytes.isEmpty { return true }
      case .sizes(let keys, _):
        let expected = min(keys, (byteCount - offset) / Self.recordBytesMin - expectedCount)
        if expected <= 0 { continue }
        expectedCount += expected
        expect(expected, database)
      case .auxiliary: break
      }
    }
    return true
  }

  /// The shortest record: nobody gets memory for more of them than there can be.
  private static let recordBytesMin = 3

  /// Takes records as long as the window has whole ones.
  ///
  /// - Returns: False when it begins with something else.
  private mutating func takeRun(_ chunk: inout Chunk) -> Bool {
    let rest = window.bytes.dropFirst(position)
    var reader = SerializedReader(rest)
    var end = 0
    while (try? Self.record(&reader)) != nil { end = reader.consumed }
    if end == 0 { return false }
    chunk.bytes.append(rest.prefix(end))
    chunk.database = database
    position += end
    return true
  }

  private static let chunkBytes = 8 << 20
  /// Keys for which room has been made, of all databases.
  private var expectedCount = 0
  /// Where the records belong that are read by chunks.
  private var database = 0

  /// The record that a chunk goes on with.
  @inline(__always)
  static func record(
    _ reader: inout SerializedReader
  ) throws(SerializedReader.Failure) -> RDBRecord {
    // Nearly all begin like that.
    let start = reader
    if try reader.byte() == RDBCode.string {
      var record = RDBRecord()
      record.key = try reader.string()
      record.value = try reader.string()
      return record
    }
    reader = start
    guard case .item(.record(let record)) = try parse(&reader, versions.upperBound) else {
      throw .malformed
    }
    return record
  }

  private enum Parsed {
    case item(Item)
    /// Of no meaning here.
    case skipped
    case unsupported(String)
    case end(UInt64?)
  }

  /// Reads on, if the item goes on.
  private mutating func recover(from failure: SerializedReader.Failure) throws(RDBError) {
    guard case .incomplete(let missing) = failure else {
      throw self.failure(Self.damaged)
    }
    let left = file.size - windowStart - window.count
    guard missing <= left else { throw self.failure("it ends within a record") }
    forgetRead()
    do throws(FileError) {
      let wanted = max(missing, min(left, Self.windowBytes))
      if try file.read(wanted, into: &window) > 0 { return }
    } catch {
      throw self.failure(error.description)
    }
    throw self.failure("it has become shorter")
  }

  /// Lets go of what was read, and counts it into the checksum.
  private mutating func forgetRead() {
    checksum = CRC64.checksum(window.bytes.prefix(position), after: checksum)
    windowStart += position
    window.removeFirst(position)
    position = 0
  }

  private mutating func checkEnd(_ consumed: Int, _ sum: UInt64?) throws(RDBError) {
    let content = consumed - (sum == nil ? 0 : Self.checksumBytes)
    position += content
    endOffset = windowStart + position + consumed - content
    forgetRead()
    if let sum, sum != 0 {
      guard sum == checksum else {
        throw failure("the checksum is wrong: something in the file is damaged")
      }
      hasChecksum = true
    }
  }

  static let damaged = "it is damaged: nothing begins like that"

  /// What is wrong with the item that was read last, or is to be read next.
  func failure(_ text: String) -> RDBError {
    RDBError("\(file.path), byte \(offset): \(text)")
  }

  // MARK: Parsing

  /// What cannot be kept yet, by type.
  private static let unsupportedTypes: [UInt8: String] = [
    1: "a list", 2: "a set", 3: "a sorted set", 4: "a hash", 5: "a sorted set", 6: "of a module",
    7: "of a module", 9: "a hash", 10: "a list", 11: "a set", 12: "a sorted set", 13: "a hash",
    14: "a list", 15: "a stream", 16: "a hash", 17: "a sorted set", 18: "a list", 19: "a stream",
    20: "a set", 21: "a stream", 22: "a hash", 23: "a hash", 24: "a hash", 25: "a hash",
  ]

  private static func parse(
    _ reader: inout SerializedReader, _ version: Int
  ) throws(SerializedReader.Failure) -> Parsed {
    var record = RDBRecord()
    while true {
      let code = try reader.byte()
      switch code {
      case RDBCode.deadlineMilliseconds: record.deadline = try reader.integer(bytes: 8)
      case RDBCode.deadlineSeconds: record.deadline = try reader.integer(bytes: 4) * 1000
      case RDBCode.idleTime: record.idleSeconds = try reader.length()
      case RDBCode.frequency: record.frequency = Int(try reader.byte())
      case RDBCode.auxiliary:
        let (name, value) = (try reader.string(), try reader.string())
        guard let name = name.array, let value = value.array else { throw .malformed }
        return .item(.auxiliary(name: name, value: value))
      case RDBCode.database: return .item(.database(try reader.length()))
      case RDBCode.sizes:
        return .item(.sizes(keys: try reader.length(), expiring: try reader.length()))
      case RDBCode.slotInformation:
        for _ in 0..<3 { _ = try reader.length() }
        return .skipped
      case RDBCode.library: return .unsupported("a library of functions, which cannot be kept")
      case RDBCode.oldLibrary, RDBCode.moduleAuxiliary:
        return .unsupported("data of a module, which cannot be kept")
      case RDBCode.end:
        if version < checksumVersionMin { return .end(nil) }
        return .end(UInt64(bitPattern: Int64(try reader.integer(bytes: checksumBytes))))
      case RDBCode.string:
        record.key = try reader.string()
        record.value = try reader.string()
        return .item(.record(record))
      default:
        guard let type = unsupportedTypes[code] else { throw .malformed }
        let key = try reader.string().array ?? []
        return .unsupported(
          "the key '\(String(decoding: key.prefix(64), as: UTF8.self))' is \(type), which cannot be kept"
        )
      }
    }
  }
}

/// A key in a snapshot.
struct RDBRecord {
  fileprivate(set) var key = SerializedString.Form.plain(.empty)
  fileprivate(set) var value = SerializedString.Form.plain(.empty)
  /// When it expires, in milliseconds of Unix time; nil for never.
  fileprivate(set) var deadline: Int?
  /// How long it had not been used, where that was kept.
  fileprivate(set) var idleSeconds: Int?
  /// How often it was used, 0...255, where that was kept.
  fileprivate(set) var frequency: Int?
}

/// Why a snapshot is not read, in one sentence.
struct RDBError: Error, CustomStringConvertible {
  let description: String

  init(_ description: String) {
    self.description = description
  }
}

/// What a part of a snapshot begins with.
enum RDBCode {
  static let slotInformation: UInt8 = 244
  static let library: UInt8 = 245
  static let oldLibrary: UInt8 = 246
  static let moduleAuxiliary: UInt8 = 247
  static let idleTime: UInt8 = 248
  static let frequency: UInt8 = 249
  static let auxiliary: UInt8 = 250
  static let sizes: UInt8 = 251
  static let deadlineMilliseconds: UInt8 = 252
  static let deadlineSeconds: UInt8 = 253
  static let database: UInt8 = 254
  static let end: UInt8 = 255

  // Types of values.

  static let string: UInt8 = 0
}

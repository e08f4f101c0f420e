import Glibc

/// `valiant --check FILE`: reads a snapshot or an append log to its end, and says what is in it.
enum FileCheck {
  /// What there is in one database.
  private struct Tally {
    var keys = 0
    var expiring = 0
    /// Those whose time to live is over.
    var expired = 0
    var bytes = 0
  }

  /// - Parameter path: A snapshot, a file of an append log, its manifest, or its folder.
  /// - Returns: Lines for people.
  /// - Throws: What is wrong with the file, and where.
  static func run(_ path: String) throws(LogError) -> String {
    var status = stat()
    if unsafe stat(path, &status) == 0, status.st_mode & S_IFMT == S_IFDIR {
      return try checkFolder(path)
    }
    if path.hasSuffix(manifestSuffix) { return try checkManifest(path) }
    return try checkFile(path, isLast: true)
  }

  private static let manifestSuffix = ".manifest"

  private static func checkFolder(_ path: String) throws(LogError) -> String {
    var names: [String] = []
    if let folder = unsafe opendir(path) {
      while let entry = unsafe readdir(folder) {
        // SAFETY: the system ends the name with a zero.
        let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) {
          unsafe $0.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
        }
        if name.hasSuffix(manifestSuffix) { names.append(name) }
      }
      unsafe closedir(folder)
    }
    if names.isEmpty { throw LogError("\(path) is a folder without the manifest of an append log") }
    var text = ""
    for name in names.sorted() { text += try checkManifest("\(path)/\(name)") }
    return text
  }

  private static func checkManifest(_ path: String) throws(LogError) -> String {
    let files = try LogManifest(path: path).files
    var text = "\(path): an append log of \(files.count) \(files.count == 1 ? "file" : "files")\n"
    let folder = path.lastIndex(of: "/").map { String(path[...$0]) } ?? ""
    for file in files {
      text += try checkFile("\(folder)\(file.name)", isLast: file == files.last)
    }
    return text
  }

  /// - Parameter isLast: Whether its end may be missing.
  private static func checkFile(_ path: String, isLast: Bool) throws(LogError) -> String {
    var start = ByteBuffer()
    do throws(FileError) {
      _ = try InputFile(path).read(5, into: &start)
    } catch {
      throw LogError(error.description)
    }
    // What is neither is said to be no snapshot.
    if start.bytes.isEmpty || start.bytes[0] == UInt8(ascii: "*") || start.bytes[0] == LogBlock.mark
    {
      return try checkLog(path, from: 0, isLast: isLast)
    }
    let (text, end): (String, Int?)
    do throws(RDBError) {
      (text, end) = try checkSnapshot(path)
    } catch {
      throw LogError("\(error)")
    }
    guard let end else { return text }
    return try text + checkLog(path, from: end, isLast: isLast)
  }

  private static func checkLog(
    _ path: String, from start: Int, isLast: Bool
  ) throws(LogError) -> String {
    var reader = try LogReader(path, from: start)
    var counts: [String: Int] = [:]
    var checkedBytes = 0
    var commands = 0
    while true {
      switch try reader.next() {
      case .commands(let isBlock):
        if isBlock { checkedBytes += LogBlock.headerBytes + reader.bytes.count }
        for name in try names(reader) {
          commands += 1
          counts[name, default: 0] += 1
        }
      case .torn where !isLast: throw reader.failure("it ends within a command")
      case .torn, .end:
        let rest = reader.byteCount - reader.offset
        var lines = [
          "\(path): commands of an append log, \(commands) in \(reader.blockCount) blocks; "
            + "\(checkedBytes) of \(reader.byteCount - start) bytes have checksums, which are right"
        ]
        for (name, count) in counts.sorted(by: { ($1.value, $0.key) < ($0.value, $1.key) }) {
          lines.append("  \(name): \(count)")
        }
        if rest > 0 {
          lines.append(
            "  the last \(rest) bytes, from byte \(reader.offset) on, are the beginning of something"
          )
        }
        return lines.joined(separator: "\n") + "\n"
      }
    }
  }

  /// The commands of a piece, in small letters.
  private static func names(_ reader: borrowing LogReader) throws(LogError) -> [String] {
    var parser = RequestParser()
    parser.limits.bulkLengthMax = LogBlock.bytesMax
    var names: [String] = []
    let bytes = reader.bytes
    while parser.consumed < bytes.count {
      parser.startBatch()
      guard case .request = parser.next(bytes) else {
        throw reader.failure("it is damaged: there are no commands in it")
      }
      let request = parser.request(in: bytes, firstArgument: parser.requestStart, count: 1)
      names.append(
        String(decoding: request.name.prefix(32).array.map(asciiLowercase), as: UTF8.self))
    }
    return names
  }

  /// - Returns: Lines for people, and where something follows in the file.
  private static func checkSnapshot(_ path: String) throws(RDBError) -> (String, Int?) {
    var reader = try RDBReader(path)
    var lines = ["\(path): a snapshot in version \(reader.version) of the format"]
    var tallies: [Int: Tally] = [:]
    var database = 0
    let now = Clock.wallMilliseconds
    while let item = try reader.next() {
      switch item {
      case .auxiliary(let name, let value):
        lines.append(
          "  \(String(decoding: name, as: UTF8.self)): \(String(decoding: value, as: UTF8.self))")
      case .database(let number): database = number
      case .sizes: break
      case .record(let record):
        var tally = tallies[database] ?? Tally()
        tally.keys += 1
        if let deadline = record.deadline {
          tally.expiring += 1
          if deadline <= now { tally.expired += 1 }
        }
        guard let key = record.key.withBytes(\.count), let value = record.value.withBytes(\.count)
        else { throw reader.failure(RDBReader.damaged) }
        tally.bytes += key + value
        tallies[database] = tally
      }
    }
    for (number, tally) in tallies.sorted(by: { $0.key < $1.key }) {
      lines.append(
        "  database \(number): \(tally.keys) keys, \(tally.expiring) with a time to live, which is "
          + "over for \(tally.expired); \(tally.bytes) bytes of keys and values")
    }
    lines.append("  checksum: \(reader.hasChecksum ? "right" : "none")")
    let end = reader.endOffset
    return (lines.joined(separator: "\n") + "\n", end < reader.byteCount ? end : nil)
  }
}

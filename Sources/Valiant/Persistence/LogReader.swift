/// Reads a file of an append log, ours or one by Redis.
///
/// What stands in a block is handed out when the block's checksum has been found right. Commands
/// that stand in none were written by Redis, which has no checksums.
struct LogReader: ~Copyable {
  /// What comes next.
  enum Piece: Equatable {
    /// `bytes`: whole commands.
    ///
    /// - Parameter isBlock: Whether they were checked.
    case commands(isBlock: Bool)
    /// The file ends within a block or a command, which begins at `offset`.
    case torn
    case end
  }

  private let file: InputFile
  private var window = ByteBuffer()
  private var windowStart: Int
  private var position = 0
  private var length = 0
  /// Blocks so far.
  private(set) var blockCount = 0

  private static let windowBytes = 1 << 20

  /// - Parameter start: Where it begins in the file.
  /// - Throws: When the file cannot be read.
  init(_ path: String, from start: Int = 0) throws(LogError) {
    let file: InputFile
    do throws(FileError) {
      file = try InputFile(path)
      try file.seek(to: start)
    } catch {
      throw LogError(error.description)
    }
    self.file = file
    windowStart = start
  }

  /// Bytes of the file.
  var byteCount: Int { file.size }
  /// Where the piece begins in the file; behind `torn`, what is torn.
  var offset: Int { windowStart + position }
  /// The commands of the last piece; good until the next one.
  var bytes: Bytes { window.bytes.dropFirst(position).prefix(length) }

  /// Goes on to the next piece.
  ///
  /// - Throws: Where the file is damaged.
  mutating func next() throws(LogError) -> Piece {
    position += length
    length = 0
    while true {
      guard try fill(1) else { return .end }
      switch window.bytes[position] {
      case LogBlock.mark:
        if let piece = try nextBlock() { return piece }
      case UInt8(ascii: "*"): return try nextCommands()
      default: return try damaged(by: 1)
      }
    }
  }

  /// - Returns: Nil behind a line of Redis's that says nothing about keys.
  private mutating func nextBlock() throws(LogError) -> Piece? {
    guard try fill(4) else { return .torn }
    if !LogBlock.isHeader(window.bytes.dropFirst(position)) { return try passTimestamp() }
    guard try fill(LogBlock.headerBytes) else { return .torn }
    let header = window.bytes.dropFirst(position).prefix(LogBlock.headerBytes)
    guard let block = LogBlock(header, at: offset) else {
      return try damaged(by: LogBlock.headerBytes)
    }
    guard try fill(LogBlock.headerBytes + block.count) else { return .torn }
    let content = window.bytes.dropFirst(position + LogBlock.headerBytes).prefix(block.count)
    guard CRC64.checksum(content) == block.checksum else {
      return try damaged(by: LogBlock.headerBytes + block.count)
    }
    position += LogBlock.headerBytes
    length = block.count
    blockCount += 1
    return .commands(isBlock: true)
  }

  /// `#TS:1700000000`, a time.
  private mutating func passTimestamp() throws(LogError) -> Piece? {
    let line = window.bytes.dropFirst(position)
    guard line[1] == UInt8(ascii: "T"), line[2] == UInt8(ascii: "S"), line[3] == UInt8(ascii: ":")
    else { return try damaged(by: LogBlock.headerBytes) }
    var count = 4
    while true {
      guard try fill(count + 1) else { return .torn }
      let byte = window.bytes[position + count]
      count += 1
      if byte == UInt8(ascii: "\n") { break }
      guard byte == UInt8(ascii: "\r") || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
      else { return try damaged(by: 1) }
    }
    position += count
    return nil
  }

  private mutating func nextCommands() throws(LogError) -> Piece {
    var parser = RequestParser()
    parser.limits.bulkLengthMax = LogBlock.bytesMax
    var wanted = 1
    while true {
      guard try fill(wanted) else { return .torn }
      let input = window.bytes.dropFirst(position)
      parser.startBatch()
      var outcome = RequestParser.Outcome.incomplete
      while parser.consumed < input.count, input[parser.consumed] == UInt8(ascii: "*") {
        outcome = parser.next(input)
        guard case .request = outcome else { break }
      }
      if parser.consumed > 0 {
        length = parser.consumed
        return .commands(isBlock: false)
      }
      guard case .incomplete = outcome else { return try damaged(by: 1) }
      // At least twice as much, so that a long command is not looked at too often.
      wanted = max(
        input.count + max(1, parser.missing(input)), min(2 * input.count, byteCount - offset))
      parser.rewind(to: 0)
    }
  }

  /// Behind a loss of power a file may end in zeros that stand for what was not written.
  ///
  /// - Parameter announced: Bytes that belong together from here on.
  private mutating func damaged(by announced: Int) throws(LogError) -> Piece {
    let start = (windowStart, position)
    var rest = 0
    var zeros = 0
    while try fill(rest + 1) {
      let bytes = window.bytes.dropFirst(position + rest)
      for index in 0..<bytes.count { zeros = bytes[index] == 0 ? zeros + 1 : 0 }
      rest += bytes.count
      if rest > Self.tornBytesMax { break }
    }
    precondition(windowStart + position == start.0 + start.1, "the window has moved on")
    let isAtEnd = offset + rest == byteCount
    if isAtEnd, zeros > 0, rest - zeros < announced { return .torn }
    throw failure(
      "it is damaged; put back a copy of it, or give up what follows: truncate --size=\(offset) \(file.path)"
    )
  }

  /// More than a block has, and than a system keeps back.
  private static let tornBytesMax = 64 << 20

  /// What is wrong with what comes next.
  func failure(_ text: String) -> LogError { LogError("\(file.path), byte \(offset): \(text)") }

  /// Has `count` bytes in the window behind `position`.
  ///
  /// - Returns: False when the file has no more.
  private mutating func fill(_ count: Int) throws(LogError) -> Bool {
    if window.count - position >= count { return true }
    if file.size - offset < count { return false }
    windowStart += position
    window.removeFirst(position)
    position = 0
    while window.count < count {
      do throws(FileError) {
        let wanted = max(count - window.count, min(Self.windowBytes, file.size - windowStart))
        if try file.read(wanted, into: &window) == 0 { return false }
      } catch {
        throw LogError(error.description)
      }
    }
    return true
  }
}

/// Writes a snapshot as Redis 7.0 reads it, version 10 of the format.
///
/// Source: the RDB file format. Memory: a buffer of 64 KiB, or of the longest record.
struct RDBWriter: ~Copyable {
  /// How it is written, and what goes into it.
  struct Options: Sendable {
    /// Whether strings are compressed.
    var compresses = true
    /// Whether a checksum follows.
    var hasChecksum = true
    /// Whether it goes with each key when it was last used, or how often.
    var access: AccessTracking?
  }

  private let file: OutputFile
  private let options: Options
  private var buffer = ByteBuffer()
  private var checksum: UInt64 = 0
  private var database: Int?
  private var keyCompression: SerializedString.Compression
  private var valueCompression: SerializedString.Compression
  /// Databases whose sizes have been told, one bit each.
  private var announced: UInt16 = 0
  /// By how much times of day are ahead of deadlines.
  private let wallOffset = Clock.wallOffsetMilliseconds

  static let version = 10
  private static let bufferBytes = 64 * 1024
  /// Longer strings are not copied.
  private static let copiedBytesMax = 64 * 1024

  /// - Parameter facts: What is told about the snapshot, by name.
  init(
    to file: OutputFile, _ options: Options, facts: [(name: String, value: String)]
  ) {
    self.file = file
    self.options = options
    keyCompression = SerializedString.Compression(isWanted: options.compresses)
    valueCompression = keyCompression
    buffer.append("REDIS00\(Self.version)")
    for (name, value) in facts {
      buffer.append(RDBCode.auxiliary)
      for text in [name, value] {
        Array(text.utf8).withBytes { SerializedString.write($0, to: &buffer) }
      }
    }
  }

  /// Writes the keys of a batch.
  ///
  /// - Parameter sizes: Of the databases, which are told in front of the first key of each.
  mutating func append(
    _ batch: borrowing EntryBatch, sizes: [Moment.Size]
  ) throws(FileError) {
    var failure: FileError?
    batch.visit { item in
      if failure != nil { return }
      if item.database != database { select(item.database, sizes) }
      do throws(FileError) {
        try append(item)
      } catch {
        failure = error
      }
    }
    if let failure { throw failure }
  }

  private mutating func select(_ number: Int, _ sizes: [Moment.Size]) {
    buffer.append(RDBCode.database)
    SerializedString.writeLength(number, to: &buffer)
    database = number
    if announced & 1 << UInt16(number) != 0 { return }
    announced |= 1 << UInt16(number)
    buffer.append(RDBCode.sizes)
    SerializedString.writeLength(sizes[number].keys, to: &buffer)
    SerializedString.writeLength(sizes[number].expiring, to: &buffer)
  }

  private mutating func append(_ item: EntryBatch.Item) throws(FileError) {
    if let deadline = item.deadline {
      buffer.append(RDBCode.deadlineMilliseconds)
      buffer.append(littleEndian: deadline.milliseconds &+ wallOffset, bytes: 8)
    }
    if let access = options.access { append(item.access, access) }
    buffer.append(RDBCode.string)
    SerializedString.write(item.key, &keyCompression, to: &buffer)
    switch item.value {
    case .integer(let number): SerializedString.write(number, to: &buffer)
    case .bytes(let bytes):
      SerializedString.write(bytes, &valueCompression, to: &buffer)
    case .long(let bytes, _):
      if options.compresses || bytes.count <= Self.copiedBytesMax {
        SerializedString.write(bytes, &valueCompression, to: &buffer)
      } else {
        SerializedString.writeLength(bytes.count, to: &buffer)
        try flush()
        try write(bytes)
      }
    }
    if buffer.count >= Self.bufferBytes { try flush() }
  }

  private mutating func append(_ used: UInt32, _ access: AccessTracking) {
    switch access.kind {
    case .clock, .adaptive:
      buffer.append(RDBCode.idleTime)
      SerializedString.writeLength(access.idleSeconds(used), to: &buffer)
    case .frequency:
      buffer.append(RDBCode.frequency)
      buffer.append(UInt8(clamping: access.frequency(used)))
    }
  }

  /// Writes the end. The file has then to be committed.
  mutating func end() throws(FileError) {
    buffer.append(RDBCode.end)
    try flush()
    buffer.append(
      littleEndian: Int(bitPattern: UInt(options.hasChecksum ? checksum : 0)), bytes: 8)
    try file.write(buffer.bytes)
    buffer.clear(keeping: 0)
  }

  private mutating func flush() throws(FileError) {
    try write(buffer.bytes)
    buffer.clear(keeping: 2 * Self.bufferBytes)
  }

  private mutating func write(_ bytes: Bytes) throws(FileError) {
    if options.hasChecksum { checksum = CRC64.checksum(bytes, after: checksum) }
    try file.write(bytes)
  }
}

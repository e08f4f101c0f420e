/// What is to be sent, in order: bytes, and long values that are sent from where they are stored.
///
///     bytes         $65536\r\n | \r\n$3\r\nabc\r\n …
///     attachments              ^ a value, between byte 8 and byte 9
///
/// Invariants: the attachments' places ascend and are within `bytes`; the buffer owns a reference to
/// each one's block. Of the bytes the first `sentBytes` are sent, of the first attachment the first
/// `sentOfFirst`.
@safe struct OutputBuffer: ~Copyable {
  var bytes = ByteBuffer()
  private var attachments: [Attachment] = []
  /// Bytes of all attachments, sent ones included.
  private(set) var attachedBytes = 0
  private var sentBytes = 0
  private var sentOfFirst = 0

  private struct Attachment {
    /// How many of `bytes` come before it.
    let place: Int
    let block: SharedBlock
    let offset: Int
    let count: Int

    /// The same in bytes that begin elsewhere.
    func moved(by distance: Int) -> Attachment {
      Attachment(place: place + distance, block: block, offset: offset, count: count)
    }
  }

  /// How much of a buffer was written: what `truncate` goes back to.
  struct Mark {
    fileprivate let bytes: Int
    fileprivate let attachments: Int
  }

  init() {}

  deinit { for attachment in attachments { attachment.block.release() } }

  /// Bytes that are still to be sent.
  @inline(__always)
  var count: Int { bytes.count &- sentBytes &+ attachedBytes &- sentOfFirst }

  /// Whether `count` is at least `limit`; hardly anything to compute while it is far below.
  @inline(__always)
  func reaches(_ limit: Int) -> Bool { bytes.count &+ attachedBytes >= limit && count >= limit }

  @inline(__always)
  var isEmpty: Bool { count == 0 }

  /// Whether `bytes` are all that there is, and none of them was sent.
  @inline(__always)
  var isPlain: Bool { attachedBytes | sentBytes == 0 }

  /// Appends bytes without copying them.
  ///
  /// - Parameter value: Bytes of the block's payload, which nobody changes any more.
  mutating func attach(_ value: Bytes, in block: SharedBlock) {
    block.retain()
    let offset = unsafe value.pointer - UnsafePointer(block.payload)
    attachments.append(
      Attachment(place: bytes.count, block: block, offset: offset, count: value.count))
    attachedBytes += value.count
  }

  // MARK: Sending

  /// The next pieces to send, in order; good until the buffer is next changed.
  struct Pieces {
    private(set) var all = InlineArray<16, Bytes>(repeating: .empty)
    private(set) var count = 0

    fileprivate var isFull: Bool { count == all.count }

    fileprivate mutating func add(_ piece: Bytes) {
      if piece.isEmpty || isFull { return }
      all[count] = piece
      count += 1
    }
  }

  var pieces: Pieces {
    var pieces = Pieces()
    var position = sentBytes
    var sent = sentOfFirst
    for attachment in attachments where !pieces.isFull {
      pieces.add(bytes.bytes[position..<attachment.place])
      // SAFETY: the attachment lies in its block.
      let value = unsafe Bytes(
        base: attachment.block.payload + attachment.offset, count: attachment.count)
      pieces.add(value.dropFirst(sent))
      sent = 0
      position = attachment.place
    }
    pieces.add(bytes.bytes.dropFirst(position))
    return pieces
  }

  /// Calls `body` with all pieces, in order, of a buffer of which nothing was sent.
  func forEachPiece<Failure: Error>(_ body: (Bytes) throws(Failure) -> Void) throws(Failure) {
    var position = 0
    for attachment in attachments {
      try body(bytes.bytes[position..<attachment.place])
      // SAFETY: the attachment lies in its block.
      try unsafe body(
        Bytes(base: attachment.block.payload + attachment.offset, count: attachment.count))
      position = attachment.place
    }
    try body(bytes.bytes.dropFirst(position))
  }

  /// Takes off what was sent.
  mutating func removeFirst(_ sent: Int) {
    precondition(sent >= 0 && sent <= count, "more was sent than there was")
    var left = sent
    var done = 0
    for attachment in attachments {
      let before = min(left, attachment.place - sentBytes)
      sentBytes += before
      left -= before
      if sentBytes < attachment.place { break }
      let part = min(left, attachment.count - sentOfFirst)
      sentOfFirst += part
      left -= part
      if sentOfFirst < attachment.count { break }
      attachedBytes -= attachment.count
      sentOfFirst = 0
      attachment.block.release()
      done += 1
    }
    attachments.removeFirst(done)
    sentBytes += left
    // Nothing is left: its memory goes back.
    if count == 0 { self = OutputBuffer() }
  }

  // MARK: Taking over

  /// Moves everything out of `other` behind what is there.
  mutating func append(_ other: inout OutputBuffer) {
    if isEmpty, other.bytes.count > Self.movedBytesMin {
      // A long output changes hands.
      self = other.take()
      return
    }
    dropSent()
    let start = bytes.count - other.sentBytes
    bytes.append(other.bytes.bytes.dropFirst(other.sentBytes))
    if attachments.isEmpty { sentOfFirst = other.sentOfFirst }
    attachments += other.attachments.map { $0.moved(by: start) }
    attachedBytes += other.attachedBytes
    other.attachments = []
    other.reset()
  }

  /// Appends a byte and others to what may be sent in part.
  @inline(__always)
  mutating func append(_ first: UInt8, _ more: Bytes) {
    if sentBytes > 0 { dropSent() }
    bytes.append(first)
    bytes.append(more)
  }

  /// Gives the room of what is sent back once it is more than half.
  private mutating func dropSent() {
    if sentBytes <= bytes.count / 2 { return }
    let dropped = sentBytes
    bytes.removeFirst(dropped)
    sentBytes = 0
    attachments = attachments.map { $0.moved(by: -dropped) }
  }

  private static let movedBytesMin = 16 * 1024

  /// Forgets everything; keeps the memory of `bytes`.
  mutating func reset() {
    for attachment in attachments { attachment.block.release() }
    attachments = []
    attachedBytes = 0
    sentBytes = 0
    sentOfFirst = 0
    bytes.truncate(to: 0)
  }

  private mutating func take() -> OutputBuffer {
    var taken = OutputBuffer()
    swap(&taken, &self)
    return taken
  }

  // MARK: Taking back

  /// What has been written so far; of a buffer of which nothing was sent.
  var mark: Mark { Mark(bytes: bytes.count, attachments: attachments.count) }

  /// Forgets what was written behind `mark`.
  mutating func truncate(to mark: Mark) {
    while attachments.count > mark.attachments, let last = attachments.popLast() {
      attachedBytes -= last.count
      last.block.release()
    }
    bytes.truncate(to: mark.bytes)
  }
}

import Glibc

/// A growable run of bytes with one owner: output of a loop, input of a connection.
///
/// Growth doubles, so appending costs O(1) amortised per byte, and memory is only ever taken for
/// bytes that are there. From 16 KiB on the memory is a `SharedBlock`, which the store can take over
/// together with the value that was read into it; while it is shared, nothing may be appended.
///
/// Invariant: `base` points to `capacity` bytes, of which the first `count` are initialised: from
/// `malloc` or, from `blockBytes` on, the payload of a block; with `capacity` 0 there is no memory.
@safe struct ByteBuffer: ~Copyable {
  private var base: UnsafeMutablePointer<UInt8>
  private(set) var count = 0
  private(set) var capacity = 0

  private static var nothing: UnsafeMutablePointer<UInt8> {
    // SAFETY: never read or written: `capacity` is 0.
    unsafe UnsafeMutablePointer(bitPattern: 1).unsafelyUnwrapped
  }

  init() {
    unsafe base = Self.nothing
  }

  /// A buffer of at least so many bytes has a block.
  private static let blockBytes = 16 * 1024

  /// Takes over the memory of another buffer.
  private init(base: UnsafeMutablePointer<UInt8>, count: Int, capacity: Int) {
    unsafe self.base = base
    self.count = count
    self.capacity = capacity
  }

  deinit { freeMemory() }

  private func freeMemory() {
    if let block { block.release() } else if capacity > 0 { unsafe free(base) }
  }

  /// The block that the bytes lie in; nil for a small buffer.
  var block: SharedBlock? {
    capacity >= Self.blockBytes ? unsafe SharedBlock(payload: base) : nil
  }

  var isEmpty: Bool { count == 0 }

  /// A view that is good until the buffer is next changed.
  @inline(__always)
  var bytes: Bytes {
    // SAFETY: the first `count` bytes are initialised.
    unsafe Bytes(base: base, count: count)
  }

  /// Makes room for `extra` further bytes.
  @inline(__always)
  mutating func reserve(_ extra: Int) {
    if capacity &- count < extra { grow(by: extra) }
  }

  @inline(never)
  private mutating func grow(by extra: Int) {
    let wanted = max(count + extra, capacity * 2, 64)
    if !grow(to: wanted) { fatalError("out of memory: \(wanted) bytes for a buffer") }
  }

  /// Makes room for `extra` further bytes and hardly more.
  ///
  /// - Returns: False when there is no memory; then nothing has changed.
  mutating func reserveExactly(_ extra: Int) -> Bool {
    capacity - count >= extra || grow(to: count + extra)
  }

  private mutating func grow(to wanted: Int) -> Bool {
    if wanted < Self.blockBytes {
      // SAFETY: `base` is nil for realloc or comes from malloc.
      guard let memory = unsafe realloc(capacity == 0 ? nil : base, wanted) else { return false }
      unsafe base = memory.assumingMemoryBound(to: UInt8.self)
      capacity = wanted
      return true
    }
    if let block {
      guard let grown = block.grown(to: wanted, count: count) else { return false }
      unsafe base = grown.payload
      capacity = grown.capacity
      return true
    }
    guard let new = SharedBlock(capacity: wanted) else { return false }
    unsafe copyBytes(new.payload, base, count)
    freeMemory()
    unsafe base = new.payload
    capacity = new.capacity
    return true
  }

  @inline(__always)
  mutating func append(_ byte: UInt8) {
    reserve(1)
    // SAFETY: room was made.
    unsafe base[count] = byte
    count &+= 1
  }

  @inline(__always)
  mutating func append(_ bytes: Bytes) {
    reserve(bytes.count)
    // SAFETY: room was made, and a view never overlaps the free part of a buffer.
    unsafe copyBytes(base + count, bytes.pointer, bytes.count)
    count &+= bytes.count
  }

  /// Appends a literal: a pointer and a length, where a `String` would be taken apart.
  @inline(__always)
  mutating func append(literal text: StaticString) {
    let length = text.utf8CodeUnitCount
    reserve(length)
    // SAFETY: room was made; a static string is readable for its code units.
    unsafe copyBytes(base + count, text.utf8Start, length)
    count &+= length
  }

  /// Ends a line as RESP does: `\r\n`.
  @inline(__always)
  mutating func appendLineEnd() {
    reserve(2)
    // SAFETY: room was made.
    unsafe UnsafeMutableRawPointer(base + count).storeBytes(
      of: UInt16(0x0a0d).littleEndian, as: UInt16.self)
    count &+= 2
  }

  /// Appends `type`, `number` in decimal and a line end: the first line of a RESP value.
  @inline(__always)
  mutating func append(line type: UInt8, _ number: Int) {
    reserve(decimalDigitsMax + 3)
    // SAFETY: room for the longest number was made.
    unsafe base[count] = type
    let length = unsafe 1 &+ writeDecimal(number, to: base + count + 1)
    unsafe UnsafeMutableRawPointer(base + count + length).storeBytes(
      of: UInt16(0x0a0d).littleEndian, as: UInt16.self)
    count &+= length &+ 2
  }

  /// Appends `bytes` as RESP's bulk string, with its length in front.
  @inline(__always)
  mutating func append(bulk bytes: Bytes) {
    reserve(bytes.count &+ decimalDigitsMax &+ 5)
    // SAFETY: room for both lines was made.
    unsafe base[count] = UInt8(ascii: "$")
    var end = unsafe count &+ 1 &+ writeDecimal(bytes.count, to: base + count + 1)
    let lineEnd = UInt16(0x0a0d).littleEndian
    unsafe UnsafeMutableRawPointer(base + end).storeBytes(of: lineEnd, as: UInt16.self)
    end &+= 2
    unsafe copyBytes(base + end, bytes.pointer, bytes.count)
    end &+= bytes.count
    unsafe UnsafeMutableRawPointer(base + end).storeBytes(of: lineEnd, as: UInt16.self)
    count = end &+ 2
  }

  mutating func append(_ text: String) {
    var text = text
    text.withUTF8 { units in
      guard let start = units.baseAddress else { return }
      // SAFETY: the string keeps its units for the length of this closure.
      unsafe append(Bytes(base: start, count: units.count))
    }
  }

  /// Appends the low `bytes` bytes of `number`, the lowest first.
  mutating func append(littleEndian number: Int, bytes: Int) {
    for index in 0..<bytes { append(UInt8(truncatingIfNeeded: number >> (8 * index))) }
  }

  /// Appends `number` in decimal.
  @inline(__always)
  mutating func append(decimal number: Int) {
    reserve(decimalDigitsMax)
    // SAFETY: room for the longest number was made.
    unsafe count &+= writeDecimal(number, to: base + count)
  }

  /// Hands out room for at least `minimum` further bytes; `didAppend` says how many were written.
  @unsafe mutating func freeSpace(_ minimum: Int) -> UnsafeMutableBufferPointer<UInt8> {
    reserve(minimum)
    return unsafe UnsafeMutableBufferPointer(start: base + count, count: capacity - count)
  }

  /// Appends `added` zeros, and lends them until the buffer is next changed.
  @unsafe mutating func appendZeros(_ added: Int) -> MutableBytes {
    reserve(added)
    let zeros = unsafe MutableBytes(base: base + count, count: added)
    zeros.clear(0..<added)
    count += added
    return zeros
  }

  /// Puts other bytes in the place of the first ones.
  mutating func replaceFirst(with other: Bytes) {
    precondition(other.count <= count, "more bytes than there are")
    // SAFETY: just checked; a view of other memory.
    unsafe copyBytes(base, other.pointer, other.count)
  }

  /// Counts `written` bytes that were put into the free space.
  mutating func didAppend(_ written: Int) {
    precondition(written >= 0 && written <= capacity - count, "more bytes than there was room")
    count += written
  }

  /// Drops the first `dropped` bytes. O(count).
  ///
  /// The others leave a block that somebody else has taken over.
  mutating func removeFirst(_ dropped: Int) {
    precondition(dropped >= 0 && dropped <= count, "more bytes than there are")
    if dropped == 0 { return }
    if let block, block.isShared {
      var rest = ByteBuffer()
      rest.append(bytes.dropFirst(dropped))
      self = rest
      return
    }
    count -= dropped
    // SAFETY: both ends lie within the initialised bytes.
    unsafe memmove(base, base + dropped, count)
  }

  /// Forgets everything behind the first `kept` bytes.
  @inline(__always)
  mutating func truncate(to kept: Int) {
    precondition(kept >= 0 && kept <= count, "more bytes than there are")
    count = kept
  }

  /// Empties the buffer; gives its memory back when it holds more than `keptCapacity` bytes.
  mutating func clear(keeping keptCapacity: Int) {
    count = 0
    if capacity > keptCapacity {
      freeMemory()
      unsafe base = Self.nothing
      capacity = 0
    }
  }

  /// Moves the contents out, leaving an empty buffer without memory.
  mutating func take() -> ByteBuffer {
    let taken = unsafe ByteBuffer(base: base, count: count, capacity: capacity)
    unsafe base = Self.nothing
    count = 0
    capacity = 0
    return taken
  }
}

/// Where one argument lies in the input, in bytes from its beginning.
struct ArgumentRange {
  var offset: UInt32
  var length: UInt32

  @inline(__always)
  init(offset: Int, length: Int) {
    // Both fit: an input is less than 4 GiB long.
    self.offset = UInt32(truncatingIfNeeded: offset)
    self.length = UInt32(truncatingIfNeeded: length)
  }
}

/// One complete request: a command name and its arguments, as ranges of the input.
///
/// Invariant: every range lies within the bytes behind `base`, and both stay in place until the
/// request has been answered. Made by `RequestParser` only.
@safe struct Request {
  private let base: UnsafePointer<UInt8>
  private let ranges: UnsafePointer<ArgumentRange>
  /// Arguments including the command's name, at least 1.
  let count: Int

  @inline(__always)
  @unsafe init(
    base: UnsafePointer<UInt8>, ranges: UnsafePointer<ArgumentRange>, count: Int
  ) {
    unsafe self.base = base
    unsafe self.ranges = ranges
    self.count = count
  }

  /// Argument `index`; 0 is the command's name.
  @inline(__always)
  subscript(index: Int) -> Bytes {
    precondition(UInt(bitPattern: index) < UInt(bitPattern: count), "no such argument")
    return unsafe bytes(index)
  }

  /// - Parameter index: 0..<`count`, which is not checked.
  @inline(__always)
  @unsafe func bytes(_ index: Int) -> Bytes {
    // SAFETY: the caller says so; the range lies within the input.
    let range = unsafe ranges[index]
    return unsafe Bytes(base: base + Int(range.offset), count: Int(range.length))
  }

  /// Argument 0, the command's name.
  @inline(__always)
  var name: Bytes {
    // SAFETY: there is at least one argument.
    unsafe bytes(0)
  }

  /// Where argument `index` lies in the payload of `block`; nil if that is not where the request is.
  func offset(of index: Int, in block: SharedBlock) -> Int? {
    let bytes = self[index]
    let distance = unsafe bytes.pointer - UnsafePointer(block.payload)
    return distance >= 0 && distance + bytes.count <= block.capacity ? distance : nil
  }

  /// Bytes from the first argument's beginning to the last one's end.
  @inline(__always)
  var byteCount: Int {
    // SAFETY: there is at least one argument.
    let (first, last) = unsafe (ranges[0], ranges[count &- 1])
    return Int(last.offset) &+ Int(last.length) &- Int(first.offset)
  }

  /// The request from argument `first` on, as a request of its own: for COMMAND GETKEYS.
  func dropFirst(_ first: Int) -> Request {
    precondition(first >= 0 && first < count, "no arguments would be left")
    // SAFETY: just checked.
    return unsafe Request(base: base, ranges: ranges + first, count: count - first)
  }
}

/// The arguments of the requests of one batch.
///
/// Invariant: `base` has room for `capacity` ranges, the first `count` of which are initialised.
@safe struct ArgumentList: ~Copyable {
  private var base: UnsafeMutablePointer<ArgumentRange>
  private(set) var count = 0
  private var capacity: Int

  private static let initialCapacity = 128

  init() {
    capacity = Self.initialCapacity
    unsafe base = .allocate(capacity: capacity)
  }

  deinit {
    unsafe base.deallocate()
  }

  /// The ranges, from `start` on; good until the list next changes.
  @inline(__always)
  @unsafe func pointer(from start: Int) -> UnsafePointer<ArgumentRange> {
    unsafe UnsafePointer(base + start)
  }

  /// Room for `extra` ranges behind the last one; `didAppend` says how many were written.
  @inline(__always)
  @unsafe mutating func freeSpace(_ extra: Int) -> UnsafeMutablePointer<ArgumentRange> {
    while capacity &- count < extra { grow() }
    return unsafe base + count
  }

  @inline(__always)
  mutating func didAppend(_ written: Int) {
    count &+= written
  }

  @inline(__always)
  mutating func append(offset: Int, length: Int) {
    if count == capacity { grow() }
    // SAFETY: there is room.
    unsafe base[count] = ArgumentRange(offset: offset, length: length)
    count &+= 1
  }

  @inline(never)
  private mutating func grow() {
    let larger = UnsafeMutablePointer<ArgumentRange>.allocate(capacity: capacity * 2)
    unsafe larger.moveInitialize(from: base, count: count)
    unsafe base.deallocate()
    unsafe base = larger
    capacity *= 2
  }

  /// Drops the ranges before `first`, and moves the others `distance` bytes to the front.
  mutating func rebase(from first: Int, by distance: Int) {
    let kept = count - first
    for index in 0..<kept {
      var range = unsafe base[first + index]
      range.offset -= UInt32(distance)
      unsafe base[index] = range
    }
    count = kept
  }

  /// Forgets the ranges from `kept` on.
  @inline(__always)
  mutating func truncate(to kept: Int) {
    count = kept
    if kept == 0, capacity > 65_536 { shrink() }
  }

  /// One request with a million arguments must not keep memory for ever.
  @inline(never)
  private mutating func shrink() {
    unsafe base.deallocate()
    capacity = Self.initialCapacity
    unsafe base = .allocate(capacity: capacity)
  }
}

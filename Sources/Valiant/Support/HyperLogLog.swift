import Glibc

/// Counts different elements in at most twelve kilobytes, with a standard error of 0.81 %.
///
/// The bytes are Redis's, so that values move between servers:
///
///     header   "HYLL" | encoding: 1 | 0: 3 | cached count: 8, its top bit set when it is out of date
///     dense    16,384 registers of 6 bits, the low ones first
///     sparse   00xxxxxx: x + 1 registers of 0    01xxxxxx xxxxxxxx: the same, up to 16,384
///              1vvvvvxx: x + 1 registers of v + 1
///
/// Sources: Flajolet and others, "HyperLogLog"; Ertl, "New cardinality estimation algorithms for
/// HyperLogLog sketches"; Redis's format.
struct HyperLogLog {
  private(set) var bytes: [UInt8]

  static let registerCount = 1 << 14
  /// Bits of a hash that a register's number leaves.
  private static let hashBits = 50
  private static let headerBytes = 16
  private static let encodingOffset = 4
  private static let countOffset = 8
  private static let denseBytes = headerBytes + registerCount * 6 / 8
  private static let dense: UInt8 = 0
  private static let sparse: UInt8 = 1

  /// What is not a value of this kind, or is one that contradicts itself.
  enum Failure: Error {
    case notOne, corrupt
  }

  /// One with nothing in it.
  init() {
    bytes =
      Array("HYLL".utf8) + [Self.sparse] + [UInt8](repeating: 0, count: 11)
      + Run.zeros(Self.registerCount).encoded
  }

  /// What a stored string holds.
  init(_ stored: Bytes) throws(Failure) {
    try Self.check(stored)
    bytes = stored.array
  }

  /// Whether a string can be one; its registers are not looked at.
  private static func check(_ stored: Bytes) throws(Failure) {
    guard stored.count >= headerBytes, stored.prefix(4).array == Array("HYLL".utf8),
      stored[encodingOffset] <= sparse,
      stored[encodingOffset] == sparse || stored.count == denseBytes
    else { throw .notOne }
  }

  /// Whether a string is one in dense form, whose registers can be written in place.
  static func isDense(_ stored: Bytes) throws(Failure) -> Bool {
    try check(stored)
    return stored[encodingOffset] == dense
  }

  var isDense: Bool { bytes[Self.encodingOffset] == Self.dense }

  // MARK: Elements

  /// The register that an element belongs to, and the least value that it gives it, 1...51.
  static func register(of element: Bytes) -> (index: Int, value: UInt8) {
    let hash = murmurHash(element)
    let index = Int(hash & UInt64(registerCount - 1))
    let rest = hash >> 14 | 1 << UInt64(hashBits)
    return (index, UInt8(rest.trailingZeroBitCount + 1))
  }

  /// MurmurHash64A with Redis's seed.
  private static func murmurHash(_ bytes: Bytes) -> UInt64 {
    let factor: UInt64 = 0xc6a4_a793_5bd1_e995
    var hash: UInt64 = 0xadc8_3b19 ^ (UInt64(bytes.count) &* factor)
    var rest = bytes
    while rest.count >= 8 {
      var word = rest.firstWord &* factor
      word ^= word >> 47
      hash = (hash ^ word &* factor) &* factor
      rest = rest.dropFirst(8)
    }
    if !rest.isEmpty {
      for index in 0..<rest.count { hash ^= UInt64(rest[index]) << UInt64(8 * index) }
      hash = hash &* factor
    }
    hash ^= hash >> 47
    hash = hash &* factor
    return hash ^ hash >> 47
  }

  // MARK: Writing

  /// Raises a register to `value` if it is less.
  ///
  /// - Parameter sparseMax: Bytes above which the dense form is used.
  /// - Returns: Whether it was less.
  mutating func raise(
    _ index: Int, to value: UInt8, sparseMax: Int
  ) throws(Failure) -> Bool {
    if !isDense {
      if let isRaised = try raiseSparse(index, to: value, sparseMax: sparseMax) {
        return isRaised
      }
      try makeDense()
    }
    return unsafe bytes.withUnsafeMutableBufferPointer { buffer in
      guard let base = buffer.baseAddress else { return false }
      // SAFETY: the array keeps its storage for the length of this closure.
      return Self.raise(index, to: value, in: unsafe MutableBytes(base: base, count: buffer.count))
    }
  }

  /// The same for a stored one in dense form.
  static func raise(_ index: Int, to value: UInt8, in stored: MutableBytes) -> Bool {
    precondition(index >= 0 && index < registerCount && stored.count == denseBytes, "no such one")
    let bit = index * 6
    let place = headerBytes + bit >> 3
    let shift = UInt16(bit & 7)
    let isLast = place + 1 == stored.count
    var pair = UInt16(stored[place]) | (isLast ? 0 : UInt16(stored[place + 1]) << 8)
    if pair >> shift & 0x3f >= UInt16(value) { return false }
    pair = pair & ~(0x3f << shift) | UInt16(value) << shift
    stored[place] = UInt8(pair & 0xff)
    if !isLast { stored[place + 1] = UInt8(pair >> 8) }
    return true
  }

  /// Says that the cached count is out of date.
  static func invalidateCount(in stored: MutableBytes) { stored[countOffset + 7] |= 0x80 }

  mutating func invalidateCount() { bytes[Self.countOffset + 7] |= 0x80 }

  /// Changes to the form with six bits for each register.
  mutating func makeDense() throws(Failure) {
    if isDense { return }
    let values = try registers()
    var new = Array(bytes.prefix(Self.headerBytes))
    new[Self.encodingOffset] = Self.dense
    new += [UInt8](repeating: 0, count: Self.denseBytes - Self.headerBytes)
    bytes = new
    for (index, value) in values.enumerated() where value > 0 {
      _ = try raise(index, to: value, sparseMax: 0)
    }
  }

  // MARK: Reading

  /// The values of all registers. O(registers).
  func registers() throws(Failure) -> [UInt8] {
    var values = [UInt8](repeating: 0, count: Self.registerCount)
    if isDense {
      for index in 0..<Self.registerCount {
        let bit = index * 6
        let place = Self.headerBytes + bit >> 3
        let next = place + 1 < bytes.count ? UInt16(bytes[place + 1]) << 8 : 0
        values[index] = UInt8((UInt16(bytes[place]) | next) >> UInt16(bit & 7) & 0x3f)
      }
      return values
    }
    var index = 0
    var place = Self.headerBytes
    while place < bytes.count {
      guard let run = Run(bytes, at: place), index + run.length <= values.count else {
        throw .corrupt
      }
      for register in index..<index + run.length { values[register] = run.value }
      index += run.length
      place += run.byteCount
    }
    guard index == Self.registerCount else { throw .corrupt }
    return values
  }

  /// The count as it was last worked out; nil when that is out of date.
  var cachedCount: Int? {
    if bytes[Self.countOffset + 7] & 0x80 != 0 { return nil }
    return (0..<8).reduce(0) { $0 | Int(bytes[Self.countOffset + $1]) << (8 * $1) }
  }

  /// Keeps a count until the next change.
  static func cache(_ count: Int, in stored: MutableBytes) {
    for index in 0..<8 { stored[countOffset + index] = UInt8(count >> (8 * index) & 0xff) }
  }

  /// About how many different elements have given registers these values.
  static func estimate(_ registers: [UInt8]) -> Int {
    var histogram = [Int](repeating: 0, count: 64)
    for value in registers { histogram[Int(value)] += 1 }
    let count = Double(registerCount)
    var sum = count * tau((count - Double(histogram[hashBits + 1])) / count)
    for value in (1...hashBits).reversed() { sum = (sum + Double(histogram[value])) * 0.5 }
    sum += count * sigma(Double(histogram[0]) / count)
    // 1 / (2 ln 2)
    let estimate = (0.721347520444481703680 * count * count / sum).rounded()
    // Values that no elements give may come from a client.
    return estimate < 0x1p62 ? Int(estimate) : Int.max
  }

  private static func tau(_ part: Double) -> Double {
    if part == 0 || part == 1 { return 0 }
    var (x, y, z) = (part, 1.0, 1 - part)
    var before: Double
    repeat {
      x = x.squareRoot()
      before = z
      y *= 0.5
      z -= (1 - x) * (1 - x) * y
    } while before != z
    return z / 3
  }

  private static func sigma(_ part: Double) -> Double {
    if part == 1 { return .infinity }
    var (x, y, z) = (part, 1.0, part)
    var before: Double
    repeat {
      x *= x
      before = z
      z += x * y
      y += y
    } while before != z
    return z
  }

  // MARK: The sparse form

  /// Neighbouring registers with one value.
  private struct Run {
    let value: UInt8
    let length: Int

    static let valueMax: UInt8 = 32
    static let valueLengthMax = 4
    private static let shortZerosMax = 64

    static func zeros(_ length: Int) -> Run { Run(value: 0, length: length) }

    init(value: UInt8, length: Int) {
      self.value = value
      self.length = length
    }

    /// Nil when the bytes end in the middle of it.
    init?(_ bytes: [UInt8], at place: Int) {
      let first = bytes[place]
      if first & 0x80 != 0 {
        self.init(value: first >> 2 & 0x1f + 1, length: Int(first & 3) + 1)
      } else if first & 0x40 == 0 {
        self.init(value: 0, length: Int(first & 0x3f) + 1)
      } else {
        guard place + 1 < bytes.count else { return nil }
        self.init(value: 0, length: (Int(first & 0x3f) << 8 | Int(bytes[place + 1])) + 1)
        isWide = true
      }
    }

    /// Whether it was read in the longer of two forms.
    private(set) var isWide = false

    var byteCount: Int { isWide ? 2 : 1 }

    /// The bytes in which it is written, none when it is empty.
    var encoded: [UInt8] {
      if length == 0 { return [] }
      let rest = length - 1
      if value > 0 { return [0x80 | (value - 1) << 2 | UInt8(rest)] }
      if length <= Self.shortZerosMax { return [UInt8(rest)] }
      return [0x40 | UInt8(rest >> 8), UInt8(rest & 0xff)]
    }
  }

  /// - Returns: Nil when the value or the length is too much for this form.
  private mutating func raiseSparse(
    _ index: Int, to value: UInt8, sparseMax: Int
  ) throws(Failure) -> Bool? {
    if value > Run.valueMax { return nil }
    var place = Self.headerBytes
    var previous: Int?
    var first = 0
    while true {
      guard place < bytes.count, let run = Run(bytes, at: place) else { throw .corrupt }
      if index < first + run.length {
        if run.value >= value { return false }
        let before = Run(value: run.value, length: index - first)
        let behind = Run(value: run.value, length: first + run.length - 1 - index)
        let new = before.encoded + Run(value: value, length: 1).encoded + behind.encoded
        let growth = new.count - run.byteCount
        if growth > 0, bytes.count + growth > sparseMax { return nil }
        bytes.replaceSubrange(place..<place + run.byteCount, with: new)
        mergeRuns(from: previous ?? Self.headerBytes)
        invalidateCount()
        return true
      }
      first += run.length
      previous = place
      place += run.byteCount
    }
  }

  /// Joins neighbours with the same value among the next few runs.
  private mutating func mergeRuns(from start: Int) {
    var place = start
    for _ in 0..<5 where place < bytes.count {
      guard let run = Run(bytes, at: place) else { return }
      if run.value > 0, place + 1 < bytes.count, let next = Run(bytes, at: place + 1),
        next.value == run.value, run.length + next.length <= Run.valueLengthMax
      {
        let joined = Run(value: run.value, length: run.length + next.length)
        bytes.replaceSubrange(place..<place + 2, with: joined.encoded)
      } else {
        place += run.byteCount
      }
    }
  }
}

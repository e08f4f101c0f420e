import Glibc

/// Bytes that somebody else owns: an argument in the input buffer, a key or value in an entry.
///
/// Invariant: `base` is readable for `count` bytes for as long as the view is in use. Views are
/// made by the type that owns the memory, are handed down a call and never stored: a view of an
/// argument is good until its command ends, a view of an entry until its shard's lock is released.
@safe struct Bytes {
  private let base: UnsafePointer<UInt8>
  let count: Int

  /// - Parameter base: Readable for `count` bytes while the view is used.
  @inline(__always)
  @unsafe init(base: UnsafePointer<UInt8>, count: Int) {
    unsafe self.base = base
    self.count = count
  }

  /// No bytes.
  static var empty: Bytes {
    // SAFETY: nothing is ever read through a view of no bytes.
    unsafe Bytes(base: UnsafePointer(bitPattern: 1).unsafelyUnwrapped, count: 0)
  }

  var isEmpty: Bool { count == 0 }

  /// The first byte's address, for C calls; readable for `count` bytes.
  @inline(__always)
  @unsafe var pointer: UnsafePointer<UInt8> { unsafe base }

  @inline(__always)
  subscript(index: Int) -> UInt8 {
    precondition(UInt(bitPattern: index) < UInt(bitPattern: count), "index out of range")
    // SAFETY: just checked.
    return unsafe base[index]
  }

  /// The four bytes from `index` on, the first of them lowest.
  ///
  /// - Parameter index: 0...`count` - 4, which is not checked: whoever asks has had to look already.
  @inline(__always)
  @unsafe func word(at index: Int) -> UInt32 {
    // SAFETY: the caller says so.
    unsafe UInt32(
      littleEndian: UnsafeRawPointer(base).loadUnaligned(fromByteOffset: index, as: UInt32.self))
  }

  /// Up to eight first bytes, the first of them lowest; zeros behind a shorter view.
  @inline(__always)
  var firstWord: UInt64 {
    // SAFETY: every load ends at or before `count`.
    let raw = unsafe UnsafeRawPointer(base)
    // Most names of commands have three letters.
    if count == 3 {
      return unsafe UInt64(base[0]) | UInt64(base[1]) &<< 8 | UInt64(base[2]) &<< 16
    }
    if count >= 8 { return unsafe raw.loadUnaligned(as: UInt64.self).littleEndian }
    if count >= 4 {
      let low = unsafe UInt64(raw.loadUnaligned(as: UInt32.self).littleEndian)
      let high = unsafe UInt64(
        raw.loadUnaligned(fromByteOffset: count &- 4, as: UInt32.self).littleEndian)
      return low | high &<< (UInt64(count &- 4) &* 8)
    }
    if count == 0 { return 0 }
    return unsafe UInt64(base[0]) | UInt64(base[count &- 1]) &<< (UInt64(count &- 1) &* 8)
  }

  /// The bytes of `range`, which must lie within `0...count`.
  @inline(__always)
  subscript(range: Range<Int>) -> Bytes {
    precondition(range.lowerBound >= 0 && range.upperBound <= count, "range out of bounds")
    // SAFETY: just checked.
    return unsafe Bytes(base: base + range.lowerBound, count: range.count)
  }

  func prefix(_ maxCount: Int) -> Bytes { self[0..<min(maxCount, count)] }
  func dropFirst(_ dropped: Int) -> Bytes { self[min(dropped, count)..<count] }

  /// A copy that outlives the view.
  var array: [UInt8] {
    // SAFETY: `base` is readable for `count` bytes.
    unsafe [UInt8](UnsafeBufferPointer(start: base, count: count))
  }

  /// A copy as text; bytes that are not UTF-8 become U+FFFD.
  var text: String {
    // SAFETY: `base` is readable for `count` bytes.
    unsafe String(decoding: UnsafeBufferPointer(start: base, count: count), as: UTF8.self)
  }

  /// Same length and same bytes. O(count).
  @inline(__always)
  static func == (left: Bytes, right: Bytes) -> Bool {
    // SAFETY: both are readable for the common count.
    if left.count != right.count { return false }
    return unsafe equalBytes(left.base, right.base, left.count)
  }

  /// Equal to an ASCII word, letters compared without case.
  func equalsIgnoringCase(_ word: StaticString) -> Bool {
    guard word.utf8CodeUnitCount == count else { return false }
    for index in 0..<count {
      // SAFETY: a static string is readable for its code units.
      let expected = unsafe word.utf8Start[index]
      if asciiLowercase(self[index]) != asciiLowercase(expected) { return false }
    }
    return true
  }

  func equalsIgnoringCase(_ word: String) -> Bool {
    word.utf8.count == count
      && zip(word.utf8, 0..<count).allSatisfy {
        asciiLowercase($0) == asciiLowercase(self[$1])
      }
  }
}

/// Bytes that somebody else owns, to be changed: a value in an entry.
///
/// Invariant: as for `Bytes`, and writable.
@safe struct MutableBytes {
  private let base: UnsafeMutablePointer<UInt8>
  let count: Int

  /// - Parameter base: Readable and writable for `count` bytes while the view is used.
  @unsafe init(base: UnsafeMutablePointer<UInt8>, count: Int) {
    unsafe self.base = base
    self.count = count
  }

  @inline(__always)
  subscript(index: Int) -> UInt8 {
    get { bytes[index] }
    nonmutating set {
      precondition(UInt(bitPattern: index) < UInt(bitPattern: count), "index out of range")
      // SAFETY: just checked.
      unsafe base[index] = newValue
    }
  }

  /// The first byte's address, for C calls; writable for `count` bytes.
  @unsafe var pointer: UnsafeMutablePointer<UInt8> { unsafe base }

  /// The same bytes to be read.
  var bytes: Bytes { unsafe Bytes(base: base, count: count) }

  /// Overwrites the bytes from `offset` on by `new`, which lies elsewhere and must fit.
  func replace(at offset: Int, with new: Bytes) {
    precondition(offset >= 0 && offset <= count - new.count, "more bytes than there is room")
    // SAFETY: just checked.
    unsafe copyBytes(base + offset, new.pointer, new.count)
  }

  /// Makes the bytes of `range` zeros.
  func clear(_ range: Range<Int>) {
    precondition(range.lowerBound >= 0 && range.upperBound <= count, "range out of bounds")
    // SAFETY: just checked.
    unsafe memset(base + range.lowerBound, 0, range.count)
  }
}

extension Array where Element == UInt8 {
  /// Lends the array's bytes to `body`.
  @inline(__always)
  func withBytes<Result, Failure: Error>(
    _ body: (Bytes) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    let result: Swift.Result<Result, Failure> = unsafe withUnsafeBufferPointer { buffer in
      do throws(Failure) {
        guard let base = buffer.baseAddress else { return .success(try body(.empty)) }
        // SAFETY: the array keeps its storage for the length of this closure.
        return .success(try body(unsafe Bytes(base: base, count: buffer.count)))
      } catch {
        return .failure(error)
      }
    }
    return try result.get()
  }
}

/// The byte in lower case when it is an ASCII capital, else itself.
@inline(__always)
func asciiLowercase(_ byte: UInt8) -> UInt8 {
  byte &- 0x41 < 26 ? byte | 0x20 : byte
}

/// What a hexadecimal digit stands for; nil for anything else.
func hexDigit(_ byte: UInt8) -> UInt8? {
  switch byte {
  case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
  case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
  case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
  default: nil
  }
}

/// Copies up to a few dozen bytes without a call; longer runs go to the C library.
///
/// The regions do not overlap; both are accessible for `count` bytes.
@inline(__always)
@unsafe func copyBytes(
  _ target: UnsafeMutablePointer<UInt8>, _ source: UnsafePointer<UInt8>, _ count: Int
) {
  let to = UnsafeMutableRawPointer(target)
  let from = unsafe UnsafeRawPointer(source)
  if count > 16 {
    unsafe memcpy(to, from, count)
  } else if count >= 8 {
    // Two words that overlap when fewer than 16 bytes are wanted.
    let head = unsafe from.loadUnaligned(as: UInt64.self)
    let tail = unsafe from.loadUnaligned(fromByteOffset: count &- 8, as: UInt64.self)
    unsafe to.storeBytes(of: head, as: UInt64.self)
    unsafe to.storeBytes(of: tail, toByteOffset: count &- 8, as: UInt64.self)
  } else if count >= 4 {
    let head = unsafe from.loadUnaligned(as: UInt32.self)
    let tail = unsafe from.loadUnaligned(fromByteOffset: count &- 4, as: UInt32.self)
    unsafe to.storeBytes(of: head, as: UInt32.self)
    unsafe to.storeBytes(of: tail, toByteOffset: count &- 4, as: UInt32.self)
  } else if count > 0 {
    unsafe target[0] = source[0]
    unsafe target[count / 2] = source[count / 2]
    unsafe target[count &- 1] = source[count &- 1]
  }
}

/// Compares two runs of `count` readable bytes; short ones, which keys mostly are, without a call.
@inline(__always)
@unsafe func equalBytes(
  _ left: UnsafePointer<UInt8>, _ right: UnsafePointer<UInt8>, _ count: Int
) -> Bool {
  let one = unsafe UnsafeRawPointer(left)
  let other = unsafe UnsafeRawPointer(right)
  if count > 16 {
    return unsafe memcmp(one, other, count) == 0
  }
  if count >= 8 {
    let head =
      unsafe one.loadUnaligned(as: UInt64.self) ^ other.loadUnaligned(as: UInt64.self)
    let tail =
      unsafe one.loadUnaligned(fromByteOffset: count &- 8, as: UInt64.self)
      ^ other.loadUnaligned(fromByteOffset: count &- 8, as: UInt64.self)
    return head | tail == 0
  }
  if count >= 4 {
    let head =
      unsafe one.loadUnaligned(as: UInt32.self) ^ other.loadUnaligned(as: UInt32.self)
    let tail =
      unsafe one.loadUnaligned(fromByteOffset: count &- 4, as: UInt32.self)
      ^ other.loadUnaligned(fromByteOffset: count &- 4, as: UInt32.self)
    return head | tail == 0
  }
  var index = 0
  while index < count {
    if unsafe left[index] != right[index] { return false }
    index &+= 1
  }
  return true
}

extension Bytes {
  /// The index of the first `byte`, if there is one. O(count).
  func firstIndex(of byte: UInt8) -> Int? {
    if isEmpty { return nil }
    // SAFETY: the view is readable for its count, and memchr finds within it.
    guard let found = unsafe memchr(pointer, Int32(byte), count) else { return nil }
    return unsafe UnsafeRawPointer(found) - UnsafeRawPointer(pointer)
  }
}

/// Bytes as a row of bits, the highest of the first byte in front.

extension Bytes {
  /// Bit `index`, 0 or 1; 0 behind the end.
  func bit(_ index: Int) -> Int {
    let byte = index >> 3
    return byte < count ? Int(self[byte] >> UInt8(7 - index & 7)) & 1 : 0
  }

  /// Eight bytes from `index` on, the first of them highest, within the view.
  @inline(__always)
  private func bigEndianWord(_ index: Int) -> UInt64 {
    precondition(index >= 0 && index <= count - 8, "index out of range")
    // SAFETY: just checked.
    return unsafe UInt64(
      bigEndian: UnsafeRawPointer(pointer).loadUnaligned(fromByteOffset: index, as: UInt64.self))
  }

  /// Bits that are set of bits `first...last`, which are within the view. O(bytes).
  func bitCount(_ first: Int, _ last: Int) -> Int {
    var total = 0
    forEachWord(first, last) { word, _, _ in
      total += word.nonzeroBitCount
      return true
    }
    return total
  }

  /// The first of bits `first...last`, which are within the view, that is `bit`, 0 or 1; nil if none
  /// is. O(bytes).
  func firstBit(_ bit: Int, _ first: Int, _ last: Int) -> Int? {
    var found: Int?
    forEachWord(first, last) { word, start, bits in
      // Zeros stand behind fewer than 64 bits; they do not count.
      let wanted = bit == 1 ? word : ~word & (UInt64.max << UInt64(64 - bits))
      if wanted == 0 { return true }
      found = start + wanted.leadingZeroBitCount
      return false
    }
    return found
  }

  /// Calls `body` with up to 64 bits at once, the first of them highest, until it returns false.
  ///
  /// - Parameter body: Gets the bits, the index of the first one, and how many there are.
  @inline(__always)
  private func forEachWord(_ first: Int, _ last: Int, _ body: (UInt64, Int, Int) -> Bool) {
    var position = first
    while position <= last {
      let byte = position >> 3
      if position & 7 == 0, last - position >= 63 {
        if !body(bigEndianWord(byte), position, 64) { return }
        position += 64
      } else {
        let bits = min(8 - position & 7, last - position + 1)
        let rest = self[byte] << UInt8(position & 7) & ~(0xff >> UInt8(bits))
        if !body(UInt64(rest) << 56, position, bits) { return }
        position += bits
      }
    }
  }

  /// The number in `width` bits from bit `offset` on, 1...64, zeros behind the end.
  func bitField(_ offset: Int, width: Int) -> UInt64 {
    var field: UInt64 = 0
    for index in offset..<offset + width { field = field << 1 | UInt64(bit(index)) }
    return field
  }
}

extension MutableBytes {
  /// Replaces the first bytes by what `operation` makes of them and `other`, which is not longer.
  @inline(__always)
  func combine(_ other: Bytes, _ operation: (UInt64, UInt64) -> UInt64) {
    precondition(other.count <= count, "more bytes than there are")
    var index = 0
    while index <= other.count - 8 {
      // SAFETY: eight bytes of both are left.
      let target = unsafe UnsafeMutableRawPointer(pointer + index)
      let right = unsafe UnsafeRawPointer(other.pointer + index).loadUnaligned(as: UInt64.self)
      let new = unsafe operation(target.loadUnaligned(as: UInt64.self), right)
      unsafe target.storeBytes(of: new, as: UInt64.self)
      index += 8
    }
    while index < other.count {
      self[index] = UInt8(
        truncatingIfNeeded: operation(UInt64(self[index]), UInt64(other[index])))
      index += 1
    }
  }

  /// Sets bit `index`, which is within the view, and returns what it was.
  func setBit(_ index: Int, _ bit: Int) -> Int {
    let mask = UInt8(0x80) >> UInt8(index & 7)
    let old = self[index >> 3]
    self[index >> 3] = bit == 1 ? old | mask : old & ~mask
    return old & mask == 0 ? 0 : 1
  }

  /// Writes the low `width` bits of `field` from bit `offset` on.
  func setBitField(_ offset: Int, width: Int, _ field: UInt64) {
    for index in 0..<width {
      _ = setBit(offset + index, Int(field >> UInt64(width - 1 - index) & 1))
    }
  }
}

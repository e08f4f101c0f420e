/// The checksum of Redis's files and of what DUMP answers: CRC-64 with Jones's polynomial, reflected.
///
/// Eight bytes at a time by eight tables ("slicing by 8"), and of long runs three at once: the
/// processor looks things up for one while the others wait for their memory.
enum CRC64 {
  /// The polynomial with its bits in reverse.
  private static let polynomial: UInt64 = 0x95AC_9329_AC4B_C9B5

  /// What becomes of a byte with 0...7 bytes of zeros behind it: 256 numbers for each.
  private static let tables: [UInt64] = {
    var tables = (0..<256).map { byte in
      (0..<8).reduce(UInt64(byte)) { remainder, _ in
        remainder & 1 == 0 ? remainder >> 1 : remainder >> 1 ^ polynomial
      }
    }
    for index in 256..<8 * 256 {
      let before = tables[index - 256]
      tables.append(before >> 8 ^ tables[Int(before & 0xff)])
    }
    return tables
  }()

  /// Bytes of each of the runs that are summed at once, and how often the polynomial x is squared
  /// for the power that moves a sum by so many bytes.
  private static let runBytes = 2048
  private static let squares = 14
  /// x to the power of 8 * `runBytes`.
  private static let runPower: UInt64 = (0..<squares).reduce(1 << 62) { power, _ in
    product(power, power)
  }

  /// The product of two polynomials, modulo the checksum's; the highest bit is that of x⁰.
  private static func product(_ left: UInt64, _ right: UInt64) -> UInt64 {
    var (sum, shifted): (UInt64, UInt64) = (0, right)
    for bit in stride(from: UInt64(63), through: 0, by: -1) {
      if left >> bit & 1 != 0 { sum ^= shifted }
      shifted = shifted & 1 == 0 ? shifted >> 1 : shifted >> 1 ^ polynomial
    }
    return sum
  }

  /// The checksum of `bytes`, behind others with the checksum `before`. O(count).
  static func checksum(_ bytes: Bytes, after before: UInt64 = 0) -> UInt64 {
    unsafe tables.withUnsafeBufferPointer { tables in
      @inline(__always)
      func entry(_ zeros: Int, _ byte: UInt64) -> UInt64 {
        unsafe tables[zeros << 8 | Int(truncatingIfNeeded: byte & 0xff)]
      }
      @inline(__always)
      func next(_ sum: UInt64, _ index: Int) -> UInt64 {
        // SAFETY: the caller has seen that eight bytes are there.
        let sum =
          unsafe sum
          ^ UnsafeRawPointer(bytes.pointer + index)
          .loadUnaligned(as: UInt64.self).littleEndian
        return entry(7, sum) ^ entry(6, sum >> 8) ^ entry(5, sum >> 16) ^ entry(4, sum >> 24)
          ^ entry(3, sum >> 32) ^ entry(2, sum >> 40) ^ entry(1, sum >> 48) ^ entry(0, sum >> 56)
      }
      var sum = before
      var index = 0
      while index &+ 3 &* runBytes <= bytes.count {
        var (second, third): (UInt64, UInt64) = (0, 0)
        for index in stride(from: index, to: index &+ runBytes, by: 8) {
          sum = next(sum, index)
          second = next(second, index &+ runBytes)
          third = next(third, index &+ 2 &* runBytes)
        }
        sum = product(product(sum, runPower) ^ second, runPower) ^ third
        index &+= 3 &* runBytes
      }
      while index &+ 8 <= bytes.count {
        sum = next(sum, index)
        index &+= 8
      }
      while index < bytes.count {
        sum = sum >> 8 ^ entry(0, sum ^ UInt64(bytes[index]))
        index += 1
      }
      return sum
    }
  }
}

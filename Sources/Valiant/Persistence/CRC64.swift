/// The checksum of Redis's files and of what DUMP answers: CRC-64 with Jones's polynomial, reflected.
///
/// Eight bytes at a time by eight tables ("slicing by 8").
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

  /// The checksum of `bytes`, behind others with the checksum `before`. O(count).
  static func checksum(_ bytes: Bytes, after before: UInt64 = 0) -> UInt64 {
    unsafe tables.withUnsafeBufferPointer { tables in
      func entry(_ zeros: Int, _ byte: UInt64) -> UInt64 {
        unsafe tables[zeros << 8 | Int(truncatingIfNeeded: byte & 0xff)]
      }
      var sum = before
      var index = 0
      while index + 8 <= bytes.count {
        // SAFETY: eight bytes are there.
        sum ^= unsafe UnsafeRawPointer(bytes.pointer + index)
          .loadUnaligned(as: UInt64.self).littleEndian
        sum =
          entry(7, sum) ^ entry(6, sum >> 8) ^ entry(5, sum >> 16) ^ entry(4, sum >> 24)
          ^ entry(3, sum >> 32) ^ entry(2, sum >> 40) ^ entry(1, sum >> 48) ^ entry(0, sum >> 56)
        index += 8
      }
      while index < bytes.count {
        sum = sum >> 8 ^ entry(0, sum ^ UInt64(bytes[index]))
        index += 1
      }
      return sum
    }
  }
}

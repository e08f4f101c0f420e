/// The checksum of Redis's files and of what DUMP answers: CRC-64 with Jones's polynomial, reflected.
enum CRC64 {
  /// The polynomial with its bits in reverse.
  private static let polynomial: UInt64 = 0x95AC_9329_AC4B_C9B5

  private static let table: [UInt64] = (0..<256).map { byte in
    (0..<8).reduce(UInt64(byte)) { remainder, _ in
      remainder & 1 == 0 ? remainder >> 1 : remainder >> 1 ^ polynomial
    }
  }

  /// The checksum of `bytes`, behind others with the checksum `before`. O(count).
  static func checksum(_ bytes: Bytes, after before: UInt64 = 0) -> UInt64 {
    var sum = before
    for index in 0..<bytes.count {
      sum = sum >> 8 ^ table[Int((sum ^ UInt64(bytes[index])) & 0xff)]
    }
    return sum
  }
}

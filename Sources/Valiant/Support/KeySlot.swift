/// The slot of a cluster that a key would belong to.
enum KeySlot {
  static let count = 16_384

  /// 0..<`count`. Of a key with `{` and `}` in it only what stands between them counts, unless that is
  /// nothing.
  static func slot(of key: Bytes) -> Int { Int(checksum(hashed(key))) % count }

  private static func hashed(_ key: Bytes) -> Bytes {
    guard let start = key.firstIndex(of: UInt8(ascii: "{")) else { return key }
    let rest = key.dropFirst(start + 1)
    guard let count = rest.firstIndex(of: UInt8(ascii: "}")), count > 0 else { return key }
    return rest.prefix(count)
  }

  /// CRC-16/XMODEM.
  private static func checksum(_ bytes: Bytes) -> UInt16 {
    var sum: UInt16 = 0
    for index in 0..<bytes.count {
      sum ^= UInt16(bytes[index]) << 8
      for _ in 0..<8 { sum = sum & 0x8000 == 0 ? sum << 1 : sum << 1 ^ 0x1021 }
    }
    return sum
  }
}

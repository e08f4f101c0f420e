import CLibMD

/// SHA-1, by which scripts are called. Not a protection against anybody.
enum SHA1 {
  static let digitCount = 40

  /// The digest of `bytes` in hexadecimal, in small letters. O(count).
  static func digest(_ bytes: Bytes) -> String {
    var text = [CChar](repeating: 0, count: digitCount + 1)
    _ = unsafe SHA1Data(bytes.pointer, bytes.count, &text)
    return String(decoding: text.prefix(digitCount).map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}

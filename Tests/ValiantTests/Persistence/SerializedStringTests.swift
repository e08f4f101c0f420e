import Testing

@testable import Valiant

@Suite("Serialized strings") struct SerializedStringTests {
  @Test("the checksum is that of the standard's example") func checksum() {
    let sum = Array("123456789".utf8).withBytes { CRC64.checksum($0) }
    #expect(sum == 0xE9C6_D914_C4B8_D9CA)
    let first = Array("1234".utf8).withBytes { CRC64.checksum($0) }
    #expect(Array("56789".utf8).withBytes { CRC64.checksum($0, after: first) } == sum)
  }

  @Test(
    "the checksum of many bytes is that of their pieces", arguments: [6143, 6144, 6145, 20_001])
  func longChecksum(count: Int) {
    let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 167 ^ $0 >> 8) }
    let pieces = stride(from: 0, to: count, by: 7).reduce(UInt64(5)) { sum, start in
      Array(bytes[start..<min(start + 7, count)]).withBytes { CRC64.checksum($0, after: sum) }
    }
    #expect(bytes.withBytes { CRC64.checksum($0, after: 5) } == pieces)
  }

  private func written(_ text: [UInt8]) -> [UInt8] {
    var output = ByteBuffer()
    text.withBytes { SerializedString.write($0, to: &output) }
    return output.bytes.array
  }

  private func read(_ bytes: Bytes) -> [UInt8]? {
    switch SerializedString.read(bytes) {
    case .plain(let plain): return plain.array
    case .number(let number): return Array(String(number).utf8)
    case .compressed(let compressed, let count):
      guard let text = SerializedString.decompress(compressed, count: count) else { return nil }
      return text.bytes.array
    case nil: return nil
    }
  }

  @Test("numbers take as few bytes as they need") func numbers() {
    #expect(written(Array("123".utf8)) == [0xc0, 123])
    #expect(written(Array("-2".utf8)) == [0xc0, 0xfe])
    #expect(written(Array("300".utf8)) == [0xc1, 0x2c, 1])
    #expect(written(Array("70000".utf8)) == [0xc2, 0x70, 0x11, 1, 0])
    #expect(written(Array("007".utf8)) == [3] + Array("007".utf8))
    #expect(written(Array("5000000000".utf8)) == [10] + Array("5000000000".utf8))
  }

  @Test("what is written is read back") func roundTrip() {
    var random = Random(seed: 3)
    for length in [0, 1, 20, 21, 63, 64, 300, 16_383, 16_384, 100_000] {
      for isRandom in [false, true] {
        let text = (0..<length).map { _ in
          isRandom ? UInt8(truncatingIfNeeded: random.next()) : UInt8(7)
        }
        let bytes = written(text)
        if !isRandom, length > 100 { #expect(bytes.count < length / 10) }
        let back = bytes.withBytes { read($0) }
        #expect(back == text, "\(length)")
        // Cut off, it is never taken for whole.
        #expect(Array(bytes.dropLast()).withBytes { read($0) } == nil)
      }
    }
  }
}

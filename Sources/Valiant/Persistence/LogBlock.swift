/// The line in front of each block of an append log, by which damage is found.
///
///     #V1 000001a4 c1b2c3d4e5f60718 9a0b1c2d\r\n
///         bytes    CRC-64 of them   of this line and its place in the file, 32 bits
///
/// Redis takes such a line for an annotation and passes over it. All numbers are hexadecimal.
struct LogBlock {
  /// Bytes of the block behind the line.
  let count: Int
  /// Of those.
  let checksum: UInt64

  /// Bytes of the line.
  static let headerBytes = ChangeQueue.reservedBytes
  private static let checkedBytes = 29
  static let mark = UInt8(ascii: "#")
  private static let prefix: StaticString = "#V1 "
  /// The longest block.
  static let bytesMax = Int(UInt32.max)

  init(count: Int, checksum: UInt64) {
    self.count = count
    self.checksum = checksum
  }

  /// Reads a line; nil when it is none, or was damaged or moved.
  ///
  /// - Parameters:
  ///   - header: `headerBytes` bytes.
  ///   - offset: Where it stands in the file.
  init?(_ header: Bytes, at offset: Int) {
    guard header.count == Self.headerBytes, Self.isHeader(header),
      let count = Self.number(header[4..<12]), let checksum = Self.number(header[13..<29])
    else { return nil }
    self.init(count: Int(count), checksum: checksum)
    var expected = ByteBuffer()
    write(to: &expected, at: offset)
    guard expected.bytes == header else { return nil }
  }

  /// Whether a line is meant to be one.
  static func isHeader(_ line: Bytes) -> Bool {
    line.count >= 4 && line[0] == mark && line[1] == UInt8(ascii: "V")
      && line[2] == UInt8(ascii: "1") && line[3] == UInt8(ascii: " ")
  }

  /// Appends the line.
  func write(to buffer: inout ByteBuffer, at offset: Int) {
    let start = buffer.count
    buffer.append(literal: Self.prefix)
    buffer.append(hexadecimal: UInt64(count), digits: 8)
    buffer.append(UInt8(ascii: " "))
    buffer.append(hexadecimal: checksum, digits: 16)
    var place = ByteBuffer()
    place.append(littleEndian: offset, bytes: 8)
    let own = CRC64.checksum(
      place.bytes, after: CRC64.checksum(buffer.bytes.dropFirst(start).prefix(Self.checkedBytes)))
    buffer.append(UInt8(ascii: " "))
    buffer.append(hexadecimal: own & 0xffff_ffff, digits: 8)
    buffer.appendLineEnd()
  }

  private static func number(_ digits: Bytes) -> UInt64? {
    var number: UInt64 = 0
    for index in 0..<digits.count {
      guard let digit = hexDigit(digits[index]) else { return nil }
      number = number << 4 | UInt64(digit)
    }
    return number
  }
}

extension ByteBuffer {
  /// Appends the lowest `digits` hexadecimal digits of a number.
  mutating func append(hexadecimal number: UInt64, digits: Int) {
    for place in (0..<digits).reversed() {
      let digit = UInt8(number >> UInt64(4 * place) & 15)
      append(digit < 10 ? UInt8(ascii: "0") + digit : UInt8(ascii: "a") + digit - 10)
    }
  }
}

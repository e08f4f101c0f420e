import Foundation
import Testing

@testable import Valiant

@Suite("Snapshots of Redis") struct RDBReaderTests {
  private let path = NSTemporaryDirectory() + "valiant-\(UUID().uuidString).rdb"

  /// A snapshot of these records, behind two databases' worth of what Redis says first.
  private func snapshot(_ records: [UInt8], version: String = "0010", hasSum: Bool = true)
    -> [UInt8]
  {
    var bytes = Array("REDIS\(version)".utf8)
    bytes += [250] + string("redis-ver") + string("7.0.15")
    bytes += [250] + string("redis-bits") + [0xc0, 64]
    bytes += [254, 0, 251, 3, 1] + records + [255]
    let sum = hasSum ? bytes.withBytes { CRC64.checksum($0) } : 0
    if version >= "0005" {
      bytes += (0..<8).map { UInt8(truncatingIfNeeded: sum >> UInt64(8 * $0)) }
    }
    return bytes
  }

  private func string(_ text: String) -> [UInt8] {
    var output = ByteBuffer()
    Array(text.utf8).withBytes { SerializedString.write($0, to: &output) }
    return output.bytes.array
  }

  private func record(_ key: String, _ value: String) -> [UInt8] {
    [0] + string(key) + string(value)
  }

  private func littleEndian(_ number: Int, _ count: Int) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: number >> (8 * $0)) }
  }

  private struct Read: Equatable {
    var key: String
    var value: String
    var deadline: Int?
    var idleSeconds: Int?
    var frequency: Int?
    var database: Int
  }

  private func read(_ bytes: [UInt8]) throws -> [Read] {
    try Data(bytes).write(to: URL(fileURLWithPath: path))
    defer { try? FileManager.default.removeItem(atPath: path) }
    var reader = try RDBReader(path)
    var all: [Read] = []
    var database = -1
    while let item = try reader.next() {
      switch item {
      case .database(let number): database = number
      case .record(let record):
        guard let key = record.key.array, let value = record.value.array else { throw Problem() }
        all.append(
          Read(
            key: String(decoding: key, as: UTF8.self),
            value: String(decoding: value, as: UTF8.self),
            deadline: record.deadline, idleSeconds: record.idleSeconds, frequency: record.frequency,
            database: database))
      case .auxiliary, .sizes: break
      }
    }
    return all
  }

  private var example: [UInt8] {
    let long = String(repeating: "abc", count: 200)
    return record("a", "1") + [252] + littleEndian(1_800_000_000_123, 8) + record("b", "text")
      + [253] + littleEndian(1_800_000_000, 4) + [249, 77] + record("70000", long)
      + [254, 9] + [248, 0x41, 0x00] + record("", "")
  }

  @Test("strings in all their forms are read, with what belongs to them") func strings() throws {
    let long = String(repeating: "abc", count: 200)
    let expected = [
      Read(key: "a", value: "1", database: 0),
      Read(key: "b", value: "text", deadline: 1_800_000_000_123, database: 0),
      Read(key: "70000", value: long, deadline: 1_800_000_000_000, frequency: 77, database: 0),
      Read(key: "", value: "", idleSeconds: 256, database: 9),
    ]
    #expect(try read(snapshot(example)) == expected)
    #expect(try read(snapshot(example, hasSum: false)) == expected)
    for version in ["0001", "0005", "0009", "0011", "0012"] {
      #expect(try read(snapshot(example, version: version)) == expected, "\(version)")
    }
  }

  @Test("records longer than the buffer are read") func long() throws {
    let text = String(
      (0..<3_000_000).map { _ in Character(UnicodeScalar(UInt8.random(in: 33...126))) })
    let records = record("x", "1") + record("long", text) + record("y", "2")
    let all = try read(snapshot(records + records))
    #expect(all.map(\.key) == ["x", "long", "y", "x", "long", "y"])
    #expect(all[1].value == text && all[4].value == text)
  }

  @Test("cut off anywhere, it is not taken for whole") func truncation() throws {
    let whole = snapshot(example)
    for count in 0..<whole.count {
      #expect(throws: RDBError.self, "\(count)") { try read(Array(whole.prefix(count))) }
    }
  }

  @Test("no flipped bit is read over") func flips() throws {
    let whole = snapshot(example)
    for index in whole.indices {
      for bit in 0..<8 {
        var damaged = whole
        damaged[index] ^= 1 << UInt8(bit)
        #expect(throws: (any Error).self, "byte \(index), bit \(bit)") { try read(damaged) }
      }
    }
  }

  @Test("what is wrong is told with the place") func errors() throws {
    func message(_ bytes: [UInt8]) -> String {
      do {
        _ = try read(bytes)
        return ""
      } catch {
        return "\(error)".replacingOccurrences(of: path, with: "FILE")
      }
    }
    #expect(message(Array("hello".utf8)) == "FILE is no snapshot")
    #expect(message(snapshot([], version: "0099")).contains("version 99 of the format"))
    #expect(
      message(snapshot([1] + string("names") + [1] + string("x"))).hasSuffix(
        "byte 46: the key 'names' is a list, which cannot be kept"))
    #expect(message(snapshot([77])).contains("nothing begins like that"))
    // More than there is in the file, of which no memory is taken.
    #expect(
      message(snapshot([0, 0x80, 0x10, 0, 0, 0])).contains("it ends within a record"))
    // More than a string can have.
    #expect(
      message(snapshot([0, 0x81] + [0x7f] + [UInt8](repeating: 0xff, count: 7))).contains(
        "nothing begins like that"))
    var sum = snapshot(example)
    sum[sum.count - 1] ^= 1
    #expect(message(sum).hasSuffix("the checksum is wrong: something in the file is damaged"))
    #expect(throws: RDBError.self) { _ = try RDBReader(path + "x") }
  }
}

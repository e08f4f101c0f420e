import Testing

@testable import Valiant

@Suite("Bytes and numbers") struct BytesTests {
  @Test(
    "reads integers in canonical form only",
    arguments: [
      ("0", 0), ("7", 7), ("-1", -1), ("12345", 12345),
      ("9223372036854775807", Int.max), ("-9223372036854775808", Int.min),
    ]) func integers(_ text: String, _ number: Int)
  {
    #expect(withBytes(text) { $0.integer } == number)
  }

  @Test(
    "refuses other spellings",
    arguments: [
      "", "-", "+1", "01", "-0", "-01", " 1", "1 ", "1.0", "a", "1a", "0x1",
      "9223372036854775808", "-9223372036854775809", "99999999999999999999",
      "123456789012345678901",
    ]) func notIntegers(_ text: String)
  {
    #expect(withBytes(text) { $0.integer } == nil)
  }

  @Test("writes every integer so that it reads back") func roundTrip() {
    var random = Random(seed: 1)
    var numbers = [0, 9, 10, 99, 100, Int.max, Int.min, -1, -9, -10]
    for shift in 0..<64 { numbers.append(Int(truncatingIfNeeded: random.next() >> UInt64(shift))) }
    for number in numbers {
      var buffer = ByteBuffer()
      buffer.append(decimal: number)
      let bytes = buffer.bytes
      #expect(bytes.text == String(number))
      #expect(bytes.integer == number)
    }
  }

  @Test("compares and copies at every length") func lengths() {
    for length in 0...40 {
      let one = (0..<length).map { UInt8($0) }
      var buffer = ByteBuffer()
      one.withBytes { buffer.append($0) }
      let bytes = buffer.bytes
      #expect(bytes.array == one)
      #expect(one.withBytes { $0 == bytes })
      for index in 0..<length {
        var other = one
        other[index] ^= 0x80
        #expect(!other.withBytes { $0 == bytes })
      }
    }
  }

  @Test("gives the first eight bytes as a word at every length") func firstWord() {
    let all = Array("abcdefghij".utf8)
    for length in 0...all.count {
      var expected: UInt64 = 0
      for index in (0..<min(length, 8)).reversed() { expected = expected << 8 | UInt64(all[index]) }
      #expect(Array(all.prefix(length)).withBytes { $0.firstWord } == expected, "length \(length)")
    }
  }

  @Test("a buffer drops and keeps the right bytes") func buffer() {
    var buffer = ByteBuffer()
    buffer.append("hello world")
    buffer.removeFirst(6)
    expect(buffer, "world")
    buffer.truncate(to: 3)
    expect(buffer, "wor")
    expect(buffer.take(), "wor")
    expect(buffer, "")
    buffer.append("again")
    expect(buffer, "again")
    buffer.clear(keeping: 0)
    let capacity = buffer.capacity
    #expect(capacity == 0)
  }

  private func expect(_ buffer: borrowing ByteBuffer, _ expected: String) {
    let text = buffer.bytes.text
    #expect(text == expected)
  }

  @Test("the log writes dates right") func dates() {
    #expect(Log.timeText(0) == "1970-01-01T00:00:00.000Z")
    #expect(Log.timeText(951_782_400_000_000) == "2000-02-29T00:00:00.000Z")
    #expect(Log.timeText(1_795_576_620_843_919) == "2026-11-25T03:17:00.843Z")
    #expect(Log.timeText(4_107_542_399_999_000) == "2100-02-28T23:59:59.999Z")
  }
}

@Suite("Glob patterns") struct GlobPatternTests {
  @Test(
    "match",
    arguments: [
      ("", ""), ("*", "abc"), ("a*c", "abbc"), ("a?c", "abc"), ("[a-c]x", "bx"), ("[^a]x", "bx"),
      ("\\*", "*"), ("a*b*c", "axxbyyc"), ("[c-a]", "b"), ("[abc", "b"), ("***", "x"),
      ("max*", "maxclients"),
      ("[\\]]", "]"),
    ]) func matches(_ pattern: String, _ text: String)
  {
    #expect(withBytes(pattern) { p in withBytes(text) { GlobPattern.matches(p, $0) } })
  }

  @Test(
    "do not match",
    arguments: [
      ("", "a"), ("a", ""), ("a*c", "ab"), ("a?c", "ac"), ("[a-c]x", "dx"), ("[^a]x", "ax"),
      ("\\*", "a"), ("abc", "ABC"), ("a*b", "axc"), ("*", ""),
    ]) func mismatches(_ pattern: String, _ text: String)
  {
    #expect(!withBytes(pattern) { p in withBytes(text) { GlobPattern.matches(p, $0) } })
  }

  @Test("ignore case when asked") func ignoringCase() {
    #expect(
      withBytes("MAX*") { p in
        withBytes("maxclients") { GlobPattern.matches(p, $0, ignoringCase: true) }
      })
  }

  @Test("of many stars take no exponential time") func manyStars() {
    let pattern = String(repeating: "a*", count: 40) + "b"
    let text = String(repeating: "a", count: 2000)
    #expect(!withBytes(pattern) { p in withBytes(text) { GlobPattern.matches(p, $0) } })
  }
}

/// Shell-style matching over bytes: `*`, `?`, `[a-z]`, `[^a]`, `\x`.
///
/// An unclosed `[` reaches to the end of the pattern, as clients of Redis expect. Backtracks only
/// to the last `*`, so the worst case is O(pattern × text), never exponential.
enum GlobPattern {
  /// Whether a pattern lets every key pass, the empty one as well: KEYS and SCAN do not look at keys
  /// then.
  static func isEverything(_ pattern: Bytes) -> Bool {
    pattern.count == 1 && pattern[0] == UInt8(ascii: "*")
  }

  static func matches(_ pattern: Bytes, _ text: Bytes, ignoringCase: Bool = false) -> Bool {
    // As in Redis: only the empty pattern fits no text, not even `*` does.
    if text.isEmpty { return pattern.isEmpty }
    var patternIndex = 0
    var textIndex = 0
    var star: (pattern: Int, text: Int)?
    while textIndex < text.count {
      if patternIndex < pattern.count {
        if pattern[patternIndex] == UInt8(ascii: "*") {
          patternIndex += 1
          star = (patternIndex, textIndex)
          continue
        }
        let (isMatch, length) = matchesOne(
          pattern.dropFirst(patternIndex), text[textIndex], ignoringCase)
        if isMatch {
          patternIndex += length
          textIndex += 1
          continue
        }
      }
      guard let retry = star else { return false }
      star = (retry.pattern, retry.text + 1)
      patternIndex = retry.pattern
      textIndex = retry.text + 1
    }
    while patternIndex < pattern.count, pattern[patternIndex] == UInt8(ascii: "*") {
      patternIndex += 1
    }
    return patternIndex == pattern.count
  }

  /// Whether `byte` fits the first element of `pattern`, and how long that element is.
  private static func matchesOne(
    _ pattern: Bytes, _ byte: UInt8, _ ignoringCase: Bool
  ) -> (isMatch: Bool, length: Int) {
    func fold(_ byte: UInt8) -> UInt8 { ignoringCase ? asciiLowercase(byte) : byte }
    switch pattern[0] {
    case UInt8(ascii: "?"):
      return (true, 1)
    case UInt8(ascii: "\\") where pattern.count >= 2:
      return (fold(pattern[1]) == fold(byte), 2)
    case UInt8(ascii: "["):
      return matchesClass(pattern, fold(byte), fold)
    default:
      return (fold(pattern[0]) == fold(byte), 1)
    }
  }

  private static func matchesClass(
    _ pattern: Bytes, _ byte: UInt8, _ fold: (UInt8) -> UInt8
  ) -> (isMatch: Bool, length: Int) {
    var index = 1
    let isNegated = index < pattern.count && pattern[index] == UInt8(ascii: "^")
    if isNegated { index += 1 }
    var isMatch = false
    while index < pattern.count, pattern[index] != UInt8(ascii: "]") {
      if pattern[index] == UInt8(ascii: "\\"), index + 1 < pattern.count {
        index += 1
        if fold(pattern[index]) == byte { isMatch = true }
      } else if index + 2 < pattern.count, pattern[index + 1] == UInt8(ascii: "-") {
        let bounds = [fold(pattern[index]), fold(pattern[index + 2])].sorted()
        if byte >= bounds[0], byte <= bounds[1] { isMatch = true }
        index += 2
      } else if fold(pattern[index]) == byte {
        isMatch = true
      }
      index += 1
    }
    return (isMatch != isNegated, min(index + 1, pattern.count))
  }
}

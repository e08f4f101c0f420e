import Glibc

// The widest floating-point number of the machine, in which INCRBYFLOAT computes.
#if arch(x86_64)
  typealias WideFloat = Float80
#else
  typealias WideFloat = Double
#endif

extension Bytes {
  private static let floatDigitsMax = 5 * 1024 - 1

  /// The number these bytes spell, also with an exponent, in hexadecimal, or as `inf`; else nil.
  ///
  /// As the C library reads it, but for blanks in front and what it would round to infinity.
  var wideFloat: WideFloat? {
    guard count > 0, count <= Bytes.floatDigitsMax, !isBlank(self[0]) else { return nil }
    // The C library stops at a zero byte, and then has not read all.
    return (array + [0]).withBytes { text in
      unsafe text.pointer.withMemoryRebound(to: CChar.self, capacity: text.count) { start in
        var end: UnsafeMutablePointer<CChar>?
        errno = 0
        #if arch(x86_64)
          let number = unsafe strtold(start, &end)
        #else
          let number = unsafe strtod(start, &end)
        #endif
        let isWhole = unsafe end.map { unsafe start.distance(to: $0) == count } ?? false
        let isOutOfRange = errno == ERANGE && (number.isInfinite || number == 0)
        return isWhole && !isOutOfRange && !number.isNaN ? number : nil
      }
    }
  }
}

private func isBlank(_ byte: UInt8) -> Bool { byte == 0x20 || byte &- 9 < 5 }

/// A finite number in decimal with up to 17 places, without trailing zeros and without exponent.
func decimal(_ number: WideFloat) -> [UInt8] {
  // 4,932 digits in front of the point at most.
  var text = [CChar](repeating: 0, count: 5120)
  let length = unsafe withVaList([number]) { arguments in
    #if arch(x86_64)
      unsafe vsnprintf(&text, text.count, "%.17Lf", arguments)
    #else
      unsafe vsnprintf(&text, text.count, "%.17f", arguments)
    #endif
  }
  var digits = text.prefix(Int(length)).map { UInt8(bitPattern: $0) }
  while digits.last == UInt8(ascii: "0") { digits.removeLast() }
  if digits.last == UInt8(ascii: ".") { digits.removeLast() }
  return digits == [UInt8(ascii: "-"), UInt8(ascii: "0")] ? [UInt8(ascii: "0")] : digits
}

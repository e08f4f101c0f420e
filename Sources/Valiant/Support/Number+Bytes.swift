/// Numbers to bytes and back, in the strict decimal form that RESP and stored integers use.

/// The most characters `writeDecimal` writes: a sign and 19 digits.
let decimalDigitsMax = 20

extension Bytes {
  /// The 64-bit integer these bytes spell in canonical form, else nil.
  ///
  /// Canonical is `-?[1-9][0-9]*` or `0`, within the range of `Int`: no blanks, no `+`, no leading
  /// zeros, no `-0`. So a number and its text determine each other.
  var integer: Int? {
    guard count > 0, count <= decimalDigitsMax else { return nil }
    var index = 0
    let isNegative = self[0] == UInt8(ascii: "-")
    if isNegative { index = 1 }
    guard index < count else { return nil }
    let first = self[index] &- UInt8(ascii: "0")
    guard first <= 9 else { return nil }
    if first == 0 { return count == 1 ? 0 : nil }
    var magnitude = UInt(first)
    index &+= 1
    while index < count {
      let digit = self[index] &- UInt8(ascii: "0")
      guard digit <= 9 else { return nil }
      let (product, overflow) = magnitude.multipliedReportingOverflow(by: 10)
      let (sum, carry) = product.addingReportingOverflow(UInt(digit))
      if overflow || carry { return nil }
      magnitude = sum
      index &+= 1
    }
    if isNegative {
      return magnitude <= Int.min.magnitude ? Int(truncatingIfNeeded: 0 &- magnitude) : nil
    }
    return Int(exactly: magnitude)
  }
}

extension Int {
  /// The sum, or the nearest number there is.
  func addingClamped(_ other: Int) -> Int {
    let (sum, overflow) = addingReportingOverflow(other)
    return overflow ? (other < 0 ? Int.min : Int.max) : sum
  }
}

/// Writes `number` in decimal and returns how many bytes that took, 1...20.
///
/// - Parameter target: Writable for `decimalDigitsMax` bytes.
@inline(__always)
@unsafe func writeDecimal(_ number: Int, to target: UnsafeMutablePointer<UInt8>) -> Int {
  if UInt(bitPattern: number) < 10 {
    unsafe target[0] = UInt8(ascii: "0") &+ UInt8(truncatingIfNeeded: number)
    return 1
  }
  return unsafe writeLongDecimal(number, to: target)
}

@inline(never)
@unsafe private func writeLongDecimal(
  _ number: Int, to target: UnsafeMutablePointer<UInt8>
) -> Int {
  var magnitude = number.magnitude
  if number < 0 { unsafe target[0] = UInt8(ascii: "-") }
  let length = decimalLength(number)
  var position = length
  repeat {
    position -= 1
    unsafe target[position] = UInt8(ascii: "0") &+ UInt8(truncatingIfNeeded: magnitude % 10)
    magnitude /= 10
  } while magnitude > 0
  return length
}

/// How many bytes `writeDecimal` writes for `number`, 1...20.
func decimalLength(_ number: Int) -> Int {
  let magnitude = number.magnitude
  var power: UInt = 10
  var digits = 1
  while digits < 19, magnitude >= power {
    power &*= 10
    digits += 1
  }
  return number < 0 ? digits + 1 : digits
}

/// A whole number of parts as a decimal: 150 with two places is `1.50`.
func decimalText(_ parts: Int, places: Int) -> String {
  let scale = (0..<places).reduce(1) { power, _ in power * 10 }
  let fraction = String(parts % scale)
  return "\(parts / scale).\(String(repeating: "0", count: places - fraction.count))\(fraction)"
}

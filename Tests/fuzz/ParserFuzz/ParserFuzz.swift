@testable import Valiant

/// Feeds the request parser with what libFuzzer makes up, once whole and once in two pieces, and
/// ends the process when the two do not find the same.
///
/// The first byte chooses where the input is cut, so that the fuzzer can look for cuts as well.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzParser(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
  guard let start = unsafe start, count > 1 else { return 0 }
  // SAFETY: libFuzzer lends `count` readable bytes for the length of this call.
  let input = unsafe [UInt8](UnsafeBufferPointer(start: start + 1, count: count - 1))
  let cut = unsafe Int(start[0]) * input.count / 256
  let whole = parse([input])
  let pieces = parse([Array(input[..<cut]), Array(input[cut...])])
  precondition(whole == pieces, "a cut changes what is found")
  return 0
}

/// Lengths and bytes of all arguments found, and how it ended.
private func parse(_ pieces: [[UInt8]]) -> [[UInt8]] {
  var parser = RequestParser()
  var found: [[UInt8]] = []
  var input: [UInt8] = []
  for piece in pieces {
    input += piece
    var isOver = false
    let used = input.withBytes { bytes -> Int in
      parser.startBatch()
      while true {
        switch parser.next(bytes) {
        case .request:
          found += arguments(parser, bytes)
        case .inlineRequest:
          found += arguments(parser, parser.inlineBytes.bytes)
          parser.startBatch()
        case .incomplete:
          return parser.consumed
        case .failed(let error):
          found.append(error.message)
          isOver = true
          return 0
        case .crossProtocol:
          found.append([])
          isOver = true
          return 0
        }
      }
    }
    if isOver { return found }
    parser.dropConsumed()
    input.removeFirst(used)
  }
  return found
}

private func arguments(_ parser: borrowing RequestParser, _ bytes: Bytes) -> [[UInt8]] {
  let request = parser.request(
    in: bytes, firstArgument: parser.requestStart,
    count: parser.arguments.count - parser.requestStart)
  return [[UInt8(truncatingIfNeeded: request.count)]]
    + (0..<request.count).map { request[$0].array }
}

@testable import Valiant

/// Feeds the request parser with what libFuzzer makes up, once whole and once in two pieces, and
/// ends the process when the two do not find the same.
///
/// A third time the request in which the cut lies is thrown away: the others must be found as before.
///
/// The first byte chooses where the input is cut, so that the fuzzer can look for cuts as well.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzParser(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
  guard let start = unsafe start, count > 1 else { return 0 }
  // SAFETY: libFuzzer lends `count` readable bytes for the length of this call.
  let input = unsafe [UInt8](UnsafeBufferPointer(start: start + 1, count: count - 1))
  let cut = unsafe Int(start[0]) * input.count / 256
  let whole = parse([input])
  let pieces = [Array(input[..<cut]), Array(input[cut...])]
  precondition(whole == parse(pieces), "a cut changes what is found")
  let others = parse(pieces, discards: true)
  precondition(
    others.count == whole.count && zip(others, whole).allSatisfy { $0 == $1 || $0 == discarded },
    "throwing one request away changes another")
  return 0
}

/// Stands for a request that was thrown away; no request is without arguments.
private let discarded: [[UInt8]] = []

/// All requests found with their arguments, and how it ended.
///
/// - Parameter discards: Whether a request that is not whole after the first piece is thrown away.
private func parse(_ pieces: [[UInt8]], discards: Bool = false) -> [[[UInt8]]] {
  var parser = RequestParser()
  var found: [[[UInt8]]] = []
  var input: [UInt8] = []
  for (index, piece) in pieces.enumerated() {
    let isLast = index == pieces.count - 1
    input += piece
    var isOver = false
    let used = input.withBytes { bytes -> Int in
      parser.startBatch()
      while true {
        switch parser.next(bytes) {
        case .request:
          found.append(arguments(parser, bytes))
        case .inlineRequest:
          found.append(arguments(parser, parser.inlineBytes.bytes))
          parser.startBatch()
        case .incomplete:
          if discards, !isLast, parser.isWithinRequest { parser.discard(bytes) }
          return parser.consumed
        case .discarded:
          found.append(discarded)
        case .failed(let error):
          found.append([error.message])
          isOver = true
          return 0
        case .crossProtocol:
          found.append([Array("cross".utf8)])
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

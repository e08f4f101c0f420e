/// A request that is not RESP: answered by one error, after which the connection is closed.
///
/// Texts are those of Redis, which clients and operators search for.
enum ProtocolError: Error, Equatable {
  case invalidMultibulkLength
  case invalidBulkLength
  case expectedDollar(got: UInt8)
  case multibulkCountTooLong
  case bulkCountTooLong
  case inlineTooLong
  case unbalancedQuotes
  case unauthenticatedMultibulkLength
  case unauthenticatedBulkLength

  /// The whole reply, as bytes: the unexpected byte stands in it as it is.
  var message: [UInt8] {
    guard case .expectedDollar(let got) = self else {
      return Array("ERR Protocol error: \(text)".utf8)
    }
    return Array("ERR Protocol error: expected '$', got '".utf8) + [got, UInt8(ascii: "'")]
  }

  /// The error's text behind `ERR Protocol error: `.
  var text: String {
    switch self {
    case .invalidMultibulkLength: "invalid multibulk length"
    case .invalidBulkLength: "invalid bulk length"
    case .expectedDollar(let got): "expected '$', got '\(Character(UnicodeScalar(got)))'"
    case .multibulkCountTooLong: "too big mbulk count string"
    case .bulkCountTooLong: "too big bulk count string"
    case .inlineTooLong: "too big inline request"
    case .unbalancedQuotes: "unbalanced quotes in request"
    case .unauthenticatedMultibulkLength: "unauthenticated multibulk length"
    case .unauthenticatedBulkLength: "unauthenticated bulk length"
    }
  }
}

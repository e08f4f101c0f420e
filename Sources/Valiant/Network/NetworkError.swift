import CLibUV

/// A call to the system or to libuv that failed.
struct NetworkError: Error, CustomStringConvertible {
  /// What was tried, in words: `listen on 127.0.0.1:4200`.
  var attempt: String
  /// The system's error number, positive.
  var code: Int32

  var description: String { "cannot \(attempt): \(systemErrorText(code))" }

  /// Fails with libuv's negative `result` if it is an error.
  static func check(_ result: Int32, _ attempt: String) throws(NetworkError) {
    if result < 0 { throw NetworkError(attempt: attempt, code: -result) }
  }
}

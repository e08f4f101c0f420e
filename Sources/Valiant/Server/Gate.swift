/// A time in which commands of clients wait: CLIENT PAUSE.
struct ClientPause: Equatable, Sendable {
  /// Milliseconds of the steady clock.
  let end: Int
  /// Whether only commands that change keys wait, or publish.
  let isForWrites: Bool

  /// What holds when this comes while `other` lasts: the longer time, and the stricter kind.
  func joined(with other: ClientPause?) -> ClientPause {
    guard let other, other.end > Clock.steadyMilliseconds else { return self }
    return ClientPause(
      end: max(end, other.end), isForWrites: isForWrites && other.isForWrites)
  }
}

/// What could not be written.
enum WriteRefusal: Equatable, Sendable {
  /// The last snapshot.
  case snapshot
  /// The append log, as the system says it.
  case log(String)
}

/// What keeps commands of a loop's clients from running.
struct Gate {
  var pause: ClientPause?
  /// Keys are being read from a file.
  var isLoading = false
  /// Why keys must not be changed.
  var refusal: WriteRefusal?
  /// Changes wait, for more of them wait for the disk than should.
  var isBehind = false

  /// Whether there is anything.
  var isShut: Bool { pause != nil || isLoading || refusal != nil || isBehind }
}

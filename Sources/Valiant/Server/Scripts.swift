import Synchronization

/// A script that a client has given, to be called by its digest from then on.
final class Script: Sendable {
  let source: [UInt8]
  /// SHA-1 of the source in hexadecimal, in small letters.
  let digest: String
  /// What its first line says, `#!lua flags=…`; nil without such a line.
  let flags: Flags?

  struct Flags: OptionSet, Sendable {
    let rawValue: UInt8

    static let noWrites = Flags(rawValue: 1 << 0)
    static let allowOutOfMemory = Flags(rawValue: 1 << 1)

    /// As they are written. Those without a meaning here are about replicas and clusters.
    static let names: [(String, Flags)] = [
      ("no-writes", .noWrites), ("allow-oom", .allowOutOfMemory), ("allow-stale", []),
      ("no-cluster", []), ("allow-cross-slot-keys", []),
    ]
  }

  /// Why a first line is not understood.
  struct Problem: Error {
    let text: String
  }

  init(_ source: Bytes, digest: String) throws(Problem) {
    self.source = source.array
    self.digest = digest
    flags = try Self.flags(of: source)
  }

  private static func flags(of source: Bytes) throws(Problem) -> Flags? {
    guard source.count >= 2, source[0] == UInt8(ascii: "#"), source[1] == UInt8(ascii: "!") else {
      return nil
    }
    let line = source.array.prefix { $0 != UInt8(ascii: "\n") }
    if line.count == source.count { throw Problem(text: "Invalid script shebang") }
    let words = line.dropFirst(2).split(separator: UInt8(ascii: " "))
      .map { String(decoding: $0, as: UTF8.self) }
    guard words.first == "lua" else {
      throw Problem(text: "Unexpected engine in script shebang: #!\(words.first ?? "")")
    }
    var flags: Flags = []
    for word in words.dropFirst() {
      guard word.hasPrefix("flags=") else {
        throw Problem(text: "Unknown lua shebang option: \(word)")
      }
      for name in word.dropFirst(6).split(separator: ",") {
        guard let flag = Flags.names.first(where: { $0.0 == name }) else {
          throw Problem(text: "Unexpected flag in script shebang: \(name)")
        }
        flags.formUnion(flag.1)
      }
    }
    return flags
  }
}

/// What one loop's scripts are doing, for those who want to end one. Any thread may call any method.
final class ScriptRun: Sendable {
  private let state = Atomic<Int>(idle)
  private let isEndWanted = Atomic<Bool>(false)

  private static let idle = 0
  private static let running = 1
  private static let hasWritten = 2

  func begin() {
    isEndWanted.store(false, ordering: .relaxed)
    state.store(Self.running, ordering: .relaxed)
  }

  /// It is about to change something, so it has to come to its end.
  func noteWrite() { state.store(Self.hasWritten, ordering: .relaxed) }

  func end() { state.store(Self.idle, ordering: .relaxed) }

  /// Whether it has changed nothing.
  var mayEnd: Bool { state.load(ordering: .relaxed) == Self.running }

  /// Whether somebody wants it to end.
  var shallEnd: Bool { isEndWanted.load(ordering: .relaxed) && mayEnd }

  enum Ending {
    case wanted, nothingRuns, hasWritten
  }

  /// Has the script end that runs, if it has changed nothing.
  func wantEnd() -> Ending {
    switch state.load(ordering: .relaxed) {
    case Self.idle: return .nothingRuns
    case Self.hasWritten: return .hasWritten
    default:
      isEndWanted.store(true, ordering: .relaxed)
      return .wanted
    }
  }
}

/// The scripts that clients have given, and those that run. Any thread may call any method.
final class Scripts: Sendable {
  private let known = Guarded<[String: Script]>([:])
  private let forgotten = Atomic<Int>(0)
  private let engineBytes = Atomic<Int>(0)
  private let runs = Guarded<[ScriptRun]>([])
  private let turn = SpinLock()

  /// How often all have been forgotten: what was made of them is of no use then.
  var generation: Int { forgotten.load(ordering: .relaxed) }

  func add(_ script: Script) { known.withLock { $0[script.digest] = script } }

  /// - Parameter digest: In small letters.
  func find(_ digest: String) -> Script? { known.withLock { $0[digest] } }

  func removeAll() {
    known.withLock { $0 = [:] }
    forgotten.wrappingAdd(1, ordering: .relaxed)
  }

  /// How many there are, and the bytes of their sources.
  var census: (count: Int, bytes: Int) {
    known.withLock { scripts in (scripts.count, scripts.values.reduce(0) { $0 + $1.source.count }) }
  }

  /// Bytes that what runs them takes, on all loops.
  var memoryBytes: Int { engineBytes.load(ordering: .relaxed) }

  func countMemory(_ bytes: Int) { engineBytes.wrappingAdd(bytes, ordering: .relaxed) }

  // MARK: Those that run

  /// For a loop that is about to run its first.
  func makeRun() -> ScriptRun {
    let run = ScriptRun()
    runs.withLock { $0.append(run) }
    return run
  }

  /// Has the scripts end that run and have changed nothing.
  func wantEnd() -> ScriptRun.Ending {
    let endings = runs.withLock { $0.map { $0.wantEnd() } }
    if endings.contains(.wanted) { return .wanted }
    return endings.contains(.hasWritten) ? .hasWritten : .nothingRuns
  }

  /// Waits for the turn to lock shards in any order, which one script may at a time. Who has all of them
  /// locked needs no turn.
  func lock() { turn.lock() }

  func unlock() { turn.unlock() }
}

/// What a client has asked for between MULTI and EXEC, and the keys that it watches.
///
/// Belongs to the client's loop, but for the flag that others raise.
final class Transaction {
  /// One command: its row, and where its arguments are.
  struct Queued {
    let row: Int
    fileprivate let firstArgument: Int
    fileprivate let argumentCount: Int
  }

  /// A key that is watched.
  struct Watched {
    let key: ObservedKey
    let hash: UInt64
  }

  private(set) var commands: [Queued] = []
  /// Whether one of them is one that waits in a pause for writes.
  var hasWrites = false
  private var bytes = ByteBuffer()
  private var arguments = ArgumentList()
  /// Whether a command was refused, so that none may run.
  var isFailed = false
  private(set) var watched: [Watched] = []
  private var watchedKeys: Set<ObservedKey> = []
  /// Raised when a watched key changes.
  let change = ChangeFlag()

  /// Bytes that the commands take.
  var byteCount: Int {
    bytes.capacity + arguments.count * MemoryLayout<ArgumentRange>.stride
      + commands.count * MemoryLayout<Queued>.stride
  }

  /// Puts a copy of a request behind the others.
  ///
  /// - Returns: False when all together are too long.
  func append(_ request: Request, row: Int) -> Bool {
    guard bytes.count + request.byteCount <= UInt32.max else { return false }
    commands.append(
      Queued(row: row, firstArgument: arguments.count, argumentCount: request.count))
    for index in 0..<request.count {
      let argument = request[index]
      arguments.append(offset: bytes.count, length: argument.count)
      bytes.append(argument)
    }
    return true
  }

  /// A queued request; good until the transaction next changes.
  func request(_ command: Queued) -> Request {
    // SAFETY: the arguments lie within `bytes`, and both stay as they are.
    unsafe Request(
      base: bytes.bytes.pointer, ranges: arguments.pointer(from: command.firstArgument),
      count: command.argumentCount)
  }

  /// Adds a key; false when it is watched already.
  func addWatched(_ key: ObservedKey, hash: UInt64) -> Bool {
    guard watchedKeys.insert(key).inserted else { return false }
    watched.append(Watched(key: key, hash: hash))
    return true
  }
}

extension Store {
  /// Has nobody told any more for whom `transaction` watched keys.
  func unwatch(_ transaction: Transaction) {
    for watched in transaction.watched {
      let shard = shard(hash: watched.hash)
      shard.withLock {
        memory.observers.unwatch(
          watched.key, hash: watched.hash, transaction.change,
          in: shard.keyspace(watched.key.database))
      }
    }
  }
}

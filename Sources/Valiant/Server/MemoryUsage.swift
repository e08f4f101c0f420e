/// What the server's memory is used for, in bytes: the truth behind INFO memory and MEMORY STATS.
struct MemoryUsage {
  /// What is in the store.
  let store: Store.Census
  /// Pages that the pool keeps although no block in them is in use, what is free in others, and
  /// mappings that are kept for the next long values.
  let poolSpare: Int
  /// The store's shards, before anything is in them.
  let startup: Int
  /// Input and output that belongs to clients.
  let clients: Int

  /// - Parameter isLocked: Whether the caller holds the locks of all shards.
  init(_ server: Server, isLocked: Bool) {
    store = server.store.census(isLocked: isLocked)
    poolSpare =
      max(0, server.store.memory.pool.residentBytes - store.bytes) + SharedBlock.keptBytes
    startup = Store.shardCount * Shard.strideBytes
    var buffers = 0
    server.clients.forEachClient {
      buffers += $0.client.bufferBytes + Self.clientBytes
    }
    clients = buffers
  }

  /// A connection and the record of its client.
  private static let clientBytes = 600

  /// Everything that is known to be taken.
  var total: Int { store.bytes + poolSpare + startup + clients }

  /// Keys and values with their headers.
  var dataset: Int { store.entries.live }

  /// The dataset in hundredths of a percent of what is not there from the start.
  var datasetShare: Int { dataset * 10_000 / max(1, total - startup) }
}

import Synchronization

/// One client: who is talking over a connection, and in which state.
///
/// The state lies in raw memory, for a command must not pay for reference counting. Plain fields
/// belong to the thread of the client's loop; atomic ones are written there and read by CLIENT LIST
/// and INFO on any thread; names are guarded by the lock of `ClientRegistry`.
///
/// Invariant: `state` is alive from `init` until `ClientRegistry.remove` has freed it, which the
/// client's own loop does after its connection is closed.
@safe struct Client: Sendable {
  // SAFETY: see the invariant and which fields belong to whom.
  nonisolated(unsafe) private let state: UnsafeMutablePointer<State>

  @safe struct State: ~Copyable {
    let id: Int
    let workerIndex: Int
    let connectedAt: Int
    let address: Socket.Address
    let localAddress: Socket.Address
    /// The beginning of a request that has not arrived as a whole.
    var partialRequest: UnsafeMutablePointer<RequestParser>?
    var flags: ClientFlags
    /// Unsent output at the last check, and since when it has not become less.
    var stalledBytes = 0
    var stalledSince: Int
    /// Bytes of an unfinished request that count as data, and the command that was refused.
    var arrivingBytes = 0
    var refusedCommand = -1
    let database = Atomic<Int>(0)
    let protocolVersion = Atomic<Int>(2)
    let lastCommand = Atomic<Int>(-1)
    let lastActive: Atomic<Int>
    let inputBytes = Atomic<Int>(0)
    let outputBytes = Atomic<Int>(0)
    let heldBytes = Atomic<Int>(0)
    /// Commands that wait for EXEC, -1 outside a transaction, and the bytes they take.
    let queuedCount = Atomic<Int>(-1)
    let queuedBytes = Atomic<Int>(0)
    var transaction: Transaction?
    var subscriptions: Subscriptions?
    var trackedPrefixes: [[UInt8]] = []
    let trackingModes = Atomic<UInt8>(0)
    let redirect = Atomic<Int>(-1)
    /// How many there are of each kind.
    let channelCount = Atomic<Int>(0)
    let patternCount = Atomic<Int>(0)
    let shardChannelCount = Atomic<Int>(0)
    let isNoEvict = Atomic<Bool>(false)
    let isNoTouch = Atomic<Bool>(false)
    let isWaiting = Atomic<Bool>(false)
    let isEvicted = Atomic<Bool>(false)
    var name = ""
    var libraryName = ""
    var libraryVersion = ""
  }

  /// - Parameter flags: `.mustAuthenticate` when a password is set.
  init(
    id: Int, workerIndex: Int, address: Socket.Address, localAddress: Socket.Address,
    flags: ClientFlags
  ) {
    let now = Clock.steadyMilliseconds
    unsafe state = .allocate(capacity: 1)
    unsafe state.initialize(
      to: State(
        id: id, workerIndex: workerIndex, connectedAt: now, address: address,
        localAddress: localAddress, flags: flags, stalledSince: now, lastActive: Atomic(now)))
  }

  /// The client that a connection's `owner` points to.
  @inline(__always)
  @unsafe init(_ owner: UnsafeMutableRawPointer) {
    unsafe state = owner.assumingMemoryBound(to: State.self)
  }

  /// What the connection keeps as its owner.
  var pointer: UnsafeMutableRawPointer { unsafe UnsafeMutableRawPointer(state) }

  /// Frees the state. Only for a client that the registry does not know, or by the registry.
  func free() {
    if let parser = unsafe state.pointee.partialRequest {
      unsafe parser.deinitialize(count: 1)
      unsafe parser.deallocate()
    }
    unsafe state.deinitialize(count: 1)
    unsafe state.deallocate()
  }

  // MARK: Fixed from the beginning

  var id: Int { unsafe state.pointee.id }
  var workerIndex: Int { unsafe state.pointee.workerIndex }
  /// Milliseconds of the steady clock.
  var connectedAt: Int { unsafe state.pointee.connectedAt }
  var address: Socket.Address { unsafe state.pointee.address }
  var localAddress: Socket.Address { unsafe state.pointee.localAddress }

  // MARK: For the client's own loop

  @inline(__always)
  var flags: ClientFlags {
    get { unsafe state.pointee.flags }
    nonmutating set { unsafe state.pointee.flags = newValue }
  }

  @inline(__always)
  var partialRequest: UnsafeMutablePointer<RequestParser>? {
    get { unsafe state.pointee.partialRequest }
    nonmutating set { unsafe state.pointee.partialRequest = newValue }
  }

  /// Bytes of an unfinished request that are counted as data on their way into the store.
  var arrivingBytes: Int {
    get { unsafe state.pointee.arrivingBytes }
    nonmutating set { unsafe state.pointee.arrivingBytes = newValue }
  }

  /// Index of the command whose request is being thrown away.
  var refusedCommand: Int {
    get { unsafe state.pointee.refusedCommand }
    nonmutating set { unsafe state.pointee.refusedCommand = newValue }
  }

  // MARK: Subscriptions

  /// What it listens to; nil when it never did.
  var subscriptions: Subscriptions? { unsafe state.pointee.subscriptions }

  /// - Returns: False when it did already.
  func subscribe(_ kind: SubscriptionKind, _ name: [UInt8]) -> Bool {
    let subscriptions = unsafe state.pointee.subscriptions ?? Subscriptions()
    unsafe state.pointee.subscriptions = subscriptions
    let isNew = subscriptions.insert(kind, name)
    flags.insert(.subscriber)
    countSubscriptions(subscriptions)
    return isNew
  }

  /// - Returns: False when it did not listen to that.
  func unsubscribe(_ kind: SubscriptionKind, _ name: [UInt8]) -> Bool {
    guard let subscriptions, subscriptions.remove(kind, name) else { return false }
    if subscriptions.isEmpty { flags.remove(.subscriber) }
    countSubscriptions(subscriptions)
    return true
  }

  private func countSubscriptions(_ subscriptions: Subscriptions) {
    unsafe state.pointee.channelCount.store(
      subscriptions.names(.channel).count, ordering: .relaxed)
    unsafe state.pointee.patternCount.store(
      subscriptions.names(.pattern).count, ordering: .relaxed)
    unsafe state.pointee.shardChannelCount.store(
      subscriptions.names(.shardChannel).count, ordering: .relaxed)
  }

  /// How many subscriptions of each kind it has.
  func subscriptionCount(_ kind: SubscriptionKind) -> Int {
    switch kind {
    case .channel: unsafe state.pointee.channelCount.load(ordering: .relaxed)
    case .pattern: unsafe state.pointee.patternCount.load(ordering: .relaxed)
    case .shardChannel: unsafe state.pointee.shardChannelCount.load(ordering: .relaxed)
    }
  }

  /// Whether it listens to anything.
  var isSubscriber: Bool { SubscriptionKind.allCases.contains { subscriptionCount($0) > 0 } }

  // MARK: Copies of keys

  /// How keys begin of which it wants to hear.
  var trackedPrefixes: [[UInt8]] {
    get { unsafe state.pointee.trackedPrefixes }
    nonmutating set { unsafe state.pointee.trackedPrefixes = newValue }
  }

  /// Whether and how it is told of copies that are invalid. Any thread may ask.
  var trackingModes: TrackingModes {
    get { TrackingModes(rawValue: unsafe state.pointee.trackingModes.load(ordering: .relaxed)) }
    nonmutating set {
      unsafe state.pointee.trackingModes.store(newValue.rawValue, ordering: .relaxed)
    }
  }

  /// Identifier of the client that is told in its place; 0 for itself, -1 when nobody is. Any thread
  /// may ask.
  var redirect: Int {
    get { unsafe state.pointee.redirect.load(ordering: .relaxed) }
    nonmutating set { unsafe state.pointee.redirect.store(newValue, ordering: .relaxed) }
  }

  /// Whether it wants to hear when that changes which its next command reads.
  var wantsCopies: Bool {
    let (modes, isSaid) = (trackingModes, flags.contains(.caching))
    return modes.contains(.optIn) ? isSaid : modes.contains(.optOut) ? !isSaid : true
  }

  // MARK: Transactions

  /// What it has queued and watches; nil when it does neither.
  var transaction: Transaction? { unsafe state.pointee.transaction }

  /// The transaction to which keys that are watched belong, a new one if need be.
  var watchingTransaction: Transaction {
    let transaction = unsafe state.pointee.transaction ?? Transaction()
    unsafe state.pointee.transaction = transaction
    return transaction
  }

  /// Begins to queue.
  func beginTransaction() {
    _ = watchingTransaction
    flags.insert(.transaction)
    unsafe state.pointee.queuedCount.store(0, ordering: .relaxed)
  }

  /// Puts a request behind those that are queued.
  ///
  /// - Returns: False when all together are too long.
  func queue(_ request: Request, row: Int) -> Bool {
    guard let transaction, transaction.append(request, row: row) else { return false }
    unsafe state.pointee.queuedCount.store(transaction.commands.count, ordering: .relaxed)
    unsafe state.pointee.queuedBytes.store(transaction.byteCount, ordering: .relaxed)
    return true
  }

  /// Forgets what is queued and watched. The caller holds no lock.
  func endTransaction(in store: Store) {
    flags.remove(.transaction)
    guard let transaction else { return }
    store.unwatch(transaction)
    unsafe state.pointee.transaction = nil
    unsafe state.pointee.queuedCount.store(-1, ordering: .relaxed)
    unsafe state.pointee.queuedBytes.store(0, ordering: .relaxed)
  }

  /// Commands that wait for EXEC; -1 outside a transaction.
  var queuedCount: Int { unsafe state.pointee.queuedCount.load(ordering: .relaxed) }

  /// Bytes that they take.
  var queuedBytes: Int { unsafe state.pointee.queuedBytes.load(ordering: .relaxed) }

  /// Notes how much output is unsent.
  ///
  /// - Parameter limit: 1 or more.
  /// - Returns: For how many milliseconds it has been at least `limit` and not become less.
  func stalledMilliseconds(pending: Int, limit: Int, now: Int) -> Int {
    let isStalled = unsafe pending >= state.pointee.stalledBytes && pending >= limit
    unsafe state.pointee.stalledBytes = pending
    if !isStalled { unsafe state.pointee.stalledSince = now }
    return unsafe now - state.pointee.stalledSince
  }

  // MARK: Written by the client's own loop, read by all

  /// The database it has selected, 0...15.
  @inline(__always)
  var database: Int {
    get { unsafe state.pointee.database.load(ordering: .relaxed) }
    nonmutating set { unsafe state.pointee.database.store(newValue, ordering: .relaxed) }
  }

  /// 2 or 3.
  @inline(__always)
  var protocolVersion: Int {
    get { unsafe state.pointee.protocolVersion.load(ordering: .relaxed) }
    nonmutating set { unsafe state.pointee.protocolVersion.store(newValue, ordering: .relaxed) }
  }

  /// Index of the command it sent last, -1 before the first.
  @inline(__always)
  var lastCommand: Int {
    get { unsafe state.pointee.lastCommand.load(ordering: .relaxed) }
    nonmutating set { unsafe state.pointee.lastCommand.store(newValue, ordering: .relaxed) }
  }

  /// When something last came from it, in milliseconds of the steady clock.
  @inline(__always)
  var lastActive: Int {
    get { unsafe state.pointee.lastActive.load(ordering: .relaxed) }
    nonmutating set { unsafe state.pointee.lastActive.store(newValue, ordering: .relaxed) }
  }

  /// Bytes of input that wait for the rest of a request or for their turn.
  @inline(__always)
  var inputBytes: Int {
    get { unsafe state.pointee.inputBytes.load(ordering: .relaxed) }
    nonmutating set { unsafe state.pointee.inputBytes.store(newValue, ordering: .relaxed) }
  }

  /// Bytes of output that it has not taken.
  @inline(__always)
  var outputBytes: Int {
    get { unsafe state.pointee.outputBytes.load(ordering: .relaxed) }
    nonmutating set { unsafe state.pointee.outputBytes.store(newValue, ordering: .relaxed) }
  }

  /// Bytes of its buffers, but for data on its way into the store. For its own loop.
  @inline(__always)
  var bufferBytes: Int { inputBytes &- arrivingBytes &+ outputBytes &+ queuedBytes }

  /// What `ClientRegistry` has counted of them.
  @inline(__always)
  fileprivate(set) var heldBytes: Int {
    get { unsafe state.pointee.heldBytes.load(ordering: .relaxed) }
    nonmutating set { unsafe state.pointee.heldBytes.store(newValue, ordering: .relaxed) }
  }

  /// Whether it is about to be closed for what it holds.
  fileprivate var isEvicted: Bool {
    get { unsafe state.pointee.isEvicted.load(ordering: .relaxed) }
    nonmutating set { unsafe state.pointee.isEvicted.store(newValue, ordering: .relaxed) }
  }

  /// Whether its memory is not to be reclaimed under pressure.
  var isNoEvict: Bool {
    get { unsafe state.pointee.isNoEvict.load(ordering: .relaxed) }
    nonmutating set { unsafe state.pointee.isNoEvict.store(newValue, ordering: .relaxed) }
  }

  /// Whether its last command is answered later, before which nothing else runs.
  var isWaiting: Bool {
    get { unsafe state.pointee.isWaiting.load(ordering: .relaxed) }
    nonmutating set {
      unsafe state.pointee.isWaiting.store(newValue, ordering: .relaxed)
      if newValue { flags.insert(.waiting) } else { flags.remove(.waiting) }
    }
  }

  /// Whether its commands do not count as uses of keys.
  var isNoTouch: Bool {
    get { unsafe state.pointee.isNoTouch.load(ordering: .relaxed) }
    nonmutating set {
      unsafe state.pointee.isNoTouch.store(newValue, ordering: .relaxed)
      if newValue { flags.insert(.noTouch) } else { flags.remove(.noTouch) }
    }
  }

  // MARK: Under the registry's lock

  fileprivate var names: (name: String, library: String, version: String) {
    get {
      unsafe (state.pointee.name, state.pointee.libraryName, state.pointee.libraryVersion)
    }
    nonmutating set {
      unsafe state.pointee.name = newValue.name
      unsafe state.pointee.libraryName = newValue.library
      unsafe state.pointee.libraryVersion = newValue.version
    }
  }
}

/// States of a client that make its next command special; empty for nearly all.
struct ClientFlags: OptionSet, Sendable {
  let rawValue: UInt16

  /// It has not given the password.
  static let mustAuthenticate = ClientFlags(rawValue: 1)
  /// CLIENT REPLY OFF.
  static let replyOff = ClientFlags(rawValue: 2)
  /// CLIENT REPLY SKIP: the next command gets no reply.
  static let skipNextReply = ClientFlags(rawValue: 4)
  /// This is that command.
  static let skipReply = ClientFlags(rawValue: 8)
  /// The connection ends after the reply.
  static let closeAfterReply = ClientFlags(rawValue: 16)
  /// Its commands wait for EXEC.
  static let transaction = ClientFlags(rawValue: 32)
  /// It listens to channels.
  static let subscriber = ClientFlags(rawValue: 64)
  /// What it does is no use of keys.
  static let noTouch = ClientFlags(rawValue: 128)
  /// Not all of its commands may run now; see `Gate`.
  static let gated = ClientFlags(rawValue: 256)
  /// It is told when keys change that it has read.
  static let tracking = ClientFlags(rawValue: 512)
  /// CLIENT CACHING has said something about its next command.
  static let caching = ClientFlags(rawValue: 1024)
  /// Its last command has not been answered yet, and nothing else runs until then.
  static let waiting = ClientFlags(rawValue: 2048)
  /// It has said that it wants a snapshot and no replication.
  static let snapshotOnly = ClientFlags(rawValue: 4096)
}

/// All clients of a server, on whichever loop.
final class ClientRegistry: Sendable {
  private let clients = Guarded<[Int: Client]>([:])
  /// Those of all servers of a process: a store may have clients of several.
  private static let nextID = Atomic<Int>(1)
  private let connected = Atomic<Int>(0)
  private let held = Atomic<Int>(0)

  /// How many clients there are.
  var count: Int { connected.load(ordering: .relaxed) }

  func makeID() -> Int { Self.nextID.wrappingAdd(1, ordering: .relaxed).oldValue }

  /// Counts one more client unless there are `limit` already; `remove` counts it off.
  func reserve(limit: Int) -> Bool {
    if connected.wrappingAdd(1, ordering: .relaxed).oldValue < limit { return true }
    connected.wrappingSubtract(1, ordering: .relaxed)
    return false
  }

  /// Adds a client for which there was a place.
  func add(_ client: Client) {
    clients.withLock { $0[client.id] = client }
  }

  /// Removes `client` and frees its memory. Its own loop only.
  func remove(_ client: Client) {
    connected.wrappingSubtract(1, ordering: .relaxed)
    held.wrappingSubtract(client.heldBytes, ordering: .relaxed)
    clients.withLock { clients in
      clients[client.id] = nil
      client.free()
    }
  }

  // MARK: What clients hold

  /// Bytes of all clients' buffers.
  var heldBytes: Int { held.load(ordering: .relaxed) }

  /// Counts what the client's buffers hold now. On its own loop.
  func countHeld(_ client: Client) {
    held.wrappingAdd(client.bufferBytes - client.heldBytes, ordering: .relaxed)
    client.heldBytes = client.bufferBytes
  }

  /// Chooses clients to close so that the others hold no more than `limit`: those with most first.
  ///
  /// O(clients × log clients).
  ///
  /// - Returns: Their identifiers and loops; they may be gone already.
  func chooseEvicted(above limit: Int) -> [(id: Int, workerIndex: Int)] {
    clients.withLock { clients in
      // Read once: their loops go on counting.
      let staying = clients.values.filter { !$0.isEvicted }.map { (client: $0, held: $0.heldBytes) }
      var sum = staying.reduce(0) { $0 + $1.held }
      var chosen: [(id: Int, workerIndex: Int)] = []
      let candidates = staying.filter { !$0.client.isNoEvict && $0.held > 0 }
      for (client, held) in candidates.sorted(by: { $0.held > $1.held }) where sum > limit {
        client.isEvicted = true
        chosen.append((client.id, client.workerIndex))
        sum -= held
      }
      return chosen
    }
  }

  /// A client at one moment, and the names it gave itself.
  struct Snapshot {
    let client: Client
    let name: String
    let libraryName: String
    let libraryVersion: String
  }

  /// Calls `body` with each client in the order of their arrival; none goes away meanwhile.
  func forEachClient(_ body: (Snapshot) -> Void) {
    clients.withLock { clients in
      for client in clients.values.sorted(by: { $0.id < $1.id }) {
        body(Self.snapshot(client))
      }
    }
  }

  /// The number of the loop that a client belongs to; nil when there is no such client.
  func workerIndex(of id: Int) -> Int? { clients.withLock { $0[id]?.workerIndex } }

  /// Calls `body` with one client.
  func with<Result>(_ client: Client, _ body: (Snapshot) -> Result) -> Result {
    clients.withLock { _ in body(Self.snapshot(client)) }
  }

  private static func snapshot(_ client: Client) -> Snapshot {
    let names = client.names
    return Snapshot(
      client: client, name: names.name, libraryName: names.library,
      libraryVersion: names.version)
  }

  func setName(_ name: String, of client: Client) {
    clients.withLock { _ in client.names.name = name }
  }

  func setLibraryName(_ name: String, of client: Client) {
    clients.withLock { _ in client.names.library = name }
  }

  func setLibraryVersion(_ version: String, of client: Client) {
    clients.withLock { _ in client.names.version = version }
  }
}

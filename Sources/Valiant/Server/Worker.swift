import Glibc
import Synchronization

/// One event loop of a server with its clients: adopts connections, and lets them go.
///
/// Belongs to its loop's thread, but for what is marked as free to all.
final class Worker: @unchecked Sendable {
  // SAFETY of @unchecked Sendable: other threads use `index`, `statistics`, `post` and atomic counts
  // only; everything else is touched by messages that run on the loop.
  let index: Int
  let loop: EventLoop
  let statistics: Statistics
  unowned let server: Server
  /// This loop's copy of the settings, renewed by a message when they change.
  private(set) var settings: Settings
  /// Grows when they change.
  private(set) var settingsGeneration = 0
  private var timers: [Timer] = []
  private let ticks = Counter()
  private var listeners: [Listener] = []
  private var signals: [Signal] = []
  private var sweep: ExpirySweep
  private var isSweeping = false
  /// Sweeps more often than `tick` as long as that finds keys to remove.
  private var sweepTimer: Timer?
  private var removedAtSweep = 0
  private var fruitlessSweeps = 0
  private var consolidation: Consolidation
  private var isConsolidating = false
  private var isEvicting = false
  private var isDraining = false
  /// What keeps commands from running, and the timer that ends a pause.
  private(set) var gate = Gate()
  private var pauseTimer: Timer?
  private var hasSavingFailed = false
  private var logFailure: String?
  /// Whether replies behind changes are sent when those are on the disk, and the clients that wait.
  private var withholdsReplies = false
  private let withheldCount = Atomic<Int>(0)
  /// Whether a client has changed keys since the loop last waited.
  private var hasAppended = false
  private var transfers: [Int: SnapshotTransfer] = [:]
  private var withheld: [(client: Int, connection: Connection, position: Int)] = []
  private let subscribers = Subscribers()
  /// For what this loop does to the store by itself.
  private let memory: StorageContext
  private let events = PendingEvents()
  /// Those with copies of keys; nil as long as there was none.
  private(set) var trackers: TrackingClients?
  /// Who is told in place of others. Found once: there may be thousands of connections.
  private var recipients: [Int: Subscribers.Subscriber] = [:]
  /// Those who have got messages that are not sent yet.
  private var addressees: [Subscribers.Subscriber] = []

  private static let tickMilliseconds = 100
  private static let ticksPerSecond = 10
  /// How long a connection that was told its end may take to close.
  private static let lingerTicks: UInt8 = 10

  init(
    index: Int, of workerCount: Int, server: Server, settings: Settings, commandCount: Int
  ) throws(NetworkError) {
    loop = try EventLoop()
    self.index = index
    self.server = server
    sweep = ExpirySweep(part: index, of: workerCount)
    consolidation = Consolidation(part: index, of: workerCount)
    self.settings = settings
    memory = server.store.memory.copy()
    statistics = Statistics(commandCount: commandCount)
    memory.listener = { [events] in events.add(change: $0, $1, database: $2) }
    events.wanted = settings.keyspaceEvents.effective
    gate.isLoading = server.isLoading
  }

  deinit { memory.free() }

  /// Says what to do with bytes from clients, and starts the timer. Before the loop runs.
  func prepare(onRead: @escaping (Connection, Bytes) -> Int) {
    loop.setHandlers(
      EventLoop.Handlers(
        onRead: onRead, onWrite: { [unowned self] in self.didWrite($0) },
        onClose: { [unowned self] in self.didClose($0) },
        onWait: { [unowned self] in self.flushMessages() }))
    every(milliseconds: Self.tickMilliseconds) { [unowned self] in self.tick() }
  }

  /// Calls `action` on this worker's thread until it ends. On that thread, or before it runs.
  func every(milliseconds: Int, _ action: @escaping () -> Void) {
    timers.append(Timer(on: loop, every: milliseconds, action))
  }

  // MARK: For any thread

  /// Whether clients wait for changes to be on the disk.
  var isWithholding: Bool { withheldCount.load(ordering: .sequentiallyConsistent) > 0 }

  /// Grows as long as the loop turns.
  var turns: Int { ticks.value }

  /// Has `message` run on this worker's thread.
  ///
  /// - Returns: False when the worker has ended.
  @discardableResult
  func post(_ message: @escaping @Sendable (Worker) -> Void) -> Bool {
    loop.post { [unowned self] in message(self) }
  }

  // MARK: Listening, on the first worker

  func listen(on socket: Socket.Listening) {
    let listener = Listener(
      socket, on: loop,
      onTrouble: { [unowned self] error in
        self.server.log.warning("\(error); trying again until there is room")
      },
      onAccept: { [unowned self] descriptor in
        self.server.distribute(descriptor, isUnix: socket.isUnix)
      })
    listeners.append(listener)
  }

  func onSignal(_ number: Int32, _ action: @escaping () -> Void) {
    signals.append(Signal(on: loop, number: number, action))
  }

  func closeListeners() {
    for listener in listeners { listener.close(on: loop) }
    listeners = []
  }

  // MARK: Clients

  /// Makes a client of an accepted socket, or tells it why not.
  func adopt(_ descriptor: Int32, isUnix: Bool) {
    let peer = Socket.peerAddress(of: descriptor)
    let local = Socket.localAddress(of: descriptor)
    if !isUnix { Socket.configure(descriptor, keepaliveSeconds: settings.keepaliveSeconds) }
    if let refusal = refusal(of: peer) {
      server.didLeave(self)
      return refuse(descriptor, refusal)
    }
    statistics.connectionsReceived.add()
    let client = Client(
      id: server.clients.makeID(), workerIndex: index, address: peer, localAddress: local,
      flags: settings.password.isEmpty ? [] : .mustAuthenticate)
    if gate.isShut { client.flags.insert(.gated) }
    server.clients.add(client)
    do throws(NetworkError) {
      _ = try unsafe Connection.open(descriptor, on: loop, owner: client.pointer)
      server.log.debug("client \(client.id) connected from \(peer.text)")
    } catch {
      server.log.warning("\(error)")
      server.clients.remove(client)
      server.didLeave(self)
    }
  }

  /// Why a new client must go, nil when it may stay.
  private func refusal(of peer: Socket.Address) -> StaticString? {
    if !server.admits(peer, settings) {
      return """
        -DENIED Valiant is running in protected mode because protected mode is enabled and no \
        password is set for the default user. In this mode connections are only accepted from the \
        loopback interface. Set a password with requirepass, name the addresses to listen on with \
        bind, or turn protected-mode off.\r\n
        """
    }
    if !server.clients.reserve(limit: settings.maxClients) {
      return "-ERR max number of clients reached\r\n"
    }
    return nil
  }

  private func refuse(_ descriptor: Int32, _ reply: StaticString) {
    statistics.connectionsRejected.add()
    // Waiting for the peer to read its error takes a descriptor: not for a whole flood.
    guard loop.lingeringCount < Self.lingeringRefusalsMax else {
      close(descriptor)
      return
    }
    guard
      let connection = try? unsafe Connection.open(descriptor, on: loop, owner: nil)
    else { return }
    var output = OutputBuffer()
    output.bytes.append(literal: reply)
    connection.send(&output)
    connection.finish()
  }

  private static let lingeringRefusalsMax = 16

  private func didWrite(_ connection: Connection) {
    guard let owner = unsafe connection.owner else { return }
    let client = unsafe Client(owner)
    client.outputBytes = connection.pendingOutputBytes
    server.clients.countHeld(client)
  }

  private func didClose(_ connection: Connection) {
    guard let owner = unsafe connection.owner else { return }
    let client = unsafe Client(owner)
    server.log.debug("client \(client.id) left")
    server.store.memory.pool.countArriving(-client.arrivingBytes)
    client.endTransaction(in: server.store)
    unsubscribeAll(client)
    trackers?.end(client)
    recipients[client.id] = nil
    transfers.removeValue(forKey: client.id)?.cancel()
    addressees.removeAll { $0.client.id == client.id }
    if !withheld.isEmpty {
      withheld.removeAll { $0.client == client.id }
      withheldCount.store(withheld.count, ordering: .sequentiallyConsistent)
    }
    server.clients.remove(client)
    server.didLeave(self)
  }

  /// Calls `body` with each client, whose connection it may close.
  private func forEachClient(_ body: (Client, Connection) -> Void) {
    loop.forEachConnection { connection in
      if let owner = unsafe connection.owner { body(unsafe Client(owner), connection) }
    }
  }

  /// Closes the clients with these identifiers.
  func kill(_ ids: Set<Int>) { closeClients(ids) { _ in } }

  /// Closes a client whose buffers take too much.
  func evict(_ id: Int) {
    closeClients([id]) { client in
      statistics.evictedClients.add()
      server.log.warning(
        "closing client \(id) at \(client.address.text): with \(client.heldBytes) bytes it holds most of what exceeds maxmemory-clients"
      )
    }
  }

  /// - Parameter willClose: Called with each that is not closing already.
  private func closeClients(_ ids: Set<Int>, _ willClose: (Client) -> Void) {
    forEachClient { client, connection in
      if connection.isClosing || !ids.contains(client.id) { return }
      willClose(client)
      connection.close()
    }
  }

  /// Counts what a client's buffers hold, and sees to it that all together hold no more than they
  /// may.
  @inline(__always)
  func countHeld(_ client: Client) {
    if client.bufferBytes != client.heldBytes { recountHeld(client) }
  }

  @inline(never)
  private func recountHeld(_ client: Client) {
    server.clients.countHeld(client)
    limitHeld()
  }

  private func limitHeld() { server.evictClients(above: settings.clientBytesMax) }

  // MARK: Subscribers

  func subscribe(
    _ client: Client, _ connection: Connection, _ kind: SubscriptionKind, _ name: [UInt8]
  ) {
    guard client.subscribe(kind, name) else { return }
    subscribers.add(Subscribers.Subscriber(client: client, connection: connection), kind, name)
    server.pubSub.subscribe(kind, name, worker: index)
  }

  func unsubscribe(_ client: Client, _ kind: SubscriptionKind, _ name: [UInt8]) {
    guard client.unsubscribe(kind, name) else { return }
    subscribers.remove(client, kind, name)
    server.pubSub.unsubscribe(kind, name, worker: index)
  }

  /// Ends all subscriptions of a client.
  func unsubscribeAll(_ client: Client) {
    for kind in SubscriptionKind.allCases {
      for name in client.subscriptions?.names(kind) ?? [] { unsubscribe(client, kind, name) }
    }
  }

  /// Calls `deliver` with the bytes of a message, behind the first one, as often as `client` gets it.
  func forEachCopy(
    of publication: Publication, to client: Client, _ deliver: (Bytes) -> Void
  ) {
    subscribers.forEach(of: publication) { subscriber, bytes in
      if subscriber.client.id == client.id { deliver(bytes) }
    }
  }

  /// Sends messages to this loop's subscribers.
  func deliver(_ publications: [Publication]) {
    let limit = settings.subscriberOutputLimit.hardBytes
    for publication in publications {
      subscribers.forEach(of: publication) { subscriber, bytes in
        if subscriber.client.id == publication.deliveredTo { return }
        let first = Publication.firstByte(version: subscriber.client.protocolVersion)
        if subscriber.connection.enqueue(first, bytes) { addressees.append(subscriber) }
        if limit > 0, subscriber.connection.pendingOutputBytes > limit { didEnqueue(subscriber) }
      }
    }
    if !addressees.isEmpty { loop.callBeforeWaiting() }
  }

  /// Puts a message behind what a client has not got yet; it is sent before the loop waits.
  func enqueue(_ first: UInt8, _ message: [UInt8], to subscriber: Subscribers.Subscriber) {
    let isFirst = message.withBytes { subscriber.connection.enqueue(first, $0) }
    if isFirst { addressees.append(subscriber) }
    didEnqueue(subscriber)
    loop.callBeforeWaiting()
  }

  /// Sends what has come for this loop's subscribers from all who have published in one turn.
  private func flushMessages() {
    // One that has been held up may go on now, and publish something itself, or change keys.
    while hasAppended || !addressees.isEmpty {
      if hasAppended {
        hasAppended = false
        release(upTo: server.appendOnly.commit())
      }
      var all: [Subscribers.Subscriber] = []
      swap(&all, &addressees)
      for subscriber in all where !subscriber.connection.isClosing {
        subscriber.connection.flush()
        didEnqueue(subscriber)
      }
    }
  }

  /// Publishes what has become of keys by this loop's own doing.
  private func publishEvents() {
    if events.isEmpty { return }
    var publications: [Int: [Publication]] = [:]
    events.publish { channel, message in
      let publication = channel.withBytes { channel in
        message.withBytes { Publication(.channel, channel, $0, deliveredTo: 0) }
      }
      _ = server.pubSub.forEachLoop(listeningTo: channel, .channel) { index in
        publications[index, default: []].append(publication)
      }
    }
    for (index, list) in publications { server.post(list, to: index) }
  }

  /// Counts what a subscriber has not taken yet, and closes one that does not read what it gets.
  private func didEnqueue(_ subscriber: Subscribers.Subscriber) {
    let pending = subscriber.connection.pendingOutputBytes
    subscriber.client.outputBytes = pending
    countHeld(subscriber.client)
    let isSubscriber = subscriber.client.flags.contains(.subscriber)
    let limit = settings.outputLimit(ofSubscriber: isSubscriber).hardBytes
    if limit > 0, pending > limit, !subscriber.connection.isClosing {
      closeForOutput(subscriber.connection, subscriber.client, pending)
    }
  }

  // MARK: Clients with copies of keys

  /// Those of this loop.
  var trackingClients: TrackingClients {
    let all = trackers ?? TrackingClients(of: self)
    trackers = all
    return all
  }

  /// Tells clients what has become invalid of that of which they have copies.
  @inline(__always)
  func deliverInvalidations() {
    if let trackers { trackers.deliver() }
  }

  func redirectDidBreak(of client: Int) { trackers?.redirectDidBreak(of: client) }

  /// Tells a client of this loop in the place of another one.
  ///
  /// - Returns: False when it has gone.
  func tell(_ client: Int, _ message: InvalidationMessage) -> Bool {
    guard let recipient = recipient(client) else { return false }
    if recipient.client.protocolVersion == 3 {
      enqueue(UInt8(ascii: ">"), message.push, to: recipient)
    } else if recipient.client.flags.contains(.subscriber) {
      enqueue(UInt8(ascii: "*"), message.channelMessage, to: recipient)
    }
    return true
  }

  private func recipient(_ id: Int) -> Subscribers.Subscriber? {
    if let known = recipients[id] { return known }
    forEachClient { client, connection in
      if client.id == id {
        recipients[id] = Subscribers.Subscriber(client: client, connection: connection)
      }
    }
    return recipients[id]
  }

  // MARK: Pauses

  private static let pauseTimerMilliseconds = 1 << 30

  /// Makes clients wait, or lets them go on; the latter not while one is being served.
  func setPause(_ new: ClientPause?) {
    gate.pause = new
    pauseTimer?.close()
    pauseTimer = nil
    if let new {
      let left = min(max(1, new.end - Clock.steadyMilliseconds), Self.pauseTimerMilliseconds)
      pauseTimer = Timer(on: loop, every: left) { [unowned self] in
        // A timer does not count to longer ones: then it is set again.
        self.setPause(new.end > Clock.steadyMilliseconds ? new : nil)
      }
    }
    showGate()
    // A pause never becomes less strict: nobody goes on.
    if new == nil { letGoOn() }
  }

  /// Has those go on that have been held up, unless something else does it.
  private func letGoOn() {
    forEachClient { client, connection in
      // One that has been held up may begin another pause.
      if gate.pause == nil, !gate.isBehind, !client.flags.contains(.waiting) {
        connection.resume()
      }
    }
  }

  // MARK: The gate

  /// Begins or ends the time in which clients are told that keys are being loaded.
  func setLoading(_ isLoading: Bool) {
    gate.isLoading = isLoading
    showGate()
  }

  /// Says how the last snapshot went.
  func setSavingFailed(_ hasFailed: Bool) {
    hasSavingFailed = hasFailed
    closeForWrites()
  }

  /// Says why the append log cannot be written; nil when it can.
  func setLogFailure(_ why: String?) {
    logFailure = why
    closeForWrites()
  }

  /// Begins or ends a time in which changes wait for the disk.
  func setBehind(_ isBehind: Bool) {
    if gate.isBehind == isBehind { return }
    gate.isBehind = isBehind
    showGate()
    if !isBehind { letGoOn() }
  }

  private func closeForWrites() {
    gate.refusal =
      if let logFailure {
        .log(logFailure)
      } else if hasSavingFailed, settings.refusesWritesUnsaved, !settings.saveRules.isEmpty {
        .snapshot
      } else {
        nil
      }
    showGate()
  }

  /// Has clients go through the gate, or past it.
  private func showGate() {
    let isShut = gate.isShut
    forEachClient { client, _ in
      if isShut { client.flags.insert(.gated) } else { client.flags.remove(.gated) }
    }
  }

  /// Gives a client the reply that it waits for, and lets it go on.
  ///
  /// - Parameter write: Writes the reply; nil for none.
  func finishWaiting(_ id: Int, _ write: ((inout ReplyWriter) -> Void)?) {
    guard let found = recipient(id), found.client.flags.contains(.waiting) else { return }
    let (client, connection) = (found.client, found.connection)
    client.isWaiting = false
    if connection.isClosing { return }
    if let write {
      var reply = ReplyWriter()
      reply.protocolVersion = client.protocolVersion
      write(&reply)
      connection.send(&reply.output)
    }
    // In a pause it would be held up again by its next command only.
    connection.resume()
  }

  // MARK: Replies behind changes

  /// Says whether replies wait until what they tell of is on the disk.
  func setWithholding(_ isOn: Bool) {
    withholdsReplies = isOn
    if !isOn { release(upTo: Int.max) }
  }

  /// A client has changed keys. Takes over its replies if they have to wait.
  func didAppend(_ connection: Connection, _ client: Client, _ output: inout OutputBuffer) {
    hasAppended = true
    loop.callBeforeWaiting()
    if !withholdsReplies || output.isEmpty { return }
    let isFirst = !connection.isWithheld
    connection.withhold(&output)
    if !isFirst { return }
    withheld.append((client.id, connection, server.appendOnly.changes.end))
    // Whoever reads that behind the position he has reached sees it, or this loop sees the position.
    withheldCount.store(withheld.count, ordering: .sequentiallyConsistent)
  }

  /// Sends the replies behind changes that are on the disk, and lets their clients go on.
  func release(upTo position: Int) {
    var count = 0
    while count < withheld.count, withheld[count].position <= position { count += 1 }
    if count == 0 { return }
    let released = withheld[..<count]
    withheld.removeFirst(count)
    withheldCount.store(withheld.count, ordering: .sequentiallyConsistent)
    // Those who go on may be withheld again.
    for one in released { one.connection.release() }
  }

  // MARK: Snapshots for clients

  /// Sends a client that waits a snapshot, when what it has asked for before is sent.
  func sendSnapshot(to id: Int) {
    guard let found = recipient(id), !found.connection.isClosing else { return }
    let transfer = SnapshotTransfer(client: id, worker: index)
    if found.connection.pendingOutputBytes == 0,
      let descriptor = found.connection.duplicateDescriptor()
    {
      transfers[id] = transfer
      if transfer.begin(on: server, descriptor: descriptor) { return }
      transfers[id] = nil
      close(descriptor)
    }
    finishWaiting(id) { $0.error(Array("ERR no snapshot can be sent now".utf8)) }
  }

  /// Ends a client that has got what it was waiting for.
  func closeWaiting(_ id: Int) {
    transfers[id] = nil
    guard let found = recipient(id) else { return }
    found.client.isWaiting = false
    found.connection.finish()
  }

  // MARK: Settings

  func apply(_ new: Settings) {
    settings = new
    settingsGeneration += 1
    events.wanted = new.keyspaceEvents.effective
    closeForWrites()
  }

  // MARK: Every tenth of a second

  private func tick() {
    ticks.add()
    publishTraffic()
    if loop.lingeringCount > 0 {
      loop.forEachConnection { $0.closeIfLingering(ticks: Self.lingerTicks) }
    }
    if ticks.value % Self.ticksPerSecond == 0 {
      closeSilentClients()
      if index == 0 {
        server.sampleRates()
        if !isDraining { server.saving.followRules(on: server) }
      }
    }
    beginSweep()
    if index == 0 {
      if !isDraining {
        server.appendOnly.check(
          on: server, isWholeSecond: ticks.value % Self.ticksPerSecond == 0)
      }
      if !isEvicting, !gate.isLoading { evictExcess() }
      limitHeld()
      SharedBlock.freeUnneeded()
      server.store.limitReadKeys(to: settings.trackedKeysMax)
    }
    if !isConsolidating, server.store.memory.pool.isFragmented { consolidate() }
    if isDraining { drainStep() }
  }

  /// Forgets what this loop has counted.
  func resetStatistics() {
    loop.resetTraffic()
    statistics.reset()
  }

  func publishTraffic() {
    statistics.inputBytes.add(loop.bytesRead - statistics.inputBytes.value)
    statistics.outputBytes.add(loop.bytesWritten - statistics.outputBytes.value)
  }

  /// Ends clients that are silent for too long, or do not read their replies.
  private func closeSilentClients() {
    let now = Clock.steadyMilliseconds
    forEachClient { client, connection in
      if connection.isClosing { return }
      let isSubscriber = client.isSubscriber
      let limit = settings.outputLimit(ofSubscriber: isSubscriber)
      let pending = connection.pendingOutputBytes
      let stalled = client.stalledMilliseconds(pending: pending, limit: 1, now: now)
      // A client that reads what it asked for is not idle.
      let idle = pending == 0 ? now - client.lastActive : stalled
      if limit.softBytes > 0, pending >= limit.softBytes, stalled / 1000 >= limit.softSeconds {
        closeForOutput(connection, client, pending)
      } else if settings.timeoutSeconds > 0, !isSubscriber, gate.pause == nil,
        !client.flags.contains(.waiting),
        idle / 1000 >= settings.timeoutSeconds
      {
        server.log.verbose("closing idle client \(client.id)")
        connection.close()
      }
    }
  }

  /// Closes a client that has too much unsent output.
  func closeForOutput(_ connection: Connection, _ client: Client, _ pending: Int) {
    statistics.outputLimitDisconnections.add()
    server.log.warning(
      "closing client \(client.id) at \(client.address.text): \(pending) bytes of replies it does not read"
    )
    connection.close()
  }

  /// Removes expired keys. While keys expire this is done two hundred times a second: those that lie
  /// for that long are few.
  private func beginSweep() {
    if isSweeping || isDraining || gate.isLoading || !server.isSweeping { return }
    if sweep.removedCount > removedAtSweep {
      fruitlessSweeps = 0
      if sweepTimer == nil {
        sweepTimer = Timer(on: loop, every: Self.sweepMilliseconds) { [unowned self] in
          self.beginSweep()
        }
      }
    } else if let timer = sweepTimer {
      fruitlessSweeps += 1
      if fruitlessSweeps >= Self.fruitlessSweepsMax {
        timer.close()
        sweepTimer = nil
      }
    }
    removedAtSweep = sweep.removedCount
    sweepExpired(shardsLeft: sweep.shardCount)
  }

  private static let sweepMilliseconds = 5
  private static let fruitlessSweepsMax = 200

  /// Removes expired keys in slices, between which the loop serves its clients.
  ///
  /// - Parameter shardsLeft: Shards to visit before pausing until the next tick.
  private func sweepExpired(shardsLeft: Int) {
    isSweeping = true
    let start = Clock.steadyMicroseconds
    let now = Timestamp.now
    let store = server.store
    var shardsLeft = shardsLeft
    var steps = 0
    while shardsLeft > 0 {
      let looks = sweep.lookCount
      if sweep.step(store, now: now, memory) { shardsLeft -= 1 }
      steps += 1
      // To leave a shard in which nothing is due takes no longer than to look at the clock.
      if sweep.lookCount > looks || steps % Self.sweepStepsPerClock == 0,
        Clock.steadyMicroseconds - start > Self.sliceMicroseconds
      {
        break
      }
    }
    publishEvents()
    let rest = shardsLeft
    if rest > 0 {
      post { $0.sweepExpired(shardsLeft: rest) }
    } else {
      isSweeping = false
    }
  }

  private static let sweepStepsPerClock = 128
  /// How long a client that comes meanwhile waits for the loop's own work.
  private static let sliceMicroseconds = 50

  /// Moves blocks together in slices, between which the loop serves its clients.
  private func consolidate() {
    isConsolidating = true
    let start = Clock.steadyMicroseconds
    var isAtEnd = false
    while !isAtEnd, Clock.steadyMicroseconds - start < Self.sliceMicroseconds {
      isAtEnd = consolidation.step(server.store)
    }
    if isAtEnd {
      isConsolidating = false
    } else {
      post { $0.consolidate() }
    }
  }

  /// Evicts keys while there are more than `maxmemory` allows: after that has been lowered.
  private func evictExcess() {
    let limit = settings.maxMemory.bytes
    let store = server.store
    let policy = settings.evictionPolicy
    isEvicting = limit > 0 && policy != .none && store.memory.pool.usedBytes > limit
    guard isEvicting else { return }
    let now = Timestamp.now
    memory.access = settings.accessTracking(at: now)
    let evicted = memory.eviction.evictedCount
    _ = memory.eviction.makeRoom(for: 0, below: limit, in: store, policy: policy, now: now, memory)
    publishEvents()
    if memory.eviction.evictedCount > evicted {
      post { $0.evictExcess() }
    } else {
      isEvicting = false
    }
  }

  // MARK: The end

  /// Answers for a moment what still arrives, then closes everything, and the loop ends.
  func drain() {
    if isDraining { return }
    isDraining = true
    drainTicks = 0
    if loop.connectionCount == 0 { endLoop() }
  }

  private var drainTicks = 0

  private func drainStep() {
    drainTicks += 1
    loop.forEachConnection { connection in
      switch drainTicks {
      case 1...Self.drainAnswerTicks: break
      case ...Self.drainCloseTicks:
        if connection.pendingOutputBytes == 0, !connection.isHeldUp { connection.finish() }
      default: connection.close()
      }
    }
    if loop.connectionCount == 0 { endLoop() }
  }

  /// Ticks in which requests are still answered, and after which everything is closed.
  private static let drainAnswerTicks = 1
  private static let drainCloseTicks = 5

  private func endLoop() {
    publishTraffic()
    for timer in timers { timer.close() }
    timers = []
    sweepTimer?.close()
    sweepTimer = nil
    pauseTimer?.close()
    pauseTimer = nil
    for signal in signals { signal.close() }
    signals = []
    closeListeners()
    loop.close()
  }
}

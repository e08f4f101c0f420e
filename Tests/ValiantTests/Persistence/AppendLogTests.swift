import Foundation
import Synchronization
import Testing

@testable import Valiant

@Suite("Append log") struct AppendLogTests {
  private let folder = NSTemporaryDirectory() + "valiant-\(UUID().uuidString)"

  init() throws {
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
  }

  private func remove() { try? FileManager.default.removeItem(atPath: folder) }

  private struct Content: Equatable {
    var value: [UInt8]
    var deadline: Int?
  }

  /// All that is in a store, but for what has expired, which nobody has come across in one of two.
  private func contents(_ store: Store) -> [ObservedKey: Content] {
    var all: [ObservedKey: Content] = [:]
    let now = Timestamp.now
    for index in 0..<Store.shardCount {
      let shard = store.shard(index)
      shard.withLock {
        for database in 0..<Store.databaseCount {
          shard.keyspaceIfUsed(database)?.forEachEntry { entry in
            if entry.isExpired(at: now) { return }
            all[ObservedKey(database: database, key: entry.key.array)] = Content(
              value: entry.value.array, deadline: entry.deadline?.unixMilliseconds)
          }
        }
      }
    }
    return all
  }

  /// The same when nothing will expire soon.
  private func restingContents(_ store: Store) -> [ObservedKey: Content] {
    usleep(80_000)
    return contents(store)
  }

  private func server(
    _ policy: SyncPolicy = .everysec, threads: Int = 2,
    _ change: (inout Settings) -> Void = { _ in }, fault: OutputFile.Fault? = nil
  ) throws -> Server {
    var settings = Settings()
    settings.port = 0
    settings.bind = ["127.0.0.1"]
    settings.threads = threads
    settings.directory = folder
    settings.saveRules = []
    settings.appendsToLog = true
    settings.syncPolicy = policy
    change(&settings)
    let server = Server(settings: settings)
    server.appendOnly.setFault(fault)
    try server.start()
    return server
  }

  /// A connection of a running server, which waits for what it reads.
  private final class Peer: Sendable {
    private let descriptor: Int32

    init(_ server: Server) {
      var ends: [Int32] = [0, 0]
      precondition(unsafe socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &ends) == 0)
      _ = fcntl(ends[0], F_SETFL, fcntl(ends[0], F_GETFL) | O_NONBLOCK)
      descriptor = ends[1]
      server.distribute(ends[0], isUnix: true)
    }

    deinit { close(descriptor) }

    /// Sends requests, and returns the first line of the last reply.
    @discardableResult
    func send(_ requests: [[String]]) -> String {
      let bytes = requests.flatMap(encode)
      var rest = bytes[...]
      while !rest.isEmpty {
        let count = unsafe rest.withUnsafeBytes {
          unsafe Foundation.write(descriptor, $0.baseAddress, $0.count)
        }
        if count <= 0 { return "" }
        rest = rest.dropFirst(count)
      }
      var line = ""
      for _ in requests { line = readReply() }
      return line
    }

    @discardableResult
    func send(_ words: String...) -> String { send([words]) }

    /// The first line of a reply, which is no array, or an array's own line.
    @discardableResult
    func readReply() -> String {
      let line = readLine()
      if line.hasPrefix("$"), line != "$-1" { _ = readLine() }
      return line
    }

    private func readLine() -> String {
      var line: [UInt8] = []
      var byte: UInt8 = 0
      while unsafe Foundation.read(descriptor, &byte, 1) == 1 {
        if byte == UInt8(ascii: "\n") { break }
        if byte != UInt8(ascii: "\r") { line.append(byte) }
      }
      return text(line)
    }
  }

  /// A change in one of the ways that there are.
  private static func randomRequests(keys: Int, flushes: Bool) -> [[String]] {
    func key() -> String { "key:\(Int.random(in: 0..<keys))" }
    func value() -> String {
      switch Int.random(in: 0..<30) {
      case 0: String(repeating: "long", count: .random(in: 5000...50_000))
      case 1...9: "\(Int.random(in: -1000...1000))"
      default: String(repeating: "v", count: .random(in: 0...200))
      }
    }
    switch Int.random(in: 0..<34) {
    case 0...3: return [["SET", key(), value()]]
    case 4: return [["SET", key(), value(), "PX", "\(Int.random(in: 1...30))"]]
    case 5: return [["SET", key(), value(), "EX", "\(Int.random(in: 100...900))"]]
    case 6: return [["SETEX", key(), "500", value()]]
    case 7: return [["DEL", key(), key()]]
    case 8: return [["INCR", key()]]
    case 9: return [["INCRBYFLOAT", key(), "1.5"]]
    case 10:
      if Bool.random() { return [["APPEND", key(), value()]] }
      let script =
        "redis.call('APPEND', KEYS[1], ARGV[1]) redis.call('SET', KEYS[2], ARGV[1]) "
        + "redis.call('INCR', 'counter') return redis.call('RENAMENX', KEYS[2], KEYS[3])"
      return [["EVAL", script, "3", key(), key(), key(), value()]]
    case 11: return [["SETRANGE", key(), "\(Int.random(in: 0...300))", value()]]
    case 12: return [["SETBIT", key(), "\(Int.random(in: 0...3000))", "1"]]
    case 13: return [["EXPIRE", key(), "\(Int.random(in: 100...900))"]]
    case 14: return [["PEXPIRE", key(), "\(Int.random(in: 1...30))"]]
    case 15: return [["PERSIST", key()]]
    case 16: return [["RENAME", key(), key()]]
    case 17: return [["RENAMENX", key(), key()]]
    case 18: return [["COPY", key(), key(), "REPLACE"]]
    case 19: return [["COPY", key(), key(), "DB", "\(Int.random(in: 0...2))"]]
    case 20: return [["MOVE", key(), "\(Int.random(in: 0...2))"]]
    case 21: return [["MSET", key(), value(), key(), value(), key(), value()]]
    case 22: return [["MSETNX", key(), value(), key(), value()]]
    case 23: return [["BITOP", "XOR", key(), key(), key()]]
    case 24: return [["PFADD", "log\(Int.random(in: 0...20))", value()]]
    case 25: return [["PFMERGE", "log\(Int.random(in: 0...20))", "log\(Int.random(in: 0...20))"]]
    case 26: return [["PFCOUNT", "log\(Int.random(in: 0...20))"]]
    case 27: return [["SELECT", "\(Int.random(in: 0...2))"]]
    case 28 where flushes: return [["FLUSHDB"]]
    case 29 where flushes: return [["SWAPDB", "0", "1"]]
    default:
      return [["MULTI"], ["SET", key(), value()], ["APPEND", key(), value()], ["DISCARD"]]
    }
  }

  /// Has several clients change keys at the same time.
  private func work(
    _ server: Server, clients: Int, rounds: Int, keys: Int, flushes: Bool = true,
    _ during: @escaping @Sendable (Int) -> Void = { _ in }
  ) {
    let group = DispatchGroup()
    for client in 0..<clients {
      DispatchQueue.global().async(group: group) {
        let peer = Peer(server)
        for round in 0..<rounds {
          if round % 17 == 5 {
            // A transaction with everything in it, of which nothing but its size is read.
            let count = peer.send([
              ["MULTI"], ["SET", "t\(client)", "\(round)"], ["APPEND", "t\(client)", "x"],
              ["COPY", "t\(client)", "u", "REPLACE"], ["SELECT", "1"], ["INCR", "n"],
              ["SELECT", "0"], ["RENAME", "u", "w\(client)"], ["EXEC"],
            ])
            precondition(count == "*7", count)
            for _ in 0..<7 { peer.readReply() }
          } else {
            peer.send(Self.randomRequests(keys: keys, flushes: flushes))
          }
          during(round)
        }
      }
    }
    group.wait()
  }

  @Test("what several clients do at once is repeated as it was", arguments: SyncPolicy.allCases)
  func repetition(policy: SyncPolicy) throws {
    defer { remove() }
    let first = try server(policy)
    work(first, clients: 4, rounds: 400, keys: 120)
    let peer = Peer(first)
    for index in 0..<30 { peer.send("SET", "last\(index)", "\(index)") }
    first.stop()
    let expected = restingContents(first.store)
    #expect(expected.count > 20)
    let second = try server(policy)
    second.store.checkInvariants()
    #expect(contents(second.store) == expected)
    // What the one has read goes on.
    work(second, clients: 2, rounds: 100, keys: 120)
    second.stop()
    let last = restingContents(second.store)
    let third = try server(policy)
    defer { third.stop() }
    #expect(contents(third.store) == last)
    #expect(try FileCheck.run(folder + "/appendonlydir").contains("checksums, which are right"))
  }

  @Test("a log that is written anew meanwhile says the same") func rewriting() throws {
    defer { remove() }
    let first = try server(.everysec) { $0.logRewriteMinBytes = 0 }
    work(first, clients: 3, rounds: 400, keys: 150) { round in
      if round % 100 == 50 { first.appendOnly.beginRewrite(on: first) }
    }
    while first.appendOnly.isRewriting { usleep(1000) }
    #expect(first.appendOnly.report.rewriteCount > 2)
    #expect(first.appendOnly.report.isLastRewriteGood)
    work(first, clients: 2, rounds: 50, keys: 150)
    first.stop()
    let files = try FileManager.default.contentsOfDirectory(atPath: folder + "/appendonlydir")
    #expect(files.count == 3, "old files are removed: \(files)")
    let expected = restingContents(first.store)
    let second = try server()
    defer { second.stop() }
    #expect(contents(second.store) == expected)
  }

  @Test("what evicts, expires or is done by the embedding program is repeated, too")
  func withoutCommands() throws {
    defer { remove() }
    let first = try server(.no) {
      $0.maxMemory = Settings.MemoryLimit(bytes: 3 << 20)
      $0.evictionPolicy = .allKeysRandom
    }
    let peer = Peer(first)
    for index in 0..<30_000 { peer.send("SET", "k\(index)", String(repeating: "e", count: 100)) }
    for index in 0..<200 {
      first.store.set("own\(index % 50)", to: "\(index)", expiresIn: .milliseconds(index % 3 * 20))
      first.store.set("long", to: String(repeating: "l", count: 20_000 + index))
    }
    first.store.delete("k29999")
    first.store.expire("own3", in: .seconds(1000))
    usleep(150_000)
    first.stop()
    let expected = contents(first.store)
    #expect(expected.count < 29_000)
    let second = try server()
    defer { second.stop() }
    #expect(contents(second.store) == expected)
  }

  @Test("the log begins with what the snapshot has, and ends and begins by CONFIG SET")
  func settings() throws {
    defer { remove() }
    let first = try server { settings in
      settings.appendsToLog = false
      settings.saveRules = [Settings.SaveRule(seconds: 3600, changes: 1)]
    }
    Peer(first).send("SET", "old", "1")
    first.stop()
    let second = try server()
    let peer = Peer(second)
    #expect(peer.send("APPEND", "old", "2") == ":2")
    #expect(peer.send("CONFIG", "SET", "appendonly", "no") == "+OK")
    for _ in 0..<2000 where second.appendOnly.logReport != nil { usleep(1000) }
    #expect(second.appendOnly.logReport == nil)
    peer.send("SET", "between", "1")
    #expect(peer.send("CONFIG", "SET", "appendonly", "yes", "appendfsync", "always") == "+OK")
    for _ in 0..<2000 where second.appendOnly.logReport?.isActive != true { usleep(1000) }
    peer.send("SET", "behind", "1")
    second.stop()
    let third = try server()
    defer { third.stop() }
    #expect(third.store.get("old") == "12")
    #expect(third.store.get("between") == "1")
    #expect(third.store.get("behind") == "1")
  }

  @Test("what has expired in a base may be prolonged by what follows") func expiredInBase() throws {
    defer { remove() }
    let first = try server {
      $0.evictionPolicy = .allKeysLRU
      $0.checksumsSnapshots = false
    }
    first.setSweeping(false)
    let peer = Peer(first)
    peer.send("SET", "over", "1", "PX", "5000")
    peer.send("SET", "longer", "2", "PX", "5000")
    let start = Clock.steadyMilliseconds
    peer.send("SET", "unlimited", "3")
    first.appendOnly.beginRewrite(on: first)
    while first.appendOnly.isRewriting { usleep(1000) }
    for _ in 0..<1000 where first.appendOnly.report.rewriteCount < 2 { usleep(1000) }
    #expect(first.appendOnly.report.rewriteCount == 2)
    #expect(peer.send("PERSIST", "longer") == ":1")
    peer.send("RENAME", "longer", "renamed")
    while Clock.steadyMilliseconds - start < 5100 { usleep(10_000) }
    first.stop()
    let second = try server { $0.evictionPolicy = .allKeysLRU }
    defer { second.stop() }
    #expect(second.store.get("over") == nil)
    #expect(second.store.get("renamed") == "2")
    #expect(second.store.get("unlimited") == "3")
  }

  @Test("a base has what expires while it is written") func expiryWhileWriting() throws {
    defer { remove() }
    let store = Store()
    for index in 0..<200 { store.set("k\(index)", to: "v", expiresIn: .milliseconds(1500)) }
    let snapshots = try [true, false].map { keepsExpired in
      if !keepsExpired {
        for index in 0..<200 { store.set("k\(index)", to: "v", expiresIn: .milliseconds(1500)) }
      }
      let snapshot = try #require(Snapshot(of: store, keepsExpired: keepsExpired))
      usleep(1_510_000)
      // By a walk, and by who comes across it.
      _ = store.exists("k7")
      #expect(store.removeExpired() == 199)
      return try snapshot.write(to: folder + "/base").keys
    }
    #expect(snapshots[0] == 200)
    #expect(snapshots[1] < 200)
  }

  @Test("a string that a refused BITFIELD has made is there again") func refusedBitField() throws {
    defer { remove() }
    let first = try server()
    let peer = Peer(first)
    #expect(peer.send("BITFIELD", "a", "OVERFLOW", "FAIL", "INCRBY", "u2", "0", "5") == "*1")
    peer.readReply()
    peer.send("RENAME", "a", "b")
    peer.send("SET", "c", "x")
    #expect(peer.send("BITFIELD", "c", "OVERFLOW", "FAIL", "INCRBY", "u2", "100", "9") == "*1")
    peer.readReply()
    peer.send("APPEND", "c", "z")
    first.stop()
    let second = try server()
    defer { second.stop() }
    #expect(contents(second.store) == contents(first.store))
    #expect(second.store.get("b") == "\0" && second.store.get("c")?.utf8.count == 14)
  }

  @Test("what expires in exchanged databases is removed where it was") func exchanged() throws {
    defer { remove() }
    let first = try server()
    first.setSweeping(false)
    let (peer, watcher) = (Peer(first), Peer(first))
    peer.send([["SELECT", "1"], ["SET", "k", "dies", "PX", "20"], ["SET", "w", "lives"]])
    peer.send([["SELECT", "0"], ["SET", "k", "lives"], ["SET", "w", "dies", "PX", "20"]])
    watcher.send("WATCH", "w")
    usleep(40_000)
    #expect(peer.send([["MULTI"], ["SWAPDB", "0", "1"], ["GET", "k"], ["EXEC"]]) == "*2")
    for _ in 0..<2 { peer.readReply() }
    first.stop()
    #expect(first.store.get("k", database: 1) == "lives" && first.store.get("w") == "lives")
    let second = try server()
    defer { second.stop() }
    #expect(contents(second.store) == contents(first.store))
  }

  @Test("what comes into the store in other ways is written, too") func otherWays() throws {
    defer { remove() }
    let first = try server()
    var settings = Settings()
    settings.port = 0
    let other = Server(settings: settings, store: first.store)
    try other.start()
    Peer(other).send("SET", "other", "1")
    other.stop()
    let store = Store()
    store.set("loaded", to: "2")
    try store.save(to: folder + "/file.rdb")
    try first.store.load(from: folder + "/file.rdb")
    let third = Server(settings: first.settings, store: first.store)
    #expect(throws: Server.StartFailure.self) { try third.start() }
    first.stop()
    let second = try server()
    defer { second.stop() }
    #expect(second.store.get("other") == "1" && second.store.get("loaded") == "2")
  }

  // MARK: Damage

  private var lastFile: String { folder + "/appendonlydir/appendonly.aof.1.incr.aof" }

  /// Writes a small log, each change in a block of its own.
  private func writeSmallLog() throws -> [UInt8] {
    let first = try server(.always, threads: 1)
    let peer = Peer(first)
    peer.send("SET", "a", "1")
    peer.send("INCR", "a")
    peer.send("SET", "b", "some text")
    peer.send("MSET", "c", "1", "d", "2")
    peer.send("DEL", "b")
    first.stop()
    return Array(try Data(contentsOf: URL(fileURLWithPath: lastFile)))
  }

  /// The commands that a file of the log is taken for, piece by piece, and how it ends.
  private func pieces() throws(LogError) -> (pieces: [[UInt8]], isTorn: Bool) {
    var reader = try LogReader(lastFile)
    var pieces: [[UInt8]] = []
    while true {
      switch try reader.next() {
      case .commands: pieces.append(reader.bytes.array)
      case .torn: return (pieces, true)
      case .end: return (pieces, false)
      }
    }
  }

  @Test("no single flipped bit is served") func flippedBits() throws {
    defer { remove() }
    let whole = try writeSmallLog()
    #expect(try pieces().pieces.count == 5)
    for bit in 0..<whole.count * 8 {
      var damaged = whole
      damaged[bit / 8] ^= 1 << (bit % 8)
      try Data(damaged).write(to: URL(fileURLWithPath: lastFile))
      #expect(throws: LogError.self, "bit \(bit)") { try pieces() }
    }
    let manifest = folder + "/appendonlydir/appendonly.aof.manifest"
    let text = Array(try Data(contentsOf: URL(fileURLWithPath: manifest)))
    let right = try LogManifest(String(decoding: text, as: UTF8.self))
    for bit in 0..<text.count * 8 {
      var damaged = text
      damaged[bit / 8] ^= 1 << (bit % 8)
      let read = try? LogManifest(String(decoding: damaged, as: UTF8.self))
      #expect(read == nil || read == right, "bit \(bit) of the manifest")
    }
  }

  @Test("of a log that is cut off anywhere, all that is whole is there", arguments: [false, true])
  func truncation(hasZeros: Bool) throws {
    defer { remove() }
    let whole = try writeSmallLog()
    let all = try pieces().pieces
    for count in 0..<whole.count {
      var cut = Array(whole.prefix(count))
      // As a file system leaves it that knew the size, but had not got the bytes.
      if hasZeros { cut += [UInt8](repeating: 0, count: whole.count - count) }
      try Data(cut).write(to: URL(fileURLWithPath: lastFile))
      let (read, isTorn) = try pieces()
      #expect(Array(all.prefix(read.count)) == read)
      let end = read.reduce(0) { $0 + LogBlock.headerBytes + $1.count }
      #expect(end <= count && isTorn == (end < cut.count), "\(count)")
      let next = read.count < all.count ? all[read.count].count + LogBlock.headerBytes : 0
      #expect(count < end + next)
    }
    // A whole server, once: it goes on behind what is whole.
    try Data(whole.dropLast(7)).write(to: URL(fileURLWithPath: lastFile))
    #expect(throws: Server.StartFailure.self) { try server { $0.loadsTornLog = false } }
    let second = try server(.always)
    #expect(second.store.get("b") == "some text")
    Peer(second).send("SET", "new", "1")
    second.stop()
    let third = try server()
    defer { third.stop() }
    #expect(third.store.get("new") == "1" && third.store.get("c") == "1")
  }

  @Test("a log of Redis is read up to where it is cut off") func truncationWithoutBlocks() throws {
    defer { remove() }
    _ = try writeSmallLog()
    let commands = [
      ["SELECT", "0"], ["SET", "x", "1"], ["MULTI"], ["INCR", "x"], ["SET", "y", "2"], ["EXEC"],
      ["APPEND", "x", "z"],
    ].map(encode)
    let whole = commands.flatMap { $0 }
    let ends = commands.reduce(into: [0]) { $0.append($0[$0.count - 1] + $1.count) }
    for count in stride(from: 0, through: whole.count, by: 3) {
      try Data(whole.prefix(count)).write(to: URL(fileURLWithPath: lastFile))
      let second = try server(threads: 1)
      second.stop()
      #expect(second.store.get("y") == (count >= ends[6] ? "2" : nil), "\(count)")
      let x = count >= ends[7] ? "2z" : count >= ends[6] ? "2" : count >= ends[2] ? "1" : nil
      #expect(second.store.get("x") == x, "\(count)")
    }
  }

  // MARK: Faults

  /// Has the n-th step of one kind fail, and the `times` steps behind it.
  private final class Faults: Sendable {
    private let left: Atomic<Int>
    private let times: Int
    private let step: OutputFile.Step
    /// Nothing is cut off unless something could not be written.
    private let writesLeft = Atomic<Int>(5)
    let count = Atomic<Int>(0)

    init(_ step: OutputFile.Step, after left: Int, times: Int) {
      self.step = step
      self.left = Atomic(left)
      self.times = times
    }

    func callAsFunction(_ step: OutputFile.Step) -> Int32 {
      if step == .write, self.step == .cut {
        return writesLeft.wrappingSubtract(1, ordering: .relaxed).newValue == 0 ? ENOSPC : 0
      }
      if step != self.step { return 0 }
      let left = left.wrappingSubtract(1, ordering: .relaxed).newValue
      if left >= 0 || left < -times { return 0 }
      count.wrappingAdd(1, ordering: .relaxed)
      return EIO
    }
  }

  @Test(
    "what counts as kept is there, whatever fails",
    arguments: OutputFile.Step.allCases)
  func faults(step: OutputFile.Step) throws {
    defer { remove() }
    var failures = 0
    for (after, times) in [(0, 1), (1, 1), (1, 3), (2, 1), (3, 2), (5, 1), (8, 1)] {
      try? FileManager.default.removeItem(atPath: folder + "/log")
      try FileManager.default.createDirectory(
        atPath: folder + "/log", withIntermediateDirectories: true)
      let faults = Faults(step, after: after, times: times)
      failures += try checkFaults(faults) ? 1 : 0
    }
    #expect(failures > 0, "nothing has failed")
  }

  @Test("a slow disk makes nobody wait for two seconds, and then changes only") func slowDisk()
    throws
  {
    defer { remove() }
    let isSlow = Atomic<Bool>(false)
    let first = try server(
      .everysec,
      fault: { step in
        if step == .synchronize, isSlow.exchange(false, ordering: .relaxed) { sleep(4) }
        return 0
      })
    let (reader, writer) = (Peer(first), Peer(first))
    isSlow.store(true, ordering: .relaxed)
    let start = Clock.steadyMilliseconds
    var slowest = (reading: 0, writing: 0)
    var waitedFrom = 0
    while Clock.steadyMilliseconds - start < 6000 {
      let before = Clock.steadyMilliseconds
      writer.send("INCR", "n")
      let between = Clock.steadyMilliseconds
      reader.send("GET", "n")
      let after = Clock.steadyMilliseconds
      if between - before > slowest.writing {
        slowest.writing = between - before
        waitedFrom = before - start
      }
      slowest.reading = max(slowest.reading, after - between)
      usleep(1000)
    }
    // The last synchronization may have been a moment before the slow one was due.
    #expect(slowest.writing > 500 && waitedFrom > 2000, "\(slowest.writing) from \(waitedFrom) on")
    #expect(slowest.reading < slowest.writing / 2, "\(slowest.reading)")
    #expect(first.appendOnly.report.delayedCount == 1)
    first.stop()
    let expected = first.store.get("n")
    let second = try server()
    defer { second.stop() }
    #expect(second.store.get("n") == expected)
  }

  @Test("what the disk did not confirm is written anew before anybody counts on it")
  func unconfirmed() throws {
    defer { remove() }
    let isBroken = Atomic<Int>(0)
    let first = try server(
      .always,
      fault: { step in
        guard step == .synchronize, isBroken.load(ordering: .relaxed) > 0 else { return 0 }
        isBroken.wrappingSubtract(1, ordering: .relaxed)
        return EIO
      })
    let (peer, other) = (Peer(first), Peer(first))
    peer.send("SET", "n", "1")
    isBroken.store(1, ordering: .relaxed)
    // Its reply waits for the new base.
    let start = Clock.steadyMilliseconds
    #expect(peer.send("INCR", "n") == ":2")
    #expect(Clock.steadyMilliseconds - start > 500)
    let report = try #require(first.appendOnly.logReport)
    #expect(report.baseSequence == 2 && report.failure == nil)
    #expect(other.send("INCR", "n") == ":3")
    // Again, and longer: others are told.
    isBroken.store(1_000_000, ordering: .relaxed)
    let waiting = Thread {
      peer.send("INCR", "n")
    }
    waiting.start()
    let refusal = "-MISCONF Errors writing to the AOF file: Input/output error"
    for _ in 0..<2000 where other.send("PING") != refusal { usleep(1000) }
    #expect(other.send("PING") == refusal)
    #expect(other.send("INCR", "n") == refusal)
    #expect(other.send("STRLEN", "n") == ":1")
    isBroken.store(0, ordering: .relaxed)
    for _ in 0..<10_000 where other.send("PING") != "+PONG" { usleep(1000) }
    #expect(other.send("INCR", "n") == ":5")
    first.stop()
    let second = try server()
    defer { second.stop() }
    #expect(second.store.get("n") == "5")
  }

  @Test("a file that cannot be written to holds up neither a new base nor the end") func stuckFile()
    throws
  {
    defer { remove() }
    let isFull = Atomic<Bool>(false)
    let first = try server(
      .everysec,
      fault: { step in step == .write && isFull.load(ordering: .relaxed) ? EIO : 0 })
    let peer = Peer(first)
    peer.send("SET", "n", "1")
    usleep(20_000)
    isFull.store(true, ordering: .relaxed)
    peer.send("SET", "n", "2")
    for _ in 0..<2000 where first.appendOnly.failure == nil { usleep(1000) }
    // The manifest cannot be written either.
    first.appendOnly.beginRewrite(on: first)
    for _ in 0..<5000 where first.appendOnly.report.failuresInRow == 0 { usleep(1000) }
    #expect(first.appendOnly.report.failuresInRow > 0)
    isFull.store(false, ordering: .relaxed)
    for _ in 0..<10_000 where first.appendOnly.failure != nil { usleep(1000) }
    #expect(first.appendOnly.failure == nil)
    isFull.store(true, ordering: .relaxed)
    usleep(20_000)
    peer.send("SET", "n", "3")
    for _ in 0..<2000 where first.appendOnly.failure == nil { usleep(1000) }
    let start = Clock.steadyMilliseconds
    first.stop()
    #expect(Clock.steadyMilliseconds - start < 5000)
    let second = try server()
    defer { second.stop() }
    #expect(second.store.get("n") == "2")
  }

  /// Writes by hand what a server would have written, and reads it again.
  ///
  /// - Returns: Whether anything has failed.
  private func checkFaults(_ faults: Faults) throws -> Bool {
    let store = Store()
    let changes = ChangeQueue()
    let place = AppendLog.Place(folder: folder + "/log", name: "log")
    let isBaseWanted = Atomic<Bool>(false)
    let log = AppendLog(
      changes, after: LogManifest(), at: place, policy: .always,
      listener: AppendLog.Listener(
        needsBase: { isBaseWanted.store(true, ordering: .relaxed) }),
      fault: { faults($0) })
    #expect(log.start())
    func writeBase() throws {
      store.lockAll()
      let snapshot = try #require(Snapshot(of: store, isLocked: true))
      store.setChangeQueue(changes, isLocked: true)
      let position = changes.endFile()
      store.unlockAll()
      let base = place.base(log.nextBaseSequence)
      let summary = try snapshot.write(to: place.path(base.name), fault: { faults($0) })
      guard log.waitForFile(behind: position) else { throw LogError("no file") }
      try log.adopt(base, bytes: summary.bytes)
    }
    func writeBaseInTheEnd() throws {
      for _ in 0..<20 where (try? writeBase()) != nil { return }
      throw LogError("no base after twenty attempts")
    }
    try writeBaseInTheEnd()
    /// What has counted as kept.
    var kept = 0
    for number in 1...12 {
      store.set("number", to: "\(number)")
      store.set("key\(number)", to: String(repeating: "x", count: number * 10))
      let position = changes.end
      log.wake()
      for _ in 0..<4000 where log.durablePosition < position {
        usleep(500)
        if isBaseWanted.exchange(false, ordering: .relaxed) { try? writeBase() }
      }
      try #require(log.durablePosition >= position, "it does not recover")
      kept = number
      // The process may end at any time: what the files say now has to be that, or more.
      #expect(try numberInFiles(place) >= kept)
      if number == 7 { try? writeBase() }
    }
    #expect(log.stop())
    #expect(try numberInFiles(place) == 12)
    store.setChangeQueue(nil, isLocked: false)
    return faults.count.load(ordering: .relaxed) > 0
  }

  /// The number that a server would find in the files.
  private func numberInFiles(_ place: AppendLog.Place) throws -> Int {
    let copy = folder + "/copy"
    try? FileManager.default.removeItem(atPath: copy)
    try FileManager.default.createDirectory(atPath: copy, withIntermediateDirectories: true)
    try FileManager.default.copyItem(atPath: place.folder, toPath: copy + "/appendonlydir")
    let second = try server(threads: 1) { settings in
      settings.directory = copy
      settings.logName = place.name
    }
    second.stop()
    return Int(second.store.get("number") ?? "") ?? 0
  }
}

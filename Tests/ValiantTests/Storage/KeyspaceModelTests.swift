import Testing

@testable import Valiant

/// A keyspace beside a dictionary that should always say the same.
private final class Model {
  var keyspace = Keyspace()
  var expected: [[UInt8]: (value: [UInt8], deadline: Timestamp?)] = [:]
  var now = Timestamp(milliseconds: 1_000_000)
  let memory = StorageContext(hashing: SipHash(key0: 1, key1: 2))

  deinit { memory.end() }

  /// - Returns: False when there was no memory; then nothing is expected to have changed.
  @discardableResult
  func set(_ key: [UInt8], _ value: [UInt8], _ deadline: Timestamp?) -> Bool {
    let isSet = key.withBytes { key in
      value.withBytes { value in
        keyspace.set(
          key, hash: memory.hashing.hash(key), to: value, deadline: deadline, now: now, memory)
      }
    }
    if isSet { expected[key] = (value, deadline) }
    return isSet
  }

  func set(_ key: [UInt8], number: Int, _ deadline: Timestamp?) {
    let isSet = key.withBytes { key in
      keyspace.set(
        key, hash: memory.hashing.hash(key), to: number, deadline: deadline, now: now, memory)
    }
    if isSet { expected[key] = (Array(String(number).utf8), deadline) }
  }

  /// Writes `byte` at `index`, behind which there may be more.
  ///
  /// - Returns: False when there was no memory.
  @discardableResult
  func write(_ byte: UInt8, at index: Int, of key: [UInt8]) -> Bool {
    let count: Int? = key.withBytes { key in
      keyspace.edit(
        key, hash: memory.hashing.hash(key), count: index + 1, now: now, memory
      ) { bytes in
        bytes[index] = byte
        return bytes.count
      }
    }
    guard let count else { return false }
    var (value, deadline) = (living(key) ?? [], living(key) == nil ? nil : expected[key]?.deadline)
    value += [UInt8](repeating: 0, count: max(0, index + 1 - value.count))
    value[index] = byte
    #expect(count == value.count)
    expected[key] = (value, deadline)
    return true
  }

  func setDeadline(_ key: [UInt8], _ deadline: Timestamp?) -> Bool? {
    key.withBytes { key in
      keyspace.setDeadline(deadline, of: key, hash: memory.hashing.hash(key), now: now, memory)
    }
  }

  /// Sets a long value that somebody else holds as well, as a reply on its way does.
  func setHeld(_ key: [UInt8], _ value: [UInt8], _ deadline: Timestamp?) -> SharedBlock? {
    let long = value.withBytes { LongValue(copying: $0, keyCount: key.count, memory.pool) }
    guard let long else { return nil }
    long.block.retain()
    let isSet = key.withBytes { key in
      keyspace.set(
        key, hash: memory.hashing.hash(key), to: long, deadline: deadline, now: now, memory)
    }
    if isSet { expected[key] = (value, deadline) }
    return long.block
  }

  func get(_ key: [UInt8]) -> [UInt8]? {
    key.withBytes {
      keyspace.find($0, hash: memory.hashing.hash($0), now: now, memory)?.value.array
    }
  }

  func deadline(_ key: [UInt8]) -> Timestamp? {
    key.withBytes {
      keyspace.find($0, hash: memory.hashing.hash($0), now: now, memory)?.deadline
    }
  }

  func remove(_ key: [UInt8]) -> Bool {
    key.withBytes { keyspace.remove($0, hash: memory.hashing.hash($0), now: now, memory) }
  }

  func sweep() -> (removed: Int, isAtEnd: Bool) { keyspace.sweepSegments(now: now, memory) }

  /// Evicts from a segment, and forgets what is gone.
  ///
  /// - Returns: Keys that went before they had expired.
  func evict(_ policy: EvictionPolicy, _ expert: Eviction.Expert) -> Int {
    let before = keyspace.count
    let gone = keyspace.evict(policy, expert: expert, now: now, memory)
    #expect(before - keyspace.count == gone.evicted + gone.expired)
    let missing = expected.keys.filter { living($0) != nil && get($0) == nil }
    #expect(missing.count == gone.evicted)
    if policy.isVolatile { #expect(missing.allSatisfy { expected[$0]?.deadline != nil }) }
    for key in missing { expected[key] = nil }
    return gone.evicted
  }

  func living(_ key: [UInt8]) -> [UInt8]? {
    guard let entry = expected[key] else { return nil }
    if let deadline = entry.deadline, deadline < now { return nil }
    return entry.value
  }

  func checkInvariants() { keyspace.checkInvariants(hashing: memory.hashing) }
}

@Suite("Keyspace") struct KeyspaceModelTests {
  @Test(
    "tells keys apart whose hashes are the same", arguments: [0, 1, 0x8000, 0xffff] as [UInt64])
  func sameHash(_ hash: UInt64) {
    // As many as stay in one segment: a split would hash them anew.
    let memory = StorageContext()
    defer { memory.end() }
    var keyspace = Keyspace()
    let now = Timestamp(milliseconds: 1)
    let keys = (0..<150).map { Array("key:\($0 + 100)".utf8) }
    for (count, new) in keys.enumerated() {
      new.withBytes { new in
        let isThere = keyspace.find(new, hash: hash, now: now, memory) != nil
        let isSet = keyspace.set(new, hash: hash, to: new, deadline: nil, now: now, memory)
        #expect(!isThere && isSet)
      }
      for key in keys[...count] {
        key.withBytes { key in
          keyspace.prefetchSlot(hash: hash)
          keyspace.prefetchEntry(hash: hash)
          let found = keyspace.find(key, hash: hash, now: now, memory)
          #expect(found?.value.equals(key) == true)
        }
      }
    }
    let count = keyspace.count
    #expect(count == keys.count)
    keyspace.removeAll(memory.pool)
  }

  /// The smallest segment has nine slots, of which seven get used.
  @Test("finds keys that have been pushed around the end", arguments: 0..<9 as Range<UInt64>)
  func sameHome(_ home: UInt64) {
    let memory = StorageContext()
    defer { memory.end() }
    var keyspace = Keyspace()
    let now = Timestamp(milliseconds: 1)
    let first = (home << 16 + 8) / 9
    let keys = (0..<7 as Range<UInt64>).map { (key: Array("key:\($0)".utf8), hash: first + $0 * 7) }
    for (count, (new, hash)) in keys.enumerated() {
      new.withBytes { new in
        let isThere = keyspace.find(new, hash: hash, now: now, memory) != nil
        let isSet = keyspace.set(new, hash: hash, to: new, deadline: nil, now: now, memory)
        #expect(!isThere && isSet)
      }
      for (key, hash) in keys[...count] {
        key.withBytes { key in
          keyspace.prefetchEntry(hash: hash)
          let found = keyspace.find(key, hash: hash, now: now, memory)
          #expect(found?.value.equals(key) == true)
          let other = keyspace.find(key, hash: hash + 1, now: now, memory)
          #expect(other == nil)
        }
      }
    }
    keyspace.removeAll(memory.pool)
  }

  @Test("does what a dictionary does", arguments: [1, 2, 3, 4, 5, 6, 7, 8] as [UInt64])
  func model(_ seed: UInt64) {
    var random = Random(seed: seed)
    let model = Model()
    // Few keys make collisions of purpose, many make segments split.
    let keyCount = [10, 100, 1000, 20_000][Int(seed) % 4]
    func randomBytes(_ longest: Int) -> [UInt8] {
      let length = Int.random(in: 0...longest, using: &random)
      return (0..<length).map { _ in UInt8.random(in: 0...255, using: &random) }
    }
    func value() -> [UInt8] {
      switch Int.random(in: 0..<5, using: &random) {
      case 0: return randomBytes(8)
      case 1: return randomBytes(600)
      case 2:
        return Array(String(Int(truncatingIfNeeded: random.next() >> (random.next() % 64))).utf8)
      case 3: return Array("-\(random.next() % 100_000)".utf8)
      default: return Array("00\(random.next() % 100)".utf8)
      }
    }
    func deadline() -> Timestamp? {
      switch Int.random(in: 0..<20, using: &random) {
      case 0..<10: nil
      // Too far away for the few bytes that a deadline usually takes.
      case 10: Timestamp(milliseconds: 1 << 40 + Int.random(in: 0...1, using: &random))
      default:
        Timestamp(milliseconds: model.now.milliseconds + Int.random(in: 0...500, using: &random))
      }
    }
    for step in 0..<60_000 {
      let number = Int.random(in: 0..<keyCount, using: &random)
      // Some keys are longer than a byte can count.
      let key = Array("k\(number)".utf8) + [UInt8](repeating: 7, count: number % 50 == 0 ? 300 : 0)
      switch Int.random(in: 0..<11, using: &random) {
      case 0..<3: model.set(key, value(), deadline())
      case 10:
        let index = Int.random(in: 0..<(step % 100 == 0 ? 1000 : 30), using: &random)
        model.write(UInt8(step & 0xff), at: index, of: key)
      case 3:
        let width = Int.random(in: 0..<64, using: &random)
        model.set(key, number: Int(truncatingIfNeeded: random.next()) >> width, deadline())
      case 4..<7: #expect(model.get(key) == model.living(key), "seed \(seed), step \(step)")
      case 7:
        let expected = model.living(key) != nil
        #expect(model.remove(key) == expected, "seed \(seed), step \(step)")
        model.expected[key] = nil
      case 8:
        let new = deadline()
        let living = model.living(key)
        #expect(model.setDeadline(key, new) == (living != nil), "seed \(seed), step \(step)")
        model.expected[key] = living.map { ($0, new) }
      default:
        model.now.milliseconds += Int.random(in: 0...20, using: &random)
        _ = model.sweep()
        if step % 50 == 0 { _ = model.keyspace.consolidate(model.memory) }
      }
      if step % 5000 == 0 { model.checkInvariants() }
    }
    model.checkInvariants()
    for key in model.expected.keys { #expect(model.get(key) == model.living(key), "seed \(seed)") }
    for key in model.expected.keys { _ = model.remove(key) }
    model.checkInvariants()
    let count = model.keyspace.count
    #expect(count == 0)
    let bytesLeft = model.keyspace.allocatedBytes
    #expect(bytesLeft == 0, "everything is given back")
    #expect(model.memory.pool.blockBytes == 0)
  }

  @Test(
    "long values keep to themselves, whoever still reads them", arguments: [1, 2, 3, 4] as [UInt64])
  func longValues(_ seed: UInt64) {
    var random = Random(seed: seed)
    let model = Model()
    // Values around the border, keys from short to long values of their own.
    let lengths = [10, 16_000, 16_384, 16_385, 16_400, 20_000, 66_000, 300_000]
    var held: [(block: SharedBlock, value: [UInt8])] = []
    for step in 0..<3000 {
      let number = Int.random(in: 0..<12, using: &random)
      let key = [UInt8](repeating: UInt8(number), count: [3, 300, 17_000][number % 3])
      let value = [UInt8](
        repeating: UInt8(step & 0xff), count: lengths.randomElement(using: &random) ?? 0)
      let deadline: Timestamp? = [
        nil, Timestamp(milliseconds: model.now.milliseconds + 1000),
        Timestamp(milliseconds: 1 << 50),
      ][step % 3]
      switch Int.random(in: 0..<7, using: &random) {
      case 0: model.set(key, value, deadline)
      case 6:
        let index = [0, 16_383, 16_384, 40_000, 500_000][step % 5]
        model.write(UInt8(step & 0xff), at: index, of: key)
      case 1:
        if value.count > LongValue.shortMax, let block = model.setHeld(key, value, deadline) {
          held.append((block, value))
        }
      case 2: #expect(model.get(key) == model.living(key), "seed \(seed), step \(step)")
      case 3:
        #expect(model.remove(key) == (model.living(key) != nil))
        model.expected[key] = nil
      case 4:
        let living = model.living(key)
        #expect(model.setDeadline(key, deadline) == (living != nil))
        model.expected[key] = living.map { ($0, deadline) }
        #expect(model.deadline(key) == (living == nil ? nil : deadline))
      default: model.now.milliseconds += 100
      }
      if held.count > 8 {
        let (block, value) = held.removeFirst()
        // Wherever it lay in the block, nobody has changed it.
        let lead = block.capacity - value.count
        #expect(lead >= 0)
        let bytes = unsafe Bytes(base: block.payload, count: block.capacity)
        let byte = value.first ?? 0
        let run = bytes.array.split { $0 != byte }.map(\.count).max()
        #expect((run ?? 0) >= value.count, "seed \(seed), step \(step)")
        block.release()
      }
      if step % 100 == 0 { model.checkInvariants() }
    }
    for (block, _) in held { block.release() }
    model.checkInvariants()
    for key in model.expected.keys { _ = model.remove(key) }
    model.checkInvariants()
    #expect(model.memory.pool.blockBytes == 0)
  }

  @Test(
    "stays whole when every step compacts, expires and evicts",
    arguments: EvictionPolicy.allCases)
  func everyStep(_ policy: EvictionPolicy) {
    var random = Random(seed: 11)
    let model = Model()
    model.memory.access = AccessTracking(policy.tracking, now: model.now)
    var evictedCount = 0
    for step in 0..<500 {
      // Many keys come at once, so that segments grow, split and shrink in between.
      for _ in 0..<Int.random(in: 0...20, using: &random) {
        let number = Int.random(in: 0..<800, using: &random)
        let size = [3, 40, 300, 3000, 17_000][Int.random(in: 0..<5, using: &random)]
        let end = model.now.milliseconds + Int.random(in: 0...60, using: &random)
        model.set(
          Array("\(number)".utf8), [UInt8](repeating: UInt8(step & 0xff), count: size % (step + 1)),
          Bool.random(using: &random) ? nil : Timestamp(milliseconds: end))
      }
      model.now.milliseconds += 1
      _ = model.sweep()
      model.keyspace.reclaim(model.memory)
      _ = model.keyspace.consolidate(model.memory)
      evictedCount += model.evict(policy, step % 2 == 0 ? .frequency : .recency)
      model.checkInvariants()
      for key in model.expected.keys {
        guard let value = model.living(key) else { continue }
        #expect(model.get(key) == value, "\(policy.rawValue), step \(step)")
      }
    }
    #expect(evictedCount > 150)
  }

  @Test("sweeping removes every expired key and no other") func sweep() {
    let model = Model()
    for number in 0..<20_000 {
      let deadline = Timestamp(milliseconds: model.now.milliseconds + number % 2 * 1000)
      model.set(Array("\(number)".utf8), [1], number % 4 == 3 ? nil : deadline)
    }
    model.now.milliseconds += 500
    var removed = 0
    repeat {
      let step = model.sweep()
      removed += step.removed
      if step.isAtEnd { break }
    } while true
    #expect(removed == 10_000)
    let (count, expired) = (model.keyspace.count, model.keyspace.expiredCount)
    #expect(count == 10_000)
    #expect(expired == 10_000)
    model.checkInvariants()
  }

  @Test("keeps values of every type and size") func values() {
    let model = Model()
    let values = [
      "", "0", "-1", "127", "128", "-128", "-129", "32767", "32768", "2147483647", "2147483648",
      "9223372036854775807", "-9223372036854775808", "9223372036854775808", "007", "+1", " 1",
      String(repeating: "x", count: 255), String(repeating: "x", count: 256),
      String(repeating: "x", count: 70_000),
    ]
    // Every value over every other, so that entries change type and size in place.
    for first in values {
      for second in values {
        for milliseconds in [
          nil, model.now.milliseconds + 1, (1 << 40) - 2,
          (1 << 40) - 1, (1 << 48) - 1, Int.max,
        ] {
          let deadline = milliseconds.map { Timestamp(milliseconds: $0) }
          model.set([1], Array(first.utf8), nil)
          model.set([1], Array(second.utf8), deadline)
          #expect(model.get([1]) == Array(second.utf8))
          #expect(model.deadline([1]) == deadline)
        }
      }
    }
    model.checkInvariants()
  }

  @Test("a key lives through the millisecond of its deadline") func lastMillisecond() {
    let model = Model()
    model.set([1], [2], model.now)
    #expect(model.get([1]) == [2])
    model.now.milliseconds += 1
    #expect(model.get([1]) == nil)
    let expired = model.keyspace.expiredCount
    #expect(expired == 1)
  }

  @Test("is as it was when there is no memory", arguments: [1, 2, 3, 4] as [UInt64])
  func allocationFailure(_ seed: UInt64) {
    var random = Random(seed: seed)
    let model = Model()
    let keyCount = [50, 3000][Int(seed) % 2]
    var failures = 0
    for step in 0..<30_000 {
      // Failing on and off, so that every kind of growth meets it.
      model.memory.pool.fail(after: step % 7 < 4 ? Int.random(in: 0...2, using: &random) : Int.max)
      let key = Array("\(Int.random(in: 0..<keyCount, using: &random))".utf8)
      switch Int.random(in: 0..<7, using: &random) {
      case 6:
        let index = Int.random(in: 0..<10, using: &random) * [3, 3000][step % 2]
        if !model.write(UInt8(step & 0xff), at: index, of: key) { failures += 1 }
      case 0..<3:
        let size = [3, 50, 5000, 20_000][Int.random(in: 0..<4, using: &random)]
        let value = [UInt8](repeating: UInt8(step % 251), count: size)
        if !model.set(key, value, nil) { failures += 1 }
      case 3:
        let deadline = Timestamp(milliseconds: model.now.milliseconds + step % 50)
        let living = model.living(key)
        switch model.setDeadline(key, deadline) {
        case nil:
          failures += 1
          #expect(living != nil)
        case .some(let isSet):
          #expect(isSet == (living != nil))
          model.expected[key] = living.map { ($0, deadline) }
        }
      case 4:
        let expected = model.living(key) != nil
        #expect(model.remove(key) == expected)
        model.expected[key] = nil
      default:
        model.now.milliseconds += 1
        _ = model.sweep()
      }
      #expect(model.get(key) == model.living(key), "seed \(seed), step \(step)")
      if step % 1000 == 0 { model.checkInvariants() }
    }
    #expect(failures > 100)
    model.checkInvariants()
    for key in model.expected.keys { #expect(model.get(key) == model.living(key), "seed \(seed)") }
  }

  @Test("moves blocks out of sparse pages, and everything stays where it was") func consolidation()
  {
    let model = Model()
    let count = 60_000
    for number in 0..<count {
      model.set(Array("\(number)".utf8), [UInt8](repeating: 7, count: number % 300), nil)
    }
    for number in 0..<count where number % 12 != 0 {
      _ = model.remove(Array("\(number)".utf8))
      model.expected[Array("\(number)".utf8)] = nil
    }
    let pool = model.memory.pool
    let before = pool.residentBytes - pool.blockBytes
    for _ in 0..<200 { _ = model.keyspace.consolidate(model.memory) }
    let after = pool.residentBytes - pool.blockBytes
    #expect(after <= before, "\(before) and \(after)")
    model.checkInvariants()
    for (key, entry) in model.expected { #expect(model.get(key) == entry.value) }
    #expect(model.expected.count == count / 12)
  }

  @Test("gives memory back when most keys go") func compaction() {
    var random = Random(seed: 9)
    let model = Model()
    func value() -> [UInt8] {
      [UInt8](repeating: 1, count: Int.random(in: 1...200, using: &random))
    }
    let keyCount = 20_000
    for number in 0..<keyCount { model.set(Array("key \(number)".utf8), value(), nil) }
    for _ in 0..<2 * keyCount {
      let number = Int.random(in: 0..<keyCount, using: &random)
      model.set(Array("key \(number)".utf8), value(), nil)
    }
    func ratio() -> Double {
      let live = model.expected.reduce(0) { $0 + $1.key.count + $1.value.value.count }
      return Double(model.keyspace.allocatedBytes) / Double(live)
    }
    model.checkInvariants()
    let full = ratio()
    #expect(full < 1.45, "\(full)")
    for number in 0..<keyCount where number % 10 != 0 {
      let key = Array("key \(number)".utf8)
      _ = model.remove(key)
      model.expected[key] = nil
      if number % 1000 == 1 { model.checkInvariants() }
    }
    // Then nearly empty pages go, too.
    for _ in 0..<100 where model.memory.pool.isFragmented {
      _ = model.keyspace.consolidate(model.memory)
    }
    #expect(!model.memory.pool.isFragmented)
    model.checkInvariants()
    let sparse = ratio()
    #expect(sparse < 1.45, "\(sparse)")
    for (key, entry) in model.expected { #expect(model.get(key) == entry.value) }
  }
}

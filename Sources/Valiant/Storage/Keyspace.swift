/// The keys of one database within one shard: find, set, remove, expire.
///
/// All methods need the shard's lock. A key whose deadline has passed does not exist any more: who
/// comes across it removes it and counts it as expired.
///
/// Every change may move entries: no `Entry` or `Value` may be used behind the next call of a
/// mutating method.
///
/// The memory belongs to the store's pool: who drops a keyspace calls `removeAll`, or ends the
/// pool.
struct Keyspace: ~Copyable {
  /// Who wants to know of changes; nearly always nobody.
  private(set) var observers: KeyObservers.Kinds = []
  private var database: UInt8
  /// What is written gets it; see `Entry.Mark`.
  private var mark = Entry.Mark.first
  /// The database's number when the snapshot began that has not got all keys yet.
  private(set) var savedDatabase: UInt8 = 0
  private var table = HashTable()
  private var arena = EntryArena()
  /// How often commands have changed a key.
  private(set) var changeCount = 0
  /// Keys with a deadline.
  private(set) var expiringCount = 0
  /// Keys removed because their deadline had passed.
  private(set) var expiredCount = 0
  /// Nothing expires before this moment, as `HashTable.clamped` gives it.
  private var earliestDeadline = never
  /// Where the walk for expired keys goes on, 0 when there is none.
  private var sweepCursor: UInt64 = 0
  /// The earliest deadline in what that walk has left behind.
  private var sweptEarliest = never
  /// When the last such walk ended, what this one has found, and when the next may begin.
  private var sweptAt = Timestamp(milliseconds: 0)
  private var sweptCount = 0
  private var restsUntil = Timestamp(milliseconds: 0)
  /// The segment that eviction visits next.
  private var evictionCursor: UInt64 = 0

  private static let never = UInt64.max

  /// - Parameter database: Whose keys they are, 0...15.
  init(database: Int = 0) { self.database = UInt8(database) }

  /// Begins where `old` ends: empty, with its statistics.
  init(after old: borrowing Keyspace) {
    observers = old.observers.subtracting(.saver)
    database = old.database
    mark = old.mark
    changeCount = old.changeCount + old.count
    expiredCount = old.expiredCount
  }

  // MARK: Who is told

  mutating func insertObserver(_ kind: KeyObservers.Kinds) { observers.insert(kind) }
  mutating func removeObserver(_ kind: KeyObservers.Kinds) { observers.remove(kind) }

  /// All changes of keys pass here, before they happen. At worst somebody hears of a change for which
  /// there was no memory.
  @inline(__always)
  private mutating func note(
    _ change: KeyChange, _ key: Bytes, hash: UInt64, _ memory: StorageContext
  ) {
    if !observers.isEmpty { tell(change, key, hash, memory) }
  }

  @inline(never)
  private mutating func tell(
    _ change: KeyChange, _ key: Bytes, _ hash: UInt64, _ memory: StorageContext
  ) {
    if !observers.isDisjoint(with: .noted) {
      let author = change.isCommanded ? memory.author : 0
      let isUnread = memory.observers.note(
        key, hash: hash, database: Int(database), author: author)
      if isUnread { observers.remove(.reader) }
    }
    if observers.contains(.saver), let position = table.find(key, hash: hash, in: arena.chunks) {
      preserve(position.entry, memory, hasExpired: change == .expired)
    }
    if observers.contains(.listener), !change.isCommanded {
      memory.listener?(change, key, Int(database))
    }
    if observers.contains(.log) { log(change, key, hash, memory) }
  }

  private func log(
    _ change: KeyChange, _ key: Bytes, _ hash: UInt64, _ memory: StorageContext
  ) {
    if change.isCommanded {
      // Without a recorder the caller says what has become of the key.
      guard let recorder = memory.recorder else { return }
      recorder.note(key, hash: hash, database: Int(database), isTimed: change == .timed)
      memory.hasChanges = true
    } else {
      if let recorder = memory.recorder, !recorder.isEmpty {
        // Behind what the same transaction has done before.
        recorder.recordRemoval(of: key, database: Int(database))
      } else {
        memory.observers.changes?.appendRemoval(of: key, database: Int(database))
      }
    }
  }

  /// Exchanges all keys with another keyspace of the same shard. O(1).
  mutating func swapKeys(with other: inout Keyspace) {
    swap(&self, &other)
    swap(&database, &other.database)
    let (mine, others) = (observers, other.observers)
    // A snapshot goes on with the keys, wherever they are.
    observers = mine.intersection(.saver).union(others.subtracting(.saver))
    other.observers = others.intersection(.saver).union(mine.subtracting(.saver))
    changeCount += 1
  }

  /// Keys, including those whose deadline has passed and that nobody has come across.
  var count: Int { table.count }

  /// Counts expired keys from zero again.
  mutating func resetStatistics() { expiredCount = 0 }

  /// Bytes of the table, without the entries.
  var tableBytes: Int { table.allocatedBytes }

  /// What the entries' memory is used for. O(chunks).
  var entryUsage: EntryArena.Usage { arena.usage }

  /// Bytes that table and entries take from the pool.
  var allocatedBytes: Int { table.allocatedBytes + arena.allocatedBytes }

  @inline(__always)
  func prefetchSlot(hash: UInt64) { table.prefetchSlot(hash: hash) }

  @inline(__always)
  func prefetchEntry(hash: UInt64) { table.prefetchEntry(hash: hash, in: arena.chunks) }

  /// Makes room for about `keys` keys, if there are none yet; see `HashTable.reserve`.
  mutating func reserve(_ keys: Int, _ pool: BlockPool) { table.reserve(keys, pool) }

  /// Gives that room back if nobody has used it.
  mutating func freeUnused(_ memory: StorageContext) { freeIfEmpty(memory) }

  /// The entry of `key`; nil when it is missing or has expired. O(1).
  @inline(__always)
  mutating func find(
    _ key: Bytes, hash: UInt64, now: Timestamp, _ memory: StorageContext
  ) -> Entry? {
    guard let position = table.find(key, hash: hash, in: arena.chunks) else { return nil }
    if position.entry.isExpired(at: now) {
      expire(position, memory)
      return nil
    }
    return position.entry
  }

  /// The value of `key`, whose use is noted; nil when it is missing or has expired. O(1).
  @inline(__always)
  mutating func use(
    _ key: Bytes, hash: UInt64, now: Timestamp, _ memory: StorageContext
  ) -> Value? {
    guard let entry = find(key, hash: hash, now: now, memory) else { return nil }
    let value = entry.value
    let access = entry.access
    let used = memory.access.used(access)
    if used != access { entry.access = used }
    return value
  }

  // MARK: Setting

  /// Sets `key` to `value`, whatever it was before. O(1), and O(value) to copy it.
  ///
  /// - Parameter deadline: When it expires; nil for never.
  /// - Returns: False when there was no memory, and nothing has changed.
  @inline(__always)
  mutating func set(
    _ key: Bytes, hash: UInt64, to value: Bytes, deadline: Timestamp?, now: Timestamp,
    _ memory: StorageContext
  ) -> Bool {
    // Told elsewhere: here that would cost thirty instructions.
    if !observers.isEmpty { return setObserved(key, hash, value, deadline, now, memory) }
    if value.count > LongValue.shortMax {
      return setByCopying(key, hash: hash, to: value, deadline: deadline, now: now, memory)
    }
    let content = Entry.Content(key: key, value: value, deadline: deadline)
    return put(content, key, hash: hash, deadline: deadline, now: now, memory)
  }

  /// The same when somebody is told.
  @inline(never)
  private mutating func setObserved(
    _ key: Bytes, _ hash: UInt64, _ value: Bytes, _ deadline: Timestamp?, _ now: Timestamp,
    _ memory: StorageContext
  ) -> Bool {
    if value.count > LongValue.shortMax {
      return setByCopying(key, hash: hash, to: value, deadline: deadline, now: now, memory)
    }
    let content = Entry.Content(key: key, value: value, deadline: deadline)
    return putAndTell(content, key, hash: hash, deadline: deadline, now: now, memory)
  }

  @inline(never)
  private mutating func putAndTell(
    _ content: Entry.Content, _ key: Bytes, hash: UInt64, deadline: Timestamp?, now: Timestamp,
    _ memory: StorageContext
  ) -> Bool {
    note(.commanded, key, hash: hash, memory)
    return put(content, key, hash: hash, deadline: deadline, now: now, memory)
  }

  /// Sets `key` to a string that is kept as text even if it spells a number.
  ///
  /// - Parameters:
  ///   - value: At most `LongValue.shortMax` bytes.
  ///   - isEdited: Whether it will be changed in part.
  /// - Returns: False when there was no memory, and nothing has changed.
  mutating func set(
    _ key: Bytes, hash: UInt64, toText value: Bytes, isEdited: Bool, deadline: Timestamp?,
    now: Timestamp, _ memory: StorageContext
  ) -> Bool {
    let content =
      isEdited
      ? Entry.Content(key: key, edited: value, count: value.count, deadline: deadline)
      : Entry.Content(key: key, text: value, deadline: deadline)
    return putAndTell(content, key, hash: hash, deadline: deadline, now: now, memory)
  }

  /// Sets `key` to a number, whatever it was before. O(1).
  ///
  /// - Returns: False when there was no memory, and nothing has changed.
  mutating func set(
    _ key: Bytes, hash: UInt64, to number: Int, deadline: Timestamp?, now: Timestamp,
    _ memory: StorageContext
  ) -> Bool {
    let content = Entry.Content(key: key, number: number, deadline: deadline)
    return putAndTell(content, key, hash: hash, deadline: deadline, now: now, memory)
  }

  @inline(__always)
  private mutating func put(
    _ content: borrowing Entry.Content, _ key: Bytes, hash: UInt64, deadline: Timestamp?,
    now: Timestamp, _ memory: StorageContext
  ) -> Bool {
    changeCount &+= 1
    guard let position = table.find(key, hash: hash, in: arena.chunks) else {
      return insert(content, hash: hash, deadline: deadline, memory)
    }
    let old = position.entry
    let hadDeadline = old.hasDeadline
    let wasExpired = hadDeadline && old.isExpired(at: now)
    let oldSize = old.livingSize
    // A long value may be on its way to a client.
    if content.size == oldSize, !old.isLong {
      old.write(content, access: memory.access.used(old.access), mark)
    } else if !replace(position, oldSize, with: content, memory) {
      return false
    }
    if hadDeadline { forgetDeadline(wasExpired: wasExpired) }
    if let deadline { noteDeadline(deadline, hash: hash) }
    return true
  }

  /// Counts a deadline off that is replaced together with its value.
  @inline(never)
  private mutating func forgetDeadline(wasExpired: Bool) {
    expiringCount -= 1
    if wasExpired { expiredCount += 1 }
  }

  /// Sets `key` to a long value, whose block becomes the store's without being copied. O(1).
  ///
  /// The caller's reference to the block is taken over in any case. Afterwards the key's bytes may
  /// have been overwritten, for header and key are written in front of the value.
  ///
  /// - Returns: False when there was no memory, and nothing has changed.
  mutating func set(
    _ key: Bytes, hash: UInt64, to value: LongValue, deadline: Timestamp?, now: Timestamp,
    _ memory: StorageContext
  ) -> Bool {
    let content = Entry.Content(key: key, long: value, deadline: deadline)
    guard content.fits(before: value) else {
      defer { value.block.release() }
      return setByCopying(key, hash: hash, to: value.bytes, deadline: deadline, now: now, memory)
    }
    note(.commanded, key, hash: hash, memory)
    changeCount &+= 1
    let position = table.find(key, hash: hash, in: arena.chunks)
    let access = position.map { memory.access.used($0.entry.access) } ?? memory.access.initial
    guard let new = arena.adopt(content, value, access: access, mark, memory.pool) else {
      value.block.release()
      return false
    }
    guard let position else { return add(new, hash: hash, deadline: deadline, memory) }
    if position.entry.hasDeadline {
      forgetDeadline(wasExpired: position.entry.isExpired(at: now))
    }
    let old = position.reference
    position.replace(with: new)
    arena.remove(old, memory.pool)
    compact(memory)
    if let deadline { noteDeadline(deadline, hash: hash) }
    return true
  }

  @inline(never)
  private mutating func setByCopying(
    _ key: Bytes, hash: UInt64, to value: Bytes, deadline: Timestamp?, now: Timestamp,
    _ memory: StorageContext
  ) -> Bool {
    guard let copy = LongValue(copying: value, keyCount: key.count, memory.pool) else {
      return false
    }
    return set(key, hash: hash, to: copy, deadline: deadline, now: now, memory)
  }

  @inline(never)
  private mutating func insert(
    _ content: borrowing Entry.Content, hash: UInt64, deadline: Timestamp?,
    _ memory: StorageContext
  ) -> Bool {
    guard let reference = arena.allocate(content.size, memory.pool) else { return false }
    arena.chunks.entry(reference).write(content, access: memory.access.initial, mark)
    return add(reference, hash: hash, deadline: deadline, memory)
  }

  /// Puts a new key's entry, which is written, into the table.
  @inline(__always)
  private mutating func add(
    _ reference: EntryReference, hash: UInt64, deadline: Timestamp?, _ memory: StorageContext
  ) -> Bool {
    guard table.insert(reference, hash: hash, in: arena.chunks, memory) else {
      arena.remove(reference, memory.pool)
      freeIfEmpty(memory)
      return false
    }
    if let deadline { noteDeadline(deadline, hash: hash) }
    if memory.access.kind == .adaptive {
      memory.eviction.noteInsertion(hash: hash, keysInShard: table.count)
    }
    return true
  }

  /// Puts content of another size in an entry's place.
  @inline(never)
  private mutating func replace(
    _ position: HashTable.Position, _ oldSize: Int, with content: borrowing Entry.Content,
    _ memory: StorageContext
  ) -> Bool {
    let old = position.reference
    let size = content.size
    let access = memory.access.used(position.entry.access)
    if size < oldSize, oldSize <= EntryArena.sharedEntryBytesMax {
      position.entry.write(content, access: access, mark)
      position.entry.advanced(by: size).fill(oldSize - size)
      arena.countDead(oldSize - size, in: old.chunk, memory.pool)
      compact(memory)
      return true
    }
    guard let new = arena.allocate(size, memory.pool) else { return false }
    arena.chunks.entry(new).write(content, access: access, mark)
    position.replace(with: new)
    arena.remove(old, memory.pool)
    compact(memory)
    return true
  }

  @inline(__always)
  private mutating func noteDeadline(_ deadline: Timestamp, hash: UInt64) {
    expiringCount &+= 1
    table.noteDeadline(deadline, hash: hash)
    earliestDeadline = min(earliestDeadline, HashTable.clamped(deadline))
  }

  /// Gives `key` another deadline, or none.
  ///
  /// - Returns: False when the key is missing or has expired; nil when there was no memory.
  mutating func setDeadline(
    _ deadline: Timestamp?, of key: Bytes, hash: UInt64, now: Timestamp,
    _ memory: StorageContext
  ) -> Bool? {
    guard let entry = find(key, hash: hash, now: now, memory) else { return false }
    note(.timed, key, hash: hash, memory)
    if entry.isLong {
      return setDeadline(deadline, ofLong: key, hash: hash, now: now, memory) ? true : nil
    }
    guard let position = table.find(key, hash: hash, in: arena.chunks) else { return false }
    let hadDeadline = entry.hasDeadline
    if let deadline, entry.replaceDeadline(deadline) {
    } else if !rewrite(position, memory, { Entry.Content(of: $0, key: key, deadline: deadline) }) {
      return nil
    }
    if hadDeadline { expiringCount -= 1 }
    if let deadline { noteDeadline(deadline, hash: hash) }
    changeCount &+= 1
    return true
  }

  /// Writes an entry anew elsewhere, for its size changes.
  ///
  /// - Parameter content: What it is to hold, made of the entry that it is now.
  private mutating func rewrite(
    _ position: HashTable.Position, _ memory: StorageContext, _ content: (Entry) -> Entry.Content
  ) -> Bool {
    let old = position.reference
    let size = content(position.entry).size
    guard let new = arena.allocate(size, memory.pool) else { return false }
    // The old one may be elsewhere by now.
    let entry = arena.chunks.entry(old)
    arena.chunks.entry(new).write(content(entry), access: entry.access, mark)
    position.replace(with: new)
    arena.remove(old, memory.pool)
    compact(memory)
    return true
  }

  /// The same for a long value, which stays where it is while its header changes.
  private mutating func setDeadline(
    _ deadline: Timestamp?, ofLong key: Bytes, hash: UInt64, now: Timestamp,
    _ memory: StorageContext
  ) -> Bool {
    guard let position = table.find(key, hash: hash, in: arena.chunks) else { return false }
    let value = position.entry.longValue
    let content = Entry.Content(key: key, long: value, deadline: deadline)
    guard content.fits(before: value) else {
      return setByCopying(key, hash: hash, to: value.bytes, deadline: deadline, now: now, memory)
    }
    if position.entry.hasDeadline { expiringCount -= 1 }
    arena.rewrite(
      position.reference, content, value, access: position.entry.access, mark)
    if let deadline { noteDeadline(deadline, hash: hash) }
    changeCount &+= 1
    return true
  }

  /// Sets `key` to the value of another entry.
  ///
  /// - Returns: False when there was no memory, and nothing has changed.
  mutating func set(
    _ key: Bytes, hash: UInt64, to value: DetachedValue, deadline: Timestamp?, now: Timestamp,
    _ memory: StorageContext
  ) -> Bool {
    switch value {
    case .text(let text, let isEdited):
      text.withBytes {
        set(
          key, hash: hash, toText: $0, isEdited: isEdited, deadline: deadline, now: now, memory)
      }
    case .number(let number):
      set(key, hash: hash, to: number, deadline: deadline, now: now, memory)
    case .long(let value): set(key, hash: hash, to: value, deadline: deadline, now: now, memory)
    }
  }

  // MARK: Editing

  /// Lends the bytes of the string at `key` to `body` to be changed, made `count` bytes long before,
  /// with zeros behind, if they are fewer. A missing key begins empty; a time to live stays.
  ///
  /// O(1) for a string that was edited before and does not become longer, nor is on its way to a
  /// client; else O(count), but for long ones that grow in place.
  ///
  /// Whoever edits says so by `noteEdit` if anything is different afterwards.
  ///
  /// - Returns: Nil when there was no memory, and nothing has changed.
  mutating func edit<Result>(
    _ key: Bytes, hash: UInt64, count: Int, now: Timestamp, _ memory: StorageContext,
    _ body: (MutableBytes) -> Result
  ) -> Result? {
    if let entry = find(key, hash: hash, now: now, memory) {
      if observers.contains(.saver) { preserve(entry, memory) }
      let value = entry.value
      guard makeEditable(key, hash, max(count, value.count), now, memory) else { return nil }
    } else if !addEditable(key, hash, count, now, memory) {
      return nil
    }
    guard let position = table.find(key, hash: hash, in: arena.chunks) else {
      preconditionFailure("an edited key is missing")
    }
    let entry = position.entry
    entry.access = memory.access.used(entry.access)
    return body(entry.mutableValue)
  }

  /// Tells those who want to know that `key` has been edited.
  mutating func noteEdit(_ key: Bytes, hash: UInt64, _ memory: StorageContext) {
    changeCount &+= 1
    note(.commanded, key, hash: hash, memory)
  }

  /// Has `key` written down, whose string has become longer, or has been made, by an edit that was refused:
  /// Redis tells nobody of it.
  mutating func noteLength(_ key: Bytes, hash: UInt64, _ memory: StorageContext) {
    changeCount &+= 1
    if observers.contains(.log) { log(.commanded, key, hash, memory) }
  }

  private mutating func addEditable(
    _ key: Bytes, _ hash: UInt64, _ count: Int, _ now: Timestamp, _ memory: StorageContext
  ) -> Bool {
    if count > LongValue.shortMax {
      guard let value = LongValue(zeros: count, keyCount: key.count, memory.pool) else {
        return false
      }
      return set(key, hash: hash, to: value, deadline: nil, now: now, memory)
    }
    let content = Entry.Content(key: key, edited: .empty, count: count, deadline: nil)
    return insert(content, hash: hash, deadline: nil, memory)
  }

  /// Makes the value of a key that is there one that can be changed in place, of `count` bytes.
  ///
  /// - Parameter count: Not less than there are.
  private mutating func makeEditable(
    _ key: Bytes, _ hash: UInt64, _ count: Int, _ now: Timestamp, _ memory: StorageContext
  ) -> Bool {
    guard let position = table.find(key, hash: hash, in: arena.chunks) else { return false }
    let entry = position.entry
    if entry.isLong, !entry.ownBlock.isShared {
      return entry.value.count == count
        || arena.lengthen(position.reference, to: count, deadline: entry.deadline, memory.pool)
    }
    if count > LongValue.shortMax {
      // Longer than before, or in a block that somebody is reading.
      guard let copy = LongValue(zeros: count, keyCount: key.count, memory.pool) else {
        return false
      }
      entry.value.withBytes { copy.mutableBytes.replace(at: 0, with: $0) }
      return set(key, hash: hash, to: copy, deadline: entry.deadline, now: now, memory)
    }
    if entry.isEdited {
      let more = count - entry.value.count
      if more == 0 { return true }
      if count <= 0xff || entry.value.count > 0xff,
        arena.extend(position.reference, size: entry.livingSize, by: more)
      {
        return entry.lengthen(to: count)
      }
    }
    guard case .bytes = entry.value else {
      return entry.value.array.withBytes { digits in
        rewrite(position, memory) {
          Entry.Content(key: key, edited: digits, count: count, deadline: $0.deadline)
        }
      }
    }
    return rewrite(position, memory) { entry in
      guard case .bytes(let bytes) = entry.value else { preconditionFailure("no bytes any more") }
      return Entry.Content(key: key, edited: bytes, count: count, deadline: entry.deadline)
    }
  }

  // MARK: Removing

  /// Removes `key`. O(1).
  ///
  /// - Returns: False when it was missing or had expired.
  mutating func remove(
    _ key: Bytes, hash: UInt64, now: Timestamp, _ memory: StorageContext
  ) -> Bool {
    guard let position = table.find(key, hash: hash, in: arena.chunks) else { return false }
    if position.entry.isExpired(at: now) {
      expire(position, memory)
      return false
    }
    note(.commanded, key, hash: hash, memory)
    remove(position, memory)
    changeCount &+= 1
    return true
  }

  @inline(never)
  private mutating func expire(
    _ position: HashTable.Position, _ memory: StorageContext
  ) {
    expiredCount += 1
    note(.expired, position.entry.key, hash: position.hash, memory)
    remove(position, memory)
  }

  private mutating func remove(
    _ position: HashTable.Position, _ memory: StorageContext
  ) {
    let reference = position.reference
    if position.entry.hasDeadline { expiringCount -= 1 }
    table.remove(position, memory.pool)
    arena.remove(reference, memory.pool)
    freeIfEmpty(memory)
    compact(memory)
  }

  private mutating func freeIfEmpty(_ memory: StorageContext) {
    if table.count == 0 { removeAll(memory.pool) }
  }

  /// Removes all keys and gives their memory back. O(chunks and segments).
  mutating func removeAll(_ pool: BlockPool) {
    table.removeAll(pool)
    arena.removeAll(pool)
    expiringCount = 0
    earliestDeadline = Self.never
    sweepCursor = 0
    sweptEarliest = Self.never
    evictionCursor = 0
  }

  // MARK: Walking

  /// See `HashTable.scan`.
  func scan(
    from cursor: ScanCursor, count: Int, _ body: (Entry) -> Void
  ) -> (next: ScanCursor, seen: Int) {
    table.scan(from: cursor, count: count, in: arena.chunks, body)
  }

  /// See `HashTable.randomEntry`.
  var randomEntry: Entry? { table.randomEntry(in: arena.chunks) }

  /// Calls `body` with each entry, also with those that have expired. O(count).
  func forEachEntry(_ body: (Entry) -> Void) { table.forEachEntry(in: arena.chunks, body) }

  // MARK: Snapshots

  /// Makes what is there the content of a snapshot: from now on no key is changed before that has
  /// got it.
  mutating func beginSnapshot() {
    mark = mark.other
    savedDatabase = database
    if count > 0 { observers.insert(.saver) }
  }

  /// Whether the snapshot that has begun has not got all keys yet of what was this database then.
  func isUnsaved(database: Int) -> Bool {
    observers.contains(.saver) && Int(savedDatabase) == database
  }

  /// Gives a key to the snapshot, if that has not got it yet.
  private func preserve(_ entry: Entry, _ memory: StorageContext, hasExpired: Bool = false) {
    if entry.mark == mark { return }
    entry.mark = mark
    memory.observers.preserve(
      entry, database: Int(savedDatabase), hasExpired: hasExpired)
  }

  /// Calls `body` with the keys of the segment at `cursor` that the snapshot has not got yet, until
  /// that has had enough.
  ///
  /// O(320).
  ///
  /// - Parameters:
  ///   - cursor: 0 to begin; afterwards what the last call returned.
  ///   - body: Returns whether it can take more.
  /// - Returns: Where to go on; 0 when the snapshot has got all keys.
  mutating func saveSegment(at cursor: UInt64, _ body: (Entry) -> Bool) -> UInt64 {
    let next = table.visit(at: cursor, in: arena.chunks) { entry in
      if entry.mark == mark { return true }
      entry.mark = mark
      return body(entry)
    }
    if next == 0 { observers.remove(.saver) }
    return next
  }

  // MARK: Compacting

  /// Moves a few entries together if much of the memory is dead.
  @inline(__always)
  private mutating func compact(_ memory: StorageContext, isPressed: Bool = false) {
    let bytes = arena.compactionDue(isPressed: isPressed)
    if bytes > 0 { memory.steps.measure(.compaction) { compact(bytes, memory) } }
  }

  @inline(never)
  private mutating func compact(_ bytes: Int, _ memory: StorageContext) {
    var budget = bytes
    arena.repay(bytes)
    while true {
      let batch = arena.nextToMove(&budget, memory.pool)
      if batch.count == 0 {
        if budget > 0 { arena.forgetDebt() }
        return
      }
      // Their slots are scattered over memory: ask for all of them before the first is needed.
      var hashes: InlineArray<8, UInt64> = .init(repeating: 0)
      for index in 0..<batch.count {
        let entry = arena.chunks.entry(batch.references[index])
        hashes[index] = memory.hashing.hash(entry.key)
        table.prefetchSlot(hash: hashes[index])
      }
      for index in 0..<batch.count {
        let reference = batch.references[index]
        let size = arena.chunks.entry(reference).livingSize
        guard let target = arena.allocate(size, memory.pool) else { return }
        arena.chunks.entry(target).copy(arena.chunks.entry(reference), size: size)
        table.find(reference, hash: hashes[index], in: arena.chunks).replace(with: target)
        arena.remove(reference, memory.pool)
      }
    }
  }

  /// Moves some blocks that lie in sparse pages of the pool into fuller ones.
  ///
  /// O(chunks and segments).
  ///
  /// - Returns: Whether there may be more to move.
  mutating func consolidate(_ memory: StorageContext) -> Bool {
    memory.steps.measure(.compaction) {
      var budget = Self.consolidationBytesMax
      arena.consolidate(&budget, memory.pool)
      table.consolidate(&budget, memory.pool)
      return budget <= 0
    }
  }

  private static let consolidationBytesMax = 16 * 1024

  // MARK: Expiry

  /// Whether a walk for expired keys would find some, or is under way.
  func isDue(at now: Timestamp) -> Bool {
    sweepCursor != 0 || earliestDeadline < HashTable.clamped(now)
  }

  /// The same for those who come back: keys may lie for a while, so that one walk finds many, but
  /// never more than a few of a thousand living ones.
  func isWorthWalk(at now: Timestamp) -> Bool {
    isDue(at: now) && (sweepCursor != 0 || now >= restsUntil)
  }

  /// Segments with nothing to do that one visit passes over at most.
  private static let passedSegmentsMax = 64
  /// Slots after which a step ends, with the segment that it is at.
  private static let sweptSlotsMin = 128
  private static let restMillisecondsMax = 300
  private static let firstRestMilliseconds = 20
  private static let rateMilliseconds = 1000
  /// Of a thousand keys so many may lie.
  private static let lyingShare = 6

  private mutating func endSweep(_ now: Timestamp) {
    earliestDeadline = min(earliestDeadline, sweptEarliest)
    // At the rate of the time since the last walk; if that is long ago, nothing is known of it.
    let elapsed = min(now.milliseconds - sweptAt.milliseconds, Self.rateMilliseconds + 1)
    let longest =
      elapsed > Self.rateMilliseconds ? Self.firstRestMilliseconds : Self.restMillisecondsMax
    let rest =
      sweptCount == 0
      ? longest : min(count * Self.lyingShare * elapsed / (1000 * sweptCount), longest)
    sweptAt = now
    sweptCount = 0
    restsUntil = Timestamp(milliseconds: now.milliseconds + rest)
  }

  /// Goes on with the walk for expired keys to the next segments that can have some, or begins one.
  ///
  /// The caller bounds how long the lock is held by the number of calls: one looks at no more than
  /// a few hundred slots, and passes over a few dozen segments whose earliest deadline is still to come.
  ///
  /// - Returns: Entries removed, and whether the walk has ended.
  mutating func sweepSegments(
    now: Timestamp, _ memory: StorageContext
  ) -> (removed: Int, isAtEnd: Bool) {
    guard isDue(at: now) else { return (0, true) }
    if sweepCursor == 0 {
      sweptEarliest = Self.never
      // From now on only of what is set behind the walk's back.
      earliestDeadline = Self.never
    }
    for _ in 0..<Self.passedSegmentsMax {
      guard let look = table.lookIfNotDue(at: sweepCursor, now: now) else {
        // A step of its own, for it may need fresh memory.
        defer { compact(memory) }
        return memory.steps.measure(.expiry) { sweepDueSegments(now: now, memory) }
      }
      if didSweep(look, now) { return (0, true) }
    }
    return (0, false)
  }

  private mutating func sweepDueSegments(
    now: Timestamp, _ memory: StorageContext
  ) -> (removed: Int, isAtEnd: Bool) {
    let chunks = arena.chunks
    // Entries die after the table has let go of them all: the arena may free their chunks.
    var dead: [EntryReference] = []
    var seen = 0
    var isAtEnd = false
    // A step costs as much as to look at a dozen keys: in sparse segments it takes several.
    while !isAtEnd, seen < Self.sweptSlotsMin {
      let before = dead.count
      let look =
        table.lookIfNotDue(at: sweepCursor, now: now)
        ?? table.removeExpired(at: sweepCursor, now: now, in: chunks, memory.pool) {
          dead.append($0)
        }
      seen += look.seen + 1
      sweptCount += dead.count - before
      isAtEnd = didSweep(look, now)
    }
    let removed = dead.count
    for reference in dead {
      if !observers.isEmpty {
        // The table has let go of it.
        let entry = arena.chunks.entry(reference)
        if observers.contains(.saver) { preserve(entry, memory, hasExpired: true) }
        note(.expired, entry.key, hash: memory.hashing.hash(entry.key), memory)
      }
      arena.remove(reference, memory.pool)
    }
    expiringCount -= removed
    expiredCount += removed
    freeIfEmpty(memory)
    return (removed, isAtEnd)
  }

  /// - Returns: Whether the walk has ended.
  private mutating func didSweep(_ look: HashTable.Look, _ now: Timestamp) -> Bool {
    sweptEarliest = min(sweptEarliest, look.earliestDeadline)
    sweepCursor = look.next
    if sweepCursor == 0 { endSweep(now) }
    return sweepCursor == 0
  }

  // MARK: Eviction

  /// Takes a step of compaction, for memory is short: whatever is dead is worth it.
  mutating func reclaim(_ memory: StorageContext) {
    memory.steps.measure(.compaction) { compact(EntryArena.stepBytesMax, memory) }
  }

  /// Evicts a sixteenth of the next segment, those entries that are worth least.
  ///
  /// - Returns: Keys that were evicted, and those that had expired; none when none of them may go.
  mutating func evict(
    _ policy: EvictionPolicy, expert: Eviction.Expert, now: Timestamp, _ memory: StorageContext
  ) -> (evicted: Int, expired: Int) {
    if policy.isVolatile, expiringCount == 0 { return (0, 0) }
    var cursor = evictionCursor
    var worst = HashTable.Worst()
    // Segments with nothing that may go are passed over; looking at one is next to nothing.
    for _ in 0..<Self.passedSegmentsMax {
      cursor = evictionCursor
      worst = table.worst(at: cursor, needsDeadline: policy.isVolatile, in: arena.chunks) { entry in
        if entry.isExpired(at: now) { return Int.min }
        if policy.isVolatile, !entry.hasDeadline { return nil }
        return Eviction.worth(entry, policy, expert, memory.access)
      }
      evictionCursor = worst.next
      if worst.count > 0 || worst.next == 0 { break }
    }
    if worst.count == 0 { return (0, 0) }
    // By how many uses the best of them was distinguished, and how many such had to go.
    let level =
      arena.chunks.entry(worst.victims[worst.count - 1].reference).access
      & AccessTracking.usesMask
    var gone: UInt64 = 0
    var expired = 0
    for index in 0..<worst.count {
      let reference = worst.victims[index].reference
      let entry = arena.chunks.entry(reference)
      if entry.access & AccessTracking.usesMask == level { gone += 1 }
      let isExpired = entry.isExpired(at: now)
      if isExpired {
        expiredCount += 1
        expired += 1
      }
      if entry.hasDeadline { expiringCount -= 1 }
      // No entry moves before the last one is gone.
      let hash = memory.hashing.hash(entry.key)
      note(isExpired ? .expired : .evicted, entry.key, hash: hash, memory)
      table.remove(table.find(reference, hash: hash, in: arena.chunks), memory.pool)
      arena.remove(reference, memory.pool)
    }
    if policy.tracking == .adaptive {
      let wear =
        expert == .frequency && level > 0 ? gone << 16 / worst.candidates[Int(level)] : 0
      table.forEachEntry(at: cursor, in: arena.chunks) { entry in
        let access = entry.access
        let aged = Eviction.aged(access, worn: level, wear: wear)
        if aged != access { entry.access = aged }
      }
    }
    freeIfEmpty(memory)
    compact(memory, isPressed: true)
    return (worst.count - expired, expired)
  }

  /// Gives large blocks back; see `EntryArena.freeLargeBlocks`.
  func freeLargeBlocks(_ pool: BlockPool) {
    table.freeLargeBlocks(pool)
    arena.freeLargeBlocks(pool)
  }

  // MARK: Checking

  /// Stops the process if an invariant does not hold. O(count); for tests.
  func checkInvariants(hashing: SipHash) {
    table.checkInvariants(in: arena.chunks, hashing: hashing)
    let living = arena.checkInvariants()
    precondition(living.count == table.count, "a living entry that is not in the table")
    var expiring = 0
    var bytes = 0
    let earliest = min(earliestDeadline, sweepCursor == 0 ? Self.never : 0)
    table.forEachEntry(in: arena.chunks) { entry in
      bytes += entry.size
      precondition(entry.mark == mark || observers.contains(.saver), "a key for no snapshot")
      guard let deadline = entry.deadline else { return }
      expiring += 1
      precondition(HashTable.clamped(deadline) >= earliest, "an earlier deadline")
    }
    precondition(expiring == expiringCount, "the number of expiring keys is wrong")
    precondition(bytes == living.bytes, "the entries' bytes are wrong")
  }
}

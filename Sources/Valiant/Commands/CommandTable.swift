/// All commands, and the way from a name to its row.
///
/// The first eight letters of a name are one word in lower case; a small open-addressed table leads from
/// it to the row in about 30 instructions. The rows lie in memory that is never freed, so that a
/// pointer to one needs no reference counting.
///
/// Invariant: `rows` are `count` commands, `slots` are 2^slotBits; both live as long as the process.
@safe struct CommandTable: Sendable {
  // SAFETY: written while `shared` is made, by one thread, and never changed.
  nonisolated(unsafe) let rows: UnsafePointer<Row>
  nonisolated(unsafe) private let slots: UnsafePointer<Slot>
  /// Commands and subcommands.
  let count: Int
  /// Commands without the subcommands, in the order of their families.
  let topLevel: [Command]

  static let shared = CommandTable(families: [
    StringCommands.self, NumberCommands.self, SubsequenceCommands.self, BitmapCommands.self,
    BitFieldCommands.self,
    HyperLogLogCommands.self, KeyCommands.self, ExpiryCommands.self, ScanCommands.self,
    MoveCommands.self,
    SerializationCommands.self, ObjectCommands.self, MemoryCommands.self,
    TransactionCommands.self, ScriptCommands.self, PubSubCommands.self, ClusterCommands.self,
    ReplicationCommands.self, DebugCommands.self, SavingCommands.self, WaitCommands.self,
    ConnectionCommands.self, ClientCommands.self,
    ServerCommands.self, ConfigCommands.self, IntrospectionCommands.self,
  ])

  /// What every request needs of a command, close together, and the command.
  ///
  /// Not copyable, so that reading one part through a pointer neither copies the others nor counts
  /// references.
  struct Row: ~Copyable {
    private let handler: Command.Handler
    /// Arity as a range that one comparison checks; empty for a container: which row runs is not
    /// known yet.
    private let argumentsMin: Int
    private let argumentsSpan: UInt
    let firstKey: Int
    let lastKey: Int
    let keyStep: Int
    let index: Int
    let flags: Command.Flags
    let isContainer: Bool
    /// Whether it may need memory, and so is refused when there is none left.
    let needsMemory: Bool
    let command: Command

    fileprivate init(_ command: Command) {
      handler = command.handler
      isContainer = !command.subcommands.isEmpty
      argumentsMin = isContainer ? Int.max : abs(command.arity)
      argumentsSpan = command.arity < 0 && !isContainer ? UInt(Int.max) : 0
      // What is no key is in no shard.
      firstKey = command.keys.access == ["not_key"] ? 0 : command.keys.first
      lastKey = command.keys.last
      keyStep = max(1, command.keys.step)
      index = command.index
      flags = command.flags
      needsMemory = command.flags.contains(.denyoom)
      self.command = command
    }

    /// Runs the command. Borrowing the row spares counting references to the closure.
    @inline(__always)
    borrowing func call(_ context: inout CommandContext) throws(CommandError) {
      try handler(&context)
    }

    /// Whether a request of `argumentCount` arguments, its name included, can run as it is.
    @inline(__always)
    func canRun(argumentCount: Int) -> Bool {
      UInt(bitPattern: argumentCount &- argumentsMin) <= argumentsSpan
    }

    /// Indices of the keys in a request of `argumentCount` arguments, if the command has keys.
    @inline(__always)
    func keyIndices(argumentCount: Int) -> StrideTo<Int> {
      let end = lastKey < 0 ? argumentCount &+ lastKey : min(lastKey, argumentCount &- 1)
      return stride(from: firstKey, to: end &+ 1, by: keyStep)
    }

    /// Whether a request of `argumentCount` arguments names exactly one key.
    @inline(__always)
    func namesOneKey(argumentCount: Int) -> Bool {
      lastKey == firstKey || (lastKey < 0 && argumentCount &+ lastKey == firstKey)
    }
  }

  @safe private struct Slot {
    var word: UInt64
    var length: Int
    var row: UnsafePointer<Row>?
    /// Whether no other name has the same word and length.
    var isExact = false
  }

  private static let slotBits: UInt64 = 8

  init(families: [any CommandFamily.Type]) {
    // Containers come first and their subcommands behind all of them.
    var topLevel: [Command] = []
    var all: [Command] = []
    for family in families {
      for command in family.commands {
        topLevel.append(command.placed(in: family.category, at: topLevel.count))
      }
    }
    all = topLevel
    for command in topLevel {
      for subcommand in command.subcommands {
        all.append(subcommand.placed(in: command.category, at: all.count))
      }
    }
    let rows = UnsafeMutablePointer<Row>.allocate(capacity: all.count)
    for command in all { unsafe (rows + command.index).initialize(to: Row(command)) }
    let slotCount = 1 << Int(Self.slotBits)
    precondition(topLevel.count * 2 < slotCount, "the table of names is too small")
    let slots = UnsafeMutablePointer<Slot>.allocate(capacity: slotCount)
    unsafe slots.initialize(repeating: Slot(word: 0, length: 0, row: nil), count: slotCount)
    for command in topLevel {
      let word = Array(command.name.utf8).withBytes { Self.word($0) }
      var index = Self.slotIndex(word)
      while unsafe slots[index].row != nil { index = (index + 1) & (slotCount - 1) }
      unsafe slots[index] = Slot(
        word: word, length: command.name.utf8.count, row: UnsafePointer(rows + command.index),
        isExact: command.name.utf8.count <= 8 && command.name.utf8.allSatisfy { $0 &- 0x61 < 26 })
    }
    unsafe self.rows = UnsafePointer(rows)
    unsafe self.slots = UnsafePointer(slots)
    count = all.count
    self.topLevel = topLevel
  }

  /// The first eight bytes of a name with the bit of small letters set, as one number.
  ///
  /// No byte but a letter becomes a letter by that bit.
  @inline(__always)
  private static func word(_ name: Bytes) -> UInt64 {
    name.firstWord | 0x2020_2020_2020_2020
  }

  @inline(__always)
  private static func slotIndex(_ word: UInt64) -> Int {
    Int(truncatingIfNeeded: (word &* 0x9E37_79B9_7F4A_7C15) &>> (64 &- slotBits))
  }

  /// The row of the command called `name`, in any case; nil when there is none. O(1).
  @inline(__always)
  func find(_ name: Bytes) -> UnsafePointer<Row>? {
    let word = Self.word(name)
    var index = Self.slotIndex(word)
    while true {
      // SAFETY: the index is below 2^slotBits, a row's below `count`; there are free slots.
      let slot = unsafe slots[index]
      guard let row = unsafe slot.row else { return nil }
      if slot.word == word, slot.length == name.count {
        if unsafe slot.isExact || Self.isNamed(row, name) { return unsafe row }
      }
      index = (index &+ 1) & (1 &<< Int(Self.slotBits) &- 1)
    }
  }

  @inline(never)
  private static func isNamed(_ row: UnsafePointer<Row>, _ name: Bytes) -> Bool {
    unsafe name.equalsIgnoringCase(row.pointee.command.name)
  }

  /// The row of what a request asks for, which may be a subcommand; nil when there is none.
  func find(_ request: Request) -> UnsafePointer<Row>? {
    guard let row = unsafe find(request.name) else { return nil }
    if unsafe request.count == 1 || !row.pointee.isContainer { return unsafe row }
    return unsafe find(request[1], in: row)
  }

  /// The row of a container's subcommand.
  func find(_ name: Bytes, in container: UnsafePointer<Row>) -> UnsafePointer<Row>? {
    let prefix = unsafe container.pointee.command.name + "|"
    for index in topLevel.count..<count {
      let full = unsafe rows[index].command.name
      if full.hasPrefix(prefix), name.equalsIgnoringCase(String(full.dropFirst(prefix.count))) {
        return unsafe rows + index
      }
    }
    return nil
  }

  /// The row with this index.
  subscript(index: Int) -> Command {
    precondition(UInt(bitPattern: index) < UInt(bitPattern: count), "no such command")
    return unsafe rows[index].command
  }

  /// Names by index.
  var names: [String] { (0..<count).map { self[$0].name } }
}

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
    /// What the arity allows; none for a container: which row runs is not known yet.
    private let accepted: ArgumentCounts
    let firstKey: Int
    let lastKey: Int
    let keyStep: Int
    /// With how many arguments a request names exactly one key.
    private let oneKey: ArgumentCounts
    let index: Int
    let flags: Command.Flags
    let isContainer: Bool
    /// Whether it may need memory, and so is refused when there is none left.
    let needsMemory: Bool
    let command: Command

    fileprivate init(_ command: Command) {
      handler = command.handler
      isContainer = !command.subcommands.isEmpty
      accepted = isContainer ? .none : ArgumentCounts(arity: command.arity)
      firstKey = command.keys.firstStored
      lastKey = command.keys.last
      keyStep = max(1, command.keys.step)
      // Chosen there, for choices here make Swift 6.3 release a part of `command` once too often.
      oneKey = ArgumentCounts(ofOneKey: command.keys)
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
      accepted.contains(argumentCount)
    }

    /// Indices of the keys in a request of `argumentCount` arguments, if the command has keys.
    @inline(__always)
    func keyIndices(argumentCount: Int) -> KeyIndices {
      let last = lastKey < 0 ? argumentCount &+ lastKey : min(lastKey, argumentCount &- 1)
      return KeyIndices(from: firstKey, through: last, step: keyStep)
    }

    /// Whether a request of `argumentCount` arguments names exactly one key, which is argument `firstKey`.
    @inline(__always)
    func namesOneKey(argumentCount: Int) -> Bool {
      oneKey.contains(argumentCount)
    }
  }

  /// Numbers of arguments, names of commands included: one, or from one on. Checked by one comparison.
  private struct ArgumentCounts {
    private let least: Int
    private let span: UInt

    static let none = ArgumentCounts(Int.max)

    private init(_ least: Int, orMore: Bool = false) {
      self.least = least
      span = orMore ? UInt(Int.max) : 0
    }

    init(arity: Int) { self.init(abs(arity), orMore: arity < 0) }

    /// With so many there is exactly one key, which is argument `keys.first`.
    @inline(never)
    init(ofOneKey keys: Command.KeyPositions) {
      if keys.firstStored == 0 {
        self = .none
      } else if keys.last < 0 {
        // Behind a key follows what belongs to it.
        self.init(keys.first - keys.last + max(1, keys.step) - 1)
      } else {
        self = keys.last == keys.first ? ArgumentCounts(keys.first + 1, orMore: true) : .none
      }
    }

    @inline(__always)
    func contains(_ count: Int) -> Bool { UInt(bitPattern: count &- least) <= span }
  }

  /// Indices of keys. The library's strides, which look out for overflows, cost ten instructions a key more.
  struct KeyIndices: Sequence, IteratorProtocol {
    private var index: Int
    private let last: Int
    private let step: Int

    @inline(__always)
    fileprivate init(from first: Int, through last: Int, step: Int) {
      index = first
      self.last = last
      self.step = step
    }

    @inline(__always)
    mutating func next() -> Int? {
      if index > last { return nil }
      defer { index &+= step }
      return index
    }
  }

  @safe private struct Slot {
    /// Never 0 when there is a row.
    var word: UInt64
    /// Bytes of the name; negative if there can be other names with the same word and length.
    var length: Int
    var row: UnsafePointer<Row>?
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
        word: word, length: Self.length(of: command.name), row: UnsafePointer(rows + command.index))
    }
    unsafe self.rows = UnsafePointer(rows)
    unsafe self.slots = UnsafePointer(slots)
    count = all.count
    self.topLevel = topLevel
  }

  /// What a slot says of a name's length.
  private static func length(of name: String) -> Int {
    let isExact = name.utf8.count <= 8 && name.utf8.allSatisfy { $0 &- 0x61 < 26 }
    return isExact ? name.utf8.count : -name.utf8.count
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
      if slot.word == word, slot.length == name.count { return unsafe slot.row }
      guard let row = unsafe slot.row else { return nil }
      if slot.word == word, slot.length == -name.count, unsafe Self.isNamed(row, name) {
        return unsafe row
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

/// All commands, and the way from a name to its row.
///
/// A name of up to eight letters is one word in lower case; a small open-addressed table leads from
/// it to the row in about 30 instructions. The rows lie in memory that is never freed, so that a
/// pointer to one needs no reference counting.
///
/// Invariant: `rows` are `count` commands, `slots` are 2^slotBits; both live as long as the process.
@safe struct CommandTable: Sendable {
  // SAFETY: written while `shared` is made, by one thread, and never changed.
  nonisolated(unsafe) let rows: UnsafePointer<Command>
  nonisolated(unsafe) private let slots: UnsafePointer<Slot>
  /// Commands and subcommands.
  let count: Int
  /// Commands without the subcommands, in the order of their families.
  let topLevel: [Command]

  static let shared = CommandTable(families: [
    StringCommands.self, KeyCommands.self, ConnectionCommands.self, ClientCommands.self,
    ServerCommands.self, ConfigCommands.self, IntrospectionCommands.self,
  ])

  private struct Slot {
    var word: UInt64
    var length: Int
    var row: Int
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
    let rows = UnsafeMutablePointer<Command>.allocate(capacity: all.count)
    for command in all { unsafe (rows + command.index).initialize(to: command) }
    let slotCount = 1 << Int(Self.slotBits)
    precondition(topLevel.count * 2 < slotCount, "the table of names is too small")
    let slots = UnsafeMutablePointer<Slot>.allocate(capacity: slotCount)
    unsafe slots.initialize(repeating: Slot(word: 0, length: 0, row: -1), count: slotCount)
    for command in topLevel {
      let word = Array(command.name.utf8).withBytes { Self.word($0) }
      var index = Self.slotIndex(word)
      while unsafe slots[index].row >= 0 { index = (index + 1) & (slotCount - 1) }
      unsafe slots[index] = Slot(word: word, length: command.name.utf8.count, row: command.index)
    }
    unsafe self.rows = UnsafePointer(rows)
    unsafe self.slots = UnsafePointer(slots)
    count = all.count
    self.topLevel = topLevel
  }

  /// The first eight bytes of a name in lower case, as one number.
  @inline(__always)
  private static func word(_ name: Bytes) -> UInt64 {
    var word: UInt64 = 0
    for index in 0..<min(name.count, 8) {
      word = word &<< 8 | UInt64(asciiLowercase(name[index]))
    }
    return word
  }

  @inline(__always)
  private static func slotIndex(_ word: UInt64) -> Int {
    Int(truncatingIfNeeded: (word &* 0x9E37_79B9_7F4A_7C15) &>> (64 &- slotBits))
  }

  /// The row of the command called `name`, in any case; nil when there is none. O(1).
  @inline(__always)
  func find(_ name: Bytes) -> UnsafePointer<Command>? {
    let word = Self.word(name)
    var index = Self.slotIndex(word)
    while true {
      // SAFETY: the index is below 2^slotBits, a row's below `count`; there are free slots.
      let slot = unsafe slots[index]
      if slot.row < 0 { return nil }
      if slot.word == word, slot.length == name.count {
        let row = unsafe rows + slot.row
        if name.count <= 8 || name.equalsIgnoringCase(unsafe row.pointee.name) { return unsafe row }
      }
      index = (index &+ 1) & (1 &<< Int(Self.slotBits) &- 1)
    }
  }

  /// The row of a container's subcommand.
  func find(_ name: Bytes, in container: UnsafePointer<Command>) -> UnsafePointer<Command>? {
    let prefix = unsafe container.pointee.name + "|"
    for index in topLevel.count..<count {
      let full = unsafe rows[index].name
      if full.hasPrefix(prefix), name.equalsIgnoringCase(String(full.dropFirst(prefix.count))) {
        return unsafe rows + index
      }
    }
    return nil
  }

  /// The row with this index.
  subscript(index: Int) -> Command {
    precondition(UInt(bitPattern: index) < UInt(bitPattern: count), "no such command")
    return unsafe rows[index]
  }

  /// Names by index.
  var names: [String] { (0..<count).map { self[$0].name } }
}

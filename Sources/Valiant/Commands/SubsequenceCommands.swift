/// LCS: what two strings have in common.
enum SubsequenceCommands: CommandFamily {
  static let category = Command.Category.string
  static let commands: [Command] = [
    Command(
      "LCS key1 key2 [LEN] [IDX] [MINMATCHLEN min-match-len] [WITHMATCHLEN]", arity: -3,
      flags: [.readonly], keys: .range(1, 2, "RO", "access"),
      summary: "Finds the longest common substring.",
      complexity: "O(N*M) where N and M are the lengths of s1 and s2, respectively",
      since: "7.0.0", handler: longest)
  ]

  private struct Options {
    var wantsLength = false
    var wantsIndices = false
    var wantsMatchLengths = false
    var shortestMatch = 0

    init(_ context: borrowing CommandContext) throws(CommandError) {
      let request = context.request
      var index = 3
      while index < request.count {
        if request[index].equalsIgnoringCase("IDX") {
          wantsIndices = true
        } else if request[index].equalsIgnoringCase("LEN") {
          wantsLength = true
        } else if request[index].equalsIgnoringCase("WITHMATCHLEN") {
          wantsMatchLengths = true
        } else if request[index].equalsIgnoringCase("MINMATCHLEN"), index + 1 < request.count {
          index += 1
          shortestMatch = max(0, try context.integer(index))
        } else {
          throw .syntax
        }
        index += 1
      }
      if wantsLength && wantsIndices { throw .lengthAndIndices }
    }
  }

  private static func longest(_ context: inout CommandContext) throws(CommandError) {
    context.removeExpired()
    let (first, second) = (try context.string(1), try context.string(2))
    let options = try Options(context)
    let cells = ((first?.count ?? 0) + 1) * ((second?.count ?? 0) + 1)
    // The same for both servers, so that a request that works there works here.
    guard cells * CommonLengths.cellBytes <= context.settings.bulkLengthMaxBytes else {
      throw .subsequenceTooLarge
    }
    try context.reserve(cells * CommonLengths.cellBytes)
    let (left, right) = (first?.array ?? [], second?.array ?? [])
    guard let lengths = CommonLengths(left, right) else { throw .noMemoryForSubsequence }
    defer { lengths.free() }
    let total = lengths[left.count, right.count]
    if options.wantsLength { return context.reply.integer(total) }
    let (common, matches) = matches(lengths, left, right)
    if !options.wantsIndices {
      return common.withBytes { context.reply.bulkString($0) }
    }
    let shown = matches.filter { $0.length >= options.shortestMatch }
    context.reply.map(2)
    context.reply.bulkString("matches")
    context.reply.array(shown.count)
    for match in shown {
      context.reply.array(options.wantsMatchLengths ? 3 : 2)
      for start in [match.left, match.right] {
        context.reply.array(2)
        context.reply.integer(start)
        context.reply.integer(start + match.length - 1)
      }
      if options.wantsMatchLengths { context.reply.integer(match.length) }
    }
    context.reply.bulkString("len")
    context.reply.integer(total)
  }

  /// A run that both strings have: where it begins in each, and how long it is.
  private struct Match {
    var left: Int
    var right: Int
    var length: Int
  }

  /// Walks back from the ends of both strings.
  ///
  /// - Returns: What they have in common, and its runs, the last one first.
  private static func matches(
    _ lengths: CommonLengths, _ left: [UInt8], _ right: [UInt8]
  ) -> (common: [UInt8], [Match]) {
    var common: [UInt8] = []
    var matches: [Match] = []
    var isWithinRun = false
    var (i, j) = (left.count, right.count)
    while i > 0, j > 0 {
      if left[i - 1] == right[j - 1] {
        i -= 1
        j -= 1
        common.append(left[i])
        if isWithinRun {
          matches[matches.count - 1].left = i
          matches[matches.count - 1].right = j
          matches[matches.count - 1].length += 1
        } else {
          matches.append(Match(left: i, right: j, length: 1))
        }
        isWithinRun = true
      } else {
        // Of two equally good ways that which Redis takes.
        if lengths[i - 1, j] > lengths[i, j - 1] { i -= 1 } else { j -= 1 }
        isWithinRun = false
      }
    }
    return (common.reversed(), matches)
  }
}

/// Of all beginnings of two strings the length of what they have in common.
///
/// Invariant: `cells` is a mapping of `rows` times `width` numbers until `free`.
@safe private struct CommonLengths {
  private let cells: UnsafeMutablePointer<UInt32>
  private let rows: Int
  private let width: Int

  static let cellBytes = 4

  /// Nil when there is no memory. O(left × right).
  init?(_ left: [UInt8], _ right: [UInt8]) {
    rows = left.count + 1
    width = right.count + 1
    guard let memory = unsafe MemoryMap.map(rows * width * Self.cellBytes) else { return nil }
    unsafe cells = memory.bindMemory(to: UInt32.self, capacity: rows * width)
    // Its first row and column are zeros, as fresh memory is.
    for i in 1..<rows {
      // SAFETY: both rows lie within the mapping.
      let row = unsafe cells + i * width
      let above = unsafe row - width
      let byte = left[i - 1]
      for j in 1..<width {
        unsafe row[j] = right[j - 1] == byte ? above[j - 1] + 1 : max(above[j], row[j - 1])
      }
    }
  }

  /// Of the first `i` bytes of the one and the first `j` of the other.
  subscript(i: Int, j: Int) -> Int {
    precondition(i >= 0 && i < rows && j >= 0 && j < width, "no such cell")
    return Int(unsafe cells[i * width + j])
  }

  func free() {
    unsafe MemoryMap.unmap(UnsafeMutableRawPointer(cells), rows * width * Self.cellBytes)
  }
}

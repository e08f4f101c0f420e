/// `valiant --check FILE`: reads a snapshot to its end, and says what is in it.
enum SnapshotCheck {
  /// What there is in one database.
  private struct Tally {
    var keys = 0
    var expiring = 0
    /// Those whose time to live is over.
    var expired = 0
    var bytes = 0
  }

  /// - Returns: Lines for people.
  /// - Throws: What is wrong with the file, and where.
  static func run(_ path: String) throws(RDBError) -> String {
    var reader = try RDBReader(path)
    var lines = ["\(path): a snapshot in version \(reader.version) of the format"]
    var tallies: [Int: Tally] = [:]
    var database = 0
    let now = Clock.wallMilliseconds
    while let item = try reader.next() {
      switch item {
      case .auxiliary(let name, let value):
        lines.append(
          "  \(String(decoding: name, as: UTF8.self)): \(String(decoding: value, as: UTF8.self))")
      case .database(let number): database = number
      case .sizes: break
      case .record(let record):
        var tally = tallies[database] ?? Tally()
        tally.keys += 1
        if let deadline = record.deadline {
          tally.expiring += 1
          if deadline <= now { tally.expired += 1 }
        }
        guard let key = record.key.withBytes(\.count), let value = record.value.withBytes(\.count)
        else { throw reader.failure(RDBReader.damaged) }
        tally.bytes += key + value
        tallies[database] = tally
      }
    }
    for (number, tally) in tallies.sorted(by: { $0.key < $1.key }) {
      lines.append(
        "  database \(number): \(tally.keys) keys, \(tally.expiring) with a time to live, which is "
          + "over for \(tally.expired); \(tally.bytes) bytes of keys and values")
    }
    lines.append("  checksum: \(reader.hasChecksum ? "right" : "none")")
    return lines.joined(separator: "\n") + "\n"
  }
}

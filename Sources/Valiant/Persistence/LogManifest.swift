import Glibc

/// Which files an append log consists of, in the words of Redis 7.
///
///     #V1 0123456789abcdef                               a checksum of what follows, of ours
///     file appendonly.aof.2.base.rdb seq 2 type b        all keys at one moment
///     file appendonly.aof.5.incr.aof seq 5 type i        what has become of them since, in order
///     file appendonly.aof.4.incr.aof seq 4 type h        of no use any more
struct LogManifest: Equatable {
  struct File: Equatable {
    var name: String
    var sequence: Int
  }

  var base: File?
  var increments: [File] = []
  /// Files that are to be removed.
  var history: [File] = []

  /// So many files nobody has.
  private static let sequenceMax = Int(Int32.max)
  private static let checksumMark = "#V1 "

  init() {}

  /// - Throws: What is wrong with it, in one sentence.
  init(_ text: String) throws(LogError) {
    var lines = text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
    if lines.last == "" { lines.removeLast() } else { throw LogError("its last line is cut off") }
    if let first = lines.first, first.hasPrefix("#") {
      lines.removeFirst()
      guard first == Self.checksumLine(Self.joined(lines)) else {
        throw LogError("its checksum is wrong: something in it is damaged")
      }
    }
    var names: Set<String> = []
    for (index, line) in lines.enumerated() {
      let words = line.split(separator: " ", omittingEmptySubsequences: false).map(String.init)
      guard words.count == 6, words[0] == "file", words[2] == "seq", words[4] == "type",
        let sequence = Int(words[3]), (1...Self.sequenceMax).contains(sequence), !words[1].isEmpty,
        !words[1].contains("/"),
        names.insert(words[1]).inserted
      else { throw LogError("line \(index + 1) names no file of an append log") }
      let file = File(name: words[1], sequence: sequence)
      switch words[5] {
      case "b" where base == nil: base = file
      case "i" where sequence > increments.last?.sequence ?? 0: increments.append(file)
      case "h": history.append(file)
      default: throw LogError("line \(index + 1) names a file that cannot be where it is")
      }
    }
    if files.isEmpty { throw LogError("it names no files") }
  }

  /// Reads a manifest.
  ///
  /// - Throws: When it cannot be read, or what is wrong with it.
  init(path: String) throws(LogError) {
    var text = ByteBuffer()
    do throws(FileError) {
      let file = try InputFile(path)
      while try file.read(Self.readBytes, into: &text) > 0 {}
    } catch {
      throw LogError(error.description)
    }
    do throws(LogError) {
      try self.init(text.bytes.text)
    } catch {
      throw LogError("\(path): \(error)")
    }
  }

  private static let readBytes = 64 * 1024

  /// Those that count, in the order in which they are read.
  var files: [File] { (base.map { [$0] } ?? []) + increments }

  var text: String {
    var lines = base.map { [Self.line($0, "b")] } ?? []
    lines += history.map { Self.line($0, "h") }
    lines += increments.map { Self.line($0, "i") }
    let body = Self.joined(lines)
    return Self.checksumLine(body) + "\n" + body
  }

  private static func joined(_ lines: [String]) -> String { lines.map { $0 + "\n" }.joined() }

  private static func checksumLine(_ body: String) -> String {
    let sum = Array(body.utf8).withBytes { CRC64.checksum($0) }
    var digits = ByteBuffer()
    digits.append(hexadecimal: sum, digits: 16)
    return checksumMark + digits.bytes.text
  }

  private static func line(_ file: File, _ type: String) -> String {
    "file \(file.name) seq \(file.sequence) type \(type)"
  }
}

/// Why an append log is not read, in one sentence.
struct LogError: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
}

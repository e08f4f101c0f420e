import Glibc

/// The configuration file: a directive and its value on each line.
///
///     # comment
///     port 4200
///     bind 127.0.0.1 ::1
///     requirepass "with blanks"
enum SettingsFile {
  /// The longest file that is read; more is a mistake.
  private static let lengthMaxBytes = 1 << 20
  private static let chunkBytes = 64 << 10

  /// Reads the file at `path` into `settings`.
  ///
  /// - Throws: One sentence with the file and line.
  static func read(_ path: String, into settings: inout Settings) throws(StartError) {
    let text = try contents(of: path)
    var number = 0
    var repeated: Set<String> = []
    for line in lines(of: text) {
      number += 1
      do throws(SettingError) {
        try read(line: line, into: &settings, &repeated)
      } catch {
        throw StartError("\(path):\(number): \(error)")
      }
    }
  }

  /// Lines of a text, without their ends. A carriage return in front of a line end is part of that.
  private static func lines(of text: String) -> [Substring] {
    text.split(omittingEmptySubsequences: false) { $0 == "\n" || $0 == "\r\n" }
  }

  /// Reads one line, which may be blank or a comment.
  static func read(line: Substring, into settings: inout Settings) throws(SettingError) {
    var none: Set<String> = []
    try read(line: line, into: &settings, &none)
  }

  /// - Parameter repeated: Names of settings whose lines add up, and that have had one.
  private static func read(
    line: Substring, into settings: inout Settings, _ repeated: inout Set<String>
  ) throws(SettingError) {
    guard let words = split(line) else { throw SettingError("unbalanced quotes") }
    guard let name = words.first, !name.hasPrefix("#") else { return }
    guard let setting = Setting.named(name) else {
      throw SettingError("unknown directive '\(name)'")
    }
    guard words.count > 1 else { throw SettingError("'\(setting.name)' needs a value") }
    var value = words.dropFirst().joined(separator: " ")
    if setting.addsUp, !repeated.insert(setting.name).inserted, !value.isEmpty {
      value = "\(setting.text(in: settings)) \(value)"
    }
    do throws(SettingError) {
      try setting.read(value, into: &settings)
    } catch {
      throw SettingError("\(setting.name) '\(setting.isSecret ? "…" : value)': \(error)")
    }
  }

  /// Words of a line; those in quotes may hold blanks. Nil when a quote is not closed.
  private static func split(_ line: Substring) -> [String]? {
    var words: [String] = []
    var word: [Character] = []
    var quote: Character?
    var isWord = false
    for character in line {
      if let open = quote {
        if character == open { quote = nil } else { word.append(character) }
      } else if character == "\"" || character == "'" {
        quote = character
        isWord = true
      } else if character.isWhitespace {
        if isWord { words.append(String(word)) }
        word = []
        isWord = false
      } else {
        word.append(character)
        isWord = true
      }
    }
    if quote != nil {
      // A comment may hold an apostrophe.
      return line.drop { $0.isWhitespace }.hasPrefix("#") ? [] : nil
    }
    if isWord { words.append(String(word)) }
    return words
  }

  // MARK: Writing

  private static let mark = "# Written by CONFIG REWRITE."

  /// A line that gives a setting a value.
  ///
  /// - Parameter base: Any settings.
  /// - Throws: When no line can say that.
  static func line(
    _ setting: Setting, _ value: String, in base: Settings
  ) throws(StartError) -> String {
    let isPlain = !value.isEmpty && !value.contains { $0 == "\"" || $0 == "'" }
    // Words stay words: in quotes there can be all but these quotes themselves.
    let quoted = value.split(separator: "\"", omittingEmptySubsequences: false)
      .map { "\"\($0)\"" }.joined(separator: "'\"'")
    let line = "\(setting.name) \(isPlain && !setting.isSecret ? value : quoted)"
    var read = base
    guard lines(of: line).count == 1, (try? Self.read(line: line[...], into: &read)) != nil,
      setting.written(in: read) == value
    else { throw StartError("no line can give \(setting.name) its value") }
    return line
  }

  /// `text` with new values of settings: a setting's first line is replaced, further ones go, and what
  /// has none is put behind all. Everything else stays.
  static func text(_ text: String, with new: [(setting: Setting, line: String)]) -> String {
    if new.isEmpty { return text }
    var result: [String] = []
    var written: Set<String> = []
    for line in lines(of: text) {
      let name = split(line)?.first?.lowercased()
      guard let found = new.first(where: { $0.setting.name == name }) else {
        result.append(String(line))
        continue
      }
      if written.insert(found.setting.name).inserted { result.append(found.line) }
    }
    let added = new.filter { !written.contains($0.setting.name) }.map(\.line)
    if !added.isEmpty {
      if result.last == "" { result.removeLast() }
      if !result.contains(mark) { result += ["", mark] }
      result += added + [""]
    }
    return result.joined(separator: "\n")
  }

  /// The whole text of a file.
  static func contents(of path: String) throws(StartError) -> String {
    var buffer = ByteBuffer()
    do throws(FileError) {
      let file = try InputFile(path)
      while buffer.count <= lengthMaxBytes, try file.read(chunkBytes, into: &buffer) > 0 {}
    } catch {
      throw StartError(error.description)
    }
    if buffer.count > lengthMaxBytes { throw StartError("\(path): longer than 1 MiB") }
    return buffer.bytes.text
  }
}

/// Why the server does not start, in one sentence.
struct StartError: Error, CustomStringConvertible {
  let description: String

  init(_ description: String) {
    self.description = description
  }
}

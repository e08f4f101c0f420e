import Foundation
import Testing

/// The project's root, seen from this file.
let root = URL(fileURLWithPath: #filePath)
  .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
  .deletingLastPathComponent()

/// Swift sources below `folder`, by path from the root.
func sources(_ folder: String) -> [(path: String, text: String)] {
  let start = root.appendingPathComponent(folder)
  let paths = FileManager.default.enumerator(atPath: start.path)?.compactMap { $0 as? String } ?? []
  return paths.sorted().filter { $0.hasSuffix(".swift") }.compactMap { path in
    guard let text = try? String(contentsOf: start.appendingPathComponent(path), encoding: .utf8)
    else { return nil }
    return (folder + "/" + path, text)
  }
}

@Suite("Habits") struct LayeringTests {
  /// Folders from the bottom up; those in one row do not know each other.
  private static let layers = [
    ["Support"], ["Protocol", "Network", "Storage"], ["Persistence"], ["Settings"], ["Server"],
    ["Commands"],
  ]

  @Test("a folder names only types of folders below it") func layering() throws {
    let files = sources("Sources/Valiant")
    #expect(files.count > 20)
    func layer(_ path: String) -> (row: Int, folder: String)? {
      let parts = path.split(separator: "/").map(String.init)
      guard parts.count == 4, let row = Self.layers.firstIndex(where: { $0.contains(parts[2]) })
      else { return nil }
      return (row, parts[2])
    }
    // Top-level types, and who declares them.
    let declaration = try Regex(
      #"^(?:@safe |public |final |indirect |@unchecked )*(?:struct|class|enum|protocol|actor|typealias) ([A-Z]\w*)"#
    )
    .anchorsMatchLineEndings()
    var owner: [String: (row: Int, folder: String)] = [:]
    for (path, text) in files {
      guard let layer = layer(path) else { continue }
      for match in text.matches(of: declaration) {
        if let name = match.output[1].substring { owner[String(name)] = layer }
      }
    }
    #expect(owner.count > 40)
    var violations: [String] = []
    for (path, text) in files {
      guard let here = layer(path) else { continue }
      for (number, line) in text.split(separator: "\n", omittingEmptySubsequences: false)
        .enumerated()
      {
        let code = line.prefix { $0 != "\"" }.split(
          separator: "//", omittingEmptySubsequences: false)[0]
        for word in code.split(whereSeparator: {
          !$0.isLetter && !$0.isNumber && $0 != "_" && $0 != "."
        }) {
          // A nested type belongs to its outer one.
          guard let name = word.split(separator: ".").first.map(String.init),
            let there = owner[name]
          else { continue }
          let isAbove = there.row > here.row
          let isBeside = there.row == here.row && there.folder != here.folder
          if isAbove || isBeside {
            violations.append("\(path):\(number + 1) names \(name) of \(there.folder)")
          }
        }
      }
    }
    #expect(violations == [])
  }

  @Test("only Network and two files of Support import the C module") func importers() {
    for (path, text) in sources("Sources/Valiant") where text.contains("import CLibUV") {
      let isAllowed =
        path.contains("/Network/") || path.hasSuffix("/Support/Processor.swift")
        || path.hasSuffix("/Support/MemoryMap.swift")
      #expect(isAllowed, "\(path)")
    }
  }

  @Test("the product imports no Foundation") func noFoundation() {
    for (path, text) in sources("Sources") {
      #expect(!text.contains("import Foundation"), "\(path)")
    }
  }

  @Test("file names are unique, lines are not too long") func names() {
    let files = sources("Sources/Valiant")
    let names = files.map { $0.path.split(separator: "/").last.map(String.init) ?? "" }
    #expect(Set(names).count == names.count)
  }

  @Test("no force-unwrapping and no try!") func noForce() throws {
    let force = try Regex(#"try!|\w!\.|\w!\)|\w! *$"#).anchorsMatchLineEndings()
    for (path, text) in sources("Sources") {
      for line in text.split(separator: "\n") where !line.contains("//") && !line.contains("\"") {
        #expect(line.firstMatch(of: force) == nil, "\(path): \(line)")
      }
    }
  }

  @Test("@unchecked Sendable says why it is safe") func uncheckedSendable() {
    for (path, text) in sources("Sources") where text.contains(": @unchecked Sendable") {
      #expect(text.contains("SAFETY of @unchecked Sendable"), "\(path)")
    }
  }
}

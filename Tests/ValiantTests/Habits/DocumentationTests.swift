import Foundation
import Testing

@testable import Valiant

@Suite("Documentation") struct DocumentationTests {
  private func readme() throws -> String {
    try String(contentsOf: root.appendingPathComponent("README.md"), encoding: .utf8)
  }

  @Test("the README's tables are those of the rows") func tables() throws {
    let readme = try readme()
    #expect(
      readme.contains(CommandDocs.table), "refresh it with: valiant --print commands")
    #expect(
      readme.contains(Manual.settingsTable), "refresh it with: valiant --print settings")
  }

  @Test("every command says what it does, and its arity fits its syntax") func commands() {
    for index in 0..<CommandTable.shared.count {
      let command = CommandTable.shared[index]
      #expect(command.summary.hasSuffix("."), "\(command.name)")
      #expect(!command.complexity.isEmpty)
      let arguments = CommandSyntax.parse(command.syntax, nameWords: command.nameWords)
      let isOpen = arguments.contains { $0.isOptional || $0.isMultiple }
      if !command.name.hasSuffix("help"), command.subcommands.isEmpty, command.name != "quit",
        command.name != "client|kill"
      {
        #expect(isOpen == (command.arity < 0), "\(command.name)")
      }
      #expect(command.index == index)
    }
  }

  @Test("the version is that of debian/changelog") func version() throws {
    let changelog = try String(
      contentsOf: root.appendingPathComponent("debian/changelog"), encoding: .utf8)
    #expect(
      changelog.hasPrefix("valiant (\(Version.valiant)-"), "take it over with: make version")
  }

  @Test("manual pages and completion know every setting") func manual() throws {
    let program = try #require(Manual.text("valiant.1"))
    let file = try #require(Manual.text("valiant.conf.5"))
    let completion = try #require(Manual.text("bash-completion"))
    for setting in Setting.all {
      let name = setting.name.split(separator: "-").joined(separator: "\\-")
      #expect(program.contains("\\fB\\-\\-\(name)\\fR"), "\(name)")
      #expect(file.contains("\\fB\(name)\\fR"), "\(name)")
      #expect(completion.contains("--\(setting.name) "), "\(name)")
    }
    // Dashes that a reader would copy must not become typographic ones.
    for page in [program, file] {
      for line in page.split(separator: "\n") where line.hasPrefix("\\fB") {
        #expect(!line.replacing("\\-", with: "").contains("--"), "\(line)")
      }
    }
    for name in Manual.names where name != "commands" { #expect(Manual.text(name) != nil) }
    #expect(Manual.text("nonsense") == nil)
  }

  @Test("every setting says what it does") func settings() {
    for setting in Setting.all { #expect(setting.summary.hasSuffix("."), "\(setting.name)") }
  }
}

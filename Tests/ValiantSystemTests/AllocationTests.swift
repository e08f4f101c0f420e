import Foundation
import TestSupport
import Testing

/// The real program, with functions of our own in front of the C library's: they are built with the
/// toolchain's clang and preloaded.
///
/// `count.c` counts calls of malloc, calloc, realloc and the like in a file that the test maps;
/// `noremap.c` refuses to move mappings.
@Suite("Allocations", .serialized) struct AllocationTests {
  @Test(
    "a GET or SET of an existing small key allocates nothing",
    .enabled(if: RunningServer.isBuilt, "needs .build/release/valiant: make build")) func hotPath()
    throws
  {
    let folder = try temporaryFolder()
    defer { try? FileManager.default.removeItem(at: folder) }
    let library = try library("count", in: folder)
    let counter = folder.appendingPathComponent("count").path
    try Data(count: 8).write(to: URL(fileURLWithPath: counter))

    let server = try RunningServer(
      ["--threads", "1"],
      environment: ["LD_PRELOAD": library, "ALLOCATION_COUNT_FILE": counter])
    defer { server.end() }
    let client = try BlockingClient(port: server.port)
    defer { client.end() }
    func allocations() throws -> Int {
      let data = try Data(contentsOf: URL(fileURLWithPath: counter))
      return data.enumerated().reduce(0) { $0 | Int($1.element) << ($1.offset * 8) }
    }
    func exchange(_ request: String, _ reply: String, times: Int) throws {
      for _ in 0..<times {
        client.write(request)
        let received = client.read(atLeast: reply.utf8.count)
        guard received == reply else { throw ServerProblem("unexpected: \(received)") }
      }
    }
    let set = "*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\nvalue\r\n"
    let get = "*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n"
    let request = set + get + get + set
    let reply = "+OK\r\n$5\r\nvalue\r\n$5\r\nvalue\r\n+OK\r\n"
    try exchange(request, reply, times: 10)
    let before = try allocations()
    #expect(before > 0, "the counter counts")
    let rounds = 5000
    let start = Date()
    try exchange(request, reply, times: rounds)
    let during = try allocations() - before
    // A timer turns ten times a second and may allocate; 20,000 commands do not.
    let ticks = Int(Date().timeIntervalSince(start) * 10) + 2
    #expect(during <= ticks * 20, "\(during) allocations for \(rounds * 4) commands")

    // The check can fail: values of more than a page of the pool have to be allocated.
    let beforeGrowth = try allocations()
    for length in stride(from: 100_000, to: 300_000, by: 1000) {
      let value = String(repeating: "x", count: length)
      try exchange(
        "*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$\(length)\r\n\(value)\r\n", "+OK\r\n", times: 1)
    }
    #expect(try allocations() - beforeGrowth >= 100)
  }

  @Test(
    "memory grows when the system moves no mapping",
    .enabled(if: RunningServer.isBuilt, "needs .build/release/valiant: make build")) func unmoved()
    throws
  {
    let folder = try temporaryFolder()
    defer { try? FileManager.default.removeItem(at: folder) }
    let library = try library("noremap", in: folder)
    let server = try RunningServer(["--threads", "1"], environment: ["LD_PRELOAD": library])
    defer { server.end() }
    let client = try BlockingClient(port: server.port)
    defer { client.end() }
    // Input that grows while it arrives, and a reply of many short values.
    let value = String((0..<3_000_000).map { Character(UnicodeScalar(UInt8(97 + $0 / 1000 % 26))) })
    client.write("*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$3000000\r\n\(value)\r\n")
    #expect(client.read(atLeast: 5) == "+OK\r\n")
    client.write("*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n")
    #expect(client.read(atLeast: 3_000_012) == "$3000000\r\n\(value)\r\n")
    let short = String(repeating: "s", count: 10_000)
    client.write("*3\r\n$3\r\nSET\r\n$1\r\ns\r\n$10000\r\n\(short)\r\n")
    #expect(client.read(atLeast: 5) == "+OK\r\n")
    client.write("*101\r\n$4\r\nMGET\r\n" + String(repeating: "$1\r\ns\r\n", count: 100))
    let all = "*100\r\n" + String(repeating: "$10000\r\n\(short)\r\n", count: 100)
    #expect(client.read(atLeast: all.utf8.count) == all)
  }

  private func temporaryFolder() throws -> URL {
    let folder = URL(fileURLWithPath: NSTemporaryDirectory())
      .appendingPathComponent("valiant-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    return folder
  }

  /// Builds the C file of that name, which lies beside this one, into a library that can be preloaded.
  private func library(_ name: String, in folder: URL) throws -> String {
    let library = folder.appendingPathComponent("\(name).so").path
    let source = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
      .appendingPathComponent("\(name).c").path
    try run(["clang", "-shared", "-fPIC", "-O1", "-o", library, source])
    return library
  }
}

struct ServerProblem: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
}

/// Runs a program to its end.
func run(_ words: [String]) throws {
  let process = Process()
  process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
  process.arguments = words
  try process.run()
  process.waitUntilExit()
  guard process.terminationStatus == 0 else {
    throw ServerProblem("\(words.joined(separator: " ")): status \(process.terminationStatus)")
  }
}

/// The built program, listening on a port of its own choice.
final class RunningServer {
  /// The release build: a debug one allocates where the optimiser would not.
  static let program = URL(fileURLWithPath: #filePath)
    .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
    .appendingPathComponent(".build/release/valiant")

  static var isBuilt: Bool { FileManager.default.isExecutableFile(atPath: program.path) }

  private let process = Process()
  let port: Int

  init(_ arguments: [String], environment: [String: String] = [:]) throws {
    process.executableURL = Self.program
    process.arguments = ["--port", "0", "--bind", "127.0.0.1", "--save", ""] + arguments
    process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
    let pipe = Pipe()
    process.standardError = pipe
    try process.run()
    var text = ""
    while !text.contains("\n") {
      let data = pipe.fileHandleForReading.availableData
      if data.isEmpty { break }
      text += String(decoding: data, as: UTF8.self)
    }
    guard let ready = text.range(of: "127.0.0.1:"),
      let number = Int(text[ready.upperBound...].prefix { $0.isNumber })
    else {
      process.terminate()
      throw ServerProblem("the server did not start: \(text)")
    }
    port = number
  }

  func end() {
    process.terminate()
    process.waitUntilExit()
  }
}

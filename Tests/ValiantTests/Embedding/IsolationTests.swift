import Foundation
import Synchronization
import TestSupport
import Testing
import Valiant

/// What clients on several threads see of each other's commands: all of one, or nothing.
@Suite("Isolation", .serialized) final class IsolationTests {
  let server: Server

  init() throws {
    server = try Server.started(threads: 4)
  }

  deinit { server.stop() }

  /// Runs `body` on `count` threads, each with a client of its own, and waits for all.
  private func onThreads(
    _ count: Int, _ body: @escaping @Sendable (Int, BlockingClient) -> Void
  ) throws {
    let clients = try (0..<count).map { _ in try BlockingClient(port: server.port ?? 0) }
    let group = DispatchGroup()
    for (number, client) in clients.enumerated() {
      group.enter()
      Thread.detachNewThread {
        body(number, client)
        group.leave()
      }
    }
    // Who waits in a circle waits for ever; with a sanitizer, other tests and two slow processors
    // the longest of these takes a minute.
    #expect(group.wait(timeout: .now() + 300) == .success, "a command never came to its end")
    for client in clients { client.end() }
  }

  @Test("transfers between accounts keep the sum") func transfers() throws {
    let (accounts, balance) = (5, 1000)
    for account in 0..<accounts { server.store.set("account \(account)", to: "\(balance)") }
    let done = Atomic<Int>(0)
    let refused = Atomic<Int>(0)
    let wrongSums = Atomic<Int>(0)
    try onThreads(16) { number, client in
      var random = SystemRandomNumberGenerator()
      for _ in 0..<150 {
        let from = Int.random(in: 0..<accounts, using: &random)
        let to = (from + Int.random(in: 1..<accounts, using: &random)) % accounts
        let keys = "\"account \(from)\" \"account \(to)\""
        // Every other client works out the balances itself, the others have the server count.
        if number % 2 == 0 {
          _ = client.ask("WATCH \(keys)")
          let lines = client.ask("MGET \(keys)").components(separatedBy: "\r\n")
          guard lines.count > 4,
            let (a, b) = Int(lines[2]).flatMap({ a in Int(lines[4]).map { (a, $0) } })
          else { continue }
          let reply = Self.transaction(
            client, ["SET \"account \(from)\" \(a - 1)", "SET \"account \(to)\" \(b + 1)"])
          if reply == "*-1\r\n" {
            refused.add(1, ordering: .relaxed)
          } else {
            done.add(1, ordering: .relaxed)
          }
        } else {
          _ = Self.transaction(
            client, ["DECR \"account \(from)\"", "INCR \"account \(to)\""])
          done.add(1, ordering: .relaxed)
        }
        let all = (0..<accounts).map { "\"account \($0)\"" }.joined(separator: " ")
        let sum = client.ask("MGET \(all)").components(separatedBy: "\r\n").enumerated()
          .filter { $0.offset >= 2 && $0.offset % 2 == 0 }.compactMap { Int($0.element) }
          .reduce(0, +)
        if sum != accounts * balance { wrongSums.add(1, ordering: .relaxed) }
      }
    }
    #expect(wrongSums.load(ordering: .relaxed) == 0)
    #expect(done.load(ordering: .relaxed) > 1200)
    // Else nobody came into anybody's way, and nothing was shown.
    #expect(refused.load(ordering: .relaxed) > 0)
  }

  /// The reply to EXEC, behind those of what was queued.
  private static func transaction(_ client: BlockingClient, _ commands: [String]) -> String {
    client.write("MULTI\r\n" + commands.joined(separator: "\r\n") + "\r\nEXEC\r\n")
    // A line end is one character of two bytes.
    let reply = client.read(atLeast: 5 + 9 * commands.count + 5)
    return String(reply.dropFirst(4 + 8 * commands.count))
  }

  @Test("scripts on all threads keep the sum, and one that has no end is ended") func scripts()
    throws
  {
    let accounts = 5
    for account in 0..<accounts { server.store.set("account \(account)", to: "1000") }
    let script =
      "local from, to = redis.call('DECR', KEYS[1]), redis.call('INCR', KEYS[2]) local sum = 0 "
      + "for i = 0, 4 do sum = sum + redis.call('GET', 'account ' .. i) end return sum"
    let wrong = Atomic<Int>(0)
    try onThreads(8) { number, client in
      for round in 0..<300 {
        let (from, to) = ((number + round) % accounts, (number + 3 * round + 1) % accounts)
        // Half of them are no scripts, which run one at a time anyway.
        if number % 2 == 0 {
          _ = Self.transaction(client, ["DECR \"account \(from)\"", "INCR \"account \(to)\""])
          continue
        }
        let reply = client.ask(
          "EVAL \"\(script)\" 2 \"account \(from)\" \"account \(to)\"")
        if reply != ":5000\r\n" { wrong.add(1, ordering: .relaxed) }
      }
    }
    #expect(wrong.load(ordering: .relaxed) == 0)
    // Of several clients some are not of the loop that runs it, and may end it.
    let isOver = Atomic<Bool>(false)
    let killed = Atomic<Int>(0)
    try onThreads(9) { number, client in
      if number == 0 {
        let reply = client.ask("EVAL \"while true do end\" 0")
        if reply.hasPrefix("-ERR Script killed") { killed.add(1, ordering: .relaxed) }
        isOver.store(true, ordering: .relaxed)
      } else {
        while !isOver.load(ordering: .relaxed) {
          _ = client.ask("SCRIPT KILL")
          usleep(500)
        }
      }
    }
    #expect(killed.load(ordering: .relaxed) == 1)
  }

  @Test("MGET never sees half of an MSET") func manyKeys() throws {
    let keys = (0..<20).map { "many \($0)" }
    let mixed = Atomic<Int>(0)
    try onThreads(8) { number, client in
      for round in 0..<200 {
        // Half of them in the opposite order.
        let order = number % 2 == 0 ? keys : keys.reversed()
        if number < 4 {
          _ = client.ask(
            "MSET " + order.map { "\"\($0)\" \(number)-\(round)" }.joined(separator: " "))
        } else {
          let reply = client.ask("MGET " + order.map { "\"\($0)\"" }.joined(separator: " "))
          let values = Set(
            reply.components(separatedBy: "\r\n").filter { $0.contains("-") || $0 == "$-1" })
          if values.count > 1 { mixed.add(1, ordering: .relaxed) }
        }
      }
    }
    #expect(mixed.load(ordering: .relaxed) == 0)
  }

  @Test("a key that is renamed is never there twice, and never missing") func rename() throws {
    server.store.set("name 0", to: "value")
    let wrong = Atomic<Int>(0)
    let renamed = Atomic<Int>(0)
    try onThreads(8) { number, client in
      for round in 0..<300 {
        if number < 4 {
          let (from, to) = ((number + round) % 6, (number + round + 1) % 6)
          let reply = client.ask("RENAME \"name \(from)\" \"name \(to)\"")
          if reply == "+OK\r\n" { renamed.add(1, ordering: .relaxed) }
        } else {
          let reply = client.ask(
            "EXISTS " + (0..<6).map { "\"name \($0)\"" }.joined(separator: " "))
          if reply != ":1\r\n" { wrong.add(1, ordering: .relaxed) }
        }
      }
    }
    #expect(wrong.load(ordering: .relaxed) == 0)
    #expect(renamed.load(ordering: .relaxed) > 10)
  }

  @Test("commands on the same keys in opposite orders come to their ends") func oppositeOrders()
    throws
  {
    let keys = (0..<40).map { "\"key \($0)\"" }
    try onThreads(8) { number, client in
      var random = SystemRandomNumberGenerator()
      for round in 0..<200 {
        let some = keys.shuffled(using: &random).prefix(6).joined(separator: " ")
        let first = keys.randomElement(using: &random) ?? ""
        let second = keys.randomElement(using: &random) ?? ""
        switch (number + round) % 7 {
        case 0: _ = client.ask("DEL \(some)")
        case 1: _ = client.ask("MSET \(first) 1 \(second) 2")
        case 2: _ = client.ask("COPY \(first) \(second) REPLACE")
        case 3: _ = client.ask("BITOP OR \(some)")
        case 4: _ = client.ask(round % 10 == 0 ? "FLUSHALL" : "RENAME \(first) \(second)")
        case 5:
          _ = client.ask("WATCH \(some)")
          _ = Self.transaction(client, ["INCR \(first)", "DBSIZE", "APPEND \(second) x"])
        default: _ = client.ask("SWAPDB \(round % 3) \(number % 3)")
        }
      }
    }
    #expect(server.store.count() >= 0)
  }

  @Test("SCAN returns every key that is there throughout, whatever others do") func scan() throws {
    for number in 0..<5000 { server.store.set("stays \(number)", to: "") }
    let missing = Atomic<Int>(0)
    let isOver = Atomic<Bool>(false)
    try onThreads(6) { number, client in
      if number >= 2 {
        // Others make tables grow and shrink meanwhile.
        var round = 0
        while !isOver.load(ordering: .relaxed) {
          round += 1
          let keys = (0..<100).map { "\"passes \(number) \(round % 100 * 100 + $0)\"" }
          let isSet = round / 100 % 2 == 0
          _ = client.ask(
            isSet
              ? "MSET " + keys.map { $0 + " 1" }.joined(separator: " ")
              : "DEL " + keys.joined(separator: " "))
        }
        return
      }
      for _ in 0..<3 {
        var seen: Set<Substring> = []
        var cursor = "0"
        repeat {
          client.write("SCAN \(cursor) COUNT 50 MATCH stays*\r\nPING\r\n")
          var page = ""
          while !page.hasSuffix("+PONG\r\n") {
            let more = client.read()
            if more.isEmpty { break }
            page += more
          }
          let lines = page.split(separator: "\r\n")
          cursor = lines.count > 2 ? String(lines[2]) : "0"
          for line in lines where line.hasPrefix("stays") { seen.insert(line) }
        } while cursor != "0"
        if seen.count != 5000 { missing.add(1, ordering: .relaxed) }
      }
      if number == 0 { isOver.store(true, ordering: .relaxed) }
    }
    #expect(missing.load(ordering: .relaxed) == 0)
  }
}

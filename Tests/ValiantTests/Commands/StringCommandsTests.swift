import Foundation
import Testing

@testable import Valiant

@Suite("GET and SET") struct StringCommandsTests {
  let server = TestServer()

  @Test("store and return a value") func basics() {
    #expect(server.send("GET k") == "$-1\r\n")
    #expect(server.send("SET k hello") == "+OK\r\n")
    #expect(server.send("GET k") == "$5\r\nhello\r\n")
    #expect(server.send("set k 12") == "+OK\r\n")
    #expect(server.send("gEt k") == "$2\r\n12\r\n")
  }

  @Test("refuse a wrong number of arguments") func arity() {
    #expect(server.send("GET") == "-ERR wrong number of arguments for 'get' command\r\n")
    #expect(server.send("GET a b") == "-ERR wrong number of arguments for 'get' command\r\n")
    #expect(server.send("SET a") == "-ERR wrong number of arguments for 'set' command\r\n")
  }

  @Test("answer nulls as the protocol has them") func nulls() {
    _ = server.send("HELLO 3")
    #expect(server.send("GET none") == "_\r\n")
    #expect(server.send("SET none v XX") == "_\r\n")
  }

  @Test("SET NX and XX") func conditions() {
    #expect(server.send("SET k 1 XX") == "$-1\r\n")
    #expect(server.send("SET k 1 NX") == "+OK\r\n")
    #expect(server.send("SET k 2 NX") == "$-1\r\n")
    #expect(server.send("SET k 3 xx") == "+OK\r\n")
    #expect(server.send("GET k") == "$1\r\n3\r\n")
  }

  @Test("SET GET returns the old value") func setGet() {
    #expect(server.send("SET k a GET") == "$-1\r\n")
    #expect(server.send("SET k b GET") == "$1\r\na\r\n")
    #expect(server.send("SET k c NX GET") == "$1\r\nb\r\n")
    #expect(server.send("GET k") == "$1\r\nb\r\n")
    #expect(server.send("SET other c XX GET") == "$-1\r\n")
    #expect(server.send("EXISTS other") == ":0\r\n")
    #expect(server.send("SET new c NX GET") == "$-1\r\n")
    #expect(server.send("GET new") == "$1\r\nc\r\n")
  }

  @Test("SET with a time to live") func expiry() {
    #expect(server.send("SET k v EX 100") == "+OK\r\n")
    #expect(server.send("TTL k") == ":100\r\n")
    #expect(server.send("SET k v PX 50000") == "+OK\r\n")
    #expect(server.send("TTL k") == ":50\r\n")
    let now = Int(Date().timeIntervalSince1970)
    #expect(server.send("SET k v EXAT \(now + 100)") == "+OK\r\n")
    #expect([":100\r\n", ":99\r\n"].contains(server.send("TTL k")))
    #expect(server.send("SET k v PXAT \((now + 100) * 1000)") == "+OK\r\n")
    #expect([":100\r\n", ":99\r\n"].contains(server.send("TTL k")))
    // Which of two counts, as in Redis.
    #expect(server.send("SET k v EX 5 EX 100") == "+OK\r\n")
    #expect(server.send("TTL k") == ":100\r\n")
    #expect(server.send("SET k w KEEPTTL") == "+OK\r\n")
    #expect([":100\r\n", ":99\r\n"].contains(server.send("TTL k")))
    #expect(server.send("SET k w") == "+OK\r\n")
    #expect(server.send("TTL k") == ":-1\r\n")
  }

  @Test("an expired key is gone") func expired() {
    #expect(server.send("SET k v PX 1000") == "+OK\r\n")
    #expect(server.send("GET k") == "$1\r\nv\r\n")
    Thread.sleep(forTimeInterval: 1.01)
    #expect(server.send("GET k") == "$-1\r\n")
    #expect(server.send("PTTL k") == ":-2\r\n")
    #expect(server.send("SET k v NX") == "+OK\r\n")
    #expect(server.send("SET past v EXAT 1") == "+OK\r\n")
    #expect(server.send("EXISTS past") == ":0\r\n")
  }

  @Test("expired keys are collected without being asked for") func sweep() {
    for number in 0..<500 { _ = server.send("SET k\(number) v PX 10") }
    // Within a second of the due time, of which what other tests take of the processors is no part.
    Thread.sleep(forTimeInterval: 0.01)
    var seconds = 0.0
    while server.server.store.count() > 0, seconds < 1 {
      let start = Self.threadSeconds
      server.turn(20)
      seconds += Self.threadSeconds - start
    }
    #expect(server.send("DBSIZE") == ":0\r\n")
    #expect(server.send("INFO stats").contains("expired_keys:500\r\n"))
  }

  /// Seconds that this thread has had of a processor.
  private static var threadSeconds: Double {
    var time = timespec()
    unsafe clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
  }

  @Test(
    "SET refuses options that do not go together",
    arguments: [
      "NX XX", "EX 1 PX 1", "EX 1 KEEPTTL", "KEEPTTL EX 1", "EX", "PXAT", "BOGUS", "EX 1 EXAT 2",
      "NX GET bogus",
    ]) func syntax(_ options: String)
  {
    #expect(server.send("SET k v \(options)") == "-ERR syntax error\r\n")
    #expect(server.send("EXISTS k") == ":0\r\n")
  }

  @Test("SET refuses times that are none") func badTimes() {
    let notAnInteger = "-ERR value is not an integer or out of range\r\n"
    let invalid = "-ERR invalid expire time in 'set' command\r\n"
    for value in ["x", "1.5", "+1", "01", "9223372036854775808"] {
      #expect(server.send("SET k v EX \(value)") == notAnInteger)
    }
    for options in [
      "EX 0", "EX -1", "PX 0", "EXAT 0", "PXAT -1", "EX 9223372036854775807",
      "PX 9223372036854775807", "EXAT 9223372036854775807",
    ] {
      #expect(server.send("SET k v \(options)") == invalid)
    }
  }
}

// What redis-server 7.0 has as well is compared with it, reply for reply: Tests/differential.
@Suite("String commands") struct StringCommandsOfValiantTests {
  let server = TestServer()

  @Test("SET IFEQ sets what has not changed meanwhile") func setIfEqual() {
    #expect(server.send("SET k new IFEQ old") == "$-1\r\n")
    #expect(server.send("EXISTS k") == ":0\r\n")
    _ = server.send("SET k old")
    #expect(server.send("SET k new IFEQ other") == "$-1\r\n")
    #expect(server.send("SET k new IFEQ other GET") == "$3\r\nold\r\n")
    #expect(server.send("GET k") == "$3\r\nold\r\n")
    #expect(server.send("SET k 12 IFEQ old GET") == "$3\r\nold\r\n")
    #expect(server.send("SET k 13 ifeq 012") == "$-1\r\n")
    #expect(server.send("SET k 13 EX 100 ifeq 12") == "+OK\r\n")
    #expect(server.send("TTL k") == ":100\r\n")
    for options in ["IFEQ", "IFEQ 1 NX", "XX IFEQ 1", "IFEQ 1 IFEQ 1"] {
      #expect(server.send("SET k v \(options)") == "-ERR syntax error\r\n")
    }
  }

  @Test("DELIFEQ deletes what has not changed meanwhile") func deleteIfEqual() {
    #expect(server.send("DELIFEQ k v") == ":0\r\n")
    _ = server.send("SET k v")
    #expect(server.send("DELIFEQ k w") == ":0\r\n")
    #expect(server.send("DELIFEQ k v") == ":1\r\n")
    _ = server.send("SET k 7")
    #expect(server.send("DELIFEQ k 07") == ":0\r\n")
    #expect(server.send("DELIFEQ k 7") == ":1\r\n")
    #expect(server.send("EXISTS k") == ":0\r\n")
  }

  @Test("GETEX with a time that is over returns the value once more") func getExpired() {
    _ = server.send("SET k v")
    #expect(server.send("GETEX k PXAT 1") == "$1\r\nv\r\n")
    #expect(server.send("EXISTS k") == ":0\r\n")
  }

  @Test("deadlines that are given as times of day are shown as they were given") func timeOfDay() {
    _ = server.send("SET k v")
    let now = Int(Date().timeIntervalSince1970 * 1000)
    for moment in [now + 100_000, now + 100_001, 253_402_300_799_999] {
      #expect(server.send("PEXPIREAT k \(moment)") == ":1\r\n")
      #expect(server.send("PEXPIRETIME k") == ":\(moment)\r\n")
      #expect(server.send("EXPIRETIME k") == ":\((moment + 500) / 1000)\r\n")
    }
  }

  @Test("long values keep their place while their time to live changes") func longValue() {
    let value = String(repeating: "x", count: 100_000)
    _ = server.send("SET k \(value)")
    #expect(server.send("EXPIRE k 100") == ":1\r\n")
    #expect(server.send("EXPIRE k 200 GT") == ":1\r\n")
    #expect(server.send("TTL k") == ":200\r\n")
    #expect(server.send("PERSIST k") == ":1\r\n")
    #expect(server.send("GETRANGE k 99998 -1") == "$2\r\nxx\r\n")
    #expect(server.send("GETDEL k") == "$100000\r\n\(value)\r\n")
  }
}

@Suite("Key commands") struct KeyCommandsTests {
  let server = TestServer()

  /// What DUMP says of `x`.
  private static let payload =
    Array(
      "\u{0}\u{1}x".utf8) + [0x0a, 0x00]

  private func restore(_ key: String, _ options: String...) {
    var payload = Self.payload
    let checksum = payload.withBytes { CRC64.checksum($0) }
    for index in 0..<8 { payload.append(UInt8(truncatingIfNeeded: checksum >> UInt64(8 * index))) }
    let words =
      ["RESTORE", key, "0"].map { Array($0.utf8) } + [payload] + options.map { Array($0.utf8) }
    var request = Array("*\(words.count)\r\n".utf8)
    for word in words { request += Array("$\(word.count)\r\n".utf8) + word + Array("\r\n".utf8) }
    let client = server.connect()
    #expect(client.exchange(request) == "+OK\r\n")
  }

  @Test("a key takes with it how often it was used") func usesMove() {
    _ = server.send("CONFIG SET maxmemory-policy allkeys-lfu")
    for move in ["RENAME q z", "RENAMENX q z"] {
      restore("q", "FREQ", "77", "REPLACE")
      _ = server.send("DEL z")
      _ = server.send(move)
      let counter = server.send("OBJECT FREQ z")
      #expect(counter == ":77\r\n" || counter == ":78\r\n", "\(move)")
    }
    restore("z", "REPLACE")
    #expect(server.send("OBJECT FREQ z") == ":5\r\n")
  }

  @Test(
    "what leaves a key as it is has used it all the same",
    arguments: [
      "EXPIRE q 100 XX", "EXPIRE q 100", "PERSIST q", "SETNX q v", "SET q v NX", "SET q v NX GET",
      "MSETNX a 1 q 2", "RENAME q q", "RENAMENX q q", "COPY q z", "APPEND q x",
    ])
  func uses(_ request: String) {
    let start = Clock.steadyMilliseconds
    restore("q", "IDLETIME", "1000")
    // Seconds; the last character is the end of the line.
    func idle() -> Int { Int(server.send("OBJECT IDLETIME q").dropFirst().dropLast()) ?? -1 }
    // Those that have begun since.
    func passed() -> Int { (Clock.steadyMilliseconds - start) / 1000 + 1 }
    let before = idle()
    #expect((1000...1000 + passed()).contains(before))
    _ = server.send(request)
    let after = idle()
    #expect((0...passed()).contains(after))
  }

  @Test("the latest time to live is still a time of day") func latest() {
    restore("a")
    for index in 0..<2 {
      _ = server.send("DUMP a")
      let payload = server.connect().exchangeBytes(Array("*2\r\n$4\r\nDUMP\r\n$1\r\na\r\n".utf8))
      let bytes = payload.dropFirst(5).dropLast(2)
      let time = index == 0 ? "\(Int.max)" : "\(Int.max - 1)"
      let head =
        "*4\r\n$7\r\nRESTORE\r\n$1\r\n\(index)\r\n$\(time.count)\r\n\(time)\r\n$\(bytes.count)\r\n"
      #expect(server.connect().exchange(Array(head.utf8) + bytes + Array("\r\n".utf8)) == "+OK\r\n")
      let end = server.send("PEXPIRETIME \(index)").dropFirst().dropLast()
      #expect((Int(end) ?? 0) > Int.max / 2, "\(end)")
    }
  }

  @Test("DEL and EXISTS count their arguments") func counts() {
    _ = server.send("SET a 1")
    _ = server.send("SET b 2")
    #expect(server.send("EXISTS a b c a") == ":3\r\n")
    #expect(server.send("DEL a c a") == ":1\r\n")
    #expect(server.send("EXISTS a") == ":0\r\n")
    #expect(server.send("DEL b") == ":1\r\n")
    #expect(server.send("DEL") == "-ERR wrong number of arguments for 'del' command\r\n")
  }

  @Test("work on very many keys") func manyKeys() {
    let keys = (0..<5000).map { "key:\($0)" }
    for key in keys.prefix(1000) { _ = server.send("SET \(key) v") }
    #expect(server.send("EXISTS " + keys.joined(separator: " ")) == ":1000\r\n")
    #expect(server.send("DEL " + keys.joined(separator: " ")) == ":1000\r\n")
    #expect(server.send("DBSIZE") == ":0\r\n")
  }

  @Test("TTL and PTTL tell missing from unlimited") func timeToLive() {
    #expect(server.send("TTL k") == ":-2\r\n")
    _ = server.send("SET k v")
    #expect(server.send("TTL k") == ":-1\r\n")
    #expect(server.send("PTTL k") == ":-1\r\n")
    _ = server.send("SET k v PX 1499")
    #expect(server.send("TTL k") == ":1\r\n")
  }

  @Test("MSET and MGET work on many keys at once") func many() {
    #expect(server.send("MSET a 1 b two a 3") == "+OK\r\n")
    #expect(server.send("MGET a none b") == "*3\r\n$1\r\n3\r\n$-1\r\n$3\r\ntwo\r\n")
    #expect(server.send("MSET a 1 b") == "-ERR wrong number of arguments for 'mset' command\r\n")
    #expect(server.send("MGET") == "-ERR wrong number of arguments for 'mget' command\r\n")
    let names = (0..<300).map { "key\($0)" }
    #expect(server.send("MSET " + names.map { "\($0) \($0)" }.joined(separator: " ")) == "+OK\r\n")
    let values = names.map { "$\($0.utf8.count)\r\n\($0)\r\n" }.joined()
    #expect(server.send("MGET " + names.joined(separator: " ")) == "*300\r\n" + values)
    // Ten and more arguments in the form that clients send.
    let array = (["MGET"] + names.prefix(12)).map { "$\($0.utf8.count)\r\n\($0)\r\n" }.joined()
    let twelve = names.prefix(12).map { "$\($0.utf8.count)\r\n\($0)\r\n" }.joined()
    #expect(server.connect().exchange("*13\r\n" + array) == "*12\r\n" + twelve)
  }
}

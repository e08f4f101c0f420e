import Foundation
import Testing

@testable import Valiant

@Suite("Store") struct StoreTests {
  @Test("keeps, replaces and removes values") func basics() {
    let store = Store()
    #expect(store.get("k") == nil)
    #expect(!store.exists("k"))
    store.set("k", to: "v")
    #expect(store.get("k") == "v")
    #expect(store.exists("k"))
    store.set("k", to: "w")
    #expect(store.get("k") == "w")
    #expect(store.count() == 1)
    #expect(store.delete("k"))
    #expect(!store.delete("k"))
    #expect(store.count() == 0)
  }

  @Test("takes any bytes") func bytes() {
    let store = Store()
    let key: [UInt8] = [0, 255, 13, 10]
    store.set(key, to: [])
    #expect(store.get(key) == [])
    store.set([], to: [1, 0, 2])
    #expect(store.get([] as [UInt8]) == [1, 0, 2])
  }

  @Test("keeps databases apart") func databases() {
    let store = Store()
    store.set("k", to: "zero")
    store.set("k", to: "five", database: 5)
    #expect(store.get("k") == "zero")
    #expect(store.get("k", database: 5) == "five")
    #expect(store.get("k", database: 15) == nil)
    store.removeAll(database: 5)
    #expect(store.get("k", database: 5) == nil)
    #expect(store.count() == 1)
    store.checkInvariants()
  }

  @Test("lets keys expire") func expiry() throws {
    let store = Store()
    store.set("k", to: "v", expiresIn: .milliseconds(1000))
    store.set("forever", to: "v")
    #expect(store.get("k") == "v")
    guard case .remaining(let left) = store.timeToLive("k") else { throw Problem() }
    #expect(left > .zero && left <= .milliseconds(1000))
    #expect(store.timeToLive("forever") == .unlimited)
    #expect(store.timeToLive("none") == .missing)
    Thread.sleep(forTimeInterval: 1.01)
    #expect(store.count() == 2)
    #expect(store.removeExpired() == 1)
    #expect(store.count() == 1)
    #expect(store.get("k") == nil)
  }

  @Test("collects every expired key of a large store") func largeExpiry() {
    let store = Store()
    for number in 0..<400_000 {
      store.set("key \(number)", to: "v", expiresIn: number % 2 == 0 ? .milliseconds(1) : nil)
    }
    Thread.sleep(forTimeInterval: 0.01)
    store.removeExpired()
    #expect(store.count() == 200_000)
    #expect(store.removeExpired() == 0)
    store.checkInvariants()
  }

  @Test("changes a time to live") func changeExpiry() {
    let store = Store()
    #expect(!store.expire("k", in: .seconds(1)))
    store.set("k", to: "12345")
    #expect(store.expire("k", in: .seconds(100)))
    #expect(store.timeToLive("k") != .unlimited)
    #expect(store.expire("k", in: nil))
    #expect(store.timeToLive("k") == .unlimited)
    #expect(store.get("k") == "12345")
    #expect(store.expire("k", in: .zero))
    #expect(!store.exists("k"))
    store.set("k", to: "v", expiresIn: .seconds(Int.max))
    #expect(store.exists("k"))
    store.set("k", to: "v", expiresIn: .zero)
    #expect(!store.exists("k"))
  }

  @Test("gives all memory back") func memory() {
    let store = Store()
    for number in 0..<50_000 {
      store.set("key \(number)", to: String(repeating: "v", count: number % 100))
    }
    #expect(store.allocatedBytes > 50_000 * 60)
    store.checkInvariants()
    store.removeAll()
    #expect(store.allocatedBytes == 0)
    #expect(store.count() == 0)
  }

  @Test("is consistent under many threads") func threads() {
    let store = Store()
    let perThread = 20_000
    DispatchQueue.concurrentPerform(iterations: 4) { thread in
      var random = Random(seed: UInt64(thread))
      for number in 0..<perThread {
        // A key of its own, and one that everybody changes.
        let own = "thread \(thread) key \(number)"
        let shared = "shared \(Int.random(in: 0..<50, using: &random))"
        store.set(own, to: "\(number)")
        store.set(shared, to: "\(thread)", expiresIn: number % 3 == 0 ? .milliseconds(1) : nil)
        precondition(store.get(own) == "\(number)")
        _ = store.get(shared)
        _ = store.delete(shared)
        if number % 2 == 1 { precondition(store.delete(own)) }
        if number % 5000 == 0 { _ = store.count() + store.removeExpired() + store.allocatedBytes }
      }
    }
    store.removeExpired()
    store.checkInvariants()
    for number in 0..<50 { store.delete("shared \(number)") }
    #expect(store.count() == 4 * perThread / 2)
  }

  @Test("moves blocks together while threads use it") func consolidation() {
    let store = Store()
    DispatchQueue.concurrentPerform(iterations: 3) { thread in
      if thread == 0 {
        for _ in 0..<3 {
          var walk = Consolidation(part: 0, of: 1)
          while !walk.step(store) {}
        }
      } else {
        for number in 0..<20_000 {
          store.set("\(thread) \(number)", to: String(repeating: "v", count: number % 100))
          if number % 8 != 0 { store.delete("\(thread) \(number)") }
        }
      }
    }
    store.checkInvariants()
    #expect(store.count() == 2 * 20_000 / 8)
    for number in stride(from: 0, to: 20_000, by: 8) {
      precondition(store.get("1 \(number)") == String(repeating: "v", count: number % 100))
    }
  }

  @Test("empties itself at one moment for everybody") func atomicFlush() {
    let store = Store()
    DispatchQueue.concurrentPerform(iterations: 3) { thread in
      if thread == 0 {
        for _ in 0..<200 { store.removeAll() }
      } else {
        for number in 0..<5000 { store.set("\(thread) \(number)", to: "v") }
      }
    }
    store.checkInvariants()
    store.removeAll()
    #expect(store.allocatedBytes == 0)
  }
}

struct Problem: Error {}

import Testing

@testable import Valiant

/// A block with a mark on it.
@safe private struct Block {
  let address: UnsafeMutableRawPointer
  let bytes: Int
  let mark: UInt8

  init(_ address: UnsafeMutableRawPointer, _ bytes: Int, _ mark: UInt8) {
    unsafe self.address = address
    self.bytes = bytes
    self.mark = mark
    unsafe address.initializeMemory(as: UInt8.self, repeating: mark, count: bytes)
  }

  var isIntact: Bool {
    [0, bytes / 2, bytes - 1].allSatisfy {
      unsafe address.load(fromByteOffset: $0, as: UInt8.self) == mark
    }
  }

  func free(_ pool: BlockPool) { unsafe pool.free(address, bytes) }
}

@Suite("BlockPool") struct BlockPoolTests {
  @Test(
    "rounds to sizes in four steps a doubling",
    arguments: [
      (1, 64), (64, 64), (65, 80), (80, 80), (81, 96), (97, 112), (113, 128), (129, 160),
      (193, 224), (1025, 1280), (1536, 1536), (1537, 1792), (2048, 2048), (2049, 2560),
      (3585, 4096), (4096, 4096), (4097, 5120), (7169, 8192), (8193, 10_240),
      (14_337, 16_384), (16_385, 32_768), (65_536, 65_536), (65_537, 69_632),
    ]) func sizes(_ bytes: Int, _ capacity: Int)
  {
    #expect(BlockPool.capacity(bytes) == capacity)
  }

  @Test("hands out blocks that do not overlap, and takes all of them back") func model() {
    let pool = BlockPool()
    defer { pool.end() }
    var random = Random(seed: 1)
    var blocks: [Block] = []
    for step in 0..<200_000 {
      // Growing first, then shrinking.
      let adds = Int.random(in: 0..<100, using: &random) < (step < 120_000 ? 55 : 40)
      if adds {
        let bytes = Int.random(
          in: 1...(1 << Int.random(in: 3...17, using: &random)), using: &random)
        guard let block = unsafe pool.allocate(bytes) else {
          Issue.record("no memory")
          return
        }
        blocks.append(unsafe Block(block, bytes, UInt8(step % 255)))
      } else if !blocks.isEmpty {
        blocks.swapAt(Int.random(in: 0..<blocks.count, using: &random), blocks.count - 1)
        let block = blocks.removeLast()
        #expect(block.isIntact)
        block.free(pool)
      }
    }
    #expect(pool.blockBytes <= pool.residentBytes)
    for block in blocks {
      #expect(block.isIntact)
      block.free(pool)
    }
    #expect(pool.blockBytes == 0)
    #expect(pool.residentBytes <= 2 << 20, "no more is kept than is said")
  }

  @Test("blocks move out of sparse pages, which then go back to the system") func consolidation() {
    let pool = BlockPool()
    defer { pool.end() }
    let bytes = 4096
    var kept: [Block] = []
    var dropped: [Block] = []
    for number in 0..<3200 {
      guard let block = unsafe pool.allocate(bytes) else { continue }
      let marked = unsafe Block(block, bytes, UInt8(number % 255))
      // One of each page's sixteen.
      if number % 16 == 0 { kept.append(marked) } else { dropped.append(marked) }
    }
    for block in dropped { block.free(pool) }
    #expect(pool.isFragmented)
    let before = pool.residentBytes
    for index in kept.indices {
      let old = kept[index]
      guard let better = unsafe pool.betterBlock(than: old.address, bytes) else { continue }
      unsafe better.copyMemory(from: old.address, byteCount: bytes)
      old.free(pool)
      kept[index] = unsafe Block(better, bytes, old.mark)
    }
    #expect(!pool.isFragmented)
    #expect(pool.residentBytes < before / 4, "\(before) and \(pool.residentBytes)")
    for block in kept { #expect(block.isIntact) }
    #expect(pool.blockBytes == kept.count * bytes)
  }

  @Test("fails when it is told to, and goes on afterwards") func failure() {
    let pool = BlockPool()
    defer { pool.end() }
    pool.fail(after: 1)
    let first = unsafe pool.allocate(100)
    let second = unsafe pool.allocate(100)
    let large = unsafe pool.allocate(100_000)
    let found = unsafe (first != nil, second != nil, large != nil)
    #expect(found == (true, false, false))
    pool.fail(after: Int.max)
    let third = unsafe pool.allocate(100_000)
    guard let first = unsafe first, let third = unsafe third else {
      Issue.record("no memory")
      return
    }
    unsafe pool.free(first, 100)
    unsafe pool.free(third, 100_000)
    #expect(pool.blockBytes == 0)
  }
}

import Testing

@testable import Valiant

/// A block whose payload is `bytes`, and a view of it.
private func makeBlock(_ bytes: [UInt8]) -> SharedBlock? {
  guard let block = SharedBlock(capacity: max(bytes.count, 1)) else { return nil }
  for (index, byte) in bytes.enumerated() { unsafe block.payload[index] = byte }
  return block
}

private func view(_ block: SharedBlock, _ count: Int) -> Bytes {
  unsafe Bytes(base: block.payload, count: count)
}

/// Everything that a buffer would send, taken `step` bytes at a time.
private func drain(_ output: inout OutputBuffer, step: Int) -> [UInt8] {
  var sent: [UInt8] = []
  while !output.isEmpty {
    let before = output.count
    let pieces = output.pieces
    var part: [UInt8] = []
    for index in 0..<pieces.count { part += pieces.all[index].array }
    let taken = min(step, part.count)
    sent += part.prefix(taken)
    output.removeFirst(taken)
    let after = output.count
    precondition(after == before - taken)
  }
  return sent
}

@Suite("Output buffer") struct OutputBufferTests {
  @Test("sends bytes and blocks in their order", arguments: [1, 2, 3, 7, 1000])
  func order(_ step: Int) throws {
    var expected: [UInt8] = []
    var output = OutputBuffer()
    for number in 0..<40 {
      let text = "<\(number)>"
      if number % 4 != 1 {
        output.bytes.append(text)
        expected += Array(text.utf8)
      }
      if number % 3 == 0 {
        let value = [UInt8](repeating: UInt8(number), count: number)
        let block = try #require(makeBlock(value))
        output.attach(view(block, value.count), in: block)
        block.release()
        expected += value
      }
    }
    let count = output.count
    #expect(count == expected.count)
    #expect(drain(&output, step: step) == expected)
    let isPlain = output.isPlain
    #expect(isPlain)
  }

  @Test("holds its blocks until they are sent, and no longer") func ownership() throws {
    let block = try #require(makeBlock([1, 2, 3]))
    defer { block.release() }
    var output = OutputBuffer()
    output.bytes.append("a")
    let mark = output.mark
    output.attach(view(block, 3), in: block)
    output.bytes.append("b")
    #expect(block.isShared)
    output.truncate(to: mark)
    #expect(!block.isShared)
    output.attach(view(block, 3), in: block)
    output.removeFirst(3)
    #expect(block.isShared)
    output.removeFirst(1)
    #expect(!block.isShared)
    do {
      var dropped = OutputBuffer()
      dropped.attach(view(block, 3), in: block)
      #expect(block.isShared)
    }
    #expect(!block.isShared)
  }

  @Test("takes over what another one has left", arguments: [0, 1, 5, 9, 12, 14])
  func appending(_ sent: Int) throws {
    let value: [UInt8] = [11, 12, 13, 14]
    let block = try #require(makeBlock(value))
    defer { block.release() }
    func output() -> OutputBuffer {
      var output = OutputBuffer()
      output.bytes.append("head ")
      output.attach(view(block, 4), in: block)
      output.bytes.append(" tail")
      return output
    }
    let whole = Array("head ".utf8) + value + Array(" tail".utf8)
    var first = output()
    first.removeFirst(sent)
    var kept = OutputBuffer()
    kept.append(&first)
    var second = output()
    kept.append(&second)
    let rests = (first.count, second.count)
    #expect(rests == (0, 0))
    kept.removeFirst(1)
    var third = output()
    kept.append(&third)
    #expect(drain(&kept, step: 3) == Array((whole.dropFirst(sent) + whole + whole).dropFirst()))
    #expect(!block.isShared)
  }
}

@Suite("Shared blocks") struct SharedBlockTests {
  @Test("grow and keep what is in them", arguments: [100, 20_000, 70_000, 3 << 20])
  func growth(_ size: Int) throws {
    var block = try #require(SharedBlock(capacity: size))
    #expect(block.capacity >= size)
    #expect(block.footprint >= block.capacity)
    for index in 0..<size { unsafe block.payload[index] = UInt8(truncatingIfNeeded: index &* 7) }
    for capacity in [size + 1, size * 2, size * 9] {
      block = try #require(block.grown(to: capacity, count: size))
      #expect(block.capacity >= capacity)
    }
    for index in stride(from: 0, to: size, by: 13) {
      #expect(unsafe block.payload[index] == UInt8(truncatingIfNeeded: index &* 7))
    }
    block.release()
  }

  @Test("mappings are kept for the next one, a few megabytes of them") func kept() throws {
    for size in [70_000, 200_000, 900_000] {
      let blocks = (0..<12).compactMap { _ in SharedBlock(capacity: size) }
      #expect(blocks.count == 12)
      for block in blocks { block.release() }
    }
    #expect(SharedBlock.keptBytes <= 4 << 20)
    // What nobody takes between two calls goes. Other tests take and give meanwhile.
    var fewest = Int.max
    for _ in 0..<100 where fewest > 0 {
      SharedBlock.freeUnneeded()
      fewest = min(fewest, SharedBlock.keptBytes)
    }
    #expect(fewest == 0)
  }

  @Test("a buffer leaves a block that was taken over") func takenOver() throws {
    var buffer = ByteBuffer()
    buffer.append(String(repeating: "x", count: 20_000))
    buffer.append("rest")
    let taken = buffer.block
    let block = try #require(taken)
    block.retain()
    buffer.removeFirst(20_000)
    let isLeft = buffer.block == nil
    #expect(isLeft)
    let rest = buffer.bytes.text
    #expect(rest == "rest")
    #expect(!block.isShared)
    #expect(unsafe block.payload[0] == UInt8(ascii: "x"))
    block.release()
  }
}

import Testing

@testable import Valiant

@Suite("HyperLogLog") struct HyperLogLogTests {
  @Test("of values that no elements give there is an estimate, too") func impossible() throws {
    for value in [UInt8(0x00), 0x55, 0xff] {
      let bytes =
        Array("HYLL".utf8) + [UInt8](repeating: 0, count: 11) + [0x80]
        + [UInt8](repeating: value, count: 12_288)
      let log = try bytes.withBytes { (bytes) throws(HyperLogLog.Failure) in
        try HyperLogLog(bytes)
      }
      #expect(HyperLogLog.estimate(try log.registers()) >= 0)
    }
  }

  @Test("counts in both forms about as many as there are", arguments: [10, 500, 3000, 100_000])
  func estimate(_ count: Int) throws {
    for sparseMax in [0, 3000, 16_384] {
      var log = HyperLogLog()
      for number in 0..<count {
        let register = Array("element \(number)".utf8).withBytes { HyperLogLog.register(of: $0) }
        #expect((1...51).contains(register.value))
        _ = try log.raise(register.index, to: register.value, sparseMax: sparseMax)
      }
      let estimate = HyperLogLog.estimate(try log.registers())
      // Four standard errors.
      #expect(abs(estimate - count) <= max(1, count * 33 / 1000), "\(estimate) of \(count)")
      let before = try log.registers()
      try log.makeDense()
      #expect(try log.registers() == before)
      #expect(log.bytes.count == 12_304)
    }
  }
}

import Testing

@testable import Valiant

@Suite("SipHash-1-3") struct SipHashTests {
  /// Hashes of the bytes 0, 1, 2 … under the key 0, 1 … 15, by length; computed by another
  /// implementation, which agrees with the one in CPython.
  private static let expected: [UInt64] = [
    0xabac0158050fc4dc, 0xc9f49bf37d57ca93, 0x82cb9b024dc7d44d,
    0x8bf80ab8e7ddf7fb, 0xcf75576088d38328, 0xdef9d52f49533b67,
    0xc50d2b50c59f22a7, 0xd3927d989bb11140, 0x369095118d299a8e,
    0x25a48eb36c063de4, 0x79de85ee92ff097f, 0x70c118c1f94dc352,
    0x78a384b157b4d9a2, 0x306f760c1229ffa7, 0x605aa111c0f95d34,
    0xd320d86d2a519956, 0xcc4fdd1a7d908b66, 0x9cf2689063dbd80c,
    0x8ffc389cb473e63e, 0xf21f9de58d297d1c, 0xc0dc2f46a6cce040,
    0xb992abfe2b45f844, 0x7ffe7b9ba320872e, 0x525a0e7fdae6c123,
  ]

  @Test("gives the values of an independent implementation") func values() {
    let hash = SipHash(key0: 0x0706_0504_0302_0100, key1: 0x0f0e_0d0c_0b0a_0908)
    for (length, value) in Self.expected.enumerated() {
      #expect((0..<length).map { UInt8($0) }.withBytes { hash.hash($0) } == value, "length \(length)")
    }
  }

  @Test("depends on the key") func keys() {
    let (one, other) = (SipHash.random(), SipHash.random())
    #expect([1, 2, 3].withBytes { one.hash($0) } != [1, 2, 3].withBytes { other.hash($0) })
  }
}

import Testing

@testable import Valiant

@Suite("SipHash-1-3") struct SipHashTests {
  /// Hashes of the bytes 0, 1, 2 … under the key 0, 1 … 15, by length; computed by another
  /// implementation, which agrees with the one in CPython.
  private static let expected: [UInt64] = [
    0xabac_0158_050f_c4dc, 0xc9f4_9bf3_7d57_ca93, 0x82cb_9b02_4dc7_d44d,
    0x8bf8_0ab8_e7dd_f7fb, 0xcf75_5760_88d3_8328, 0xdef9_d52f_4953_3b67,
    0xc50d_2b50_c59f_22a7, 0xd392_7d98_9bb1_1140, 0x3690_9511_8d29_9a8e,
    0x25a4_8eb3_6c06_3de4, 0x79de_85ee_92ff_097f, 0x70c1_18c1_f94d_c352,
    0x78a3_84b1_57b4_d9a2, 0x306f_760c_1229_ffa7, 0x605a_a111_c0f9_5d34,
    0xd320_d86d_2a51_9956, 0xcc4f_dd1a_7d90_8b66, 0x9cf2_6890_63db_d80c,
    0x8ffc_389c_b473_e63e, 0xf21f_9de5_8d29_7d1c, 0xc0dc_2f46_a6cc_e040,
    0xb992_abfe_2b45_f844, 0x7ffe_7b9b_a320_872e, 0x525a_0e7f_dae6_c123,
  ]

  @Test("gives the values of an independent implementation") func values() {
    let hash = SipHash(key0: 0x0706_0504_0302_0100, key1: 0x0f0e_0d0c_0b0a_0908)
    for (length, value) in Self.expected.enumerated() {
      #expect(
        (0..<length).map { UInt8($0) }.withBytes { hash.hash($0) } == value, "length \(length)")
    }
  }

  @Test("depends on the key") func keys() {
    let (one, other) = (SipHash.random(), SipHash.random())
    #expect([1, 2, 3].withBytes { one.hash($0) } != [1, 2, 3].withBytes { other.hash($0) })
  }
}

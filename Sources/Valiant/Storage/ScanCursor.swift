/// Where a walk over all keys goes on: a place in the order of shard, hash prefix and tag.
///
///     number   [ 0: 8 | shard: 10 | prefix: 30 | tag: 16 ]
///
/// A key's place follows from its hash alone but for the prefix, which is that of its segment; a
/// segment that splits leaves every key at its place or behind it. So whoever was there from the
/// beginning to the end of a walk is met; some may be met twice.
struct ScanCursor: Equatable {
  /// 0 for the beginning, and again for the end.
  private(set) var number: UInt64

  private static let shardShift: UInt64 = 46
  private static let prefixShift: UInt64 = 16
  static let prefixBits: UInt64 = 30

  /// The place that a number stands for; any number stands for one.
  init(_ number: UInt64) {
    self.number = number & (UInt64(Store.shardCount) << Self.shardShift - 1)
  }

  /// The beginning of a shard, the end for the one behind the last.
  init(shard: Int) { self.init(UInt64(shard) << Self.shardShift) }

  var shard: Int { Int(number >> Self.shardShift) }

  /// The hash behind the bits of the shard, as far as the segment's, at the top of the word.
  var prefix: UInt64 {
    (number >> Self.prefixShift) << (64 - Self.prefixBits)
  }

  var tag: UInt64 { number & 0xffff }

  /// A place in the same shard.
  ///
  /// - Parameters:
  ///   - prefix: At the top of the word, with no more than 30 bits.
  ///   - tag: 0...65535.
  func moved(toPrefix prefix: UInt64, tag: UInt64) -> ScanCursor {
    ScanCursor(
      UInt64(shard) << Self.shardShift
        | (prefix >> (64 - Self.prefixBits)) << Self.prefixShift | tag)
  }
}

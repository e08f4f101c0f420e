import CLibUV

/// Instructions of the processor that Swift has no words for.
///
/// With `MemoryMap` the only place outside `Network` that imports the C module, whose header holds
/// them.
enum Processor {
  /// Asks for the cache line at `address`, which need not be mapped: a hint never faults.
  @inline(__always)
  static func prefetch(_ address: UnsafeRawPointer) {
    unsafe valiant_prefetch(address)
  }

  /// Which of the sixteen words at `address` are equal to `word`: a bit for each, the first one's lowest.
  @inline(__always)
  @unsafe static func matches(of word: UInt16, at address: UnsafeRawPointer) -> UInt32 {
    unsafe valiant_match_words(address, word)
  }

  /// Tells the core that this is a spinning loop.
  @inline(__always)
  static func spinPause() {
    valiant_spin_pause()
  }
}

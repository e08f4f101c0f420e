import CLibUV

/// The allocator behind entries and tables: `malloc` of the C library, asked what it really took.
enum Memory {
  /// What glibc keeps in front of each block.
  private static let blockHeaderBytes = 8

  /// Bytes of a block from `malloc` that may be used, at least as many as were asked for.
  @inline(__always)
  @unsafe static func usableBytes(_ block: UnsafeMutableRawPointer) -> Int {
    unsafe malloc_usable_size(block)
  }

  /// Bytes that a block takes from the system, rounding and header included.
  @inline(__always)
  @unsafe static func allocatedBytes(_ block: UnsafeMutableRawPointer) -> Int {
    unsafe malloc_usable_size(block) &+ blockHeaderBytes
  }
}

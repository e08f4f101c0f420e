import CLibUV
import Glibc

/// Memory straight from the system, page by page: what is given back is really gone.
///
/// A mapping takes memory only where it was written.
enum MemoryMap {
  static let pageBytes = 4096

  /// `bytes` rounded up to whole pages.
  static func rounded(_ bytes: Int) -> Int { (bytes + pageBytes - 1) & ~(pageBytes - 1) }

  /// A new mapping; nil when the system has no memory, or the process too many mappings.
  @unsafe static func map(_ bytes: Int) -> UnsafeMutableRawPointer? {
    unsafe valid(
      mmap(
        nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))
  }

  /// The same mapping with another size, elsewhere if need be. Its content is not copied: the pages
  /// move. Nil when the system refuses; then nothing has changed.
  @unsafe static func resize(
    _ block: UnsafeMutableRawPointer, from oldBytes: Int, to newBytes: Int
  ) -> UnsafeMutableRawPointer? {
    unsafe valid(valiant_remap(block, oldBytes, newBytes))
  }

  private static func valid(_ mapped: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    UInt(bitPattern: mapped) == UInt.max ? nil : unsafe mapped
  }

  /// Gives a mapping back, or a part of one; a very large one by another thread, piece by piece.
  ///
  /// The system takes a tenth of a millisecond for each megabyte.
  static func unmap(_ block: UnsafeMutableRawPointer, _ bytes: Int) {
    let address = UInt(bitPattern: block)
    if bytes < slowlyFreedBytes { return unmapNow(address, bytes) }
    Background.run { pause in
      for offset in stride(from: 0, to: bytes, by: pieceBytes) {
        unmapNow(address + UInt(offset), min(bytes - offset, pieceBytes))
        pause()
      }
    }
  }

  private static let slowlyFreedBytes = 4 << 20
  private static let pieceBytes = 512 << 10

  /// A process may have 65,530 mappings, and to cut one in two may be one too many: then at least
  /// the memory goes back.
  private static func unmapNow(_ address: UInt, _ bytes: Int) {
    let block = unsafe UnsafeMutableRawPointer(bitPattern: address)
    if unsafe munmap(block, bytes) != 0 { unsafe madvise(block, bytes, MADV_DONTNEED) }
  }
}

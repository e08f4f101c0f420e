import Glibc

/// A file that is read from its beginning to its end.
final class InputFile {
  private let descriptor: Int32
  let path: String
  /// Bytes when it was opened.
  let size: Int

  /// - Throws: One sentence.
  init(_ path: String) throws(FileError) {
    self.path = path
    descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { throw FileError("read", path) }
    var status = stat()
    size = unsafe fstat(descriptor, &status) == 0 ? Int(status.st_size) : 0
  }

  deinit { close(descriptor) }

  /// Goes on reading `offset` bytes behind the beginning.
  func seek(to offset: Int) throws(FileError) {
    if offset > 0, lseek(descriptor, offset, SEEK_SET) < 0 { throw FileError("read", path) }
  }

  /// Puts the next `count` bytes, or those that there are, behind what is in `buffer`.
  ///
  /// - Returns: How many; 0 at the end.
  /// - Throws: One sentence.
  func read(_ count: Int, into buffer: inout ByteBuffer) throws(FileError) -> Int {
    let space = unsafe buffer.freeSpace(count)
    while true {
      let result = unsafe Glibc.read(descriptor, space.baseAddress, min(count, space.count))
      if result >= 0 {
        buffer.didAppend(result)
        return result
      }
      if errno != EINTR { throw FileError("read", path) }
    }
  }
}

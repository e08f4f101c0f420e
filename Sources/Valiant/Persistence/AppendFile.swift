import Glibc

/// A file that only grows, and of which is known how much of it is whole.
final class AppendFile {
  let path: String
  private let descriptor: Int32
  private let fault: OutputFile.Fault?
  /// Bytes that were written as a whole.
  private(set) var count: Int
  /// Whether behind those there may be more, which must go before anything is written.
  private var isTorn = false

  /// - Parameters:
  ///   - count: Bytes that are there; what is behind them is cut off. 0 for a new file.
  /// - Throws: `FileError`.
  init(_ path: String, count: Int, fault: OutputFile.Fault? = nil) throws(FileError) {
    self.path = path
    self.fault = fault
    self.count = count
    if let number = fault?(.open), number != 0 {
      errno = number
      throw FileError("open", path)
    }
    descriptor = unsafe open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
    if descriptor < 0 { throw FileError("open", path) }
    var status = stat()
    if unsafe fstat(descriptor, &status) == 0, Int(status.st_size) != count { try cut() }
    // Its name is on the disk when its folder is.
    if count == 0 { try synchronizeFolder(of: path) }
  }

  deinit { close(descriptor) }

  private func check(_ step: OutputFile.Step, _ attempt: String) throws(FileError) {
    guard let number = fault?(step), number != 0 else { return }
    errno = number
    throw FileError(attempt, path)
  }

  /// Appends all of `output`, or nothing that counts.
  func append(_ output: borrowing OutputBuffer) throws(FileError) {
    if isTorn { try cut() }
    isTorn = true
    var written = 0
    try output.forEachPiece { (piece) throws(FileError) in
      try write(piece)
      written += piece.count
    }
    isTorn = false
    count += written
  }

  private func write(_ bytes: Bytes) throws(FileError) {
    var rest = bytes
    while !rest.isEmpty {
      try check(.write, "write to")
      let written = unsafe Glibc.write(descriptor, rest.pointer, rest.count)
      if written < 0, errno != EINTR { throw FileError("write to", path) }
      rest = rest.dropFirst(max(0, written))
    }
  }

  private func cut() throws(FileError) {
    try check(.cut, "shorten")
    if ftruncate(descriptor, count) != 0 { throw FileError("shorten", path) }
    isTorn = false
  }

  /// Has everything on the disk. When that fails nobody knows what is there, and trying again would
  /// not tell.
  func synchronize() throws(FileError) {
    try check(.synchronize, "write to")
    if fdatasync(descriptor) != 0 { throw FileError("write to", path) }
  }
}

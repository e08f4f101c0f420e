import Glibc

/// A file that takes the place of another one when it is complete and on the disk, and is nowhere to be
/// seen before.
///
///     let file = try OutputFile(replacing: path)
///     try file.write(bytes)
///     try file.commit()       // without that nothing has changed
final class OutputFile {
  /// What may fail.
  enum Step: CaseIterable, Sendable {
    case open, write, synchronize, rename, synchronizeFolder, cut
  }

  /// Has steps fail: the number of an error for one that is to, else 0. For tests.
  typealias Fault = @Sendable (Step) -> Int32

  let path: String
  private let newPath: String
  private var descriptor: Int32 = -1
  private let fault: Fault?
  /// Bytes that were written.
  private(set) var count = 0
  /// Whether it has taken the other one's place, though perhaps not for good.
  private(set) var hasReplaced = false
  /// Up to where the system was told to write to the disk.
  private var flushed = 0

  /// Bytes after which the system is told to begin writing them to the disk, so that there is little
  /// left to do in the end, and the disk is not flooded then.
  private static let flushedBytes = 1 << 20

  /// - Parameters:
  ///   - path: A link stays, and what it leads to is replaced.
  ///   - permissions: For a file that was not there before.
  /// - Throws: `FileError`.
  init(
    replacing path: String, permissions: mode_t = 0o600, fault: Fault? = nil
  ) throws(FileError) {
    var path = path
    if let resolved = unsafe realpath(path, nil) {
      path = unsafe String(cString: resolved)
      unsafe free(resolved)
    }
    self.path = path
    self.fault = fault
    newPath = "\(path).new"
    var old = stat()
    let isThere = unsafe stat(path, &old) == 0
    try check(.open)
    unsafe unlink(newPath)
    descriptor = unsafe open(newPath, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, permissions)
    if descriptor < 0 { throw FileError("create", newPath) }
    if isThere {
      _ = fchown(descriptor, old.st_uid, old.st_gid)
      if fchmod(descriptor, old.st_mode & 0o7777) != 0 { throw FileError("create", newPath) }
    }
  }

  deinit {
    if descriptor < 0 { return }
    close(descriptor)
    unsafe unlink(newPath)
  }

  private func check(_ step: Step) throws(FileError) {
    guard let number = fault?(step), number != 0 else { return }
    errno = number
    throw FileError("\(step)", newPath)
  }

  /// - Throws: `FileError`; then the file is of no use any more.
  func write(_ bytes: Bytes) throws(FileError) {
    var rest = bytes
    while !rest.isEmpty {
      try check(.write)
      let written = unsafe Glibc.write(descriptor, rest.pointer, rest.count)
      if written < 0, errno != EINTR { throw FileError("write", newPath) }
      count += max(0, written)
      rest = rest.dropFirst(max(0, written))
    }
    if count - flushed >= Self.flushedBytes {
      // Only a hint, and what counts is the end; nobody needs the bytes in memory.
      posix_fadvise(descriptor, flushed, count - flushed, POSIX_FADV_DONTNEED)
      flushed = count
    }
  }

  /// The same for a text.
  func write(text: String) throws(FileError) {
    try Array(text.utf8).withBytes { bytes throws(FileError) in try write(bytes) }
  }

  /// Has the new file take the place of the old one, for good.
  ///
  /// - Throws: `FileError`. Then the old one is still there, unless only the folder could not be
  ///   written to the disk.
  func commit() throws(FileError) {
    try check(.synchronize)
    if fsync(descriptor) != 0 { throw FileError("write", newPath) }
    try check(.rename)
    if unsafe rename(newPath, path) != 0 { throw FileError("rename", newPath) }
    hasReplaced = true
    close(descriptor)
    descriptor = -1
    try check(.synchronizeFolder)
    // The new name is on the disk when its folder is.
    try synchronizeFolder(of: path)
  }
}

/// Writes the names in the folder of a file to the disk.
func synchronizeFolder(of path: String) throws(FileError) {
  let slash = path.lastIndex(of: "/")
  let folder = slash.map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
  let descriptor = unsafe open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
  // Names can be changed in a folder that cannot be read; then this is all that can be done.
  if descriptor < 0, errno == EACCES { return }
  guard descriptor >= 0 else { throw FileError("write", folder) }
  defer { close(descriptor) }
  // Not all file systems can; those need not.
  if fsync(descriptor) != 0, errno != EINVAL { throw FileError("write", folder) }
}

/// What went wrong with a file, in one sentence.
struct FileError: Error, CustomStringConvertible, Equatable {
  let description: String
  /// The system's number of the error.
  let number: Int32

  init(number: Int32, _ description: String) {
    self.number = number
    self.description = description
  }

  /// With what the system says.
  init(_ attempt: String, _ path: String) {
    number = errno
    description = "cannot \(attempt) \(path): \(systemErrorText(number))"
  }
}

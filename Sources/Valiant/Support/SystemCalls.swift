import Glibc

// What the C library says, in Swift's types.

/// The value of an environment variable, nil when it is not set.
func environment(_ name: String) -> String? {
  // SAFETY: getenv gives nil or a string that nobody here changes.
  guard let value = unsafe getenv(name) else { return nil }
  return unsafe String(cString: value)
}

/// The system's words for an error number.
func systemErrorText(_ number: Int32) -> String {
  var buffer = [CChar](repeating: 0, count: 128)
  // SAFETY: the buffer is writable for its count and stays in place during the call.
  return unsafe buffer.withUnsafeMutableBufferPointer { room in
    guard let start = room.baseAddress, unsafe strerror_r(number, start, room.count) == 0 else {
      return "error \(number)"
    }
    return unsafe String(cString: start)
  }
}

/// Whether there is surely no file at `path`; a folder that may not be searched leaves it open.
func isMissing(_ path: String) -> Bool { unsafe access(path, F_OK) != 0 && errno == ENOENT }

/// Whether there is a socket, and nothing else, at `path`.
func isSocket(_ path: String) -> Bool {
  var status = stat()
  return unsafe lstat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFSOCK
}

/// Puts a file with this text in the place of the one at `path`, which stays whole until the new one is
/// on the disk, or makes one that only its owner can read.
///
/// - Returns: 0, or an error number; then nothing has changed.
func replaceFile(_ path: String, with text: String) -> Int32 {
  do throws(FileError) {
    let file = try OutputFile(replacing: path)
    try file.write(text: text)
    try file.commit()
    return 0
  } catch {
    return error.number
  }
}

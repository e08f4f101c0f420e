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
  var path = path
  // A link stays, and what it leads to is replaced.
  if let resolved = unsafe realpath(path, nil) {
    path = unsafe String(cString: resolved)
    unsafe free(resolved)
  }
  var old = stat()
  let isThere = unsafe stat(path, &old) == 0
  let new = "\(path).new"
  unsafe unlink(new)
  let descriptor = unsafe open(new, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
  if descriptor < 0 { return errno }
  var number: Int32 = 0
  if isThere {
    _ = fchown(descriptor, old.st_uid, old.st_gid)
    if fchmod(descriptor, old.st_mode & 0o7777) != 0 { number = errno }
  }
  if number == 0 { number = writeAll(Array(text.utf8), to: descriptor) }
  if number == 0, fsync(descriptor) != 0 { number = errno }
  close(descriptor)
  if number == 0, unsafe rename(new, path) != 0 { number = errno }
  if number != 0 {
    unsafe unlink(new)
    return number
  }
  // The new name is on the disk when its folder is.
  let slash = path.lastIndex(of: "/")
  let folder = slash.map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
  let folderDescriptor = unsafe open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
  if folderDescriptor >= 0 {
    fsync(folderDescriptor)
    close(folderDescriptor)
  }
  return 0
}

/// - Returns: 0, or an error number.
private func writeAll(_ bytes: [UInt8], to descriptor: Int32) -> Int32 {
  var rest = bytes[...]
  while !rest.isEmpty {
    let count = unsafe rest.withUnsafeBytes { unsafe write(descriptor, $0.baseAddress, $0.count) }
    if count < 0, errno != EINTR { return errno }
    rest = rest.dropFirst(max(0, count))
  }
  return 0
}

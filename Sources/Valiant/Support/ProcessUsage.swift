import Glibc

/// What the operating system says about this process.
enum ProcessUsage {
  static var identifier: Int { Int(getpid()) }

  /// Path of the program.
  static var executable: String {
    var path = [CChar](repeating: 0, count: Int(PATH_MAX))
    let count = unsafe readlink("/proc/self/exe", &path, path.count)
    return String(decoding: path.prefix(max(0, count)).map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  /// Memory in use in bytes, as the kernel counts it.
  static var residentBytes: Int {
    // Second field of statm: resident pages.
    guard let text = firstLine("/proc/self/statm") else { return 0 }
    let fields = text.split(separator: UInt8(ascii: " "))
    return fields.count > 1 ? number(fields[1]) * Int(sysconf(Int32(_SC_PAGESIZE))) : 0
  }

  /// Memory of the machine in bytes.
  static var systemBytes: Int {
    Int(sysconf(Int32(_SC_PHYS_PAGES))) * Int(sysconf(Int32(_SC_PAGESIZE)))
  }

  /// The most memory that this process may use in bytes: the machine's, or less if its control
  /// groups say so.
  static var availableBytes: Int {
    var least = systemBytes
    // Version 2 of control groups: `0::/path`, where every group above has a say, too.
    guard let text = line("/proc/self/cgroup", beginning: "0::") else { return least }
    var path = String(decoding: text.dropFirst(3), as: UTF8.self)
    while !path.isEmpty {
      if let limit = firstLine("/sys/fs/cgroup\(path == "/" ? "" : path)/memory.max"),
        // No limit is the word `max`.
        limit.first.map({ $0 &- UInt8(ascii: "0") <= 9 }) ?? false
      {
        least = max(1, min(least, number(limit)))
      }
      guard path != "/", let slash = path.lastIndex(of: "/") else { break }
      path = slash == path.startIndex ? "/" : String(path[..<slash])
    }
    return least
  }

  /// Processor time of the process in microseconds.
  static var processorMicroseconds: (user: Int, system: Int) {
    var usage = rusage()
    unsafe getrusage(RUSAGE_SELF.rawValue, &usage)
    return (
      usage.ru_utime.tv_sec * 1_000_000 + Int(usage.ru_utime.tv_usec),
      usage.ru_stime.tv_sec * 1_000_000 + Int(usage.ru_stime.tv_usec)
    )
  }

  /// Processors that this process may use, at least 1.
  static var processorCount: Int {
    // Also what `nproc` asks; respects taskset and systemd's CPUAffinity.
    guard let text = line("/proc/self/status", beginning: "Cpus_allowed_list:") else { return 1 }
    let ranges = text.dropFirst("Cpus_allowed_list:".utf8.count).split(separator: UInt8(ascii: ","))
    let count = ranges.reduce(0) { sum, range in
      let ends = range.split(separator: UInt8(ascii: "-")).map(number)
      return sum + (ends.last ?? 0) - (ends.first ?? 1) + 1
    }
    return max(1, count)
  }

  /// `Linux 6.1.0 x86_64`
  static var systemName: String {
    guard let bytes = firstLine("/proc/sys/kernel/osrelease") else { return "Linux" }
    let kernel = String(decoding: bytes, as: UTF8.self)
    #if arch(x86_64)
      return "Linux \(kernel) x86_64"
    #elseif arch(arm64)
      return "Linux \(kernel) aarch64"
    #else
      return "Linux \(kernel)"
    #endif
  }

  /// Takes all code out of the process's memory; what runs again comes back from the system's cache
  /// of files, at half a microsecond for sixteen pages.
  ///
  /// Most of what a start runs is never needed again, and stays in memory all the same.
  static func releaseCode() {
    for line in lines("/proc/self/maps") {
      let fields = line.split(separator: UInt8(ascii: " "), maxSplits: 2)
      // Only what nobody can have written to: the rest would lose what is not in the file.
      guard fields.count == 3, fields[1].elementsEqual("r-xp".utf8),
        line.contains(UInt8(ascii: "/"))
      else { continue }
      let ends = fields[0].split(separator: UInt8(ascii: "-")).map(hexadecimal)
      unsafe madvise(UnsafeMutableRawPointer(bitPattern: ends[0]), ends[1] - ends[0], MADV_DONTNEED)
    }
  }

  private static func hexadecimal(_ field: ArraySlice<UInt8>) -> Int {
    field.reduce(0) { $0 << 4 | Int($1 <= UInt8(ascii: "9") ? $1 & 15 : $1 & 15 + 9) }
  }

  // Bytes rather than characters: this runs at every start, and Unicode's tables take memory.

  private static func firstLine(_ path: String) -> ArraySlice<UInt8>? { line(path, beginning: "") }

  private static func line(_ path: String, beginning: StaticString) -> ArraySlice<UInt8>? {
    let start = beginning.withUTF8Buffer { unsafe Array($0) }
    return lines(path).first { $0.starts(with: start) }
  }

  private static func lines(_ path: String) -> [ArraySlice<UInt8>] {
    let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return [] }
    defer { close(descriptor) }
    var bytes = [UInt8](repeating: 0, count: 16 * 1024)
    let count = unsafe read(descriptor, &bytes, bytes.count)
    return bytes.prefix(max(0, count)).split(separator: UInt8(ascii: "\n"))
  }

  /// The digits of a field as a number; blanks around them do not count.
  private static func number(_ field: ArraySlice<UInt8>) -> Int {
    let digits = field.filter { $0 &- UInt8(ascii: "0") <= 9 }
    return digits.withBytes { $0.integer } ?? 0
  }
}

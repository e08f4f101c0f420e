import Glibc
import Synchronization

/// How much an event matters, as in Redis's `loglevel`; also the least that is written.
enum LogLevel: Int, CaseIterable, Sendable, Comparable {
  case debug, verbose, notice, warning

  /// Written out: asking the runtime for a case's name makes it look through all of the program.
  var name: String {
    switch self {
    case .debug: "debug"
    case .verbose: "verbose"
    case .notice: "notice"
    case .warning: "warning"
    }
  }

  static func < (left: LogLevel, right: LogLevel) -> Bool { left.rawValue < right.rawValue }

  /// The priority by which journald and syslog know it.
  var journalPriority: Int {
    switch self {
    case .debug: 7
    case .verbose: 6
    case .notice: 5
    case .warning: 4
    }
  }
}

/// The server's log: standard error, one line an event, in one `write` so that lines of several
/// threads never mix.
///
/// With a terminal, file or pipe behind it a line begins with the time in UTC and the level; with
/// journald behind it, which keeps the time itself, with the priority as `<5>`.
final class Log: Sendable {
  private let threshold: Atomic<Int>
  private let isJournal: Bool
  private let descriptor: Int32

  /// - Parameter isEnabled: False for an embedded server that should be silent.
  init(level: LogLevel, isJournal: Bool = Log.standardErrorIsJournal, isEnabled: Bool = true) {
    threshold = Atomic(level.rawValue)
    self.isJournal = isJournal
    descriptor = isEnabled ? STDERR_FILENO : -1
  }

  var level: LogLevel {
    get { LogLevel(rawValue: threshold.load(ordering: .relaxed)) ?? .notice }
    set { threshold.store(newValue.rawValue, ordering: .relaxed) }
  }

  func debug(_ text: @autoclosure () -> String) { write(.debug, text) }
  func verbose(_ text: @autoclosure () -> String) { write(.verbose, text) }
  func notice(_ text: @autoclosure () -> String) { write(.notice, text) }
  func warning(_ text: @autoclosure () -> String) { write(.warning, text) }

  private func write(_ level: LogLevel, _ text: () -> String) {
    guard descriptor >= 0, level >= self.level else { return }
    // A line stays one line, whatever a client called itself.
    let escaped = text().replacingControlCharacters
    let line =
      isJournal
      ? "<\(level.journalPriority)>\(escaped)\n"
      : "\(Log.timeText(Clock.wallMicroseconds)) [\(level.name)] \(escaped)\n"
    Log.writeAll(line, to: descriptor)
  }

  /// Writes all of `text`; a reader that has gone away is not an error.
  static func writeAll(_ text: String, to descriptor: Int32) {
    var remaining = Array(text.utf8)[...]
    while !remaining.isEmpty {
      let written = unsafe remaining.withUnsafeBytes {
        unsafe Glibc.write(descriptor, $0.baseAddress, $0.count)
      }
      if written < 0, errno == EINTR { continue }
      if written <= 0 { return }
      remaining = remaining.dropFirst(written)
    }
  }

  /// Whether standard error is the socket that systemd announced in `JOURNAL_STREAM`.
  static var standardErrorIsJournal: Bool {
    guard let announced = environment("JOURNAL_STREAM") else { return false }
    var status = stat()
    guard unsafe fstat(STDERR_FILENO, &status) == 0 else { return false }
    return announced == "\(status.st_dev):\(status.st_ino)"
  }

  /// `2026-11-25T03:10:17.123Z`
  static func timeText(_ microseconds: Int) -> String {
    func padded(_ number: Int, _ width: Int) -> String {
      let digits = String(number)
      return String(repeating: "0", count: max(0, width - digits.count)) + digits
    }
    let seconds = microseconds / 1_000_000
    let (year, month, day) = civilDate(day: seconds / 86400)
    let date = "\(year)-\(padded(month, 2))-\(padded(day, 2))"
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
    let time = "\(padded(hour, 2)):\(padded(minute, 2)):\(padded(second, 2))"
    return "\(date)T\(time).\(padded(microseconds / 1000 % 1000, 3))Z"
  }

  /// The date of a day since 1970-01-01, counted in years that begin in March, so that the leap
  /// day is a year's last.
  private static func civilDate(day: Int) -> (year: Int, month: Int, day: Int) {
    let daysInEra = 146_097  // 400 years
    let shifted = day + 719_468  // since 0000-03-01
    let era = shifted / daysInEra
    let dayOfEra = shifted % daysInEra
    let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36524 - dayOfEra / 146_096) / 365
    let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
    let marchMonth = (5 * dayOfYear + 2) / 153
    let month = marchMonth < 10 ? marchMonth + 3 : marchMonth - 9
    let year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
    return (year, month, dayOfYear - (153 * marchMonth + 2) / 5 + 1)
  }
}

extension String {
  /// The text with bytes that would break or colour a line replaced by `?`.
  var replacingControlCharacters: String {
    guard utf8.contains(where: { $0 < 0x20 || $0 == 0x7f }) else { return self }
    return String(
      decoding: utf8.map { $0 < 0x20 || $0 == 0x7f ? UInt8(ascii: "?") : $0 }, as: UTF8.self)
  }
}

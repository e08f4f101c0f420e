import Glibc

/// Where a program's settings come from, and where those go that CONFIG SET has changed.
final class Configuration: Sendable {
  let invocation: Invocation
  /// What the sources said last.
  private let said: Guarded<Settings>

  /// - Parameter settings: What the sources say.
  init(_ invocation: Invocation, saying settings: Settings) {
    self.invocation = invocation
    said = Guarded(settings)
  }

  /// A setting of which the sources say something new.
  struct Change {
    let setting: Setting
    let old: String
    let new: String
  }

  /// Reads the sources again, and returns what has changed in them since that was last done.
  ///
  /// - Throws: One sentence; then nothing counts as read.
  func reload() throws(StartError) -> [Change] {
    let new = try invocation.settings()
    return said.withLock { old in
      defer { old = new }
      return Setting.all.compactMap { setting in
        let change = Change(
          setting: setting, old: setting.text(in: old), new: setting.text(in: new))
        return change.old == change.new ? nil : change
      }
    }
  }

  /// What a rewrite has done.
  struct Rewrite {
    let path: String
    /// Settings that were written.
    let names: [String]
    /// Those of them that a flag will override at the next start.
    let overridden: [String]
  }

  /// Writes settings that differ from what the sources say, so that they hold after a restart: to the
  /// configuration file, or where that cannot be changed to `Invocation.stateFile`.
  ///
  /// The old file stays whole until the new one is on the disk. One rewrite at a time.
  ///
  /// - Parameters:
  ///   - running: The settings that hold.
  ///   - changed: Names of those that CONFIG SET has changed.
  /// - Throws: One sentence; then no file has changed.
  func rewrite(_ running: Settings, changed: Set<String>) throws(StartError) -> Rewrite {
    var failure: StartError?
    let result = said.withLock { said -> Rewrite? in
      do throws(StartError) {
        let result = try rewriteNow(running, changed)
        said = try invocation.settings()
        return result
      } catch {
        failure = error
        return nil
      }
    }
    guard let result else { throw failure ?? StartError("nothing was written") }
    return result
  }

  private func rewriteNow(
    _ running: Settings, _ changed: Set<String>
  ) throws(StartError) -> Rewrite {
    guard let file = invocation.file else { throw StartError("there is no configuration file") }
    let kept = try invocation.settings()
    let base = try invocation.settings(readingStateFile: false)
    var lines: [(setting: Setting, line: String)] = []
    for setting in Setting.all where setting.change == .anyTime {
      let value = setting.written(in: changed.contains(setting.name) ? running : kept)
      if value == setting.written(in: base) { continue }
      lines.append((setting, try SettingsFile.line(setting, value, in: base)))
    }
    let flags = Set(invocation.flags.map(\.setting.name))
    let names = lines.map(\.setting.name)
    func rewrite(_ path: String) -> Rewrite {
      Rewrite(path: path, names: names, overridden: names.filter { flags.contains($0) })
    }
    let old = try SettingsFile.contents(of: file)
    let new = SettingsFile.text(old, with: lines)
    let number = new == old ? 0 : replaceFile(file, with: new)
    if number == 0 {
      // What it held is in the other file now.
      if let stateFile = invocation.stateFile { unsafe unlink(stateFile) }
      return rewrite(file)
    }
    guard [EROFS, EACCES, EPERM].contains(number), let stateFile = invocation.stateFile else {
      throw StartError(systemErrorText(number))
    }
    let text = SettingsFile.text("# Settings that hold behind those of \(file).\n", with: lines)
    let second = replaceFile(stateFile, with: text)
    guard second == 0 else { throw StartError("\(stateFile): \(systemErrorText(second))") }
    return rewrite(stateFile)
  }
}

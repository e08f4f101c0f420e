/// Secrets that systemd hands over in files which nobody else can read.
///
/// A setting that is secret, such as `requirepass`, is read from the credential `valiant.NAME`.
/// Configuration file and flags win. Source: systemd.exec(5), CREDENTIALS.
enum Credentials {
  /// - Throws: One sentence, when a credential is there but cannot be read or is no good.
  static func read(into settings: inout Settings) throws(StartError) {
    guard let folder = environment("CREDENTIALS_DIRECTORY") else { return }
    for setting in Setting.all where setting.isSecret {
      let path = "\(folder)/valiant.\(setting.name)"
      if isMissing(path) { continue }
      // Editors and `echo` end a file with a line end.
      var text = try SettingsFile.contents(of: path)
      while text.last?.isNewline == true { text.removeLast() }
      do throws(SettingError) {
        try setting.read(text, into: &settings)
      } catch {
        throw StartError("credential valiant.\(setting.name): \(error)")
      }
    }
  }
}

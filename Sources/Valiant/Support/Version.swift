/// What this program says it is.
enum Version {
  /// Valiant's own version.
  static let valiant = "0.1.0"
  /// The Redis version whose behaviour it follows; clients decide by it what they may use.
  static let redis = "7.2.0"
}

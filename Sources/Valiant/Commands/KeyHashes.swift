/// Hashes of a request's keys, by argument.
///
/// Invariant: `base` has room for `capacity` hashes, `capacityMin` at least.
@safe struct KeyHashes: ~Copyable {
  private var base: UnsafeMutablePointer<UInt64>
  private var capacity = capacityMin
  private static let capacityMin = 64
  private static let keptCapacity = 8192

  init() {
    unsafe base = .allocate(capacity: capacity)
    unsafe base.initialize(repeating: 0, count: capacity)
  }

  deinit { unsafe base.deallocate() }

  /// Makes room for the keys of a request of `count` arguments.
  mutating func reserve(_ count: Int) {
    let wanted = max(Self.capacityMin, count)
    if wanted <= capacity, capacity <= Self.keptCapacity { return }
    unsafe base.deallocate()
    capacity = wanted
    unsafe base = .allocate(capacity: capacity)
    unsafe base.initialize(repeating: 0, count: capacity)
  }

  /// Handlers mostly know their keys' indices, so that nothing is left of this.
  @inline(__always)
  private func check(_ index: Int) {
    precondition(
      UInt(bitPattern: index) < UInt(Self.capacityMin)
        || UInt(bitPattern: index) < UInt(bitPattern: capacity), "no such argument")
  }

  @inline(__always)
  subscript(index: Int) -> UInt64 {
    get {
      check(index)
      return unsafe base[index]
    }
    set {
      check(index)
      unsafe base[index] = newValue
    }
  }
}

/// What changing a keyspace needs from its store, and how uses of its entries are noted.
///
/// One pointer, so that it is handed down in a register: passing its parts would cost a GET twenty
/// instructions.
///
/// Invariant: `state` is initialised from `init` or `copy` to `end` or `free`. `access`, `listener`,
/// `author`, `recorder` and `hasChanges` are written by one thread, to which the copy belongs; the rest never changes.
@safe struct StorageContext: Sendable {
  private struct State {
    let hashing: SipHash
    let pool: BlockPool
    let steps: StepTimes
    let eviction: Eviction
    let observers: KeyObservers
    var access: AccessTracking
    var listener: RemovalListener?
    var author = 0
    var recorder: ChangeRecorder?
    var hasChanges = false
  }

  /// Hears of keys that go by themselves, under the lock of their shard.
  typealias RemovalListener = (KeyChange, Bytes, _ database: Int) -> Void

  // SAFETY: see the invariant.
  nonisolated(unsafe) private let state: UnsafeMutablePointer<State>

  init(hashing: SipHash = .random()) {
    self.init(
      State(
        hashing: hashing, pool: BlockPool(), steps: StepTimes(), eviction: Eviction(),
        observers: KeyObservers(), access: AccessTracking()))
  }

  private init(_ new: State) {
    unsafe state = .allocate(capacity: 1)
    unsafe state.initialize(to: new)
  }

  /// The same store with an `access` of its own, for who notes uses differently; ended by `free`.
  func copy() -> StorageContext { unsafe StorageContext(state.pointee) }

  /// Who hears of keys that go while this copy is used, in keyspaces that are told to tell.
  var listener: RemovalListener? {
    get { unsafe state.pointee.listener }
    nonmutating set { unsafe state.pointee.listener = newValue }
  }

  /// Identifier of the client that changes keys by this copy; 0 for nobody.
  @inline(__always)
  var author: Int {
    get { unsafe state.pointee.author }
    nonmutating set { unsafe state.pointee.author = newValue }
  }

  /// What records changes that are made by this copy, while somebody writes them down.
  var recorder: ChangeRecorder? {
    get { unsafe state.pointee.recorder }
    nonmutating set { unsafe state.pointee.recorder = newValue }
  }

  /// Whether keys have been changed that `recorder` has not recorded.
  @inline(__always)
  var hasChanges: Bool {
    get { unsafe state.pointee.hasChanges }
    nonmutating set { unsafe state.pointee.hasChanges = newValue }
  }

  /// Ends a copy.
  func free() {
    unsafe state.deinitialize(count: 1)
    unsafe state.deallocate()
  }

  /// Frees what all copies share, too. Nobody may use one any more.
  func end() {
    pool.end()
    steps.free()
    eviction.free()
    observers.free()
    free()
  }

  /// The hash of keys that move.
  @inline(__always)
  var hashing: SipHash { unsafe state.pointee.hashing }
  /// Where memory comes from.
  @inline(__always)
  var pool: BlockPool { unsafe state.pointee.pool }
  /// How long the steps of upkeep take.
  var steps: StepTimes { unsafe state.pointee.steps }
  /// Who goes when there is no room left.
  var eviction: Eviction { unsafe state.pointee.eviction }
  /// Who is told when keys change.
  var observers: KeyObservers { unsafe state.pointee.observers }
  /// How a use of an entry is noted; changes with time and policy.
  @inline(__always)
  var access: AccessTracking {
    get { unsafe state.pointee.access }
    nonmutating set { unsafe state.pointee.access = newValue }
  }
}

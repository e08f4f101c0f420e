import Glibc
import Synchronization

/// Where a store's memory comes from: blocks of a few sizes for tables and chunks of entries.
///
///     region   64 MiB, aligned to its size     [ header | page 1 | page 2 | … | page 1023 ]
///     page     64 KiB                          blocks of one size, or free
///     header   of a region                     16 bytes for each page
///
/// Sizes are powers of two from 64 bytes to 64 KiB, and up to 16 KiB also three in between. Free
/// blocks of a page are chained through their first two bytes. Pages of which no block is in use
/// are kept for the next size that wants one, as many as 1/256 of the pages in use and half a
/// megabyte; those beyond go back to the system at once. Larger blocks are mapped each for itself, and
/// long values lie in `SharedBlock`s, which are only counted here.
///
/// Why not `malloc` for all: it rounds to 16 bytes and adds 8, does not say what it holds without
/// using it, and gives little back when what survives lies scattered. Here nothing is rounded,
/// `residentBytes` is known to the page, and who frees a store unmaps regions instead of freeing
/// millions of blocks.
///
/// Any thread may call any method; one lock guards everything. It is taken once for a hundred
/// insertions or so.
///
/// Invariants:
/// 1. A page's `freeCount` is the length of its chain and the blocks never handed out.
/// 2. A page with free and used blocks is in one of the two lists of its size, and no other page is:
///    in `sparse` if at least half of its blocks are free, else in `partial`.
/// 3. `blockBytes` is the sum of the sizes of all blocks in use, large ones included.
@safe struct BlockPool: Sendable {
  // SAFETY: touched under `lock` only, but for the atomic counters.
  nonisolated(unsafe) private let state: UnsafeMutablePointer<State>
  nonisolated(unsafe) private let lock: UnsafeMutablePointer<SpinLock>

  /// The largest block that lies in a page.
  static let pageBytes = 1 << 16
  private static let pagesInRegion = 1 << 10
  private static let regionBytes = pageBytes * pagesInRegion
  private static let smallestBytes = 64
  /// Above this there are powers of two only: what lies between would waste too much of a page.
  private static let quarterStepsMax = 16 * 1024
  private static let quarterSizes = 33
  private static let none: UInt32 = 0
  private static let noBlock: UInt16 = 0xffff
  private static let keptPagesMin = 8
  private static let keptPagesShare = 256

  /// What the header of a region says about a page.
  private struct Page {
    /// Neighbours in the list that the page is in, as page numbers.
    var next: UInt32 = none
    var previous: UInt32 = none
    var size: UInt8 = 0
    var freeCount: UInt16 = 0
    /// First block of the chain.
    var firstFree: UInt16 = noBlock
    /// Blocks that were ever handed out; those behind have not been touched.
    var begun: UInt16 = 0
  }

  private struct State: ~Copyable {
    /// Addresses of all regions. A page's number is region << 10 | page; 0 is a header: no page.
    var regions: [UInt] = []
    /// For each size, the first page with both used and free blocks; two lists, see the invariants.
    var partial: InlineArray<35, UInt32> = .init(repeating: none)
    var sparse: InlineArray<35, UInt32> = .init(repeating: none)
    /// Free pages whose memory is still there, and those without memory.
    var warm = none
    var warmCount = 0
    var cold = none
    var pagesInUse = 0
    /// The next page of the last region that was never used.
    var nextPage = pagesInRegion
    /// Allocations until one fails; for tests.
    var failAfter = Int.max
    let blockBytes = Atomic<Int>(0)
    let pageBytes = Atomic<Int>(0)
    let largeBlockBytes = Atomic<Int>(0)
    let leavingBytes = Atomic<Int>(0)
    let arrivingBytes = Atomic<Int>(0)
  }

  init() {
    precondition(MemoryLayout<Page>.size <= 16, "a header has outgrown its page")
    unsafe state = .allocate(capacity: 1)
    unsafe state.initialize(to: State())
    unsafe lock = .allocate(capacity: 1)
    unsafe lock.initialize(to: SpinLock())
  }

  /// Gives everything back, blocks in use included, but for large ones: they are given back before.
  func end() {
    for region in unsafe state.pointee.regions {
      unsafe munmap(UnsafeMutableRawPointer(bitPattern: region), Self.regionBytes)
    }
    unsafe state.deinitialize(count: 1)
    unsafe state.deallocate()
    unsafe lock.deinitialize(count: 1)
    unsafe lock.deallocate()
  }

  // MARK: What is in use

  /// Bytes of all blocks in use.
  var blockBytes: Int { unsafe state.pointee.blockBytes.load(ordering: .relaxed) }

  /// The same without what another thread is about to give back, and with what is on its way here.
  @inline(__always)
  var usedBytes: Int {
    unsafe blockBytes &- state.pointee.leavingBytes.load(ordering: .relaxed)
      &+ state.pointee.arrivingBytes.load(ordering: .relaxed)
  }

  /// Counts bytes that clients have sent of long values which are not complete; negative when they
  /// are.
  func countArriving(_ bytes: Int) {
    unsafe state.pointee.arrivingBytes.wrappingAdd(bytes, ordering: .relaxed)
  }

  /// Bytes that count although they are in no block of the pool.
  var arrivingBytes: Int { unsafe state.pointee.arrivingBytes.load(ordering: .relaxed) }

  /// Counts bytes of blocks that another thread is about to give back; negative when it has.
  func countLeaving(_ bytes: Int) {
    unsafe state.pointee.leavingBytes.wrappingAdd(bytes, ordering: .relaxed)
  }

  /// Bytes that the pool keeps from the system: pages in use or kept, and large blocks.
  var residentBytes: Int {
    unsafe state.pointee.pageBytes.load(ordering: .relaxed)
      + state.pointee.largeBlockBytes.load(ordering: .relaxed)
  }

  /// Counts a large block; negative when it is given back.
  private func countLarge(_ bytes: Int) {
    unsafe state.pointee.largeBlockBytes.wrappingAdd(bytes, ordering: .relaxed)
    unsafe state.pointee.blockBytes.wrappingAdd(bytes, ordering: .relaxed)
  }

  // MARK: Sizes

  /// The number of the size that has room for `bytes`, 1...65,536.
  ///
  /// Four sizes a doubling: 64, 80, 96, 112, 128, 160 and so on; from 16 KiB on one.
  private static func sizeIndex(_ bytes: Int) -> Int {
    let last = max(bytes, smallestBytes) - 1
    // 5 for up to 64 bytes, 6 for 65 to 128.
    let exponent = Int.bitWidth - 1 - last.leadingZeroBitCount
    if last >= quarterStepsMax {
      return quarterSizes + exponent - quarterStepsMax.trailingZeroBitCount
    }
    if exponent == 5 { return 0 }
    return (exponent - 6) * 4 + (last >> (exponent - 2) & 3) + 1
  }

  private static func sizeBytes(_ index: Int) -> Int {
    if index >= quarterSizes { return (quarterStepsMax * 2) << (index - quarterSizes) }
    return (smallestBytes / 4 * (4 + index & 3)) << (index >> 2)
  }

  /// Bytes of the block that a request for `bytes` gets.
  static func capacity(_ bytes: Int) -> Int {
    bytes <= pageBytes ? sizeBytes(sizeIndex(bytes)) : MemoryMap.rounded(bytes)
  }

  // MARK: Taking

  /// A block of at least `bytes`, aligned to 8; nil when the system has no memory. O(1).
  ///
  /// Its content is undefined.
  func allocate(_ bytes: Int) -> UnsafeMutableRawPointer? {
    if bytes > Self.pageBytes { return unsafe allocateLarge(bytes) }
    let index = Self.sizeIndex(bytes)
    return unsafe lock.pointee.withLock { unsafe takeBlock(index) }
  }

  /// Gives back a block. O(1), and a call of the system when a page becomes free.
  ///
  /// - Parameter bytes: As many as were asked for.
  func free(_ block: UnsafeMutableRawPointer, _ bytes: Int) {
    if bytes > Self.pageBytes { return unsafe freeLarge(block, bytes) }
    let excess: Excess? = unsafe lock.pointee.withLock {
      unsafe giveBack(block, Self.sizeIndex(bytes))
    }
    if let excess { release(excess) }
  }

  /// A page that is to go back to the system, and is in no list meanwhile.
  private struct Excess {
    let number: UInt32
    let address: UInt
  }

  /// A block of more than a page, for a directory or a list; given back by `free`.
  private func allocateLarge(_ bytes: Int) -> UnsafeMutableRawPointer? {
    guard allows(), let block = unsafe MemoryMap.map(bytes) else { return nil }
    countLarge(MemoryMap.rounded(bytes))
    return unsafe block
  }

  private func freeLarge(_ block: UnsafeMutableRawPointer, _ bytes: Int) {
    countLarge(-MemoryMap.rounded(bytes))
    unsafe MemoryMap.unmap(block, bytes)
  }

  /// Whether another allocation may succeed: always, but for tests.
  private func allows() -> Bool {
    unsafe lock.pointee.withLock { !mayNotAllocate() }
  }

  // MARK: Long values

  /// A block for a long value; nil when there is no memory.
  ///
  /// It is not counted as in use before `adopt`.
  func allocateShared(_ bytes: Int, isZero: Bool = false) -> SharedBlock? {
    guard allows() else { return nil }
    return isZero ? SharedBlock(zeros: bytes) : SharedBlock(capacity: bytes)
  }

  /// Makes a block of the store larger, of which it holds the only reference; see
  /// `SharedBlock.grown`.
  func grow(_ block: SharedBlock, to capacity: Int, count: Int) -> SharedBlock? {
    let before = block.footprint
    guard allows(), let grown = block.grown(to: capacity, count: count, zeroing: true) else {
      return nil
    }
    countLarge(grown.footprint - before)
    return grown
  }

  /// Counts a block as in use, one reference to which is now the store's.
  func adopt(_ block: SharedBlock) { countLarge(block.footprint) }

  /// Gives up the store's reference to a block.
  func release(_ block: SharedBlock) {
    countLarge(-block.footprint)
    block.release()
  }

  private func mayNotAllocate() -> Bool {
    if unsafe state.pointee.failAfter == Int.max { return false }
    unsafe state.pointee.failAfter -= 1
    return unsafe state.pointee.failAfter < 0
  }

  /// Makes the allocation after `count` more ones fail, and all that follow. For tests.
  func fail(after count: Int) {
    unsafe lock.pointee.withLock { unsafe state.pointee.failAfter = count }
  }

  private func takeBlock(_ index: Int) -> UnsafeMutableRawPointer? {
    if mayNotAllocate() { return nil }
    // The fullest pages first, so that others become empty.
    var number = unsafe state.pointee.partial[index]
    if number == Self.none { number = unsafe state.pointee.sparse[index] }
    if number == Self.none {
      number = takePage()
      if number == Self.none { return nil }
      let page = unsafe page(number)
      unsafe page.pointee = Page(size: UInt8(index), freeCount: UInt16(Self.blocksInPage(index)))
      unsafe push(number, on: &state.pointee.sparse[index])
    }
    return unsafe takeBlock(of: number, index)
  }

  private func takeBlock(of number: UInt32, _ index: Int) -> UnsafeMutableRawPointer {
    let page = unsafe page(number)
    let bytes = Self.sizeBytes(index)
    let block: UnsafeMutableRawPointer
    let first = unsafe page.pointee.firstFree
    if first != Self.noBlock {
      unsafe block = address(number) + Int(first) * bytes
      unsafe page.pointee.firstFree = block.load(as: UInt16.self)
    } else {
      unsafe block = address(number) + Int(page.pointee.begun) * bytes
      unsafe page.pointee.begun += 1
    }
    let free = unsafe page.pointee.freeCount
    unsafe page.pointee.freeCount = free - 1
    relist(number, index, from: Int(free), to: Int(free) - 1)
    unsafe state.pointee.blockBytes.wrappingAdd(bytes, ordering: .relaxed)
    return unsafe block
  }

  private static func blocksInPage(_ index: Int) -> Int { pageBytes / sizeBytes(index) }

  private enum List {
    case partial, sparse
  }

  /// The list for a page with so many free blocks; none for a full or an empty one.
  private static func list(_ free: Int, _ index: Int) -> List? {
    let blocks = blocksInPage(index)
    if free == 0 || free == blocks { return nil }
    return free * 2 >= blocks ? .sparse : .partial
  }

  /// Moves a page whose number of free blocks has changed to the list where it belongs.
  private func relist(_ number: UInt32, _ index: Int, from old: Int, to new: Int) {
    // A new page waits in the sparse list for its first block.
    let isNew = new < old && old == Self.blocksInPage(index)
    let from = isNew ? .sparse : Self.list(old, index)
    let to = Self.list(new, index)
    if from == to { return }
    switch from {
    case .partial: unsafe unlink(number, from: &state.pointee.partial[index])
    case .sparse: unsafe unlink(number, from: &state.pointee.sparse[index])
    case nil: break
    }
    switch to {
    case .partial: unsafe push(number, on: &state.pointee.partial[index])
    case .sparse: unsafe push(number, on: &state.pointee.sparse[index])
    case nil: break
    }
  }

  /// - Returns: A page that should be released.
  private func giveBack(_ block: UnsafeMutableRawPointer, _ index: Int) -> Excess? {
    let number = unsafe number(of: block)
    let page = unsafe page(number)
    let bytes = Self.sizeBytes(index)
    precondition(unsafe page.pointee.size == UInt8(index), "a block of another size")
    unsafe state.pointee.blockBytes.wrappingSubtract(bytes, ordering: .relaxed)
    let offset = UInt(bitPattern: block) & UInt(Self.pageBytes - 1)
    unsafe block.storeBytes(of: page.pointee.firstFree, as: UInt16.self)
    unsafe page.pointee.firstFree = UInt16(Int(offset) / bytes)
    let free = unsafe Int(page.pointee.freeCount) + 1
    unsafe page.pointee.freeCount = UInt16(free)
    relist(number, index, from: free - 1, to: free)
    if free < Self.blocksInPage(index) { return nil }
    unsafe state.pointee.pagesInUse -= 1
    unsafe push(number, on: &state.pointee.warm)
    unsafe state.pointee.warmCount += 1
    let kept = unsafe max(
      Self.keptPagesMin, state.pointee.pagesInUse / Self.keptPagesShare)
    if unsafe state.pointee.warmCount <= kept { return nil }
    let excess = takeWarm()
    return Excess(number: excess, address: UInt(bitPattern: unsafe address(excess)))
  }

  // MARK: Consolidating

  /// Whether so much of the pages in use is free that blocks should be moved together.
  var isFragmented: Bool {
    let blocks = blockBytes
    return residentBytes - blocks > max(Self.fragmentedBytesMin, blocks / Self.fragmentedShare)
  }

  private static let fragmentedBytesMin = 2 << 20
  private static let fragmentedShare = 64

  /// A block in a fuller page for the content of `block`, if that lies in a sparse one.
  ///
  /// The caller copies the content, and gives the old block back.
  ///
  /// - Parameter bytes: As many as were asked for.
  func betterBlock(than block: UnsafeMutableRawPointer, _ bytes: Int) -> UnsafeMutableRawPointer? {
    let index = Self.sizeIndex(bytes)
    return unsafe lock.pointee.withLock {
      let number = unsafe number(of: block)
      guard unsafe Self.list(Int(page(number).pointee.freeCount), index) == .sparse else {
        return nil
      }
      var better = unsafe state.pointee.partial[index]
      if better == Self.none {
        // Sparse pages fill up in the order of their list.
        better = unsafe state.pointee.sparse[index]
        if better == number { return nil }
      }
      return mayNotAllocate() ? nil : unsafe takeBlock(of: better, index)
    }
  }

  // MARK: Pages

  private func takeWarm() -> UInt32 {
    let number = unsafe state.pointee.warm
    unsafe unlink(number, from: &state.pointee.warm)
    unsafe state.pointee.warmCount -= 1
    return number
  }

  /// A free page, the best one first: with memory, without, never used.
  private func takePage() -> UInt32 {
    var number: UInt32
    if unsafe state.pointee.warmCount > 0 {
      number = takeWarm()
    } else if unsafe state.pointee.cold != Self.none {
      number = unsafe state.pointee.cold
      unsafe unlink(number, from: &state.pointee.cold)
      unsafe state.pointee.pageBytes.wrappingAdd(Self.pageBytes, ordering: .relaxed)
    } else {
      if unsafe state.pointee.nextPage == Self.pagesInRegion, !addRegion() { return Self.none }
      let region = unsafe state.pointee.regions.count - 1
      number = unsafe UInt32(region * Self.pagesInRegion + state.pointee.nextPage)
      unsafe state.pointee.nextPage += 1
      unsafe state.pointee.pageBytes.wrappingAdd(Self.pageBytes, ordering: .relaxed)
    }
    unsafe state.pointee.pagesInUse += 1
    return number
  }

  /// Returns a page's memory to the system.
  private func release(_ page: Excess) {
    unsafe madvise(
      UnsafeMutableRawPointer(bitPattern: page.address), Self.pageBytes, MADV_DONTNEED)
    unsafe lock.pointee.withLock {
      unsafe push(page.number, on: &state.pointee.cold)
      unsafe state.pointee.pageBytes.wrappingSubtract(Self.pageBytes, ordering: .relaxed)
    }
  }

  private func addRegion() -> Bool {
    // Twice as much, so that an aligned part is in it; the rest is given back.
    let bytes = Self.regionBytes
    guard let mapped = unsafe MemoryMap.map(2 * bytes) else { return false }
    let start = UInt(bitPattern: mapped)
    let aligned = (start + UInt(bytes) - 1) & ~UInt(bytes - 1)
    if aligned > start { unsafe munmap(mapped, Int(aligned - start)) }
    let tail = start + UInt(bytes) - aligned
    if tail > 0 {
      unsafe munmap(UnsafeMutableRawPointer(bitPattern: aligned + UInt(bytes)), Int(tail))
    }
    unsafe state.pointee.regions.append(aligned)
    unsafe state.pointee.nextPage = 1
    // The record of the header itself says which region this is.
    let index = unsafe state.pointee.regions.count - 1
    unsafe page(UInt32(index * Self.pagesInRegion)).pointee.next = UInt32(index)
    return true
  }

  /// What the header says about page `number`.
  private func page(_ number: UInt32) -> UnsafeMutablePointer<Page> {
    let region = unsafe state.pointee.regions[Int(number) / Self.pagesInRegion]
    // SAFETY: a region begins with its header, which is zero, so bytes, before its first use.
    return unsafe UnsafeMutableRawPointer(bitPattern: region).unsafelyUnwrapped
      .assumingMemoryBound(to: Page.self) + Int(number) % Self.pagesInRegion
  }

  private func address(_ number: UInt32) -> UnsafeMutableRawPointer {
    let region = unsafe state.pointee.regions[Int(number) / Self.pagesInRegion]
    return unsafe UnsafeMutableRawPointer(bitPattern: region).unsafelyUnwrapped
      + Int(number) % Self.pagesInRegion * Self.pageBytes
  }

  private func number(of block: UnsafeMutableRawPointer) -> UInt32 {
    let address = UInt(bitPattern: block)
    let region = address & ~UInt(Self.regionBytes - 1)
    // SAFETY: every block lies in a region, which begins with its header.
    let index = unsafe UnsafeMutableRawPointer(bitPattern: region).unsafelyUnwrapped
      .assumingMemoryBound(to: Page.self).pointee.next
    return index << 10 + UInt32((address - region) / UInt(Self.pageBytes))
  }

  private func push(_ number: UInt32, on list: inout UInt32) {
    let page = unsafe page(number)
    unsafe page.pointee.previous = Self.none
    unsafe page.pointee.next = list
    if list != Self.none { unsafe self.page(list).pointee.previous = number }
    list = number
  }

  private func unlink(_ number: UInt32, from list: inout UInt32) {
    let page = unsafe page(number)
    let (next, previous) = unsafe (page.pointee.next, page.pointee.previous)
    if next != Self.none { unsafe self.page(next).pointee.previous = previous }
    if previous != Self.none { unsafe self.page(previous).pointee.next = next } else { list = next }
  }
}

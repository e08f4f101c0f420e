extension HashTable {
  /// A segment, taken apart from its directory word.
  ///
  /// Invariant: `base` points to `slotCount` slots, the word behind them and, if there are groups, their
  /// deadlines, with room for another two bytes' reading.
  @safe struct Segment {
    let base: UnsafeMutableRawPointer
    /// 9...slots(bytes: bytesMax).
    let slotCount: UInt64
    let localDepth: UInt64

    static let slotBytes = 6
    static let bytesMin = 64
    static let bytesMax = 2048
    static let addressMask: UInt64 = (1 << 48) - 1

    @inline(__always)
    init(word: UInt64) {
      // SAFETY: a directory word holds the address of a live segment.
      unsafe base =
        UnsafeMutableRawPointer(
          bitPattern: UInt(truncatingIfNeeded: word & Segment.addressMask)
        ).unsafelyUnwrapped
      slotCount = word &>> 54
      localDepth = (word &>> 48) & 0x3f
    }

    /// An empty segment of `bytes`; nil when there is no memory.
    init?(bytes: Int, localDepth: UInt64, _ pool: BlockPool) {
      guard let block = unsafe pool.allocate(bytes) else { return nil }
      unsafe base = block
      slotCount = UInt64(Self.slots(bytes: bytes))
      self.localDepth = localDepth
      unsafe base.initializeMemory(as: UInt8.self, repeating: 0, count: bytes)
      trailer = Self.noDeadline << 16
      for group in 0..<groupCount { setGroupDeadline(Self.noDeadline, of: group) }
    }

    /// Slots that fit into a block of `bytes`.
    static func slots(bytes: Int) -> Int {
      // A doubling of the bytes is another bit; `groupBits` finds the same from the slots.
      let bits = UInt64(max(0, bytes.bitWidth - 1 - bytes.leadingZeroBitCount - 7))
      return (bytes - 8 - groupsBytes(bits)) / slotBytes
    }

    /// Bytes of the next larger segment: three sizes a doubling.
    static func bytes(after bytes: Int) -> Int { BlockPool.capacity(bytes + bytes / 5) }

    /// Bytes of the smallest block in which `count` entries are no more than 2/3 of the slots.
    static func bytes(for count: UInt64) -> Int {
      var bytes = bytesMin
      while bytes < bytesMax, UInt64(slots(bytes: bytes)) * 2 < count * 3 {
        bytes = Self.bytes(after: bytes)
      }
      return bytes
    }

    var word: UInt64 {
      UInt64(UInt(bitPattern: unsafe base)) | localDepth << 48 | slotCount << 54
    }

    /// Bytes of the segment's block.
    var bytes: Int {
      BlockPool.capacity(
        Int(slotCount) * Self.slotBytes + 8 + Self.groupsBytes(groupBits))
    }

    // The word behind the slots.

    static let noDeadline: UInt64 = (1 << 48) - 1

    @inline(__always)
    private var trailer: UInt64 {
      get {
        unsafe base.loadUnaligned(fromByteOffset: Int(slotCount) &* Self.slotBytes, as: UInt64.self)
      }
      nonmutating set {
        unsafe base.storeBytes(
          of: newValue, toByteOffset: Int(slotCount) &* Self.slotBytes, as: UInt64.self)
      }
    }

    @inline(__always)
    var count: UInt64 {
      get { trailer & 0xffff }
      nonmutating set { trailer = (trailer & ~0xffff) | newValue }
    }

    /// Milliseconds before which nothing in the segment expires.
    @inline(__always)
    var earliestDeadline: UInt64 {
      get { trailer &>> 16 }
      nonmutating set { trailer = newValue &<< 16 | (trailer & 0xffff) }
    }

    @inline(__always)
    var isFull: Bool { count &* 16 >= slotCount &* 13 }

    // The earliest deadlines of groups of entries, behind that word: 48 bits each.

    /// Bits of the tag, at its top, that say to which group an entry belongs: as many as make groups of
    /// about twenty slots. With none the segment is one group, whose deadline is the segment's.
    @inline(__always)
    var groupBits: UInt64 { Self.groupBits(slotCount: slotCount) }

    @inline(__always)
    private static func groupBits(slotCount: UInt64) -> UInt64 {
      UInt64(truncatingIfNeeded: 63 &- (slotCount / 19 | 1).leadingZeroBitCount)
    }

    /// Bytes of the groups' deadlines. Two more, for all eight bytes are read.
    @inline(__always)
    private static func groupsBytes(_ bits: UInt64) -> Int { bits == 0 ? 0 : 6 &<< Int(bits) &+ 2 }

    /// Groups that the segment consists of.
    var groupCount: Int { 1 &<< Int(groupBits) }

    /// The tags of a group.
    func tags(ofGroup group: Int) -> Range<UInt64> {
      let shift = 16 - groupBits
      return UInt64(group) << shift..<UInt64(group + 1) << shift
    }

    @inline(__always)
    private func groupAddress(_ group: Int) -> UnsafeMutableRawPointer {
      precondition(
        groupBits > 0 && UInt(bitPattern: group) < UInt(bitPattern: groupCount), "no such group")
      return unsafe base + (Int(slotCount) &* Self.slotBytes &+ 8 &+ group &* 6)
    }

    /// Milliseconds before which nothing in a group expires.
    func groupDeadline(_ group: Int) -> UInt64 {
      if groupBits == 0 { return earliestDeadline }
      return unsafe groupAddress(group).loadUnaligned(as: UInt64.self) & Self.noDeadline
    }

    func setGroupDeadline(_ deadline: UInt64, of group: Int) {
      if groupBits == 0 {
        earliestDeadline = deadline
        return
      }
      let address = unsafe groupAddress(group)
      unsafe address.storeBytes(of: UInt32(truncatingIfNeeded: deadline), as: UInt32.self)
      unsafe address.storeBytes(
        of: UInt16(truncatingIfNeeded: deadline &>> 32), toByteOffset: 4, as: UInt16.self)
    }

    /// Takes over the deadlines of a segment that has held the same entries, and maybe others.
    func adoptDeadlines(of other: Segment) {
      earliestDeadline = other.earliestDeadline
      if other.earliestDeadline == Self.noDeadline { return }
      for group in 0..<groupCount {
        let tags = tags(ofGroup: group)
        let first = other.group(ofTag: tags.lowerBound)
        var deadline = other.groupDeadline(first)
        for more in first..<other.group(ofTag: tags.upperBound - 1) {
          deadline = min(deadline, other.groupDeadline(more + 1))
        }
        setGroupDeadline(deadline, of: group)
      }
    }

    @inline(__always)
    private func group(ofTag tag: UInt64) -> Int {
      Int(truncatingIfNeeded: tag &>> (16 &- groupBits))
    }

    /// Notes that an entry with this tag expires at `deadline`.
    func noteDeadline(_ deadline: UInt64, tag: UInt64) {
      if deadline < earliestDeadline { earliestDeadline = deadline }
      if groupBits == 0 { return }
      let group = group(ofTag: tag)
      if deadline < groupDeadline(group) { setGroupDeadline(deadline, of: group) }
    }

    /// Milliseconds before which no entry with this tag expires.
    func earliestDeadline(ofTag tag: UInt64) -> UInt64 { groupDeadline(group(ofTag: tag)) }

    // Slots.

    /// The slot's index where an entry with this tag would like to be.
    @inline(__always)
    func home(_ tag: UInt64) -> UInt64 { (tag &* slotCount) &>> 16 }

    @inline(__always)
    func after(_ index: UInt64) -> UInt64 {
      let next = index &+ 1
      return next == slotCount ? 0 : next
    }

    /// Steps from slot `from` forward to slot `to`.
    @inline(__always)
    func distance(_ from: UInt64, _ to: UInt64) -> UInt64 {
      to >= from ? to &- from : to &+ slotCount &- from
    }

    @inline(__always)
    func address(_ index: UInt64) -> UnsafeMutableRawPointer {
      unsafe base + Int(truncatingIfNeeded: index) &* Self.slotBytes
    }

    /// Reference in the lower 32 bits, tag in the 16 above.
    @inline(__always)
    subscript(index: UInt64) -> UInt64 {
      get { unsafe address(index).loadUnaligned(as: UInt64.self) & Self.addressMask }
      nonmutating set {
        let slot = unsafe address(index)
        unsafe slot.storeBytes(of: UInt32(truncatingIfNeeded: newValue), as: UInt32.self)
        unsafe slot.storeBytes(
          of: UInt16(truncatingIfNeeded: newValue &>> 32), toByteOffset: 4, as: UInt16.self)
      }
    }

    /// Puts a slot's content into the first free place from its home on.
    @inline(__always)
    func insert(_ slot: UInt64) {
      var index = home(slot &>> 32)
      while self[index] != 0 { index = after(index) }
      self[index] = slot
    }

    /// Takes a slot out and closes the gap.
    func remove(at removed: UInt64) {
      var gap = removed
      var index = after(removed)
      while self[index] != 0 {
        // An entry may move into the gap unless its home lies behind it.
        if distance(home(self[index] &>> 32), index) >= distance(gap, index) {
          self[gap] = self[index]
          gap = index
        }
        index = after(index)
      }
      self[gap] = 0
      count -= 1
    }

    func free(_ pool: BlockPool) { unsafe pool.free(base, bytes) }

    /// The same segment in a fuller page of the pool; nil when it lies well.
    func consolidated(_ pool: BlockPool) -> Segment? {
      guard let block = unsafe pool.betterBlock(than: base, bytes) else { return nil }
      unsafe block.copyMemory(from: base, byteCount: bytes)
      free(pool)
      return unsafe Segment(base: block, slotCount: slotCount, localDepth: localDepth)
    }

    private init(base: UnsafeMutableRawPointer, slotCount: UInt64, localDepth: UInt64) {
      unsafe self.base = base
      self.slotCount = slotCount
      self.localDepth = localDepth
    }
  }
}

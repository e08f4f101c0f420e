import CLua

/// Runs scripts in Lua, for one loop. Made when its first script comes.
///
/// Invariant: `state` and `memory` are good from `init` to `deinit`; one thread alone uses them.
@safe final class ScriptEngine {
  private let memory: UnsafeMutablePointer<valiant_lua_memory>
  private let state: OpaquePointer
  private var stack: LuaStack { unsafe LuaStack(state) }
  private unowned let server: Server
  private let activity: ScriptRun
  /// Of the scripts that are compiled.
  private var generation: Int
  /// Who has the script run that runs; nil when none does.
  private var context: UnsafeMutablePointer<CommandContext>?
  /// The command that a script calls, and what it answers.
  private var bytes = ByteBuffer()
  private var arguments = ArgumentList()
  private var reply = ReplyWriter()
  private var replyBytes = ByteBuffer()
  private var isReadOnly = false
  /// When the script began, by the steady clock, and how long it may run; 0 for any time.
  private var began = 0
  private var limit = 0
  /// Whether what is being answered has become too long.
  private var isTooLong = false
  private var answerMax = 0
  private var runCount = 0
  /// What is kept in Lua, by its number there: the scripts' environment, and who says where errors are from.
  private var environment: Int32 = 0
  private var locate: Int32 = 0
  /// Functions of scripts, by digest, and the last ones that ran.
  private var functions: [String: Prepared] = [:]
  private var recent: [Prepared] = []

  /// A script that is compiled.
  struct Prepared {
    let script: Script
    fileprivate let function: Int32
  }

  private static let recentMax = 8
  /// Bytes that Lua had when that was last told.
  private var toldBytes = 0
  /// The generator's state behind `math.random`, 48 bits.
  private var seedState: UInt64 = 0x1234_abcd_330e

  private static let memoryMax = 1 << 30
  /// Instructions between two looks at the clock, a millisecond or so.
  private static let instructionsPerLook: Int32 = 100_000
  private static let runsPerCollection = 50
  /// So many times longer a script may run that has changed something.
  private static let patience = 10

  init(server: Server) {
    self.server = server
    activity = server.scripts.makeRun()
    generation = server.scripts.generation
    unsafe memory = .allocate(capacity: 1)
    // Whoever makes a state wants all of it.
    unsafe memory.initialize(
      to: valiant_lua_memory(
        owner: nil, interrupt: Self.interrupt, used: 0, limit: Self.memoryMax, bodies: 1))
    guard let state = unsafe valiant_lua_new(memory) else {
      fatalError("out of memory for scripts")
    }
    unsafe self.state = state
    unsafe memory.pointee.owner = Unmanaged.passUnretained(self).toOpaque()
    unsafe valiant_lua_open(state)
    let failure = Array(ScriptPrelude.source.utf8).withBytes { compile($0, "=prelude") }
    precondition(failure == nil, "the prelude is wrong")
    pushProgram()
    let status = unsafe lua_pcall(state, 1, 2, 0)
    precondition(status == 0, "the prelude is wrong: \(stack.bytes(-1).text)")
    locate = stack.keep()
    environment = stack.keep()
    unsafe valiant_lua_watch(state, Self.instructionsPerLook)
    unsafe memory.pointee.bodies = 0
  }

  deinit {
    unsafe lua_close(state)
    unsafe memory.deallocate()
  }

  /// One that is made when it is first wanted.
  final class Lazy {
    private var engine: ScriptEngine?

    func made(for server: Server) -> ScriptEngine {
      if let engine { return engine }
      let engine = ScriptEngine(server: server)
      self.engine = engine
      return engine
    }
  }

  // MARK: Compiling

  /// Pushes what `source` compiles to.
  ///
  /// - Returns: Why it does not; then nothing is pushed.
  private func compile(_ source: Bytes, _ name: StaticString) -> [UInt8]? {
    // Compiling catches its own errors, so the limit of memory holds.
    let bodies = unsafe memory.pointee.bodies
    unsafe memory.pointee.bodies = 0
    defer { unsafe memory.pointee.bodies = bodies }
    var status = load(source, name)
    if status == LUA_ERRMEM {
      stack.pop()
      collect()
      status = load(source, name)
    }
    if status == 0 { return nil }
    defer { stack.pop() }
    return stack.bytes(-1).array
  }

  private func load(_ source: Bytes, _ name: StaticString) -> Int32 {
    unsafe luaL_loadbuffer(
      state, UnsafeRawPointer(source.pointer).assumingMemoryBound(to: CChar.self), source.count,
      UnsafeRawPointer(name.utf8Start).assumingMemoryBound(to: CChar.self))
  }

  /// Frees what no script can reach any more.
  private func collect() { unsafe _ = lua_gc(state, LUA_GCCOLLECT, 0) }

  /// The script with this source, if it is one of the last that ran.
  func recent(source: Bytes) -> Prepared? {
    forgetIfWanted()
    return recent.first { $0.script.source.withBytes { $0 == source } }
  }

  /// The same by its digest.
  func recent(digest: Bytes) -> Prepared? {
    forgetIfWanted()
    return recent.first { digest.equalsIgnoringCase($0.script.digest) }
  }

  private func forgetIfWanted() {
    let now = server.scripts.generation
    if now == generation { return }
    generation = now
    for prepared in functions.values { stack.forget(prepared.function) }
    functions = [:]
    recent = []
  }

  /// Has a script compiled, unless it is.
  ///
  /// - Throws: `scriptCompilation`.
  func prepare(_ script: Script) throws(CommandError) -> Prepared {
    forgetIfWanted()
    let prepared: Prepared
    if let known = functions[script.digest] {
      prepared = known
    } else {
      prepared = try compile(script)
    }
    if recent.count == Self.recentMax { recent.removeLast() }
    recent.insert(prepared, at: 0)
    return prepared
  }

  private func compile(_ script: Script) throws(CommandError) -> Prepared {
    unsafe memory.pointee.bodies += 1
    defer { unsafe memory.pointee.bodies -= 1 }
    if script.source.first == 27 {
      throw .scriptCompilation(Array("precompiled code is not allowed".utf8))
    }
    // The first line stays, as an empty one, so that the others have their numbers.
    let start = script.flags == nil ? 0 : script.source.firstIndex(of: UInt8(ascii: "\n")) ?? 0
    let problem = script.source.withBytes { compile($0.dropFirst(start), "@user_script") }
    if let problem { throw .scriptCompilation(problem) }
    stack.pushKept(environment)
    unsafe lua_setfenv(state, -2)
    let prepared = Prepared(script: script, function: stack.keep())
    functions[script.digest] = prepared
    return prepared
  }

  // MARK: Running

  /// Runs a script that has been prepared, under the locks of its keys' shards, and answers what it returns.
  ///
  /// - Parameters:
  ///   - firstKey: The argument that is the first key.
  ///   - keyCount: How many keys there are; the arguments behind them are the script's.
  ///   - isReadOnly: Whether it may not change anything.
  func run(
    _ prepared: Prepared, firstKey: Int, keyCount: Int, isReadOnly: Bool,
    in context: inout CommandContext
  ) {
    self.isReadOnly = isReadOnly
    reply.protocolVersion = 2
    limit = context.settings.scriptMilliseconds
    began = Clock.steadyMilliseconds
    activity.begin()
    unsafe memory.pointee.bodies += 1
    stack.pushKept(locate)
    stack.pushKept(prepared.function)
    stack.pushKept(environment)
    pushArguments(firstKey..<firstKey + keyCount, of: context.request, as: "KEYS")
    pushArguments(firstKey + keyCount..<context.request.count, of: context.request, as: "ARGV")
    stack.pop()
    unsafe memory.pointee.bodies -= 1
    let status = unsafe withUnsafeMutablePointer(to: &context) { pointer in
      unsafe self.context = pointer
      defer { unsafe self.context = nil }
      return unsafe lua_pcall(state, 0, 1, 1)
    }
    // Somebody may have ended it, and then has each line asked.
    unsafe valiant_lua_watch(state, Self.instructionsPerLook)
    unsafe memory.pointee.bodies += 1
    if status == 0 {
      isTooLong = false
      let start = context.reply.output.mark
      answerMax = context.reply.output.count + context.settings.bulkLengthMaxBytes
      answer(&context.reply, depth: 0)
      if isTooLong {
        context.reply.output.truncate(to: start)
        context.reply.error(Array("ERR what the script returns is too long".utf8))
      }
    } else {
      context.countScriptError()
      context.reply.error(failure(of: prepared.script))
    }
    stack.truncate(to: 0)
    unsafe memory.pointee.bodies -= 1
    activity.end()
    runCount += 1
    if runCount % Self.runsPerCollection == 0 { unsafe lua_gc(state, LUA_GCSTEP, 200) }
    // Lua itself would wait until there is twice as much, for which there may be no memory.
    if unsafe memory.pointee.used > Self.memoryMax / 2 { collect() }
    let used = Int(unsafe memory.pointee.used)
    if used != toldBytes { server.scripts.countMemory(used - toldBytes) }
    toldBytes = used
  }

  private func pushArguments(_ range: Range<Int>, of request: Request, as name: StaticString) {
    stack.pushTable()
    for (number, index) in range.enumerated() {
      stack.push(request[index])
      stack.setElement(number + 1)
    }
    stack.setField(name)
  }

  /// What is answered for the error on top of the stack.
  private func failure(of script: Script) -> [UInt8] {
    guard stack.kind(-1) == .table else {
      // Not even the place could be found: there was no memory for that.
      return "ERR ".utf8 + stack.bytes(-1).array + " script: \(script.digest).".utf8
    }
    stack.pushField("err", of: -1)
    var text = stack.kind(-1) == .string ? stack.bytes(-1).array : Array("ERR unknown error".utf8)
    stack.pop()
    text += Array(" script: \(script.digest)".utf8)
    stack.pushField("source", of: -1)
    let source = stack.bytes(-1).array
    stack.pop()
    if stack.pushField("line", of: -1) == .number {
      text += ", on ".utf8 + source + ":\(Int(stack.number(-1)))".utf8
    }
    stack.pop()
    return text + [UInt8(ascii: ".")]
  }

  /// Why what runs has to end; nil if it has not.
  private var reasonToEnd: StaticString? {
    if activity.shallEnd { return "Script killed by user with SCRIPT KILL." }
    if limit == 0 { return nil }
    let elapsed = Clock.steadyMilliseconds - began
    if elapsed > limit, activity.mayEnd {
      return "Script ended: it had changed nothing, and ran for longer than lua-time-limit"
    }
    // What it has changed stays, as when it ends by an error of its own.
    if elapsed > Self.patience * limit {
      return "Script ended: it ran for longer than ten times lua-time-limit"
    }
    return nil
  }

  private static let interrupt: @convention(c) (UnsafeMutableRawPointer?) -> UnsafePointer<CChar>? =
    { owner in
      guard let owner = unsafe owner else { return nil }
      let engine = unsafe Unmanaged<ScriptEngine>.fromOpaque(owner).takeUnretainedValue()
      guard let reason = engine.reasonToEnd else { return nil }
      return unsafe UnsafeRawPointer(reason.utf8Start).assumingMemoryBound(to: CChar.self)
    }

  // MARK: What scripts call

  /// Runs one of the functions below for Lua.
  ///
  /// - Parameter state: The thread that calls it, with the arguments on its stack.
  @unsafe private static func enter(
    _ state: OpaquePointer?, _ body: (ScriptEngine, LuaStack) -> Int32
  ) -> Int32 {
    guard let state = unsafe state,
      let owner = unsafe valiant_lua_memory_of(state).pointee.owner
    else { return 0 }
    let engine = unsafe Unmanaged<ScriptEngine>.fromOpaque(owner).takeUnretainedValue()
    return body(engine, unsafe LuaStack(state))
  }

  /// A table of the program's functions, for the prelude.
  private func pushProgram() {
    stack.pushTable()
    unsafe push("call") { state in unsafe ScriptEngine.enter(state) { $0.call($1, raises: true) } }
    unsafe push("pcall") { state in unsafe ScriptEngine.enter(state) { $0.call($1, raises: false) }
    }
    unsafe push("sha1hex") { state in unsafe ScriptEngine.enter(state) { $0.digest($1) } }
    unsafe push("log") { state in unsafe ScriptEngine.enter(state) { $0.log($1) } }
    unsafe push("setresp") { state in unsafe ScriptEngine.enter(state) { $0.setProtocol($1) } }
    unsafe push("check") { state in unsafe ScriptEngine.enter(state) { $0.check($1) } }
    unsafe push("random") { state in unsafe ScriptEngine.enter(state) { $0.random($1) } }
    unsafe push("seed") { state in unsafe ScriptEngine.enter(state) { $0.seed($1) } }
    stack.push(text: Version.redis)
    stack.setField("version")
    let parts = Version.redis.split(separator: ".").map { Double($0) ?? 0 }
    stack.push(parts.reduce(0) { $0 * 256 + $1 })
    stack.setField("version_number")
  }

  private func push(_ name: StaticString, _ body: valiant_lua_body) {
    unsafe stack.push(body)
    stack.setField(name)
  }

  /// Pushes an error as a script gets it.
  ///
  /// - Returns: What a body returns: one result, or that it is to be raised.
  private func fail(_ stack: LuaStack, _ text: [UInt8], raises: Bool) -> Int32 {
    stack.push(error: text)
    return raises ? -1 : 1
  }

  /// Whether the script may go on.
  private func check(_ stack: LuaStack) -> Int32 {
    guard let reason = reasonToEnd else { return 0 }
    stack.push(reason)
    return -1
  }

  private func call(_ stack: LuaStack, raises: Bool) -> Int32 {
    guard let context = unsafe context else { return 0 }
    guard stack.count > 0 else {
      return fail(
        stack, "Please specify at least one argument for this redis lib call", raises)
    }
    guard takeArguments(stack) else {
      return fail(stack, "Lua redis lib command arguments must be strings or integers", raises)
    }
    // There may have been thousands, and the answer needs room.
    stack.truncate(to: 0)
    do throws(CommandError) {
      try unsafe execute(&context.pointee)
    } catch {
      reply.output.reset()
      return fail(stack, error.message, raises: raises)
    }
    replyBytes.clear(keeping: Self.keptBytes)
    reply.output.forEachPiece { replyBytes.append($0) }
    reply.output.reset()
    let isError = replyBytes.count > 0 && replyBytes.bytes[0] == UInt8(ascii: "-")
    var reader = ScriptReplyReader(replyBytes.bytes)
    guard reader.push(to: stack) else {
      return fail(stack, "the answer is nested too deeply", raises)
    }
    return isError && raises ? -1 : 1
  }

  private func fail(_ stack: LuaStack, _ text: String, _ raises: Bool) -> Int32 {
    fail(stack, Array("ERR \(text)".utf8), raises: raises)
  }

  /// Makes a request of a function's arguments.
  ///
  /// - Returns: False when one is neither text nor a number.
  private func takeArguments(_ stack: LuaStack) -> Bool {
    bytes.clear(keeping: Self.keptBytes)
    arguments.truncate(to: 0)
    for index in 1...stack.count {
      let start = bytes.count
      switch stack.kind(index) {
      case .string: bytes.append(stack.bytes(index))
      case .number: Self.append(stack.number(index), to: &bytes)
      default: return false
      }
      arguments.append(offset: start, length: bytes.count - start)
    }
    return true
  }

  /// Appends a number with as many digits as it takes to read it again.
  private static func append(_ number: Double, to text: inout ByteBuffer) {
    let space = unsafe text.freeSpace(numberBytesMax)
    // SAFETY: there is room, and no byte of it is read before it is written.
    let count = unsafe space.withMemoryRebound(to: CChar.self) {
      unsafe valiant_lua_format($0.baseAddress, $0.count, number)
    }
    text.didAppend(Int(count))
  }

  private static let keptBytes = 64 * 1024
  private static let numberBytesMax = 32

  /// Runs the request that has been taken, and leaves the answer in `reply`.
  private func execute(_ context: inout CommandContext) throws(CommandError) {
    // SAFETY: the ranges were made in these bytes, and nobody changes either before the answer.
    let request = unsafe Request(
      base: bytes.bytes.pointer, ranges: arguments.pointer(from: 0), count: arguments.count)
    guard let row = unsafe CommandTable.shared.find(request) else {
      throw .script("Unknown Redis command called from script")
    }
    guard unsafe row.pointee.command.accepts(argumentCount: request.count) else {
      throw .script("Wrong number of args calling Redis command from script")
    }
    let flags = unsafe row.pointee.flags
    if flags.contains(.noscript) { throw .script("This Redis command is not allowed from script") }
    if flags.contains(.write) {
      if isReadOnly { throw .script("Write commands are not allowed from read-only scripts.") }
      try context.checkWrites()
      activity.noteWrite()
    }
    swap(&context.reply, &reply)
    defer { swap(&context.reply, &reply) }
    try unsafe context.runForScript(row, request)
  }

  private func digest(_ stack: LuaStack) -> Int32 {
    guard stack.count == 1 else { return fail(stack, "wrong number of arguments", true) }
    stack.push(text: text(stack, 1).withBytes { SHA1.digest($0) })
    return 1
  }

  /// A value as text, as Lua makes it of strings and numbers.
  private func text(_ stack: LuaStack, _ index: Int) -> [UInt8] {
    stack.copy(index)
    defer { stack.pop() }
    stack.makeText()
    return stack.bytes(-1).array
  }

  private func log(_ stack: LuaStack) -> Int32 {
    guard stack.count >= 2 else {
      return fail(stack, "redis.log() requires two arguments or more.", true)
    }
    guard stack.kind(1) == .number else {
      return fail(stack, "First argument must be a number (log level).", true)
    }
    let text = (2...stack.count).map { String(decoding: self.text(stack, $0), as: UTF8.self) }
      .joined(separator: " ")
    let log = server.log
    switch stack.number(1) {
    case 0: log.debug(text)
    case 1: log.verbose(text)
    case 2: log.notice(text)
    case 3: log.warning(text)
    default: return fail(stack, "Invalid debug level.", true)
    }
    return 0
  }

  private func setProtocol(_ stack: LuaStack) -> Int32 {
    guard stack.count == 1 else {
      return fail(stack, "redis.setresp() requires one argument.", true)
    }
    let version = stack.number(1)
    guard version == 2 || version == 3 else {
      return fail(stack, "RESP version must be 2 or 3.", true)
    }
    reply.protocolVersion = Int(version)
    return 0
  }

  // MARK: Random numbers, those of `drand48`

  private func random(_ stack: LuaStack) -> Int32 {
    seedState = (seedState &* 0x5_deec_e66d &+ 11) & (1 << 48 - 1)
    let most = UInt64(Int32.max)
    let value = Double((seedState >> 17) % most) / Double(most)
    var ends: [Double] = []
    for index in 0..<stack.count {
      guard stack.kind(index + 1) == .number else {
        return stack.pushPlaced(error: "bad argument #\(index + 1) to 'random' (number expected)")
      }
      ends.append(stack.number(index + 1).rounded(.down))
    }
    if ends.isEmpty {
      stack.push(value)
      return 1
    }
    if ends.count > 2 { return stack.pushPlaced(error: "wrong number of arguments") }
    let (low, high) = ends.count == 1 ? (1, ends[0]) : (ends[0], ends[1])
    guard low <= high else {
      return stack.pushPlaced(
        error: "bad argument #\(ends.count) to 'random' (interval is empty)")
    }
    stack.push((value * (high - low + 1)).rounded(.down) + low)
    return 1
  }

  private func seed(_ stack: LuaStack) -> Int32 {
    let value = Int(exactly: stack.number(1).rounded(.towardZero)) ?? 0
    seedState = UInt64(UInt32(truncatingIfNeeded: value)) << 16 | 0x330e
    return 0
  }

  // MARK: Answering

  private static let depthMax = 1000

  /// Writes the value on top of the stack as a reply, and pops it.
  private func answer(_ writer: inout ReplyWriter, depth: Int) {
    let stack = stack
    defer { stack.pop() }
    if depth > Self.depthMax || !stack.reserve(8) {
      return writer.error(Array("ERR reached lua stack limit".utf8))
    }
    if writer.output.count > answerMax { isTooLong = true }
    if isTooLong { return }
    switch stack.kind(-1) {
    case .string: writer.bulkString(stack.bytes(-1))
    case .number: writer.integer(Self.integer(stack.number(-1)))
    case .boolean:
      if reply.protocolVersion == 3 {
        writer.boolean(stack.boolean(-1))
      } else if stack.boolean(-1) {
        writer.integer(1)
      } else {
        writer.null()
      }
    case .table: answerTable(&writer, depth)
    case .null, .other: writer.null()
    }
  }

  private static func integer(_ number: Double) -> Int {
    Int(exactly: number.rounded(.towardZero)) ?? Int.min
  }

  private func answerTable(_ writer: inout ReplyWriter, _ depth: Int) {
    let stack = stack
    if let text = takeText("err") {
      return writer.error(text)
    }
    if let text = takeText("ok") { return writer.status(line: text) }
    if stack.pushField("double", of: -1) == .number {
      defer { stack.pop() }
      return writer.double(doubleText(stack.number(-1)))
    }
    stack.pop()
    if stack.pushField("map", of: -1) == .table { return answerPairs(&writer, depth, isMap: true) }
    stack.pop()
    if stack.pushField("set", of: -1) == .table { return answerPairs(&writer, depth, isMap: false) }
    stack.pop()
    if let digits = takeText("big_number") { return writer.bigNumber(line: digits) }
    if stack.pushField("verbatim_string", of: -1) == .table {
      defer { stack.pop() }
      if let format = takeText("format"), let text = takeText("string") {
        return writer.verbatim(format, text)
      }
      return writer.null()
    }
    stack.pop()
    var count = 0
    while stack.pushElement(count + 1, of: -1) != .null {
      stack.pop()
      count += 1
    }
    stack.pop()
    writer.array(count)
    for index in 0..<count where !isTooLong {
      stack.pushElement(index + 1, of: -1)
      answer(&writer, depth: depth + 1)
    }
  }

  /// Writes the table on top of the stack as a map or a set, and pops it.
  private func answerPairs(_ writer: inout ReplyWriter, _ depth: Int, isMap: Bool) {
    let stack = stack
    defer { stack.pop() }
    var count = 0
    stack.pushNull()
    while stack.pushNext(of: -2) {
      stack.pop()
      count += 1
    }
    if isMap { writer.map(count) } else { writer.set(count) }
    stack.pushNull()
    while stack.pushNext(of: -2) {
      // The key stays, for it says what comes next.
      if isMap {
        stack.copy(-2)
        answer(&writer, depth: depth + 1)
        answer(&writer, depth: depth + 1)
      } else {
        stack.pop()
        stack.copy(-1)
        answer(&writer, depth: depth + 1)
      }
    }
  }

  /// What the table on top of the stack has under a name, if that is a string.
  private func takeText(_ name: StaticString) -> [UInt8]? {
    defer { stack.pop() }
    return stack.pushField(name, of: -1) == .string ? stack.bytes(-1).array : nil
  }

  private func doubleText(_ number: Double) -> String {
    if number.isInfinite { return number < 0 ? "-inf" : "inf" }
    if number.isNaN { return "nan" }
    var text = ByteBuffer()
    Self.append(number, to: &text)
    return text.bytes.text
  }
}

private func + (left: String.UTF8View, right: [UInt8]) -> [UInt8] { Array(left) + right }
private func + (left: [UInt8], right: String.UTF8View) -> [UInt8] { left + Array(right) }

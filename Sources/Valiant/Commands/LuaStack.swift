import CLua

/// The values that Lua and this program hand each other.
///
/// Invariant: `state` is a thread of a `ScriptEngine` that lives longer. Nothing here raises an error
/// of Lua's, which would jump over functions in Swift: tables are read and written without regard to
/// their metatables, and there is memory (see `shim.h`). Indices count from 1, or backwards from -1.
@safe struct LuaStack {
  let state: OpaquePointer

  @unsafe init(_ state: OpaquePointer) { unsafe self.state = state }

  enum Kind {
    case null, boolean, number, string, table, other
  }

  var count: Int { Int(unsafe lua_gettop(state)) }

  /// Makes sure that there is room for `extra` further values; false when there cannot be.
  func reserve(_ extra: Int) -> Bool { unsafe lua_checkstack(state, Int32(extra)) != 0 }

  func pop(_ count: Int = 1) { unsafe valiant_lua_pop(state, Int32(count)) }

  func truncate(to count: Int) { unsafe lua_settop(state, Int32(count)) }

  func copy(_ index: Int) { unsafe lua_pushvalue(state, Int32(index)) }

  // MARK: Keeping

  /// Pops the last value and keeps it, until `forget`, under the number that is returned.
  func keep() -> Int32 { unsafe valiant_lua_keep(state) }

  func pushKept(_ number: Int32) { unsafe valiant_lua_push_kept(state, number) }

  func forget(_ number: Int32) { unsafe valiant_lua_forget(state, number) }

  // MARK: Reading

  /// What there is at `index`; nothing is as good as null.
  func kind(_ index: Int) -> Kind {
    switch unsafe lua_type(state, Int32(index)) {
    case LUA_TNIL, LUA_TNONE: .null
    case LUA_TBOOLEAN: .boolean
    case LUA_TNUMBER: .number
    case LUA_TSTRING: .string
    case LUA_TTABLE: .table
    default: .other
    }
  }

  func boolean(_ index: Int) -> Bool { unsafe lua_toboolean(state, Int32(index)) != 0 }

  func number(_ index: Int) -> Double { unsafe lua_tonumber(state, Int32(index)) }

  /// The bytes of a string, good until it leaves the stack; none of anything else.
  func bytes(_ index: Int) -> Bytes {
    // A number would become a string where it stands.
    guard kind(index) == .string else { return .empty }
    var count = 0
    guard let start = unsafe lua_tolstring(state, Int32(index), &count) else { return .empty }
    // SAFETY: Lua says so.
    return unsafe Bytes(
      base: UnsafeRawPointer(start).assumingMemoryBound(to: UInt8.self), count: count)
  }

  /// Pushes what the table at `index` has under a name.
  ///
  /// - Returns: What that is.
  @discardableResult
  func pushField(_ name: StaticString, of index: Int) -> Kind {
    let table = absolute(index)
    push(name)
    unsafe lua_rawget(state, table)
    return kind(-1)
  }

  /// Pushes what the table at `index` has under a number.
  @discardableResult
  func pushElement(_ number: Int, of index: Int) -> Kind {
    unsafe lua_rawgeti(state, Int32(index), Int32(number))
    return kind(-1)
  }

  /// Pops a key and pushes the next key of the table at `index`, and its value.
  ///
  /// - Returns: False when there was none; then nothing is pushed.
  func pushNext(of index: Int) -> Bool { unsafe lua_next(state, Int32(index)) != 0 }

  private func absolute(_ index: Int) -> Int32 {
    Int32(index < 0 ? count + index + 1 : index)
  }

  // MARK: Pushing

  func pushNull() { unsafe lua_pushnil(state) }

  func push(_ value: Bool) { unsafe lua_pushboolean(state, value ? 1 : 0) }

  func push(_ number: Double) { unsafe lua_pushnumber(state, number) }

  func push(_ bytes: Bytes) {
    unsafe lua_pushlstring(
      state, UnsafeRawPointer(bytes.pointer).assumingMemoryBound(to: CChar.self), bytes.count)
  }

  func push(_ text: StaticString) {
    unsafe lua_pushlstring(
      state, UnsafeRawPointer(text.utf8Start).assumingMemoryBound(to: CChar.self),
      text.utf8CodeUnitCount)
  }

  func push(text: String) { Array(text.utf8).withBytes { push($0) } }

  func pushTable() { unsafe valiant_lua_new_table(state) }

  @unsafe func push(_ body: valiant_lua_body) { unsafe valiant_lua_push_body(state, body) }

  // MARK: Writing

  /// Puts the last value under a name into the table in front of it.
  func setField(_ name: StaticString) {
    push(name)
    unsafe lua_insert(state, -2)
    unsafe lua_rawset(state, -3)
  }

  /// Puts the last value under a number into the table in front of it.
  func setElement(_ number: Int) { unsafe lua_rawseti(state, -2, Int32(number)) }

  /// Puts the last value under the one in front of it into the table before both.
  func setPair() { unsafe lua_rawset(state, -3) }

  /// Makes text of the last value if it is a number, as Lua does.
  func makeText() {
    if kind(-1) == .number { unsafe _ = lua_tolstring(state, -1, nil) }
  }

  /// Pushes an error as Lua's own functions raise it: text behind the place where the function was called.
  ///
  /// - Returns: What a body says to have it raised.
  func pushPlaced(error text: String) -> Int32 {
    unsafe luaL_where(state, 1)
    push(text: text)
    unsafe lua_concat(state, 2)
    return -1
  }

  /// Pushes what an error is to a script: a table with its text.
  func push(error text: [UInt8]) {
    pushTable()
    text.withBytes { push($0) }
    setField("err")
  }
}

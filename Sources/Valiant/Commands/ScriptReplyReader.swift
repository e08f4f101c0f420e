/// Makes values of Lua's out of what a command has answered.
struct ScriptReplyReader {
  private let bytes: Bytes
  private var position = 0

  private static let depthMax = 1000

  init(_ bytes: Bytes) { self.bytes = bytes }

  /// Pushes the next reply.
  ///
  /// - Returns: False when it is nested too deeply.
  mutating func push(to stack: LuaStack, depth: Int = 0) -> Bool {
    guard depth < Self.depthMax, stack.reserve(6) else { return false }
    let type = bytes[position]
    let line = takeLine()
    switch type {
    case UInt8(ascii: "+"):
      push(line, as: "ok", to: stack)
    case UInt8(ascii: "-"):
      push(line, as: "err", to: stack)
    case UInt8(ascii: ":"):
      stack.push(Double(line.integer ?? 0))
    case UInt8(ascii: "$"):
      guard let count = line.integer, count >= 0 else {
        stack.push(false)
        return true
      }
      stack.push(take(count))
    case UInt8(ascii: "="):
      let content = take(line.integer ?? 0)
      stack.pushTable()
      stack.pushTable()
      stack.push(content.prefix(3))
      stack.setField("format")
      stack.push(content.dropFirst(4))
      stack.setField("string")
      stack.setField("verbatim_string")
    case UInt8(ascii: "_"):
      stack.pushNull()
    case UInt8(ascii: "#"):
      stack.push(line.array == [UInt8(ascii: "t")])
    case UInt8(ascii: ","):
      stack.pushTable()
      stack.push(Double(line.text) ?? 0)
      stack.setField("double")
    case UInt8(ascii: "("):
      push(line, as: "big_number", to: stack)
    case UInt8(ascii: "%"), UInt8(ascii: "~"):
      return pushPairs(line.integer ?? 0, isMap: type == UInt8(ascii: "%"), to: stack, depth)
    default:
      guard let count = line.integer, count >= 0 else {
        stack.push(false)
        return true
      }
      stack.pushTable()
      for index in 0..<count {
        guard push(to: stack, depth: depth + 1) else { return false }
        stack.setElement(index + 1)
      }
    }
    return true
  }

  private func push(_ line: Bytes, as name: StaticString, to stack: LuaStack) {
    stack.pushTable()
    stack.push(line)
    stack.setField(name)
  }

  private mutating func pushPairs(
    _ count: Int, isMap: Bool, to stack: LuaStack, _ depth: Int
  ) -> Bool {
    stack.pushTable()
    stack.pushTable()
    for _ in 0..<count {
      guard push(to: stack, depth: depth + 1) else { return false }
      if isMap {
        guard push(to: stack, depth: depth + 1) else { return false }
      } else {
        stack.push(true)
      }
      stack.setPair()
    }
    let name: StaticString = isMap ? "map" : "set"
    stack.setField(name)
    return true
  }

  /// What stands behind the type's letter, up to the end of the line.
  private mutating func takeLine() -> Bytes {
    let start = position + 1
    var end = start
    while bytes[end] != UInt8(ascii: "\r") { end += 1 }
    position = end + 2
    return bytes.prefix(end).dropFirst(start)
  }

  private mutating func take(_ count: Int) -> Bytes {
    defer { position += count + 2 }
    return bytes.prefix(position + count).dropFirst(position)
  }
}

import Testing

@testable import Valiant

@Suite("Connection commands") struct ConnectionCommandsTests {
  let server = TestServer()

  @Test("PING and ECHO") func ping() {
    #expect(server.send("PING") == "+PONG\r\n")
    #expect(server.send("PING hi") == "$2\r\nhi\r\n")
    #expect(server.send("PING a b") == "-ERR wrong number of arguments for 'ping' command\r\n")
    #expect(server.send("ECHO hi") == "$2\r\nhi\r\n")
    #expect(server.send("ECHO") == "-ERR wrong number of arguments for 'echo' command\r\n")
  }

  @Test("SELECT chooses among sixteen databases") func select() {
    #expect(server.send("SELECT 15") == "+OK\r\n")
    #expect(server.send("SET k v") == "+OK\r\n")
    #expect(server.send("SELECT 0") == "+OK\r\n")
    #expect(server.send("GET k") == "$-1\r\n")
    #expect(server.send("SELECT 16") == "-ERR DB index is out of range\r\n")
    #expect(server.send("SELECT -1") == "-ERR DB index is out of range\r\n")
    #expect(server.send("SELECT x") == "-ERR value is not an integer or out of range\r\n")
    #expect(server.send("DBSIZE") == ":0\r\n")
    #expect(server.send("INFO keyspace").contains("db15:keys=1,expires=0"))
  }

  @Test("HELLO changes the protocol and describes the server") func hello() {
    #expect(server.send("HELLO").hasPrefix("*14\r\n$6\r\nserver\r\n$5\r\nredis\r\n"))
    #expect(server.send("HELLO 3").hasPrefix("%7\r\n$6\r\nserver\r\n"))
    #expect(server.send("HELLO 2 SETNAME me").hasPrefix("*14\r\n"))
    #expect(server.send("CLIENT GETNAME") == "$2\r\nme\r\n")
    #expect(server.send("HELLO 4") == "-NOPROTO unsupported protocol version\r\n")
    #expect(server.send("HELLO x") == "-ERR Protocol version is not an integer or out of range\r\n")
    #expect(server.send("HELLO 3 FOO") == "-ERR Syntax error in HELLO option 'FOO'\r\n")
    #expect(server.send("HELLO 3 AUTH a") == "-ERR Syntax error in HELLO option 'AUTH'\r\n")
    // A HELLO that fails changes nothing.
    #expect(server.send("GET none") == "$-1\r\n")
  }

  @Test("QUIT answers, closes and drops what comes behind") func quit() {
    let client = server.connect()
    #expect(client.exchange("QUIT\r\nSET k v\r\n") == "+OK\r\n")
    #expect(client.isClosed)
    #expect(server.send("EXISTS k") == ":0\r\n")
  }

  @Test("RESET goes back to the beginning") func reset() {
    _ = server.send("HELLO 3 SETNAME me")
    _ = server.send("SELECT 3")
    #expect(server.send("RESET") == "+RESET\r\n")
    #expect(server.send("CLIENT GETNAME") == "$-1\r\n")
    #expect(server.send("CLIENT INFO").contains(" db=0 "))
  }

  @Test("unknown commands are told apart from wrong ones") func unknown() {
    #expect(
      server.send("FOO a b") == "-ERR unknown command 'FOO', with args beginning with: 'a' 'b' \r\n"
    )
    #expect(server.send("FOO") == "-ERR unknown command 'FOO', with args beginning with: \r\n")
    #expect(server.send("GE") == "-ERR unknown command 'GE', with args beginning with: \r\n")
    #expect(server.send("GETX k").hasPrefix("-ERR unknown command 'GETX'"))
    #expect(server.send("CLIENT FOO") == "-ERR unknown subcommand 'FOO'. Try CLIENT HELP.\r\n")
    #expect(server.send("CONFIG") == "-ERR wrong number of arguments for 'config' command\r\n")
    #expect(
      server.send("CLIENT ID x") == "-ERR wrong number of arguments for 'client|id' command\r\n")
    let long = String(repeating: "x", count: 300)
    let cut = String(repeating: "x", count: 128)
    #expect(
      server.send("\(long) \(long) b")
        == "-ERR unknown command '\(cut)', with args beginning with: '\(cut)' \r\n")
    #expect(server.send(["a\r\nb"]).hasPrefix("-ERR unknown command 'a  b'"))
    #expect(server.send([""]) == "-ERR unknown command '', with args beginning with: \r\n")
  }
}

@Suite("Authentication") struct AuthenticationTests {
  let server = TestServer { $0.password = "secret" }

  @Test("comes before everything else") func required() {
    #expect(server.send("GET k") == "-NOAUTH Authentication required.\r\n")
    #expect(server.send("FOO").hasPrefix("-ERR unknown command"))
    #expect(server.send("GET") == "-ERR wrong number of arguments for 'get' command\r\n")
    #expect(
      server.send("HELLO 3").hasPrefix("-NOAUTH HELLO must be called with the client already"))
    let wrong = "-WRONGPASS invalid username-password pair or user is disabled.\r\n"
    #expect(server.send("AUTH wrong") == wrong)
    #expect(server.send("AUTH somebody secret") == wrong)
    #expect(server.send("AUTH a b c") == "-ERR syntax error\r\n")
    #expect(server.send("AUTH secret") == "+OK\r\n")
    #expect(server.send("GET k") == "$-1\r\n")
    #expect(server.send("RESET") == "+RESET\r\n")
    #expect(server.send("GET k") == "-NOAUTH Authentication required.\r\n")
    #expect(server.send("HELLO 3 AUTH default secret").hasPrefix("%7\r\n"))
    #expect(server.send("GET k") == "_\r\n")
  }

  @Test("limits what is read before it, and lets long requests follow it at once") func limits() {
    let client = server.connect()
    let auth = encode(["AUTH", "secret"])
    let long = encode(["EXISTS"] + (0..<20).map { "k\($0)" })
    #expect(client.exchange(auth + long) == "+OK\r\n:0\r\n")
    #expect(
      server.connect().exchange(long) == "-ERR Protocol error: unauthenticated multibulk length\r\n"
    )
    #expect(
      server.connect().exchange("*1\r\n$20000\r\n")
        == "-ERR Protocol error: unauthenticated bulk length\r\n")
  }

  @Test("without a password accepts any for the default user") func noPassword() {
    let open = TestServer()
    #expect(open.send("AUTH x").hasPrefix("-ERR AUTH <password> called without any password"))
    #expect(open.send("AUTH default x") == "+OK\r\n")
    #expect(open.send("AUTH a x").hasPrefix("-WRONGPASS"))
  }
}

@Suite("CLIENT") struct ClientCommandsTests {
  let server = TestServer()

  @Test("names and describes") func names() {
    #expect(server.send("CLIENT GETNAME") == "$-1\r\n")
    #expect(server.send("CLIENT SETNAME me") == "+OK\r\n")
    #expect(server.send("CLIENT GETNAME") == "$2\r\nme\r\n")
    #expect(
      server.send(["CLIENT", "SETNAME", "a b"])
        == "-ERR Client names cannot contain spaces, newlines or special characters.\r\n")
    #expect(server.send(["CLIENT", "SETNAME", ""]) == "+OK\r\n")
    #expect(server.send("CLIENT GETNAME") == "$-1\r\n")
    #expect(server.send("CLIENT SETINFO LIB-NAME lib") == "+OK\r\n")
    #expect(server.send("CLIENT SETINFO lib-ver 1.2") == "+OK\r\n")
    #expect(server.send("CLIENT SETINFO foo x") == "-ERR Unrecognized option 'foo'\r\n")
    #expect(
      server.send(["CLIENT", "SETINFO", "LIB-NAME", "a b"])
        == "-ERR lib-name cannot contain spaces, newlines or special characters.\r\n")
    let info = server.send("CLIENT INFO")
    #expect(info.contains(" lib-name=lib lib-ver=1.2"))
    #expect(info.contains(" cmd=client|info "))
    #expect(info.contains(" resp=2 "))
    #expect(server.send("CLIENT NO-EVICT on") == "+OK\r\n")
    #expect(server.send("CLIENT NO-EVICT x") == "-ERR syntax error\r\n")
  }

  @Test("LIST shows every client and filters") func list() {
    let other = server.connect()
    _ = other.send("CLIENT SETNAME other")
    let id = other.send("CLIENT ID").dropFirst().prefix { $0.isNumber }
    let all = server.send("CLIENT LIST")
    #expect(all.contains("name=other"))
    #expect(all.split(separator: "\n").filter { $0.contains("id=") }.count == 2)
    #expect(server.send("CLIENT LIST ID \(id)").contains("name=other"))
    #expect(server.send("CLIENT LIST ID 99999") == "$0\r\n\r\n")
    #expect(server.send("CLIENT LIST TYPE normal").contains("name=other"))
    #expect(server.send("CLIENT LIST TYPE replica") == "$0\r\n\r\n")
    #expect(server.send("CLIENT LIST TYPE x") == "-ERR Unknown client type 'x'\r\n")
    #expect(server.send("CLIENT LIST ID x") == "-ERR Invalid client ID\r\n")
    #expect(server.send("CLIENT LIST foo") == "-ERR syntax error\r\n")
  }

  @Test("KILL closes others at once and oneself after the answer") func kill() {
    let other = server.connect()
    let id = other.send("CLIENT ID").dropFirst().prefix { $0.isNumber }
    #expect(server.send("CLIENT KILL ID \(id)") == ":1\r\n")
    #expect(other.send("PING") == "")
    #expect(other.isClosed)
    #expect(server.send("CLIENT KILL ID \(id)") == ":0\r\n")
    #expect(server.send("CLIENT KILL 1.2.3.4:5") == "-ERR No such client\r\n")
    #expect(server.send("CLIENT KILL ID 0") == "-ERR client-id should be greater than 0\r\n")
    #expect(server.send("CLIENT KILL TYPE x") == "-ERR Unknown client type 'x'\r\n")
    #expect(server.send("CLIENT KILL TYPE x y") == "-ERR syntax error\r\n")
    #expect(server.send("CLIENT KILL USER me") == "-ERR No such user 'me'\r\n")
    #expect(server.send("CLIENT KILL SKIPME maybe") == "-ERR syntax error\r\n")
    let me = server.connect()
    #expect(me.send("CLIENT KILL TYPE normal SKIPME no").hasPrefix(":"))
    #expect(me.isClosed)
  }

  @Test("REPLY OFF, SKIP and ON") func reply() {
    #expect(server.send("CLIENT REPLY OFF") == "")
    #expect(server.send("PING") == "")
    #expect(server.send("FOO") == "")
    #expect(server.send("CLIENT REPLY ON") == "+OK\r\n")
    #expect(server.send("CLIENT REPLY SKIP") == "")
    #expect(server.send("PING") == "")
    #expect(server.send("PING") == "+PONG\r\n")
    #expect(server.send("CLIENT REPLY x") == "-ERR syntax error\r\n")
    let client = server.connect()
    #expect(
      client.exchange("CLIENT REPLY SKIP\r\nCLIENT REPLY SKIP\r\nECHO a\r\nECHO b\r\n")
        == "$1\r\nb\r\n")
    #expect(client.exchange("CLIENT REPLY SKIP\r\nCLIENT REPLY ON\r\n") == "+OK\r\n")
  }
}

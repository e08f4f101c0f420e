#!/bin/bash
# inline.sh HOST PORT: what a person with netcat sends, what breaks the protocol, and what comes in pieces.
set -eu
HOST=$1 PORT=$2
. "$(dirname "$0")/lib.sh"

# ---- Inline commands -----------------------------------------------------------------------------------------------

answers 'PING, line ended by CR LF' 'PING\r\n' '+PONG\r\n'
answers 'PING, line ended by LF' 'PING\n' '+PONG\r\n'
answers 'small letters' 'ping\n' '+PONG\r\n'
answers 'empty and blank lines are ignored' '\r\n\n  \t \r\nPING\r\n\n' '+PONG\r\n'
answers 'blanks around and between words' '  ECHO \t  hello  \r\n' '$5\r\nhello\r\n'
answers 'several lines in one packet' 'PING\nECHO a\r\nPING b\n' '+PONG\r\n$1\r\na\r\n$1\r\nb\r\n'
answers 'inline and RESP may alternate' 'PING\n*2\r\n$4\r\nECHO\r\n$1\r\nx\r\nPING\n' '+PONG\r\n$1\r\nx\r\n+PONG\r\n'

answers 'double quotes keep blanks' 'ECHO "a b"\n' '$3\r\na b\r\n'
answers 'escapes in double quotes' 'ECHO "\\x41\\n\\r\\"\\\\\\q"\n' '$6\r\nA\n\r"\q\r\n'
answers 'single quotes' "ECHO 'a \\\\\\\\n \\\\'b'\\n" '$8\r\na \\n '"'b"'\r\n'
answers 'an empty argument' 'ECHO ""\n' '$0\r\n\r\n'
answers 'a quote opens inside a word' 'ECHO a"b c"\n' '$4\r\nab c\r\n'

answers 'a line may look like RESP' '$4\r\nPING\r\n' \
  "-ERR unknown command '\$4', with args beginning with: "'\r\n+PONG\r\n'
answers 'an unknown command does not end the connection' 'nonsense a "b c"\nPING\n' \
  "-ERR unknown command 'nonsense', with args beginning with: 'a' 'b c' "'\r\n+PONG\r\n'
answers 'too few arguments' 'GET\n' "-ERR wrong number of arguments for 'get' command"'\r\n'
answers 'a line which never ends gets no answer' 'PING' ''
stays 'a NUL hides the line end behind it' 'PING\x00\nPING\n' ''

# ---- RESP ----------------------------------------------------------------------------------------------------------

answers 'a RESP request' '*1\r\n$4\r\nPING\r\n' '+PONG\r\n'
answers 'counts of zero and below are ignored' '*0\r\n*-1\r\n*-2\r\nPING\r\n' '+PONG\r\n'
answers 'an empty command name' '*1\r\n$0\r\n\r\n' "-ERR unknown command '', with args beginning with: "'\r\n'
answers 'bytes behind an argument are not checked' '*2\r\n$4\r\nECHOxy$1\r\nazz' '$1\r\na\r\n'
answers 'an argument may hold line ends' '*2\r\n$4\r\nECHO\r\n$4\r\n\r\n\r\n\r\n' '$4\r\n\r\n\r\n\r\n'

# ---- The connection ------------------------------------------------------------------------------------------------

closes 'QUIT answers and closes' 'QUIT\r\n' '+OK\r\n'
closes 'QUIT drops what is behind it' 'PING\nQUIT now\nPING\n' '+PONG\r\n+OK\r\n'
closes 'POST closes without an answer' 'POST / HTTP/1.1\r\nHost: localhost\r\n\r\n' ''
closes 'Host: closes without an answer' 'host: localhost\r\n' ''
answers 'RESET' 'RESET\n' '+RESET\r\n'
like 'RESET clears the name and the database' '*RESET*$-1*name= *db=0 *' \
  "$(printf 'CLIENT SETNAME smoke\nSELECT 3\nRESET\nCLIENT GETNAME\nCLIENT INFO\n' | netcat)"
stays 'a partial request waits without an answer' '*1\r\n$4\r\nPIN' ''
stays 'a command leaves the connection open' 'PING\r\n' '+PONG\r\n'

# ---- Protocol errors: one error, then the end of the connection; what is behind it is dropped ----------------------

# broken NAME SENT ERROR: also with a good request before and one behind.
broken() { closes "$1" "PING\r\n$2\r\nPING\r\n" "+PONG\r\n-ERR Protocol error: $3\r\n"; }

broken 'count is not a number' '*x' 'invalid multibulk length'
broken 'count with a plus' '*+1' 'invalid multibulk length'
broken 'count with a leading zero' '*01' 'invalid multibulk length'
broken 'count is empty' '*' 'invalid multibulk length'
broken 'count with a blank' '* 1' 'invalid multibulk length'
broken 'count over 2147483647' '*2147483648' 'invalid multibulk length'
broken 'count beyond 64 bits' '*99999999999999999999' 'invalid multibulk length'
broken 'argument without $' '*1\r\nPING' "expected '\$', got 'P'"
broken 'argument is an array' '*2\r\n$4\r\nECHO\r\n*1\r\n' "expected '\$', got '*'"
broken 'argument is a number' '*1\r\n:1' "expected '\$', got ':'"
broken 'bulk length is not a number' '*1\r\n$x' 'invalid bulk length'
broken 'bulk length is empty' '*1\r\n$' 'invalid bulk length'
broken 'bulk length is negative' '*1\r\n$-1' 'invalid bulk length'
broken 'bulk length with a plus' '*1\r\n$+4' 'invalid bulk length'
broken 'bulk length with a leading zero' '*1\r\n$04' 'invalid bulk length'
broken 'bulk length over 512 MiB' '*1\r\n$536870913' 'invalid bulk length'
broken 'bulk length beyond 64 bits' '*1\r\n$99999999999999999999' 'invalid bulk length'
broken 'double quote not closed' 'ECHO "abc' 'unbalanced quotes in request'
broken 'single quote not closed' "ECHO 'abc" 'unbalanced quotes in request'
broken 'no blank behind a closing quote' 'ECHO "a"b' 'unbalanced quotes in request'
broken 'no blank behind a closing single quote' "ECHO 'a'b" 'unbalanced quotes in request'
stays 'a bulk length of 512 MiB waits for its data' '*2\r\n$4\r\nECHO\r\n$536870912\r\n' ''
stays 'a count of a million waits for its arguments' '*1048576\r\n' ''

long=$(printf '%070000d' 0)
closes 'count line over 64 KiB' "*1$long" '-ERR Protocol error: too big mbulk count string\r\n'
closes 'bulk length line over 64 KiB' "*1\r\n\$1$long" '-ERR Protocol error: too big bulk count string\r\n'
closes 'inline request over 64 KiB' "$long" '-ERR Protocol error: too big inline request\r\n'

# ---- Fragments -----------------------------------------------------------------------------------------------------

# trickle BYTES: prints them one by one, with time enough between two to travel in packets of their own.
trickle() {
  local bytes i
  bytes=$(printf '%bx' "$1")
  for ((i = 0; i < ${#bytes} - 1; i++)); do
    printf '%s' "${bytes:i:1}"
    sleep 0.005
  done
}

same 'byte by byte' '+PONG\r\n$2\r\n\r\n\r\n$3\r\na b\r\n+PONG\r\n' \
  "$(trickle 'PING\r\n*2\r\n$4\r\nECHO\r\n$2\r\n\r\n\r\nECHO "a b"\r\n*0\r\n\r\nPING\n' | netcat)"
same 'a protocol error byte by byte' "-ERR Protocol error: expected '\$', got 'X'"'\r\n' \
  "$(trickle '*1\r\nX\r\n' | patient)"
value=$(printf '%0100000d' 7)
same 'a value of 100,000 bytes in two pieces' '$100000\r\n'"$value"'\r\n+PONG\r\n' \
  "$({ printf '*2\r\n$4\r\nECHO\r\n$100000\r\n%s' "${value:0:40000}"; sleep 0.2
    printf '%s\r\nPING\r\n' "${value:40000}"; } | netcat)"
same 'a request cut by the end of the connection gets no answer' '' "$(printf '*2\r\n$4\r\nECHO\r\n$5\r\nabc' | netcat)"
same 'and the server is still there' '+PONG\r\n' "$(printf 'PING\r\n' | netcat)"

finish

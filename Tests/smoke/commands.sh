#!/bin/bash
# commands.sh HOST PORT: each command and its main errors, in RESP2 and RESP3.
#
# It empties the server (FLUSHALL is a command too), and sets `timeout` to what it is.
set -eu
HOST=$1 PORT=$2
. "$(dirname "$0")/lib.sh"

# gives WANTED COMMAND...: what redis-cli prints for the command, with types, in the protocol of this round.
gives() {
  local wanted=$1
  shift
  same "RESP$protocol: $*" "$wanted" "$(cli "-$protocol" --no-raw "$@")"
}

# shows PATTERN COMMAND...: the same with a pattern.
shows() {
  local pattern=$1
  shift
  like "RESP$protocol: $*" "$pattern" "$(cli "-$protocol" --no-raw "$@")"
}

# refuses ERROR COMMAND...
refuses() {
  local wanted=$1
  shift
  gives "(error) $wanted" "$@"
}

# session LINE...: what redis-cli prints for several commands in one connection.
session() { printf '%s\n' "$@" | cli "-$protocol" --no-raw; }

arity() { printf "ERR wrong number of arguments for '%s' command" "$1"; }
integer='ERR value is not an integer or out of range'
syntax='ERR syntax error'

connection_commands() {
  gives 'PONG' PING
  gives '"a b"' PING 'a b'
  refuses "$(arity ping)" PING a b
  gives '"hello"' ECHO hello
  gives '""' ECHO ''
  refuses "$(arity echo)" ECHO
  refuses "ERR unknown command 'NOSUCH', with args beginning with: 'a' 'b' " NOSUCH a b

  gives 'OK' SELECT 15
  refuses 'ERR DB index is out of range' SELECT 16
  refuses 'ERR DB index is out of range' SELECT -1
  refuses "$integer" SELECT one
  same "RESP$protocol: databases are apart" $'OK\nOK\n(nil)\nOK\n"here"\n(integer) 1' \
    "$(session 'SET smoke:db here' 'SELECT 1' 'GET smoke:db' 'SELECT 0' 'GET smoke:db' 'DEL smoke:db')"

  shows '*"proto"*"mode"*"role"*"modules"*' HELLO
  shows '*"proto"*\(integer\) 2*' HELLO 2
  shows '*"proto"*\(integer\) 3*' HELLO 3 SETNAME smoke
  same "RESP$protocol: HELLO 3 SETNAME" '"smoke"' "$(session 'HELLO 3 SETNAME smoke' 'CLIENT GETNAME' | tail -n 1)"
  refuses 'NOPROTO unsupported protocol version' HELLO 4
  refuses 'ERR Protocol version is not an integer or out of range' HELLO three
  refuses "ERR Syntax error in HELLO option 'Bogus'" HELLO 3 Bogus
  refuses 'WRONGPASS invalid username-password pair or user is disabled.' HELLO 3 AUTH nobody nothing
  gives 'OK' AUTH default anything
  refuses 'WRONGPASS invalid username-password pair or user is disabled.' AUTH nobody nothing
  shows '(error) ERR AUTH <password> called without any password configured for the default user. Are you sure*' \
    AUTH secret
  refuses "$(arity auth)" AUTH
  refuses "$syntax" AUTH a b c
}

string_commands() {
  gives '(nil)' GET smoke:none
  gives 'OK' SET smoke:key value
  gives '"value"' GET smoke:key
  gives 'OK' SET smoke:key ''
  gives '""' GET smoke:key
  gives 'OK' SET smoke:key $'\001\r\n\377"'
  gives '"\x01\r\n\xff\""' GET smoke:key
  refuses "$(arity get)" GET
  refuses "$(arity get)" GET a b
  refuses "$(arity set)" SET smoke:key

  gives '(nil)' SET smoke:key other NX
  gives '(nil)' SET smoke:none other XX
  gives 'OK' SET smoke:key 2 XX
  gives '"2"' SET smoke:key 3 GET
  gives '"3"' SET smoke:key 4 NX GET
  gives '"3"' GET smoke:key
  gives '(nil)' SET smoke:new 1 GET
  gives '(integer) 1' DEL smoke:new
  refuses "$syntax" SET smoke:key v NX XX
  refuses "$syntax" SET smoke:key v BOGUS
  refuses "$syntax" SET smoke:key v EX
  refuses "$syntax" SET smoke:key v EX 1 PX 1000
  refuses "$syntax" SET smoke:key v EX 1 KEEPTTL
  refuses "$integer" SET smoke:key v EX soon
  refuses "$integer" SET smoke:key v PX 1.5
  refuses "ERR invalid expire time in 'set' command" SET smoke:key v EX 0
  refuses "ERR invalid expire time in 'set' command" SET smoke:key v PX -5
  refuses "ERR invalid expire time in 'set' command" SET smoke:key v EX 9223372036854775807
  gives '"3"' GET smoke:key
}

expiry_commands() {
  gives '(integer) -2' TTL smoke:none
  gives '(integer) -2' PTTL smoke:none
  gives 'OK' SET smoke:key value
  gives '(integer) -1' TTL smoke:key
  gives '(integer) -1' PTTL smoke:key
  gives 'OK' SET smoke:key value EX 100
  shows '(integer) @(99|100)' TTL smoke:key
  gives 'OK' SET smoke:key value KEEPTTL
  shows '(integer) @(99|100)???' PTTL smoke:key
  gives 'OK' SET smoke:key value px 100000
  shows '(integer) @(99|100)' TTL smoke:key
  gives 'OK' SET smoke:key value
  gives '(integer) -1' TTL smoke:key
  gives 'OK' SET smoke:key value EXAT $(($(date +%s) + 50))
  shows '(integer) @(49|50)' TTL smoke:key
  gives 'OK' SET smoke:key value PXAT $((($(date +%s) + 50) * 1000))
  shows '(integer) @(49|50)' TTL smoke:key
  gives 'OK' SET smoke:key value EXAT 1
  gives '(nil)' GET smoke:key
  gives 'OK' SET smoke:key value PX 30
  sleep 0.1
  gives '(nil)' GET smoke:key
  gives '(integer) 0' EXISTS smoke:key
  refuses "$(arity ttl)" TTL
  refuses "$(arity pttl)" PTTL a b
}

key_commands() {
  gives 'OK' SET smoke:a 1
  gives 'OK' SET smoke:b 2
  gives '(integer) 4' EXISTS smoke:a smoke:a smoke:b smoke:none smoke:a
  gives '(integer) 0' EXISTS smoke:none
  gives '(integer) 2' DEL smoke:a smoke:none smoke:b smoke:a
  gives '(integer) 0' DEL smoke:a
  gives '(nil)' GET smoke:b
  gives 'OK' SET smoke:a 1
  gives '(integer) 1' UNLINK smoke:a smoke:none
  gives '(nil)' GET smoke:a
  gives 'OK' MSET smoke:a 1 smoke:b two
  gives $'1) "1"\n2) (nil)\n3) "two"' MGET smoke:a smoke:none smoke:b
  gives '(integer) 2' DEL smoke:a smoke:b
  gives '(integer) 1' SETNX smoke:a 9
  gives '(integer) 10' INCR smoke:a
  gives '(integer) 7' DECRBY smoke:a 3
  gives '"7.5"' INCRBYFLOAT smoke:a 0.5
  refuses "$integer" INCR smoke:a
  gives '"7.5"' GETSET smoke:a hello
  gives '(integer) 5' STRLEN smoke:a
  gives '"ell"' GETRANGE smoke:a 1 -2
  gives 'string' TYPE smoke:a
  gives '(integer) 1' EXPIRE smoke:a 100
  gives '(integer) 0' EXPIRE smoke:a 50 GT
  gives '(integer) 100' TTL smoke:a
  gives '"hello"' GETEX smoke:a PERSIST
  gives '(integer) -1' EXPIRETIME smoke:a
  gives '"hello"' GETDEL smoke:a
  gives 'none' TYPE smoke:a
  refuses "ERR invalid expire time in 'setex' command" SETEX smoke:a 0 value
  refuses "$(arity mset)" MSET smoke:a 1 smoke:b
  refuses "$(arity mget)" MGET
  refuses "$(arity unlink)" UNLINK
  refuses "$(arity del)" DEL
  refuses "$(arity exists)" EXISTS
}

client_commands() {
  shows '(integer) [1-9]*' CLIENT ID
  gives '(nil)' CLIENT GETNAME
  same "RESP$protocol: CLIENT SETNAME" $'OK\n"smoke"\nOK\n(nil)' \
    "$(session 'CLIENT SETNAME smoke' 'CLIENT GETNAME' 'CLIENT SETNAME ""' 'CLIENT GETNAME')"
  refuses 'ERR Client names cannot contain spaces, newlines or special characters.' CLIENT SETNAME 'a b'
  if is_redis_7_0; then
    skip "RESP$protocol: CLIENT SETINFO, which Redis 7.0 does not have"
  else
    gives 'OK' CLIENT SETINFO LIB-NAME smoke
    gives 'OK' CLIENT SETINFO lib-ver 1.0
    shows '(error) ERR *' CLIENT SETINFO bogus x
  fi
  shows '*id=[1-9]*addr=*name=*db=0*resp='"$protocol"'*' CLIENT INFO
  shows '*id=[1-9]*addr=*cmd=client?list*' CLIENT LIST
  shows '*id=[1-9]*' CLIENT LIST TYPE normal
  gives "ERR Unknown client type 'bogus'" CLIENT LIST TYPE bogus  # redis-cli prints what CLIENT LIST says as it is
  gives "$syntax" CLIENT LIST BOGUS
  gives '(integer) 0' CLIENT KILL ID 999999999
  refuses 'ERR No such client' CLIENT KILL 127.0.0.1:1
  refuses 'ERR client-id should be greater than 0' CLIENT KILL ID none
  gives 'OK' CLIENT NO-EVICT on
  gives 'OK' CLIENT NO-EVICT off
  refuses "$syntax" CLIENT NO-EVICT maybe
  gives 'OK' CLIENT REPLY ON
  refuses "$syntax" CLIENT REPLY MAYBE
  refuses "$(arity client)" CLIENT
  refuses "$(arity 'client|id')" CLIENT ID now
  refuses "ERR unknown subcommand 'nosuch'. Try CLIENT HELP." CLIENT nosuch
}

server_commands() {
  shows '(integer) [1-9]*' COMMAND COUNT
  shows '*1) "get"*2) \(integer\) 2*readonly*fast*4) \(integer\) 1*@read*@string*@fast*' COMMAND INFO get
  gives '1) (nil)' COMMAND INFO nosuch
  shows '*"get"*"summary"*"since"*"group"*"complexity"*' COMMAND DOCS get
  shows '(empty @(array|hash))' COMMAND DOCS nosuch
  gives $'1) "a"\n2) "b"' COMMAND GETKEYS DEL a b
  gives '1) "a"' COMMAND GETKEYS SET a 1 EX 5
  refuses 'ERR Invalid command specified' COMMAND GETKEYS NOSUCH a
  refuses 'ERR The command has no key arguments' COMMAND GETKEYS PING a
  refuses "$(arity 'command|getkeys')" COMMAND GETKEYS
  refuses "ERR unknown subcommand 'nosuch'. Try COMMAND HELP." COMMAND nosuch
  local name list count
  list=$'\n'$(cli COMMAND LIST)$'\n'
  count=$(cli COMMAND COUNT)
  same "RESP$protocol: COMMAND LIST is as long as COMMAND COUNT" "$count" "$(cli COMMAND LIST | grep -vc '|')"
  for name in ping echo get set del unlink exists ttl pttl hello auth quit reset select client command config info \
    dbsize flushdb flushall time shutdown; do
    like "RESP$protocol: COMMAND LIST has $name" "*"$'\n'"$name"$'\n'"*" "$list"
  done

  gives 'OK' CONFIG SET timeout "$(cli CONFIG GET timeout | tail -n 1)"
  shows '1?*"timeout"*"0"' CONFIG GET timeout
  shows '*"maxclients"*' CONFIG GET 'maxcl*' timeout
  shows '(empty @(array|hash))' CONFIG GET nosuch
  refuses "ERR Unknown option or number of arguments for CONFIG SET - 'nosuch'" CONFIG SET nosuch 1
  shows "(error) ERR CONFIG SET failed (possibly related to argument 'timeout') - *" CONFIG SET timeout soon
  refuses "ERR CONFIG SET failed (possibly related to argument 'timeout') - duplicate parameter" \
    CONFIG SET timeout 0 timeout 0
  refuses "$(arity config)" CONFIG
  refuses "$(arity 'config|get')" CONFIG GET
  refuses "$(arity 'config|set')" CONFIG SET timeout
  refuses "ERR unknown subcommand 'nosuch'. Try CONFIG HELP." CONFIG nosuch

  shows '*# Server*redis_version:*tcp_port:'"$PORT"'*connected_clients:*used_memory:*total_commands_processed:*' INFO
  shows '*# Server*uptime_in_seconds:*' INFO server
  unlike "RESP$protocol: INFO server has no other section" '*# Clients*' "$(cli INFO server)"
  shows '*# Server*# Clients*' INFO server clients
  gives '' INFO nosuch
  shows '1) "[1-9]*"?2) "[0-9]*"' TIME
  refuses "$(arity time)" TIME now

  gives 'OK' FLUSHALL
  gives '(integer) 0' DBSIZE
  same "RESP$protocol: DBSIZE and FLUSHDB belong to one database" \
    $'OK\nOK\nOK\n(integer) 1\nOK\n(integer) 0\nOK\n(integer) 1' \
    "$(session 'SET smoke:0 1' 'SELECT 2' 'SET smoke:2 1' DBSIZE FLUSHDB DBSIZE 'SELECT 0' DBSIZE)"
  shows '*# Keyspace*db0:keys=1,expires=0,avg_ttl=0*' INFO keyspace
  gives 'OK' FLUSHDB ASYNC
  gives 'OK' FLUSHALL SYNC
  refuses "$syntax" FLUSHALL NOW
  refuses "$syntax" FLUSHDB NOW
  gives '(integer) 0' DBSIZE
  refuses "$(arity dbsize)" DBSIZE 1
  refuses "$syntax" SHUTDOWN BOGUS
}

memory_commands() {
  gives 'OK' SET smoke:object 12345
  gives '"int"' OBJECT ENCODING smoke:object
  gives '(integer) 1' EXISTS smoke:object
  # In one connection: it is in whole seconds, and one may begin between two runs of redis-cli.
  same "RESP$protocol: OBJECT IDLETIME" $'OK\n(integer) 0' \
    "$(session 'SET smoke:object 12345' 'OBJECT IDLETIME smoke:object')"
  shows '(integer) [1-9]*' OBJECT REFCOUNT smoke:object
  shows '(error) ERR An LFU maxmemory policy is not selected, access frequency not tracked.*' OBJECT FREQ smoke:object
  gives 'OK' SET smoke:object text
  gives '"embstr"' OBJECT ENCODING smoke:object
  gives 'OK' SET smoke:object "$(printf '%050d' 1)x"
  gives '"raw"' OBJECT ENCODING smoke:object
  gives '(nil)' OBJECT ENCODING smoke:none
  gives '(nil)' OBJECT IDLETIME smoke:none
  refuses "$(arity 'object|encoding')" OBJECT ENCODING
  shows '(integer) [1-9][0-9]*' MEMORY USAGE smoke:object
  shows '(integer) [1-9][0-9]*' MEMORY USAGE smoke:object SAMPLES 5
  gives '(nil)' MEMORY USAGE smoke:none
  refuses "$syntax" MEMORY USAGE smoke:object SAMPLES
  shows '*"total.allocated"*"keys.count"*"dataset.bytes"*' MEMORY STATS

  gives 'OK' CONFIG SET maxmemory-policy allkeys-lfu
  shows '(error) ERR An LFU maxmemory policy is selected, idle time not tracked.*' OBJECT IDLETIME smoke:object
  gives 'OK' SET smoke:used 1
  shows '(integer) [0-9]*' OBJECT FREQ smoke:used
  gives 'OK' CONFIG SET maxmemory-policy noeviction
  shows "(error) ERR CONFIG SET failed (possibly related to argument 'maxmemory-policy') - argument(s) must be one of *" \
    CONFIG SET maxmemory-policy nosuch
  shows "(error) ERR CONFIG SET failed (possibly related to argument 'maxmemory') - argument must be a memory value*" \
    CONFIG SET maxmemory nothing
  gives 'OK' CONFIG SET maxmemory 1
  shows '*"maxmemory"*"1"*' CONFIG GET maxmemory
  refuses "OOM command not allowed when used memory > 'maxmemory'." SET smoke:more 1
  gives '"1"' GET smoke:used
  gives '(integer) 1' DEL smoke:used
  gives 'OK' CONFIG SET maxmemory 0
  gives 'OK' SET smoke:more 1
  gives '(integer) 2' DEL smoke:more smoke:object
  shows '*maxmemory:0*maxmemory_policy:noeviction*' INFO memory
}

for protocol in 2 3; do
  connection_commands
  string_commands
  expiry_commands
  key_commands
  client_commands
  server_commands
  memory_commands
done

# ---- Bytes of RESP2 and RESP3, and what needs two connections ------------------------------------------------------

hello=$'HELLO 3\r\n'
like 'COMMAND is as long as COMMAND COUNT' "?$(cli COMMAND COUNT)?r?n?[16]0?r?n*" "$(printf 'COMMAND\r\n' | netcat)"
answers 'null in RESP2' 'GET smoke:none\r\n' '$-1\r\n'
like 'null in RESP3' '%7*_?r?n' "$(printf '%sGET smoke:none\r\n' "$hello" | netcat)"
like 'a map in RESP3' '%7*%1?r?n$7?r?ntimeout*' "$(printf '%sCONFIG GET timeout\r\n' "$hello" | netcat)"
like 'text in RESP3' '%7*=*txt:# Server*' "$(printf '%sINFO server\r\n' "$hello" | netcat)"
like 'text in RESP2' '$*# Server*' "$(printf 'INFO server\r\n' | netcat)"
like 'RESET goes back to RESP2' '*+RESET*$-1?r?n' "$(printf '%sRESET\r\nGET smoke:none\r\n' "$hello" | netcat)"
answers 'a failing HELLO changes nothing' 'HELLO 3 BOGUS\r\nGET smoke:none\r\n' \
  "-ERR Syntax error in HELLO option 'BOGUS'"'\r\n$-1\r\n'
answers 'CLIENT REPLY OFF and ON' 'CLIENT REPLY OFF\r\nPING\r\nCLIENT REPLY ON\r\nPING\r\n' '+OK\r\n+PONG\r\n'
answers 'CLIENT REPLY SKIP' 'CLIENT REPLY SKIP\r\nECHO a\r\nECHO b\r\n' '$1\r\nb\r\n'

exec 4<>"/dev/tcp/$HOST/$PORT"
printf 'CLIENT SETNAME victim\r\nCLIENT ID\r\n' >&4
read -r -t 5 line <&4
read -r -t 5 id <&4
id=${id//[!0-9]/}
like 'CLIENT LIST shows another client' "*id=$id *name=victim *" "$(cli CLIENT LIST)"
same 'CLIENT KILL ID' 1 "$(cli CLIENT KILL ID "$id")"
same 'the killed client is disconnected' '' "$(timeout 5 cat <&4 || echo "status $?")"
victim_is_gone() { [[ $(cli CLIENT LIST) != *name=victim\ * ]]; }
eventually 'and not listed any more' 2 victim_is_gone
exec 4>&-

finish

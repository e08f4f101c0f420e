#!/bin/bash
# life.sh BINARY: how the program starts, what it says, what it refuses, and how it ends. Starts servers of its own, on
# free ports of the loopback interface.
set -eu
binary=$(realpath "$1")
. "$(dirname "$0")/lib.sh"
cd "$scratch"

# ---- Helpers -------------------------------------------------------------------------------------------------------

# fails NAME STATUS PATTERN ARGUMENT...: the program ends at once with that status, says one line like this on stderr,
# and nothing on stdout.
fails() {
  local name=$1 wanted=$2 pattern=$3 status=0
  shift 3
  timeout 10 "$binary" "$@" >out 2>err </dev/null || status=$?
  same "$name: exit status" "$wanted" "$status"
  like "$name: says why" "$pattern" "$(cat err)"
  same "$name: in one line" '1 0' "$(wc -l <err) $(wc -l <out)"
}

# ends NAME [SIGNAL]: the running server ends with status 0 within a second of that signal (see `stop`).
ends() {
  stop "${2-TERM}"
  same "$1: exit status" 0 "$status"
  if [ "$took" -le 1000 ]; then ok "$1: within a second"; else not_ok "$1: within a second" "$took ms"; fi
}

config() { cli CONFIG GET "$1" | tail -n 1; }
pings() { [[ $(cli PING 2>&1) == PONG ]]; }
address_of() { sed -n "s/.*ready on .*$1:\([0-9][0-9]*\).*/\1/p" "$log" | head -n 1; }

# connect FD: opens a connection as that descriptor of this script, and waits for an answer to a PING, so that the
# server surely has it.
connect() {
  local answer
  eval "exec $1<>\"/dev/tcp/$HOST/$PORT\""
  printf 'PING\r\n' >&"$1"
  read -r -t 5 answer <&"$1"
  [[ $answer == +PONG* ]]
}

# received FD: what comes there until the server closes, spelt out; then `(still open)` if it does not within 5 s.
received() { { timeout 5 cat <&"$1" 2>receive || [ $? -ne 124 ] || printf '(still open)'; } | spell; }

# ---- Help and version ----------------------------------------------------------------------------------------------

status=0
timeout 10 "$binary" --help >out 2>err || status=$?
same '--help: exit status' 0 "$status"
for flag in config port bind threads unixsocket maxclients timeout loglevel; do
  like "--help names --$flag" "*--$flag*" "$(cat out)"
done
same '--help: nothing on stderr' '' "$(cat err)"
status=0
timeout 10 "$binary" --version >out 2>err || status=$?
same '--version: exit status' 0 "$status"
like '--version: a number' '*[0-9].[0-9]*' "$(cat out)"
same '--version: one line, nothing on stderr' '1 0' "$(wc -l <out) $(wc -l <err)"

# ---- Bad flags, files, ports ---------------------------------------------------------------------------------------

fails 'unknown flag' 2 '*--bogus*' --bogus
fails 'unknown flag with a value' 2 '*--bogus*' --bogus 1
fails 'port is not a number' 2 '*port*banana*' --port banana
fails 'port out of range' 2 '*port*70000*' --port 70000
fails 'port is negative' 2 '*port*-1*' --port -1
fails 'flag without its value' 2 '*--port*' --port
fails 'unknown log level' 2 '*loglevel*loud*' --loglevel loud
fails 'bad permission' 2 '*unixsocketperm*999*' --unixsocketperm 999
fails 'bad address' 2 '*300.1.2.3*' --bind 300.1.2.3 --port 0
fails 'file does not exist' 2 "*$scratch/none.conf*" --config "$scratch/none.conf"
fails 'file does not exist, as first argument' 2 "*$scratch/none.conf*" "$scratch/none.conf"

printf '# a comment\n\nbogus 1\nport 0\n' >bad.conf
fails 'unknown directive' 2 "*bad.conf:3*bogus*" --config bad.conf
fails 'unknown directive, file as first argument' 2 "*bad.conf:3*bogus*" bad.conf
printf 'port 0\ntimeout soon\n' >bad.conf
fails 'bad value in a file' 2 "*bad.conf:2*timeout*" bad.conf
printf 'port 0\n\n\n  timeout\n' >bad.conf
fails 'directive without a value' 2 "*bad.conf:4*timeout*" bad.conf
printf 'port 0\nport "0\n' >bad.conf
fails 'unbalanced quotes in a file' 2 "*bad.conf:2*" bad.conf

# ---- Start, stop, sockets ------------------------------------------------------------------------------------------

start "$binary" --port 0
same 'one line when it is ready' 1 "$(grep -c 'ready on ' "$log")"
like 'the line gives the address' "*ready on *127.0.0.1:$PORT*" "$(cat "$log")"
same 'answers on 127.0.0.1' PONG "$(cli PING)"
port6=$(address_of '\[::1\]')
if [ -n "$port6" ]; then
  same 'answers on [::1]' PONG "$(timeout 10 redis-cli -h ::1 -p "$port6" PING)"
else
  skip 'answers on [::1]: the server does not listen there, is IPv6 off?'
fi
fails 'port in use' 1 "*$PORT*" --port "$PORT" --bind 127.0.0.1 --save ''
same 'the first server is not disturbed' PONG "$(cli PING)"
ends 'SIGTERM'

port=$PORT
start "$binary" --port "$port" --bind '127.0.0.1' --threads 1
same '--port is where it listens, again at once' "$port" "$PORT"
same '--bind one address: not on the other' '' "$(address_of '\[::1\]')"
ends 'SIGINT' INT

start "$binary" --port 0 --unixsocket "$scratch/v.sock" --unixsocketperm 700
same 'unix socket answers' PONG "$(timeout 10 redis-cli -s v.sock PING)"
same 'unix socket has its permission' '700 socket' "$(stat -c '%a %F' v.sock)"
same 'TCP answers too' PONG "$(cli PING)"
stop KILL
start "$binary" --port 0 --unixsocket "$scratch/v.sock" --unixsocketperm 770
same 'a socket left by a killed server is replaced' PONG "$(timeout 10 redis-cli -s v.sock PING)"
same 'with the new permission' '770 socket' "$(stat -c '%a %F' v.sock)"
ends 'SIGTERM with a unix socket'
if [ -e v.sock ]; then not_ok 'the socket file is removed'; else ok 'the socket file is removed'; fi

# ---- Ending with clients -------------------------------------------------------------------------------------------

# What has been sent before the signal is answered, then the connection ends.
for name in TERM INT; do
  start "$binary" --port 0 --threads 2
  connect 4
  connect 5
  connect 6
  printf 'PING\r\n%.0s' {1..1000} >&4
  printf '*2\r\n$4\r\nECHO\r\n$5\r\nhel' >&5
  signal "$name"
  same "SIG$name: 1,000 requests already sent are answered" '1000' "$(received 4 | grep -o 'PONG\\r\\n' | wc -l)"
  same "SIG$name: half a request is not" '' "$(received 5)"
  same "SIG$name: an idle client is disconnected" '' "$(received 6)"
  ends "SIG$name with clients" -
  exec 4>&- 5>&- 6>&-
done

# Answers which the client has yet to read, more than the kernel buffers.
start "$binary" --port 0
printf '*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$100000\r\n%0100000d\r\n' 7 | netcat >out
connect 4
printf 'GET big\r\n%.0s' {1..60} >&4
sleep 0.2
signal TERM
same 'SIGTERM: answers under way arrive' $((60 * 100011)) "$(timeout 5 cat <&4 | wc -c)"
ends 'SIGTERM with answers under way' -
exec 4>&-

# A client that never reads must not hold it up.
start "$binary" --port 0
printf '*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$100000\r\n%0100000d\r\n' 7 | netcat >out
connect 4
printf 'GET big\r\n%.0s' {1..1000} >&4
sleep 0.2
stop TERM
same 'SIGTERM with a client that does not read: exit status' 0 "$status"
if [ "$took" -le 1500 ]; then ok 'and soon'; else not_ok 'and soon' "$took ms"; fi
exec 4>&-

# Millions of keys take no longer.
start "$binary" --port 0
timeout 60 redis-benchmark -h "$HOST" -p "$PORT" -t set -n 4000000 -r 2000000000 -P 64 -d 3 -q >out 2>&1
like 'millions of keys are there' '[34]??????' "$(cli DBSIZE)"
ends 'SIGTERM with millions of keys'

start "$binary" --port 0
signalled=$(microseconds)
cli SHUTDOWN
ends 'SHUTDOWN' -
start "$binary" --port 0
signalled=$(microseconds)
cli SHUTDOWN NOSAVE
ends 'SHUTDOWN NOSAVE' -

# ---- The configuration file, and SIGHUP ----------------------------------------------------------------------------

printf '# smoke\nport 0\nmaxclients 77\n\n  TIMEOUT  "33"  \nclient-output-buffer-limit normal 1mb 512kb 2\n' >v.conf
start "$binary" v.conf
same 'file as first argument' '77 33' "$(config maxclients) $(config timeout)"
like 'a directive of several words' 'normal 1048576 524288 2*' "$(config client-output-buffer-limit)"
stop
start "$binary" v.conf --maxclients 88
same 'flags win over the file given first' '88 33' "$(config maxclients) $(config timeout)"
stop
start "$binary" --maxclients 99 --config "$scratch/v.conf"
same 'flags win over --config wherever it stands' '99 33' "$(config maxclients) $(config timeout)"
stop
printf 'port %s\nbind 127.0.0.1\nthreads 1\n' "$port" >port.conf
start "$binary" --config port.conf
same 'port and bind from the file' "$port " "$PORT $(address_of '\[::1\]')"
stop

# reread PATTERN: sends SIGHUP and waits up to 5 s until what the server then says is like this, in small letters.
reread() {
  local from
  from=$(wc -c <"$log")
  signal HUP
  said() { [[ $(tail -c "+$((from + 1))" "$log" | tr '[:upper:]' '[:lower:]') == $1 ]]; }
  eventually "SIGHUP says something like $1" 5 said "$1"
}

start "$binary" --config v.conf --loglevel notice
connect 4
printf '# smoke\nport 0\nmaxclients 66\ntimeout 1\n' >v.conf
reread '*@(maxclients*timeout|timeout*maxclients)*'
same 'SIGHUP: what changed is in force' '66 1' "$(config maxclients) $(config timeout)"
same 'SIGHUP: the new timeout ends an idle client without a word' '' "$(received 4)"
exec 4>&-
reread '*@(unchanged|no change|nothing changed|nothing has changed|not changed)*'
printf 'port 0\nmaxclients 55\nbogus 1\n' >v.conf
reread '*v.conf:3*bogus*'
same 'SIGHUP: a bad file changes nothing' '66 1' "$(config maxclients) $(config timeout)"
rm v.conf
reread '*v.conf*'
same 'SIGHUP: nor does a missing one' PONG "$(cli PING)"
ends 'SIGTERM after SIGHUP'

start "$binary" --port 0
signal HUP
sleep 0.2
same 'SIGHUP without a file does no harm' PONG "$(cli PING)"
stop

# ---- CONFIG REWRITE -------------------------------------------------------------------------------------------------

printf '# mine\nport 0\nmaxclients 77\nTIMEOUT 3\ntimeout 33\n\n# the end' >r.conf
chmod 640 r.conf
start "$binary" --config r.conf
same 'CONFIG REWRITE with nothing to write' OK "$(cli CONFIG REWRITE)"
same 'leaves the file as it was' '# mine|port 0|maxclients 77|TIMEOUT 3|timeout 33||# the end' "$(paste -sd '|' r.conf)"
same 'CONFIG SET of several' OK \
  "$(cli CONFIG SET timeout 44 requirepass "a \"b' c" client-output-buffer-limit 'pubsub 4mb 2mb 9' maxmemory 30%)"
same 'CONFIG REWRITE' OK "$(cli -a "a \"b' c" --no-auth-warning CONFIG REWRITE)"
grep -v -e requirepass -e output r.conf >rest
same 'changes the lines of what has changed, and adds others' \
  '# mine|port 0|maxclients 77|timeout 44||# the end||# Written by CONFIG REWRITE.|maxmemory 30%' "$(paste -sd '|' rest)"
same 'for whom it was readable before' 640 "$(stat -c %a r.conf)"
like 'and is told in the log' '*CONFIG REWRITE: wrote *timeout*r.conf*' "$(cat "$log")"
if grep -q "b' c" "$log"; then not_ok 'but not the password'; else ok 'but not the password'; fi
memory=$(cli -a "a \"b' c" --no-auth-warning CONFIG GET maxmemory | tail -n 1)
ends 'SIGTERM after CONFIG REWRITE'
start "$binary" --config r.conf --timeout 5
export REDISCLI_AUTH="a \"b' c"
same 'a restart finds what was written' "77 $memory" "$(config maxclients) $(config maxmemory)"
like 'all of it' '*pubsub 4194304 2097152 9' "$(config client-output-buffer-limit)"
same 'CONFIG SET of what a flag says' OK "$(cli CONFIG SET timeout 6)"
same 'is written as well' OK "$(cli CONFIG REWRITE)"
like 'with a warning' '*flag --timeout will win*' "$(cat "$log")"
same 'a value that no line can give' OK "$(printf 'CONFIG SET requirepass "x\\ny"\n' | cli)"
export REDISCLI_AUTH=$'x\ny'
like 'is refused' 'ERR Rewriting config file: no line can give requirepass*' "$(cli CONFIG REWRITE)"
unset REDISCLI_AUTH
same 'and changes nothing' 'timeout 6' "$(grep -i timeout r.conf)"
stop
start "$binary" --port 0
same 'CONFIG REWRITE without a file' 'ERR The server is running without a config file' "$(cli CONFIG REWRITE)"
stop

# ---- Limits --------------------------------------------------------------------------------------------------------

start "$binary" --port 0 --maxclients 2
connect 4
connect 5
closes 'maxclients: one too many' '' '-ERR max number of clients reached\r\n'
exec 4>&-
eventually 'maxclients: there is room again' 5 pings
exec 5>&-
stop

start "$binary" --port 0 --timeout 1
connect 4
connect 5
printf 'PING' >&5
same 'timeout: an idle client is disconnected without a word' '' "$(received 4)"
same 'timeout: so is one with half a request' '' "$(received 5)"
exec 4>&- 5>&-
stop

# A client which asks for 100 MB and reads nothing: memory stays bounded, the others are served, and it is disconnected
# when it has not moved for the seconds of the soft limit.
start "$binary" --port 0 --threads 1 --client-output-buffer-limit 'normal 16mb 512kb 2'
printf '*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$100000\r\n%0100000d\r\n' 7 | netcat >out
connect 4
{ printf 'CLIENT SETNAME hog\r\n'; printf 'GET big\r\n%.0s' {1..1000}; } >&4
hog_is_gone() { [[ $(cli CLIENT LIST) != *name=hog\ * ]]; }
most=0
for _ in 1 2 3 4 5; do
  memory=$(awk '/^VmRSS/ { print $2 }' "/proc/$server/status")
  if [ "$memory" -gt "$most" ]; then most=$memory; fi
  same 'others are served while a client does not read' PONG "$(cli PING)"
  sleep 0.1
done
like 'it is still there' '*name=hog *' "$(cli CLIENT LIST)"
if [ "$most" -lt 50000 ]; then ok 'memory stays bounded'; else not_ok 'memory stays bounded' "$most kB"; fi
eventually 'a client which does not read is disconnected' 8 hog_is_gone
exec 4>&-

# Above the hard limit it goes at once, perhaps before it has sent all it wants.
same 'a lower limit' OK "$(cli CONFIG SET client-output-buffer-limit 'normal 1mb 512kb 60')"
connect 4
(trap '' PIPE; { printf 'CLIENT SETNAME hog\r\n'; printf 'GET big\r\n%.0s' {1..1000}; } >&4 2>send) || :
eventually 'a client above the hard limit is disconnected at once' 1 hog_is_gone
exec 4>&-
stop

# A client that begins to read only after the first look at who does: it gets everything.
start "$binary" --port 0 --threads 1
printf '*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$1000000\r\n%01000000d\r\n' 7 | netcat >out
connect 4
printf 'GET big\r\n%.0s' {1..30} >&4
sleep 1.3
printf 'QUIT\r\n' >&4
same 'a client that reads late gets everything' $((30 * 1000012 + 5)) "$(timeout 10 cat <&4 | wc -c)"
exec 4>&-
stop

# Out of file descriptors: the limit is taken away under the running server, so that accept really fails.
start "$binary" --port 0 --threads 1
prlimit --pid "$server" --nofile=40:40
python3 - "$PORT" "/proc/$server/stat" >descriptors <<'PYTHON'
import socket, sys, time

port, stat = int(sys.argv[1]), sys.argv[2]

def used():  # clock ticks, a hundredth of a second each
    fields = open(stat).read().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])

clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(60)]
for client in clients:
    client.sendall(b"PING\r\n")
    client.settimeout(0.02)

def answered(client):
    try:
        return client.recv(100) == b"+PONG\r\n"
    except TimeoutError:
        return False

served = [client for client in clients if answered(client)]
waiting = [client for client in clients if client not in served]
before = used()
time.sleep(2)
ticks = used() - before
for client in served:
    client.close()
late = 0
for client in waiting:
    client.settimeout(5)
    late += answered(client)
    client.close()
print("some served" if 0 < len(served) < 60 else f"{len(served)} served")
print("no spinning" if ticks < 40 else f"{ticks} ticks")
print("all served later" if late == len(waiting) else f"{late} of {len(waiting)}")
PYTHON
same 'out of descriptors: those that fit are served' 'some served' "$(sed -n 1p descriptors)"
same 'out of descriptors: the server does not spin' 'no spinning' "$(sed -n 2p descriptors)"
same 'out of descriptors: the others are accepted later' 'all served later' "$(sed -n 3p descriptors)"
same 'out of descriptors: the log says so, not again and again' 1 "$(grep -c 'Too many open files' "$log" | awk '{ print ($1 >= 1 && $1 < 10) }')"
stop

# Keepalive: the kernel has its timer on for a client's socket.
if command -v ss >/dev/null; then
  start "$binary" --port 0 --tcp-keepalive 77
  connect 4
  like 'tcp-keepalive: the socket is probed' '*timer:\(keepalive,1min1[67]sec*' "$(ss -Htno state established "sport = :$PORT")"
  exec 4>&-
  stop
else
  echo 'skipped - tcp-keepalive: no ss here (package iproute2)'
fi

# ---- systemd -------------------------------------------------------------------------------------------------------

# More of it is in systemd.py.
start env LISTEN_FDS=1 LISTEN_PID=1 "$binary" --port 0
same 'LISTEN_FDS for another process is ignored' PONG "$(cli PING)"
stop

# journald says in JOURNAL_STREAM which file is its own; only then do lines begin with <priority>.
cat >journal.sh <<'BASH'
export JOURNAL_STREAM
JOURNAL_STREAM=$(stat -L -c '%d:%i' /dev/fd/2)
exec "$@"
BASH
start "$BASH" journal.sh "$binary" --port 0
stop
same 'journald: every line has its priority' '' "$(grep -v '^<[0-7]>' "$log" || [ $? -eq 1 ])"
like 'journald: the ready line is a notice or information' '*<[56]>*ready on *' "$(cat "$log")"
start env JOURNAL_STREAM=1:1 "$binary" --port 0
stop
same 'no priorities where stderr is another file' '' "$(grep '^<[0-7]>' "$log" || [ $? -eq 1 ])"

finish

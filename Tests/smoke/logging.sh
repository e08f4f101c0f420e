#!/bin/bash
# logging.sh BINARY: the append log: what is in it and what it comes to, with redis-server in both directions; how it is
# written anew; damage; disks that are full.
set -eu
binary=$(realpath "$1")
. "$(dirname "$0")/lib.sh"
cd "$scratch"
keeps=yes

info() { cli INFO persistence | tr -d '\r' | sed -n "s/^$1://p"; }
serve() { start "$binary" --port 0 --save '' --appendonly yes "$@"; }
is_rewritten() { [ "$(info aof_rewrite_in_progress)" = 0 ]; }

# refuses_log NAME STATUS PATTERN ARGUMENT...: the server does not start with a log.
refuses_log() { refuses "${@:1:3}" --save '' --appendonly yes "${@:4}"; }

# Changes keys in many ways, by a client command.
change() {
  {
    printf 'SET number 41\nINCR number\nSET text hello\nAPPEND text " world"\nSETRANGE text 6 W\nSET gone 1\nDEL gone\n'
    printf 'SET soon x PX 1\nSET later x EX 5000\nSET kept x EX 5000\nPERSIST kept\nSET sooner x\nEXPIRE sooner 4000\n'
    printf 'GETEX sooner EX 6000\nMSET a 1 b 2 c 3\nRENAME a aa\nCOPY b bb\nMOVE c 5\nSELECT 5\nSET other 1\nSELECT 0\n'
    printf 'SETBIT bits 77 1\nBITFIELD bits SET u8 0 255\nBITOP NOT not bits\nPFADD log a b c\nPFMERGE all log\n'
    printf 'MULTI\nSET one 1\nINCRBYFLOAT float 2.5\nSWAPDB 1 5\nEXEC\nGETSET text other\nGETDEL one\nSETNX text no\n'
  } | "$@" >out
  head -c 100000 /dev/urandom | "$@" -x SET random >out
  sleep 0.05
  "$@" GET soon >out
}

# ---- What there is -------------------------------------------------------------------------------------------------

serve --appendfsync always
like 'the files are those of Redis 7' \
  'file appendonly.aof.1.base.rdb seq 1 type b|file appendonly.aof.1.incr.aof seq 1 type i|' \
  "$(grep -v '^#' appendonlydir/appendonly.aof.manifest | tr '\n' '|')"
same 'for their owner alone' '750 600' \
  "$(stat -c %a appendonlydir) $(stat -c %a appendonlydir/* | sort -u)"
change cli
contents cli >before
same 'INFO' '1 0 ok ok' \
  "$(info aof_enabled) $(info aof_rewrite_in_progress) $(info aof_last_write_status) $(info aof_last_bgrewrite_status)"
same 'INFO: the size' "$(cat appendonlydir/*.rdb appendonlydir/*.aof | wc -c)" "$(info aof_current_size)"
same 'WAITAOF: with always all is kept' '1 0' "$(cli WAITAOF 1 0 0 | tr '\n' ' ' | sed 's/ $//')"
same 'WAITAOF for a replica: the time is over' '1 0' "$(cli WAITAOF 1 1 120 | tr '\n' ' ' | sed 's/ $//')"
like 'WAITAOF: a number that cannot be' '*value is out of range, must be between 0 and 1*' "$(cli WAITAOF 2 0 0)"
like 'WAITAOF: no time' '*timeout is negative*' "$(cli WAITAOF 0 0 -1)"
stop KILL
like 'valiant --check' '*an append log of 2 files*commands of an append log, * in * blocks; * bytes have checksums, which are right*' \
  "$("$binary" --check appendonlydir)"
serve
contents cli >after
same 'SIGKILL: all is there' "$(cat before)" "$(cat after)"
like 'loading is logged' '*loaded the append log, * keys and * commands, in *' "$(cat "$log")"
same 'CONFIG GET' 'everysec yes' "$(cli CONFIG GET appendfsync | tail -n 1) $(cli CONFIG GET appendonly | tail -n 1)"
same 'WAITAOF with everysec' '1 0' "$(printf 'SET fresh 1\nWAITAOF 1 0 3000\n' | cli | tail -n 2 | tr '\n' ' ' | sed 's/ $//')"

# ---- Written anew --------------------------------------------------------------------------------------------------

same 'BGREWRITEAOF' 'Background append only file rewriting started' "$(cli BGREWRITEAOF)"
eventually 'it ends' 10 is_rewritten
same 'the old files are gone' 'appendonly.aof.2.base.rdb appendonly.aof.2.incr.aof appendonly.aof.manifest' \
  "$(ls appendonlydir | tr '\n' ' ' | sed 's/ $//')"
contents cli >before
cli INCR number >out
cli DECR number >out
stop
serve
contents cli >after
same 'all is there' "$(cat before)" "$(cat after)"
cli CONFIG SET auto-aof-rewrite-min-size 100kb >out
for _ in 1 2 3 4; do head -c 90000 /dev/urandom | cli -x SET random >out; done
has_grown() { [ "$(info aof_rewrites)" -ge 1 ]; }
eventually 'when it has doubled it is written anew by itself' 10 has_grown
contents cli >before
stop

# ---- Redis ---------------------------------------------------------------------------------------------------------

if command -v redis-server >which; then
  mkdir redis
  cp -r appendonlydir redis/
  like 'redis-check-aof' '*All AOF files and manifest are valid*' "$(redis-check-aof redis/appendonlydir/appendonly.aof.manifest)"
  redis-server --port 0 --unixsocket "$scratch/redis.sock" --dir redis --save '' --appendonly yes >redis.log 2>&1 9>&- &
  redis=$!
  client() { redis-cli -s "$scratch/redis.sock" "$@"; }
  is_there() { [ "$(client PING 2>&1)" = PONG ]; }
  eventually 'redis-server loads our log' 10 is_there
  contents client >theirs
  same 'with the same keys, values and times' "$(cat before)" "$(cat theirs)"
  change client
  contents client >before
  kill -KILL "$redis"
  wait "$redis" 2>>wait || :
  rm -r appendonlydir
  cp -r redis/appendonlydir .
  serve
  contents cli >after
  same 'what it has added is loaded here' "$(cat before)" "$(cat after)"
  change cli
  contents cli >before
  stop KILL
  serve
  contents cli >after
  same 'and what we have added behind that' "$(cat before)" "$(cat after)"
  stop
  # Its own log, and one of a single file, as Redis before 7 had it.
  for preamble in yes no; do
    rm -rf redis appendonlydir appendonly.aof
    mkdir redis
    redis-server --port 0 --unixsocket "$scratch/redis.sock" --dir redis --save '' --appendonly yes \
      --aof-use-rdb-preamble "$preamble" --aof-timestamp-enabled yes >redis.log 2>&1 9>&- &
    redis=$!
    eventually "redis-server, preamble $preamble" 10 is_there
    change client
    client BGREWRITEAOF >out
    sleep 0.5
    change client
    contents client >before
    kill "$redis"
    wait "$redis" || :
    cp -r redis/appendonlydir .
    serve
    contents cli >after
    same "its log is loaded, preamble $preamble" "$(cat before)" "$(cat after)"
    stop
    rm -r appendonlydir
    cat redis/appendonlydir/*.base.* redis/appendonlydir/*.incr.aof >appendonly.aof
    serve
    contents cli >after
    same "and as a single file, preamble $preamble" "$(cat before)" "$(cat after)"
    cli SET behind 1 >out
    stop
    serve
    same 'which goes on in a folder' '1' "$(cli GET behind)"
    stop
  done
  rm -rf appendonlydir
  cp -r redis/appendonlydir .
  printf '*3\r\n$5\r\nRPUSH\r\n$4\r\nlist\r\n$1\r\n1\r\n' >>"$(ls appendonlydir/*.incr.aof)"
  refuses_log 'a command that is not known' 2 "*.incr.aof, byte *: cannot repeat 'RPUSH': ERR unknown command*"
  rm -rf appendonlydir
else
  skip 'redis-server and the log: it is not installed'
fi

# ---- Beginning and ending ------------------------------------------------------------------------------------------

rm -rf appendonlydir dump.rdb
start "$binary" --port 0
cli SET old 1 >out
stop
serve
same 'the log begins with the snapshot' 1 "$(cli GET old)"
stop
rm dump.rdb
serve
same 'and has it then' 1 "$(cli GET old)"
same 'CONFIG SET appendonly no' OK "$(cli CONFIG SET appendonly no)"
is_off() { [ "$(info aof_enabled)" = 0 ]; }
eventually 'it ends' 5 is_off
like 'BGREWRITEAOF without one' '*appendonly is no*' "$(cli BGREWRITEAOF)"
like 'nor WAITAOF' '*WAITAOF cannot be used when numlocal is set but appendonly is disabled.' "$(cli WAITAOF 1 0 0)"
cli SET between 1 >out
same 'CONFIG SET appendonly yes' OK "$(cli CONFIG SET appendonly yes)"
is_on() { [ "$(info aof_enabled)" = 1 ] && [ "$(info aof_last_bgrewrite_status)" = ok ] && is_rewritten; }
eventually 'it begins anew' 5 is_on
stop KILL
serve
same 'with all that there is' '1 1' "$(cli GET old) $(cli GET between)"
refuses_log 'a second server in the same folder' 1 "*another server keeps its keys in the directory $scratch*"

# ---- Damage --------------------------------------------------------------------------------------------------------

for number in 1 2 3 4 5; do cli SET "damaged$number" "value$number" >out; sleep 0.01; done
stop
cp -r appendonlydir whole
file=$(ls appendonlydir/*.incr.aof)
restore() { rm -rf appendonlydir; cp -r whole appendonlydir; }
python3 - "$file" <<'P'
import sys
data = bytearray(open(sys.argv[1], "rb").read())
data[data.index(b"value2") + 2] ^= 4
open(sys.argv[1], "wb").write(data)
P
refuses_log 'a flipped bit' 2 '*.incr.aof, byte *: it is damaged*truncate*'
like 'valiant --check finds it, too' '*byte *: it is damaged*' "$("$binary" --check "$file" 2>&1 || :)"
restore
truncate -s -7 "$file"
refuses_log 'an end that is missing, when that is an error' 2 '*it ends within a command*aof-load-truncated*' --aof-load-truncated no
serve
like 'else it is cut off and logged' '*ends within a command: its last * bytes, from byte * on, are cut off*' "$(cat "$log")"
same 'and all before it is there' 'value4 0' "$(cli GET damaged4) $(cli EXISTS damaged5)"
stop
restore
rm appendonlydir/*.base.rdb
refuses_log 'a file that is missing' 2 '*.manifest names appendonly.aof.*.base.rdb, which is not there*'
restore
sed -i 's/type i/type h/' appendonlydir/*.manifest
refuses_log 'a changed manifest' 2 '*.manifest: its checksum is wrong*'
restore
base=$(ls appendonlydir/*.base.rdb)
truncate -s -9 "$base"
refuses_log 'a base that is cut off' 2 '*.base.rdb, byte *'
restore

# ---- A full disk ---------------------------------------------------------------------------------------------------

mkdir small
if [ "$(id -u)" -eq 0 ] && mount -t tmpfs -o size=1m none small 2>mount; then
  trap 'umount -l "$scratch/small" 2>"$scratch/umount" || :; at_exit $LINENO' EXIT
  can_change() { [ "$(timeout 3 redis-cli -p "$PORT" SET again 1 2>&1)" = OK ]; }
  for policy in everysec always; do
    rm -rf small/*
    serve --dir small --appendfsync "$policy"
    cli SET first 1 >out
    head -c 2000000 /dev/urandom >much
    # With always the reply waits until the change is kept: the client gives up.
    timeout 2 redis-cli -p "$PORT" -x SET much <much >out 2>&1 || :
    has_failed() { [ "$(info aof_last_write_status)" = err ]; }
    eventually "$policy: a full disk is noticed" 5 has_failed
    same "$policy: changes are refused" 'MISCONF Errors writing to the AOF file: No space left on device' "$(cli SET second 2 2>&1)"
    like "$policy: PING says so" 'MISCONF *' "$(cli PING 2>&1)"
    same "$policy: reads go on" 1 "$(cli GET first)"
    like "$policy: and it is logged" '*the append log: cannot write to *.incr.aof: No space left on device*' "$(cat "$log")"
    same "$policy: SHUTDOWN: it stays" 'ERR Errors trying to SHUTDOWN. Check logs.' "$(cli SHUTDOWN 2>&1)"
    mount -o remount,size=8m small
    eventually "$policy: when there is room again it goes on by itself" 10 can_change
    like "$policy: which is logged" '*the append log is written again*' "$(cat "$log")"
    stop KILL
    serve --dir small
    same "$policy: everything is there after a crash" '1 2000000' "$(cli GET first) $(cli STRLEN much)"
    stop
    mount -o remount,size=1m small 2>>mount || { rm -rf small/*; mount -o remount,size=1m small; }
  done
  mount -o remount,ro small
  refuses_log 'a folder that cannot be written to' 2 '*cannot write to the directory */small: Read-only file system*' --dir small
  umount small
else
  skip "a full disk: $(cat mount 2>/dev/null || echo needs root)"
fi

finish

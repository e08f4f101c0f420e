#!/bin/bash
# saving.sh BINARY: snapshots as they are written and loaded: by orders, by rules and in the end; what redis-server
# makes of them, and Valiant of its files; folders and disks that cannot take them.
set -eu
binary=$(realpath "$1")
. "$(dirname "$0")/lib.sh"
cd "$scratch"
keeps=yes

info() { cli INFO "$1" | tr -d '\r' | sed -n "s/^$2://p"; }
is_saved() { [ "$(info persistence rdb_changes_since_last_save)" = 0 ]; }
is_idle() { [ "$(info persistence rdb_bgsave_in_progress)" = 0 ]; }

# ---- Orders --------------------------------------------------------------------------------------------------------

start "$binary" --port 0
same 'LASTSAVE: the start' yes "$([ "$(($(date +%s) - $(cli LASTSAVE)))" -le 5 ] && echo yes)"
cli MSET small 5 medium 70000 large -3000000000 huge 9223372036854775807 text hello '' empty >out
cli SET expiring soon EX 1000 >out
cli SETBIT edited 77 1 >out
cli -n 5 SET elsewhere 'another database' >out
head -c 1000000 /dev/urandom >random
cli -x SET random <random >out
head -c 1000000 /dev/zero | cli -n 5 -x SET zeros >out
same 'changes are counted' 11 "$(info persistence rdb_changes_since_last_save)"
same 'SAVE' OK "$(cli SAVE)"
same 'nothing is unsaved' 0 "$(info persistence rdb_changes_since_last_save)"
same 'the file is for its owner alone' 600 "$(stat -c %a dump.rdb)"
same 'BGSAVE' 'Background saving started' "$(cli BGSAVE)"
eventually 'it ends' 10 is_idle
same 'BGSAVE SCHEDULE' 'Background saving started' "$(cli BGSAVE SCHEDULE)"
eventually 'that ends, too' 10 is_idle
same 'BGSAVE with something else' 'ERR syntax error' "$(cli BGSAVE now)"
same 'three snapshots have been written' '3 ok' "$(info persistence rdb_saves) $(info persistence rdb_last_bgsave_status)"
same 'in a transaction' 'OK QUEUED QUEUED OK Background saving started' \
  "$(printf 'MULTI\nSET text hello\nBGSAVE\nEXEC\n' | cli | tr '\n' ' ' | sed 's/ $//')"
eventually 'that ends, too' 10 is_idle
answers 'what stands behind SAVE is done behind it' 'SET order 1\r\nSAVE\r\nINCR order\r\nPING\r\n' '+OK\r\n+OK\r\n:2\r\n+PONG\r\n'
answers 'SAVE of a client that wants no reply' 'CLIENT REPLY SKIP\r\nSAVE\r\nPING\r\n' '+PONG\r\n'
cli DEL order >out
like 'valiant --check' '*database 0: 10 keys, 1 with a time to live*database 5: 2 keys*checksum: right*' "$("$binary" --check dump.rdb)"

if command -v redis-check-rdb >which && command -v redis-server >which; then
  cli SAVE >out
  contents cli >ours
  like 'redis-check-rdb finds it good' '*Checksum OK*RDB looks OK!*' "$(redis-check-rdb dump.rdb)"
  mkdir redis
  # redis_starts: it ends with this script.
  cp dump.rdb redis/
  redis-server --port 0 --unixsocket "$scratch/redis.sock" --dir redis --save '' >redis.log 2>&1 &
  redis=$!
  redis() { redis-cli -s "$scratch/redis.sock" "$@"; }
  redis_answers() { [ "$(redis PING 2>ping)" = PONG ]; }
  eventually 'redis-server starts with it' 10 redis_answers
  contents redis >theirs
  same 'and has the same keys, values and times' "$(cat ours)" "$(cat theirs)"
  same 'random bytes are the same' "$(md5sum <random)" "$(redis GET random | head -c 1000000 | md5sum)"
  redis SET more "$(printf 'ab%.0s' {1..500})" PXAT 4102444800000 >out
  redis CONFIG SET maxmemory-policy allkeys-lfu >out
  redis SAVE >out
  contents redis >theirs
  kill "$redis"
  wait "$redis" || :
  stop KILL
  cp redis/dump.rdb .
  start "$binary" --port 0
  contents cli >ours
  same 'a file of redis-server is loaded' "$(cat theirs)" "$(cat ours)"
  same 'loading is told' "$(wc -l <theirs) 0" \
    "$(info persistence rdb_last_load_keys_loaded) $(info persistence rdb_last_load_keys_expired)"
else
  skip 'redis-server and our files: it is not installed'
fi

# ---- A snapshot for a client ---------------------------------------------------------------------------------------

contents cli >before
like 'redis-cli --rdb' '*Transfer finished with success.*' "$(cli --rdb "$scratch/sent.rdb" 2>&1)"
like 'what it has got is whole' '*checksum: right*' "$("$binary" --check sent.rdb | tail -n 1)"
same 'and nothing of it is left in the folder' '' "$(ls | grep 'sync' || :)"
same 'SYNC as a replica' "ERR SYNC sends a snapshot to who has said REPLCONF rdb-only 1, and nothing behind it" "$(printf 'SYNC\r\n' | netcat | sed 's/^-//; s/\\r\\n$//')"
like 'REPLCONF with something else' 'ERR Unrecognized REPLCONF option: listening-port*' "$(cli REPLCONF listening-port 1 2>&1)"
mv dump.rdb kept.rdb 2>which || :
stop KILL
mv sent.rdb dump.rdb
start "$binary" --port 0
contents cli >after
same 'it has the same keys' "$(cat before)" "$(cat after)"

# ---- Restarts ------------------------------------------------------------------------------------------------------

cli SET late 1 >out
contents cli >before
stop
same 'SIGTERM: status 0' 0 "$status"
like 'SIGTERM saves' '*shutting down: SIGTERM*saved * keys to*stopped*' "$(cat "$log")"
start "$binary" --port 0
contents cli >after
same 'and all is there again' "$(cat before)" "$(cat after)"
cli SET later 1 >out
cli SHUTDOWN NOSAVE >out
stop -
start "$binary" --port 0
same 'SHUTDOWN NOSAVE does not save' 0 "$(cli EXISTS later)"
cli SET later 1 >out
cli SHUTDOWN >out
stop -
start "$binary" --port 0 --save ''
same 'SHUTDOWN does' 1 "$(cli EXISTS later)"
cli SET unkept 1 >out
stop
start "$binary" --port 0 --save ''
same 'without rules nothing is saved in the end' 0 "$(cli EXISTS unkept)"
cli SET unkept 1 >out
cli SHUTDOWN SAVE >out
stop -
start "$binary" --port 0
same 'unless SHUTDOWN SAVE says so' 1 "$(cli EXISTS unkept)"
cli SET killed 1 >out
stop KILL
start "$binary" --port 0
same 'SIGKILL: the last snapshot is loaded' '0 1' "$(cli EXISTS killed) $(cli EXISTS unkept)"

# ---- One folder, one server ----------------------------------------------------------------------------------------

refuses 'a second server in the same folder' 1 "*another server keeps its keys in the directory $scratch*"
status=0
timeout 1 "$binary" --port 0 --save '' 2>err || status=$?
same 'one that keeps nothing is no second one' 124 "$status"
cli FLUSHALL >out
eventually 'FLUSHALL: the file is saved anew' 5 is_idle
like 'and empty' '*aof-base: 0*checksum: right*' "$("$binary" --check dump.rdb | tr '\n' ' ')"
unlike 'without any database' '*database*' "$("$binary" --check dump.rdb)"
stop KILL

# ---- Rules ---------------------------------------------------------------------------------------------------------

printf 'port 0\nsave 3600 1\nsave 1 3\n' >rules.conf
start "$binary" rules.conf
same 'rules on several lines add up' '3600 1 1 3' "$(cli CONFIG GET save | tail -n 1)"
cli MSET a 1 b 2 >out
sleep 2.5
same 'two changes are not three' 2 "$(info persistence rdb_changes_since_last_save)"
cli SET c 3 >out
eventually 'three are saved' 5 is_saved
like 'the log says why' '*3 changes in * seconds: saving (save 1 3)*' "$(cat "$log")"
same 'CONFIG SET save' OK "$(cli CONFIG SET save '7 8')"
same 'and what it is then' '7 8' "$(cli CONFIG GET save | tail -n 1)"
like 'no rule' "*related to argument 'save') - Invalid save parameters" "$(cli CONFIG SET save '7 8 9')"
like 'dir cannot be changed' "*can't set immutable config*" "$(cli CONFIG SET dir /)"
same 'CONFIG GET dir' "$scratch" "$(cli CONFIG GET dir | tail -n 1)"
stop

# ---- Damage and folders --------------------------------------------------------------------------------------------

cp dump.rdb whole
head -c 60 whole >dump.rdb
refuses 'a file that is cut off' 2 '*dump.rdb, byte *: it ends within a record*valiant --check*'
printf 'REDIS0099' >dump.rdb
refuses 'a version of the future' 2 '*dump.rdb has version 99 of the format, which is not known*'
python3 - <<'P'
data = bytearray(open("whole", "rb").read())
data[-12] ^= 1
open("dump.rdb", "wb").write(data)
P
refuses 'a flipped bit' 2 '*dump.rdb, byte *'
same 'and the file is still there' yes "$([ -s dump.rdb ] && echo yes)"
cp whole dump.rdb
refuses 'a folder that does not exist' 2 '*cannot use the directory */nowhere: No such file or directory*' --dir nowhere
refuses 'a file is no folder' 2 '*cannot use the directory */whole: Not a directory*' --dir whole
refuses 'a path is no name of a file' 2 "*can't be a path, just a filename*" --dbfilename a/b
if [ "$(id -u)" -eq 0 ] && command -v setpriv >which; then
  mkdir -m 755 foreign
  chmod 755 "$scratch"
  status=0
  timeout 10 setpriv --reuid 65534 --regid 65534 --clear-groups "$binary" --port 0 --dir foreign >out 2>err || status=$?
  same "somebody else's folder: does not start" 2 "$status"
  like "somebody else's folder: says why" '*cannot write to the directory */foreign: Permission denied*' "$(cat err)"
else
  skip "somebody else's folder: needs root and setpriv"
fi

# ---- A full disk ---------------------------------------------------------------------------------------------------

mkdir small
if [ "$(id -u)" -eq 0 ] && mount -t tmpfs -o size=1m none small 2>mount; then
  trap 'umount -l "$scratch/small" 2>"$scratch/umount" || :; at_exit $LINENO' EXIT
  start "$binary" --port 0 --dir small --save '1 1'
  cli SET first 1 >out
  eventually 'it is saved' 5 is_saved
  cp small/dump.rdb good
  head -c 2000000 /dev/urandom | cli -x SET much >out
  has_failed() { [ "$(info persistence rdb_last_bgsave_status)" = err ]; }
  eventually 'a full disk is noticed' 5 has_failed
  like 'and logged' '*saving failed: cannot write *small/dump.rdb.new: No space left on device*' "$(cat "$log")"
  like 'nothing can be changed' 'MISCONF Redis is configured to save RDB snapshots*' "$(cli SET second 2 2>&1)"
  like 'PING says so' 'MISCONF *' "$(cli PING 2>&1)"
  same 'nor within a transaction' 'OK MISCONF EXECABORT' \
    "$(printf 'MULTI\nSET second 2\nEXEC\n' | cli | sed '/^$/d; s/ .*//' | tr '\n' ' ' | sed 's/ $//')"
  same 'reading goes on' '1 2000000' "$(cli GET first) $(cli STRLEN much)"
  same 'SAVE fails' ERR "$(cli SAVE 2>&1)"
  same 'the old file is still there' "$(md5sum <good)" "$(md5sum <small/dump.rdb)"
  same 'and nothing else' dump.rdb "$(ls small)"
  same 'CONFIG SET stop-writes-on-bgsave-error no lets changes in' 'OK OK' \
    "$(cli CONFIG SET stop-writes-on-bgsave-error no) $(cli SET second 2)"
  cli CONFIG SET stop-writes-on-bgsave-error yes >out
  like 'yes keeps them out' 'MISCONF *' "$(cli SET second 2 2>&1)"
  mount -o remount,size=8m small
  can_change() { [ "$(cli SET third 3 2>&1)" = OK ]; }
  eventually 'when there is room again it goes on by itself' 10 can_change
  same 'and all is well' ok "$(info persistence rdb_last_bgsave_status)"
  stop
  start "$binary" --port 0 --dir small
  same 'everything is there after a restart' '1 2000000 2 3' \
    "$(cli GET first) $(cli STRLEN much) $(cli GET second) $(cli GET third)"
  mount -o remount,ro small
  same 'SHUTDOWN where nothing can be written: it stays' 'ERR Errors trying to SHUTDOWN. Check logs.' "$(cli SHUTDOWN 2>&1)"
  like 'and says why' '*not shutting down: cannot create *Read-only file system*' "$(cat "$log")"
  signal TERM
  sleep 0.3
  same 'the same with SIGTERM' PONG "$(cli PING)"
  cli SHUTDOWN NOSAVE >out
  stop -
  refuses 'a folder that cannot be written to' 2 '*cannot write to the directory */small: Read-only file system*' --dir small
  umount small
else
  skip "a full disk: $(cat mount 2>/dev/null || echo needs root)"
fi

# ---- Many keys: clients while loading and saving -------------------------------------------------------------------

if command -v redis-benchmark >which; then
  rm -f dump.rdb
  start "$binary" --port 0 --save ''
  redis-benchmark -h "$HOST" -p "$PORT" -t set -r 1000000000 -n 1000000 -P 64 -d 100 -q >out
  keys=$(cli DBSIZE)
  python3 - "$HOST" "$PORT" >latency <<'P'
import socket, sys, time
saver, other = (socket.create_connection((sys.argv[1], int(sys.argv[2]))) for _ in range(2))
saver.sendall(b"SAVE\r\n")
saver.setblocking(False)
count = 0
while True:
    try:
        reply = saver.recv(100)
        break
    except BlockingIOError:
        other.sendall(b"GET nothing\r\n")
        assert other.recv(100) == b"$-1\r\n"
        count += 1
print(reply.decode().strip(), "yes" if count > 100 else count)
P
  same 'while one client waits for SAVE another one is served' '+OK yes' "$(cat latency)"
  cli SHUTDOWN NOSAVE >out
  stop -
  log=$(mktemp "$scratch/log.XXXXXX")
  "$binary" --port 0 --save '' --unixsocket "$scratch/v.sock" 2>"$log" >stdout 9>&- &
  server=$!
  until [ -S v.sock ] || ended; do sleep 0.001; done
  redis-cli -s v.sock GET nothing >loading 2>&1 || :
  redis-cli -s v.sock PING >pinging 2>&1 || :
  redis-cli -s v.sock INFO persistence >telling 2>&1 || :
  same 'while keys are loaded clients are told so' 'LOADING Redis is loading the dataset in memory' "$(cat loading)"
  same 'PING is answered' PONG "$(cat pinging)"
  like 'INFO tells how far it is' '*loading:1*loading_total_bytes:[1-9]*loading_loaded_perc:*' "$(tr -d '\r\n' <telling)"
  is_loaded() { [ "$(redis-cli -s v.sock DBSIZE)" = "$keys" ]; }
  eventually 'then all keys are there' 20 is_loaded
  stop
  "$binary" --port 0 --unixsocket "$scratch/v.sock" 2>"$log" >stdout 9>&- &
  server=$!
  before=$(md5sum <dump.rdb)
  until [ "$(redis-cli -s v.sock PING 2>pinging)" = PONG ] || ended; do sleep 0.001; done
  stop
  same 'one that is stopped while it loads' 0 "$status"
  same 'leaves the file as it is' "$before" "$(md5sum <dump.rdb)"
else
  skip 'many keys: redis-benchmark is not installed'
fi

finish

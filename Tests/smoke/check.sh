#!/bin/bash
# check.sh BINARY: `valiant --check` of snapshots that redis-server has written, whole and damaged.
set -eu
binary=$(realpath "$1")
. "$(dirname "$0")/lib.sh"

if ! command -v redis-server >"$scratch/which"; then
  skip 'snapshots of redis-server: it is not installed'
  finished=yes
  exit 0
fi
cd "$scratch"

# One that saves when it is told to; it ends with this script.
redis-server --port 0 --unixsocket "$scratch/redis" --dir "$scratch" --save '' --enable-debug-command yes >redis.log 2>&1 &
server=$!
redis() { redis-cli -s "$scratch/redis" "$@"; }
answers() { [ "$(redis PING 2>"$scratch/ping")" = PONG ]; }
eventually 'redis-server answers' 10 answers

redis DEBUG POPULATE 20000 key 100 >out
redis MSET small 5 medium 70000 large -3000000000 text hello '' '' >out
redis SET expiring v EX 1000 >out
head -c 1000000 /dev/urandom | redis -x SET random >out
head -c 1000000 /dev/zero | redis -n 3 -x SET zeros >out
same 'it saves' OK "$(redis SAVE)"
"$binary" --check dump.rdb >checked
like 'the whole is read' 'dump.rdb: a snapshot in version 1[0-9] of the format' "$(head -n 1 checked)"
like 'and who has written it' '*redis-ver: 7.*' "$(cat checked)"
like 'keys are counted by database' '*database 0: 20007 keys, 1 with a time to live, which is over for 0;*' "$(cat checked)"
like 'also in another one' '*database 3: 1 keys, 0 with a time to live, which is over for 0; 1000005 bytes*' "$(cat checked)"
like 'its checksum is right' '*checksum: right' "$(cat checked)"

# refused NAME PATTERN: `--check` of the file `damaged` ends with 1, and what it says is like this.
refused() {
  local status=0
  "$binary" --check damaged >out 2>error || status=$?
  same "$1: status 1, nothing on standard output" '1 ' "$status $(cat out)"
  like "$1: it says where" "$2" "$(cat error)"
}
head -c 500000 dump.rdb >damaged
refused 'cut off' '*damaged, byte *: it ends within a record*'
cp dump.rdb damaged
size=$(stat -c %s dump.rdb)
printf '\377' | dd of=damaged bs=1 seek=$((size / 2)) conv=notrunc 2>dd
cmp -s dump.rdb damaged && printf '\376' | dd of=damaged bs=1 seek=$((size / 2)) conv=notrunc 2>dd
refused 'a changed byte' '*damaged, byte *'
printf 'hello\n' >damaged
refused 'another file' '*damaged is no snapshot*'
rm damaged
refused 'no file' '*cannot read damaged: No such file*'
redis RPUSH names a b >out
redis SAVE >out
mv dump.rdb damaged
refused 'what cannot be kept' "*the key 'names' is a list, which cannot be kept*"

kill "$server"
server=
finish

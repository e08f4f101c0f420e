#!/bin/bash
# benchmark.sh HOST PORT: redis-benchmark gets through. It measures nothing: that is what Benchmarks/ is for.
# Uses database 9 and empties it.
set -eu
HOST=$1 PORT=$2
. "$(dirname "$0")/lib.sh"

# run REQUESTS OPTION...: PING inline and in RESP, SET and GET, all of them finished and none refused. Without a server
# redis-benchmark tries for ever: the first run that does not finish is the last.
run() {
  local requests=$1 output status=0
  shift
  output=$(timeout 60 redis-benchmark -h "$HOST" -p "$PORT" --dbnum 9 -t ping,set,get -n "$requests" --csv "$@" 2>&1) ||
    status=$?
  same "redis-benchmark -n $requests $* finishes" 0 "$status"
  like "redis-benchmark -n $requests $* ran all four tests" '*"PING_INLINE","*"PING_MBULK","*"SET","*"GET","*' "$output"
  if [ "$status" -ne 0 ]; then finish; fi
  unlike "redis-benchmark -n $requests $* met no error" '*[Ee]rror*' "$output"
}

run 100000 -P 16
run 100000 -P 16 -r 10000
run 10000 -P 1
run 10000 -P 1 -d 10000 -c 10
run 1000 -k 0

like 'the key of the last run has a value of 3 bytes' '???' "$(cli -n 9 GET key:__rand_int__)"
same 'the server still answers' PONG "$(cli PING)"
same 'database 9 is emptied' OK "$(cli -n 9 FLUSHDB)"

finish

#!/bin/bash
# pipeline.sh HOST PORT: 100,000 requests in one go, and their answers in order. Uses database 9 and its own keys.
set -eu
HOST=$1 PORT=$2
. "$(dirname "$0")/lib.sh"

count=100000 prefix=smoke:pipeline

# requests NAME: one RESP request for each key: `SET key number`, or another command with just the key.
requests() {
  awk -v count="$count" -v name="$1" -v prefix="$prefix" 'BEGIN {
    for (i = 1; i <= count; i++) {
      key = prefix ":" i
      printf "*%d\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n", name == "SET" ? 3 : 2, length(name), name, length(key), key
      if (name == "SET") printf "$%d\r\n%d\r\n", length(i), i
    }
  }'
}

# pipe NAME: all these requests through redis-cli.
pipe() {
  like "redis-cli --pipe: $1 100,000 times" "*errors: 0, replies: $count" \
    "$(requests "$1" | timeout 120 redis-cli -h "$HOST" -p "$PORT" -n 9 --pipe --pipe-timeout 60 2>&1)"
}

pipe DEL
before=$(cli -n 9 DBSIZE)
pipe SET
same 'DBSIZE has grown by 100,000' $((before + count)) "$(cli -n 9 DBSIZE)"
for i in 1 2 17 4096 50000 99999 100000; do
  same "key $i has its value" "$i" "$(cli -n 9 GET "$prefix:$i")"
done

# Answers must come in the order of the requests, while we still send: 100,000 GETs in a single connection, read by awk
# (every second line is a length). QUIT makes the server close behind the last one.
exec 3<>"/dev/tcp/$HOST/$PORT"
{ printf 'SELECT 9\r\n'; requests GET; printf 'QUIT\r\n'; } >&3 &
sender=$!
same 'answers keep the order of the requests' "$count in order, 0 not" "$(timeout 60 cat <&3 | tr -d '\r' | awk '
  NR == 1 || $1 == "+OK" { next }
  NR % 2 == 0 { if ($1 == "$" length(NR / 2)) next }
  NR % 2 == 1 { if ($1 == (NR - 1) / 2) { good++; next } }
  { bad++ }
  END { printf "%d in order, %d not", good, bad }')"
status=0
wait "$sender" || status=$?
same 'and all of them could be sent' 0 "$status"
exec 3>&-

pipe DEL
same 'DBSIZE is what it was' "$before" "$(cli -n 9 DBSIZE)"

# Errors in the middle are answered in their place, and redis-cli counts them.
like 'errors are counted' '*errors: 2, replies: 5' \
  "$(printf 'PING\r\nGET\r\nPING\r\nNOSUCH\r\nPING\r\n' | timeout 30 redis-cli -h "$HOST" -p "$PORT" --pipe 2>&1)"

finish

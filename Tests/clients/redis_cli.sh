#!/bin/bash
# redis_cli.sh HOST PORT: redis-cli in each of its modes, and redis-benchmark with all tests on strings, against a running
# server. Uses databases 0 and 9, and empties them.
set -eu
HOST=$1 PORT=$2
. "$(dirname "$0")/../smoke/lib.sh"

# Twenty thousand keys by --pipe, a few of them long.
for number in {1..20000}; do printf 'SET key:%d value:%d\r\n' "$number" "$number"; done >"$scratch/requests"
like '--pipe takes twenty thousand requests' '*errors: 0, replies: 20000*' "$(cli --pipe <"$scratch/requests")"
same '--pipe: they are there' 20000 "$(cli DBSIZE)"
head -c 1000000 /dev/zero | cli -x SET long:1 >"$scratch/set"
same '-x takes the last argument from standard input' 1000000 "$(cli STRLEN long:1)"

same '--scan finds every key' 20001 "$(cli --scan | sort -u | wc -l)"
same '--scan --pattern finds those that match' 10 "$(cli --scan --pattern 'key:1000?' | sort -u | wc -l)"
like '--bigkeys finds the longest value' "*Biggest string found '\"long:1\"' has 1000000 bytes*" "$(cli --bigkeys)"
like '--memkeys finds it, too' "*Biggest string found '\"long:1\"' has 100[0-9][0-9][0-9][0-9] bytes*" "$(cli --memkeys)"
same '--json of an empty map' '{}' "$(cli -3 --json CONFIG GET nosuch)"
like '--json of a map' '{"maxclients":"*"}' "$(cli --json CONFIG GET maxclients)"
like '-3 shows a map' '1# "proto-max-bulk-len" => "536870912"' "$(cli -3 --no-raw CONFIG GET proto-max-bulk-len)"
same '--csv' '"value:1","value:2",NULL' "$(cli --csv MGET key:1 key:2 none)"
same '-r repeats' '1 2 3' "$(cli -r 3 INCR counter | paste -s -d ' ')"
same '-n chooses a database' OK "$(cli -n 9 SET a 1)"
same '--no-raw shows types' '(integer) 1' "$(cli --no-raw -n 9 EXISTS a)"

# These go on until they are ended; redis-cli ends --latency by itself when its output is no terminal.
output=$({ timeout 2 stdbuf -oL redis-cli -h "$HOST" -p "$PORT" --stat -i 0.2 || :; } | head -n 4)
like '--stat prints keys and clients' *'20003 '*' 1 '* "$output"
output=$(timeout 5 redis-cli -h "$HOST" -p "$PORT" --latency -i 1 | head -n 1)
like '--latency prints four numbers' '[0-9]* [0-9]*.[0-9]* [0-9]*' "$output"
output=$({ timeout 2 stdbuf -oL redis-cli -h "$HOST" -p "$PORT" --latency-history -i 1 || :; } | head -n 1)
like '--latency-history prints four numbers, too' '[0-9]* [0-9]* [0-9]*.[0-9]* [0-9]*' "$output"
like '--intrinsic-latency needs no server' '*total runs*' "$(timeout 10 redis-cli --intrinsic-latency 1)"

printf "return {KEYS[1], ARGV[1], redis.call('GET', KEYS[1])}" >"$scratch/script.lua"
same '--eval runs a file' 'key:1 x value:1' "$(cli --eval "$scratch/script.lua" key:1 , x | paste -s -d ' ')"
digest=$(cli SCRIPT LOAD 'return 5')
same 'EVALSHA runs what was loaded' 5 "$(cli EVALSHA "$digest" 0)"

# A session as one types it.
output=$(printf '%s\n' MULTI 'SET t 1' 'INCR t' EXEC 'GET t' | cli)
same 'a transaction, line by line' 'OK QUEUED QUEUED OK 2 2' "$(printf '%s' "$output" | tr -s '\n' ' ' | sed 's/ $//')"
{ timeout 3 stdbuf -oL redis-cli -h "$HOST" -p "$PORT" SUBSCRIBE news >"$scratch/news" || :; } &
subscriber=$!
eventually 'a subscriber arrives' 3 sh -c "redis-cli -h $HOST -p $PORT PUBSUB NUMSUB news | tail -n 1 | grep -qx 1"
same 'PUBLISH reaches it' 1 "$(cli PUBLISH news hello)"
wait "$subscriber"
same 'SUBSCRIBE prints what comes' 'subscribe news 1 message news hello' "$(paste -s -d ' ' "$scratch/news")"

output=$(printf '%s\n' 'CLIENT TRACKING ON' 'GET c' 'SET c 5' 'GET c' | cli -3 --show-pushes yes)
same 'it hears of copies that are invalid' 'OK OK invalidate c 5' "$(printf '%s' "$output" | tr -s '\n' ' ' | sed 's/ $//')"

output=$(timeout 100 redis-benchmark -h "$HOST" -p "$PORT" --dbnum 9 -t ping,set,get,incr,mset -n 20000 -P 8 -r 1000 --csv 2>&1)
like 'redis-benchmark runs all tests on strings' '*"PING_INLINE"*"PING_MBULK"*"SET"*"GET"*"INCR"*"MSET (10 keys)"*' "$output"
unlike 'redis-benchmark meets no error' '*[Ee]rror*' "$output"
output=$(timeout 60 redis-benchmark -h "$HOST" -p "$PORT" --dbnum 9 -n 5000 -P 8 -r 1000 -q SETEX key:__rand_int__ 100 v 2>&1)
like 'redis-benchmark runs a command of ours' '*SETEX*requests per second*' "$output"
same '-c speaks to a cluster of one node' 1 "$(cli -c DECR t)"

same 'all is emptied' OK "$(cli FLUSHALL)"
finish

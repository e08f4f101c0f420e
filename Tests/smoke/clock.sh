#!/bin/bash
# clock.sh BINARY: a time of day that is set by an hour, back or forward, neither kills nor revives keys. Starts servers
# of its own, whose time of day comes from a file (libfaketime).
set -eu
binary=$(realpath "$1")
. "$(dirname "$0")/lib.sh"

library=$(find /usr/lib -path '*/faketime/libfaketime.so.1' 2>"$scratch/find" | head -n 1)
if [ -z "$library" ]; then
  skip 'a clock that is set: libfaketime is not installed'
  finished=yes
  exit 0
fi

# gives NAME WANTED COMMAND...
gives() { same "$1" "$2" "$(cli "${@:3}" 2>&1)"; }

# set_clock SECONDS: what the server's clock differs from the true one.
set_clock() { printf '%s\n' "$1" >"$scratch/clock"; }

server_time() { cli TIME | head -n 1; }

# Under libfaketime the program sees no arguments: it listens on port 4200, and keeps its keys here.
cd "$scratch"
set_clock +0
start env LD_PRELOAD="$library" DONT_FAKE_MONOTONIC=1 FAKETIME_NO_CACHE=1 FAKETIME_TIMESTAMP_FILE="$scratch/clock" \
  "$binary" --port 0

for jump in +3600 -3600 +7200 -7200; do
  cli FLUSHALL >"$scratch/flush"
  set_clock +0
  gives "$jump: a key for 100 seconds" OK SET long value EX 100
  gives "$jump: a key for a second" OK SET short value PX 1000
  gives "$jump: a key until a time of day" OK SET day value EXAT $(($(date +%s) + 100))
  set_clock "$jump"
  difference=$(($(server_time) - $(date +%s)))
  case $((difference - jump)) in
    -1 | 0 | 1) ok "$jump: the server's clock is set" ;;
    *) not_ok "$jump: the server's clock is set" "it differs by $difference s" ;;
  esac
  gives "$jump: no key is gone" 3 EXISTS long short day
  like "$jump: the time to live is what it was" '@(98|99|100)' "$(cli TTL long)"
  like "$jump: that of a time of day too" '@(98|99|100)' "$(cli TTL day)"
  # A new one is until that time by the new clock.
  gives "$jump: a time of day by the new clock" OK SET new value EXAT $(($(server_time) + 100))
  like "$jump: lives as long as that says" '@(98|99|100)' "$(cli TTL new)"
  sleep 1.1
  gives "$jump: what is due goes" '' GET short
  set_clock +0
  gives "$jump: and does not come back" 3 EXISTS long short day new
done

stop
same 'the server ends with status 0' 0 "$status"
finish

#!/bin/bash
# run.sh BINARY: all smoke tests: those which take a host and a port against a server started here, then those which
# start servers of their own: life.sh, check.sh, saving.sh, logging.sh, clock.sh and systemd.py.
# Its last line is `N passed, N failed`.
set -eu
binary=$(realpath "$1")
cd "$(dirname "$0")"
. ./lib.sh

# try SCRIPT ARGUMENT...: runs it, shows what it prints, and counts its checks as ours. A script which fails without
# saying what failed counts as a failure too.
try() {
  local script=$1 output="$scratch/output" status=0 bad
  shift
  printf '\n# %s\n' "$script"
  timeout 300 ./"$script" "$@" >"$output" 2>&1 || status=$?
  cat "$output"
  bad=$(grep -a -c '^not ok - ' "$output" || [ $? -eq 1 ])
  passed=$((passed + $(grep -a -c '^ok - ' "$output" || [ $? -eq 1 ])))
  failed=$((failed + bad))
  if [ "$status" -ne 0 ] && [ "$bad" -eq 0 ]; then not_ok "$script ends with status $status"; fi
}

for script in inline.sh commands.sh pipeline.sh benchmark.sh; do
  start "$binary" --port 0 --dir "$scratch"
  try "$script" "$HOST" "$PORT"
  stop
  same "the server of $script ends with status 0" 0 "$status"
  if [ "$status" -ne 0 ]; then tail -n 20 "$log"; fi
done
try life.sh "$binary"
try check.sh "$binary"
try saving.sh "$binary"
try logging.sh "$binary"
try clock.sh "$binary"
try systemd.py "$binary"

finished=yes
printf '\n%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]

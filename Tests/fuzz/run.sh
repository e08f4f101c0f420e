#!/bin/bash
# run.sh SECONDS: feeds the request parser with what libFuzzer makes of the requests in corpus/, for that long.
#
# SwiftPM cannot link a program whose main function comes from libFuzzer, so the target ParserFuzz is a plain one, and
# its objects are linked here. Inputs which reach new code are collected in .build-fuzz/corpus for the next run. One
# that crashes, hangs for 10 s or takes 1 GiB of memory lands in .build-fuzz, as crash-*, timeout-* or oom-*; to run it
# again: SWIFT_BACKTRACE=enable=no .build-fuzz/parser FILE
set -eu
seconds=$1
cd "$(dirname "$0")/../.."
build=.build-fuzz

swift build -c release --target ParserFuzz --scratch-path "$build" --sanitize=address \
  -Xswiftc -sanitize=fuzzer -Xswiftc -enable-testing

# The objects of the sources there are now: those of removed sources stay in the folder.
objects=()
for target in Valiant ParserFuzz; do
  while read -r source; do objects+=("$build/release/$target.build/${source##*/}.o"); done \
    <"$build/release/$target.build/sources"
done
swiftc -sanitize=fuzzer,address -use-ld=lld "${objects[@]}" -luv -llzf -o "$build/parser"

# With Swift's own crash handler the program would hang after a finding. Finding leaks needs ptrace, which a container
# may not allow.
mkdir -p "$build/corpus"
status=0
SWIFT_BACKTRACE=enable=no ASAN_OPTIONS=detect_leaks=0 timeout $((seconds + 60)) \
  "$build/parser" "$build/corpus" Tests/fuzz/corpus -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 \
  -artifact_prefix="$build/" -print_final_stats=1 >"$build/log" 2>&1 || status=$?
if [ "$status" -ne 0 ]; then
  grep -v '^#' "$build/log" | tail -n 60
  printf 'fuzz: a finding, status %d; the whole output is in %s/log\n' "$status" "$build"
  exit 1
fi
grep '^stat::number_of_executed_units\|^#.*DONE' "$build/log"
printf 'fuzz: nothing found in %d s\n' "$seconds"

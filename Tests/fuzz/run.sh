#!/bin/bash
# run.sh SECONDS: feeds the request parser, and then the readers of files, with what libFuzzer makes of the inputs in
# corpus/ and files/, each for that long.
#
# SwiftPM cannot link a program whose main function comes from libFuzzer, so the targets ParserFuzz and FileFuzz are
# plain ones, and their objects are linked here. Inputs which reach new code are collected in .build-fuzz for the next
# run. One that crashes, hangs for 10 s or takes 1 GiB of memory lands there, too, as TARGET-crash-*, TARGET-timeout-* or
# TARGET-oom-*; to run it again: SWIFT_BACKTRACE=enable=no .build-fuzz/TARGET FILE
set -eu
seconds=$1
cd "$(dirname "$0")/../.."
build=.build-fuzz

# fuzz TARGET CORPUS
fuzz() {
  local target=$1 corpus=$2 objects=() source part status=0
  swift build -c release --target "$target" --scratch-path "$build" --sanitize=address \
    -Xswiftc -sanitize=fuzzer -Xswiftc -enable-testing
  # The objects of the sources there are now: those of removed sources stay in the folder.
  for part in Valiant "$target"; do
    while read -r source; do objects+=("$build/release/$part.build/${source##*/}.o"); done \
      <"$build/release/$part.build/sources"
  done
  swiftc -sanitize=fuzzer,address -use-ld=lld "${objects[@]}" -luv -llzf -lmd -llua5.1 -llua5.1-cjson -llua5.1-bitop \
    -o "$build/$target"
  # With Swift's own crash handler the program would hang after a finding. Finding leaks needs ptrace, which a container
  # may not allow.
  mkdir -p "$build/corpus-$target"
  SWIFT_BACKTRACE=enable=no ASAN_OPTIONS=detect_leaks=0 timeout $((seconds + 60)) \
    "$build/$target" "$build/corpus-$target" "$corpus" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 \
    -artifact_prefix="$build/$target-" -print_final_stats=1 >"$build/$target.log" 2>&1 || status=$?
  rm -f /dev/shm/valiant-fuzz-*
  if [ "$status" -ne 0 ]; then
    grep -v '^#' "$build/$target.log" | tail -n 60
    printf 'fuzz: a finding by %s, status %d; the whole output is in %s/%s.log\n' "$target" "$status" "$build" "$target"
    exit 1
  fi
  grep '^stat::number_of_executed_units\|^#.*DONE' "$build/$target.log"
  printf 'fuzz: %s has found nothing in %d s\n' "$target" "$seconds"
}

fuzz ParserFuzz Tests/fuzz/corpus
fuzz FileFuzz Tests/fuzz/files

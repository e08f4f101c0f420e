#!/bin/bash
# run.sh BINARY: client libraries and redis-cli against the real server. Those in Python live in a virtual environment, .build-python, which is
# made when it is missing; with neither the package registry nor an installed library the test is skipped and says why.
set -eu
binary=$(realpath "$1")
cd "$(dirname "$0")"
. ../smoke/lib.sh

environment=../../.build-python
python=$environment/bin/python
can_import() { "$1" -c 'import redis' 2>"$scratch/import"; }
install() {
  python3 -m venv "$environment" && timeout 180 "$python" -m pip install --quiet --disable-pip-version-check redis
}

if ! can_import "$python" && ! install >"$scratch/install" 2>&1; then
  python=python3
  if ! can_import "$python"; then
    finished=yes
    printf 'skipped: redis-py is not installed and could not be: %s\n' "$(tail -n 1 "$scratch/install")"
    exit 0
  fi
fi

start "$binary" --port 0 --dir "$scratch"
timeout 300 ./redis_cli.sh "$HOST" "$PORT" >"$scratch/cli" 2>&1 ||
  printf 'not ok - redis_cli.sh ends with status %d\n' $? >>"$scratch/cli"
gcc -std=c11 -O1 -Wall -Wextra -Werror -o "$scratch/hiredis" hiredis.c -lhiredis
timeout 60 "$scratch/hiredis" "$HOST" "$PORT" >"$scratch/hiredis.output" ||
  printf 'not ok - hiredis ends with status %d\n' $? >>"$scratch/hiredis.output"
status=0
timeout 300 "$python" -u redis_py.py "$HOST" "$PORT" >"$scratch/output" 2>&1 || status=$?
cat "$scratch/cli" "$scratch/hiredis.output" >>"$scratch/output"
cat "$scratch/output"
passed=$(grep -c '^ok - ' "$scratch/output" || [ $? -eq 1 ])
failed=$(grep -c '^not ok - ' "$scratch/output" || [ $? -eq 1 ])
if [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then not_ok "redis_py.py ends with status $status"; fi
stop
same 'the server ends with status 0' 0 "$status"

finished=yes
printf '\n%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]

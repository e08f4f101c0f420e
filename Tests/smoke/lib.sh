# Checks and helpers shared by the shell tests: a script sources this file, makes its checks, ends with `finish`.
#
# Every check prints one line, `ok - name` or `not ok - name`, the latter followed by `#` lines with what was wanted and
# what came. A failed check does not end the script. A command that fails outside of a check does, by `set -e`, and
# counts as one more failure.

export LC_ALL=C
passed=0 failed=0 finished=
server=                  # process id of the server that `start` started, empty when none runs
signalled=0              # microseconds: when it was last sent a signal
scratch=$(mktemp -d)     # removed at the end

# ---- Results -------------------------------------------------------------------------------------------------------

# ok NAME
ok() { passed=$((passed + 1)); printf 'ok - %s\n' "${1//[![:print:]]/?}"; }

# not_ok NAME [DETAIL]
not_ok() {
  failed=$((failed + 1))
  printf 'not ok - %s\n' "${1//[![:print:]]/?}"
  printf '%s\n' "${2-}" | cut -c -500 | sed '/^$/d; s/^/# /; 20q'
}

skip() { printf 'skipped - %s\n' "$1"; }

# same NAME WANTED GOT
same() { if [[ $3 == "$2" ]]; then ok "$1"; else not_ok "$1" "wanted: $2"$'\n'"got:    $3"; fi; }

# like NAME PATTERN GOT: the pattern is one of `case`, such as '*part*'.
like() { if [[ $3 == $2 ]]; then ok "$1"; else not_ok "$1" "wanted like: $2"$'\n'"got:         $3"; fi; }

# unlike NAME PATTERN GOT
unlike() { if [[ $3 != $2 ]]; then ok "$1"; else not_ok "$1" "unwanted: $2"$'\n'"got:      $3"; fi; }

# eventually NAME SECONDS COMMAND...: the command succeeds now or within that time; it is tried ten times a second.
eventually() {
  local name=$1 tries=$(($2 * 10))
  shift 2
  until "$@"; do
    tries=$((tries - 1))
    if [ "$tries" -le 0 ]; then not_ok "$name" "in vain: $*"; return; fi
    sleep 0.1
  done
  ok "$name"
}

finish() {
  finished=yes
  printf '# %s: %d passed, %d failed\n' "${0##*/}" "$passed" "$failed"
  [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
}

exec 9>&1 # a script may end while a connection is its standard output
at_exit() {
  local status=$?
  if [ -n "$server" ]; then kill -KILL "$server" 2>"$scratch/kill" || :; fi
  rm -rf "$scratch"
  if [ -z "$finished" ]; then
    printf 'not ok - %s ended early, in line %d, with status %d\n' "${0##*/}" "$1" "$status" >&9
    exit 1
  fi
}
trap 'at_exit $LINENO' EXIT
trap : PIPE # who writes to a connection that was closed gets an error, with its line, and not a signal

# ---- Talking to the server at $HOST and $PORT ----------------------------------------------------------------------

cli() { timeout 30 redis-cli -h "$HOST" -p "$PORT" "$@"; }

# contents COMMAND...: all keys with their values and times of death, by a client command.
contents() {
  local database
  for database in 0 1 5; do
    "$@" -n "$database" --scan | sort | while read -r key; do
      printf '%s %s %s\n' "$database $key" "$("$@" -n "$database" GET "$key" | md5sum)" \
        "$("$@" -n "$database" PEXPIRETIME "$key")"
    done
  done
}

# Is the server one of Redis 7.0? The scripts can be tried on it too; the few differences ask this.
is_redis_7_0() { [[ $(cli INFO server) == *redis_version:7.0.*executable:*redis-server* ]]; }

# Prints its input in one line, with \r and \n spelt out.
spell() { sed -z 's/\r/\\r/g; s/\n/\\n/g'; }

# Prints the time in microseconds.
microseconds() { printf '%s' "${EPOCHREALTIME//[!0-9]/}"; }

# netcat: sends its input, ends our side of the connection, and prints what comes back, spelt out.
netcat() { { timeout 20 nc -N "$HOST" "$PORT" || printf '(nc ended with status %d)' $?; } | spell; }

# answers NAME SENT ANSWER: as a person with netcat gets it: our side ends behind SENT, the answer comes all the same.
answers() { same "$1" "$3" "$(printf '%b' "$2" | netcat)"; }

# patient [SECONDS]: like netcat, but leaves our side open: prints what comes back until the server ends the connection.
# Where it does not in that time (3 s), `(still open)` follows.
patient() {
  (
    trap '' PIPE
    { exec 3<>"/dev/tcp/$HOST/$PORT"; } 2>"$scratch/connect" || { printf '(no connection)'; exit; }
    # A server that has seen enough may close before it has got everything: what it answers is what counts.
    cat >&3 2>"$scratch/send" || :
    timeout "${1-3}" cat <&3 2>"$scratch/receive" || [ $? -ne 124 ] || printf '(still open)'
  ) | spell
}

# closes NAME SENT ANSWER: exactly this answer, and then the server ends the connection.
closes() { same "$1" "$3" "$(printf '%b' "$2" | patient)"; }

# stays NAME SENT ANSWER: exactly this answer, and the connection stays open.
stays() { same "$1" "$3(still open)" "$(printf '%b' "$2" | patient 0.3)"; }

# ---- Starting servers ----------------------------------------------------------------------------------------------

# start COMMAND...: starts a server in the background, waits until it says that it is ready, and sets `server`, `log`,
# HOST and PORT from its line `ready on 127.0.0.1:4200, [::1]:4200`. It begins without the keys of an earlier one, unless
# `keeps` is set.
start() {
  if [ -z "${keeps-}" ]; then rm -f "$scratch/dump.rdb"; fi
  log=$(mktemp "$scratch/log.XXXXXX")
  "$@" 2>"$log" >"$scratch/stdout" </dev/null 9>&- &
  server=$!
  local tries=200
  until grep -q 'ready on ' "$log"; do
    tries=$((tries - 1))
    if [ "$tries" -le 0 ] || ended; then
      not_ok "starts: $*" "$(cat "$log")"
      return 1
    fi
    sleep 0.05
  done
  HOST=127.0.0.1
  PORT=$(sed -n 's/.*ready on [^ ,]*:\([0-9][0-9]*\).*/\1/p' "$log" | head -n 1)
}

# refuses NAME STATUS PATTERN ARGUMENT...: $binary does not start with these flags, ends with the status, and says
# something like the pattern.
refuses() {
  local status=0
  timeout 20 "$binary" --port 0 "${@:4}" >out 2>err || status=$?
  same "$1: does not start" "$2" "$status"
  like "$1: says why" "$3" "$(cat err)"
}

# ended: has the server that `start` started ended?
ended() { ! kill -0 "$server" 2>"$scratch/kill"; }

# signal NAME: sends the server a signal, and notes the time.
signal() {
  signalled=$(microseconds)
  kill -s "$1" "$server"
}

# stop [SIGNAL]: sends it (TERM; nothing for `-`), waits until the server has ended, and sets `status` to its exit
# status and `took` to the milliseconds since the last signal. A server that has not ended after 10 s is killed (137).
stop() {
  local tries=1000
  if [ "${1-TERM}" != - ] && ! ended; then signal "${1-TERM}"; fi
  status=0
  { # Bash says on its stderr when a signal has ended a child.
    until ended || [ "$tries" -le 0 ]; do tries=$((tries - 1)); sleep 0.01; done
    if [ "$tries" -le 0 ]; then kill -KILL "$server"; fi
    wait "$server" || status=$?
  } 2>"$scratch/wait"
  took=$((($(microseconds) - signalled) / 1000))
  server=
}

#!/bin/bash
# service.sh UPGRADE.deb: the installed package in a running system, which is changed and in the end without it. As
# root in a throw-away system only: systemd-box runs it.
set -eu
upgrade=$(realpath "$1")
if [ -z "${IN_SYSTEMD_BOX-}" ]; then printf 'only for systemd-box: it changes the system\n' >&2; exit 2; fi
here=$(realpath "$(dirname "$0")")
. "$here/smoke/lib.sh"
cd "$scratch"
HOST=127.0.0.1
PORT=4200
conf=/etc/valiant/valiant.conf

state() { systemctl show --property "$1" --value "${2-valiant.service}"; }
pid() { state MainPID "$@"; }
is_active() { systemctl --quiet is-active "${1-valiant.service}"; }
is_state() { [ "$(systemctl is-active "${1-valiant.service}")" = "$2" ]; }
pings() { [[ $(cli PING 2>&1) == PONG ]]; }
# systemd starts nothing more than five times in ten seconds; these scripts do.
forget_starts() { systemctl reset-failed 'valiant*'; }
said() { journalctl --quiet --no-pager --output cat --unit "${2-valiant.service}" | grep -q -- "$1"; }

# ---- As it was installed -------------------------------------------------------------------------------------------

same 'the service is active' active "$(systemctl is-active valiant)"
same 'and enabled' enabled "$(systemctl is-enabled valiant)"
same 'the socket unit is not' 'disabled inactive' \
  "$(systemctl is-enabled valiant.socket || :) $(systemctl is-active valiant.socket || :)"
same 'answers on 127.0.0.1' PONG "$(cli PING)"
same 'answers on ::1' PONG "$(timeout 10 redis-cli -h ::1 -p "$PORT" PING)"
same 'answers on its unix socket' PONG "$(timeout 10 redis-cli -s /run/valiant/valiant.sock PING)"
same 'the unix socket is for its group' '770 valiant valiant' "$(stat -c '%a %U %G' /run/valiant/valiant.sock)"
same 'runs as user valiant' valiant "$(stat -c %U "/proc/$(pid)")"
same 'the state directory is its own' '750 valiant valiant' "$(stat -c '%a %U %G' /var/lib/valiant)"
same 'its version is that of the package' "Valiant $(dpkg-query -W -f '${Version}' valiant | cut -d- -f1)" \
  "$(valiant --version)"
journalctl --quiet --no-pager --unit valiant.service --output json --output-fields PRIORITY,MESSAGE >journal
like 'the journal has the line that it is ready, a notice' '*"PRIORITY":"5"*' "$(grep 'ready on' journal)"

# smoke SCRIPT ARGUMENT...
smoke() {
  local status=0
  "$here/smoke/$1.sh" "${@:2}" >output 2>&1 || status=$?
  if [ "$status" -eq 0 ]; then
    ok "smoke test: $1, $(grep -c '^ok - ' output) checks"
  else
    not_ok "smoke test: $1: status $status" "$(grep -A 3 '^not ok' output || tail -n 5 output)"
  fi
}
for script in inline commands pipeline benchmark; do smoke $script "$HOST" "$PORT"; done
smoke life /usr/bin/valiant

# ---- The sandbox ---------------------------------------------------------------------------------------------------

exposure=$(systemd-analyze security --no-pager valiant.service | sed -n 's/.*Overall exposure level for valiant.service: \([0-9.]*\) .*/\1/p')
printf '# exposure of valiant.service: %s\n' "$exposure"
if [ -n "$exposure" ] && [ "$(printf '%s\n1.1\n' "$exposure" | sort -g | tail -n 1)" = 1.1 ]; then
  ok 'the exposure is at most 1.1'
else
  not_ok 'the exposure is at most 1.1' "$exposure"
fi
for unit in valiant.service valiant@.service valiant.socket; do
  same "systemd-analyze verify $unit: nothing to say" '' "$(systemd-analyze verify --man=no "/lib/systemd/system/$unit" 2>&1)"
done

# ---- What it tells systemd -----------------------------------------------------------------------------------------

cli SET one 1 >out
cli SET two 2 >out
has_status() { [[ $(state StatusText) == $1 ]]; }
eventually 'the status text has clients and keys' 12 has_status 'Serving * client*, 2 keys'
printf '# status: %s\n' "$(state StatusText)"
watchdog() { state WatchdogTimestampMonotonic; }
before=$(watchdog)
sleep 11
if [ "$(watchdog)" -gt "$before" ]; then ok 'the watchdog gets signs of life'; else not_ok 'the watchdog gets signs of life'; fi

printf 'timeout 77\n' >>$conf
systemctl reload valiant
reloaded() { [[ $(cli CONFIG GET timeout | tail -n 1) == "$1" ]]; }
eventually 'reload reads the configuration again' 5 reloaded 77
eventually 'and is active then' 5 is_active
same 'the keys are still there' 2 "$(cli DBSIZE)"

# What CONFIG SET has changed holds after a restart, though the service may not write to /etc.
before=$(md5sum $conf)
kept=/var/lib/valiant/valiant.conf
same 'CONFIG SET, CONFIG REWRITE' 'OK OK' "$(cli CONFIG SET maxmemory 64mb lfu-decay-time 9) $(cli CONFIG REWRITE)"
same 'it is kept in the state directory' '600 valiant maxmemory 67108864 lfu-decay-time 9' \
  "$(stat -c '%a %U' $kept) $(grep maxmemory $kept) $(grep lfu $kept)"
same 'and the configuration file is what it was' "$before" "$(md5sum $conf)"
systemctl restart valiant
same 'a restart finds it' 67108864 "$(cli CONFIG GET maxmemory | tail -n 1)"
said_so() { journalctl -u valiant --no-pager | grep -q "$kept.*wins over $conf: maxmemory, lfu-decay-time"; }
eventually 'and the journal says where it comes from' 5 said_so
same 'CONFIG SET back to what the file says' 'OK OK' "$(cli CONFIG SET maxmemory 0 lfu-decay-time 1) $(cli CONFIG REWRITE)"
same 'keeps nothing' no "$([ -e $kept ] && echo yes || echo no)"

# A loop that hangs: the process is stopped, so that none of its threads turns.
mkdir -p /run/systemd/system/valiant.service.d
printf '[Service]\nWatchdogSec=2\n' >/run/systemd/system/valiant.service.d/watchdog.conf
systemctl daemon-reload
systemctl restart valiant
sleep 5
same 'with a short watchdog it lives on' "active 0" "$(systemctl is-active valiant) $(state NRestarts)"
old=$(pid)
kill -STOP "$old"
is_another() { [ "$(pid)" != "$old" ] && [ "$(pid)" != 0 ] && pings; }
eventually 'when it hangs, the watchdog starts it anew' 20 is_another
rm /run/systemd/system/valiant.service.d/watchdog.conf
systemctl daemon-reload
systemctl restart valiant

# ---- Ends that are followed by a start, and those that are not ------------------------------------------------------

old=$(pid)
kill -KILL "$old"
eventually 'after SIGKILL it is started again' 10 is_another
cli SHUTDOWN >out 2>&1 || :
eventually 'SHUTDOWN ends it' 5 is_state valiant.service inactive
sleep 2
same 'and it stays down' inactive "$(systemctl is-active valiant || :)"
systemctl start valiant
same 'until it is started' PONG "$(cli PING)"

# ---- Restarts and upgrades without a lost connection ----------------------------------------------------------------

# lose_nothing NAME COMMAND...: while eight clients connect again and again, none is refused or reset.
lose_nothing() {
  local name=$1
  shift
  forget_starts
  rm -f enough
  python3 "$here/reconnect.py" "$HOST" "$PORT" 8 enough >counts &
  local clients=$!
  sleep 0.5
  "$@" >out 2>&1 || not_ok "$name: the command" "$(tail -n 5 out)"
  sleep 1
  touch enough
  wait "$clients"
  printf '# %s: %s\n' "$name" "$(cat counts)"
  like "$name: nothing refused, nothing broken" 'answered=[1-9]* refused=0 broken=0 *' "$(cat counts)"
  same "$name: active" active "$(systemctl is-active valiant)"
}
restart_five_times() {
  for _ in 1 2 3 4 5; do
    systemctl restart valiant
    sleep 0.3
  done
}
lose_nothing 'five restarts' restart_five_times
forget_starts
kill_once() { old=$(pid); kill -KILL "$old"; sleep 2; }
# Connections that were accepted end with the process; those that wait in the socket are served by the next one.
rm -f enough
python3 "$here/reconnect.py" "$HOST" "$PORT" 8 enough >counts &
clients=$!
sleep 0.5
kill_once
touch enough
wait "$clients"
printf '# SIGKILL: %s\n' "$(cat counts)"
like 'SIGKILL: nothing refused' 'answered=[1-9]* refused=0 *' "$(cat counts)"
version=$(dpkg-query -W -f '${Version}' valiant)
lose_nothing 'an upgrade' apt-get install --yes --quiet "$upgrade"
unlike 'the version is another' "$version" "$(dpkg-query -W -f '${Version}' valiant)"
same 'the unix socket still answers' PONG "$(timeout 10 redis-cli -s /run/valiant/valiant.sock PING)"
lose_nothing 'the same version once more' dpkg --install "$upgrade"

# ---- Changed addresses ---------------------------------------------------------------------------------------------

forget_starts
printf 'port 4300\nunixsocket other.sock\n' >>$conf
systemctl restart valiant
PORT=4300
same 'a changed port takes effect by a restart' PONG "$(cli PING)"
PORT=4200
like 'and the old one is free' '*refused*' "$(cli PING 2>&1 || :)"
same 'the new sockets are kept, and no others' 3 "$(state NFileDescriptorStore)"
same 'so does another unix socket' PONG "$(timeout 10 redis-cli -s /run/valiant/other.sock PING)"
PORT=4300
lose_nothing 'restarts at the new port' restart_five_times
forget_starts
printf 'bind *\n' >>$conf
systemctl restart valiant
same 'every address instead of one of them, at the same port' PONG "$(cli PING)"
sed -i '/^bind \*/d' $conf
systemctl restart valiant
same 'and the other way round' PONG "$(cli PING)"
forget_starts
sed -i '/^port 4300/d; /^unixsocket other/d; /^timeout 77/d' $conf
systemctl restart valiant
PORT=4200
same 'and back again' PONG "$(cli PING)"

# ---- A mistake in the configuration ---------------------------------------------------------------------------------

forget_starts
cp $conf good.conf
printf 'bogus 1\n' >>$conf
old=$(pid)
systemctl reload valiant || :
sleep 1
same 'reload with a mistake: it goes on' "$old PONG" "$(pid) $(cli PING)"
said 'bogus' && ok 'and says what is wrong' || not_ok 'and says what is wrong'
systemctl restart valiant >out 2>&1 || :
sleep 3
same 'restart with a mistake: failed, not again and again' 'failed 2 0' \
  "$(systemctl is-active valiant || :) $(state ExecMainStatus) $(state NRestarts)"
cp good.conf $conf
forget_starts
systemctl start valiant
same 'mended: answers' PONG "$(cli PING)"

# ---- A password from a credential ------------------------------------------------------------------------------------

forget_starts
mkdir -p /etc/credstore
printf 'from a credential\n' >/etc/credstore/valiant.requirepass
chmod 600 /etc/credstore/valiant.requirepass
systemctl restart valiant
like 'a credential sets the password' '*NOAUTH*' "$(cli PING 2>&1)"
same 'which it takes' PONG "$(cli --no-auth-warning -a 'from a credential' PING)"
rm /etc/credstore/valiant.requirepass
systemctl restart valiant
same 'without it there is none' PONG "$(cli PING)"

# ---- Further services -----------------------------------------------------------------------------------------------

forget_starts
printf 'port 4301\nunixsocket valiant.sock\n' >/etc/valiant/valiant-two.conf
systemctl enable --now valiant@two >out 2>&1
same 'a second service' 'active PONG' "$(systemctl is-active valiant@two) $(timeout 10 redis-cli -p 4301 PING)"
same 'has folders of its own' 'valiant PONG' \
  "$(stat -c %U /var/lib/valiant-two) $(timeout 10 redis-cli -s /run/valiant-two/valiant.sock PING)"
printf 'of its own\n' >/etc/credstore/valiant-two.requirepass
systemctl restart valiant@two
same 'and a credential of its own' 'PONG PONG' \
  "$(timeout 10 redis-cli -p 4301 --no-auth-warning -a 'of its own' PING) $(cli PING)"
rm /etc/credstore/valiant-two.requirepass
systemctl restart valiant@two
old=$(pid valiant@two)
apt-get install --yes --quiet --reinstall "$upgrade" >out 2>&1
unlike 'an upgrade restarts it' "$old" "$(pid valiant@two)"
same 'and it answers' PONG "$(timeout 10 redis-cli -p 4301 PING)"

# ---- Socket activation ----------------------------------------------------------------------------------------------

forget_starts
systemctl stop valiant.service
systemctl start valiant.socket
same 'the socket unit waits for a client' inactive "$(systemctl is-active valiant.service || :)"
same 'it starts the service' PONG "$(cli PING)"
# The first client is answered a moment before systemd has taken note.
eventually 'which is active then' 5 is_active
lose_nothing 'restarts under the socket unit' restart_five_times
systemctl stop valiant.socket valiant.service

# ---- The documented stricter sandboxes ------------------------------------------------------------------------------

forget_starts
drop_in=/etc/systemd/system/valiant.service.d
mkdir -p $drop_in
cp /usr/share/doc/valiant/examples/strict.conf $drop_in/strict.conf
systemctl daemon-reload
systemctl start valiant.service
exposure() { systemd-analyze security --no-pager valiant.service | sed -n 's/.*Overall exposure level.*: \([0-9.]*\) .*/\1/p'; }
same 'stricter, this machine only: exposure, answer' '0.9 PONG' "$(exposure) $(cli PING)"
forget_starts
systemctl stop valiant.service
sed -i 's/^#\(PrivateNetwork\|RestrictAddressFamilies\)/\1/' $drop_in/strict.conf
systemctl daemon-reload
systemctl start valiant.socket
same 'stricter, no network: answer, exposure' 'PONG 0.2' "$(cli PING) $(exposure)"
systemctl stop valiant.socket valiant.service
rm -r $drop_in
systemctl daemon-reload

# ---- A service that is off stays off --------------------------------------------------------------------------------

forget_starts
systemctl start valiant.service
systemctl stop valiant.service
apt-get install --yes --quiet --reinstall "$upgrade" >out 2>&1
same 'a stopped service stays so' 'inactive enabled' \
  "$(systemctl is-active valiant || :) $(systemctl is-enabled valiant || :)"
systemctl disable --quiet valiant.service
apt-get install --yes --quiet --reinstall "$upgrade" >out 2>&1
same 'a disabled service stays so' 'inactive disabled' \
  "$(systemctl is-active valiant || :) $(systemctl is-enabled valiant || :)"
systemctl mask --quiet valiant.service
apt-get install --yes --quiet --reinstall "$upgrade" >out 2>&1
same 'a masked service stays so' 'inactive masked' \
  "$(systemctl is-active valiant || :) $(systemctl is-enabled valiant || :)"
systemctl unmask --quiet valiant.service
systemctl enable --quiet --now valiant.service

# ---- Keys over a restart that takes longer than it may --------------------------------------------------------------

forget_starts
cli FLUSHALL >out
redis-benchmark -h "$HOST" -p "$PORT" -t set -r 1000000000 -n 6000000 -P 100 -d 100 -q >out
keys=$(cli DBSIZE)
mkdir -p $drop_in
printf '[Service]\nTimeoutStartSec=1\nTimeoutStopSec=1\n' >$drop_in/slow.conf
systemctl daemon-reload
started=$(microseconds)
systemctl --no-block restart valiant
has_status_of() { [[ $(state StatusText) == $1 ]]; }
eventually 'systemd is told that keys are saved' 60 has_status_of 'Stopping: saved *'
saved() { journalctl --quiet --no-pager --output cat --unit valiant --since "-2min" | grep -q "saved $keys keys"; }
eventually 'all are saved, however long that takes' 120 saved
stopped=$(microseconds)
eventually 'systemd is told that they are loaded' 30 has_status_of 'Loading*'
eventually 'then it is active' 120 is_active
printf '# %s keys: stopped after %d ms, active %d ms later, where 1,000 were allowed\n' "$keys" \
  $(((stopped - started) / 1000)) $((($(microseconds) - stopped) / 1000))
same 'nobody has killed it' 'success 0' "$(state Result) $(state NRestarts)"
same 'and all keys are there' "$keys" "$(cli DBSIZE)"
rm -rf $drop_in
systemctl daemon-reload
cli FLUSHALL >out
cli SET upgraded yes >out
apt-get install --yes --quiet --reinstall "$upgrade" >out 2>&1
same 'an upgrade keeps the keys' yes "$(cli GET upgraded)"

# ---- The append log -------------------------------------------------------------------------------------------------

forget_starts
has_log() { cli INFO persistence | grep -q '^aof_enabled:1' && [ -s /var/lib/valiant/appendonlydir/appendonly.aof.manifest ]; }
cli CONFIG SET appendonly yes appendfsync always >out
eventually 'the append log begins' 10 has_log
cli CONFIG REWRITE >out
cli SET logged yes >out
old=$(pid)
kill -KILL "$old"
eventually 'after SIGKILL it is started again' 10 is_another
same 'with all that was acknowledged' 'yes yes' "$(cli GET logged) $(cli GET upgraded)"
same 'the log is for the service alone' '700 valiant' "$(stat -c '%a %U' /var/lib/valiant/appendonlydir)"
cli SET logged again >out
apt-get install --yes --quiet --reinstall "$upgrade" >out 2>&1
same 'an upgrade keeps that, too' 'again yes' "$(cli GET logged) $(cli CONFIG GET appendonly | tail -n 1)"
cli CONFIG SET appendonly no appendfsync everysec >out
cli CONFIG REWRITE >out

# ---- Stop, remove, purge --------------------------------------------------------------------------------------------

forget_starts
signalled=$(microseconds)
systemctl stop valiant
took=$((($(microseconds) - signalled) / 1000))
if [ "$took" -le 2000 ]; then ok 'stops within two seconds'; else not_ok 'stops within two seconds' "$took ms"; fi
like 'and nobody listens any more' '*refused*' "$(cli PING 2>&1 || :)"
if [ -e /run/valiant ]; then not_ok 'the runtime directory is gone'; else ok 'the runtime directory is gone'; fi
systemctl start valiant
same 'the snapshot is for the service alone' '600 valiant' "$(stat -c '%a %U' /var/lib/valiant/dump.rdb)"
apt-get remove --yes --quiet valiant >out 2>&1
same 'remove ends all services' '' "$(pgrep -x valiant || :)"
same 'and keeps the data and the configuration' 'yes yes' \
  "$([ -e /var/lib/valiant/dump.rdb ] && echo yes) $([ -e $conf ] && echo yes)"
apt-get install --yes --quiet "$upgrade" >out 2>&1
same 'installed again it runs again' 'active PONG' "$(systemctl is-active valiant || :) $(cli PING)"
same 'with its keys' yes "$(cli GET upgraded)"
apt-get purge --yes --quiet valiant >out 2>&1
left=$(find / -xdev \( -path /proc -o -path /sys -o -path /root -o -path /var/log -o -path /tmp \) -prune -o -name '*valiant*' -print |
  grep -v -e '^/var/lib/apt' -e '^/var/cache' -e '^/var/lib/dpkg/info' || :)
same 'purge leaves nothing' '' "$left"
like 'but the user' 'valiant:*' "$(getent passwd valiant)"

finish

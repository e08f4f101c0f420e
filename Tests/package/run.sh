#!/bin/bash
# run.sh: checks the packages in .build-deb, which `make deb` built. Its last line is `N passed, N failed`.
set -eu
here=$(realpath "$(dirname "$0")")
cd "$here/../.."
. Tests/smoke/lib.sh
built=$PWD/.build-deb
version=$(dpkg-parsechangelog --show-field Version)
deb=$(realpath "$built/valiant_${version}_$(dpkg --print-architecture).deb")

# ---- What can be said of the files -----------------------------------------------------------------------------------

same 'lintian has nothing to say' '' \
  "$(lintian -EvIL +pedantic "$built"/valiant_*.changes 2>&1 | grep -v -e '^N:' -e '^running with root privileges')"
cd "$built"
sha256sum -- *.deb *.dsc *.tar.* >"$scratch/sums"
cd ..
"$here/build.sh" >"$scratch/build.log" 2>&1 || tail -n 20 "$scratch/build.log"
same 'a second build gives the same packages' '' "$(cd "$built" && sha256sum --check --quiet "$scratch/sums" 2>&1)"

# ---- In a system ------------------------------------------------------------------------------------------------------

# The same package as the next version, to upgrade to.
dpkg-deb --raw-extract "$deb" "$scratch/next"
sed -i "s/^Version: .*/&+next/" "$scratch/next/DEBIAN/control"
dpkg-deb --build --root-owner-group "$scratch/next" "$scratch/next.deb" >"$scratch/dpkg.log"

# box NAME ARGUMENT...: runs systemd-box and counts the checks that were made in it. Where it finds no place to boot a
# system, that is said and skipped.
box() {
  local name=$1 status=0
  shift
  "$here/systemd-box" "$@" >"$scratch/box" 2>"$scratch/box.err" </dev/null || status=$?
  grep -a -e '^ok - ' -e '^not ok - ' -e '^# ' -e '^skipped - ' "$scratch/box" || :
  passed=$((passed + $(grep -a -c '^ok - ' "$scratch/box" || [ $? -eq 1 ])))
  failed=$((failed + $(grep -a -c '^not ok - ' "$scratch/box" || [ $? -eq 1 ])))
  case $status in
    0) ok "$name" ;;
    125) skip "$name: $(tail -n 1 "$scratch/box.err")" ;;
    *) not_ok "$name: status $status" "$(tail -n 15 "$scratch/box" "$scratch/box.err")" ;;
  esac
}
box 'the service in a system with systemd' --timeout 600 --add "$PWD/Tests/smoke" \
  --add "$here/reconnect.py" --add "$scratch/next.deb" "$deb" -- "$here/service.sh" next.deb

# What Debian's own machines would try. There is no network in the system: apt must not look for any.
dpkg-source --extract "$built"/valiant_*.dsc "$scratch/source" >"$scratch/dpkg.log"
box 'autopkgtest' --timeout 600 --no-install --add "$scratch/source" "$deb" \
  --packages 'autopkgtest dpkg-dev apt-utils libuv1 liblzf1 liblua5.1-0 lua-cjson lua-bitop libmd0 netcat-openbsd redis-tools python3 iproute2' -- \
  sh -c ': >/etc/apt/sources.list; autopkgtest --no-built-binaries debs/*.deb source/ -- null'
if [ -s "$scratch/box" ]; then
  same 'autopkgtest: both tests pass' 'program PASS service PASS' \
    "$(sed -n 's/^\(program\|service\)  *\([A-Z][A-Z]*\).*/\1 \2/p' "$scratch/box" | sort -u | paste -s -d ' ')"
fi

# Installs, removes and purges in the box's tree of files, and looks for what is left.
tree=${BOX_CACHE:-/var/tmp/systemd-box}/bookworm
if [ -d "$tree" ]; then
  status=0
  piuparts --existing-chroot "$tree" --distribution bookworm --no-upgrade-test --log-level error "$deb" \
    >"$scratch/piuparts" 2>&1 || status=$?
  if [ "$status" -eq 0 ]; then ok piuparts; else not_ok "piuparts: status $status" "$(tail -n 15 "$scratch/piuparts")"; fi
else
  skip "piuparts: there is no tree of systemd-box"
fi

finished=yes
printf '\n%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]

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

# box NAME ARGUMENT...: runs systemd-box, counts the checks that were made in it; skipped where it finds no place to boot.
box() {
  local name=$1 status=0
  shift
  "$here/systemd-box" "$@" >"$scratch/box" 2>"$scratch/box.err" </dev/null || status=$?
  cat "$scratch/box"
  passed=$((passed + $(grep -a -c '^ok - ' "$scratch/box" || [ $? -eq 1 ])))
  failed=$((failed + $(grep -a -c '^not ok - ' "$scratch/box" || [ $? -eq 1 ])))
  case $status in
    0) ok "$name" ;;
    125) skip "$name: $(tail -n 1 "$scratch/box.err")" ;;
    *) not_ok "$name: status $status" "$(tail -n 15 "$scratch/box.err")" ;;
  esac
}
box 'the service in a system with systemd' --timeout 600 --add "$PWD/Tests/smoke" \
  --add "$here/reconnect.py" --add "$scratch/next.deb" "$deb" -- "$here/service.sh" next.deb

finished=yes
printf '\n%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]

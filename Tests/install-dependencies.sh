#!/bin/bash
# install-dependencies.sh PURPOSE...: installs the Debian packages which that needs, those that are missing only.
# Purposes: build, test, bench, package. The Swift toolchain is not among them: Debian 12 has none.
set -eu

packages=
for purpose in "$@"; do
  case $purpose in
    build) packages="$packages libuv1-dev liblzf-dev libmd-dev liblua5.1-0-dev lua-cjson-dev lua-bitop-dev pkg-config" ;;
    test) packages="$packages redis-server redis-tools libhiredis-dev gcc libc6-dev libfaketime netcat-openbsd iproute2 valgrind python3 python3-venv" ;;
    bench) packages="$packages redis-server redis-tools valgrind python3 gcc libc6-dev" ;;
    package) packages="$packages bash-completion build-essential debhelper dpkg-dev lintian piuparts systemd-container debootstrap" ;;
    *) printf 'unknown purpose: %s\n' "$purpose" >&2; exit 2 ;;
  esac
done

fail() {
  printf 'Cannot install the missing Debian packages: %s\nPlease install them by hand:%s\n' "$1" "$missing" >&2
  exit 1
}

missing=
for package in $packages; do
  state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>&1) || state=unknown
  if [ "$state" != installed ]; then missing="$missing $package"; fi
done
if [ -z "$missing" ]; then exit 0; fi

printf 'Installing the missing Debian packages:%s\n' "$missing"
if [ -z "$(command -v apt-get)" ]; then fail 'there is no apt-get.'; fi
root=
if [ "$(id -u)" -ne 0 ]; then
  root=sudo
  if [ -z "$(command -v sudo)" ]; then fail 'you are not root, and there is no sudo.'; fi
fi

# The tests start a redis-server of their own: the package must not start one as a service, neither now nor at the next
# boot. While it is installed a policy forbids to start services, unless the machine has a policy already.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap '$root rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' | $root tee "$policy" >/dev/null
  $root chmod 755 "$policy"
fi
$root apt-get update --quiet || printf 'The lists of packages could not be updated: going on with the old ones.\n' >&2
$root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends $missing ||
  fail 'apt-get failed.'
case $missing in
  *redis-server*) if [ -n "$(command -v systemctl)" ]; then $root systemctl disable --quiet redis-server; fi ;;
esac

#!/bin/bash
# build.sh: builds the Debian packages, source and binary, from this tree as it is. They come to lie in .build-deb.
# The tests of the tree are not run again meanwhile, unless DEB_BUILD_OPTIONS says something else than `nocheck`.
set -eu
cd "$(dirname "$0")/../.."
tree=$PWD
version=$(dpkg-parsechangelog --show-field Version)
name=valiant-${version%-*}
export DEB_BUILD_OPTIONS=${DEB_BUILD_OPTIONS-nocheck}

rm -rf .build-deb
mkdir -p ".build-deb/$name"
# What git would ignore is no part of the source.
tar --create --exclude-vcs --exclude='./.build*' --exclude='./Package.resolved' --exclude=__pycache__ . |
  tar --extract --directory ".build-deb/$name"
cd .build-deb
tar --create --xz --exclude="$name/debian" --sort=name --owner=0 --group=0 --numeric-owner --mode=go+rX,go-w \
  --mtime="@$(dpkg-parsechangelog --file "$name/debian/changelog" --show-field Timestamp)" \
  --file "valiant_${version%-*}.orig.tar.xz" "$name"
cd "$name"
dpkg-buildpackage --unsigned-source --unsigned-changes
cd ..
rm -rf "$name"
printf '%s\n' "${PWD#"$tree"/}"/*.deb

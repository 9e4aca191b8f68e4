#!/bin/sh
# Installs what the build needs, by Debian package name, saying what and why first. Does nothing when all is there.
# PMD_NO_INSTALL=1: only say what is missing.
set -u
packages='gcc|the C compiler
make|the build
pkg-config|finds libraries
libc6-dev|C library headers
libmgba-dev|Game Boy Advance emulator
libyajl-dev|JSON
libpcre2-dev|regular expressions of the tokenizer
libutf8proc-dev|Unicode normalisation
libpng-dev|PNG pictures
libturbojpeg0-dev|JPEG pictures
zlib1g-dev|compression
libxxhash-dev|content hashes
libyaml-dev|skills are YAML files
libcurl4-openssl-dev|downloads from the Hugging Face Hub
libsqlite3-dev|the memory over runs (its archive is linked in)
g++|the library around FAISS (C++)
libfaiss-dev|nearest neighbours in large memories (a library of its own, loaded when needed)
libopenblas-dev|matrix products of FAISS
libssl-dev|checksums of downloads
libcmocka-dev|the tests'

if command -v dpkg-query >/dev/null 2>&1; then
    installed=$(dpkg-query -W -f '${db:Status-Abbrev}${Package}\n' 2>/dev/null | sed -n 's/^ii *//p')
    missing=$(echo "$packages" | while IFS='|' read -r name why; do
        echo "$installed" | grep -qxF "$name" || echo "$name|$why"
    done)
else
    echo "install-deps: this is not a Debian system; needed are the equivalents of:" >&2
    echo "$packages" | sed 's/|/: /; s/^/  /' >&2
    exit 0
fi
[ -z "$missing" ] && exit 0

echo "Missing Debian packages:"
echo "$missing" | while IFS='|' read -r name why; do printf '  %-22s %s\n' "$name" "$why"; done
[ -n "${PMD_NO_INSTALL:-}" ] && exit 1
as_root=
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "install-deps: not root and no sudo: ask an administrator to install the packages above" >&2
        exit 1
    fi
    as_root=sudo
fi
names=$(echo "$missing" | cut -d'|' -f1)
echo "Installing them with: $as_root apt-get install" $names
$as_root apt-get update -q || exit 1
# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $names || exit 1

#!/bin/sh
# Puts a valkey-server beside the other tools, for the tests of make test-valkey:
# from Debian's package of this release or of its backports, unpacked and not
# installed. usage: scripts/valkey.sh .bin/valkey-server
set -eu
to=$1

if installed=$(command -v valkey-server); then
	mkdir -p "$(dirname "$to")"
	ln -sf "$installed" "$to"
	exit 0
fi
# shellcheck disable=SC1091 # Debian's
codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$tmp/lists/partial" "$tmp/cache/archives/partial" "$tmp/parts" "$tmp/root"
for suite in "$codename" "$codename-backports"; do
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $suite main"
done >"$tmp/list"
apt() {
	(cd "$tmp" && apt-get -qq -o Dir::Etc::sourcelist="$tmp/list" -o Dir::Etc::sourceparts="$tmp/parts" \
		-o Dir::State::lists="$tmp/lists" -o Dir::Cache="$tmp/cache" -o APT::Sandbox::User=root "$@")
}
apt update
apt download valkey-tools
dpkg-deb -x "$tmp"/valkey-tools_*.deb "$tmp/root"
mkdir -p "$(dirname "$to")"
# The program does several things, by its name.
cp -L "$tmp/root/usr/bin/valkey-check-rdb" "$to"
"$to" --version

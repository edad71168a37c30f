#!/bin/sh
# Installs the Debian packages that the tests need, as root; otherwise names
# what is missing and exits 1. Then it installs the local DynamoDB, by npm.
set -eu

missing=
need() { # need COMMAND PACKAGE
	PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need gcc gcc          # the race detector
need nginx nginx-light # examples/nginx
need wrk wrk          # examples/nginx
need redis-server redis-server # store/redisstore
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql" # store/pgstore
need node nodejs      # store/dynamostore: dynalite
need npm npm          # store/dynamostore
[ -e /usr/include/stdlib.h ] || missing="$missing libc6-dev"

# dynalite, by its lockfile, where that is newer than what is installed.
dynalite() {
	cd "$(dirname "$0")/../store/dynamostore/dynamotest"
	[ node_modules/.package-lock.json -nt package-lock.json ] && return
	echo "installing dynalite"
	npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null
}
if [ -z "$missing" ]; then
	dynalite
	exit
fi

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
	echo "The tests need these Debian packages:$missing" >&2
	echo "Install them: sudo apt-get install --no-install-recommends$missing" >&2
	exit 1
fi
echo "installing$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 # one word per package
apt-get install -y -qq --no-install-recommends $missing >/dev/null
dynalite

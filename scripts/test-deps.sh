#!/bin/sh
# Installs the Debian packages that the tests need, as root; otherwise names
# what is missing and exits 1. Then it installs packages of npm: the local DynamoDB, a
# client of Redis, and what clients/node and the examples and rivals beside it require.
set -eu

missing=
need() { # need COMMAND PACKAGE
	PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need gcc gcc          # the race detector
need protoc protobuf-compiler # api
need nginx nginx-light # examples/nginx, bench
need wrk wrk          # examples/nginx
need caddy caddy      # examples/caddy
need haproxy haproxy  # examples/haproxy
need redis-server redis-server # store/redisstore
need redis-cli redis-tools # server/front/resp
need redis-benchmark redis-tools # server/front/resp
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql" # store/pgstore
need node nodejs      # store/dynamostore: dynalite; server/cmd/headgate: ioredis; clients/node
need npm npm          # store/dynamostore
need openssl openssl  # clients/node
[ -e /usr/include/stdlib.h ] || missing="$missing libc6-dev"

# What tests need of npm, by its lockfile, where that is newer than what is installed.
packages() {
	cd "$(dirname "$0")/.."
	for dir in store/dynamostore/dynamotest server/cmd/headgate/testdata/ioredis clients/node examples/express examples/gateway examples/pm2 bench/rivals/web; do
		[ "$dir/node_modules/.package-lock.json" -nt "$dir/package-lock.json" ] && continue
		echo "installing the packages of $dir"
		(cd "$dir" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null)
	done
}
if [ -z "$missing" ]; then
	packages
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
packages

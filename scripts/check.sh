#!/bin/sh
# Static checks of each module: format, vet, staticcheck, modernizers, tidiness.
# usage: scripts/check.sh MODULE...
set -eu
cd "$(dirname "$0")/.."

unformatted=$(gofmt -l $(git ls-files '*.go'))
[ -z "$unformatted" ] || { echo "not formatted (make fmt):" "$unformatted"; exit 1; }
for m in "$@"; do
	(
		cd "$m"
		go vet ./...
		"$OLDPWD/.bin/staticcheck" ./...
		go fix -diff ./...
		go mod tidy -diff
	) || { echo "check: module $m failed"; exit 1; }
done
sh -n scripts/*.sh

#!/bin/sh
# Static checks of each module: format, vet, staticcheck, modernizers, tidiness.
# usage: scripts/check.sh MODULE...
set -u
cd "$(dirname "$0")/.." || exit 1
root=$PWD
failed=0

fail() {
	echo "check: $1" >&2
	failed=1
}

unformatted=$(gofmt -l $(git ls-files '*.go'))
[ -z "$unformatted" ] || fail "not formatted (make fmt): $unformatted"
for m in "$@"; do
	cd "$root/$m" || exit 1
	go vet ./... || fail "$m: go vet"
	"$root/.bin/staticcheck" ./... || fail "$m: staticcheck"
	go fix -diff ./... || fail "$m: go fix"
	go mod tidy -diff || fail "$m: go mod tidy"
done
cd "$root" || exit 1
for script in scripts/*.sh examples/*/run.sh; do
	sh -n "$script" || fail "$script: syntax"
done
exit $failed

#!/bin/sh
# Runs every fuzz target of the repository, one after the other.
# usage: scripts/fuzz.sh TIME
set -eu
cd "$(dirname "$0")/.."

for file in $(git ls-files '*_test.go'); do
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file"); do
		echo "== $(dirname "$file") $target"
		(cd "$(dirname "$file")" && go test -run '^$' -fuzz "^$target\$" -fuzztime "$1" .)
	done
done

#!/bin/sh
# Generates the Go code of api/ from its .proto files, with Debian's protoc and
# the generators of tools/. With --check it writes nothing, and fails if the
# committed code is not what would be written.
# usage: scripts/proto.sh [--check]
set -eu
cd "$(dirname "$0")/.."

for tool in protoc-gen-go protoc-gen-go-grpc; do
	[ -x ".bin/$tool" ] && [ ! ".bin/$tool" -ot tools/go.mod ] && continue
	GOWORK=off GOBIN="$PWD/.bin" go -C tools install tool
	touch .bin/protoc-gen-go .bin/protoc-gen-go-grpc
done

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
protoc --proto_path=api \
	--plugin=.bin/protoc-gen-go --go_out="$out" --go_opt=paths=source_relative \
	--plugin=.bin/protoc-gen-go-grpc --go-grpc_out="$out" --go-grpc_opt=paths=source_relative \
	headgate/v1/headgate.proto

if [ "${1-}" = --check ]; then
	for f in headgate.pb.go headgate_grpc.pb.go; do
		diff -u "api/headgate/v1/$f" "$out/headgate/v1/$f" >&2 && continue
		echo "api/headgate/v1/$f is not what headgate.proto yields: run make proto" >&2
		exit 1
	done
	exit
fi
cp "$out"/headgate/v1/*.go api/headgate/v1/

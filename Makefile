# make run    builds the daemon and runs it with the built-in policy
# make test   passes every test; installs what they need, as root
# The rest is for those who work on Headgate.

MODULES := . api client gate middleware/echolimit middleware/ginlimit middleware/grpcgate middleware/grpclimit middleware/wraptest store/dynamostore store/lintest store/pgstore store/redisstore store/sqlitestore server
GO      ?= go

.PHONY: proto run build test test-go test-bench test-node test-examples test-valkey check fmt tidy lin sim bench bench-doors bench-web bench-stores model fuzz flood hostile outage crash doors-differential deps clean

run: build
	bin/headgate serve $(ARGS)

build:
	$(GO) build -trimpath -ldflags='-s -w' -o bin/headgate ./server/cmd/headgate

test: deps check test-go test-bench test-node test-examples

deps:
	scripts/test-deps.sh

# All modules of go.work, shuffled, under the race detector but for packages in which
# nothing runs at once: it makes their arithmetic and parsing several times slower. Those
# in which that is so of some tests, or that count allocations (racetest.Alone), are tested
# both ways. The examples have a run of their own: they drive a plain binary under load.
ALONE := algo gate/policy gate/envoy server/openapi
BOTH  := client gate gate/httpgate middleware/echolimit middleware/ginlimit middleware/grpcgate middleware/grpclimit middleware/httplimit server/front/grpcapi server/front/httpapi server/records store/memstore
test-go:
	CGO_ENABLED=1 $(GO) test -race -shuffle=on -timeout 20m $$($(GO) list github.com/headgate/headgate/... | grep -v -e /examples/ $(ALONE:%=-e '^github.com/headgate/headgate/%$$'))
	$(GO) test -shuffle=on $(ALONE:%=./%) $(BOTH:%=./%)

# The npm package, against the plain binary.
test-node: build
	cd clients/node && HEADGATE_BIN=$(CURDIR)/bin/headgate npm test

test-examples: build
	HEADGATE_BIN=$(CURDIR)/bin/headgate $(GO) test -count=1 ./examples/...

# That the benchmarks build, and check their workloads; they are not timed.
test-bench:
	cd bench && GOWORK=off $(GO) vet ./... && GOWORK=off $(GO) test ./...

check: .bin/staticcheck
	scripts/check.sh $(MODULES)
	scripts/proto.sh --check

# The Go code of api/, from its .proto files.
proto: .bin/staticcheck
	scripts/proto.sh

.bin/staticcheck: tools/go.mod tools/go.sum
	GOWORK=off GOBIN=$(CURDIR)/.bin $(GO) -C tools install tool
	@touch $@

fmt:
	gofmt -w $$(git ls-files '*.go')

tidy:
	for m in $(MODULES); do (cd $$m && $(GO) mod tidy) || exit 1; done
	for m in bench bench/rivals/gubernator bench/rivals/ratelimit tools; do (cd $$m && GOWORK=off $(GO) mod tidy) || exit 1; done

# The tests of the Redis store, on a Valkey server.
test-valkey: .bin/valkey-server
	REDISTEST_SERVER=$(CURDIR)/.bin/valkey-server $(GO) test -count=1 ./store/redisstore/... ./store/lintest

.bin/valkey-server: scripts/valkey.sh
	scripts/valkey.sh $@
	@touch $@

# Histories of 16 clients, HISTORIES of each kind, checked by porcupine; about 15
# minutes for 500.
HISTORIES ?= 500
lin:
	$(GO) test ./store/lintest -run '^TestLinearizable' -count=1 -v -timeout 6h -lin.histories=$(HISTORIES) -lin.postgres=$(HISTORIES)

# Schedules of leases in a world where all that can fails; about 10 minutes for a
# million. A violation says how to see it again.
SIM_SCHEDULES ?= 1000000
sim:
	$(GO) test ./lease/leasesim -run '^TestSimulation$$' -count=1 -v -timeout 6h -sim.schedules=$(SIM_SCHEDULES)

# Beside the rivals, in one run; about half an hour.
bench:
	cd bench && GOWORK=off $(GO) run ./cmd/bench $(ARGS)

# The stores that are not memory alone.
bench-stores:
	cd bench && GOWORK=off $(GO) run ./cmd/bench -run '^(Redis|Postgres|Embedded)' -time 500ms $(ARGS)

# The doors beside empty servers, Redis, envoyproxy/ratelimit and gubernator, which it
# fetches and builds; about 10 minutes.
bench-doors:
	cd bench && GOWORK=off $(GO) run ./cmd/bench -run '^(RESP|RLS|GRPC)' $(ARGS)

# An Express application behind each of several limiters, which it fetches from npm, and the
# reverse proxy with limits and without, beside nginx with limit_req and without; about 25
# minutes.
bench-web:
	cd bench && GOWORK=off $(GO) run ./cmd/bench -run '^(Web|Proxy)' $(ARGS)

# 20 million random operations against the big-integer model, minutes to an hour, and
# STORE_OPS on each store that is not memory against package algo; hours.
MODEL_OPS ?= 20000000
STORE_OPS ?= 2000000
model:
	$(GO) test ./algo -run '^TestModel' -count=1 -timeout 3h -model.ops=$(MODEL_OPS)
	$(GO) test ./store/memstore -run '^TestDifferential' -count=1 -timeout 3h -ops=$(STORE_OPS)
	$(GO) test ./store/sqlitestore -run 'Differential$$' -count=1 -timeout 6h -sqlite.ops=$(STORE_OPS)
	$(GO) test ./store/pgstore -run 'Differential$$' -count=1 -timeout 12h -pg.ops=$(STORE_OPS)
	$(GO) test ./store/dynamostore -run 'Differential$$' -count=1 -timeout 24h -dynamo.ops=$(STORE_OPS)

# Every fuzz target for FUZZ_TIME, FUZZ_JOBS of them at once.
FUZZ_TIME ?= 10m
FUZZ_JOBS ?= 2
fuzz:
	scripts/fuzz.sh $(FUZZ_TIME) $(FUZZ_JOBS)

# 10 million random clients against 256 MiB; about 5 minutes. The only test that
# judges times: let nothing else run.
flood:
	$(GO) test ./server/cmd/headgate -run '^TestFlood$$' -count=1 -v -timeout 30m -flood.keys=10000000 -flood.bytes=268435456 -flood.timed

# Hostile peers at every door beside polite ones, whose times are judged, and 10,000
# idle connections at each; about 12 minutes. Let nothing else run.
hostile:
	$(GO) test ./server/cmd/headgate -run '^TestHostile$$' -count=1 -v -timeout 1h -hostile.timed

# The store taken away under load, with a judgement of times: let nothing else run.
outage:
	$(GO) test ./server/cmd/headgate -run '^TestOutage$$' -count=1 -v -timeout 30m -outage.timed

# The server on its embedded store killed CRASHES times under load, at all times;
# about 15 minutes for 1000. A violation says how to see it again. A start after a
# kill with a million keys is timed: let nothing else run.
CRASHES ?= 1000
crash:
	$(GO) test ./server/cmd/headgate -run '^TestCrash' -count=1 -v -timeout 3h -crash.timed -crash.kills=$(CRASHES) -crash.seed=$$(date +%s)

# The same random policies, requests and times through every door; about 3 minutes for
# 2000. A difference says how to see it again.
FRONT_SEEDS ?= 2000
doors-differential:
	$(GO) test ./server/front/fronttest -run '^TestDoorsAgree$$' -count=1 -v -timeout 6h -front.seeds=$(FRONT_SEEDS) -front.seed=$$(date +%s)000

clean:
	rm -rf bin .bin

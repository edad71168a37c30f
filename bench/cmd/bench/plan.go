package main

import (
	"fmt"
	"time"
)

// The groups: benchmarks of one group and contestant share a process.
const (
	hot    = "hot"
	many   = "many"
	insert = "insert"
	memory = "memory"
	policy = "policy"
	growth = "growth"
	door   = "door"
	stores = "stores"
	sql    = "sql"
	disk   = "disk"
	depth  = "depth"
	office = "office"
	people = "people"
	resp   = "resp"
	rpc    = "rpc"
	web    = "web"
	front  = "front"
	floors = "floors"
)

// mostRounds bounds the rounds of groups that take long or do not vary.
var mostRounds = map[string]int{memory: 1, growth: 2, depth: 1, office: 1}

// leastTime is how long benchmarks run at least whose servers' processor time is read
// in hundredths of a second.
var leastTime = map[string]time.Duration{resp: time.Second, rpc: time.Second, web: 2 * time.Second, front: 2 * time.Second}

// row is one line of the table.
type row struct {
	group, work string
	// bench is the benchmark's name without its prefix, ours and rivals the
	// sub-benchmarks.
	bench, ours string
	rivals      []string
	// beside are sub-benchmarks that goals name and that are no rivals.
	beside []string
	// unit is what is compared, smaller being better; "" means ns/op.
	unit  string
	goals []goal
}

func (r *row) id() string { return r.bench + "/" + r.ours }

func (r *row) measure() string {
	if r.unit == "" {
		return "ns/op"
	}
	return r.unit
}

// goal is what a row should reach: times is either how many times faster than
// the result called other Headgate is to be, or with slower how many times
// slower it may be. Without other, most bounds the row's own unit.
type goal struct {
	other  string
	times  float64
	slower bool

	most float64
	unit string
}

func faster(times float64, other string) goal { return goal{other: other, times: times} }
func within(times float64, other string) goal { return goal{other: other, times: times, slower: true} }
func atMost(most float64, unit string) goal   { return goal{most: most, unit: unit} }

// bestRival stands for whichever rival is fastest.
const bestRival = "the best rival"

func (g goal) String() string {
	switch {
	case g.other == "":
		return fmt.Sprintf("<= %g %s", g.most, g.unit)
	case g.slower:
		return fmt.Sprintf("<= %g x %s", g.times, g.other)
	default:
		return fmt.Sprintf(">= %g x %s", g.times, g.other)
	}
}

var noAllocations = atMost(0, "allocs/op")

var (
	single = []string{"failsafe-go", "uber", "sethvargo", "time-%", "throttled", "ulule"}
	deny   = []string{"failsafe-go", "sethvargo", "time-%", "throttled", "ulule"}
	keyed  = []string{"sethvargo", "throttled", "time-%", "failsafe-go", "ulule"}
	slow   = []string{"throttled", "time-%"} // where others would take minutes
	redis  = []string{"redis_rate", "rueidis-gcra"}
	script = []string{"floor"}  // an empty script on the server
	upsert = []string{"upsert"} // one statement per decision

	lua    = []string{"redis-lua"}           // a bucket as a script of Redis
	wire   = []string{"floor", "redis-incr"} // an empty server, and one that counts
	envoy  = []string{"envoy-redis"}         // envoyproxy/ratelimit
	guber  = []string{"gubernator"}
	server = []string{"floor"} // an empty service

	// Limiters of Express applications, on Redis and in the process.
	shared = []string{"rate-limiter-flexible-redis", "express-rate-limit-redis"}
	inside = []string{"rate-limiter-flexible", "express-rate-limit"}

	// Reverse proxies: another that limits, ours without limits and without a gate, another
	// without limits, and none.
	limitReq  = []string{"nginx-limit_req"}
	unlimited = []string{"headgate-open", "floor", "nginx", "site"}

	inMemory = []string{"memory"} // the same store without a journal
)

// plan is the table. The goals are those for in-process work on two cores.
var plan = []row{
	{
		group: hot, work: "one hot key, at hand", bench: "HotKey", ours: "headgate-key", rivals: single,
		goals: []goal{faster(1.4, "HotKey/failsafe-go"), faster(2.5, "HotKey/x-time"), within(1.2, "Floor/cas"), noAllocations},
	},
	{
		group: hot, work: "the same, a clock reading for 64", bench: "HotKey", ours: "headgate-key-batch", rivals: single,
		goals: []goal{faster(3, "HotKey/failsafe-go"), faster(6, "HotKey/x-time"), noAllocations},
	},
	{
		group: hot, work: "one hot key, a whole decision", bench: "HotKey", ours: "headgate-key-take", rivals: single,
		goals: []goal{faster(1.5, "HotKey/x-time"), noAllocations},
	},
	{
		group: hot, work: "one hot key, by its name", bench: "HotKey", ours: "headgate", rivals: single,
		goals: []goal{faster(1, "HotKey/x-time"), noAllocations},
	},
	{
		group: hot, work: "one hot key at hand, all cores, spread", bench: "HotKeyParallel", ours: "headgate-key", rivals: single,
		goals: []goal{faster(5, "HotKeyParallel/failsafe-go"), noAllocations},
	},
	{
		group: hot, work: "the same, a whole decision, not spread", bench: "HotKeyParallel", ours: "headgate-key-take", rivals: single,
		goals: []goal{faster(1, "HotKeyParallel/failsafe-go"), noAllocations},
	},
	{
		group: hot, work: "one hot key by its name, all cores", bench: "HotKeyParallel", ours: "headgate", rivals: single,
		goals: []goal{faster(1, "HotKeyParallel/x-time"), noAllocations},
	},
	{
		group: hot, work: "denial, hot, at hand", bench: "Denial", ours: "headgate-key", rivals: deny,
		goals: []goal{faster(1.4, "Denial/failsafe-go"), noAllocations},
	},
	{
		group: hot, work: "the same, all cores", bench: "DenialParallel", ours: "headgate-key", rivals: deny,
		goals: []goal{faster(1.4, "DenialParallel/failsafe-go"), faster(1.5, "Denial/headgate-key"), noAllocations},
	},
	{
		group: hot, work: "denial, hot, by its name", bench: "Denial", ours: "headgate", rivals: deny,
		goals: []goal{faster(1, "Denial/x-time"), noAllocations},
	},
	{
		group: hot, work: "the same, all cores", bench: "DenialParallel", ours: "headgate", rivals: deny,
		goals: []goal{faster(1, "DenialParallel/failsafe-go"), faster(1.5, "Denial/headgate"), noAllocations},
	},
	{
		group: many, work: "1 M keys uniform", bench: "Uniform", ours: "headgate", rivals: keyed,
		goals: []goal{faster(1.4, "Uniform/sethvargo"), noAllocations},
	},
	{
		group: many, work: "1 M keys uniform, all cores", bench: "UniformParallel", ours: "headgate", rivals: keyed,
		goals: []goal{faster(1.4, "UniformParallel/sethvargo"), noAllocations},
	},
	{
		group: many, work: "the same, a clock reading for 64", bench: "UniformParallel", ours: "headgate-batch", rivals: keyed,
		goals: []goal{faster(1.6, "UniformParallel/sethvargo"), noAllocations},
	},
	{
		group: many, work: "1 M keys Zipf 1.1, all cores", bench: "ZipfParallel", ours: "headgate", rivals: keyed,
		goals: []goal{faster(1.25, "ZipfParallel/sethvargo"), noAllocations},
	},
	{
		group: many, work: "the same, a clock reading for 64", bench: "ZipfParallel", ours: "headgate-batch", rivals: keyed,
		goals: []goal{faster(1.6, "ZipfParallel/sethvargo"), noAllocations},
	},
	{
		group: many, work: "the same, hot keys refused", bench: "ZipfDenied", ours: "headgate", rivals: []string{"sethvargo", "throttled", "time-%"},
		goals: []goal{faster(1.25, "ZipfDenied/sethvargo"), noAllocations},
	},
	{
		group: insert, work: "a new key", bench: "NewKey", ours: "headgate", rivals: keyed,
		goals: []goal{faster(2, bestRival)},
	},
	{
		group: insert, work: "the worst 1,024 new keys in a row", bench: "NewKey", ours: "headgate", rivals: keyed, unit: "max-ms",
		goals: []goal{atMost(5, "max-ms")},
	},
	{
		group: memory, work: "bytes per key at 1 M", bench: "BytesPerKey", ours: "headgate", rivals: keyed, unit: "B/key",
		goals: []goal{atMost(48, "B/key")},
	},
	{
		group: memory, work: "bytes per key at 5 M", bench: "GC", ours: "headgate", rivals: slow, unit: "B/key",
		goals: []goal{atMost(48, "B/key")},
	},
	{
		group: memory, work: "CPU of a full GC at 5 M keys", bench: "GC", ours: "headgate", rivals: slow, unit: "cpu-ms",
		goals: []goal{atMost(10, "cpu-ms")},
	},
	{
		group: policy, work: "whole policy of 3 limits", bench: "Policy", ours: "headgate",
		goals: []goal{atMost(600, "ns/op"), noAllocations},
	},
	{
		group: policy, work: "the same, 1 M subjects, all cores", bench: "PolicyUniform", ours: "headgate",
		goals: []goal{noAllocations},
	},
	{
		group: policy, work: "1 limit, 10,000 rules beside 10", bench: "Rules", ours: "rules10000", beside: []string{"rules10", "rules1000"},
		goals: []goal{within(1.3, "Rules/rules10"), noAllocations},
	},
	{
		group: growth, work: "one of 1 thousand keys", bench: "Keys", ours: "headgate-1k", beside: []string{"floor-1k"},
		goals: []goal{within(2.5, "Keys/floor-1k"), noAllocations},
	},
	{
		group: growth, work: "one of 1 M keys", bench: "Keys", ours: "headgate-1M", beside: []string{"floor-1M"},
		goals: []goal{within(2.5, "Keys/floor-1M"), noAllocations},
	},
	{
		group: growth, work: "one of 10 M keys", bench: "Keys", ours: "headgate-10M", beside: []string{"floor-10M"},
		goals: []goal{within(2.5, "Keys/floor-10M"), noAllocations},
	},
	{
		group: door, work: "httplimit with 2 limits, added to a handler", bench: "HTTPLimit", ours: "headgate",
		goals: []goal{atMost(1000, "ns/op"), atMost(1, "allocs/op")},
	},
	{
		group: door, work: "POST /v1/take, 64 in flight", bench: "TakeHTTP", ours: "headgate", beside: []string{"floor"},
		goals: []goal{faster(0.9, "TakeHTTP/floor")},
	},
	{
		group: door, work: "the same, CPU of the server", bench: "TakeHTTP", ours: "headgate", beside: []string{"floor"}, unit: "server-ns/op",
		goals: []goal{within(1.15, "TakeHTTP/floor")},
	},
	{
		group: stores, work: "Redis, 16,384 keys", bench: "RedisMany", ours: "headgate", rivals: redis, beside: script,
		goals: []goal{faster(1.8, "RedisMany/redis_rate")},
	},
	{
		group: stores, work: "Redis, three limits at once, 16,384 keys", bench: "RedisThree", ours: "headgate", rivals: redis, beside: script,
		goals: []goal{faster(1.2, "RedisMany/redis_rate")},
	},
	{
		group: stores, work: "Redis, one hot key", bench: "RedisHot", ours: "headgate", rivals: redis, beside: script,
		goals: []goal{faster(5, "RedisHot/redis_rate")},
	},
	{
		group: stores, work: "Redis, one hot key with leases", bench: "RedisHot", ours: "headgate-leases", rivals: redis, beside: script,
		goals: []goal{faster(25, "RedisHot/redis_rate"), noAllocations},
	},
	{
		group: stores, work: "the same, 99th percentile", bench: "RedisHot", ours: "headgate-leases", rivals: redis, beside: script, unit: "p99-us",
		goals: []goal{atMost(1500, "p99-us")},
	},
	{
		group: stores, work: "the same, calls of Redis for 1,000", bench: "RedisHot", ours: "headgate-leases", rivals: redis, unit: "scripts/kop",
		goals: []goal{atMost(10, "scripts/kop")},
	},
	{
		group: stores, work: "Redis, 1,000 hot keys with leases", bench: "RedisThousand", ours: "headgate-leases", rivals: redis, beside: script,
		goals: []goal{faster(25, "RedisThousand/redis_rate"), noAllocations},
	},
	{
		group: stores, work: "the same, 99th percentile", bench: "RedisThousand", ours: "headgate-leases", rivals: redis, beside: script, unit: "p99-us",
		goals: []goal{atMost(1500, "p99-us")},
	},
	{
		group: sql, work: "PostgreSQL, 100,000 keys, a crash may lose some", bench: "PostgresMany", ours: "headgate", rivals: upsert,
		goals: []goal{faster(3.5, "PostgresMany/upsert")},
	},
	{
		group: sql, work: "PostgreSQL, 100,000 keys", bench: "PostgresManySynced", ours: "headgate", rivals: upsert,
	},
	{
		group: sql, work: "PostgreSQL, one hot key", bench: "PostgresHotSynced", ours: "headgate", rivals: upsert,
		goals: []goal{faster(10, "PostgresHotSynced/upsert")},
	},
	{
		group: disk, work: "embedded, 100,000 warm keys under 1 M a day, all cores", bench: "EmbeddedWarm", ours: "headgate", beside: inMemory,
		goals: []goal{faster(0.9, "EmbeddedWarm/memory"), noAllocations},
	},
	{
		group: disk, work: "the same under 1,000 a day, 64 callers", bench: "EmbeddedThousand", ours: "headgate", beside: inMemory,
	},
	{
		group: disk, work: "the same, bytes written per decision", bench: "EmbeddedThousand", ours: "headgate", unit: "written-B/op",
	},
	{
		group: disk, work: "the same under 100 a day, each on disk", bench: "EmbeddedHundred", ours: "headgate", beside: inMemory,
	},
	{
		group: disk, work: "the same, bytes written per decision", bench: "EmbeddedHundred", ours: "headgate", unit: "written-B/op",
	},
	{
		group: depth, work: "embedded, one of 1 thousand keys", bench: "EmbeddedKeys", ours: "headgate-1k", beside: []string{"memory-1k"},
		goals: []goal{faster(0.9, "EmbeddedKeys/memory-1k"), noAllocations},
	},
	{
		group: depth, work: "embedded, one of 1 M keys", bench: "EmbeddedKeys", ours: "headgate-1000k", beside: []string{"memory-1000k"},
		goals: []goal{faster(0.9, "EmbeddedKeys/memory-1000k"), noAllocations},
	},
	{
		group: depth, work: "embedded, one of 5 M keys", bench: "EmbeddedKeys", ours: "headgate-5000k", beside: []string{"memory-5000k"},
		goals: []goal{faster(0.9, "EmbeddedKeys/memory-5000k"), noAllocations},
	},
	{
		group: depth, work: "the same, bytes on disk per key", bench: "EmbeddedKeys", ours: "headgate-5000k", unit: "disk-B/key",
	},
	{
		group: office, work: "1 M subjects on record: 100 from anywhere", bench: "AdminList", ours: "headgate", unit: "p50-ms",
		goals: []goal{atMost(5, "p50-ms"), atMost(50, "p99-ms")},
	},
	{
		group: office, work: "the same, by how names begin", bench: "AdminSearch", ours: "headgate", unit: "p50-ms",
		goals: []goal{atMost(5, "p50-ms"), atMost(50, "p99-ms")},
	},
	{
		group: office, work: "the same, of a plan that every third has", bench: "AdminListPlan", ours: "headgate", unit: "p50-ms",
		goals: []goal{atMost(5, "p50-ms")},
	},
	{
		group: office, work: "the same, of a plan that one of 10,000 has", bench: "AdminListRare", ours: "headgate", unit: "p50-ms",
		goals: []goal{atMost(5, "p50-ms")},
	},
	{
		group: office, work: "the same, of a plan that none has", bench: "AdminListVacant", ours: "headgate", unit: "p50-ms",
		goals: []goal{atMost(5, "p50-ms")},
	},
	{
		group: office, work: "the same, the 64 who are banned", bench: "AdminListBanned", ours: "headgate", unit: "p50-ms",
		goals: []goal{atMost(5, "p50-ms")},
	},
	{
		group: office, work: "a plan, with how many have it", bench: "AdminPlan", ours: "headgate", unit: "p50-ms",
		goals: []goal{atMost(100, "p50-ms")},
	},
	{
		group: office, work: "a subject, with its limits as they stand", bench: "AdminSubject", ours: "headgate", unit: "p50-ms",
		goals: []goal{atMost(5, "p50-ms"), atMost(50, "p99-ms")},
	},
	{
		group: office, work: "a subject changed, with its audit line, on disk", bench: "AdminPut", ours: "headgate", unit: "p50-ms",
		goals: []goal{atMost(20, "p50-ms")},
	},
	{
		group: office, work: "usage of a subject by the day", bench: "AdminUsageDay", ours: "headgate", unit: "p50-ms",
		goals: []goal{atMost(5, "p50-ms")},
	},
	{
		group: office, work: "the same by the month", bench: "AdminUsageMonth", ours: "headgate", unit: "p50-ms",
		goals: []goal{atMost(5, "p50-ms")},
	},
	{
		group: office, work: "100 rows of a day on which one of ten was there", bench: "AdminUsageRegular", ours: "headgate", unit: "p50-ms",
		goals: []goal{atMost(20, "p50-ms")},
	},
	{
		group: office, work: "a day on which nobody was there", bench: "AdminUsageVacant", ours: "headgate", unit: "p50-ms",
		goals: []goal{atMost(1000, "p50-ms")},
	},
	{
		group: office, work: "usage of 1 M subjects exported as CSV", bench: "AdminExport", ours: "headgate", unit: "us/row",
		goals: []goal{atMost(10, "us/row")},
	},
	{
		group: office, work: "the same, live heap meanwhile", bench: "AdminExport", ours: "headgate", unit: "peak-MB",
		goals: []goal{atMost(64, "peak-MB")},
	},
	{
		group: office, work: "usage of 5,000 subjects put on record", bench: "AdminReport", ours: "headgate", unit: "us/row",
		goals: []goal{atMost(200, "us/row")},
	},
	{
		group: office, work: "hours made days", bench: "AdminFold", ours: "headgate", unit: "us/row",
		goals: []goal{atMost(100, "us/row")},
	},
	{
		group: office, work: "1 M subjects brought to a gate", bench: "AdminLoad", ours: "headgate", unit: "s",
		goals: []goal{atMost(10, "s")},
	},
	{
		group: office, work: "the same, bytes per subject", bench: "AdminLoad", ours: "headgate", unit: "B/subject",
		goals: []goal{atMost(100, "B/subject")},
	},
	{
		group: people, work: "a decision by 1 of 1 M records, beside none", bench: "Record", ours: "headgate", beside: []string{"floor"},
		goals: []goal{within(1.3, "Record/floor"), noAllocations},
	},
	{
		group: people, work: "counting a decision, 100,000 subjects, all cores", bench: "Count", ours: "headgate",
		goals: []goal{atMost(1500, "ns/op"), noAllocations},
	},
	{
		group: resp, work: "CL.THROTTLE, 100,000 keys, 50 connections", bench: "RESP1", ours: "headgate", rivals: lua, beside: wire,
		goals: []goal{faster(0.9, "RESP1/floor"), faster(1.7, "RESP1/redis-lua")},
	},
	{
		group: resp, work: "the same, CPU of the server", bench: "RESP1", ours: "headgate", rivals: lua, beside: wire, unit: "server-ns/op",
	},
	{
		group: resp, work: "the same, 16 in a pipeline", bench: "RESP16", ours: "headgate", rivals: lua, beside: wire,
		goals: []goal{faster(1.2, "RESP16/redis-incr"), faster(8, "RESP16/redis-lua")},
	},
	{
		group: resp, work: "the same, 64 in a pipeline", bench: "RESP64", ours: "headgate", rivals: lua, beside: wire,
		goals: []goal{faster(2, "RESP64/redis-incr"), faster(15, "RESP64/redis-lua")},
	},
	{
		group: resp, work: "the same, CPU of the server", bench: "RESP64", ours: "headgate", rivals: lua, beside: wire, unit: "server-ns/op",
	},
	{
		group: resp, work: "HG.TAKE, three limits", bench: "RESP1", ours: "headgate-take", beside: []string{"headgate"},
		goals: []goal{faster(0.6, "RESP1/headgate")},
	},
	{
		group: resp, work: "the same, 16 in a pipeline", bench: "RESP16", ours: "headgate-take", beside: []string{"headgate"},
		goals: []goal{faster(0.6, "RESP16/headgate")},
	},
	{
		group: resp, work: "the same, 64 in a pipeline", bench: "RESP64", ours: "headgate-take", beside: []string{"headgate"},
		goals: []goal{faster(0.6, "RESP64/headgate")},
	},
	{
		group: resp, work: "the same, CPU of the server", bench: "RESP64", ours: "headgate-take", beside: []string{"headgate"}, unit: "server-ns/op",
	},
	{
		group: rpc, work: "Envoy's service, one rule, 64 in flight", bench: "RLS", ours: "headgate", rivals: envoy, beside: server,
		goals: []goal{faster(0.9, "RLS/floor"), faster(2.5, "RLS/envoy-redis")},
	},
	{
		group: rpc, work: "the same, CPU of the server", bench: "RLS", ours: "headgate", rivals: envoy, beside: server, unit: "server-ns/op",
		goals: []goal{within(1.15, "RLS/floor")},
	},
	{
		group: rpc, work: "the same, 99th percentile", bench: "RLS", ours: "headgate", rivals: envoy, beside: server, unit: "p99-us",
	},
	{
		group: rpc, work: "Envoy's service, one rule in Redis", bench: "RLS", ours: "headgate-redis", rivals: envoy, beside: server,
		goals: []goal{faster(2.5, "RLS/envoy-redis")},
	},
	{
		group: rpc, work: "the same, CPU of the server", bench: "RLS", ours: "headgate-redis", rivals: envoy, beside: server, unit: "server-ns/op",
	},
	{
		group: rpc, work: "the same, CPU of Redis", bench: "RLS", ours: "headgate-redis", rivals: envoy, unit: "redis-ns/op",
	},
	{
		group: rpc, work: "the same, 99th percentile", bench: "RLS", ours: "headgate-redis", rivals: envoy, beside: server, unit: "p99-us",
	},
	{
		group: rpc, work: "the same, not in time for Envoy, of 1,000", bench: "RLS", ours: "headgate-redis", unit: "away/kop",
		goals: []goal{atMost(1, "away/kop")},
	},
	{
		group: rpc, work: "Take, one limit, 64 in flight", bench: "GRPCTake", ours: "headgate", rivals: guber, beside: server,
		goals: []goal{faster(0.9, "GRPCTake/floor")},
	},
	{
		group: rpc, work: "the same, CPU of the server", bench: "GRPCTake", ours: "headgate", rivals: guber, beside: server, unit: "server-ns/op",
		goals: []goal{within(1.15, "GRPCTake/floor")},
	},
	{
		group: rpc, work: "TakeBatch of 100, for each", bench: "GRPCBatch", ours: "headgate", rivals: guber, beside: server,
		goals: []goal{faster(20, "GRPCBatch/gubernator")},
	},
	{
		group: rpc, work: "the same, CPU of the server", bench: "GRPCBatch", ours: "headgate", rivals: guber, beside: server, unit: "server-ns/op",
	},
	{
		group: web, work: "Express, 64 in flight", bench: "Web", ours: "headgate", rivals: shared, beside: append([]string{"bare", "headgate-http", "headgate-redis"}, inside...),
		goals: []goal{faster(1, "Web/rate-limiter-flexible-redis")},
	},
	{
		group: web, work: "the same, CPU of the application", bench: "Web", ours: "headgate", rivals: shared, beside: append([]string{"bare", "headgate-http", "headgate-redis"}, inside...), unit: "server-ns/op",
		// 1.3 is 20 us where bare takes 69.
		goals: []goal{within(1.3, "Web/bare"), within(1, "Web/rate-limiter-flexible-redis")},
	},
	{
		group: web, work: "Express, added to a request by itself", bench: "WebAdded", ours: "headgate", rivals: shared, beside: append([]string{"headgate-http", "headgate-redis"}, inside...), unit: "added-ns/op",
		goals: []goal{atMost(100_000, "added-ns/op"), faster(1, "WebAdded/rate-limiter-flexible-redis")},
	},
	{
		group: web, work: "the same, CPU of the application", bench: "WebAdded", ours: "headgate", rivals: shared, beside: append([]string{"headgate-http", "headgate-redis"}, inside...), unit: "added-cpu-ns/op",
		goals: []goal{atMost(20_000, "added-cpu-ns/op"), faster(1, "WebAdded/rate-limiter-flexible-redis")},
	},
	{
		group: front, work: "a reverse proxy with limits, 64 in flight", bench: "Proxy", ours: "headgate", rivals: limitReq, beside: unlimited,
	},
	{
		group: front, work: "the same, CPU of the proxy", bench: "Proxy", ours: "headgate", rivals: limitReq, beside: unlimited, unit: "server-ns/op",
	},
	{
		group: front, work: "the same, median", bench: "Proxy", ours: "headgate", rivals: limitReq, beside: unlimited, unit: "p50-us",
	},
	{
		group: front, work: "the same, 99th percentile", bench: "Proxy", ours: "headgate", rivals: limitReq, beside: unlimited, unit: "p99-us",
	},
	{
		group: front, work: "a proxy with limits, in % of one without", bench: "ProxyLimits", ours: "headgate", rivals: limitReq, beside: []string{"headgate-gate"}, unit: "time-%",
		goals: []goal{atMost(110, "time-%")},
	},
	{
		group: front, work: "the same, CPU of the proxy", bench: "ProxyLimits", ours: "headgate", rivals: limitReq, beside: []string{"headgate-gate"}, unit: "cpu-%",
		goals: []goal{atMost(110, "cpu-%")},
	},
	{
		group: front, work: "a proxy with limits, in % of one without a gate", bench: "ProxyLimits", ours: "headgate-gate", unit: "time-%",
		goals: []goal{atMost(110, "time-%")},
	},
	{
		group: front, work: "the same, CPU of the proxy", bench: "ProxyLimits", ours: "headgate-gate", unit: "cpu-%",
		goals: []goal{atMost(110, "cpu-%")},
	},
}

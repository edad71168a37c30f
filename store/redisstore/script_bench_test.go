package redisstore

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/redisstore/redistest"
)

// BenchmarkScript measures what a decision costs the server's thread, in microseconds
// of processor time, the reading of calls and the writing of answers included: alone in a
// script, and in groups. 32 are on their way at once.
func BenchmarkScript(b *testing.B) {
	prepare := func(l headgate.Limit) *headgate.Prepared {
		p, err := l.Prepare()
		if err != nil {
			b.Fatal(err)
		}
		return p
	}
	bucket := func(name string) *headgate.Prepared {
		return prepare(headgate.PerSecond(1000).WithBurst(1_000_000).WithName(name))
	}
	three := []*headgate.Prepared{bucket("one"), bucket("two"), bucket("three")}
	gate := []*headgate.Prepared{
		bucket("burst"), prepare(headgate.QuotaPer(1_000_000, headgate.Day)), prepare(headgate.Sliding(1_000_000, time.Minute)),
	}
	bans := []*headgate.Prepared{
		bucket("burst"), prepare(headgate.Limit{Algorithm: headgate.Ban, Count: 5, Period: time.Minute, TTL: time.Minute}),
		prepare(headgate.Limit{Algorithm: headgate.Idempotency, Count: 64}),
	}
	for _, w := range []struct {
		name   string
		limits []*headgate.Prepared
		owners int
		holds  bool
	}{
		{"one bucket", three[:1], 10_000, false},
		{"one hot bucket", three[:1], 1, false},
		{"three buckets", three, 10_000, false},
		{"bucket, ban, keys", bans, 10_000, false},
		{"bucket, quota, sliding", gate, 10_000, false},
		{"one window", []*headgate.Prepared{prepare(headgate.Window(1_000_000, time.Minute))}, 10_000, false},
		{"one quota", gate[1:2], 10_000, false},
		{"one reservation", three[:1], 10_000, true},
	} {
		for _, size := range []int{1, 8, 32} {
			b.Run(fmt.Sprintf("%s/groups of %d", w.name, size), func(b *testing.B) {
				s := newScriptStore(b, false)
				server := redistest.Shared(b)
				server.FlushAll(b)
				calls := make([]*payload, size)
				groups := make([]group, 32/size)
				var commands rueidis.Commands
				batch := new(headgate.Batch)
				owner := 0
				round := func() {
					for i := range calls {
						batch.Reset(headgate.Take)
						owner++
						name := strconv.Itoa(owner * 7919 % w.owners)
						if w.holds {
							batch.Hold, batch.HoldFor = uint64(owner), 1000
						}
						for _, l := range w.limits {
							if _, err := batch.Add(headgate.Charge{Limit: l, Owner: name, Cost: 1}); err != nil {
								b.Fatal(err)
							}
						}
						calls[i] = new(payload)
						calls[i].batch(s.scheme, scriptOp(headgate.Take), batch, 0)
					}
					commands = append(commands, s.command(&groups[len(commands)], 0, calls...))
				}
				run := func() {
					commands = commands[:0]
					for range 32 / size { // on their way at once, so that the server need not wait
						round()
					}
					for i, result := range s.client.DoMulti(b.Context(), commands...) {
						texts, err := result.AsStrSlice()
						if err != nil {
							b.Fatal(err)
						}
						answers, err := groups[i].replies(texts)
						if err != nil {
							b.Fatal(err)
						}
						if _, err := decodeBatch(answers[size-1], s.epoch, batch); err != nil || !batch.Allowed {
							b.Fatal(err, batch.Allowed)
						}
					}
				}
				for range 2 * w.owners / 32 {
					run()
				}
				before := spent(b, server)
				n := 0
				for b.Loop() {
					run()
					n += 32
				}
				b.ReportMetric(float64(spent(b, server)-before)/float64(n), "server-µs/decision")
				b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(n), "µs/decision")
			})
		}
	}
}

// spent returns the microseconds of processor time that the server's main thread has
// used: other processes on the machine do not count.
func spent(b *testing.B, server *redistest.Server) int64 {
	micros := 0.0
	for _, field := range []string{"used_cpu_user_main_thread", "used_cpu_sys_main_thread"} {
		n, err := strconv.ParseFloat(server.Info(b, field), 64)
		if err != nil {
			b.Fatal(err)
		}
		micros += n * 1e6
	}
	return int64(micros)
}

// BenchmarkCodec measures what a call costs its caller, without the way to the server.
func BenchmarkCodec(b *testing.B) {
	s := newScriptStore(b, true)
	for _, l := range []headgate.Limit{
		headgate.PerSecond(1000), headgate.Window(1000, time.Minute), headgate.QuotaPer(1000, headgate.Day), headgate.InFlight(1000, time.Minute),
	} {
		p, err := l.Prepare()
		if err != nil {
			b.Fatal(err)
		}
		b.Run(l.Algorithm.String(), func(b *testing.B) {
			b.ReportAllocs()
			batch := batchOf(b, headgate.Take, headgate.Charge{Limit: p, Owner: "alice", Cost: 1})
			call := new(payload)
			call.batch(s.scheme, scriptOp(headgate.Take), batch, 0)
			answers, err := s.group(b.Context(), time.Now().UnixMicro(), call)
			if err == nil {
				call.batch(s.scheme, scriptOp(headgate.Take), batch, 0)
				answers, err = s.group(b.Context(), time.Now().UnixMicro(), call)
			}
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				call.batch(s.scheme, scriptOp(headgate.Take), batch, 0)
				if _, err := decodeBatch(answers[0], s.epoch, batch); err != nil || !batch.Allowed {
					b.Fatal(err, batch.Allowed)
				}
			}
		})
	}
}

package redisstore

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/redisstore/redistest"
)

// ten is a bucket of ten tokens of which none comes back while a test runs.
func ten(t testing.TB) *headgate.Prepared {
	return prepare(t, headgate.Per(10, 1000*time.Hour).WithName("ten"))
}

// allowed takes cost tokens of alice's ten.
func allowed(t testing.TB, s headgate.Store, l *headgate.Prepared, cost int64) bool {
	t.Helper()
	b, err := take(t, s, headgate.Charge{Limit: l, Owner: "alice", Cost: cost})
	if err != nil {
		t.Fatal(err)
	}
	return b.Allowed
}

// markerOf returns a server's marker.
func markerOf(t testing.TB, server *redistest.Server, prefix string) *incarnation {
	t.Helper()
	text, _ := server.Do(t, "GET", prefix+"epoch").(string)
	inc, err := parseMarker(text)
	if err != nil {
		t.Fatal(err)
	}
	return inc
}

func TestNewServerIsFull(t *testing.T) {
	server, prefix := redistest.Shared(t), redistest.Prefix()
	s := openStore(t, Config{URL: server.URL("prefix=" + prefix)})
	l := ten(t)
	if !allowed(t, s, l, 10) || allowed(t, s, l, 1) {
		t.Error("a bucket that was never seen is not full")
	}
	inc := markerOf(t, server, prefix)
	if inc.seq != 1 || inc.epoch.Since != 0 || inc.epoch.ID == 0 || inc.run != server.Info(t, "run_id") {
		t.Errorf("marker %+v", inc)
	}
	// A client that comes later finds the epoch, and what was taken.
	late := openStore(t, Config{URL: server.URL("prefix=" + prefix)})
	if allowed(t, late, l, 1) {
		t.Error("a second client has its own bucket")
	}
	if got := markerOf(t, server, prefix); got.marker != inc.marker {
		t.Errorf("marker %+v, was %+v", got, inc)
	}
}

// R7: buckets of another incarnation start empty, and refill once its leases must
// have ended. R8: a client learns of it before anything is decided, though it is
// reconnected silently.
func TestR8RestartedServerIsAnotherIncarnation(t *testing.T) {
	server := redistest.Standalone(t, redistest.Options{AppendOnly: true})
	stores := []*Store{openStore(t, Config{URL: server.URL()}), openStore(t, Config{URL: server.URL()})}
	l := ten(t)
	quick := prepare(t, headgate.PerSecond(1_000_000).WithName("quick"))
	for _, s := range stores {
		if !allowed(t, s, l, 4) || !allowed(t, s, quick, 1) {
			t.Fatal("refused")
		}
	}
	before := markerOf(t, server, "hg:")
	server.Restart(t)
	start := time.Now().UnixMicro()
	for i, s := range stores {
		// Two tokens are left in what the server has kept; of a budget that was never
		// seen there are ten.
		for _, owner := range []string{"alice", "bob"} {
			b, err := take(t, s, headgate.Charge{Limit: l, Owner: owner, Cost: 1})
			if err != nil {
				t.Fatal(err)
			}
			if b.Allowed {
				t.Errorf("store %d: %s may take of an incarnation that may lack charges", i, owner)
			}
		}
		b, err := take(t, s, headgate.Charge{Limit: quick, Owner: "alice", Cost: 1000})
		if err != nil {
			t.Fatal(err)
		}
		o := b.Outcomes()[0]
		if full := start + leaseLife.Microseconds() + 1000; b.Allowed || b.At+o.RetryAfter.Microseconds() < full {
			t.Errorf("store %d: allowed %v, at %d passes after %v; want not before %d", i, b.Allowed, b.At, o.RetryAfter, full)
		}
	}
	after := markerOf(t, server, "hg:")
	if after.seq != 2 || after.run == before.run || after.epoch.ID == before.epoch.ID || after.epoch.Since < start+leaseLife.Microseconds() {
		t.Errorf("marker %+v, was %+v", after, before)
	}
}

// R9: a server that was emptied keeps its run id and its scripts.
func TestR9EmptiedServerIsAnotherIncarnation(t *testing.T) {
	for name, empty := range map[string]func(t *testing.T, server *redistest.Server, prefix string){
		"all":        func(t *testing.T, server *redistest.Server, _ string) { server.FlushAll(t) },
		"the marker": func(t *testing.T, server *redistest.Server, prefix string) { server.Do(t, "DEL", prefix+"epoch") },
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Standalone(t)
			s := openStore(t, Config{URL: server.URL()})
			l := ten(t)
			if !allowed(t, s, l, 9) {
				t.Fatal("refused")
			}
			empty(t, server, "hg:")
			if allowed(t, s, l, 1) {
				t.Error("an emptied server gives a fresh bucket")
			}
			if inc := markerOf(t, server, "hg:"); inc.seq != 2 || inc.epoch.Since == 0 {
				t.Errorf("marker %+v", inc)
			}
			// Who comes now learns it from the marker.
			if allowed(t, openStore(t, Config{URL: server.URL()}), l, 1) {
				t.Error("a second client gets a fresh bucket")
			}
		})
	}
}

// Who remembers an emptied server finds it out though a stranger has begun anew there.
func TestEmptiedServerThatAStrangerMetFirst(t *testing.T) {
	server := redistest.Standalone(t)
	l := ten(t)
	s := openStore(t, Config{URL: server.URL()})
	if !allowed(t, s, l, 10) {
		t.Fatal("refused")
	}
	server.FlushAll(t)
	stranger := openStore(t, Config{URL: server.URL()})
	if !allowed(t, stranger, l, 1) {
		t.Fatal("refused")
	}
	if allowed(t, s, l, 1) || allowed(t, stranger, l, 1) {
		t.Error("an emptied server goes on giving a fresh bucket")
	}
	if inc := markerOf(t, server, "hg:"); inc.seq != 2 {
		t.Errorf("marker %+v", inc)
	}
}

// A server that nobody remembers is new, whatever it was.
func TestEmptiedServerThatNobodyRemembersIsNew(t *testing.T) {
	server := redistest.Standalone(t)
	l := ten(t)
	if s := openStore(t, Config{URL: server.URL()}); !allowed(t, s, l, 10) {
		t.Fatal("refused")
	}
	server.FlushAll(t)
	if s := openStore(t, Config{URL: server.URL()}); !allowed(t, s, l, 10) {
		t.Error("a new server is not full")
	}
}

// Scripts may be forgotten at any time; that is no other incarnation.
func TestForgottenScriptIsLoadedAgain(t *testing.T) {
	server, prefix := redistest.Standalone(t), "hg:"
	s := openStore(t, Config{URL: server.URL()})
	l := ten(t)
	if !allowed(t, s, l, 4) {
		t.Fatal("refused")
	}
	before, shakes := markerOf(t, server, prefix), s.Stats().Handshakes
	server.Do(t, "SCRIPT", "FLUSH")
	if !allowed(t, s, l, 6) || allowed(t, s, l, 1) {
		t.Error("the bucket has not six tokens left")
	}
	if after := markerOf(t, server, prefix); after.marker != before.marker {
		t.Errorf("marker %+v, was %+v", after, before)
	}
	if n := s.Stats().Handshakes - shakes; n != 1 {
		t.Errorf("%d handshakes", n)
	}
}

// A marker that is older than what a client remembers is that of a server which
// has lost writes; one that is newer is taken over.
func TestMarkersThatGoBack(t *testing.T) {
	server := redistest.Standalone(t)
	run := server.Info(t, "run_id")
	marker := func(seq int, run string, since int64) string { return fmt.Sprintf("%s %d %d %d", run, seq, since, seq) }
	for _, test := range []struct {
		name, known, found string
		want               int64 // the sequence number; it is a new incarnation if that is not the found one's
		kept               bool
	}{
		{"nothing known", "", marker(7, run, 5), 7, true},
		{"the same", marker(7, run, 5), marker(7, run, 5), 7, true},
		{"others were faster", marker(6, "aa", 5), marker(7, run, 5), 7, true},
		{"another server's", "", marker(7, "ab", 5), 8, false},
		{"another server's, as known", marker(7, "ab", 5), marker(7, "ab", 5), 8, false},
		{"older than what is known", marker(9, run, 5), marker(7, run, 5), 10, false},
		{"of another lineage", marker(7, "ab", 5), marker(7, run, 6), 8, false},
		{"gone", marker(7, run, 5), "", 8, false},
		{"unreadable", marker(7, run, 5), "nonsense", 8, false},
		{"unreadable and nothing known", "", "nonsense", 1, false},
	} {
		for _, lenient := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s lenient %v", test.name, lenient), func(t *testing.T) {
				prefix := redistest.Prefix()
				server.Do(t, "SET", prefix+"epoch", "nonsense") // or Open is the first
				s := openStore(t, Config{URL: server.URL("prefix=" + prefix), Lenient: lenient})
				server.Do(t, "DEL", prefix+"epoch")
				if test.found != "" {
					server.Do(t, "SET", prefix+"epoch", test.found)
				}
				var known *incarnation
				if test.known != "" {
					var err error
					if known, err = parseMarker(test.known); err != nil {
						t.Fatal(err)
					}
				}
				inc, err := s.handshake(0, known)
				if err != nil {
					t.Fatal(err)
				}
				if got := markerOf(t, server, prefix); got.marker != inc.marker {
					t.Errorf("the server shows %q, the handshake says %q", got.marker, inc.marker)
				}
				if inc.run != run || inc.epoch.ID > headgate.MaxInt {
					t.Errorf("%+v", inc)
				}
				nothing := test.known == "" && !strings.Contains(test.found, " ")
				switch {
				case nothing:
					if inc.seq != 1 || inc.epoch.Since != 0 {
						t.Errorf("%+v, want a new one", inc)
					}
				case lenient:
					// The newest that anybody knows goes on.
					if want := test.want; inc.seq != want && inc.seq != want-1 || inc.epoch.Since > 6 || inc.epoch.ID != uint64(inc.seq) {
						t.Errorf("%+v", inc)
					}
				case test.kept:
					if inc.marker != test.found {
						t.Errorf("%q, want %q", inc.marker, test.found)
					}
				default:
					wait := time.Duration(inc.epoch.Since-time.Now().UnixMicro()) * time.Microsecond
					if inc.seq != test.want || wait <= 0 || wait > leaseLife || inc.epoch.ID>>32 != uint64(test.want) {
						t.Errorf("%+v begins in %v", inc, wait)
					}
				}
			})
		}
	}
}

// Equal sequence numbers of servers that went on without each other are different
// epochs.
func TestEpochsOfTwoLineagesDiffer(t *testing.T) {
	var ids []uint64
	for range 2 {
		server := redistest.Standalone(t)
		openStore(t, Config{URL: server.URL()})
		ids = append(ids, markerOf(t, server, "hg:").epoch.ID)
	}
	if ids[0] == ids[1] {
		t.Errorf("both have %d", ids[0])
	}
}

func TestLenientGoesOnWithWhatTheServerHasKept(t *testing.T) {
	server := redistest.Standalone(t, redistest.Options{AppendOnly: true})
	for name, c := range map[string]Config{"config": {URL: server.URL(), Lenient: true}, "URL": {URL: server.URL("strict=false")}} {
		t.Run(name, func(t *testing.T) {
			server.FlushAll(t)
			var log strings.Builder
			c.Logger = logTo(&log)
			s := openStore(t, c)
			l := ten(t)
			if !allowed(t, s, l, 4) {
				t.Fatal("refused")
			}
			server.Restart(t)
			if !allowed(t, s, l, 6) || allowed(t, s, l, 1) {
				t.Error("the bucket has not six tokens left")
			}
			if !strings.Contains(log.String(), "may lack charges") {
				t.Errorf("the log says nothing: %s", log.String())
			}
		})
	}
}

func TestParseMarker(t *testing.T) {
	for _, bad := range []string{"", "a 1 2", "a 1 2 3 4", "a x 2 3", "a -1 2 3", "a 1 2 9007199254740992"} {
		if inc, err := parseMarker(bad); err == nil {
			t.Errorf("%q is %+v", bad, inc)
		}
	}
	inc, err := parseMarker("abc 3 17 12884901888")
	if err != nil || inc.run != "abc" || inc.seq != 3 || inc.epoch != (headgate.Epoch{ID: 3 << 32, Since: 17}) {
		t.Errorf("%+v, %v", inc, err)
	}
}

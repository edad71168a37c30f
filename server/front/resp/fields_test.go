package resp

import (
	"reflect"
	"testing"

	"github.com/headgate/headgate/server/front/fronttest"
)

// TestFields: header fields end the reply for who asks for them, byte for byte as package
// httpgate sends them; the reply before them is as it is without.
func TestFields(t *testing.T) {
	g := fronttest.OpenFields(t)
	_, address := start(t, Config{Gate: g})
	for _, version := range []string{"2", "3"} {
		p := dial(t, "tcp", address)
		p.do("HELLO", version)
		subject := "s" + version
		for _, tt := range []struct {
			args   []string
			policy string
		}{
			{[]string{"HG.TAKE", "a", "many", subject, "FIELDS"}, `"many/burst";q=2;w=3600, "plan/daily";q=5;w=86400, "plan/hourly";q=9;w=3600, "many/slots";q=50;qu="concurrent-requests"`},
			{[]string{"HG.PEEK", "a", "many", subject, "fields", "COST", "1"}, `"many/burst";q=2;w=3600, "plan/daily";q=5;w=86400, "plan/hourly";q=9;w=3600, "many/slots";q=50;qu="concurrent-requests"`},
			{[]string{"HG.RESERVE", "a", "other", subject, "FIELDS", "BRIEF", "TTL", "1000"}, `"plan/daily";q=5;w=86400, "plan/hourly";q=9;w=3600`},
			{[]string{"HG.TAKE", "a", "other", subject, "COST", "6", "FIELDS"}, `"plan/daily";q=5;w=86400, "plan/hourly";q=9;w=3600`},
			{[]string{"HG.TAKE", "b", "theirs", subject, "FIELDS"}, ""},
			{[]string{"HG.TAKE", "a", "many", subject}, ""},
		} {
			m, err := fields(p.do(tt.args...))
			if err != nil {
				t.Fatalf("%q: %v", tt.args, err)
			}
			if tt.policy == "" {
				_, a := m["ratelimit_policy"]
				_, b := m["ratelimit"]
				if a || b {
					t.Errorf("%q: %v, want no fields", tt.args, m)
				}
				continue
			}
			wantPolicy, wantLimit := g.Header.Get("Ratelimit-Policy"), g.Header.Get("Ratelimit")
			if m["ratelimit_policy"] != tt.policy || wantPolicy != tt.policy || m["ratelimit"] != wantLimit {
				t.Errorf("%q:\n%v\n%v\nwant\n%s\n%s", tt.args, m["ratelimit_policy"], m["ratelimit"], wantPolicy, wantLimit)
			}
		}
		for args, want := range map[[5]string]refusal{
			{"HG.TAKE", "b", "theirs", "s", "FIELDS"}: "ERR FIELDS is given twice",
			{"HG.SETTLE", "a", "COST", "1", "FIELDS"}: `ERR "FIELDS": unknown option`,
		} {
			equal(t, p.do(append(args[:], "FIELDS")...), want)
		}
	}

	// At the end, behind what few replies have.
	fake := new(fakeGate)
	_, address = start(t, Config{Gate: fake})
	p := dial(t, "tcp", address)
	with, without := p.do("HG.TAKE", "a", "o", "s", "FIELDS"), p.do("HG.TAKE", "a", "o", "s")
	if !reflect.DeepEqual(with, without) {
		t.Errorf("%v, want %v where no limit takes part", with, without)
	}
	_, address = start(t, Config{Gate: g})
	p = dial(t, "tcp", address)
	list, ok := p.do("HG.TAKE", "a", "many", "last", "FIELDS").([]any)
	if n := len(list); !ok || n < 4 || list[n-4] != "ratelimit_policy" || list[n-2] != "ratelimit" {
		t.Errorf("%v, want the fields at its end", list)
	}
}

package dynamostore

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/internal/servertest"
	"github.com/headgate/headgate/store/dynamostore/dynamotest"
)

// Open refuses where the clocks are certainly too far apart, and only there.
func TestSkewAtOpen(t *testing.T) {
	p := newProxy(t)
	name := dynamotest.Table()
	for _, c := range []struct {
		shift time.Duration
		word  string // "" opens
	}{
		{0, ""}, {150 * time.Millisecond, ""}, {-150 * time.Millisecond, ""},
		{time.Hour, "behind the service's"}, {-time.Hour, "ahead of the service's"},
		{500 * time.Millisecond, "behind the service's"}, {-500 * time.Millisecond, "ahead of the service's"},
	} {
		p.shiftBy(c.shift)
		start := time.Now()
		s, err := Open(t.Context(), Config{URL: p.url(t, name)})
		t.Logf("%v: %v after %v", c.shift, err, time.Since(start))
		switch {
		case err == nil:
			if c.word != "" {
				t.Errorf("%v: opens", c.shift)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		case c.word == "" || !strings.Contains(err.Error(), c.word) || !strings.Contains(err.Error(), "set the node's clock"):
			t.Errorf("%v: %v", c.shift, err)
		}
	}
}

// A clock that is found wrong later decides nothing until it is right again.
func TestSkewLater(t *testing.T) {
	p := newProxy(t)
	var k kinds
	s, err := open(t.Context(), Config{URL: p.url(t, dynamotest.Table()), Observe: k.observe}, newSkew())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l := prepared(t, year("l", 1_000_000))
	try := func() error {
		_, err := take(t, s, headgate.Charge{Limit: l, Owner: "a", Cost: 1})
		return err
	}
	if err := try(); err != nil {
		t.Fatal(err)
	}
	p.shiftBy(400 * time.Millisecond)
	err = servertest.Await("refuse", func() error {
		if err := try(); err == nil || k.kind() != "clock" {
			return fmt.Errorf("%w, of kind %q", err, k.kind())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	was := p.count()
	if err := try(); err == nil || p.count() == was {
		t.Errorf("%v, %d requests", err, p.count()-was)
	}
	p.shiftBy(0)
	if err := servertest.Await("decide again", try); err != nil {
		t.Error(err)
	}
}

// From answers around the ends of seconds the service's clock is known to within a
// trip, and steps of the node's clock are seen at once.
func TestSkew(t *testing.T) {
	const trip, second = 4_000, 1_000_000
	for _, off := range []int64{0, 100_000, -100_000, 400_000, -400_000, 7_200_123_456} { // the service's less ours
		k := newSkew()
		epoch := int64(1_800_000_000 * second)
		wall := func(mono int64) int64 { return epoch + mono }
		for mono := int64(0); mono < 3*second; mono += 50_000 {
			service := wall(mono+trip/2) + off
			k.heard(mono, mono+trip, time.Unix(service/second, 0))
			b := k.ahead(wall(mono), mono)
			if b.least > -off || b.most < -off {
				t.Fatalf("%d: %d to %d after %d", -off, b.least, b.most, mono)
			}
		}
		now := int64(3 * second)
		b := k.ahead(wall(now), now)
		if wide := b.most - b.least; wide > 2*sloppy+trip+50_000 {
			t.Errorf("%d: %d to %d", -off, b.least, b.most)
		}
		apart := off > 250_000 || off < -250_000
		if f := b.check(); (f != nil) != apart {
			t.Errorf("%d: %v", -off, f)
		}
		if got, most := b.believed(wall(now)), wall(now)+off+250_000+2*sloppy+trip+50_000; got > wall(now) || got > most || !apart && got != wall(now) {
			t.Errorf("%d: %d is believed to be %d", -off, wall(now), got)
		}
		b = k.ahead(wall(now)+3600*second, now) // the node's clock is set
		if f := b.check(); (f == nil) != (off == 3600*second) {
			t.Errorf("%d, set: %v", -off, f)
		}
		// The service's clock is set, or we slept: what was heard before says nothing.
		k.heard(now, now+trip, time.Unix((wall(now)+off)/second+86_400, 0))
		if b = k.ahead(wall(now), now); b.most > -off-86_398*second || b.least < -off-86_402*second {
			t.Errorf("%d, set: %d to %d", -off, b.least, b.most)
		}
		// What is long ago is forgotten.
		k.heard(now+200*second, now+200*second+trip, time.Unix((wall(now+200*second)+off)/second+86_400, 0))
		if b = k.ahead(wall(now), now); b.most-b.least < second {
			t.Errorf("%d: still %d to %d", -off, b.least, b.most)
		}
	}
	if f := newSkew().ahead(1, 1).check(); f != nil {
		t.Error(f)
	}
}

// A table that is deleted and made again is new for who knows no other, and another
// incarnation for who does.
func TestTableMadeAgain(t *testing.T) {
	for _, strict := range []bool{true, false} {
		name := dynamotest.Table()
		at := dynamotest.Shared(t).URL(name, fmt.Sprint("strict=", strict))
		s := openStore(t, Config{URL: at})
		l := prepared(t, headgate.PerHour(10).WithName("l"))
		charge := headgate.Charge{Limit: l, Owner: "a", Cost: 4}
		if b, err := take(t, s, charge); err != nil || !b.Allowed {
			t.Fatal(err, b.Allowed)
		}
		remake := func() {
			if _, err := s.table.db.DeleteTable(t.Context(), &dynamodb.DeleteTableInput{TableName: &name}); err != nil {
				t.Fatal(err)
			}
			if made, err := s.table.ensure(t.Context()); err != nil || !made {
				t.Fatal(made, err)
			}
		}
		remake()
		s.table.mu.Lock()
		s.table.seen = s.table.seen.Add(-2 * epochLife) // it takes longer than that
		s.table.mu.Unlock()
		b, err := take(t, s, charge)
		if err != nil || b.Allowed == strict || strict && !b.Outcomes()[0].Recovering {
			t.Errorf("strict %v: %v, %+v", strict, err, b.Outcomes()[0])
		}
		remake()
		other := openStore(t, Config{URL: at}) // which makes it a new one
		if b, err := take(t, other, charge); err != nil || !b.Allowed {
			t.Errorf("strict %v: a new node: %v, %+v", strict, err, b.Outcomes()[0])
		}
		s.table.forget()
		if b, err := take(t, s, charge); err != nil || b.Allowed == strict {
			t.Errorf("strict %v: %v, %+v", strict, err, b.Outcomes()[0])
		}
	}
}

func TestSuccessor(t *testing.T) {
	now := time.Now()
	a, b := incarnation{id: 1, table: "A"}, incarnation{id: 2, since: 7, table: "B"}
	none := incarnation{}
	for _, c := range []struct {
		name         string
		found, known incarnation
		table        string
		lenient      bool
		same, empty  bool // is what was found; limits start empty
	}{
		{"new", none, none, "A", false, false, false},
		{"as it was", a, a, "A", false, true, false},
		{"as it was, not met before", a, none, "A", false, true, false},
		{"another one that somebody has made", b, a, "B", false, true, true},
		{"emptied", none, a, "A", false, false, true},
		{"emptied, lenient", none, a, "A", true, false, false},
		{"restored under another id", a, a, "B", false, false, true},
		{"restored, not met before", a, none, "B", false, false, true},
		{"made by somebody who knew none", incarnation{id: 3, table: "B"}, a, "B", false, false, true},
		{"the same, lenient", incarnation{id: 3, table: "B"}, a, "B", true, true, false},
	} {
		got := successor(c.found, c.known, c.table, c.lenient, now)
		if (got == c.found) != c.same || (got.since > 0) != c.empty || got.table != c.table || got.id == 0 || got.id >= 1<<53 {
			t.Errorf("%s: %+v", c.name, got)
		}
		if c.empty && !c.same && got.since != now.Add(leaseLife).UnixMicro() {
			t.Errorf("%s: since %d", c.name, got.since)
		}
	}
	if got := successor(a, a, "B", true, now); got.id != 1 || got.since != 0 || got.table != "B" {
		t.Errorf("restored, lenient: %+v", got)
	}
}

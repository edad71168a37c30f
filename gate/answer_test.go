package gate_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/gatetest"
	"github.com/headgate/headgate/internal/ratefield"
)

// fill gives every field below v a value that is not zero and unlike the others.
func fill(t *testing.T, v reflect.Value, n *int64) {
	t.Helper()
	*n++
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64, reflect.Uint8, reflect.Uint64:
		if v.CanInt() {
			v.SetInt(*n)
		} else {
			v.SetUint(uint64(*n))
		}
	case reflect.String:
		v.SetString("s" + strings.Repeat("x", int(*n)))
	case reflect.Array:
		for i := range v.Len() {
			fill(t, v.Index(i), n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(t, v.Index(i), n)
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(gatetest.Start))
			return
		}
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(t, v.Field(i), n)
			}
		}
	case reflect.Pointer:
		switch v.Type().Elem() {
		case reflect.TypeFor[time.Location]():
			v.Set(reflect.ValueOf(time.FixedZone("Here", 3600)))
		case reflect.TypeFor[headgate.Prepared](): // not of an answer
		default:
			v.Set(reflect.New(v.Type().Elem()))
			fill(t, v.Elem(), n)
		}
	default:
		t.Fatalf("an answer with a %v", v.Type())
	}
}

// full is an answer in which every field says something.
func full(t *testing.T) *gate.Answer {
	t.Helper()
	a, n := new(gate.Answer), int64(0)
	fill(t, reflect.ValueOf(a).Elem(), &n)
	a.BoundBy, a.Candidate.Sum.BoundBy = 1, 1
	for _, limits := range [][]gate.AnsweredLimit{a.Limits, a.Candidate.Limits} {
		for i := range limits {
			limits[i].Numbers, limits[i].Part = headgate.PerHour(100+int64(i)).WithName("n"), new(headgate.PerHour(50).WithName("n"))
		}
	}
	return a
}

// TestReceive: what a decision says in its fields and by its methods is what the
// answer said, whatever the decision was used for before and whatever it is used
// for after.
func TestReceive(t *testing.T) {
	a := full(t)
	var d gate.Decision
	for range 2 {
		d.Receive(a)
		checkReceived(t, &d, a)
		empty := new(gate.Answer)
		empty.BoundBy = -1
		d.Receive(empty)
		checkReceived(t, &d, empty)
	}
}

// untold are fields of a decision that only the process that made it knows: what is
// said beside an error, and what metrics and Envoy are told.
var untold = []string{"Kept", "Label", "Metadata", "Replaced"}

func checkReceived(t *testing.T, d *gate.Decision, a *gate.Answer) {
	t.Helper()
	said, got := reflect.ValueOf(a).Elem(), reflect.ValueOf(d).Elem()
	for i := range got.NumField() {
		f := got.Type().Field(i)
		if !f.IsExported() || slices.Contains(untold, f.Name) {
			continue
		}
		want := said.FieldByName(f.Name)
		if !want.IsValid() {
			t.Fatalf("an answer does not tell %s", f.Name)
		}
		if !reflect.DeepEqual(got.Field(i).Interface(), want.Interface()) {
			t.Errorf("%s: got %v, want %v", f.Name, got.Field(i), want)
		}
	}
	checkLimits(t, d.Limits(), a.Limits)
	if len(a.Limits) > 0 && (!d.At().Equal(a.At) || d.BoundByID() != a.Limits[1].State.ID) {
		t.Errorf("at %v, bound by %s", d.At(), d.BoundByID())
	}
	if len(a.Costs) != len(d.Costs()) || len(a.Costs) > 0 && !reflect.DeepEqual(d.Costs(), a.Costs) {
		t.Errorf("costs %v", d.Costs())
	}
	if d.HasTicket() != (a.Ticket != "") || string(d.AppendTicket([]byte("b"))) != "b"+a.Ticket {
		t.Errorf("ticket %t %s", d.HasTicket(), d.AppendTicket(nil))
	}
	sum, limits, ok := d.Candidate()
	if ok != (a.Candidate != nil) {
		t.Fatalf("candidate %t", ok)
	}
	if ok {
		checkLimits(t, limits, a.Candidate.Limits)
		if sum != a.Candidate.Sum {
			t.Errorf("candidate %+v", sum)
		}
	}
}

func checkLimits(t *testing.T, got []gate.LimitState, want []gate.AnsweredLimit) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d limits, want %d", len(got), len(want))
	}
	for i := range got {
		s, w := got[i], want[i].State
		if s.Limit.Count != want[i].Numbers.Count || s.Limit.N == 0 || s.Share.Count != want[i].Part.Count {
			t.Errorf("limit %d: %+v, share %+v", i, s.Limit, s.Share)
		}
		s.Limit, s.Share, w.Limit, w.Share = nil, nil, nil, nil
		if !reflect.DeepEqual(s, w) {
			t.Errorf("limit %d: got %+v, want %+v", i, s, w)
		}
	}
}

// TestReceivedIsUsedAgain: a decision of a gate is nothing but that, also where an
// answer was in it before.
func TestReceivedIsUsedAgain(t *testing.T) {
	g := open(t, `{version: 1, applications: {a: {rules: [{name: o, match: {operation: o}, limits: [{name: burst, rate: 2/h}]}]}}}`)
	var d gate.Decision
	d.Receive(full(t))
	if err := g.Take(t.Context(), &gate.Request{Application: "a", Operation: "o", Subject: "alice", Now: origin}, &d); err != nil {
		t.Fatal(err)
	}
	if _, _, ok := d.Candidate(); ok || d.HasTicket() || len(d.Costs()) != 0 || len(d.Limits()) != 1 || d.OwnerOf(0) != "alice" {
		t.Errorf("%+v", gatetest.Of(&d))
	}
}

func TestReceivedOwners(t *testing.T) {
	a := &gate.Answer{Subject: "alice", Limits: make([]gate.AnsweredLimit, 2)}
	a.Limits[0].State.Owner, a.Limits[1].State.Owner = "subject", "expression"
	var d gate.Decision
	d.Receive(a)
	if d.OwnerOf(0) != "alice" || d.OwnerOf(1) != "" {
		t.Errorf("owners %q, %q", d.OwnerOf(0), d.OwnerOf(1))
	}
}

// TestReceivedNonsense: what a newer server or a broken one says leads to no panic,
// and limits beyond what a decision holds are left out.
func TestReceivedNonsense(t *testing.T) {
	a := &gate.Answer{Limits: make([]gate.AnsweredLimit, headgate.MaxCharges+1)}
	a.BoundBy = headgate.MaxCharges
	for i := range a.Limits {
		a.Limits[i].Numbers = headgate.Limit{Name: "n", Algorithm: headgate.Algorithm(i), Count: -1}
	}
	var d gate.Decision
	d.Receive(a)
	if len(d.Limits()) != headgate.MaxCharges || d.BoundBy != -1 || d.BoundByID() != "" {
		t.Errorf("%d limits, bound by %d", len(d.Limits()), d.BoundBy)
	}
	for _, s := range d.Limits() {
		if it := ratefield.From(s.ID, s.Limit, &s.Outcome); it.Window != 0 || s.Limit.Name != "n" || s.Rollover() != 0 {
			t.Errorf("%+v of %+v", it, s.Limit)
		}
	}
}

// TestReceivedAreKept: equal numbers are made ready once, and many different ones
// are not kept.
func TestReceivedAreKept(t *testing.T) {
	limit := func(count int64) *headgate.Prepared {
		a := &gate.Answer{Limits: []gate.AnsweredLimit{{Numbers: headgate.PerHour(count).WithName("n")}}}
		var d gate.Decision
		d.Receive(a)
		return d.Limits()[0].Limit
	}
	if one := limit(1); one != limit(1) || one == limit(2) {
		t.Error("equal numbers, and only those, are one limit")
	}
	for i := range int64(10_000) {
		limit(i + 1)
	}
	if n := gate.ReceivedForTest(); n == 0 || n > 4096 {
		t.Errorf("%d limits are kept", n)
	}
}

package policy

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
)

// FuzzParse holds that Parse ends on any bytes, that faults are sorted, on one
// line and inside the file, and that a policy that parses is what its type says.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		input, _, _ := strings.Cut(string(raw), divider)
		f.Add([]byte(input))
	}
	f.Add(Builtin())
	f.Add(Starter())
	f.Fuzz(func(t *testing.T, data []byte) {
		p, warnings, err := Parse("p", data, fakeCheck)
		if err != nil {
			faults, ok := errors.AsType[Faults](err)
			if !ok || len(faults) == 0 || p != nil {
				t.Fatalf("policy %v, error %v", p, err)
			}
			checkFaults(t, data, faults)
			return
		}
		for _, w := range warnings {
			checkFaults(t, data, Faults{Fault(w)})
		}
		checkPolicy(t, p)
	})
}

func checkFaults(t *testing.T, data []byte, faults Faults) {
	t.Helper()
	if !slices.IsSortedFunc(faults[:len(faults)-1], compareFaults) {
		t.Errorf("not sorted: %v", faults)
	}
	lines := 1 + strings.Count(string(data), "\n") + strings.Count(string(data), "\r")
	for _, f := range faults {
		if f.Line < 1 || f.Line > lines || f.Column < 1 || f.Message == "" || strings.ContainsAny(f.Error(), "\n\r") {
			t.Errorf("%q", f.Error())
		}
	}
}

func checkPolicy(t *testing.T, p *Policy) {
	t.Helper()
	plans := []string{""}
	limits := func(ls []Limit) {
		var names []string
		for _, l := range ls {
			if headgate.CheckName(l.Name) != nil || slices.Contains(names, l.Name) || l.Scope != "" {
				t.Errorf("limit %+v", l)
			}
			names = append(names, l.Name)
			if headgate.CheckName(l.Unit) != nil || l.ReleasedByTTL && l.Algorithm != headgate.Concurrency {
				t.Errorf("limit %+v", l)
			}
			checkMode(t, l.Mode)
			if (l.Owner == OwnerExpr) != (l.OwnerExpr != "") {
				t.Errorf("owner of %+v", l)
			}
			if _, err := l.Prepare(); !l.Unlimited && err != nil {
				t.Errorf("%+v: %v", l, err)
			}
			for _, v := range l.Variants {
				if _, err := v.Limit.Prepare(); !v.Unlimited && (err != nil || v.Limit.Name != l.Name || v.Limit.Algorithm != l.Algorithm) {
					t.Errorf("%+v: %v", v, err)
				}
				if !slices.Contains(plans, v.Plan) {
					t.Errorf("variant for plan %q", v.Plan)
				}
			}
		}
	}
	for _, plan := range p.Plans {
		plans = append(plans, plan.Name)
		limits(plan.Limits)
	}
	if len(p.Applications) == 0 {
		t.Error("no application")
	}
	for _, a := range p.Applications {
		if headgate.CheckName(a.Name) != nil || !slices.Contains(plans, a.DefaultPlan) {
			t.Errorf("application %+v", a)
		}
		limits(a.Limits)
		checkMode(t, a.Mode)
		if a.IdempotencyWindow < time.Second || a.IdempotencyWindow > 24*time.Hour {
			t.Errorf("idempotency window %v", a.IdempotencyWindow)
		}
		for _, r := range a.Rules {
			limits(r.Limits)
			limits(r.Candidate)
			checkMode(t, r.Mode)
			if countCharges(r.Limits, r.Ban)+countCharges(a.Limits, a.Ban) > MaxLimits || countLimits(r.Candidate) > MaxLimits || r.MaxWait > MaxMaxWait {
				t.Errorf("rule %+v", r)
			}
			if headgate.CheckName(r.Name) != nil || r.Operation == "" && r.Path == "" && len(r.Methods) == 0 && len(r.Descriptor) == 0 {
				t.Errorf("rule %+v", r)
			}
		}
	}
	checkDescriptors(t, p)
	for _, s := range p.Subjects {
		if s.Name == "" || !slices.Contains(plans, s.Plan) || !slices.ContainsFunc(p.Applications, func(a Application) bool { return a.Name == s.Application }) {
			t.Errorf("subject %+v", s)
		}
		for _, o := range s.Overrides {
			if !strings.Contains(o.Limit, "/") || o.Unlimited != (o.Count == 0) || !o.Until.IsZero() && !o.From.IsZero() && !o.From.Before(o.Until) {
				t.Errorf("override %+v", o)
			}
		}
	}
}

func checkDescriptors(t *testing.T, p *Policy) {
	t.Helper()
	domains := make(map[string]bool)
	for _, a := range p.Applications {
		if a.Domain == "" || len(a.Domain) > 256 || domains[a.Domain] {
			t.Errorf("domain %q", a.Domain)
		}
		domains[a.Domain] = true
		seen := make(map[string]bool)
		for _, r := range a.Rules {
			if r.Descriptor == nil {
				if r.QuotaMode || r.Replaces != nil || r.DetailedMetric || r.Metadata != nil {
					t.Errorf("rule %+v", r)
				}
				continue
			}
			var texts []string
			for _, e := range r.Descriptor {
				if e.Key == "" || len(e.Key) > MaxEntryText || len(e.Value) > MaxEntryText || e.ShareThreshold && !strings.Contains(e.Value, "*") {
					t.Errorf("entry %+v", e)
				}
				texts = append(texts, fmt.Sprintf("%q=%q", e.Key, e.Value))
			}
			key := strings.Join(texts, "&")
			if len(r.Descriptor) > MaxEntries || r.Operation+r.Path != "" || r.Methods != nil || r.MaxWait > 0 || seen[key] || slices.Contains(r.Replaces, r.Name) {
				t.Errorf("rule %+v", r)
			}
			seen[key] = true
			for _, l := range r.Limits {
				if l.Nothing && (l.Algorithm != headgate.FixedWindow && l.Algorithm != headgate.Quota || l.Count != 1 || l.Soft || l.Rollover > 0) || !r.HasSubject() && l.Owner == OwnerSubject {
					t.Errorf("limit %+v", l)
				}
			}
		}
	}
}

func checkMode(t *testing.T, m Mode) {
	t.Helper()
	if m.Percent < 0 || m.Percent > 99 || m.Shadow && m.Percent != 0 {
		t.Errorf("mode %+v", m)
	}
}

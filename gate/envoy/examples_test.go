package envoy_test

import (
	"slices"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/envoy"
	"github.com/headgate/headgate/gate/envoy/envoytest"
	"github.com/headgate/headgate/store/memstore"
)

// TestExamples: configurations as envoyproxy/ratelimit documents them load, are policies
// without a fault, and answer as they do there.
func TestExamples(t *testing.T) {
	for _, x := range envoytest.Examples(t) {
		t.Run(x.Name, func(t *testing.T) {
			for _, calendar := range []bool{false, true} {
				data, warnings, err := envoy.Convert([]envoy.File{{Name: x.Name, Data: x.Config}}, envoy.Options{Calendar: calendar})
				if err != nil || len(warnings) > 0 {
					t.Fatal(err, warnings)
				}
				if warnings, err := gate.Validate("policy", data); err != nil || len(warnings) > 0 {
					t.Fatalf("%v, %v in\n%s", err, warnings, data)
				}
				if calendar {
					continue // its windows begin elsewhere
				}
				replay(t, &x, data)
			}
		})
	}
}

func replay(t *testing.T, x *envoytest.Example, data []byte) {
	g, err := gate.Open(t.Context(), gate.Config{Policy: data, Store: memstore.New(memstore.Config{})})
	if err != nil {
		t.Fatal(err)
	}
	application := g.Domain(x.Domain)
	if application == "" {
		t.Fatalf("no application answers for %s", x.Domain)
	}
	for _, c := range x.Calls {
		for i := range c.Times {
			allowed, statuses := take(t, g, application, &c)
			if allowed == c.Over || !slices.Equal(statuses, c.Statuses) {
				t.Fatalf("%s: call %d is allowed: %v, with %v", c.Line, i+1, allowed, statuses)
			}
		}
	}
	for _, l := range x.Labels {
		var d gate.Decision
		if err := g.Peek(t.Context(), &gate.Request{Application: application, Descriptor: l.Descriptor}, &d); err != nil {
			t.Fatal(err)
		}
		if d.Label != l.Label {
			t.Errorf("%v has the label %q, want %q", l.Descriptor, d.Label, l.Label)
		}
	}
}

func take(t *testing.T, g *gate.Gate, application string, c *envoytest.Call) (bool, []string) {
	rs, ds := make([]*gate.Request, len(c.Descriptors)), make([]*gate.Decision, len(c.Descriptors))
	for i, d := range c.Descriptors {
		rs[i] = &gate.Request{Application: application, Descriptor: d, NoWait: true, Now: c.At.UnixMicro()}
		ds[i] = new(gate.Decision)
	}
	allowed, _, err := g.TakeDescriptors(t.Context(), rs, ds)
	if err != nil {
		t.Fatal(err)
	}
	statuses := make([]string, len(ds))
	for i, d := range ds {
		statuses[i] = status(d)
	}
	return allowed, statuses
}

func status(d *gate.Decision) string {
	limits := d.Limits()
	switch {
	case len(limits) > 0:
	case !d.Replaced && d.Rule != "" && (d.Reason == headgate.OK || d.Reason == headgate.BatchRefused):
		return "unlimited"
	default:
		return "none"
	}
	for _, l := range limits {
		if !l.Allowed && (!l.Shadow || l.ShadowBy == gate.ShadowByQuotaMode) {
			return "over"
		}
	}
	return "ok"
}

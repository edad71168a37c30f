package gate_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/store/memstore"
)

// TestConfigRead: a policy that is read by a function is read again by Reload, and one
// that is bad changes nothing.
func TestConfigRead(t *testing.T) {
	source, fault, reads := "version: 1\napplications: {a: {domain: x}}", error(nil), 0
	g, err := gate.Open(t.Context(), gate.Config{Store: memstore.New(memstore.Config{}), Read: func() (gate.Source, error) {
		reads++
		return gate.Source{Name: "made", Data: []byte(source)}, fault
	}})
	if err != nil {
		t.Fatal(err)
	}
	domain := func(want string) {
		t.Helper()
		if got := g.Domain("x"); got != want {
			t.Errorf("domain x is %q, want %q", got, want)
		}
	}
	domain("a")
	source = "version: 1\napplications: {b: {domain: x}, x: {domain: y}}"
	if err := g.Reload(t.Context()); err != nil || g.Status().Revision != 2 || g.Source().Name != "made" {
		t.Errorf("%v, %+v", err, g.Status())
	}
	domain("b")
	source = "version: 1\napplications: {c: {domain: x}, x: {}}"
	if err := g.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), `made:2:32: applications.x: the domain "x" is taken`) {
		t.Errorf("two of one domain: %v", err)
	}
	domain("b")
	fault = errors.New("no directory")
	if err := g.Reload(t.Context()); err != fault || g.Status().LastReloadOK {
		t.Errorf("%v, %+v", err, g.Status())
	}
	if domain("b"); reads != 4 || g.Domain("") != "" || g.Domain("b") != "" || g.Domain("y") != "x" {
		t.Errorf("%d reads", reads)
	}
	if _, err := gate.Open(t.Context(), gate.Config{Store: memstore.New(memstore.Config{}), Read: func() (gate.Source, error) { return gate.Source{}, fault }}); err != fault {
		t.Errorf("open: %v", err)
	}
}

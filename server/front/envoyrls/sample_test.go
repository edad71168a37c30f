package envoyrls

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	bootstrap "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	ratelimit "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"github.com/goccy/go-yaml"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protopath"
	"google.golang.org/protobuf/reflect/protorange"

	"github.com/headgate/headgate/gate/envoy"
)

const sample = "../../../examples/envoy"

// validate holds a message, and all that are packed in it, to Envoy's rules, and gives
// each to see.
func validate(m proto.Message, see func(proto.Message)) error {
	return protorange.Range(m.ProtoReflect(), func(v protopath.Values) error {
		last := v.Index(-1)
		if kind := last.Step.Kind(); kind != protopath.RootStep && kind != protopath.AnyExpandStep {
			return nil // of a message that is validated whole
		}
		m := last.Value.Message().Interface()
		see(m)
		if v, ok := m.(interface{ ValidateAll() error }); ok {
			if err := v.ValidateAll(); err != nil {
				return fmt.Errorf("%v: %w", v, err)
			}
		}
		return nil
	})
}

// TestSampleEnvoy: the sample is a configuration of Envoy, and asks for a domain of the
// limits beside it.
func TestSampleEnvoy(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(sample, "envoy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	asJSON, err := yaml.YAMLToJSON(text)
	if err != nil {
		t.Fatal(err)
	}
	var config bootstrap.Bootstrap
	if err := protojson.Unmarshal(asJSON, &config); err != nil {
		t.Fatal(err)
	}
	var filter *ratelimit.RateLimit
	n := 0
	if err := validate(&config, func(m proto.Message) {
		n++
		if f, ok := m.(*ratelimit.RateLimit); ok {
			filter = f
		}
	}); err != nil {
		t.Fatal(err)
	}
	if n != 5 || filter == nil {
		t.Fatalf("%d messages were validated, the filter is %v", n, filter)
	}
	if patience := filter.Timeout.AsDuration(); patience <= DefaultPatience || !filter.FailureModeDeny {
		t.Errorf("the filter waits %v, the store may take %v", patience, DefaultPatience)
	}

	files, err := envoy.ReadDir(filepath.Join(sample, "ratelimit"))
	if err != nil {
		t.Fatal(err)
	}
	policy, warnings, err := envoy.Convert(files, envoy.Options{})
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	h := open(t, string(policy), nil)
	for range 3 {
		h.check("OK ok ok", filter.Domain, descriptor("remote_address=192.0.2.1"), descriptor("generic_key=login,remote_address=192.0.2.1"))
	}
	h.check("OVER ok over", filter.Domain, descriptor("remote_address=192.0.2.1"), descriptor("generic_key=login,remote_address=192.0.2.1"))
	h.check("OK none", filter.Domain, descriptor("remote_address=127.0.0.2"))
	for key, want := range map[string]uint32{"api_key=k,method=GET": 100_000, "api_key=k,method=PUT": 1000, "api_key=trial-7,method=GET": 60} {
		if r := h.ask(filter.Domain, descriptor(key)); r.Statuses[0].CurrentLimit.GetRequestsPerUnit() != want {
			t.Errorf("%s: %v", key, r)
		}
	}
}

package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/headgate/headgate/examples/stage"
)

// What policy.yaml says of the API, and shop/ecosystem.config.js of the clusters.
const (
	burst         = 40
	banAfter      = 60
	shopInstances = 4
)

// shop is two clusters with a Headgate each, Redis behind them, and nginx before.
type shop struct {
	*stack
	url string // of nginx
}

func (s *stack) showShop(ctx context.Context, w io.Writer) error {
	free, err := stage.FreePorts(6)
	if err != nil {
		return err
	}
	redis, front, shops := free[0], free[1], free[4:]
	if _, err := s.Redis(ctx, redis); err != nil {
		return err
	}
	env := []string{"REDIS_URL=redis://" + redis, "HEADGATE_PORTS=" + ports(free[2:4]), "SHOP_PORTS=" + ports(shops)}
	if _, err := s.pm2(ctx, env, "start", "shop/ecosystem.config.js"); err != nil {
		return err
	}
	err = until(ctx, "both clusters listen", func() (bool, error) {
		return !slices.ContainsFunc(free[2:], func(address string) bool { return !stage.Listens(address) }), nil
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, s.logs())
	}
	if _, err := s.Nginx(ctx, front, map[string]any{"Listen": front, "Shops": shops}); err != nil {
		return err
	}
	sh := &shop{s, "http://" + front}
	for _, step := range []func(context.Context, io.Writer) error{sh.share, sh.ban} {
		if err := step(ctx, w); err != nil {
			return fmt.Errorf("%w\n%s", err, s.logs())
		}
	}
	return nil
}

// ports returns the ports of addresses, with a space between.
func ports(addresses []string) string {
	only := make([]string, len(addresses))
	for i, address := range addresses {
		_, only[i], _ = net.SplitHostPort(address) // FreePorts gives addresses
	}
	return strings.Join(only, " ")
}

// share lets one key send more requests than may pass.
func (s *shop) share(ctx context.Context, w io.Writer) error {
	if _, err := s.everywhere(ctx, "key-probe"); err != nil { // all instances are there
		return err
	}
	fmt.Fprintf(w, "\nnginx before two clusters of two instances, limits in Redis. loadtest -n 120 -c 30, all with one key (burst %d):\n\n", burst)
	t, err := s.load(ctx, requests{URL: s.url + "/api/orders", N: 120, Concurrency: 30, Headers: map[string]string{"x-api-key": "key-bob"}}, nil)
	if err != nil {
		return err
	}
	t.print(w)
	if t.total.passed != burst {
		return fmt.Errorf("%d passed, the policy allows %d", t.total.passed, burst)
	}
	if len(t.by) != shopInstances {
		return fmt.Errorf("%d instances have answered", len(t.by))
	}
	return nil
}

// ban shows that every instance knows who was banned, and nobody else is.
func (s *shop) ban(ctx context.Context, w io.Writer) error {
	fmt.Fprintf(w, "\nThose were more than %d refusals. The key is banned, whichever instance it asks; another is not:\n\n", banAfter)
	for _, c := range []struct{ key, want string }{{"key-bob", "429 banned"}, {"key-alice", "200 ok"}} {
		answers, err := s.everywhere(ctx, c.key)
		if err != nil {
			return err
		}
		for _, instance := range slices.Sorted(maps.Keys(answers)) {
			fmt.Fprintf(w, "  %-9s  instance %s  %s\n", c.key, instance, answers[instance])
			if answers[instance] != c.want {
				return fmt.Errorf("%s got %s", c.key, answers[instance])
			}
		}
	}
	return nil
}

// everywhere asks with a key until every instance has answered, and returns what
// each said: status and reason.
func (s *shop) everywhere(ctx context.Context, key string) (map[string]string, error) {
	answers := map[string]string{}
	err := until(ctx, "every instance answers", func() (bool, error) {
		a, err := stage.Ask(ctx, http.DefaultTransport, "GET", s.url+"/api/orders", "", http.Header{"X-Api-Key": {key}})
		if err != nil {
			return false, err
		}
		answers[a.Header.Get("X-Instance")] = fmt.Sprint(a.StatusCode, " ", a.Header.Get("Headgate-Reason"))
		return len(answers) == shopInstances, nil
	})
	return answers, err
}

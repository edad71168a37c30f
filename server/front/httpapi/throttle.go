package httpapi

import (
	"net/http"
	"strings"
	"time"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/policy"
)

// throttle is the body of /v1/throttle.
type throttle struct {
	key, rate   string
	burst, cost int64
}

func decodeThrottle(body string) (t throttle, err error) {
	t.cost = 1
	s, err := start(body)
	if err != nil {
		return t, err
	}
	err = s.members(throttleFields, func(name string) (err error) {
		switch name {
		case "key":
			t.key, err = s.str(name)
		case "rate":
			t.rate, err = s.str(name)
		case "burst":
			t.burst, err = s.whole(name)
		case "cost":
			t.cost, err = s.whole(name)
		}
		return err
	})
	if err == nil {
		err = s.end()
	}
	return t, err
}

func (d *door) throttle(c *call, w http.ResponseWriter, r *http.Request) {
	if !c.caller.Everywhere() {
		notEverywhere.ServeHTTP(w, r)
		return
	}
	body, p := c.read(w, r, MaxBody)
	if p != nil {
		p.ServeHTTP(w, r)
		return
	}
	t, err := decodeThrottle(body)
	if err != nil {
		d.fail(w, r, err)
		return
	}
	count, period, err := policy.ParseRate(t.rate)
	if err != nil {
		d.fail(w, r, invalid("rate", "%s", strings.TrimPrefix(err.Error(), "rate ")))
		return
	}
	began := time.Now()
	ask := gate.Throttle{Key: t.key, Count: count, Period: period, Burst: t.burst, Cost: t.cost}
	if err := d.Gate.Throttle(r.Context(), &ask, &c.d); err != nil {
		d.fail(w, r, err)
		return
	}
	c.write(w)
	d.Decided(&c.d, time.Since(began))
}

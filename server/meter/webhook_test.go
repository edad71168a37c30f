package meter

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate/server/records"
)

// receiver is a server that webhooks name.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	got    []http.Header
	bodies []string
	heard  chan struct{}
	answer http.HandlerFunc // nil for 204
}

func newReceiver(t *testing.T, answer http.HandlerFunc) *receiver {
	t.Helper()
	r := &receiver{answer: answer, heard: make(chan struct{}, 100)}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil || req.Method != "POST" {
			t.Errorf("%s: %v", req.Method, err)
		}
		r.mu.Lock()
		r.got, r.bodies = append(r.got, req.Header), append(r.bodies, string(body))
		r.mu.Unlock()
		r.heard <- struct{}{}
		if r.answer == nil {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		r.answer(w, req)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) times() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.got)
}

// wait waits for so many requests in all.
func (r *receiver) wait(t *testing.T, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for r.times() < n {
		select {
		case <-r.heard:
		case <-ctx.Done():
			t.Fatalf("%d requests, want %d", r.times(), n)
		}
	}
}

const secretKey = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// tell has an event of so many thresholds put on record.
func tell(t *testing.T, m *Meter, e *engine, subject string, cost int64) {
	t.Helper()
	m.Count(e.take(sends(subject, cost)))
	put(t, m)
}

// A webhook is told what has happened in a request that is signed.
func TestWebhookSigned(t *testing.T) {
	c := &clock{at: start}
	e := newEngine(t, c, quotas)
	var log bytes.Buffer
	m := New(Config{Records: openRecords(t), Now: c.now, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	r := newReceiver(t, nil)
	for _, secret := range []string{"whsec_" + secretKey, "a plain secret"} {
		w := Webhook{Name: "hook", URL: r.URL + "/path?key=in-the-url", Secret: secret}
		m.Set(Live{Webhooks: []Webhook{w}})
		subject := fmt.Sprint("alice ", len(secret))
		tell(t, m, e, subject, 500)
		c.set(start.Add(time.Minute))
		if err := m.Deliver(t.Context(), &w); err != nil {
			t.Fatal(err)
		}
		h, body := r.got[len(r.got)-1], r.bodies[len(r.bodies)-1]
		key := []byte(secret)
		if coded, is := strings.CutPrefix(secret, "whsec_"); is {
			var err error
			if key, err = base64.StdEncoding.DecodeString(coded); err != nil {
				t.Fatal(err)
			}
		}
		// As the specification says: the signed content is id.timestamp.payload.
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(h.Get("webhook-id") + "." + h.Get("webhook-timestamp") + "." + body))
		if got, want := h.Get("webhook-signature"), "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)); got != want {
			t.Errorf("%s, want %s", got, want)
		}
		var b told
		if err := json.Unmarshal([]byte(body), &b); err != nil || b.Subject != subject || b.Threshold != 50 {
			t.Errorf("%s: %v", body, err)
		}
		if h.Get("webhook-id") != b.ID || h.Get("webhook-timestamp") != fmt.Sprint(c.now().Unix()) || h.Get("Content-Type") != "application/json" || h.Get("User-Agent") != "headgate" {
			t.Errorf("%v", h)
		}
		if err := m.Deliver(t.Context(), &w); err != nil { // there is no more
			t.Fatal(err)
		}
	}
	if r.times() != 2 {
		t.Errorf("%d requests", r.times())
	}
	for _, secret := range []string{secretKey, "a plain secret", "in-the-url"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("%s", log.String())
		}
	}
}

// The example of the specification's reference implementations.
func TestSign(t *testing.T) {
	got := Sign("whsec_"+secretKey, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", `{"test": 2432232314}`)
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// What fails is tried again, ever more rarely, until it is given up.
func TestWebhookRetries(t *testing.T) {
	c := &clock{at: start}
	e := newEngine(t, c, quotas)
	var log bytes.Buffer
	m := New(Config{Records: openRecords(t), Now: c.now, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	r := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	w := Webhook{Name: "hook", URL: r.URL + "/in-the-url", Secret: secretKey}
	m.Set(Live{Webhooks: []Webhook{w}})
	tell(t, m, e, "alice", 500)
	deliver := func() {
		t.Helper()
		if err := m.Deliver(t.Context(), &w); err != nil {
			t.Fatal(err)
		}
	}
	deliver()
	for n, wait := range retries {
		c.set(c.now().Add(wait - time.Second))
		deliver()
		if r.times() != n+1 {
			t.Fatalf("%d attempts before %v", r.times(), wait)
		}
		c.set(c.now().Add(time.Second + wait/10))
		deliver()
		if r.times() != n+2 {
			t.Fatalf("%d attempts after %v", r.times(), wait)
		}
	}
	c.set(c.now().Add(1000 * time.Hour))
	deliver()
	if n := len(retries) + 1; r.times() != n || strings.Count(log.String(), "did not take") != n-1 || strings.Count(log.String(), "given up") != 1 || !strings.Contains(log.String(), "status 500") {
		t.Errorf("%d attempts: %s", r.times(), log.String())
	}
	ids := make(map[string]bool)
	for _, h := range r.got {
		ids[h.Get("webhook-id")] = true
	}
	if len(ids) != 1 {
		t.Errorf("%v", ids)
	}
	if strings.Contains(log.String(), secretKey) || strings.Contains(log.String(), "in-the-url") {
		t.Errorf("%s", log.String())
	}
	// One that has come back gets what is due, and it is over.
	tell(t, m, e, "bob", 500)
	deliver()
	r.answer = nil
	c.set(c.now().Add(time.Minute))
	deliver()
	deliver()
	if n := len(retries) + 3; r.times() != n {
		t.Errorf("%d attempts, want %d", r.times(), n)
	}
}

// An answer of 410 ends it. Redirects are answers as others are. One who cannot be asked
// at all is tried again.
func TestWebhookAnswers(t *testing.T) {
	other := newReceiver(t, nil)
	closed := httptest.NewServer(nil)
	closed.Close()
	for _, tt := range []struct {
		name, url string
		answer    http.HandlerFunc
		again     bool
		says      string
	}{
		{"gone", "", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) }, false, "status 410"},
		{"moved", "", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		}, true, "status 307"},
		{"cut off", "", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, true, "EOF"},
		{"away", closed.URL + "/in-the-url", nil, true, "connection refused"},
		{"no URL", "http://user:in-the-url@%zz", nil, true, "the URL cannot be asked"},
		{"an endless body", "", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 4096)); err != nil {
					return
				}
			}
		}, false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &clock{at: start}
			e := newEngine(t, c, quotas)
			var log bytes.Buffer
			m := New(Config{Records: openRecords(t), Now: c.now, Logger: slog.New(slog.NewTextHandler(&log, nil))})
			r := newReceiver(t, tt.answer)
			w := Webhook{Name: "hook", URL: tt.url, Secret: secretKey}
			if w.URL == "" {
				w.URL = r.URL
			}
			m.Set(Live{Webhooks: []Webhook{w}})
			tell(t, m, e, "alice", 500)
			if err := m.Deliver(t.Context(), &w); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(log.String(), tt.says) || strings.Contains(log.String(), "in-the-url") || strings.Contains(log.String(), "failure") != (tt.says != "") {
				t.Errorf("%s", log.String())
			}
			c.set(c.now().Add(time.Hour))
			d, err := m.Records.ClaimDelivery(t.Context(), "hook", c.now(), c.now().Add(time.Hour))
			if tt.again != (err == nil) || err != nil && !errors.Is(err, records.ErrNotFound) {
				t.Errorf("%+v, %v", d, err)
			}
		})
	}
	if other.times() != 0 {
		t.Error("a redirect was followed")
	}
}

// Webhooks are told of the kinds of events that they want.
func TestWebhookEvents(t *testing.T) {
	l := Live{Webhooks: []Webhook{{Name: "all"}, {Name: "none", Events: []string{}}, {Name: "these", Events: []string{"x", ThresholdReached}}, {Name: "others", Events: []string{"x"}}}}
	if got := l.names(ThresholdReached); !slices.Equal(got, []string{"all", "these"}) {
		t.Errorf("%v", got)
	}
}

// Two nodes on the same records deliver once, in their own time.
func TestWebhookNodes(t *testing.T) {
	c := &clock{at: start}
	e, db := newEngine(t, c, quotas), openRecords(t)
	r := newReceiver(t, nil)
	live := Live{Webhooks: []Webhook{{Name: "hook", URL: r.URL, Secret: secretKey}}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var run sync.WaitGroup
	var nodes []*Meter
	for range 2 {
		m := New(Config{Records: db, Now: c.now})
		m.Set(live)
		nodes = append(nodes, m)
		run.Go(func() { m.Run(ctx) })
	}
	const subjects = 20
	for n := range subjects {
		d := e.take(sends(fmt.Sprint("s", n), 1000))
		for _, m := range nodes {
			m.Count(d)
		}
	}
	r.wait(t, 3*subjects)
	cancel()
	run.Wait()
	if err := nodes[0].Deliver(t.Context(), &live.Webhooks[0]); err != nil { // what may be left
		t.Fatal(err)
	}
	ids := make(map[string]int)
	for _, h := range r.got {
		ids[h.Get("webhook-id")]++
	}
	if len(ids) != 3*subjects || len(r.got) != 3*subjects {
		t.Errorf("%d events in %d requests", len(ids), len(r.got))
	}
}

// One that hangs holds up neither others nor the end of Run.
func TestWebhookHangs(t *testing.T) {
	c := &clock{at: start}
	e := newEngine(t, c, quotas)
	m := New(Config{Records: openRecords(t), Now: c.now})
	hangs := newReceiver(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	works := newReceiver(t, nil)
	m.Set(Live{Webhooks: []Webhook{{Name: "hangs", URL: hangs.URL, Secret: secretKey}, {Name: "works", URL: works.URL, Secret: secretKey}}})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var run sync.WaitGroup
	run.Go(func() { m.Run(ctx) })
	m.Count(e.take(sends("alice", 500)))
	hangs.wait(t, 1)
	works.wait(t, 1)
	m.Count(e.take(sends("bob", 500)))
	works.wait(t, 2)
	cancel()
	run.Wait()
	if hangs.times() != 1 {
		t.Errorf("%d times", hangs.times())
	}
}

// queue is records with deliveries of one event.
type queue struct {
	store
	mu        sync.Mutex
	due, done int
	lost      bool // the context had ended
	failures  []string
}

// more makes another delivery due, and returns how many have ended.
func (q *queue) more() (ended int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.due++
	return q.done + len(q.failures)
}

func (q *queue) ClaimDelivery(ctx context.Context, webhook string, at, until time.Time) (c records.Delivery, err error) {
	if err := ctx.Err(); err != nil {
		return c, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.due == 0 || webhook != "hook" {
		return c, records.ErrNotFound
	}
	q.due--
	c.ID, c.Attempts = "evt", 1
	if until.Sub(at) < 2*deliverTime {
		c.ID = "a claim that runs out before the answer"
	}
	return c, nil
}

func (q *queue) Delivered(ctx context.Context, _ *records.Delivery) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lost = q.lost || ctx.Err() != nil
	q.done++
	return nil
}

func (q *queue) Undelivered(ctx context.Context, c *records.Delivery, failure string, _ time.Time) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lost = q.lost || ctx.Err() != nil
	q.failures = append(q.failures, c.ID+": "+failure)
	return nil
}

type doerFunc func(*http.Request) (*http.Response, error)

func (f doerFunc) Do(r *http.Request) (*http.Response, error) { return f(r) }

// body hangs for as long as a request lives.
type body struct{ context.Context }

func (b body) Read([]byte) (int, error) {
	<-b.Done()
	return 0, b.Err()
}
func (body) Close() error { return nil }

// Nobody is waited for longer than 10 s: neither for an answer, nor for its end.
func TestWebhookTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{due: 1}
		m := New(Config{Records: q, Client: doerFunc(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})})
		w := Webhook{Name: "hook", URL: "http://hook.test"}
		took := func() time.Duration {
			began := time.Now()
			if err := m.Deliver(t.Context(), &w); err != nil {
				t.Error(err)
			}
			return time.Since(began)
		}
		if d := took(); d != deliverTime || len(q.failures) != 1 || q.failures[0] != "evt: context deadline exceeded" {
			t.Errorf("%v: %v", d, q.failures)
		}
		m.Client = doerFunc(func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: body{r.Context()}}, nil
		})
		q.due = 1
		if d := took(); d != deliverTime || q.done != 1 {
			t.Errorf("%v: %+v", d, q)
		}
	})
}

// Run looks for what is due, of every webhook again and again, whatever becomes of it.
func TestWebhookAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := new(queue)
		asked := 0
		m := New(Config{Records: q, Client: doerFunc(func(*http.Request) (*http.Response, error) {
			asked++
			return &http.Response{StatusCode: []int{500, 200, 200}[asked%3], Body: http.NoBody}, nil
		})})
		m.Set(Live{Webhooks: []Webhook{{Name: "other", URL: "http://other.test"}, {Name: "hook", URL: "http://hook.test"}}})
		ctx, cancel := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() { m.Run(ctx) })
		<-time.After(time.Second) // so that it is between the times at which Run looks
		for n := range 7 {
			if ended := q.more(); ended != n {
				t.Fatalf("round %d: %d have ended", n, ended)
			}
			<-time.After(deliverEvery)
		}
		cancel()
		run.Wait()
	})
}

// What was delivered while the process ends is known to have been; what was not is left to
// others.
func TestWebhookEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	q := &queue{due: 2}
	m := New(Config{Records: q, Client: doerFunc(func(*http.Request) (*http.Response, error) {
		cancel()
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	})})
	w := Webhook{Name: "hook", URL: "http://hook.test"}
	if err := m.Deliver(ctx, &w); !errors.Is(err, context.Canceled) || q.done != 1 || q.due != 1 || q.lost {
		t.Errorf("%v, %+v", err, q)
	}
	ctx, cancel = context.WithCancel(t.Context())
	m.Client = doerFunc(func(r *http.Request) (*http.Response, error) {
		cancel()
		return nil, r.Context().Err()
	})
	if err := m.Deliver(ctx, &w); err != nil || q.done != 1 || len(q.failures) != 0 {
		t.Errorf("%v, %+v", err, q)
	}
}

package meter

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/puzpuzpuz/xsync/v4"

	"github.com/headgate/headgate/server/records"
)

// Webhook is told of events by POST requests that are signed as
// https://www.standardwebhooks.com says: webhook-id, webhook-timestamp, and
// webhook-signature, which is an HMAC-SHA256 of both and the body.
type Webhook struct {
	// Name is by what it is known in the records.
	Name string
	URL  string
	// Secret is the key, or base64 of it behind whsec_.
	Secret string
	// Events are the kinds that it is told; nil for all.
	Events []string
}

const (
	// deliverTime is how long a webhook may take to answer.
	deliverTime = 10 * time.Second
	// claimTime is for how long no other node tries: until the answer is on record.
	claimTime = 3 * deliverTime
	// maxFailure is how many bytes of why it did not are kept.
	maxFailure = 200
	// deliverEvery is how often deliveries are looked for that other nodes have left.
	deliverEvery = 5 * time.Second
)

// retries is when a delivery is tried again. What has failed so often is given up.
var retries = [...]time.Duration{
	5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 4 * time.Hour, 8 * time.Hour, 12 * time.Hour,
}

// doer sends requests.
type doer interface {
	Do(*http.Request) (*http.Response, error)
}

// newClient returns one that goes nowhere but where it is told: what is sent is for one
// address alone.
func newClient() *http.Client {
	return &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// names returns the webhooks that are told of a kind of events.
func (l *Live) names(kind string) (names []string) {
	for i := range l.Webhooks {
		if w := &l.Webhooks[i]; w.Events == nil || slices.Contains(w.Events, kind) {
			names = append(names, w.Name)
		}
	}
	return names
}

// kick has deliveries looked for at once.
func (m *Meter) kick() {
	select {
	case m.due <- struct{}{}:
	default:
	}
}

// deliver tells webhooks, until ctx ends. One that is slow holds up nobody else.
func (m *Meter) deliver(ctx context.Context) {
	t := time.NewTicker(deliverEvery)
	defer t.Stop()
	var jobs sync.WaitGroup
	defer jobs.Wait()
	busy := xsync.NewMap[string, struct{}]()
	for {
		for _, w := range m.live.Load().Webhooks {
			if _, is := busy.LoadOrStore(w.Name, struct{}{}); is {
				continue
			}
			jobs.Go(func() {
				defer busy.Delete(w.Name)
				if err := m.Deliver(ctx, &w); err != nil && ctx.Err() == nil {
					m.Logger.Warn("deliveries wait: the records cannot be asked", "webhook", w.Name, "error", err)
				}
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-m.due:
		case <-t.C:
		}
	}
}

// Deliver tells a webhook what is due, until something fails. The error is that of the
// records.
func (m *Meter) Deliver(ctx context.Context, w *Webhook) error {
	for {
		c, err := m.claim(ctx, w)
		if errors.Is(err, records.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		failure, gone := m.post(ctx, w, &c)
		if failure != "" && ctx.Err() != nil {
			return nil // it is claimed again when this claim has run out
		}
		if err := m.answered(ctx, w, &c, failure, gone); err != nil || failure != "" {
			return err
		}
	}
}

func (m *Meter) claim(ctx context.Context, w *Webhook) (records.Delivery, error) {
	ctx, cancel := context.WithTimeout(ctx, deliverTime)
	defer cancel()
	now := m.Now()
	return m.Records.ClaimDelivery(ctx, w.Name, now, now.Add(claimTime))
}

// answered puts on record what became of a delivery; also when ctx has ended, or what was
// delivered would be once more.
func (m *Meter) answered(ctx context.Context, w *Webhook, c *records.Delivery, failure string, gone bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deliverTime)
	defer cancel()
	if failure == "" {
		return m.Records.Delivered(ctx, c)
	}
	log := m.Logger.With("webhook", w.Name, "event", c.ID, "attempts", c.Attempts, "failure", failure)
	if n := c.Attempts - 1; n < len(retries) && !gone {
		next := m.Now().Add(retries[n] + rand.N(retries[n]/10))
		log.Warn("a webhook did not take an event", "again", next.UTC().Format(time.RFC3339))
		return m.Records.Undelivered(ctx, c, failure, next)
	}
	log.Error("a webhook is given up for an event")
	return m.Records.Undelivered(ctx, c, failure, time.Time{})
}

// post sends an event. It returns why that failed, "" if it has not, and whether the
// webhook wants no more of it.
func (m *Meter) post(ctx context.Context, w *Webhook, c *records.Delivery) (failure string, gone bool) {
	ctx, cancel := context.WithTimeout(ctx, deliverTime)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, strings.NewReader(c.Body))
	if err != nil {
		return "the URL cannot be asked", false
	}
	at := strconv.FormatInt(m.Now().Unix(), 10)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "headgate")
	r.Header.Set("Webhook-Id", c.ID)
	r.Header.Set("Webhook-Timestamp", at)
	r.Header.Set("Webhook-Signature", Sign(w.Secret, c.ID, at, c.Body))
	answer, err := m.Client.Do(r)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // without the URL, which may hold a secret
		}
		return clean(err.Error(), maxFailure), false
	}
	defer answer.Body.Close()
	io.Copy(io.Discard, io.LimitReader(answer.Body, 64<<10)) // so that the connection can be used again
	if answer.StatusCode/100 == 2 {
		return "", false
	}
	return fmt.Sprintf("status %d", answer.StatusCode), answer.StatusCode == http.StatusGone
}

// Sign returns the value of webhook-signature for an event.
func Sign(secret, id, timestamp, body string) string {
	key := []byte(secret)
	if coded, ok := strings.CutPrefix(secret, "whsec_"); ok {
		if b, err := base64.StdEncoding.DecodeString(coded); err == nil {
			key = b
		}
	}
	h := hmac.New(sha256.New, key)
	fmt.Fprintf(h, "%s.%s.%s", id, timestamp, body)
	return "v1," + base64.StdEncoding.EncodeToString(h.Sum(nil))
}

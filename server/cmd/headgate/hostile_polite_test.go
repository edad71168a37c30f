package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/credentials/insecure"

	grpcclient "github.com/headgate/headgate/client"
	"github.com/headgate/headgate/gate"
)

// politeQuota is what each polite client may ask for, and politeBurst what a throttle
// allows at once, with one more after two hours: more than any does.
const (
	politeQuota = 1_000_000_000
	politeBurst = 400_000
)

// polite is a client who does as he should: one request after another on a connection
// of his own. He is charged one for each, and knows so what the answer must be.
type polite struct {
	door    string
	subject string
	quota   int64
	// ask asks once and returns what remains.
	ask     func(ctx context.Context, subject string) (remaining int64, err error)
	answers atomic.Int64
	failed  atomic.Bool

	mu   sync.Mutex
	took [atUs + 1][]time.Duration // by what went on beside
}

// live asks until the siege ends, or an answer is wrong.
func (c *polite) live(t *testing.T, s *siege) {
	for n := int64(1); ; n++ {
		select {
		case <-s.end:
			return
		case <-time.After(politePause):
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		beside := s.beside.Load()
		began := time.Now()
		remaining, err := c.ask(ctx, c.subject)
		took := time.Since(began)
		cancel()
		if err != nil || remaining != c.quota-n {
			t.Errorf("%s: request %d of %s: %v, %d remain, want %d", c.door, n, c.subject, err, remaining, c.quota-n)
			c.failed.Store(true)
			return
		}
		c.answers.Add(1)
		if beside != calm && beside == s.beside.Load() {
			c.mu.Lock()
			c.took[beside] = append(c.took[beside], took)
			c.mu.Unlock()
		}
	}
}

func (s *siege) politeHTTP() *polite {
	client := &http.Client{Transport: new(http.Transport)}
	return &polite{door: "http", quota: politeQuota, ask: func(ctx context.Context, subject string) (int64, error) {
		body := fmt.Sprintf(`{"application":"a","operation":"x","subject":%q}`, subject)
		q, err := http.NewRequestWithContext(ctx, "POST", s.p.url+"/v1/take", strings.NewReader(body))
		if err != nil {
			return 0, err
		}
		q.Header.Set("Content-Type", "application/json")
		r, err := client.Do(q)
		if err != nil {
			return 0, err
		}
		defer r.Body.Close()
		answer, err := io.ReadAll(r.Body)
		var d decided
		if err == nil {
			err = json.Unmarshal(answer, &d)
		}
		if err == nil && (r.StatusCode != http.StatusOK || !d.Allowed || d.Remaining == nil) {
			err = fmt.Errorf("%s: %s", r.Status, bytes.TrimSpace(answer))
		}
		if err != nil {
			return 0, err
		}
		return *d.Remaining, nil
	}}
}

func (s *siege) politeGRPC(t *testing.T) *polite {
	c, d := dialGate(t, s.at["grpc"], grpcclient.Options{}), new(gate.Decision)
	return &polite{door: "grpc", quota: politeQuota, ask: func(ctx context.Context, subject string) (int64, error) {
		err := c.Take(ctx, &gate.Request{Application: "a", Operation: "x", Subject: subject}, d)
		if err == nil && !d.Allowed {
			err = fmt.Errorf("refused: %v", d.Reason)
		}
		return d.Remaining, err
	}}
}

func (s *siege) politeEnvoy(t *testing.T) *polite {
	c := envoys(t, s.at["grpc"], insecure.NewCredentials())
	return &polite{door: "envoy", quota: politeQuota, ask: func(ctx context.Context, subject string) (int64, error) {
		got, err := c.ShouldRateLimit(ctx, &rls.RateLimitRequest{Domain: "a", Descriptors: []*pb.RateLimitDescriptor{{
			Entries: []*pb.RateLimitDescriptor_Entry{{Key: "operation", Value: "x"}, {Key: "subject", Value: subject}},
		}}})
		if err == nil && (got.GetOverallCode() != rls.RateLimitResponse_OK || len(got.GetStatuses()) != 1) {
			err = fmt.Errorf("answered %v", got)
		}
		if err != nil {
			return 0, err
		}
		return int64(got.GetStatuses()[0].GetLimitRemaining()), nil
	}}
}

func (s *siege) politeRedis(t *testing.T) *polite {
	t.Helper()
	c, err := net.Dial("tcp", s.at["resp"])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	in := bufio.NewReader(c)
	return &polite{door: "resp", quota: politeBurst, ask: func(ctx context.Context, subject string) (remaining int64, err error) {
		by, _ := ctx.Deadline()
		if err := c.SetDeadline(by); err != nil {
			return 0, err
		}
		if _, err := fmt.Fprintf(c, "CL.THROTTLE %s %d 1 7200\r\n", subject, politeBurst-1); err != nil {
			return 0, err
		}
		reply := make([]string, 6)
		for i := range reply {
			line, err := in.ReadString('\n')
			if err != nil {
				return 0, err
			}
			if line[0] == '-' {
				return 0, fmt.Errorf("answered %q", line)
			}
			reply[i] = strings.TrimSuffix(line, "\r\n")
		}
		// Five numbers: it is not limited, the limit, what remains, no retry, a reset.
		if head, tail := strings.Join(reply[:3], " "), reply[4]; head != fmt.Sprint("*5 :0 :", politeBurst) || tail != ":-1" {
			return 0, fmt.Errorf("answered %q", reply)
		}
		_, err = fmt.Sscanf(reply[3], ":%d", &remaining)
		return remaining, err
	}}
}

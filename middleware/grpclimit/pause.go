package grpclimit

import (
	"strconv"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// maxPauses bounds the keys that are stopped.
const maxPauses = 10_000

// pauses are the keys that servers have stopped. The zero value is ready.
type pauses struct {
	mu sync.Mutex
	of map[string]stop
}

// stop is until when, and with which code.
type stop struct {
	until time.Time
	code  codes.Code
}

// pass waits until key is not stopped. The error is a status.
func (p *pauses) pass(key string, w *waiter) error {
	for {
		left, code := p.left(key)
		if left <= 0 {
			return nil
		}
		if !w.covers(left) {
			return withDetails(code, "Not sent: the server asked to wait",
				&errdetails.RetryInfo{RetryDelay: durationpb.New(left)},
				info("paused", map[string]string{"origin": "client", "retry_after_ms": strconv.FormatInt(milliseconds(left), 10)}))
		}
		if err := pause(w.ctx, left); err != nil {
			return err
		}
	}
}

// left returns for how long key is stopped still.
func (p *pauses) left(key string) (time.Duration, codes.Code) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, ok := p.of[key]
	if !ok {
		return 0, codes.OK
	}
	left := time.Until(s.until)
	if left <= 0 {
		delete(p.of, key)
	}
	return left, s.code
}

// stop stops key for d, or for as long as it is stopped already.
func (p *pauses) stop(key string, d time.Duration, code codes.Code) {
	p.mu.Lock()
	defer p.mu.Unlock()
	until := time.Now().Add(d)
	old, ok := p.of[key]
	if ok && old.until.After(until) {
		return
	}
	if !ok && len(p.of) >= maxPauses {
		for other := range p.of {
			delete(p.of, other)
			break
		}
	}
	if p.of == nil {
		p.of = map[string]stop{}
	}
	p.of[key] = stop{until, code}
}

// heed stops the calls of key if the server asks for it.
func (cl *Client) heed(key string, err error, trailer metadata.MD) {
	if err == nil || cl.config.MaxPause == 0 {
		return
	}
	st, _ := status.FromError(err)
	if st.Code() != codes.ResourceExhausted && st.Code() != codes.Unavailable {
		return
	}
	var wait time.Duration
	if values := trailer[pushback]; len(values) == 1 {
		if ms, err := strconv.ParseInt(values[0], 10, 32); err == nil {
			wait = time.Duration(ms) * time.Millisecond
		}
	}
	for _, detail := range st.Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok {
			wait = max(wait, retry.GetRetryDelay().AsDuration())
		}
	}
	if wait = min(wait, cl.config.MaxPause); wait > 0 {
		cl.pauses.stop(key, wait, st.Code())
	}
}

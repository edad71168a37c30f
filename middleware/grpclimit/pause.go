package grpclimit

import (
	"context"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/headgate/headgate/internal/pause"
	"github.com/headgate/headgate/middleware/grpclimit/answer"
)

// pass waits until key is not stopped. The error is a status.
func (cl *Client) pass(ctx context.Context, key string, w *pause.Patience) error {
	if cl.config.MaxPause == 0 {
		return nil
	}
	for {
		left, code := cl.pauses.Left(key)
		if left <= 0 {
			return nil
		}
		if !w.Covers(ctx, left) {
			return answer.Paused(code, left)
		}
		if err := sleep(ctx, left); err != nil {
			return err
		}
	}
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
	if values := trailer[answer.Pushback]; len(values) == 1 {
		if ms, err := strconv.ParseInt(values[0], 10, 32); err == nil {
			wait = time.Duration(ms) * time.Millisecond
		}
	}
	for _, detail := range st.Details() {
		switch d := detail.(type) {
		case *errdetails.RetryInfo:
			wait = max(wait, d.GetRetryDelay().AsDuration())
		case *errdetails.ErrorInfo:
			if answer.Unsent(d) { // another Client's word, perhaps of another key
				return
			}
		}
	}
	if wait = min(wait, cl.config.MaxPause); wait > 0 {
		cl.pauses.Stop(key, wait, st.Code())
	}
}

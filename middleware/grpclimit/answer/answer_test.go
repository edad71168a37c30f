package answer

import (
	"maps"
	"net/http"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/headgate/headgate"
)

func TestCodesAndMessages(t *testing.T) {
	for _, tt := range []struct {
		reason  headgate.Reason
		code    codes.Code
		message string
	}{
		{headgate.RateLimited, codes.ResourceExhausted, "full"},
		{headgate.QuotaExceeded, codes.ResourceExhausted, "full"},
		{headgate.ConcurrencyExceeded, codes.ResourceExhausted, "full"},
		{headgate.Banned, codes.ResourceExhausted, "full"},
		{headgate.WaitTimeout, codes.ResourceExhausted, "full"},
		{headgate.BatchRefused, codes.ResourceExhausted, "full"},
		{headgate.CostExceedsLimit, codes.InvalidArgument, "This call costs more than the limit can ever hold"},
		{headgate.NoRule, codes.PermissionDenied, "No rule lets this call pass"},
		{headgate.DenyListed, codes.PermissionDenied, "This client may not pass"},
		{headgate.StoreUnavailable, codes.Unavailable, "The service is short of capacity"},
		{headgate.OverloadedReason, codes.Unavailable, "The service is short of capacity"},
	} {
		v := Verdict{Decision: headgate.Decision{Reason: tt.reason}}
		st := status.Convert(v.Refusal(0, Message(tt.reason, "full"), "server"))
		if st.Code() != tt.code || st.Message() != tt.message || len(st.Details()) != 1 {
			t.Errorf("%v: got %v, %d details; want %v: %s", tt.reason, st, len(st.Details()), tt.code, tt.message)
		}
	}
}

func TestHint(t *testing.T) {
	for _, tt := range []struct {
		retryable bool
		wait      time.Duration
		want      string
	}{
		{true, 0, "0"}, {true, time.Nanosecond, "1"}, {true, 1500*time.Millisecond + 1, "1501"}, {true, time.Minute, "60000"},
		{true, time.Minute + 1, "-1"}, {false, 0, "-1"},
	} {
		if got := Hint(tt.retryable, tt.wait, time.Minute); got != tt.want {
			t.Errorf("%v, %v: got %s, want %s", tt.retryable, tt.wait, got, tt.want)
		}
	}
}

func TestMove(t *testing.T) {
	md, fields := metadata.MD{}, http.Header{"Ratelimit": {"a", "b"}, "X-Ratelimit-Limit": {"1"}, "Headgate-Reason": {"ok"}}
	Move(md, fields)
	want := metadata.MD{"ratelimit": {"a", "b"}, "x-ratelimit-limit": {"1"}, "headgate-reason": {"ok"}}
	if !maps.EqualFunc(md, want, slices.Equal) || len(fields) != 0 {
		t.Errorf("got %v and left %v", md, fields)
	}
}

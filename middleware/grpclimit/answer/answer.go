// Package answer tells the callers of gRPC methods what was decided on them, for
// interceptors such as those of packages grpclimit and grpcgate: statuses with
// details, metadata, and streams that send it at the right moment.
package answer

import (
	"context"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// Pushback is the trailer that tells a client's retry policy when to come back,
// in milliseconds; a negative number means not at all.
const Pushback = "grpc-retry-pushback-ms"

// LongestHint is the longest wait that a Pushback may tell: it is a number of 32
// bits.
const LongestHint = 24 * time.Hour

// Hint returns the Pushback of a refusal: wait, or -1 if it is longer than most
// or retryable is false.
func Hint(retryable bool, wait, most time.Duration) string {
	if !retryable || wait > most {
		return "-1"
	}
	return strconv.FormatInt(Milliseconds(wait), 10)
}

// Spread returns wait and up to percent of it more.
func Spread(wait time.Duration, percent int) time.Duration {
	most := wait / 100 * time.Duration(percent)
	if most <= 0 {
		return wait
	}
	return wait + rand.N(most+1)
}

// Milliseconds rounds up.
func Milliseconds(d time.Duration) int64 {
	return (d + time.Millisecond - time.Nanosecond).Milliseconds()
}

// Move moves fields, whose names are as packages ratefield and httpgate write
// them, to md, in lower case as all metadata.
func Move(md metadata.MD, fields http.Header) {
	for name, values := range fields {
		md[lower(name)] = values
	}
	clear(fields)
}

func lower(name string) string {
	switch name { // of most answers, without a copy
	case "Ratelimit-Policy":
		return "ratelimit-policy"
	case "Ratelimit":
		return "ratelimit"
	case "Headgate-Reason":
		return "headgate-reason"
	case "Headgate-Limit":
		return "headgate-limit"
	case "Headgate-Decision-Id":
		return "headgate-decision-id"
	default:
		return strings.ToLower(name)
	}
}

// Unary tells md with the answer of the unary call of ctx: in its header, or with
// an error in its trailer, as a client does not retry what has begun with a
// header. md can be used again.
func Unary(ctx context.Context, md metadata.MD, err error) {
	if len(md) > 0 && (err != nil || grpc.SetHeader(ctx, md) != nil) {
		grpc.SetTrailer(ctx, md) // it fails for a call that is none of grpc's: nobody would read it
	}
}

// Stream is the server's side of a stream that tells MD once: in the header with
// the first message, or in the trailer of an error.
type Stream struct {
	grpc.ServerStream
	MD   metadata.MD
	told sync.Once
}

// SendHeader implements grpc.ServerStream.
func (s *Stream) SendHeader(md metadata.MD) error {
	s.Tell(nil)
	return s.ServerStream.SendHeader(md)
}

// SendMsg implements grpc.ServerStream.
func (s *Stream) SendMsg(m any) error {
	s.Tell(nil)
	return s.ServerStream.SendMsg(m)
}

// Tell tells MD if it was not told. It is to be called with the error of the
// handler when that has returned.
func (s *Stream) Tell(err error) {
	s.told.Do(func() {
		if len(s.MD) > 0 && (err != nil || s.SetHeader(s.MD) != nil) {
			s.SetTrailer(s.MD)
		}
	})
}

// Refuse tells md in the trailer, and of MD nothing any more: what was true when
// the stream opened is no more.
func (s *Stream) Refuse(md metadata.MD) {
	s.told.Do(func() {})
	s.SetTrailer(md)
}

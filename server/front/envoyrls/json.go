package envoyrls

import (
	"io"
	"mime"
	"net/http"

	pb "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/headgate/headgate/server/front/problem"
)

// Path is where [Service.JSON] is served.
const Path = "/json"

// MaxBody is the largest body of a request in bytes.
const MaxBody = 64 << 10

// JSON returns the handler that takes a RateLimitRequest as JSON and answers with a
// RateLimitResponse: 200, or 429 where the overall code is OVER_LIMIT. Errors are
// application/problem+json.
func (s *Service) JSON() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p := s.json(w, r); p != nil {
			p.ServeHTTP(w, r)
		}
	})
}

func (s *Service) json(w http.ResponseWriter, r *http.Request) *problem.Problem {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return &problem.Problem{Name: "method_not_allowed", Status: http.StatusMethodNotAllowed, Detail: "method " + r.Method + " is not allowed here: use POST"}
	}
	if p := problem.Foreign(r); p != nil {
		return p
	}
	if t := r.Header.Get("Content-Type"); t != "" {
		if kind, _, err := mime.ParseMediaType(t); err != nil || kind != "application/json" {
			return &problem.Problem{Name: "unsupported_media_type", Status: http.StatusUnsupportedMediaType, Detail: "the body must be sent as Content-Type: application/json"}
		}
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, MaxBody+1))
	switch {
	case err != nil:
		return problem.BadRequest("", "the body ended before it was complete")
	case len(body) > MaxBody:
		return &problem.Problem{Name: "body_too_large", Status: http.StatusRequestEntityTooLarge, Detail: "the body must not be larger than 65536 bytes"}
	}
	var request pb.RateLimitRequest
	if err := protojson.Unmarshal(body, &request); err != nil {
		return problem.BadRequest("", "not a RateLimitRequest: "+err.Error())
	}
	wire, err := proto.Marshal(&request)
	if err != nil {
		return problem.BadRequest("", err.Error())
	}
	c := newCall()
	defer c.free()
	c.Reset()
	if err := c.decode(wire); err != nil {
		return problem.BadRequest("", err.Error())
	}
	reply, err := s.answer(r.Context(), c)
	if err != nil {
		return problemOf(err)
	}
	var response pb.RateLimitResponse
	if err := proto.Unmarshal(reply.wire, &response); err != nil {
		panic(err) // we wrote it
	}
	out, err := protojson.Marshal(&response)
	if err != nil {
		panic(err)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store") // RFC 6585: a 429 must not be stored
	if response.OverallCode == pb.RateLimitResponse_OVER_LIMIT {
		w.WriteHeader(http.StatusTooManyRequests)
	}
	w.Write(append(out, '\n'))
	return nil
}

// problemOf is an error of the service as this door tells it.
func problemOf(err error) *problem.Problem {
	s := status.Convert(err)
	p := &problem.Problem{Name: "internal", Status: http.StatusInternalServerError, Detail: s.Message()}
	switch s.Code() {
	case codes.InvalidArgument:
		p.Name, p.Status = "invalid_request", http.StatusBadRequest
	case codes.FailedPrecondition:
		p.Name = "policy_unfit"
	case codes.PermissionDenied:
		p.Name, p.Status = "forbidden", http.StatusForbidden
	case codes.NotFound:
		p.Name, p.Status = "not_found", http.StatusNotFound
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		p.Name, p.Status = "unavailable", http.StatusServiceUnavailable
	}
	return p
}

package grpcgate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/httpgate"
	"github.com/headgate/headgate/gate/inlet"
	"github.com/headgate/headgate/internal/pause"
	"github.com/headgate/headgate/middleware/grpclimit"
	"github.com/headgate/headgate/middleware/grpclimit/answer"
)

// Server puts the calls of a grpc.Server to an engine before its handlers run. It is
// safe for concurrent use, and by several servers.
type Server struct {
	config  ServerConfig
	engine  Engine
	proxies inlet.Proxies
}

// NewServer returns a Server that lets e decide. It panics if e is nil or the
// ServerConfig is at fault.
func NewServer(e Engine, c ServerConfig) *Server {
	if e == nil {
		panic("grpcgate: NewServer without an engine")
	}
	if err := c.validate(); err != nil {
		panic("grpcgate: ServerConfig: " + err.Error())
	}
	c = c.withDefaults()
	proxies, err := inlet.NewProxies(e, c.Application, c.TrustedProxies)
	if err != nil {
		panic("grpcgate: ServerConfig: " + err.Error())
	}
	return &Server{config: c, engine: e, proxies: proxies}
}

// state is what one decision needs and the next can use again.
type state struct {
	req    gate.Request
	d      gate.Decision
	sent   http.Header // the call's metadata
	fields httpgate.Fields
	told   http.Header // empty between calls
}

var states = sync.Pool{New: func() any { return &state{sent: http.Header{}, told: http.Header{}} }}

// maxKept is how many metadata a state may have room for that is used again.
const maxKept = 64

// free lets another call use st.
func (st *state) free() {
	st.req = gate.Request{}
	if len(st.sent) > maxKept {
		st.sent = http.Header{}
	}
	clear(st.sent)
	states.Put(st)
}

// metas holds empty maps for the metadata of unary calls, which grpc copies.
var metas = sync.Pool{New: func() any { return metadata.MD{} }}

// Unary is a grpc.UnaryServerInterceptor.
func (s *Server) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	c := grpclimit.Call{Context: ctx, Method: info.FullMethod, Message: req}
	if s.config.Skip(c) {
		return handler(ctx, req)
	}
	md := metas.Get().(metadata.MD)
	held, err := s.admit(c, md)
	if held != nil {
		defer held.Release()
	}
	var resp any
	if err == nil {
		resp, err = handler(ctx, req)
	}
	answer.Unary(ctx, md, err)
	clear(md)
	metas.Put(md)
	return resp, err
}

// Stream is a grpc.StreamServerInterceptor.
func (s *Server) Stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	c := grpclimit.Call{Context: ss.Context(), Method: info.FullMethod}
	if s.config.Skip(c) {
		return handler(srv, ss)
	}
	w := &answer.Stream{ServerStream: ss, MD: metadata.MD{}}
	held, err := s.admit(c, w.MD)
	if held != nil {
		defer held.Release()
	}
	if err == nil {
		err = handler(srv, w)
	}
	w.Tell(err)
	return err
}

// admit decides a call, waits for its delay, and adds to md what its answer tells. The
// call passes unless there is an error, a status. The slots are nil unless some are
// held: then they are to be released, with an error or without.
func (s *Server) admit(c grpclimit.Call, md metadata.MD) (held *inlet.Slots, err error) {
	st := states.Get().(*state)
	defer st.free()
	if err := s.read(c, st); err != nil {
		return nil, s.fault(c, err, headgate.CodeOf(err) != headgate.InvalidRequest)
	}
	began := time.Now()
	if err := s.engine.Take(c.Context, &st.req, &st.d); err != nil {
		if st.d.Kept {
			s.config.Decided(&st.d, time.Since(began))
		}
		return nil, s.undecided(c, st, err, md)
	}
	took := time.Since(began) - st.d.Waited
	if st.d.Allowed && st.d.HasTicket() {
		held = inlet.Keep(c.Context, s.engine, s.config.Application, &st.d, func(err error) { s.config.OnError(c, err) })
		defer func() {
			if p := recover(); p != nil { // of a hook
				held.Release()
				panic(p)
			}
		}()
	}
	s.config.Decided(&st.d, took)
	styles := st.d.Headers
	if s.config.Headers != nil {
		styles = *s.config.Headers
	}
	st.fields.Set(st.told, &st.d, styles)
	delete(st.told, "Retry-After") // push-back says it
	answer.Move(md, st.told)
	if !st.d.Allowed {
		return nil, s.refuse(c, &st.d, md)
	}
	if err := pause.Sleep(c.Context, st.d.Delay); err != nil {
		return held, s.gone(c, err, err)
	}
	return held, nil
}

// read fills in what the engine is asked.
func (s *Server) read(c grpclimit.Call, st *state) error {
	q := &st.req
	q.Application, q.Releases, q.WaitCap = s.config.Application, true, s.config.WaitCap
	q.Method, q.Path = http.MethodPost, c.Method
	sent, _ := metadata.FromIncomingContext(c.Context)
	if authority := sent[":authority"]; len(authority) > 0 {
		q.Host = authority[0]
	}
	if err := canonical(st.sent, sent); err != nil {
		return err
	}
	q.Headers, q.Stranger = st.sent, true
	if peer, err := grpclimit.Peer(c.Context); err == nil {
		if err := s.proxies.Find(q, peer); err != nil {
			return err
		}
	}
	if s.config.Key != nil {
		var err error
		if q.Subject, err = s.config.Key(c); err != nil {
			return fmt.Errorf("key: %w", err)
		}
		if q.Subject == "" {
			return &headgate.Error{Code: headgate.InvalidRequest, Field: "subject", Err: errEmpty}
		}
	}
	if s.config.Operation != nil {
		q.Operation = s.config.Operation(c)
	}
	if s.config.Cost != nil {
		q.Cost, q.CostSaid = s.config.Cost(c), true
	}
	if s.config.Costs != nil {
		q.Costs = s.config.Costs(c)
	}
	if s.config.Plan != nil {
		q.Plan = s.config.Plan(c)
	}
	return nil
}

var (
	errEmpty = errors.New("the key is empty")
	errLarge = errors.New("is larger than 32 KiB")
)

// maxMetadata bounds what policies are shown, in bytes. It is well below the largest
// message that a server of ours takes, where an engine is a Client.
const maxMetadata = 32 << 10

// canonical adds md to h by canonical names, without pseudo-headers and binary values.
// A value counts as in SETTINGS_MAX_HEADER_LIST_SIZE (RFC 9113, section 6.5.2).
func canonical(h http.Header, md metadata.MD) error {
	size := 0
	for name, values := range md {
		if strings.HasPrefix(name, ":") || strings.HasSuffix(name, "-bin") {
			continue
		}
		for _, v := range values {
			size += len(name) + len(v) + 32
		}
		if size > maxMetadata {
			return &headgate.Error{Code: headgate.InvalidRequest, Field: "request.metadata", Err: errLarge}
		}
		h[http.CanonicalHeaderKey(name)] = values
	}
	return nil
}

// refuse returns the status of a call that the decision refuses.
func (s *Server) refuse(c grpclimit.Call, d *gate.Decision, md metadata.MD) error {
	wait := answer.Spread(d.RetryAfter, cmp.Or(s.config.RetryJitter, d.RetryJitter))
	md[answer.Pushback] = []string{answer.Hint(d.Retryable, wait, s.config.MaxRetryHint)}
	if err := s.config.OnLimited(c, d); err != nil {
		return err
	}
	v := verdict(d)
	return v.Refusal(wait, cmp.Or(d.Message, answer.Message(d.Reason, s.config.Message)), "server")
}

// verdict is what is told of a refusal.
func verdict(d *gate.Decision) answer.Verdict {
	v := answer.Verdict{Decision: d.Decision, Limit: d.BoundByID()}
	limits := d.Limits()
	for i := range limits {
		if l := &limits[i]; !l.Allowed && !l.Shadow {
			v.Violations = append(v.Violations, answer.Violation(l.ID, l.Unit, l.Cost, l.Limit.Algorithm, &l.Outcome))
		}
	}
	return v
}

// undecided returns the status of a call that the engine could not decide, nil if it
// passes in spite of that.
func (s *Server) undecided(c grpclimit.Call, st *state, err error, md metadata.MD) error {
	fault := inlet.FaultOf(err, &st.req)
	switch {
	case c.Context.Err() != nil:
		return s.gone(c, err, c.Context.Err())
	case fault == inlet.OfClient, fault == inlet.OfProgram:
		return s.fault(c, err, fault == inlet.OfProgram)
	}
	s.config.OnError(c, err)
	if s.config.FailOpen && fault == inlet.OfAway {
		md["headgate-degraded"] = []string{"open"}
		return nil
	}
	reason, closed := answer.Undecided(err)
	md["headgate-degraded"] = []string{"closed"}
	md["headgate-reason"] = []string{reason.String()}
	return closed
}

// fault returns the status of a call that is at fault, or for which the program is.
func (s *Server) fault(c grpclimit.Call, err error, ours bool) error {
	s.config.OnError(c, err)
	if ours {
		return answer.ProgramFault()
	}
	return answer.CallFault(err)
}

// gone returns the status of a call that was ended while it waited.
func (s *Server) gone(c grpclimit.Call, err, ended error) error {
	s.config.OnError(c, err)
	return status.FromContextError(ended).Err()
}

package grpclimit

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/middleware/grpclimit/answer"
	"github.com/headgate/headgate/middleware/grpclimit/grpctest"
	"github.com/headgate/headgate/store/memstore"
)

// kinds are the two kinds of calls.
var kinds = map[string]func(testing.TB, testgrpc.TestServiceClient) grpctest.Answer{
	"unary":  func(t testing.TB, c testgrpc.TestServiceClient) grpctest.Answer { return grpctest.Ask(t, c) },
	"stream": func(t testing.TB, c testgrpc.TestServiceClient) grpctest.Answer { return grpctest.Converse(t, c, 1) },
}

// counting is a service that counts what reaches it.
func counting(n *atomic.Int64) grpctest.Service {
	return grpctest.Service{
		Unary:  func(context.Context) error { n.Add(1); return nil },
		Duplex: func(s grpctest.Duplex) error { n.Add(1); return grpctest.Echo(s) },
	}
}

func TestClientFailsBeforeSending(t *testing.T) {
	for kind, call := range kinds {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var reached atomic.Int64
				h := &grpctest.House{Client: []grpc.DialOption{retries}, Service: counting(&reached)}
				c, end := h.LimitClient(NewClient(inMemory(t, headgate.PerSecond(1).WithName("x")), ClientConfig{})).Open(t)
				defer end()
				if a := call(t, c); a.Status.Code() != codes.OK {
					t.Fatalf("the first call: got %v", a)
				}
				begin := time.Now()
				a := call(t, c)
				quota, retry, info := grpctest.Details(a.Status)
				if a.Status.Code() != codes.ResourceExhausted || reached.Load() != 1 || time.Since(begin) != 0 || retry.GetRetryDelay().AsDuration() != time.Second ||
					info.GetReason() != "RATE_LIMITED" || info.GetMetadata()["origin"] != "client" || quota.GetViolations()[0].QuotaId != "x" {
					t.Errorf("%d reached the server after %v: got %v, %v, %v", reached.Load(), time.Since(begin), a, retry, info)
				}
			})
		})
	}
}

func TestClientWaits(t *testing.T) {
	for kind, call := range kinds {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var reached atomic.Int64
				h := &grpctest.House{Service: counting(&reached)}
				c, end := h.LimitClient(NewClient(inMemory(t, headgate.PerSecond(1)), ClientConfig{MaxWait: 2 * time.Second})).Open(t)
				defer end()
				begin := time.Now()
				var wg sync.WaitGroup
				var refused atomic.Int64
				for range 4 {
					wg.Go(func() {
						if a := call(t, c); a.Status.Code() == codes.ResourceExhausted {
							refused.Add(1)
						}
					})
				}
				wg.Wait()
				if reached.Load() != 3 || refused.Load() != 1 || time.Since(begin) != 2*time.Second {
					t.Errorf("%d passed and %d were refused after %v, want 3 and 1 after 2s", reached.Load(), refused.Load(), time.Since(begin))
				}
			})
		})
	}
}

func TestClientWaitsNoLongerThanItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, end := new(grpctest.House).LimitClient(NewClient(inMemory(t, headgate.PerSecond(1)), ClientConfig{MaxWait: time.Hour})).Open(t)
		defer end()
		grpctest.Ask(t, c)
		begin := time.Now()
		short, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		if _, err := c.EmptyCall(short, &testgrpc.Empty{}); status.Code(err) != codes.ResourceExhausted || time.Since(begin) != 0 {
			t.Errorf("beyond the deadline: got %v after %v, want a refusal at once", err, time.Since(begin))
		}
		left, leave := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := c.EmptyCall(left, &testgrpc.Empty{})
			ended <- err
		}()
		synctest.Wait()
		leave()
		if err := <-ended; status.Code(err) != codes.Canceled || time.Since(begin) != 0 {
			t.Errorf("left: got %v after %v", err, time.Since(begin))
		}
	})
}

func TestClientDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := inMemory(t, headgate.Limit{Algorithm: headgate.LeakyBucket, Count: 1, Period: time.Second, Burst: 3})
		c, end := new(grpctest.House).LimitClient(NewClient(lim, ClientConfig{})).Open(t)
		defer end()
		begin := time.Now()
		for i := range 3 {
			if a := grpctest.Ask(t, c); a.Status.Code() != codes.OK || time.Since(begin) != time.Duration(i)*time.Second {
				t.Errorf("call %d: got %v after %v", i, a, time.Since(begin))
			}
		}
	})
}

func TestClientNever(t *testing.T) {
	c, end := new(grpctest.House).LimitClient(NewClient(inMemory(t, headgate.PerSecond(1)), ClientConfig{MaxWait: time.Hour, Cost: func(Call) int64 { return 2 }})).Open(t)
	defer end()
	if a := grpctest.Ask(t, c); a.Status.Code() != codes.InvalidArgument {
		t.Errorf("got %v", a)
	}
}

func TestClientUndecided(t *testing.T) {
	broken := func(Call) (string, error) { return "", errors.New("broken") }
	for _, tt := range []struct {
		name   string
		config ClientConfig
		code   codes.Code
	}{
		{"closed", ClientConfig{}, codes.Unavailable},
		{"open", ClientConfig{FailOpen: true}, codes.OK},
		{"broken key", ClientConfig{FailOpen: true, Key: broken}, codes.Internal},
		{"no key", ClientConfig{FailOpen: true, Key: func(Call) (string, error) { return "", nil }}, codes.InvalidArgument},
		{"bad cost", ClientConfig{FailOpen: true, Cost: func(Call) int64 { return -1 }}, codes.InvalidArgument},
		{"skipped", ClientConfig{Skip: func(c Call) bool { return c.Target == "passthrough:///upstream" }}, codes.OK},
	} {
		for kind, call := range kinds {
			t.Run(tt.name+"/"+kind, func(t *testing.T) {
				told := 0
				tt.config.OnError = func(Call, error) { told++ }
				lim := limiter(t, fakeStore{func(context.Context, *headgate.Batch) error { return errors.New("away") }}, headgate.PerSecond(1))
				c, end := new(grpctest.House).LimitClient(NewClient(lim, tt.config)).Open(t)
				defer end()
				if a := call(t, c); a.Status.Code() != tt.code || (told == 0) != (tt.name == "skipped") {
					t.Errorf("got %v, told %d times", a, told)
				}
			})
		}
	}
}

func TestClientKeys(t *testing.T) {
	for name, tt := range map[string]struct {
		key  func(Call) (string, error)
		want string
	}{
		"target": {nil, "passthrough:///upstream"},
		"method": {ByMethod, testgrpc.TestService_EmptyCall_FullMethodName},
		"both":   {ByAll(ByTarget, ByMethod), "23:passthrough:///upstream35:/grpc.testing.TestService/EmptyCall"},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			lim := limiter(t, fakeStore{func(_ context.Context, b *headgate.Batch) error {
				got, b.Allowed = b.Charges()[0].Owner, true
				return nil
			}}, headgate.PerSecond(1))
			c, end := new(grpctest.House).LimitClient(NewClient(lim, ClientConfig{Key: tt.key})).Open(t)
			defer end()
			if a := grpctest.Ask(t, c); a.Status.Code() != codes.OK || got != tt.want {
				t.Errorf("got %v, key %q, want %q", a, got, tt.want)
			}
		})
	}
}

// A client's slot is taken until its call has ended, however that comes about.
func TestClientHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &grpctest.House{}
		leave := make(chan struct{})
		h.Service.Unary = func(ctx context.Context) error {
			select {
			case <-leave:
			case <-ctx.Done():
			}
			return nil
		}
		h.Service.Duplex = func(s grpctest.Duplex) error {
			select {
			case <-leave:
				return nil
			case <-s.Context().Done():
				return s.Context().Err()
			}
		}
		cl := NewClient(inMemory(t, headgate.InFlight(1, time.Hour)), ClientConfig{})
		c, end := h.LimitClient(cl).Open(t)
		taken := func(when string) {
			t.Helper()
			synctest.Wait()
			for kind, call := range kinds {
				if a := call(t, c); a.Status.Code() != codes.ResourceExhausted {
					t.Errorf("%s: a second %s: got %v", when, kind, a)
				}
			}
		}
		open := func(ctx context.Context) grpc.ClientStream {
			t.Helper()
			s, err := c.FullDuplexCall(ctx)
			if err != nil {
				t.Fatalf("a slot is still taken: %v", err)
			}
			return s
		}

		go c.EmptyCall(t.Context(), &testgrpc.Empty{})
		taken("a unary call")
		leave <- struct{}{}
		synctest.Wait()

		s := open(t.Context())
		taken("a stream")
		leave <- struct{}{}
		if err := s.RecvMsg(&testgrpc.StreamingOutputCallResponse{}); err != io.EOF {
			t.Errorf("got %v, want the end", err)
		}

		ctx, cancel := context.WithCancel(t.Context())
		open(ctx)
		taken("a stream that nobody reads")
		cancel()
		synctest.Wait()

		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := c.FullDuplexCall(gone); err == nil {
			t.Error("a stream of a context that has ended")
		}
		open(t.Context())
		end() // closing the connection ends the last one
		synctest.Wait()
		if d, err := cl.budget.(limiterBudget).Peek(t.Context(), "passthrough:///upstream", 1); err != nil || !d.Allowed {
			t.Errorf("after the connection was closed: %+v, %v", d, err)
		}
	})
}

// A stream that another interceptor never opens gives its slot back.
func TestClientHoldsNothingForStreamsThatNeverOpen(t *testing.T) {
	var fail func() error
	h := new(grpctest.House).LimitClient(NewClient(inMemory(t, headgate.InFlight(1, time.Hour)), ClientConfig{}))
	h.Client = append(h.Client, grpc.WithChainStreamInterceptor(func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, grpc.Streamer, ...grpc.CallOption) (grpc.ClientStream, error) {
		return nil, fail()
	}))
	c, end := h.Open(t)
	defer end()
	for _, fail = range []func() error{
		func() error { return status.Error(codes.Unauthenticated, "no token") },
		func() error { panic("broken") },
		func() error { return status.Error(codes.Unauthenticated, "no token") },
	} {
		func() {
			defer func() { recover() }()
			if _, err := c.FullDuplexCall(t.Context()); status.Code(err) != codes.Unauthenticated {
				t.Errorf("got %v, want the other interceptor's error", err)
			}
		}()
	}
}

// strict is a store that does nothing for a context that has ended.
type strict struct{ headgate.Store }

func (s strict) Apply(ctx context.Context, b *headgate.Batch) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.Store.Apply(ctx, b)
}

// A slot is given back by a call that its caller leaves, under way or while it
// waits.
func TestClientReleaseOutlivesTheCaller(t *testing.T) {
	for kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := new(grpctest.House)
				h.Service.Unary = func(ctx context.Context) error {
					<-ctx.Done()
					return status.FromContextError(ctx.Err()).Err() // who is first says the same
				}
				h.Service.Duplex = func(s grpctest.Duplex) error {
					<-s.Context().Done()
					return status.FromContextError(s.Context().Err()).Err()
				}
				lim := limiter(t, strict{memstore.New(memstore.Config{})},
					headgate.InFlight(1, time.Hour), headgate.Limit{Algorithm: headgate.LeakyBucket, Count: 1, Period: time.Second, Burst: 9})
				cl := NewClient(lim, ClientConfig{OnError: func(_ Call, err error) { t.Errorf("told of %v", err) }})
				c, end := h.LimitClient(cl).Open(t)
				defer end()
				for i, patience := range []time.Duration{time.Millisecond, time.Millisecond, time.Minute} {
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					begin := time.Now()
					var err error
					if kind == "unary" {
						_, err = c.EmptyCall(ctx, &testgrpc.Empty{})
					} else if s, opened := c.FullDuplexCall(ctx); opened != nil {
						err = opened
					} else {
						_, err = s.Recv()
					}
					synctest.Wait()
					// The second would be sent after a second, and has no time for that.
					want := []time.Duration{time.Millisecond, 0, time.Minute}[i]
					if status.Code(err) != codes.DeadlineExceeded || time.Since(begin) != want {
						t.Errorf("call %d: got %v after %v, want its deadline after %v", i, err, time.Since(begin), want)
					}
					cancel()
				}
			})
		})
	}
}

// A server's word stops the calls of a key, for as long as it may.
func TestClientPauses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		config ClientConfig
		answer func() (metadata.MD, error)
		code   codes.Code // of the next call
		waited time.Duration
		free   time.Duration // when calls pass again
	}{
		{"push-back", ClientConfig{MaxPause: time.Hour}, says(codes.Unavailable, "3000", 0), codes.Unavailable, 0, 3 * time.Second},
		{"RetryInfo", ClientConfig{MaxPause: time.Hour}, says(codes.ResourceExhausted, "", 2*time.Second), codes.ResourceExhausted, 0, 2 * time.Second},
		{"the later of the two", ClientConfig{MaxPause: time.Hour}, says(codes.ResourceExhausted, "3000", 2*time.Second), codes.ResourceExhausted, 0, 3 * time.Second},
		{"no retry, but a wait", ClientConfig{MaxPause: time.Hour}, says(codes.ResourceExhausted, "-1", 5*time.Minute), codes.ResourceExhausted, 0, 5 * time.Minute},
		{"at most", ClientConfig{MaxPause: time.Second}, says(codes.ResourceExhausted, "", 5*time.Minute), codes.ResourceExhausted, 0, time.Second},
		{"waited for", ClientConfig{MaxPause: time.Hour, MaxWait: 3 * time.Second}, says(codes.Unavailable, "3000", 0), codes.OK, 3 * time.Second, 0},
		{"not waited for", ClientConfig{MaxPause: time.Hour, MaxWait: 2 * time.Second}, says(codes.Unavailable, "3000", 0), codes.Unavailable, 0, 3 * time.Second},
		{"never", ClientConfig{MaxPause: time.Hour}, says(codes.ResourceExhausted, "-1", 0), codes.OK, 0, 0},
		{"unparsable", ClientConfig{MaxPause: time.Hour}, says(codes.ResourceExhausted, "soon", 0), codes.OK, 0, 0},
		{"another code", ClientConfig{MaxPause: time.Hour}, says(codes.Aborted, "3000", time.Second), codes.OK, 0, 0},
		{"not asked to", ClientConfig{}, says(codes.Unavailable, "3000", time.Second), codes.OK, 0, 0},
	} {
		for kind, call := range kinds {
			t.Run(tt.name+"/"+kind, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var reached atomic.Int64
					answer := func(set func(metadata.MD)) error {
						if reached.Add(1) > 1 {
							return nil
						}
						md, err := tt.answer()
						set(md)
						return err
					}
					h := &grpctest.House{Service: grpctest.Service{
						Unary: func(ctx context.Context) error {
							return answer(func(md metadata.MD) { grpc.SetTrailer(ctx, md) })
						},
						Duplex: func(s grpctest.Duplex) error {
							if err := answer(s.SetTrailer); err != nil {
								return err
							}
							return grpctest.Echo(s)
						},
					}}
					c, end := h.LimitClient(NewClient(inMemory(t, headgate.PerSecond(1000)), tt.config)).Open(t)
					defer end()
					if a := call(t, c); a.Status.Code() == codes.OK {
						t.Fatal("the first call passed")
					}
					begin := time.Now()
					a := call(t, c)
					want := int64(1)
					if tt.code == codes.OK {
						want = 2
					}
					if a.Status.Code() != tt.code || time.Since(begin) != tt.waited || reached.Load() != want {
						t.Errorf("%d calls reached the server, after %v: got %v, want %v after %v", reached.Load(), time.Since(begin), a, tt.code, tt.waited)
					}
					if tt.free == 0 {
						return
					}
					_, retry, info := grpctest.Details(a.Status)
					if retry.GetRetryDelay().AsDuration() != tt.free || info.GetReason() != "PAUSED" {
						t.Errorf("got %v, %v, want %v and PAUSED", retry, info, tt.free)
					}
					<-time.After(tt.free - time.Nanosecond)
					if a := call(t, c); a.Status.Code() == codes.OK && tt.config.MaxWait == 0 {
						t.Errorf("passed before %v", tt.free)
					}
					<-time.After(time.Nanosecond)
					if a := call(t, c); a.Status.Code() != codes.OK {
						t.Errorf("after %v: got %v", tt.free, a)
					}
				})
			})
		}
	}
}

// says returns what a server answers: a code, a push-back unless it is "", and a
// RetryInfo unless it is 0.
func says(code codes.Code, back string, retry time.Duration) func() (metadata.MD, error) {
	return func() (metadata.MD, error) {
		md := metadata.MD{}
		if back != "" {
			md.Set(answer.Pushback, back)
		}
		if retry == 0 {
			return md, status.Error(code, "busy")
		}
		st, err := status.New(code, "busy").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(retry)})
		if err != nil {
			return nil, err
		}
		return md, st.Err()
	}
}

// A client and a server of ours: what the one is refused once, the others do not
// ask.
func TestClientHeedsServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var takes atomic.Int64
		lim := limiter(t, counted{memstore.New(memstore.Config{}), &takes}, headgate.Per(1, 10*time.Second))
		h := new(grpctest.House).Limit(NewServer(lim, ServerConfig{}))
		c, end := h.LimitClient(NewClient(inMemory(t, headgate.PerSecond(1000)), ClientConfig{MaxPause: time.Minute})).Open(t)
		defer end()
		var got []codes.Code
		for range 5 {
			got = append(got, grpctest.Ask(t, c).Status.Code())
		}
		if takes.Load() != 2 || !slices.Equal(got, []codes.Code{0, 8, 8, 8, 8}) {
			t.Errorf("%d calls reached the server: got %v", takes.Load(), got)
		}
	})
}

func TestNewClientPanics(t *testing.T) {
	lim := inMemory(t, headgate.PerHour(1))
	for name, build := range map[string]func(){
		"no limiter":    func() { NewClient(nil, ClientConfig{}) },
		"wait below 0":  func() { NewClient(lim, ClientConfig{MaxWait: -1}) },
		"pause below 0": func() { NewClient(lim, ClientConfig{MaxPause: -1}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			build()
		}()
	}
}

// TestClientPausesWhatWaits: a call that waits for its budget, or for its delay, when the
// server stops its key is not sent before that is over. Its slot is free again.
func TestClientPausesWhatWaits(t *testing.T) {
	pace := headgate.Limit{Algorithm: headgate.LeakyBucket, Count: 1, Period: time.Second, Burst: 9}
	for _, tt := range []struct {
		name    string
		limits  []headgate.Limit
		maxWait time.Duration
		code    codes.Code // of the second call
		after   time.Duration
	}{
		{"budget", []headgate.Limit{headgate.PerSecond(1)}, 2 * time.Second, codes.Unavailable, time.Second},
		{"budget, long patience", []headgate.Limit{headgate.PerSecond(1)}, 5 * time.Second, codes.OK, 4500 * time.Millisecond},
		{"delay", []headgate.Limit{pace, headgate.InFlight(2, time.Hour)}, 2 * time.Second, codes.Unavailable, time.Second},
		{"delay, long patience", []headgate.Limit{pace, headgate.InFlight(2, time.Hour)}, 5 * time.Second, codes.OK, 4500 * time.Millisecond},
	} {
		for kind, call := range kinds {
			t.Run(tt.name+"/"+kind, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var reached atomic.Int64
					answer := func() error {
						if reached.Add(1) > 1 {
							return nil
						}
						<-time.After(time.Second / 2) // the second call waits meanwhile
						_, err := says(codes.Unavailable, "", 4*time.Second)()
						return err
					}
					h := &grpctest.House{Service: grpctest.Service{
						Unary: func(context.Context) error { return answer() },
						Duplex: func(s grpctest.Duplex) error {
							if err := answer(); err != nil {
								return err
							}
							return grpctest.Echo(s)
						},
					}}
					lim := inMemory(t, tt.limits...)
					c, end := h.LimitClient(NewClient(lim, ClientConfig{
						MaxWait: tt.maxWait, MaxPause: 5 * time.Second, Key: func(Call) (string, error) { return "k", nil },
					})).Open(t)
					defer end()
					begin := time.Now()
					first := make(chan grpctest.Answer)
					go func() { first <- call(t, c) }()
					synctest.Wait()
					a := call(t, c)
					if a.Status.Code() != tt.code || time.Since(begin) != tt.after {
						t.Errorf("after %v: got %v, want %v after %v", time.Since(begin), a, tt.code, tt.after)
					}
					if a := <-first; a.Status.Code() != codes.Unavailable {
						t.Errorf("the first call: got %v", a)
					}
					if want := map[codes.Code]int64{codes.OK: 2, codes.Unavailable: 1}[tt.code]; reached.Load() != want {
						t.Errorf("%d calls reached the server, want %d", reached.Load(), want)
					}
					synctest.Wait()
					if len(tt.limits) == 1 {
						return
					}
					for range 2 { // both slots are free
						b := new(headgate.Batch)
						if d, err := lim.Acquire(t.Context(), b, "k", 1); err != nil || !d.Allowed {
							t.Errorf("got %+v, %v", d, err)
						}
					}
				})
			})
		}
	}
}

// TestClientsInAChain: what one Client does not send is not the server's word for the other,
// whether its budget refuses or it heeds a server.
func TestClientsInAChain(t *testing.T) {
	for kind, call := range kinds {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var reached atomic.Int64
				who := "a"
				outer := NewClient(inMemory(t, headgate.PerSecond(1000)), ClientConfig{MaxPause: time.Hour})
				inner := NewClient(inMemory(t, headgate.PerHour(1)), ClientConfig{MaxPause: time.Hour, Key: func(Call) (string, error) { return who, nil }})
				h := &grpctest.House{Service: counting(&reached)}
				c, end := h.LimitClient(outer).LimitClient(inner).Open(t)
				defer end()
				for i, want := range []codes.Code{codes.OK, codes.ResourceExhausted, codes.OK} {
					who = []string{"a", "a", "b"}[i]
					if a := call(t, c); a.Status.Code() != want {
						t.Errorf("call %d for %s: got %v, want %v", i, who, a, want)
					}
				}
				inner.pauses.Stop("c", time.Minute, codes.Unavailable)
				for i, want := range []codes.Code{codes.Unavailable, codes.OK} {
					who = []string{"c", "d"}[i]
					if a := call(t, c); a.Status.Code() != want {
						t.Errorf("for %s: got %v, want %v", who, a, want)
					}
				}
				if reached.Load() != 3 {
					t.Errorf("%d calls reached the server", reached.Load())
				}
			})
		})
	}
}

package client

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/policy"
	"github.com/headgate/headgate/internal/racetest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// asksForLife makes a server that puts every question whether it lives into asked, and
// answers it if it lives.
func asksForLife(asked chan<- string, lives bool) grpc.ServerOption {
	return grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(s)
		asked <- method
		if !lives {
			<-s.Context().Done()
		}
		return status.Error(codes.Unimplemented, "unknown service")
	})
}

func TestWaits(t *testing.T) {
	for _, tt := range []struct {
		name string
		r    gate.Request
		want time.Duration
	}{
		{"only the rule knows", gate.Request{}, policy.MaxMaxWait},
		{"cap", gate.Request{WaitCap: time.Second}, time.Second},
		{"its own word", gate.Request{MaxWait: time.Second, MaxWaitSaid: true}, time.Second},
		{"its own word is 0", gate.Request{MaxWaitSaid: true, WaitCap: time.Second}, 0},
		{"its own word is bad", gate.Request{MaxWait: -1, MaxWaitSaid: true}, 0},
		{"both", gate.Request{MaxWait: time.Minute, MaxWaitSaid: true, WaitCap: time.Second}, time.Second},
		{"more than any rule", gate.Request{MaxWait: time.Hour, MaxWaitSaid: true, WaitCap: time.Hour}, policy.MaxMaxWait},
		{"the caller waits", gate.Request{NoWait: true, WaitCap: time.Second}, 0},
	} {
		if got := waits(&tt.r); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestLine: standing in line is no silence, however short the time-out is. All who wait ask
// once whether the server lives.
func TestLine(t *testing.T) {
	l := tcp(t)
	asked := make(chan string, 1000)
	f := serve(t, l, asksForLife(asked, true))
	c := newClient(t, l.Addr().String(), Options{Timeout: time.Second})
	taken := make(chan error)
	const waiting = 20
	for range waiting {
		go func() {
			taken <- c.Take(t.Context(), &gate.Request{Subject: "waits", WaitCap: time.Minute}, new(gate.Decision))
		}()
		<-f.in
	}
	for range 2 {
		if method := <-asked; method != "/grpc.health.v1.Health/Check" {
			t.Errorf("asked %s", method)
		}
	}
	close(f.hold)
	for range waiting {
		if err := <-taken; err != nil {
			t.Error(err)
		}
	}
	if n := len(asked); n >= waiting {
		t.Errorf("asked %d times more for %d requests", n, waiting)
	}
}

// TestSilence: a server that hangs or is cut off is noticed long before the line would end.
func TestSilence(t *testing.T) {
	hangs := tcp(t)
	serve(t, hangs, asksForLife(make(chan string, 100), false))
	mute := tcp(t) // connections are made, and nobody answers
	for name, l := range map[string]net.Listener{"hangs": hangs, "mute": mute} {
		c := newClient(t, l.Addr().String(), Options{Timeout: 100 * time.Millisecond})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := c.Take(ctx, &gate.Request{Subject: "waits"}, new(gate.Decision))
		if headgate.CodeOf(err) != headgate.Unavailable || !strings.Contains(err.Error(), "no sign of life") || ctx.Err() != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFull: a request that does not get through for others that wait is no sign that the
// server is away, or a client could switch limits off by filling the line.
func TestFull(t *testing.T) {
	l := tcp(t)
	asked := make(chan string, 1000)
	f := serve(t, l, grpc.MaxConcurrentStreams(1), asksForLife(asked, true))
	c := newClient(t, l.Addr().String(), Options{Timeout: 500 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	taken := make(chan error)
	go func() { taken <- c.Take(ctx, &gate.Request{Subject: "waits"}, new(gate.Decision)) }()
	<-f.in
	for _, r := range []gate.Request{{Subject: "s", WaitCap: time.Second}, {Subject: "s", NoWait: true}} {
		err := c.Take(t.Context(), &r, new(gate.Decision))
		if headgate.CodeOf(err) != headgate.Overloaded || status.Code(err) == codes.OK {
			t.Errorf("no wait %v: got %v", r.NoWait, err)
		}
	}
	cancel()
	<-taken
}

// TestClaimsPassTheLine: what is held is renewed and given back although those that stand in
// line have taken all calls of a connection, or slots would be lost to them.
func TestClaimsPassTheLine(t *testing.T) {
	l := tcp(t)
	f := serve(t, l, grpc.MaxConcurrentStreams(1))
	c := newClient(t, l.Addr().String(), patient)
	ctx, cancel := context.WithCancel(t.Context())
	taken := make(chan error)
	go func() { taken <- c.Take(ctx, &gate.Request{Subject: "waits"}, new(gate.Decision)) }()
	<-f.in
	for name, claim := range map[string]func(context.Context, *gate.Claim, *gate.Decision) error{"renew": c.Renew, "release": c.Release, "settle": c.Settle} {
		var d gate.Decision
		if err := claim(t.Context(), &gate.Claim{Ticket: "t"}, &d); err != nil || !d.Held {
			t.Errorf("%s: %v", name, err)
		}
	}
	cancel()
	<-taken
}

// TestComesBack: a server that lives again is not taken for dead as it could not be
// reached some time ago.
func TestComesBack(t *testing.T) {
	l := tcp(t)
	c := newClient(t, l.Addr().String(), Options{Timeout: 500 * time.Millisecond})
	c.lives.Connect()
	for range 6 { // the pauses between attempts grow: the next one is at least 0.8 s
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	serve(t, l)
	if !c.pulse.alive() {
		t.Error("taken for dead")
	}
}

// TestAskedOnce: the server is asked once in the time-out whether it lives, for however
// many calls, whenever they came.
func TestAskedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const calls, every = 100, time.Second
		asked := 0
		p := pulse{every: every, connect: func() {}, ask: func(context.Context) error { asked++; return nil }}
		p.ctx, p.stop = context.WithCancel(t.Context())
		var all []*waiter
		for range calls {
			all = append(all, p.enter(func() { t.Error("ended a call") }))
			<-time.After(every / calls)
		}
		<-time.After(59 * every)
		synctest.Wait()
		if asked < 58 || asked > 60 {
			t.Errorf("asked %d times in a minute", asked)
		}
		if !p.answered() {
			t.Error("the answer is forgotten")
		}
		for _, w := range all {
			if p.leave(w) {
				t.Error("silent")
			}
		}
		<-time.After(2 * every)
		synctest.Wait()
		if p.answered() || p.beating {
			t.Errorf("goes on without calls: %v", p.beating)
		}
		p.end()
	})
}

// TestSilenceIsNoticed: a call without a sign of life is ended after twice to three times the
// time-out, and one that has not waited for so long is not.
func TestSilenceIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const every = time.Second
		p := pulse{every: every, connect: func() {}, ask: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
		p.ctx, p.stop = context.WithCancel(t.Context())
		begin := time.Now()
		var after []time.Duration
		for range 10 {
			came := time.Now()
			p.enter(func() { after = append(after, time.Since(came)) })
			<-time.After(every / 10)
		}
		<-time.After(time.Until(begin.Add(2*every + every/20)))
		synctest.Wait()
		p.mu.Lock()
		if len(after) != 1 || after[0] != 2*every {
			t.Errorf("ended after %v", after)
		}
		p.mu.Unlock()
		<-time.After(every)
		synctest.Wait()
		p.mu.Lock()
		for _, d := range after {
			if d < 2*every || d > 3*every {
				t.Errorf("ended after %v", d)
			}
		}
		for _, w := range p.waiters {
			if !w.silent {
				t.Error("one is not ended")
			}
		}
		all := slices.Clone(p.waiters)
		p.mu.Unlock()
		for _, w := range all {
			p.leave(w)
		}
		p.end()
	})
}

// TestConnectsBefore: the first question does not wait for its connection alone, or a server
// that is slow to make one would be taken for dead. Quick calls need none.
func TestConnectsBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const every = time.Second
		var connected, asked []time.Duration
		begin := time.Now()
		p := pulse{
			every:   every,
			connect: func() { connected = append(connected, time.Since(begin)) },
			ask:     func(context.Context) error { asked = append(asked, time.Since(begin)); return nil },
		}
		p.ctx, p.stop = context.WithCancel(t.Context())
		for range 100 {
			w := p.enter(func() {})
			<-time.After(every/2 - 1)
			p.leave(w)
		}
		if len(connected) != 0 || len(asked) != 0 {
			t.Errorf("quick calls: connected at %v, asked at %v", connected, asked)
		}
		w := p.enter(func() {})
		<-time.After(2 * every)
		synctest.Wait()
		if len(asked) == 0 || asked[0]-connected[0] != every/2 {
			t.Errorf("connected at %v, asked at %v", connected, asked)
		}
		p.leave(w)
		p.end()
	})
}

// TestCloseAsks: Close ends a question that is under way.
func TestCloseAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pulse{every: time.Hour, connect: func() {}, ask: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
		p.ctx, p.stop = context.WithCancel(t.Context())
		w := p.enter(func() {})
		<-time.After(time.Hour + time.Minute)
		p.leave(w)
		begin := time.Now()
		if p.end(); time.Since(begin) != 0 {
			t.Errorf("took %v", time.Since(begin))
		}
	})
}

// TestMindingAllocatesNothing: that a call may wait costs it nothing but time.
func TestMindingAllocatesNothing(t *testing.T) {
	racetest.Alone(t)
	p := pulse{every: time.Hour}
	p.ctx, p.stop = context.WithCancel(t.Context())
	defer p.end()
	end := func() {}
	if n := testing.AllocsPerRun(1000, func() { p.leave(p.enter(end)) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

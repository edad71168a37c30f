package resp

import (
	"context"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate/gate"
)

// onTurns serves two clients of a door with one turn for all, and reads what they are
// answered.
func onTurns(t *testing.T, g *fakeGate) (s *Server, a, b *peer) {
	s, a = onPipe(t, Config{Gate: g})
	b = another(t, s)
	s.turns = make(chan struct{}, 1)
	return s, a, b
}

func (p *peer) discard() { go io.Copy(io.Discard, p.Conn) }

// asks is what a client asks that does not wait for answers.
func asks(subject string, n int) string {
	return strings.Repeat(wire("HG.TAKE", "a", "o", subject), n)
}

// TestTurns: those who ask without a pause go one after the other, a turn each, and those
// who wait for answers need none.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, each = 2000, time.Millisecond
		began := time.Now()
		var mu sync.Mutex
		var asked [2]int
		var half, done [2]time.Duration
		s, a, b := onTurns(t, &fakeGate{seen: func(r *gate.Request) {
			<-time.After(each)
			mu.Lock()
			defer mu.Unlock()
			if who := strings.Index("ab", r.Subject); who >= 0 {
				switch asked[who]++; asked[who] {
				case n / 2:
					half[who] = time.Since(began)
				case n:
					done[who] = time.Since(began)
				}
			}
		}})
		a.discard()
		b.discard()
		go io.WriteString(a.Conn, asks("a", n))
		go io.WriteString(b.Conn, asks("b", n))
		other := another(t, s)
		for range 100 {
			<-time.After(7 * each)
			sent := time.Now()
			other.do("HG.TAKE", "a", "o", "c")
			if took := time.Since(sent); took != each {
				t.Fatalf("who waits for answers has one after %v, want %v", took, each)
			}
		}
		<-time.After(time.Hour)
		mu.Lock()
		defer mu.Unlock()
		// What each asks before its first turn, and after its last read, goes at once.
		if least := 2 * (n - 2*turnSize) * each; max(done[0], done[1]) < least {
			t.Errorf("all is answered after %v, want %v or more", done, least)
		}
		if d := (half[0] - half[1]).Abs(); half[0] == 0 || half[1] == 0 || d > 2*turnSize*each {
			t.Errorf("half is answered after %v", half)
		}
	})
}

// TestTurnsPass: who waits has no turn.
func TestTurnsPass(t *testing.T) {
	for name, wait := range map[string]func(a *peer){
		"for a decision": func(a *peer) { a.discard(); go io.WriteString(a.Conn, asks("x", 1000)+asks("waits", 1000)) },
		"for its reader": func(a *peer) {
			// The first read brings 36 commands, the second more than need no turn.
			go io.WriteString(a.Conn, strings.Repeat(wire("PING"), 136)+asks("x", 1000))
			for range 36 {
				a.next()
			}
		},
		"for nothing: it has ended": func(a *peer) { a.discard(); go io.WriteString(a.Conn, asks("x", 1000)+asks("bug", 1000)) },
		"for more to ask":           func(a *peer) { a.discard(); go io.WriteString(a.Conn, asks("x", 1000)+"*") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				_, a, b := onTurns(t, new(fakeGate))
				wait(a)
				synctest.Wait()
				go io.WriteString(b.Conn, asks("b", 1000))
				for range 1000 {
					b.next()
				}
				if took := time.Since(began); took != 0 {
					t.Errorf("others are answered after %v", took)
				}
			})
		})
	}
}

// TestTurnsEnd: a door that closes does not wait for turns.
func TestTurnsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := new(fakeGate)
		s, a, _ := onTurns(t, g)
		s.turns <- struct{}{} // somebody has it, for good
		a.discard()
		go io.WriteString(a.Conn, asks("x", 1000))
		synctest.Wait()
		if n := g.asked.Load(); n == 0 || n > 2*turnSize {
			t.Fatalf("%d are decided without a turn", n)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		s.Shutdown(ctx)
		synctest.Wait()
		if s.Open() != 0 {
			t.Error("the connection is still open")
		}
	})
}

// TestUnknownAllocates: errors cost no more than answers.
func TestUnknownAllocates(t *testing.T) {
	c := &conn{s: New(Config{Gate: new(fakeGate)}), w: new(work)}
	c.caller = c.s.Admit("")
	c.w.args = []string{strings.Repeat("\x00", 100), strings.Repeat("\xff", 100), "x", "y"}
	if n := testing.AllocsPerRun(100, func() { c.w.out = c.w.out[:0]; c.unknown(c.w) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if got, want := string(c.w.out), "-ERR unknown command \""+strings.Repeat(`\x00`, 64)+`", with args`; !strings.HasPrefix(got, want) {
		t.Errorf("%q", got)
	}
}

package redisstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate"
)

// fakeServer executes scripts as it is told to: it repeats what it is sent.
type fakeServer struct {
	mu         sync.Mutex
	loads      [][]string // the payloads of every execution
	handshakes int

	shake func(n int, known *incarnation) (*incarnation, error) // n counts from 1
	run   func(n int, inc *incarnation) error                   // called before an execution
}

func (f *fakeServer) handshake(_ int, known *incarnation) (*incarnation, error) {
	f.mu.Lock()
	f.handshakes++
	n := f.handshakes
	f.mu.Unlock()
	if f.shake != nil {
		return f.shake(n, known)
	}
	return &incarnation{sha: "sha", seq: int64(n), epoch: headgate.Epoch{ID: uint64(n)}}, nil
}

func (f *fakeServer) execute(dst []string, _ int, inc *incarnation, _, args []string) ([]string, error) {
	f.mu.Lock()
	var load []string
	for _, a := range args[1:] {
		load = append(load, strings.Clone(a[testHead:]))
	}
	f.loads = append(f.loads, load)
	n := len(f.loads)
	f.mu.Unlock()
	if f.run != nil {
		if err := f.run(n, inc); err != nil {
			return dst, err
		}
	}
	for _, text := range load {
		dst = append(dst, "answer to "+text)
	}
	return dst, nil
}

// sizes returns how many payloads each execution had.
func (f *fakeServer) sizes() (n []int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.loads {
		n = append(n, len(l))
	}
	return n
}

// newGround returns the only partition of a store with that executor, and what
// ends the store.
func newGround(e executor) (p *partition, quit func()) {
	life, cancel := context.WithCancel(context.Background())
	g := &ground{executor: e, life: life}
	p = new(partition)
	p.init(g, 0)
	return p, func() {
		g.closed.Store(true)
		p.close()
		cancel()
		g.wait.Wait()
	}
}

// testHead is how much of a payload the executor ignores.
const testHead = 8

func testCall(text string, weight int) *call {
	blob := append(make([]byte, testHead), text...)
	return &call{done: make(chan struct{}, 1), payload: payload{keys: []string{"key"}, blob: blob}, weight: weight}
}

// flyOne sends one call and waits for it.
func flyOne(ctx context.Context, p *partition, length time.Duration, text string) (string, error) {
	w := p.ground.newPatience(ctx, length)
	defer w.stop()
	c := testCall(text, 1)
	p.enqueue(c)
	answer, err := p.wait(c, &w, nil)
	return answer.text, err
}

func TestCallersShareFlights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeServer{run: func(int, *incarnation) error { <-time.After(time.Millisecond); return nil }}
		p, quit := newGround(f)
		defer quit()
		var wait sync.WaitGroup
		for i := range 200 {
			wait.Go(func() {
				text := fmt.Sprint("call ", i)
				answer, err := flyOne(context.Background(), p, 0, text)
				if answer != "answer to "+text || err != nil {
					t.Errorf("%s got %q, %v", text, answer, err)
				}
			})
			synctest.Wait()
		}
		wait.Wait()
		// Two are under way at a time, and nobody says which of them begins first.
		want := []int{1, 1, 200 - 2 - 3*maxWeight, maxWeight, maxWeight, maxWeight}
		if got := slices.Sorted(slices.Values(f.sizes())); !slices.Equal(got, want) {
			t.Errorf("flights of %v calls, want %v", f.sizes(), want)
		}
		if f.handshakes != 1 {
			t.Errorf("%d handshakes", f.handshakes)
		}
	})
}

func TestHeavyCallsFlyAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeServer{run: func(int, *incarnation) error { <-time.After(time.Millisecond); return nil }}
		p, quit := newGround(f)
		defer quit()
		w := p.ground.newPatience(context.Background(), 0)
		var all []*call
		for i, weight := range []int{1, 1, maxWeight, 10 * maxWeight, maxWeight - 1, 1, 1} {
			c := testCall(fmt.Sprint(i), weight)
			all = append(all, c)
			p.enqueue(c)
			synctest.Wait()
		}
		for _, c := range all {
			if _, err := p.wait(c, &w, nil); err != nil {
				t.Error(err)
			}
		}
		if want := []int{1, 1, 1, 1, 2, 1}; !slices.Equal(f.sizes(), want) {
			t.Errorf("flights of %v calls, want %v", f.sizes(), want)
		}
	})
}

// What waits when its caller gives up is never sent.
func TestImpatientCallerLeavesTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(chan struct{})
		f := &fakeServer{run: func(int, *incarnation) error { <-open; return nil }}
		p, quit := newGround(f)
		defer quit()
		var patient sync.WaitGroup
		for i := range maxFlights {
			patient.Go(func() {
				if _, err := flyOne(context.Background(), p, 0, fmt.Sprint("patient ", i)); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		start := time.Now()
		_, err := flyOne(context.Background(), p, 25*time.Millisecond, "impatient")
		if kindOf(err) != kindTimeout || time.Since(start) != 25*time.Millisecond {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		ctx, cancel := context.WithCancelCause(context.Background())
		time.AfterFunc(time.Millisecond, func() { cancel(errors.New("hung up")) })
		if _, err = flyOne(ctx, p, 25*time.Millisecond, "canceled"); kindOf(err) != kindCanceled || !strings.Contains(err.Error(), "hung up") {
			t.Errorf("canceled: %v", err)
		}
		close(open)
		patient.Wait()
		if want := []int{1, 1}; !slices.Equal(f.sizes(), want) {
			t.Errorf("flights of %v calls, want %v", f.sizes(), want)
		}
	})
}

// An answer for which nobody waits any more goes to who was told to take care of
// it; until it comes the flight does not keep others from flying.
func TestLateAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeServer{run: func(n int, _ *incarnation) error {
			if n <= maxFlights {
				<-time.After(2 * time.Second)
			}
			return nil
		}}
		p, quit := newGround(f)
		defer quit()
		late := make(chan string, maxFlights)
		var wait sync.WaitGroup
		for i := range maxFlights {
			wait.Go(func() {
				w := p.ground.newPatience(context.Background(), 25*time.Millisecond)
				defer w.stop()
				c := testCall(fmt.Sprint(i), 1)
				p.enqueue(c)
				if _, err := p.wait(c, &w, func() func(reply) {
					return func(r reply) { late <- r.text }
				}); kindOf(err) != kindTimeout {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		wait.Wait()
		if answer, err := flyOne(context.Background(), p, 25*time.Millisecond, "next"); answer != "answer to next" || err != nil {
			t.Errorf("next: %q, %v", answer, err)
		}
		got := []string{<-late, <-late}
		slices.Sort(got)
		if want := []string{"answer to 0", "answer to 1"}; !slices.Equal(got, want) {
			t.Errorf("late: %q, want %q", got, want)
		}
		synctest.Wait()
		if p.flights != 0 || p.abandoned != 0 {
			t.Errorf("%d flights and %d abandoned ones are left", p.flights, p.abandoned)
		}
	})
}

// A server that does not answer gets few calls, and its callers their errors in
// time.
func TestSilentServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(chan struct{})
		f := &fakeServer{run: func(int, *incarnation) error { <-open; return nil }}
		p, quit := newGround(f)
		defer quit()
		for i := range 100 {
			start := time.Now()
			if _, err := flyOne(context.Background(), p, 25*time.Millisecond, fmt.Sprint(i)); kindOf(err) != kindTimeout || time.Since(start) != 25*time.Millisecond {
				t.Fatalf("call %d after %v: %v", i, time.Since(start), err)
			}
		}
		if n := len(f.sizes()); n != maxFlights+maxAbandoned {
			t.Errorf("%d flights, want %d", n, maxFlights+maxAbandoned)
		}
		close(open)
		if answer, err := flyOne(context.Background(), p, 25*time.Millisecond, "again"); answer != "answer to again" || err != nil {
			t.Errorf("%q, %v", answer, err)
		}
	})
}

// What was certainly not executed is tried again while its caller waits.
func TestTriesAgainWhatWasNotExecuted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeServer{run: func(n int, _ *incarnation) error {
			if n <= 3 {
				return diagnoseAnswer("LOADING Redis is loading the dataset in memory", errors.New("loading"))
			}
			return nil
		}}
		p, quit := newGround(f)
		defer quit()
		if answer, err := flyOne(context.Background(), p, 100*time.Millisecond, "a"); answer != "answer to a" || err != nil {
			t.Errorf("%q, %v", answer, err)
		}
		if n := len(f.sizes()); n != 4 {
			t.Errorf("%d executions", n)
		}
		if f.handshakes != 1 {
			t.Errorf("%d handshakes", f.handshakes)
		}
	})
}

// Who gives up while the server keeps refusing is told why it does, and what it
// wanted is not executed any more, nor taken for late.
func TestGivesUpOnServerThatRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeServer{run: func(int, *incarnation) error {
			return diagnoseAnswer("LOADING Redis is loading the dataset in memory", errors.New("loading"))
		}}
		p, quit := newGround(f)
		defer quit()
		w := p.ground.newPatience(context.Background(), 25*time.Millisecond)
		defer w.stop()
		c := testCall("a", 1)
		p.enqueue(c)
		start := time.Now()
		_, err := p.wait(c, &w, func() func(reply) { return func(reply) { t.Error("late") } })
		if kindOf(err) != kindLoading || time.Since(start) != 25*time.Millisecond {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		<-time.After(time.Second)
		if n := len(f.sizes()); n < 3 || n > 10 {
			t.Errorf("%d executions", n)
		}
		// Without patience it ends, too.
		start = time.Now()
		if _, err := flyOne(context.Background(), p, 0, "b"); kindOf(err) != kindLoading || time.Since(start) < flightTime || time.Since(start) > 2*flightTime {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

func TestDoesNotTryAgainWhatMayHaveBeenExecuted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeServer{run: func(int, *incarnation) error { return errors.New("connection reset by peer") }}
		p, quit := newGround(f)
		defer quit()
		if _, err := flyOne(context.Background(), p, time.Second, "a"); err == nil || diagnose(err).kind != kindConnection {
			t.Errorf("%v", err)
		}
		if n := len(f.sizes()); n != 1 {
			t.Errorf("%d executions", n)
		}
	})
}

// Many callers that meet another incarnation shake hands once.
func TestOneHandshakeForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeServer{}
		f.shake = func(n int, known *incarnation) (*incarnation, error) {
			<-time.After(10 * time.Millisecond)
			if (known != nil) != (n > 1) {
				t.Errorf("handshake %d knows %v", n, known)
			}
			return &incarnation{sha: "sha", seq: int64(n)}, nil
		}
		f.run = func(n int, inc *incarnation) error {
			<-time.After(time.Millisecond)
			if n > 3 && inc.seq == 1 {
				return diagnoseAnswer("NOSCRIPT No matching script. Please use EVAL.", errors.New("no script"))
			}
			return nil
		}
		p, quit := newGround(f)
		defer quit()
		var wait sync.WaitGroup
		for i := range 500 {
			wait.Go(func() {
				if _, err := flyOne(context.Background(), p, 0, fmt.Sprint(i)); err != nil {
					t.Error(err)
				}
			})
		}
		wait.Wait()
		if f.handshakes != 2 {
			t.Errorf("%d handshakes, want 2", f.handshakes)
		}
	})
}

// A handshake that fails is a call that fails, within its patience, and is tried
// again by the next one.
func TestHandshakeFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeServer{}
		f.shake = func(n int, _ *incarnation) (*incarnation, error) {
			if n == 1 {
				return nil, diagnoseAnswer("NOPERM this user has no permissions", errors.New("no permissions"))
			}
			return &incarnation{sha: "sha", seq: 1}, nil
		}
		p, quit := newGround(f)
		defer quit()
		if _, err := flyOne(context.Background(), p, 0, "a"); kindOf(err) != kindAuth {
			t.Error(err)
		}
		if _, err := flyOne(context.Background(), p, 0, "b"); err != nil {
			t.Error(err)
		}
		if want := []int{1}; !slices.Equal(f.sizes(), want) {
			t.Errorf("flights of %v calls, want %v", f.sizes(), want)
		}
	})
}

// A handshake that is lost has executed nothing: it is tried again.
func TestLostHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeServer{}
		f.shake = func(n int, _ *incarnation) (*incarnation, error) {
			switch n {
			case 1:
				return nil, context.DeadlineExceeded
			case 2:
				return nil, errors.New("connection reset by peer")
			}
			return &incarnation{sha: "sha", seq: 1}, nil
		}
		p, quit := newGround(f)
		defer quit()
		if answer, err := flyOne(context.Background(), p, time.Second, "a"); answer != "answer to a" || err != nil {
			t.Errorf("%q, %v", answer, err)
		}
	})
}

func TestCloseEndsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeServer{run: func(int, *incarnation) error { <-time.After(10 * time.Millisecond); return nil }}
		p, quit := newGround(f)
		var wait sync.WaitGroup
		var mu sync.Mutex
		kinds := map[string]int{}
		for i := range 10 {
			wait.Go(func() {
				_, err := flyOne(context.Background(), p, 0, fmt.Sprint(i))
				if err != nil {
					err = failed("take", err)
				}
				mu.Lock()
				kinds[kindOf(err)]++
				mu.Unlock()
			})
			synctest.Wait()
		}
		quit()
		wait.Wait()
		if kinds[""] != maxFlights || kinds[kindClosed] != 10-maxFlights {
			t.Errorf("%v", kinds)
		}
		if _, err := flyOne(context.Background(), p, 0, "after"); headgate.CodeOf(failed("take", err)) != headgate.Closed {
			t.Error(err)
		}
	})
}

// Callers with all kinds of patience, a server with all kinds of trouble: every
// caller gets its own answer or an error in time, and what a caller was not told
// of is late or was not executed.
func TestFlightsAtRandom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeServer{}
		executed := map[string]int{}
		f.run = func(n int, _ *incarnation) error {
			<-time.After(time.Duration(n*7919%50) * time.Millisecond)
			switch n * 31 % 17 {
			case 1:
				return diagnoseAnswer("TRYAGAIN Multiple keys request during rehashing of slot", errors.New("try again"))
			case 2:
				return diagnoseAnswer("NOSCRIPT No matching script. Please use EVAL.", errors.New("no script"))
			case 3:
				return errors.New("connection reset by peer")
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			for _, text := range f.loads[n-1] {
				executed[text]++
			}
			return nil
		}
		p, quit := newGround(f)
		var mu sync.Mutex
		told := map[string]int{}
		note := func(text string) {
			mu.Lock()
			told[text]++
			mu.Unlock()
		}
		var wait sync.WaitGroup
		for i := range 64 {
			wait.Go(func() {
				for j := range 100 {
					text := fmt.Sprintf("%d.%d", i, j)
					length := time.Duration(i*j%40) * time.Millisecond
					w := p.ground.newPatience(context.Background(), length)
					c := testCall(text, 1+j%7)
					start := time.Now()
					p.enqueue(c)
					answer, err := p.wait(c, &w, func() func(reply) {
						return func(r reply) {
							if r.text != "answer to "+text {
								t.Errorf("%s was late with %q", text, r.text)
							}
							note(text)
						}
					})
					w.stop()
					if took := time.Since(start); length > 0 && took > length {
						t.Errorf("%s took %v of %v", text, took, length)
					}
					if err == nil {
						note(text)
						if answer.text != "answer to "+text {
							t.Errorf("%s got %q", text, answer.text)
						}
					}
				}
			})
		}
		wait.Wait()
		quit()
		for text, n := range executed {
			if n != 1 || told[text] != 1 {
				t.Errorf("%s was executed %d times and told %d times", text, n, told[text])
			}
		}
		for text := range told {
			if executed[text] != 1 {
				t.Errorf("%s was told but not executed", text)
			}
		}
		if len(executed) < 1000 {
			t.Errorf("only %d calls were executed", len(executed))
		}
	})
}

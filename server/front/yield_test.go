package front

import (
	"os"
	"sync"
	"testing"
)

// TestYield: everybody goes on after a poll, however many yield at one time.
func TestYield(t *testing.T) {
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			for range 100 {
				Yield()
			}
		})
	}
	all.Wait() // hangs otherwise
	p := newPoll()
	before := p.done
	p.yield()
	select {
	case <-before:
	default:
		t.Error("nobody has polled")
	}
}

// TestYieldBroken: without its pipe nobody waits.
func TestYieldBroken(t *testing.T) {
	for name, breaks := range map[string]func(from, to *os.File){
		"for who writes": func(_, to *os.File) { to.Close() },
		"for who reads":  func(from, _ *os.File) { from.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			from, to, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer from.Close()
			defer to.Close()
			p := &poll{to: to, done: make(chan struct{})}
			breaks(from, to)
			over := make(chan struct{})
			go func() {
				defer close(over)
				p.watch(from)
			}()
			for range 3 {
				p.yield() // hangs otherwise
			}
			to.Close()
			<-over
		})
	}
}

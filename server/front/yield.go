package front

import (
	"os"
	"sync"
)

// Yield returns when the network has been polled. Go does that when a processor has nothing
// that is ready to run, and else every 10 ms: a connection on which there is always more to
// read, and each part of which makes many goroutines ready, would have others wait for that
// long. It takes some microseconds where nothing else is to be done.
func Yield() { network.yield() }

// network is of the process, and made with it: no test has a part of it in its bubble.
var network = newPoll()

// poll is a pipe, of which the reader learns by a poll of the network that something was
// written to it.
type poll struct {
	mu    sync.Mutex
	to    *os.File // nil where there is no pipe
	asked bool
	done  chan struct{} // closed after the next poll
}

func newPoll() *poll {
	p := &poll{done: make(chan struct{})}
	from, to, err := os.Pipe()
	if err != nil {
		return p
	}
	p.to = to
	go p.watch(from)
	return p
}

func (p *poll) yield() {
	p.mu.Lock()
	done := p.done
	if !p.asked && p.to != nil {
		if _, err := p.to.Write([]byte{0}); err != nil {
			p.to = nil
		}
		p.asked = true
	}
	there := p.to != nil
	p.mu.Unlock()
	if there {
		<-done
	}
}

func (p *poll) watch(from *os.File) {
	for {
		_, err := from.Read(make([]byte, 1))
		p.mu.Lock()
		if err != nil {
			p.to = nil
		}
		close(p.done)
		p.asked, p.done = false, make(chan struct{})
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

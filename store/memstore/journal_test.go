package memstore_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
	"github.com/headgate/headgate/internal/racetest"
	"github.com/headgate/headgate/store/memstore"
	"github.com/headgate/headgate/store/storetest"
)

// paper is a journal in memory.
type paper struct {
	mu       sync.Mutex
	rows     map[memstore.Key]memstore.Record
	limits   []memstore.Use
	latest   int64
	began    int64 // when the latest process began
	before   int64 // from when on processes may have lost something
	clean    bool
	commits  int
	loads    int
	fail     error
	onCommit func()
	watched  func(*memstore.Commit)
}

func newPaper() *paper { return &paper{rows: make(map[memstore.Key]memstore.Record)} }

func (p *paper) Load(_ context.Context, records []memstore.Record) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.loads++
	for i := range records {
		r := p.rows[records[i].Key]
		r.Key, r.Words = records[i].Key, slices.Clone(r.Words)
		records[i] = r
	}
	return nil
}

func (p *paper) Commit(c *memstore.Commit) error {
	p.mu.Lock()
	told := p.onCommit
	p.mu.Unlock()
	if told != nil {
		told()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.clean {
		return errors.New("a commit after the last one")
	}
	if p.watched != nil {
		p.watched(c)
	}
	if p.fail != nil {
		return p.fail
	}
	for _, r := range c.Records {
		if r.Limit == nil {
			delete(p.rows, r.Key)
			continue
		}
		r.Words = slices.Clone(r.Words)
		p.rows[r.Key] = r
	}
	p.limits = append(p.limits, c.Limits...)
	p.latest, p.clean = max(p.latest, c.Now), c.Clean
	p.commits++
	return nil
}

// past is what the next process is told; the journal goes on as its own.
func (p *paper) past() memstore.Past {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := max(time.Now().UnixMicro(), p.latest)
	if p.clean || now-p.began >= algo.Horizon {
		p.before = p.began
	}
	p.began = now
	past := memstore.Past{Latest: p.latest, Clean: p.clean, Began: p.before, Limits: slices.Clone(p.limits)}
	for _, r := range p.rows {
		if r.Limit.Algorithm == headgate.Ban {
			past.Bans = append(past.Bans, r)
		}
	}
	p.clean = false
	return past
}

// tell has f called before each commit from now on, nil for nothing.
func (p *paper) tell(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.onCommit = f
}

// watch has f see each commit from now on.
func (p *paper) watch(f func(*memstore.Commit)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watched = f
}

// killed returns what a process that is killed now leaves.
func (p *paper) killed() *paper {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := newPaper()
	for k, r := range p.rows {
		r.Words = slices.Clone(r.Words)
		n.rows[k] = r
	}
	n.limits, n.latest, n.began, n.before = slices.Clone(p.limits), p.latest, p.began, p.before
	return n
}

var secret = [32]byte{1}

// onPaper returns a function that opens stores on journals of their own.
func onPaper[T testing.TB](c memstore.Config) func(T) headgate.Store {
	return func(t T) headgate.Store {
		c := c
		c.Journal, c.Secret = newPaper(), secret
		return opener[T](c)(t)
	}
}

func TestStoreWithJournal(t *testing.T) {
	storetest.Run(t, onPaper[*testing.T](memstore.Config{}), capabilities)
}

func TestDifferentialWithJournal(t *testing.T) {
	racetest.Alone(t)
	storetest.Differential(t, onPaper[*testing.T](memstore.Config{}), capabilities, *ops/4, 4)
	t.Run("own clock", func(t *testing.T) {
		storetest.Differential(t, onPaper[*testing.T](memstore.Config{}), storetest.Capabilities{}, *ops/10, 5)
	})
}

package redisstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/headgate/headgate"
)

// Config says where the servers are and what is told about them. Only URL is
// required.
type Config struct {
	// URL names the servers:
	//
	//	redis://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]...][/DB][?NAME=VALUE&...]
	//
	// rediss:// is TLS. USER and PASSWORD are written as in any URL, a slash as
	// %2F. The options are
	//
	//	cluster=true         the hosts are of a cluster
	//	sentinel=NAME        the hosts are sentinels, which know the primary by that name
	//	sentinel_user, sentinel_password
	//	                     for the sentinels
	//	prefix=hg:           begins all keys, 1 to 64 bytes; different ones share nothing
	//	db=0                 the database, as /DB
	//	ca, cert, key        files in PEM: the authority, and our certificate and its key
	//	servername           the name in the server's certificate, the host's by default
	//	strict=false         as Lenient
	//	eviction=accept      serve though the server may evict keys, which forgets limits
	//	leases=false         no leases over the store; only [Leases] reads it
	URL string
	// Lenient takes the state of a server that was restarted or promoted as it
	// is, though writes may be lost. Without it, limits start empty there.
	Lenient bool
	// Logger is told of what operators should know; nil discards.
	Logger *slog.Logger
	// Observe, if not nil, is told of every operation when it has ended: its
	// name, how long it took, and what kind of failure it met, "" for none. It is
	// called concurrently and must be fast.
	Observe func(op string, took time.Duration, failure string)
	// ManualClockForTest decides at Batch.Now where it is not 0. Everybody who
	// shares the servers must do the same.
	ManualClockForTest bool
}

// Store is a [headgate.Authority] in Redis or Valkey. Make one with [Open].
type Store struct {
	scheme  *scheme
	client  rueidis.Client
	log     *slog.Logger
	observe func(op string, took time.Duration, failure string)
	lenient bool
	manual  bool         // Batch.Now, where it is not 0, is the servers' clock
	latest  atomic.Int64 // that was said; 0 without a manual clock

	ground     ground
	partitions []partition
	scripts    scripts
	handshakes [shakingGroups]chan struct{}
	quit       context.CancelFunc
	stats      counters

	mu        sync.Mutex
	announced map[string]int64 // the newest epoch that was logged of a run id
}

// counters are what [Stats] shows.
type counters struct {
	handshakes, late, undone atomic.Int64
}

// Stats counts since the store was opened.
type Stats struct {
	// Calls is the number of payloads that were sent, such as batches, and Scripts
	// that of the script calls that carried them.
	Calls, Scripts int64
	// Handshakes is how often a server was asked for its epoch.
	Handshakes int64
	// Late is the number of answers for which nobody waited any more, and Undone
	// that of charges which were given back therefore, or because another
	// partition refused.
	Late, Undone int64
}

// Stats returns what was done so far.
func (s *Store) Stats() Stats {
	return Stats{
		Calls: s.ground.carried.Load(), Scripts: s.ground.flown.Load(),
		Handshakes: s.stats.handshakes.Load(), Late: s.stats.late.Load(), Undone: s.stats.undone.Load(),
	}
}

// backgroundTime is how long what nobody waits for may take.
const backgroundTime = 5 * time.Second

// Apply does b.Op by the servers' clock; see [headgate.Store]. In a cluster, only
// the charges of one partition are decided at one instant; see the package's
// comment for those of several.
func (s *Store) Apply(ctx context.Context, b *headgate.Batch) error {
	start := time.Now()
	err := s.apply(ctx, b)
	return s.ended(b.Op.String(), start, err)
}

// ended tells of an operation and returns its error.
func (s *Store) ended(op string, start time.Time, err error) error {
	if err != nil {
		err = failed(op, err)
	}
	if s.observe != nil {
		s.observe(op, time.Since(start), kindOf(err))
	}
	return err
}

func (s *Store) apply(ctx context.Context, b *headgate.Batch) error {
	if err := b.Validate(); err != nil {
		return err
	}
	if b.Op > headgate.Settle {
		return &headgate.Error{Code: headgate.InvalidRequest, Err: fmt.Errorf("%v is no operation", b.Op)}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	b.Replayed = false
	charges := b.Charges()
	if len(charges) == 0 {
		b.Allowed, b.At = true, s.scheme.now()
		return nil
	}
	w := s.ground.newPatience(ctx, time.Duration(b.Patience)*time.Microsecond)
	defer w.stop()
	first := s.scheme.partition(charges[0].Owner, charges[0].Limit)
	for i := 1; i < len(charges); i++ {
		if charges[i].Owner == charges[0].Owner && charges[0].Owner != "" {
			continue
		}
		if s.scheme.partition(charges[i].Owner, charges[i].Limit) != first {
			return s.across(&w, b)
		}
	}
	j := job{store: s, partition: &s.partitions[first], batch: b, op: scriptOp(b.Op)}
	j.begin()
	return j.end(&w)
}

// job is one batch on its way to one partition.
type job struct {
	store     *Store
	partition *partition
	batch     *headgate.Batch
	op        scriptOp
	trial     uint64 // names what the Take takes, so that it can be undone; 0 if it is for good
	call      *call
}

// begin sends the batch. end must follow.
func (j *job) begin() {
	j.call = j.store.ground.newCall()
	j.call.now = j.store.instant(j.batch.Now)
	j.call.payload.expect(j.call.now)
	j.send()
}

// instant returns when a manual clock that is told now has the servers decide: it
// does not go back. 0 is by their own clocks.
func (s *Store) instant(now int64) int64 {
	if !s.manual {
		return 0
	}
	for {
		latest := s.latest.Load()
		if now <= latest {
			return latest
		}
		if s.latest.CompareAndSwap(latest, now) {
			return now
		}
	}
}

// generalWeight is how much more work a charge is that needs the engine.
const generalWeight = 4

func (j *job) send() {
	c := j.call
	c.payload.batch(j.store.scheme, j.op, j.batch, j.trial)
	c.weight = len(j.batch.Charges())
	if !c.payload.fast {
		c.weight *= generalWeight
	}
	j.partition.enqueue(c)
}

// mostCalendars is how often a call may be sent because the calendar that went
// along was not that of the server's clock, or of a state that is ahead of it: each
// answer makes one more of these instants known.
const mostCalendars = 8

var errCalendars = &failure{kind: kindProtocol, err: errors.New("the server's clock runs ahead of every calendar")}

// end waits for the answer and fills it into the batch.
func (j *job) end(w *patience) error {
	for n := 1; ; n++ {
		answer, err := j.partition.wait(j.call, w, j.orphan)
		if err != nil {
			return err // the call may still be in use
		}
		v, err := decodeBatch(answer, j.call.epoch, j.batch)
		if err != nil || v.calendar == 0 {
			if err == nil {
				j.store.scheme.note(j.batch.At)
			}
			j.store.ground.calls.Put(j.call)
			return err
		}
		if n == mostCalendars {
			return errCalendars
		}
		j.call.payload.reach(v.calendar)
		j.send()
	}
}

// orphan returns what to do with an answer that comes after its caller has gone:
// a charge that nobody knows of is given back, as far as it can be without
// minting. Where the server cannot be asked, it stays, and so does that of a request
// with a key: whoever asks again is told that it was allowed.
func (j *job) orphan() func(r reply) {
	if j.op != scriptOp(headgate.Take) || j.batch.Key != (headgate.RequestKey{}) {
		return nil
	}
	late := *j
	late.batch = duplicate(j.batch, nil)
	return func(r reply) {
		s := late.store
		s.stats.late.Add(1)
		if !taken(r) {
			return
		}
		if _, err := decodeBatch(r, late.call.epoch, late.batch); err != nil {
			return
		}
		late.batch, late.op = passed(late.batch), opUndo
		w := s.ground.newPatience(context.Background(), backgroundTime)
		defer w.stop()
		late.begin()
		if late.end(&w) == nil {
			s.stats.undone.Add(1)
		}
	}
}

// passed returns a batch of what an allowed Take has charged: all but the shadows
// that refused.
func passed(b *headgate.Batch) *headgate.Batch {
	which := make([]int, 0, len(b.Charges()))
	for i, c := range b.Charges() {
		if !c.Shadow || b.Outcomes()[i].Allowed {
			which = append(which, i)
		}
	}
	return duplicate(b, which)
}

// duplicate returns a batch of its own with the same question: of the charges at
// the places in which, or all if that is nil.
func duplicate(b *headgate.Batch, which []int) *headgate.Batch {
	d := new(headgate.Batch)
	copyBatch(d, b, which, 0)
	return d
}

// copyBatch makes dst ask the same as b with the charges at the places in which,
// or all if that is nil, and leaves room for more.
func copyBatch(dst, b *headgate.Batch, which []int, more int) {
	charges := b.Charges()
	n := len(charges)
	if which != nil {
		n = len(which)
	}
	dst.Reset(b.Op)
	dst.Now, dst.Hold, dst.HoldFor, dst.MaxDelay, dst.Key, dst.Again, dst.At = b.Now, b.Hold, b.HoldFor, b.MaxDelay, b.Key, b.Again, b.At
	dst.Room(n + more)
	for i := range n {
		at := i
		if which != nil {
			at = which[i]
		}
		// Charges that stood side by side in one batch fit into another.
		_, _ = dst.Add(charges[at])
	}
}

// execute runs the incarnation's script; see [executor].
func (s *Store) execute(dst []string, partition int, inc *incarnation, keys, args []string) ([]string, error) {
	b := s.client.B()
	cmd := b.Evalsha().Sha1(inc.sha).Numkeys(int64(len(keys) + 1)).Key(keys...).Key(s.scheme.marker(partition)).Arg(args...).Arg(inc.marker).Build()
	// The call ends with the connection at the latest. No context cuts it short:
	// its answer is wanted even if nobody waits any more.
	values, err := s.client.Do(context.Background(), cmd).ToArray()
	if errors.Is(err, rueidis.ErrClosing) && !s.ground.closed.Load() { // a connection's end, not ours
		err = &failure{kind: kindConnection, err: err}
	}
	if err != nil {
		return dst, err
	}
	for i := range values {
		text, err := values[i].ToString()
		if err != nil {
			return dst, &failure{kind: kindProtocol, err: err}
		}
		dst = append(dst, text)
	}
	return dst, nil
}

// background runs f, unless the store is closed. Close waits for it.
func (s *Store) background(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ground.closed.Load() {
		return false
	}
	s.ground.wait.Go(f)
	return true
}

// parting is how long Close waits for what is on its way.
const parting = time.Second

// Close waits, for a second at most, for what is on its way, and closes the
// connections. Apply fails from then on.
func (s *Store) Close() error {
	s.mu.Lock()
	first := s.ground.closed.CompareAndSwap(false, true)
	s.mu.Unlock()
	for i := range s.partitions {
		s.partitions[i].close()
	}
	if first {
		s.quit()
		landed := make(chan struct{})
		go func() {
			s.ground.wait.Wait()
			close(landed)
		}()
		timer := time.NewTimer(parting)
		defer timer.Stop()
		select {
		case <-landed:
		case <-timer.C:
		}
		s.client.Close()
	}
	s.ground.wait.Wait()
	return nil
}

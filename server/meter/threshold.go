package meter

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/server/records"
)

// Thresholds are the percentages of a quota at which an event tells of it, once a period.
var Thresholds = [...]int64{50, 80, 100}

// ThresholdReached is the kind of those events.
const ThresholdReached = "quota.threshold"

const (
	// maxEvents is how many events wait to be put on record. What finds no room is noticed
	// again with the next request.
	maxEvents = 1_024
	// maxMarks is how many budgets a shard remembers of which was told. Beyond, one is
	// forgotten for each: the records know it, and are asked again.
	maxMarks = 8_192
)

// marks are how much was told of budgets, by their hashes.
type marks map[uint64]mark

// mark is how much was told of a budget's period.
type mark struct {
	until int64 // when the period ends, in microseconds since the Unix epoch
	quota int64
	level int // how many of Thresholds
}

func (k marks) put(budget uint64, to mark) {
	if _, known := k[budget]; !known && len(k) >= maxMarks {
		for any := range k {
			delete(k, any)
			break
		}
	}
	k[budget] = to
}

// event is a threshold that was reached.
type event struct {
	budget                      [2]uint64 // what the limit is known by
	at, until                   int64     // and when its period ends, in microseconds since the Unix epoch
	application, subject, owner string
	plan, limit, unit           string
	used, quota                 int64
	level                       int // the index of the threshold
}

// notice looks at the quotas of a decision.
func (m *Meter) notice(s *shard, o owner, d *gate.Decision, now int64) {
	if d.Degraded != "" {
		return // the limits are this node's share of them
	}
	limits := d.Limits()
	for i := range limits {
		l := &limits[i]
		if l.Limit.Algorithm != headgate.Quota || l.Shadow || l.Shared {
			continue
		}
		name, hash := d.OwnerOf(i), o.subject
		if name != d.Subject {
			hash = maphash.String(m.seed, name)
		}
		budget := mix(hash, l.Limit.ID[0])
		if l.Owner == "subject" && name != "" && l.Used > 0 {
			s.ratios.put(budget, name, l, now)
		}
		level := levelOf(l.Used, l.Outcome.Limit)
		if level == 0 {
			continue
		}
		told := s.marks[budget]
		if told.until != l.ResetsAt || told.quota != l.Outcome.Limit { // other numbers are another quota
			told = mark{until: l.ResetsAt, quota: l.Outcome.Limit}
		}
		for ; told.level < level && m.say(d, l, name, now, told.level); told.level++ {
			s.marks.put(budget, mark{told.until, told.quota, told.level + 1})
		}
	}
}

// say has a threshold told of a limit, and reports whether there was room for that.
func (m *Meter) say(d *gate.Decision, l *gate.LimitState, owner string, now int64, level int) bool {
	if len(m.events) == cap(m.events) {
		return false
	}
	e := event{
		budget: l.Limit.ID, at: now, until: l.ResetsAt, application: strings.Clone(d.Application), owner: strings.Clone(owner),
		plan: d.Plan, limit: l.ID, unit: l.Unit, used: l.Used, quota: l.Outcome.Limit, level: level,
	}
	if l.Owner == "subject" {
		e.subject = e.owner
	}
	select {
	case m.events <- e:
		return true
	default:
		return false
	}
}

// levelOf returns how many thresholds were reached.
func levelOf(used, quota int64) (level int) {
	for level < len(Thresholds) && used*100 >= quota*Thresholds[level] { // both below 2^53
		level++
	}
	return level
}

// told is an event as webhooks get it.
type told struct {
	ID          string    `json:"id"`
	Type        string    `json:"type"`
	At          time.Time `json:"at"`
	Application string    `json:"application"`
	Subject     string    `json:"subject"`
	Owner       string    `json:"owner"`
	Plan        string    `json:"plan"`
	Limit       string    `json:"limit"`
	Unit        string    `json:"unit"`
	Threshold   int64     `json:"threshold"`
	Used        int64     `json:"used"`
	Quota       int64     `json:"quota"`
	PeriodEnds  time.Time `json:"period_ends"`
}

// record is an event as it is kept: with the same id whichever node has noticed it.
func (e *event) record() records.Event {
	threshold := Thresholds[e.level]
	sum := sha256.New()
	fmt.Fprintf(sum, "%s %x %d %d %d %s", ThresholdReached, e.budget, e.until, e.quota, threshold, e.owner)
	t := told{
		ID: "evt_" + hex.EncodeToString(sum.Sum(nil)[:16]), Type: ThresholdReached, At: time.UnixMilli(e.at / 1000).UTC(),
		Application: e.application, Subject: clean(e.subject, gate.MaxSubject), Owner: clean(e.owner, gate.MaxSubject), Plan: e.plan,
		Limit: e.limit, Unit: e.unit, Threshold: threshold, Used: e.used, Quota: e.quota, PeriodEnds: time.UnixMicro(e.until).UTC(),
	}
	body, _ := json.Marshal(t) // there is nothing in it that JSON cannot say
	return records.Event{ID: t.ID, At: t.At, Until: t.PeriodEnds, Kind: t.Type, Application: t.Application, Subject: t.Subject, Body: string(body)}
}

// tell puts events on record, each until that is done. What waits when ctx has ended is
// tried once more.
func (m *Meter) tell(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			m.tellLast(ctx)
			return
		case e := <-m.events:
			m.keep(ctx, &e)
		}
	}
}

func (m *Meter) tellLast(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastTime)
	defer cancel()
	for {
		select {
		case e := <-m.events:
			if err := m.put(ctx, &e); err != nil {
				m.Logger.Error("the last events wait for another request of their subjects", "events", 1+len(m.events), "error", err)
				return
			}
		default:
			return
		}
	}
}

// keep puts an event on record, or back where it waits when ctx has ended.
func (m *Meter) keep(ctx context.Context, e *event) {
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		err := m.put(ctx, e)
		if err == nil {
			return
		}
		if wait == time.Second && ctx.Err() == nil {
			m.Logger.Warn("an event waits: it could not be put on record", "error", err)
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			select {
			case m.events <- *e:
			default:
			}
			return
		case <-t.C:
		}
	}
}

// put puts an event on record, and logs one that is new.
func (m *Meter) put(ctx context.Context, e *event) error {
	ctx, cancel := context.WithTimeout(ctx, reportTime)
	defer cancel()
	r := e.record()
	fresh, err := m.Records.PutEvent(ctx, r, m.live.Load().names(r.Kind))
	if fresh {
		m.Logger.Info("quota threshold", "application", e.application, "subject", r.Subject, "limit", e.limit,
			"threshold", Thresholds[e.level], "used", e.used, "quota", e.quota, "period_ends", time.UnixMicro(e.until).UTC().Format(time.RFC3339))
		m.kick()
	}
	return err
}

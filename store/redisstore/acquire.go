package redisstore

import (
	"context"
	"time"

	"github.com/headgate/headgate"
)

// mostRequests bounds the lease requests of one payload, and requestWeight says
// how much work one is.
const (
	mostRequests  = 16
	requestWeight = 6
)

// errand is the lease requests that go to one partition together.
type errand struct {
	partition *partition
	places    []int
	requests  []headgate.LeaseRequest
	replies   []headgate.LeaseReply
	call      *call
}

// Acquire settles and grants leases by the servers' clock; see
// [headgate.Authority]. Where some servers of a cluster are away, the requests on
// their budgets fail and the others do not.
func (s *Store) Acquire(ctx context.Context, requests []headgate.LeaseRequest, replies []headgate.LeaseReply) error {
	start := time.Now()
	return s.ended("acquire", start, s.acquire(ctx, requests, replies))
}

func (s *Store) acquire(ctx context.Context, requests []headgate.LeaseRequest, replies []headgate.LeaseReply) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var errands []*errand
	open := make(map[int]*errand) // by partition
	for i := range requests {
		p := s.scheme.partition(requests[i].Owner, requests[i].Limit)
		e := open[p]
		if e == nil || len(e.requests) == mostRequests {
			e = &errand{partition: &s.partitions[p]}
			open[p] = e
			errands = append(errands, e)
		}
		e.places = append(e.places, i)
		e.requests = append(e.requests, requests[i])
	}
	for _, e := range errands {
		e.replies = make([]headgate.LeaseReply, len(e.requests))
		e.call = s.ground.newCall()
		e.call.now = s.instant(0)
		e.call.payload.expect(e.call.now)
		e.send(s)
	}
	w := s.ground.newPatience(ctx, 0)
	defer w.stop()
	var failure error
	failed := 0
	for _, e := range errands {
		err := e.end(s, &w)
		if err != nil {
			failure = err
			failed++
		}
		for i, at := range e.places {
			if err != nil {
				replies[at] = headgate.LeaseReply{Status: headgate.LeaseFailed}
			} else {
				replies[at] = e.replies[i]
			}
		}
	}
	if failed == len(errands) {
		return failure
	}
	return nil
}

func (e *errand) send(s *Store) {
	e.call.payload.leases(s.scheme, e.requests)
	e.call.weight = requestWeight * len(e.requests)
	e.partition.enqueue(e.call)
}

// end waits for the answer. One that comes too late is of no use to anybody: the
// next requests of the same holders are told again what was granted.
func (e *errand) end(s *Store, w *patience) error {
	for n := 1; ; n++ {
		answer, err := e.partition.wait(e.call, w, nil)
		if err != nil {
			return err // the call may still be in use
		}
		v, err := decodeLeases(answer.text, e.call.epoch, e.requests, e.replies)
		if err != nil || v.calendar == 0 {
			if err == nil {
				s.scheme.note(v.at)
			}
			s.ground.calls.Put(e.call)
			return err
		}
		if n == mostCalendars {
			return errCalendars
		}
		e.call.payload.reach(v.calendar)
		e.send(s)
	}
}

package redisstore

import (
	"testing"
	"time"

	"github.com/headgate/headgate"
)

// answers are one answer of every form, and the batch that it is to.
func answers(t testing.TB) (texts []string, b *headgate.Batch) {
	t.Helper()
	s := newScriptStore(t, true)
	now := time.Now().UnixMicro()
	limit := prepare(t, headgate.Limit{Algorithm: headgate.Idempotency, Count: 5})
	b = batchOf(t, headgate.Take, headgate.Charge{Limit: prepare(t, headgate.PerHour(5)), Owner: "alice", Cost: 1},
		headgate.Charge{Limit: prepare(t, headgate.Sliding(5, time.Minute)), Owner: "alice", Cost: 1}, headgate.Charge{Limit: limit, Owner: "alice"})
	add := func(p *payload) {
		t.Helper()
		got, err := s.group(t.Context(), now, p)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, got[0].text)
	}
	p := new(payload)
	p.expect(now)
	for _, op := range []scriptOp{scriptOp(headgate.Take), scriptOp(headgate.Debit), opUndo} {
		p.batch(s.scheme, op, b, 0)
		add(p)
	}
	b.Key = headgate.RequestKey{ID: [2]uint64{1, 2}}
	for range 3 { // taken, replayed, in conflict
		p.batch(s.scheme, scriptOp(headgate.Take), b, 0)
		add(p)
		if len(texts) == 5 {
			b.Key.Print++
		}
	}
	p.leases(s.scheme, []headgate.LeaseRequest{{Limit: b.Charges()[0].Limit, Owner: "alice", Want: 1}})
	add(p)
	quota := batchOf(t, headgate.Take, headgate.Charge{Limit: prepare(t, headgate.QuotaPer(1, headgate.Hour)), Owner: "alice", Cost: 1})
	p.expect(now - 100*time.Hour.Microseconds())
	p.batch(s.scheme, scriptOp(headgate.Take), quota, 0)
	add(p)
	return texts, b
}

func FuzzDecode(f *testing.F) {
	texts, b := answers(f)
	forms := make(map[byte]bool)
	for _, text := range texts {
		forms[text[0]] = true
		f.Add(text)
	}
	for _, form := range []byte{formGeneral, formFast, formCalendar, formConflict, formUndone, formAcquired} {
		if !forms[form] {
			f.Errorf("no answer of form %d", form)
		}
	}
	requests, replies := make([]headgate.LeaseRequest, 1), make([]headgate.LeaseReply, 1)
	requests[0].Limit = b.Charges()[0].Limit
	f.Fuzz(func(_ *testing.T, text string) {
		_, _ = decodeBatch(reply{text: text}, headgate.Epoch{}, b)
		_, _ = decodeLeases(text, headgate.Epoch{}, requests, replies)
		_ = taken(reply{text, 3})
	})
}

// An answer that is cut off, or goes on, is an error and not a decision.
func TestDecodeSize(t *testing.T) {
	texts, b := answers(t)
	requests, replies := make([]headgate.LeaseRequest, 1), make([]headgate.LeaseReply, 1)
	requests[0].Limit = b.Charges()[0].Limit
	for _, text := range texts {
		decode := func(text string) error {
			_, err := decodeBatch(reply{text: text}, headgate.Epoch{}, b)
			if text != "" && text[0] == formAcquired {
				_, err = decodeLeases(text, headgate.Epoch{}, requests, replies)
			}
			return err
		}
		want := headgate.Code(0)
		if text[0] == formConflict {
			want = headgate.Conflict
		}
		if err := decode(text); want == 0 && err != nil || want != 0 && headgate.CodeOf(err) != want {
			t.Errorf("form %d: %v", text[0], err)
		}
		for n := range len(text) {
			if err := decode(text[:n]); headgate.CodeOf(err) != headgate.Unavailable {
				t.Errorf("form %d: %d bytes of %d: %v", text[0], n, len(text), err)
			}
		}
		if err := decode(text + "\x00"); headgate.CodeOf(err) != headgate.Unavailable {
			t.Errorf("form %d: a byte more: %v", text[0], err)
		}
	}
}

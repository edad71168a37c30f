package redisstore

import (
	"crypto/sha1"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/algo"
	"github.com/headgate/headgate/store/redisstore/redistest"
)

// walkDriver runs the steps of one walk on one state, which now and then goes through
// the form in which it is kept, as it does between groups. It answers each step with
// the outcome, what the state says of itself, and the packed state.
const walkDriver = `
local walk = cjson.decode(ARGV[1])
local function id(n) return n > 0 and struct.pack('>I8', n) or false end
local function plain(s)
  local b = {}
  for i = 1, #s do b[i] = struct.pack('<d', s[i]) end
  return table.concat(b)
end
local function form(m, s) return table.concat({(m.pack or plain)(s)}) end
local function through(m, s)
  local h = s.h
  s = m.pack and m.unpack('before' .. form(m, s), 7) or cmsgpack.unpack(cmsgpack.pack({unpack(s)}))
  s.h = h
  return s
end
local function packed(m, l, s)
  local b = form(m, s)
  if l.a == 4 then -- whatever the width of its entries
    local all, entry = {plain(s)}, s.width == 9 and '<i7I2' or '<i7I7'
    for at = 18, #b, s.width do all[#all + 1] = struct.pack('<dd', struct.unpack(entry, b, at)) end
    b = table.concat(all)
  end
  if s.h then b = b .. s.h.b end
  return #b > 4096 and redis.sha1hex(b) or b
end
local l = walk.limits[1]
local s, answers = nil, {}
for i, x in ipairs(walk.steps) do
  local c = {op = x.op, now = x.now, cost = x.cost, hold = id(x.hold), holdfor = x.holdfor, maxdelay = 0}
  local m, found, o = algorithm(l), '', nil
  l.cal = x.cal
  if x.kind == 'init' then
    l = walk.limits[x.limit]
    l.cal, m = x.cal, algorithm(l)
    s = m.init(l, x.now)
  elseif x.kind == 'call' then
    o = outcome(l)
    m.apply(c, l, s, o)
  elseif x.kind == 'fill' then
    for j = 1, x.n do
      o = outcome(l)
      m.apply(c, l, s, o)
      c.now = c.now + x.step
    end
  elseif x.kind == 'convert' then
    local old = l
    old.cal = nil -- calls bring only that of their own numbers
    l = walk.limits[x.limit]
    l.cal, m = x.cal, algorithm(l)
    s = use('convert').convert(old, l, s, use('convert').at(old, s, x.now))
  elseif x.kind == 'covers' then
    found = tostring(m.covers(l, x.now))
  elseif x.kind == 'deny' then
    m.deny(l, s, x.now)
  elseif x.kind == 'credit' then
    m.credit(l, s, x.now, m.tag(l, s, x.at), x.cost)
  elseif x.kind == 'recall' then
    local print, hold = m.recall(s, x.id, x.now)
    found = print and print .. (hold or 'no hold') or 'nothing'
  elseif x.kind == 'remember' then
    found = tostring(m.remember(l, s, x.now, x.id, struct.pack('>I8', x.cost), c.hold))
  end
  if i % 3 == 0 then s = through(m, s) end
  o = o or outcome(l)
  answers[i] = string.format('%s %s %.0f %.0f %.0f %.0f %.0f %.0f %.0f %.0f %.0f %.0f', tostring(o.ok), tostring(o.never), o.limit, o.used,
    o.remaining, o.overage, max(0, o.retry), max(0, o.reset), max(0, o.delay), o.resets, m.absent(l, s), m.seen(l, s)) .. '\n' .. found .. '\n' .. packed(m, l, s)
end
return answers
`

// modulesScript is the driver with the modules under test.
func modulesScript(driver string) string {
	return library("holds", "arith", "fixed", "classic", "sliding", "log", "quota", "concurrency", "ban", "idempotency", "convert") + driver
}

// eval runs a driver with one argument, as JSON, and returns its answers.
func eval(t testing.TB, driver string, argument any) []string {
	t.Helper()
	text, err := json.Marshal(argument)
	if err != nil {
		t.Fatal(err)
	}
	reply, err := redistest.Shared(t).Try("EVAL", modulesScript(driver), "0", string(text))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, x := range reply.([]any) {
		all = append(all, x.(string))
	}
	return all
}

// walkStep is one thing that happens to a state.
type walkStep struct {
	Kind    string      `json:"kind"`
	Op      headgate.Op `json:"op"`
	Now     int64       `json:"now"`
	Cost    int64       `json:"cost"`
	Hold    uint64      `json:"hold"`
	HoldFor int64       `json:"holdfor"`
	At      int64       `json:"at"`
	N       int         `json:"n"`
	Step    int64       `json:"step"`
	Limit   int         `json:"limit"`
	ID      string      `json:"id"`
	Cal     [][3]int64  `json:"cal,omitempty"`
}

// moduleLimit is a limit as the modules see it.
func moduleLimit(l *headgate.Prepared) map[string]any {
	return map[string]any{
		"a": l.Algorithm, "count": l.Count, "w": l.WindowMicros, "slice": l.SliceMicros, "k": l.Slices, "ttl": l.TTLMicros,
		"soft": l.Soft, "roll": l.Rollover, "zone": fmt.Sprint(l.Calendar.Unit, l.Calendar.Anchor, l.Calendar.Location),
	}
}

// calendar returns the period that holds the instant, the one before and two more.
func calendar(l *headgate.Prepared, now int64) (all [][3]int64) {
	p := algo.PeriodAt(l.Calendar, algo.PeriodAt(l.Calendar, now).Start-1)
	for range 4 {
		all = append(all, [3]int64{p.Label, p.Start, p.End})
		p = algo.PeriodAt(l.Calendar, p.End)
	}
	return all
}

// moduleState is a state in words of package algo, and what is known of its limit.
type moduleState struct {
	l     *headgate.Prepared
	words []int64
}

// own returns the number of words before the reservations, and their width.
func (s *moduleState) own() (n, width int) {
	switch s.l.Algorithm {
	case headgate.FixedWindow:
		return 2, 4
	case headgate.SlidingWindow:
		return max(3, s.l.Slices+2), 4
	case headgate.SlidingLog:
		return 5 + 2*int(s.words[4]), 4
	case headgate.Quota:
		return 5, 4
	case headgate.Concurrency:
		return 0, 3
	default:
		return len(s.words), 0
	}
}

func (s *moduleState) seen() int64 {
	w := s.words
	switch l := s.l; l.Algorithm {
	case headgate.FixedWindow:
		return w[0] - l.WindowMicros
	case headgate.SlidingWindow:
		return w[0] * l.SliceMicros
	case headgate.SlidingLog:
		return w[3]
	case headgate.Quota:
		return w[1]
	case headgate.Ban:
		return w[1] * l.SliceMicros
	default:
		return math.MinInt64
	}
}

// pack returns the state as the modules keep it.
func (s *moduleState) pack() string {
	var b []byte
	number := func(n int64) {
		f := float64(n)
		if n == math.MinInt64 {
			f = math.Inf(-1)
		}
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(f))
	}
	w := s.words
	n, width := s.own()
	switch s.l.Algorithm {
	case headgate.SlidingLog:
		number(w[3])
		number(w[2])
		for i := range w[1] {
			at := 5 + 2*((w[0]+i)%w[4])
			number(w[at])
			number(w[at+1])
		}
	case headgate.Concurrency:
		b = binary.LittleEndian.AppendUint16(b, uint16(w[1]))
	case headgate.Idempotency:
		for i := range w[0] {
			k := w[1+5*i:]
			for _, x := range k[:4] {
				b = binary.BigEndian.AppendUint64(b, uint64(x))
			}
			number(k[4])
		}
	default:
		for _, x := range w[:n] {
			number(x)
		}
	}
	if s.l.Algorithm == headgate.Quota {
		number(algo.PeriodAt(s.l.Calendar, w[2]).End)
	}
	if width == 0 || len(w) < n+3 {
		return string(b)
	}
	h := w[n:]
	for i := range h[0] {
		x := h[3+int64(width)*(h[2]+i):]
		b = binary.BigEndian.AppendUint64(b, uint64(x[0]))
		if width == 3 {
			b = binary.LittleEndian.AppendUint64(b, uint64(x[1]))[:len(b)+7]
			b = binary.LittleEndian.AppendUint16(b, uint16(x[2]))
			continue
		}
		number(x[1])
		number(x[2])
		number(x[3])
	}
	return string(b)
}

// call does a call as a store does.
func (s *moduleState) call(c algo.Call) (o headgate.Outcome) {
	s.room(c)
	algo.Apply(&c, s.l, s.words, &o)
	return o
}

func (s *moduleState) room(c algo.Call) {
	if n := algo.Need(&c, s.l, s.words); n > len(s.words) {
		words := make([]int64, n)
		algo.Grow(&c, s.l, words, s.words)
		s.words = words
	}
}

func (s *moduleState) init(l *headgate.Prepared, now int64) {
	s.l, s.words = l, make([]int64, algo.Words(l))
	algo.Init(l, s.words, now)
}

// answer returns what the driver answers for a step that left the state so.
func (s *moduleState) answer(o headgate.Outcome, found string) string {
	packed := s.pack()
	if len(packed) > 4096 {
		packed = fmt.Sprintf("%x", sha1.Sum([]byte(packed)))
	}
	return fmt.Sprintf("%v %v %d %d %d %d %d %d %d %d %s %s", o.Allowed, o.Never, o.Limit, o.Used, o.Remaining, o.Overage,
		o.RetryAfter.Microseconds(), o.ResetAfter.Microseconds(), o.Delay.Microseconds(), o.ResetsAt,
		instantText(algo.AbsentAt(s.l, s.words)), instantText(s.seen())) + "\n" + found + "\n" + packed
}

func instantText(at int64) string {
	if at == math.MinInt64 {
		return "-inf"
	}
	return strconv.FormatInt(at, 10)
}

package redisstore

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/headgate/headgate"
)

// A server that was restarted, promoted or emptied may have lost writes. So that
// no call is decided by another incarnation than its caller thinks, the text of
// the script holds the run id of the server: another server does not know it,
// answers NOSCRIPT and has to be asked for its epoch first. A server that was
// emptied keeps its run id and its scripts; so every call also names the marker
// that the partition must show.
//
// The marker stands in the partition itself and is replicated with it:
//
//	RUN SEQ SINCE ID
//
// RUN is the run id of the server that it is valid for, SEQ grows with every
// incarnation, SINCE and ID are those of [headgate.Epoch]. Whoever first meets
// another server than the marker's writes the next one; all others take it over.

// leaseLife is how long leases of an earlier incarnation may still be spent
// after the next one was noticed.
const leaseLife = time.Second

// maxSeq keeps an epoch's id below 2^53.
const maxSeq = 1<<21 - 1

// incarnation is one life of a server, for one partition.
type incarnation struct {
	run    string // the server's run id
	sha    string // of the script
	marker string // as the server shows it
	seq    int64
	epoch  headgate.Epoch
}

// parseMarker reads what the handshake answered.
func parseMarker(text string) (*incarnation, error) {
	f := strings.Fields(text)
	if len(f) != 4 {
		return nil, fmt.Errorf("marker %q: must have 4 fields", text)
	}
	inc := &incarnation{run: f[0], marker: text}
	var n [3]int64
	for i := range n {
		var err error
		if n[i], err = strconv.ParseInt(f[1+i], 10, 64); err != nil || n[i] < 0 || n[i] > headgate.MaxInt {
			return nil, fmt.Errorf("marker %q: %q is not 0 to 2^53", text, f[1+i])
		}
	}
	inc.seq, inc.epoch = n[0], headgate.Epoch{ID: uint64(n[2]), Since: n[1]}
	return inc, nil
}

// markerWord begins the answer of a script whose partition shows another marker.
const markerWord = "HGEPOCH"

// markerCheck precedes the script's own text. The last key is the marker's, the
// last argument what it must be; the script does not see them.
const markerCheck = `if redis.call('GET', KEYS[#KEYS]) ~= ARGV[#ARGV] then return redis.error_reply('` + markerWord + ` another incarnation') end
KEYS[#KEYS], ARGV[#ARGV] = nil, nil
`

// handshakeScript finds the epoch of a partition.
//
//	KEYS[1] the marker's key
//	ARGV    what the caller knows as marker or "", how long leases may live in µs,
//	        1 if the state of another incarnation is taken as it is
//
// It answers the marker, and 1 if it wrote another one than it found.
var handshakeScript = fmt.Sprintf(`
local run = redis.call('INFO', 'server'):match('run_id:(%%x+)')
local function read(text)
  if not text then return nil end
  local r, seq, since, id = text:match('^(%%x+) (%%d+) (%%d+) (%%d+)$')
  seq = tonumber(seq)
  if not seq or seq < 1 or seq > %d then return nil end
  return { text = text, run = r, seq = seq, since = since, id = id }
end
local found, known = read(redis.call('GET', KEYS[1])), read(ARGV[1])
local newest = found
if known and (not found or known.seq > found.seq) then newest = known end
local seq, since, id
local t = redis.call('TIME')
if not newest then
  seq, since = 1, '0'
elseif ARGV[3] == '1' then
  seq, since, id = newest.seq, newest.since, newest.id
elseif found and found.run == run and (not known or found.text == known.text or found.seq > known.seq) then
  return { found.text, 0 }
else
  seq, since = newest.seq + 1, ('%%.0f'):format(t[1] * 1000000 + t[2] + ARGV[2])
  if seq > %d then return redis.error_reply('ERR no epochs are left') end
end
id = id or ('%%.0f'):format(seq * 4294967296 + (tonumber(run:sub(1, 8), 16) + t[1] * 1000000 + t[2]) %% 4294967296)
local text = ('%%s %%d %%s %%s'):format(run, seq, since, id)
if found and found.text == text then return { text, 0 } end
redis.call('SET', KEYS[1], text)
return { text, 1 }
`, maxSeq, maxSeq)

// scripts remembers the SHA-1 of the script of every incarnation that was met.
type scripts struct {
	mu  sync.Mutex
	sha map[string]string // by run id
}

// text returns the script of an incarnation.
func (*scripts) text(run string) string { return markerCheck + source(run) }

// of returns the SHA-1 of an incarnation's script.
func (s *scripts) of(run string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sha == nil {
		s.sha = make(map[string]string)
	}
	if s.sha[run] == "" {
		sum := sha1.Sum([]byte(s.text(run)))
		s.sha[run] = hex.EncodeToString(sum[:])
	}
	return s.sha[run]
}

// A failover concerns many partitions at once: only so many shake hands at a time.
// They are counted in groups of neighbours, which mostly stand on one server, so that
// one that does not answer holds up few others.
const (
	shakingGroups  = 16
	shakingsAtOnce = 2
	handshakeTime  = 2 * time.Second // bounds one handshake
)

// handshake asks the server of a partition for its epoch and sees to it that the
// server has the script. All goes through one connection, so to one life of one
// server. known is the incarnation that was known, or nil.
func (s *Store) handshake(partition int, known *incarnation) (*incarnation, error) {
	shaking := s.handshakes[partition*shakingGroups/len(s.partitions)]
	shaking <- struct{}{}
	defer func() { <-shaking }()
	s.stats.handshakes.Add(1)
	ctx, cancel := context.WithTimeout(s.ground.life, handshakeTime)
	defer cancel()
	if ctx.Err() != nil {
		return nil, errClosed
	}
	h := &handshaker{s: s, ctx: ctx, partition: partition, known: known}
	err := s.client.Dedicated(h.run)
	if to, ask := redirected(err); to != "" {
		// The slot is elsewhere, and the client does not know yet.
		node := s.client.Nodes()[to]
		if node == nil {
			return nil, err
		}
		h.ask = ask
		err = node.Dedicated(h.run)
	}
	if err != nil {
		return nil, err
	}
	s.announce(partition, known, h)
	return h.found, nil
}

// redirected returns the address to which a cluster sends us on, and whether only
// for this time.
func redirected(err error) (addr string, ask bool) {
	answer, ok := rueidis.IsRedisErr(err)
	if !ok {
		return "", false
	}
	if addr, ok = answer.IsMoved(); ok {
		return addr, false
	}
	addr, ask = answer.IsAsk()
	return addr, ask
}

// handshaker is one handshake.
type handshaker struct {
	s         *Store
	ctx       context.Context
	partition int
	known     *incarnation
	ask       bool

	found   *incarnation
	changed bool // the marker was written
}

// run does the handshake on a connection.
func (h *handshaker) run(c rueidis.DedicatedClient) error {
	known, lenient := "", "0"
	if h.known != nil {
		known = h.known.marker
	}
	if h.s.lenient {
		lenient = "1"
	}
	eval := c.B().Eval().Script(handshakeScript).Numkeys(1).Key(h.s.scheme.marker(h.partition)).
		Arg(known, strconv.FormatInt(leaseLife.Microseconds(), 10), lenient).Build()
	var result rueidis.RedisResult
	if h.ask {
		result = c.DoMulti(h.ctx, c.B().Asking().Build(), eval)[1]
	} else {
		result = c.Do(h.ctx, eval)
	}
	answer, err := result.ToArray()
	if err != nil {
		return err
	}
	if len(answer) != 2 {
		return &failure{kind: kindProtocol, err: fmt.Errorf("the handshake answered %d values", len(answer))}
	}
	text, err := answer[0].ToString()
	if err != nil {
		return err
	}
	written, err := answer[1].AsInt64()
	if err != nil {
		return err
	}
	inc, err := parseMarker(text)
	if err != nil {
		return &failure{kind: kindProtocol, err: err}
	}
	inc.sha = h.s.scripts.of(inc.run)
	if err := h.load(c, inc); err != nil {
		return err
	}
	h.found, h.changed = inc, written == 1
	return nil
}

// load gives the server the script, if it does not have it.
func (h *handshaker) load(c rueidis.DedicatedClient, inc *incarnation) error {
	there, err := c.Do(h.ctx, c.B().ScriptExists().Sha1(inc.sha).Build()).AsIntSlice()
	if err != nil {
		return err
	}
	if len(there) == 1 && there[0] == 1 {
		return nil
	}
	sha, err := c.Do(h.ctx, c.B().ScriptLoad().Script(h.s.scripts.text(inc.run)).Build()).ToString()
	if err != nil {
		return err
	}
	if sha != inc.sha {
		return &failure{kind: kindProtocol, err: fmt.Errorf("the server gives the script the hash %q, not %q", sha, inc.sha)}
	}
	return nil
}

// announce logs what the handshake found, once for every server and epoch.
func (s *Store) announce(partition int, known *incarnation, h *handshaker) {
	inc := h.found
	if known == nil && !h.changed || known != nil && known.marker == inc.marker {
		return
	}
	if inc.seq == 1 && inc.epoch.Since == 0 && known == nil {
		return // new, everything full
	}
	s.mu.Lock()
	if s.announced == nil {
		s.announced = make(map[string]int64)
	}
	told := s.announced[inc.run] >= inc.seq
	s.announced[inc.run] = max(s.announced[inc.run], inc.seq)
	s.mu.Unlock()
	if told {
		return
	}
	if s.lenient {
		s.log.Warn("redis: another incarnation of the server; its state is taken as it is (strict=false), though it may lack charges",
			"run_id", inc.run, "partition", partition)
		return
	}
	s.log.Warn("redis: another incarnation of the server, which may lack charges; limits start empty",
		"run_id", inc.run, "partition", partition, "epoch", inc.seq, "since", time.UnixMicro(min(inc.epoch.Since, math.MaxInt64)).UTC())
}

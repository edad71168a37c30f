package redisstore

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"strconv"
	"sync"

	"github.com/headgate/headgate"
)

// slots is the number of hash slots of a cluster, clusterPartitions the number of
// partitions that it gets: enough to spread over many masters, few enough that
// callers of one partition meet.
const (
	slots             = 16384
	clusterPartitions = 1024
)

// scheme says where budgets stand. All budgets of an owner are fields of one
// hash, so that one script call sees them together; an owner that is empty, as
// that of an application's limits, has a hash for every limit instead, or they
// would all be one hot key.
type scheme struct {
	// prefix begins every key; it has no braces.
	prefix string
	// tags are the hash tags of the partitions of a cluster; nil where there is
	// one partition.
	tags []string
	clock
	calendars calendars
}

// newScheme returns the scheme of a cluster or of a single server.
func newScheme(prefix string, cluster bool) *scheme {
	s := &scheme{prefix: prefix}
	s.clock.begin()
	if cluster {
		s.tags = tags()
	}
	return s
}

// partitions returns the number of partitions, 1 or more. What is in one can be
// decided by one call.
func (s *scheme) partitions() int { return max(1, len(s.tags)) }

// digest is a stable hash of what a key is for. Its first byte keeps owners and
// limits apart, so that no owner can name another's place.
func digest(owner string, l *headgate.Prepared) [sha256.Size]byte {
	var space [128]byte
	buf := space[:0]
	if owner != "" {
		buf = append(append(buf, 'o'), owner...)
	} else {
		buf = append(buf, 'l')
		buf = binary.BigEndian.AppendUint64(buf, l.ID[0])
		buf = binary.BigEndian.AppendUint64(buf, l.ID[1])
	}
	return sha256.Sum256(buf)
}

// partition returns where the budget of an owner under a limit stands.
func (s *scheme) partition(owner string, l *headgate.Prepared) int {
	if s.tags == nil {
		return 0
	}
	d := digest(owner, l)
	return int(binary.BigEndian.Uint16(d[16:])) % len(s.tags)
}

// keyBytes is the part of a digest that goes into a key.
const keyBytes = 16

// key returns the hash in which the budget of an owner under a limit is a field.
func (s *scheme) key(owner string, l *headgate.Prepared) string {
	var space [64]byte
	d := digest(owner, l)
	buf := append(space[:0], s.prefix...)
	if s.tags != nil {
		buf = append(buf, '{')
		buf = append(buf, s.tags[int(binary.BigEndian.Uint16(d[16:]))%len(s.tags)]...)
		buf = append(buf, '}')
	}
	return string(base64.RawURLEncoding.AppendEncode(buf, d[:keyBytes]))
}

// marker returns the key under which a partition's servers note their epoch. It
// is shorter than any budget's.
func (s *scheme) marker(partition int) string {
	if s.tags == nil {
		return s.prefix + "epoch"
	}
	return s.prefix + "{" + s.tags[partition] + "}epoch"
}

// tags returns the hash tags of the partitions of a cluster: for every 16th slot
// the first tag of three letters that falls into it. They are the same in every
// version, or state would be lost.
var tags = sync.OnceValue(func() []string {
	const letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	const every = slots / clusterPartitions
	all := make([]string, clusterPartitions)
	missing := len(all)
	for i := 0; missing > 0; i++ {
		n := len(letters)
		tag := string([]byte{letters[i/n/n], letters[i/n%n], letters[i%n]})
		if slot := slotOf(tag); slot%every == 0 && all[slot/every] == "" {
			all[slot/every] = tag
			missing--
		}
	}
	return all
})

// strangers returns an owner for every partition of a cluster, whose budgets stand
// there.
var strangers = sync.OnceValue(func() []string {
	s := &scheme{tags: tags()}
	all := make([]string, clusterPartitions)
	missing := len(all)
	for i := 0; missing > 0; i++ {
		owner := "\x00" + strconv.Itoa(i)
		if p := s.partition(owner, nil); all[p] == "" {
			all[p] = owner
			missing--
		}
	}
	return all
})

// slotOf returns the hash slot of a tag: CRC-16/XMODEM.
func slotOf(tag string) int {
	var crc uint16
	for i := range len(tag) {
		crc ^= uint16(tag[i]) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return int(crc % slots)
}

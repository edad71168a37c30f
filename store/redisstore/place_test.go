package redisstore

import (
	"crypto/sha256"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/redisstore/redistest"
)

// The tags are what the keys of all versions have: others would lose all state.
func TestTagsNeverChange(t *testing.T) {
	all := tags()
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(strings.Join(all, " "))))
	if want := "5c22b455343815b8cb00010e8daaf8e66b8f929671c1f01026b3bc5fdbcb798c"; sum != want {
		t.Errorf("the tags have changed: %s, want %s", sum, want)
	}
	for i, tag := range all {
		if len(tag) != 3 || slotOf(tag) != i*slots/clusterPartitions {
			t.Fatalf("partition %d has tag %q of slot %d", i, tag, slotOf(tag))
		}
	}
}

// The servers put a partition's keys where we think.
func TestServersAgreeOnSlots(t *testing.T) {
	server := redistest.SharedCluster(t).Masters[0]
	s := newScheme("hg:", true)
	for i := 0; i < clusterPartitions; i += 97 {
		if slot := server.Do(t, "CLUSTER", "KEYSLOT", s.marker(i)); slot != int64(i*slots/clusterPartitions) {
			t.Errorf("the marker of partition %d has slot %v", i, slot)
		}
	}
	l := ten(t)
	for i := range 50 {
		owner := "owner " + strconv.Itoa(i)
		if slot := server.Do(t, "CLUSTER", "KEYSLOT", s.key(owner, l)); slot != int64(s.partition(owner, l)*slots/clusterPartitions) {
			t.Errorf("%q has slot %v and partition %d", owner, slot, s.partition(owner, l))
		}
	}
}

// All budgets of an owner stand together, and spread out with the owners.
func TestOwnersStandTogether(t *testing.T) {
	a, b := prepare(t, headgate.PerSecond(1).WithName("a")), prepare(t, headgate.PerSecond(1).WithName("b"))
	s := newScheme("hg:", true)
	hit := make(map[int]bool)
	for i := range 10_000 {
		owner := strconv.Itoa(i)
		if s.key(owner, a) != s.key(owner, b) || s.partition(owner, a) != s.partition(owner, b) {
			t.Fatalf("the budgets of %q stand apart", owner)
		}
		hit[s.partition(owner, a)] = true
	}
	if len(hit) != clusterPartitions {
		t.Errorf("10000 owners stand in %d partitions", len(hit))
	}
	// Limits without an owner have places of their own.
	if s.key("", a) == s.key("", b) {
		t.Error("two limits of the empty owner share a key")
	}
}

// No choice of owners, limits and prefixes makes two places meet.
func TestPlacesDoNotMeet(t *testing.T) {
	l := prepare(t, headgate.PerSecond(1).WithName("a"))
	id := string(binaryID(l))
	owners := []string{"", "a", "b", "l" + id, id, "o", "oa", "epoch", "nodes", "\x00", "{tag}", strings.Repeat("x", 200), strings.Repeat("x", 201)}
	for _, cluster := range []bool{false, true} {
		seen := make(map[string]string)
		meet := func(what, key string) {
			if other, ok := seen[key]; ok {
				t.Errorf("cluster %v: %s and %s have the key %q", cluster, what, other, key)
			}
			seen[key] = what
		}
		for _, prefix := range []string{"hg:", "hg:a", "h", "", "hg:hg:"} {
			s := newScheme(prefix, cluster)
			for _, owner := range owners {
				meet(fmt.Sprintf("%q of %q", owner, prefix), s.key(owner, l))
			}
			for i := range min(2, s.partitions()) {
				meet(fmt.Sprintf("the marker of %q", prefix), s.marker(i))
			}
			meet(fmt.Sprintf("the nodes of %q", prefix), s.prefix+"nodes")
		}
	}
}

func binaryID(l *headgate.Prepared) (id []byte) {
	for _, n := range l.ID {
		for shift := 56; shift >= 0; shift -= 8 {
			id = append(id, byte(n>>shift))
		}
	}
	return id
}

func TestStrangersStandInTheirPartitions(t *testing.T) {
	s := newScheme("hg:", true)
	for i, owner := range strangers() {
		if p := s.partition(owner, never.Limit); p != i || owner == "" {
			t.Fatalf("%q stands in %d, not %d", owner, p, i)
		}
	}
}

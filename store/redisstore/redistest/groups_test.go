package redistest_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/headgate/headgate/store/redisstore/redistest"
)

func TestSentinel(t *testing.T) {
	t.Parallel()
	tr := redistest.Sentinel(t)
	first := tr.Primary(t)
	first.Do(t, "SET", "a", "1")
	second := tr.Failover(t)
	if second == first {
		t.Fatal("the primary is the old one")
	}
	if got := second.Do(t, "INCR", "a"); got != int64(2) {
		t.Errorf("a is %v after the failover", got)
	}
	if _, err := first.Try("SET", "a", "1"); err == nil || !strings.HasPrefix(err.Error(), "READONLY") {
		t.Errorf("the old primary: %v", err)
	}
	third := tr.KillPrimary(t)
	if third == second || tr.Primary(t) != third {
		t.Fatal("the primary is the killed one")
	}
	third.Do(t, "SET", "a", "3")
	tr.Revive(t, second)
	if want := "sentinel=headgate"; !strings.HasSuffix(tr.URL(), want) || strings.Count(tr.URL(), ",") != 2 {
		t.Errorf("URL %s", tr.URL())
	}
}

// "foo" is in slot 12182 and "{foo}bar" too; "bar" is in slot 5061.
func TestCluster(t *testing.T) {
	r := redistest.SharedCluster(t)
	if r != redistest.SharedCluster(t) {
		t.Fatal("two shared clusters")
	}
	r.Masters[2].Do(t, "SET", "foo", "1")
	if _, err := r.Masters[0].Try("SET", "foo", "1"); err == nil || err.Error() != "MOVED 12182 "+r.Masters[2].Addr() {
		t.Errorf("SET elsewhere: %v", err)
	}
	r.FlushAll(t)
	if got := r.Masters[2].Do(t, "GET", "foo"); got != nil {
		t.Errorf("foo is %v", got)
	}
	if a, b := r.Owner(t, 12182), r.Owner(t, 5061); a != 2 || b != 0 {
		t.Errorf("owners %d and %d", a, b)
	}
}

func TestMigration(t *testing.T) {
	t.Parallel()
	r := redistest.Cluster(t, 0)
	from, to := r.Masters[2], r.Masters[0]
	from.Do(t, "MSET", "foo", "1", "{foo}bar", "2")
	m := r.StartMigration(t, 12182, 0)
	m.Move(t, "foo")
	if _, err := from.Try("GET", "foo"); err == nil || err.Error() != "ASK 12182 "+to.Addr() {
		t.Errorf("GET of what has moved: %v", err)
	}
	if _, err := from.Try("MGET", "foo", "{foo}bar"); err == nil || !strings.HasPrefix(err.Error(), "TRYAGAIN") {
		t.Errorf("MGET of both: %v", err)
	}
	if keys := m.Keys(t); len(keys) != 1 || keys[0] != "{foo}bar" {
		t.Errorf("%q have not moved", keys)
	}
	m.Finish(t)
	if got := to.Do(t, "GET", "{foo}bar"); got != "2" {
		t.Errorf("{foo}bar is %v", got)
	}
	r.MigrateSlot(t, 12182, 1)
	if r.Owner(t, 12182) != 1 {
		t.Error("the slot has not moved")
	}
}

func TestClusterFailover(t *testing.T) {
	t.Parallel()
	r := redistest.Cluster(t, 1)
	old := r.Masters[1]
	if now := r.Failover(t, 1); now == old || r.Replicas[1][0] != old {
		t.Fatal("the master is the old one")
	}
	old = r.Masters[2]
	old.Do(t, "SET", "foo", "1")
	old.Replicate(t, 1)
	now := r.KillMaster(t, 2)
	if got := now.Do(t, "GET", "foo"); got != "1" {
		t.Errorf("foo is %v", got)
	}
	r.Revive(t, old)
	if _, err := old.Try("SET", "foo", "1"); err == nil {
		t.Error("the old master takes writes")
	} else if _, ok := errors.AsType[redistest.Error](err); !ok {
		t.Error(err)
	}
}

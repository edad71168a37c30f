package sqlitestore_test

import (
	"path/filepath"
	"testing"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/sqlitestore"
	"github.com/headgate/headgate/store/storetest"
)

var _ headgate.Authority = (*sqlitestore.Store)(nil)

func TestAuthority(t *testing.T) {
	open := fresh(t)
	storetest.RunAuthority(t, func(t *testing.T) headgate.Authority { return open(t).(headgate.Authority) }, storetest.Capabilities{})
}

// Who holds a lease goes on with it after a restart, but not with a store that was
// restored from a backup and may lack what was granted since.
func TestLeaseOutlivesTheProcess(t *testing.T) {
	base := t.TempDir()
	c := sqlitestore.Config{Dir: filepath.Join(base, "data")}
	yearly, err := headgate.QuotaPer(5000, headgate.Year).Prepare()
	if err != nil {
		t.Fatal(err)
	}
	r := headgate.LeaseRequest{Limit: yearly, Owner: "ann", Holder: [2]uint64{1, 2}, Want: 300}
	ask := func(s *sqlitestore.Store) headgate.LeaseReply {
		t.Helper()
		var replies [1]headgate.LeaseReply
		if err := s.Acquire(t.Context(), []headgate.LeaseRequest{r}, replies[:]); err != nil {
			t.Fatal(err)
		}
		return replies[0]
	}
	s := open(t, c)
	first := ask(s)
	if first.Granted != 300 || first.State.Used != 300 {
		t.Fatalf("%+v", first)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, c)
	if got := ask(s); got.Epoch != first.Epoch || got.Granted != 300 || got.State.Used != 300 || !got.State.Leased {
		t.Errorf("the same request again: %+v", got)
	}
	r.Epoch, r.Window, r.Granted, r.Settled, r.Returned, r.Want = first.Epoch, first.Window, 300, 300, 200, 0
	if got := ask(s); got.Status != headgate.LeaseOK || got.State.Used != 100 || got.State.Leased {
		t.Errorf("returned: %+v", got)
	}
	file, to := filepath.Join(base, "backup"), filepath.Join(base, "restored")
	if err := s.Backup(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	if err := sqlitestore.Restore(t.Context(), file, to, false); err != nil {
		t.Fatal(err)
	}
	if got := ask(open(t, sqlitestore.Config{Dir: to})); got.Status != headgate.LeaseStale || got.Epoch == first.Epoch || got.State.Remaining != 0 {
		t.Errorf("restored: %+v", got)
	}
}

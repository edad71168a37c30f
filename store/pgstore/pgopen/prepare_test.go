package pgopen

import "testing"

func TestOldServer(t *testing.T) {
	if err := checkVersion(150000); err != nil {
		t.Error(err)
	}
	if err := checkVersion(149999); err == nil || err.Error() != "the server is PostgreSQL 14: must be 15 or later" {
		t.Errorf("error %v", err)
	}
}

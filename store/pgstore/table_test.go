package pgstore

import (
	"errors"
	"math"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/headgate/headgate/store/cas"
	"github.com/headgate/headgate/store/pgstore/pgtest"
)

func key(n byte) cas.Key { return cas.Key{0: n, 15: 7} }

// write is a swap of the item that was found as old.
func write(old cas.Item, version uint64, value string) cas.Swap {
	return cas.Swap{Old: old, Write: true, New: cas.Item{Key: old.Key, Version: version, Value: []byte(value), Expires: math.MaxInt64}}
}

func compare(old cas.Item) cas.Swap { return cas.Swap{Old: old} }

func absent(k cas.Key) cas.Item { return cas.Item{Key: k} }

func change(items ...cas.Swap) cas.Change { return cas.Change{Items: items} }

// readAll returns the items of keys and the moment.
func readAll(t testing.TB, table *table, keys ...cas.Key) ([]cas.Item, cas.Moment) {
	t.Helper()
	items := make([]cas.Item, len(keys))
	for i := range keys {
		items[i].Key = keys[i]
	}
	m, err := table.Read(t.Context(), items)
	if err != nil {
		t.Fatal(err)
	}
	return items, m
}

func swapAll(t testing.TB, table *table, changes ...cas.Change) cas.Moment {
	t.Helper()
	_, m := readAll(t, table)
	got, err := table.Swap(t.Context(), m.Epoch.ID, changes)
	if err != nil {
		t.Fatal(err)
	}
	if got.Epoch != m.Epoch || got.Now < m.Now {
		t.Errorf("moment %+v after %+v", got, m)
	}
	return got
}

func TestSwap(t *testing.T) {
	table := openStore(t, Config{}).table
	const version = math.MaxUint64 - 3 // beyond int64
	made := []cas.Change{change(write(absent(key(1)), version, "one"), compare(absent(key(2)))), change(write(absent(key(3)), 5, "three"))}
	swapAll(t, table, made...)
	if !made[0].Done || !made[1].Done {
		t.Fatalf("changes of what was not there: %+v", made)
	}
	items, _ := readAll(t, table, key(3), key(2), key(1))
	want := []cas.Item{
		{Key: key(3), Version: 5, Value: []byte("three"), Expires: math.MaxInt64}, {Key: key(2)},
		{Key: key(1), Version: version, Value: []byte("one"), Expires: math.MaxInt64},
	}
	if !reflect.DeepEqual(items, want) {
		t.Fatalf("items %+v, want %+v", items, want)
	}
	three, one := want[0], want[2]
	// One of the items differs in each of the first four, and nothing of them is done.
	some := []cas.Change{
		change(write(cas.Item{Key: key(1), Version: 9}, 10, "x"), write(absent(key(4)), 11, "x")),
		change(compare(cas.Item{Key: key(2), Version: 1}), write(absent(key(5)), 12, "x")),
		change(compare(cas.Item{Key: key(6), Version: 1})),
		change(write(absent(key(7)), 13, ""), compare(absent(key(8)))),
		change(write(three, 14, "")),
	}
	swapAll(t, table, some...)
	for i, done := range []bool{false, false, false, true, true} {
		if some[i].Done != done {
			t.Errorf("change %d: done %v", i, some[i].Done)
		}
	}
	if got := some[0].Items[0].Old; !reflect.DeepEqual(got, one) {
		t.Errorf("there is %+v, want %+v", got, one)
	}
	items, _ = readAll(t, table, key(1), key(2), key(3), key(4), key(5), key(6), key(7), key(8))
	for i := range items {
		if i == 0 && !reflect.DeepEqual(items[i], one) || i > 0 && items[i].Version != 0 {
			t.Errorf("item %d is %+v", i+1, items[i])
		}
	}
}

// Changes of one item each are made each by itself, in one statement: also where all
// of them are of rows that are there.
func TestSwapOfSingleItems(t *testing.T) {
	table := openStore(t, Config{}).table
	at := func(n byte, version uint64) cas.Item { return cas.Item{Key: key(n), Version: version} }
	for _, step := range []struct {
		name    string
		changes []cas.Change
		done    []bool
		want    []uint64 // the versions of the first keys, afterwards
	}{
		{"new rows", []cas.Change{change(write(at(2, 0), 12, "x")), change(write(at(1, 0), 11, "x"))}, []bool{true, true}, []uint64{11, 12, 0}},
		{"rows that are there", []cas.Change{change(write(at(2, 12), 22, "y")), change(write(at(1, 11), 21, "y"))}, []bool{true, true}, []uint64{21, 22, 0}},
		{"one of them was changed", []cas.Change{change(write(at(1, 11), 31, "z")), change(write(at(2, 22), 32, "z"))}, []bool{false, true}, []uint64{21, 32, 0}},
		{"all of them were changed", []cas.Change{change(write(at(1, 11), 41, "z")), change(write(at(3, 9), 43, "z"))}, []bool{false, false}, []uint64{21, 32, 0}},
		{"everything", []cas.Change{
			change(write(at(1, 21), 51, "z")), change(write(at(2, 0), 52, "z")), change(write(at(3, 0), 53, "z")), change(compare(at(4, 0))), change(compare(at(5, 1))),
		}, []bool{true, false, true, true, false}, []uint64{51, 32, 53}},
		{"what was made is made again", []cas.Change{change(write(at(1, 21), 51, "z"))}, []bool{false}, []uint64{51, 32, 53}},
	} {
		before, _ := readAll(t, table, key(1), key(2), key(3), key(4), key(5))
		swapAll(t, table, step.changes...)
		for i := range step.changes {
			x := &step.changes[i]
			if x.Done != step.done[i] {
				t.Errorf("%s: change %d was made: %v", step.name, i, x.Done)
			}
			if old := x.Items[0].Old; !x.Done && !reflect.DeepEqual(old, before[old.Key[0]-1]) {
				t.Errorf("%s: change %d found %+v, and there was %+v", step.name, i, old, before[old.Key[0]-1])
			}
		}
		items, _ := readAll(t, table, key(1), key(2), key(3))
		for i, version := range step.want {
			if items[i].Version != version {
				t.Errorf("%s: item %d is %+v, want version %d", step.name, i+1, items[i], version)
			}
		}
	}
}

func TestSwapOfAnotherEpoch(t *testing.T) {
	table := openStore(t, Config{}).table
	swapAll(t, table, change(write(absent(key(2)), 2, "x")))
	_, m := readAll(t, table)
	two := cas.Item{Key: key(2), Version: 2}
	for _, changes := range [][]cas.Change{
		{change(write(absent(key(1)), 1, "x"))}, {change(write(two, 3, "x"))}, {change(compare(two))}, {change(write(absent(key(1)), 1, "x"), write(two, 3, "x"))},
	} {
		_, err := table.Swap(t.Context(), m.Epoch.ID+1, changes)
		if f, ok := errors.AsType[*cas.Failure](err); !ok || !f.Stale || !f.Unsent {
			t.Errorf("error %v", err)
		}
	}
	if items, _ := readAll(t, table, key(1), key(2)); items[0].Version != 0 || items[1].Version != 2 {
		t.Errorf("items %+v", items)
	}
}

// Of inserts of the same rows at once, and of some that each need the other's row
// to be absent, one is made and the others are told.
func TestInsertsAtOnce(t *testing.T) {
	table := openStore(t, Config{}).table
	_, m := readAll(t, table)
	for round := range byte(50) {
		a, b := absent(key(2*round)), absent(key(2*round+1))
		changes := []cas.Change{
			change(write(a, 1, "x"), compare(b)), change(write(b, 2, "x"), compare(a)), change(write(b, 3, "x"), write(a, 4, "x")),
		}
		var wg sync.WaitGroup
		for i := range changes {
			wg.Go(func() {
				for {
					_, err := table.Swap(t.Context(), m.Epoch.ID, changes[i:i+1])
					if err == nil {
						return
					}
					if f, ok := errors.AsType[*cas.Failure](err); !ok || !f.Unsent || !f.Passing {
						t.Errorf("change %d: %v", i, err)
						return
					}
				}
			})
		}
		wg.Wait()
		done := []bool{changes[0].Done, changes[1].Done, changes[2].Done}
		n := 0
		for _, d := range done {
			if d {
				n++
			}
		}
		if n != 1 {
			t.Fatalf("round %d: done %v, want one of them", round, done)
		}
	}
}

// Statements look rows up by their keys, also those that were planned when the table
// was empty.
func TestPlan(t *testing.T) {
	server := pgtest.Shared(t)
	url := server.Schema(t)
	table := openStore(t, Config{URL: url}).table
	server.Exec(t, url, `vacuum analyze headgate_item`)
	for _, c := range []struct{ name, args string }{
		{moveName, `1, '{}', '{}', '{}', '{}', '{}', 1`},
		{eachName, `1, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', 1`},
		{readName, `'{}'`},
	} {
		rows, err := table.pool.Query(t.Context(), "explain execute "+c.name+"("+c.args+")")
		if err != nil {
			t.Fatal(err)
		}
		plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		looks := 0
		for i, line := range plan {
			if !strings.Contains(line, "Scan") || !strings.Contains(line, " on headgate_item") {
				continue
			}
			looks++
			if !strings.Contains(plan[i+1], "Index Cond") {
				t.Errorf("%s goes through the table:\n%s", c.name, strings.Join(plan, "\n"))
			}
		}
		if looks == 0 {
			t.Errorf("%s does not look at the table:\n%s", c.name, strings.Join(plan, "\n"))
		}
	}
}

// Updates stay within their pages.
func TestUpdatesAreHot(t *testing.T) {
	server := pgtest.Shared(t)
	url := server.Schema(t)
	table := openStore(t, Config{URL: url + "&pool_max_conns=1"}).table
	old := absent(key(1))
	const updates = 200
	for i := range uint64(updates + 1) {
		w := write(old, i+1, "some value")
		swapAll(t, table, change(w))
		old = w.New
	}
	// Else a server tells after 10 s without work.
	if _, err := table.pool.Exec(t.Context(), `select pg_stat_force_next_flush()`); err != nil {
		t.Fatal(err)
	}
	pgtest.Wait(t, "statistics", func() error {
		n := server.Int(t, url, `select n_tup_upd from pg_stat_user_tables where relid = 'headgate_item'::regclass`)
		if n < updates {
			return errors.New("they are not there yet")
		}
		return nil
	})
	if hot := server.Int(t, url, `select n_tup_hot_upd from pg_stat_user_tables where relid = 'headgate_item'::regclass`); hot < updates*9/10 {
		t.Errorf("%d of %d updates were HOT", hot, updates)
	}
}

func TestSweep(t *testing.T) {
	table := openStore(t, Config{ManualClockForTest: true}).table
	_, m := readAll(t, table)
	var changes []cas.Change
	for i := range byte(3) {
		w := write(absent(key(i)), 1, "x")
		w.New.Expires = m.Now - (time.Duration(i) * 50 * time.Second).Microseconds() // 0, 50 and 100 s ago
		changes = append(changes, change(w))
	}
	swapAll(t, table, changes...)
	if n, err := table.sweep(t.Context(), time.Hour); n != 1 || err != nil {
		t.Errorf("deleted %d, %v", n, err)
	}
	items, _ := readAll(t, table, key(0), key(1), key(2))
	if items[0].Version == 0 || items[1].Version == 0 || items[2].Version != 0 {
		t.Errorf("items %+v", items)
	}
	// Somebody has just done it.
	w := write(absent(key(9)), 1, "x")
	w.New.Expires = 1
	swapAll(t, table, change(w))
	if n, err := table.sweep(t.Context(), time.Hour); n != 0 || err != nil {
		t.Errorf("deleted %d, %v", n, err)
	}
	if n, err := table.sweep(t.Context(), 0); n != 1 || err != nil {
		t.Errorf("deleted %d, %v", n, err)
	}
}

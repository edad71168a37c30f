package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/store/sqlitestore"
)

// crashTimed is set by `make crash`.
var crashTimed = flag.Bool("crash.timed", false, "judge how long a start takes, after a kill with a million keys")

// fillKeys, in the environment, has TestCrashManyKeys fill the data directory
// fillData with so many keys, say so, and wait for its end.
const fillKeys, fillData, filled = "HEADGATE_FILL_KEYS", "HEADGATE_FILL_DATA", "filled"

// fill charges so many subjects of an operation once, and then more until a good
// part of that is in the write-ahead log. It returns how many there are.
func fill(t *testing.T, data string, keys int) int {
	t.Helper()
	store, err := sqlitestore.Open(t.Context(), sqlitestore.Config{Dir: data})
	must(t, err)
	g, err := gate.Open(t.Context(), gate.Config{Policy: []byte(faultPolicy()), Store: store, QuotaPatience: patience})
	must(t, err)
	take := func(first int) error {
		requests, decisions := make([]*gate.Request, gate.MaxAtomic), make([]*gate.Decision, gate.MaxAtomic)
		for i := range requests {
			requests[i] = &gate.Request{Application: "a", Operation: "few", Subject: fmt.Sprint("s", first+i), Cost: 3, CostSaid: true}
			decisions[i] = new(gate.Decision)
		}
		_, err := g.TakeAll(t.Context(), requests, decisions)
		for _, d := range decisions {
			if err == nil && !d.Allowed {
				err = fmt.Errorf("%+v", d)
			}
		}
		return err
	}
	moved := func() time.Time {
		info, err := os.Stat(filepath.Join(data, "limits.db"))
		must(t, err)
		return info.ModTime()
	}
	const workers = 32
	last := moved()
	var fillers sync.WaitGroup
	for i := range workers {
		fillers.Go(func() {
			for first := i * gate.MaxAtomic; first < keys; first += workers * gate.MaxAtomic {
				if err := take(first); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	fillers.Wait()
	// A log of 20 MiB is moved to the database file. If it was, some more is written.
	const enough = 50
	since := enough
	for {
		if now := moved(); !now.Equal(last) {
			last, since = now, 0
		}
		if since == enough {
			return keys
		}
		must(t, take(keys))
		keys += gate.MaxAtomic
		since++
	}
}

// A start with many keys, after a kill that has left much in the write-ahead log,
// decides soon, and knows what each of them has used.
func TestCrashManyKeys(t *testing.T) {
	if n, err := strconv.Atoi(os.Getenv(fillKeys)); err == nil {
		fmt.Println(filled, fill(t, os.Getenv(fillData), n))
		_, err := io.Copy(io.Discard, os.Stdin)
		must(t, err)
		return // which leaves the directory as a crash does
	}
	keys := 10_000 // the race detector makes SQLite 30 times slower
	if *crashTimed {
		keys = 1_000_000
	}
	s := newStation(t)
	began := time.Now()
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), fmt.Sprint(fillKeys, "=", keys), fillData+"="+s.data)
	in, err := cmd.StdinPipe()
	must(t, err)
	defer in.Close()
	out, err := cmd.StdoutPipe()
	must(t, err)
	v := spawn(t, cmd)
	t.Cleanup(v.kill)
	if _, err := fmt.Fscanln(out, new(string), &keys); err != nil {
		text, _ := io.ReadAll(out)
		t.Fatalf("%v: %s\n%s", err, text, v.said())
	}
	t.Logf("%d keys in %v", keys, time.Since(began).Round(time.Millisecond))
	v.kill()
	log, err := os.Stat(s.database() + "-wal")
	must(t, err)

	v = s.serve()
	s.remain(v, "few", "s1", 96, 97)
	took := time.Since(v.began)
	t.Logf("after a kill, with a log of %d bytes: first decision after %v", log.Size(), took.Round(time.Millisecond))
	if *crashTimed && took > 2*time.Second {
		t.Errorf("the first decision took %v", took)
	}
	for n := 0; n < keys; n += keys / 97 {
		s.remain(v, "few", fmt.Sprint("s", n), 96, 97)
	}
	s.remain(v, "few", fmt.Sprint("s", keys-1), 96, 97)
	s.remain(v, "few", "nobody", 100, 100)
	s.client.CloseIdleConnections()
	v.kill()
}

// The checker of TestCrash, on a real server: a copy that was made after a stop in
// order and is put back later, with its place, is an amnesty that nobody notices
// (it is documented), and the checker does.
func TestCrashOldCopy(t *testing.T) {
	t.Setenv(endAtOnce())
	c := newCrash(t, *crashSeed)
	live := func() {
		c.start()
		c.look()
		c.begin()
		c.within(300 * time.Millisecond)
		c.ending.Store(true)
		c.over()
		c.v.stop(t)
	}
	live()
	old := filepath.Join(t.TempDir(), "old")
	copyTree(t, c.data, old)
	live() // and looks
	if len(c.findings) > 0 {
		t.Fatalf("before it: %q", c.findings)
	}
	must(t, os.RemoveAll(c.data))
	must(t, os.Rename(old, c.data))
	c.start()
	c.look()
	c.v.kill()
	gone := make(map[string]bool)
	for _, f := range c.findings {
		if strings.Contains(f, "admitted charges are gone") {
			_, limit, _ := strings.Cut(f, ", ")
			gone[strings.Fields(limit)[1]] = true
		}
	}
	if len(gone) < 3 {
		t.Errorf("gone are charges of %v; all findings: %q", gone, c.findings)
	}
	t.Logf("found of %v", gone)
}

package bench

import (
	"bytes"
	"testing"
)

// isRival holds the contestants that must be fetched and built for minutes: only
// benchmarks run them.
var isRival = map[string]bool{"envoy-redis": true, "gubernator": true}

// TestRESPDoors: what is used at a door is what redis-benchmark asked for, and one
// command more or less is found.
func TestRESPDoors(t *testing.T) {
	for _, name := range respNames {
		t.Run(name, func(t *testing.T) {
			s := respDoors[name](t)
			s.keys = 700
			if r := s.load(t, 1000, 16); r.n != 1008 || s.asked != 1008 {
				t.Fatalf("%d commands were sent and %d counted", r.n, s.asked)
			}
			if err := s.balance(); err != nil {
				t.Fatal(err)
			}
			if s.asked--; s.balance() == nil {
				t.Error("a command too many was not found")
			}
		})
	}
}

// TestGRPCDoors is the same for calls.
func TestGRPCDoors(t *testing.T) {
	for bench, contestants := range callees {
		for name, open := range contestants {
			if isRival[name] {
				continue
			}
			t.Run(bench+"/"+name, func(t *testing.T) {
				s := open(t)
				if n := s.load(t, 2001, nil); n < 2001 || n != s.asked {
					t.Fatalf("%d decisions were asked for and %d counted", n, s.asked)
				}
				if err := s.balance(); err != nil {
					t.Fatal(err)
				}
				if s.asked--; name == "floor" && s.balance() == nil {
					t.Error("a decision too many was not found")
				}
			})
		}
	}
}

// TestBatches: every key is asked for as often as the others.
func TestBatches(t *testing.T) {
	for _, of := range []int{1, decisionsPerBatch} {
		var times [callKeys]int
		for keys := range batches(of) {
			if len(keys) != of {
				t.Fatalf("%d keys, want %d", len(keys), of)
			}
			for _, key := range keys {
				times[key]++
			}
		}
		for key, n := range times {
			if n != min(of, 25) {
				t.Fatalf("batches of %d: key %d comes %d times", of, key, n)
			}
		}
	}
}

// TestCommand: the floor counts whole commands, wherever a read ends.
func TestCommand(t *testing.T) {
	const one = "*3\r\n$4\r\nINCR\r\n$0\r\n\r\n$3\r\na\r\n\r\n"
	for n := range len(one) {
		if size, _, err := command([]byte(one)[:n]); size != 0 || err != nil {
			t.Fatalf("%q: %d, %v", one[:n], size, err)
		}
	}
	if size, name, err := command([]byte(one + one)); size != len(one) || string(name) != "INCR" || err != nil {
		t.Errorf("%d %q %v", size, name, err)
	}
	for _, wrong := range []string{"PING\r\n", "*1\r\n:1\r\n", "*x\r\n", "*-1\r\n"} {
		if _, _, err := command([]byte(wrong)); err == nil {
			t.Errorf("%q passed", wrong)
		}
	}
}

func TestFields(t *testing.T) {
	m := []byte{0x08, 0x96, 0x01, 0x1d, 1, 2, 3, 4, 0x12, 2, 0x08, 7, 0x12, 2, 0x08, 9}
	if n := number(m, 1); n != 150 {
		t.Errorf("field 1: %d", n)
	}
	if d := message(m, 2); !bytes.Equal(d, []byte{0x08, 7}) {
		t.Errorf("field 2: %x", d)
	}
	var all []int64
	for _, d := range fields(m, 2) {
		all = append(all, number(d, 1))
	}
	if len(all) != 2 || all[1] != 9 {
		t.Errorf("fields 2: %v", all)
	}
	if n := number(m, 4) + number([]byte{0xff}, 1) + number([]byte{0x08}, 1); n != 0 {
		t.Errorf("what is not there: %d", n)
	}
}

// TestWebApps: each contestant lets exactly its limit pass, and answers with the page.
func TestWebApps(t *testing.T) {
	for name := range webApps {
		t.Run(name, func(t *testing.T) {
			a := openWebApp(t, name)
			gather(t, a.addr, 8).visit(t, 100, nil)
			if err := a.check(name != "bare"); err == nil {
				t.Error("another limit was not noticed")
			}
		})
	}
}

// TestProxies is the same for proxies, behind which each request that passed arrives once.
func TestProxies(t *testing.T) {
	for name := range proxies {
		t.Run(name, func(t *testing.T) {
			s := openBeforeSite(t, name)
			const n = 1000
			gather(t, s.addr, 8).visit(t, n, nil)
			if err := s.balance(n); err != nil {
				t.Error(err)
			}
			if s.balance(n+1) == nil {
				t.Error("a request too few was not noticed")
			}
			if err := s.check(proxies[name].limits); err == nil {
				t.Error("another limit was not noticed")
			}
		})
	}
}

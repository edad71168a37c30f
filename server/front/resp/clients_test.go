package resp

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"reflect"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"

	"github.com/headgate/headgate/server/front"
)

// run runs a program of Redis, which the tests need, against a door.
func run(t *testing.T, address, program string, args ...string) string {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patienceOfTests)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, append([]string{"-h", host, "-p", port}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", program, args, err, out)
	}
	return string(out)
}

func TestRedisCLI(t *testing.T) {
	g, _ := realGate(t, testPolicy)
	c := tokens(known)
	c.Gate = g
	c.Admit = func(string) front.Caller { return front.Anybody{} }
	_, address := start(t, c)
	for _, tt := range []struct {
		args []string
		want string // its start
	}{
		{[]string{"PING"}, "PONG\n"},
		{[]string{"CL.THROTTLE", "user123", "15", "30", "60"}, "0\n16\n15\n-1\n2\n"},
		{[]string{"-3", "HG.TAKE", "a", "o", "alice"}, "allowed 1\ndecision_id "},
		{[]string{"-2", "HG.TAKE", "a", "o", "alice"}, "allowed\n1\ndecision_id\n"},
		{[]string{"-3", "--json", "HG.TAKE", "a", "o", "alice"}, `{"allowed":0,"decision_id":"`},
		{[]string{"-a", "all", "--no-auth-warning", "-n", "0", "PING"}, "PONG\n"},
		{[]string{"--user", "me", "--pass", "wrong", "--no-auth-warning", "PING"}, "AUTH failed: WRONGPASS this token is not known\n"},
		{[]string{"-r", "3", "ECHO", "x"}, "x\nx\nx\n"},
		{[]string{"GET", "x"}, "ERR unknown command \"GET\", with args beginning with: \"x\"\n"},
	} {
		if got := run(t, address, "redis-cli", tt.args...); !strings.HasPrefix(got, tt.want) {
			t.Errorf("redis-cli %v: %q, want %q", tt.args, got, tt.want)
		}
	}
	// At a terminal it asks for the documentation of commands first.
	host, port, _ := net.SplitHostPort(address)
	ctx, cancel := context.WithTimeout(t.Context(), patienceOfTests)
	defer cancel()
	cmd := exec.CommandContext(ctx, "redis-cli", "-h", host, "-p", port)
	cmd.Stdin = strings.NewReader("HELLO 3\nCLIENT ID\nHG.PEEK a o bob PLAN \"\"\n")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "proto 3\n") || !strings.Contains(string(out), "allowed 1\n") {
		t.Errorf("%v %q", err, out)
	}
}

func TestRedisBenchmark(t *testing.T) {
	f := new(fakeGate)
	_, address := start(t, Config{Gate: f})
	out := run(t, address, "redis-benchmark", "-q", "-n", "10000", "-c", "10", "-P", "16", "-r", "1000", "CL.THROTTLE", "__rand_int__", "15", "30", "60")
	if n := f.asked.Load(); n != 10_000 || strings.Contains(strings.ToUpper(out), "ERR") || strings.Contains(out, "WARN") {
		t.Errorf("%d asked: %s", n, out)
	}
	if out = run(t, address, "redis-benchmark", "-q", "-n", "1000", "-t", "ping"); !strings.Contains(out, "PING_INLINE: ") || !strings.Contains(out, "PING_MBULK: ") {
		t.Error(out)
	}
}

// cell is redis-cell's reply to the first of a burst of 16.
var cell = []any{int64(0), int64(16), int64(15), int64(-1), int64(2)}

func TestGoRedis(t *testing.T) {
	g, _ := realGate(t, testPolicy)
	c := tokens(known)
	c.Gate = g
	_, address := start(t, c)
	for proto := 2; proto <= 3; proto++ {
		r := redis.NewClient(&redis.Options{Addr: address, Password: "all", Protocol: proto, ClientName: "test"})
		defer r.Close()
		ctx := t.Context()
		if s, err := r.Ping(ctx).Result(); s != "PONG" || err != nil {
			t.Fatalf("%q %v", s, err)
		}
		if s, err := r.ClientGetName(ctx).Result(); s != "test" || err != nil {
			t.Errorf("%q %v", s, err)
		}
		if v, err := r.Do(ctx, "CL.THROTTLE", fmt.Sprint("go-redis", proto), 15, 30, 60).Result(); err != nil || !reflect.DeepEqual(v, cell) {
			t.Errorf("%v %v", v, err)
		}
		subject := fmt.Sprint("go", proto)
		pipe := r.Pipeline()
		var takes []*redis.Cmd
		for range 3 {
			takes = append(takes, pipe.Do(ctx, "HG.TAKE", "a", "o", subject))
		}
		if _, err := pipe.Exec(ctx); err != nil {
			t.Fatal(err)
		}
		for i, x := range takes {
			m := map[any]any{}
			switch v := x.Val().(type) {
			case map[any]any:
				m = v
			case []any:
				for i := 0; i < len(v); i += 2 {
					m[v[i]] = v[i+1]
				}
			}
			if want := map[bool]int64{true: 1, false: 0}[i < 2]; m["allowed"] != want || m["rule"] != "o" || (proto == 3) != (reflect.TypeOf(x.Val()).Kind() == reflect.Map) {
				t.Errorf("RESP%d: %v", proto, x.Val())
			}
		}
		if err := r.Do(ctx, "HG.TAKE", "x", "o", "s").Err(); err == nil || err.Error() != `NOTFOUND application: "x" is not in the policy` {
			t.Errorf("%v", err)
		}
	}
	wrong := redis.NewClient(&redis.Options{Addr: address, Password: "wrong", MaxRetries: -1})
	defer wrong.Close()
	if err := wrong.Ping(t.Context()).Err(); err == nil || !strings.Contains(err.Error(), "WRONGPASS") {
		t.Errorf("%v", err)
	}
}

func TestRueidis(t *testing.T) {
	g, _ := realGate(t, testPolicy)
	c := tokens(known)
	c.Gate = g
	_, address := start(t, c)
	for name, o := range map[string]rueidis.ClientOption{
		"as it comes": {}, "RESP2": {AlwaysRESP2: true, DisableCache: true}, "pipelining": {AlwaysPipelining: true, ClientName: "x"},
	} {
		t.Run(name, func(t *testing.T) {
			o.InitAddress, o.Password = []string{address}, "all"
			r, err := rueidis.NewClient(o)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			ctx := t.Context()
			if v, err := r.Do(ctx, r.B().Arbitrary("CL.THROTTLE").Args("rueidis "+name, "15", "30", "60").Build()).AsIntSlice(); err != nil || fmt.Sprint(v) != fmt.Sprint(cell) {
				t.Errorf("%v %v", v, err)
			}
			var all []rueidis.Completed
			for range 3 {
				all = append(all, r.B().Arbitrary("HG.TAKE").Args("a", "o", name).Build())
			}
			for i, x := range r.DoMulti(ctx, all...) {
				m, err := x.AsMap()
				if err != nil {
					t.Fatal(err)
				}
				allowed := m["allowed"]
				if n, err := allowed.AsInt64(); err != nil || n != map[bool]int64{true: 1, false: 0}[i < 2] {
					t.Errorf("allowed %d %v", n, err)
				}
			}
		})
	}
}

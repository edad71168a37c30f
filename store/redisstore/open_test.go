package redisstore

import (
	"context"
	"net"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/redisstore/redistest"
)

// closedPort returns an address at which nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// httpServer returns the address of a server that speaks HTTP.
func httpServer(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(nil)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// Whatever keeps a store from opening is said in one sentence, without the
// password.
func TestOpenFaults(t *testing.T) {
	trio := redistest.Sentinel(t)
	for _, test := range []struct {
		name string
		url  func(t *testing.T) string
		want string
	}{
		{"nobody there", func(t *testing.T) string { return "redis://:hunter2@" + closedPort(t) }, "cannot connect to 127.0.0.1:"},
		{"no cluster there", func(t *testing.T) string { return "redis://" + closedPort(t) + "?cluster=true" }, "cannot connect to 127.0.0.1:"},
		{"no sentinel there", func(t *testing.T) string { return "redis://" + closedPort(t) + "?sentinel=m" }, `cannot connect to "m" by sentinels 127.0.0.1:`},
		{"no URL", func(*testing.T) string { return "redis://h?x=y" }, `"x" is no option`},
		{"no password", func(t *testing.T) string {
			return "redis://" + redistest.Standalone(t, redistest.Options{Password: "pw"}).Addr()
		}, " wants a password: write it into the URL, redis://:PASSWORD@HOST"},
		{"wrong password", func(t *testing.T) string {
			return "redis://:hunter2@" + redistest.Standalone(t, redistest.Options{Password: "pw"}).Addr()
		}, " refuses the password: it is wrong, or belongs to a user whom the URL must name, redis://USER:PASSWORD@HOST"},
		{"wrong user", func(t *testing.T) string {
			return "redis://app:hunter2@" + redistest.Standalone(t, redistest.Options{Password: "pw"}).Addr()
		}, ` refuses user "app": the name or the password is wrong, or the user is off`},
		{"a user who may do too little", func(t *testing.T) string {
			s := redistest.Standalone(t, redistest.Options{ACL: []string{"user app on >hunter2 ~* +@all -script"}})
			return "redis://app:hunter2@" + s.Addr()
		}, `: user "app" may not do all that keeping limits takes: give the rights that docs/shared-store.md lists, on keys ~hg:*: NOPERM `},
		{"a user who may not even ask", func(t *testing.T) string {
			s := redistest.Standalone(t, redistest.Options{ACL: []string{"user app on >hunter2 ~* -@all"}})
			return "redis://app:hunter2@" + s.Addr()
		}, "on keys ~hg:*: NOPERM "},
		{"a user of other keys", func(t *testing.T) string {
			s := redistest.Standalone(t, redistest.Options{ACL: []string{"user app on >hunter2 ~x:* +@all"}})
			return "redis://app:hunter2@" + s.Addr() + "?prefix=y:"
		}, "on keys ~y:*: NOPERM "},
		{"an evicting server", func(t *testing.T) string {
			return redistest.Standalone(t, redistest.Options{Config: []string{"maxmemory 100mb", "maxmemory-policy allkeys-lru"}}).URL()
		}, "evicts keys when it is full (maxmemory-policy allkeys-lru)"},
		{"an evicting server, of keys that expire", func(t *testing.T) string {
			return redistest.Standalone(t, redistest.Options{Config: []string{"maxmemory 100mb", "maxmemory-policy volatile-ttl"}}).URL()
		}, "evicts keys when it is full (maxmemory-policy volatile-ttl)"},
		{"a replica", func(t *testing.T) string {
			primary, replica := redistest.Shared(t), redistest.Standalone(t)
			host, port, _ := strings.Cut(primary.Addr(), ":")
			replica.Do(t, "REPLICAOF", host, port)
			return replica.URL()
		}, "is a replica of 127.0.0.1:"},
		{"a cluster that was not named so", func(t *testing.T) string { return redistest.SharedCluster(t).Masters[0].URL() }, "add ?cluster=true"},
		{"no cluster, but named so", func(t *testing.T) string { return redistest.Shared(t).URL("cluster=true") }, "leave ?cluster=true out"},
		{"sentinels that were not named so", func(*testing.T) string { return "redis://" + trio.Sentinels[0].Addr() }, "is a sentinel: add ?sentinel=NAME"},
		{"no sentinel, but named so", func(t *testing.T) string { return redistest.Shared(t).URL("sentinel=m") }, "leave ?sentinel out"},
		{"sentinels of others", func(*testing.T) string { return "redis://" + trio.Sentinels[0].Addr() + "?sentinel=other" }, "the sentinels know no servers by that name"},
		{"TLS spoken to who does not", func(t *testing.T) string { return "rediss://" + redistest.Shared(t).Addr() }, "or does not speak TLS"},
		{"TLS not spoken to who does", func(t *testing.T) string {
			return "redis://" + redistest.Standalone(t, redistest.Options{TLS: true}).Addr()
		}, " hangs up: if it speaks TLS, begin the URL with rediss://, and add cert=FILE and key=FILE if it wants a client certificate: "},
		{"HTTP", func(t *testing.T) string { return "redis://" + httpServer(t) }, " is not Redis: look at host and port"},
		{"HTTP for a cluster", func(t *testing.T) string { return "redis://" + httpServer(t) + "?cluster=true" }, " is not Redis: look at host and port"},
		{"HTTP for a sentinel", func(t *testing.T) string { return "redis://" + httpServer(t) + "?sentinel=m" }, " is not Redis: look at host and port"},
		{"an unknown authority", func(t *testing.T) string {
			return "rediss://" + redistest.Standalone(t, redistest.Options{TLS: true}).Addr()
		}, "certificate signed by unknown authority"},
		{"another server's name", func(t *testing.T) string {
			s := redistest.Standalone(t, redistest.Options{TLS: true})
			return s.URL("ca="+s.CAFile, "servername=redis.example")
		}, "redis.example"},
		{"no client certificate", func(t *testing.T) string {
			s := redistest.Standalone(t, redistest.Options{TLS: true, ClientCertificate: true})
			return s.URL("ca=" + s.CAFile)
		}, " hangs up: if it wants a client certificate, add cert=FILE and key=FILE to the URL: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := Open(t.Context(), Config{URL: test.url(t)})
			if err == nil {
				_ = s.Close()
				t.Fatal("opened")
			}
			if text := err.Error(); !strings.HasPrefix(text, "redis: ") || !strings.Contains(text, test.want) || strings.Contains(text, "hunter2") || strings.Contains(text, "\n") {
				t.Errorf("%v; want %q", err, test.want)
			}
		})
	}
}

// Who has no right that a script needs is not shown the script.
func TestOpenWithoutRightsOfScripts(t *testing.T) {
	s := redistest.Standalone(t, redistest.Options{ACL: []string{"user app on >hunter2 ~* +@all -hset"}})
	_, err := Open(t.Context(), Config{URL: "redis://app:hunter2@" + s.Addr()})
	if err == nil || !strings.Contains(err.Error(), `: user "app" may not do all that keeping limits takes: give the rights that docs/shared-store.md lists, on keys ~hg:*`) {
		t.Fatal(err)
	}
	if text := err.Error(); strings.Contains(text, "script") {
		t.Errorf("%s shows the script", text)
	}
}

// A server that accepts connections and says nothing does not keep us for ever.
func TestOpenSilentServer(t *testing.T) {
	silence := regexp.MustCompile(`127\.0\.0\.1:\d+ did not answer within [1-9](\.\d+)?s$`)
	for _, query := range []string{"prefix=x", "cluster=true", "sentinel=m"} {
		server := redistest.Standalone(t)
		server.Pause(t)
		start := time.Now()
		s, err := Open(t.Context(), Config{URL: server.URL(query)})
		if err == nil {
			_ = s.Close()
			t.Fatal("opened")
		}
		if took := time.Since(start); took > 4*dialTime || !silence.MatchString(err.Error()) {
			t.Errorf("%q: after %v: %v", query, took, err)
		}
		server.Resume(t)
	}
}

func TestOpenWarns(t *testing.T) {
	for _, test := range []struct {
		name, query string
		config      []string
		want        string
	}{
		{"a policy that would evict", "db=0", []string{"maxmemory-policy allkeys-lru"}, "would evict keys if it had a maxmemory"},
		{"eviction that is accepted", "eviction=accept", []string{"maxmemory 100mb", "maxmemory-policy allkeys-lru"}, "whoever fills it gets fresh ones"},
		{"a full server", "db=0", []string{"maxmemory 1", "maxmemory-policy noeviction"}, "has no room for another key"},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := redistest.Standalone(t, redistest.Options{Config: test.config})
			var log strings.Builder
			openStore(t, Config{URL: server.URL(test.query), Logger: logTo(&log)})
			if !strings.Contains(log.String(), test.want) {
				t.Errorf("log %q, want %q", log.String(), test.want)
			}
		})
	}
	var log strings.Builder
	openStore(t, Config{URL: redistest.Shared(t).URL(prefixed()), Logger: logTo(&log)})
	if log.Len() > 0 {
		t.Errorf("log %q of a server without fault", log.String())
	}
}

func TestTLS(t *testing.T) {
	server := redistest.Standalone(t, redistest.Options{TLS: true, ClientCertificate: true, Password: "a/b@c:d"})
	s := openStore(t, Config{URL: server.URL("ca="+server.CAFile, "cert="+server.CertFile, "key="+server.KeyFile)})
	if l := ten(t); !allowed(t, s, l, 10) || allowed(t, s, l, 1) {
		t.Error("the bucket does not hold ten tokens")
	}
}

// enoughRights are those of a user that are enough, as the package's documentation
// lists them.
const enoughRights = "~hg:* resetchannels -@all +ping +info +eval +evalsha +script|exists +script|load" +
	" +time +get +set +hget +hmget +hset +hdel +expireat +zadd +zcard +zrange +zrem +zremrangebyscore" +
	" +discard +unsubscribe +punsubscribe +sunsubscribe"

func TestRights(t *testing.T) {
	for _, test := range []struct {
		name, more string
		start      func(t *testing.T) (url string, servers []*redistest.Server)
	}{
		{"standalone", "", func(t *testing.T) (string, []*redistest.Server) {
			s := redistest.Standalone(t)
			return s.URL(), []*redistest.Server{s}
		}},
		{"database", " +select", func(t *testing.T) (string, []*redistest.Server) {
			s := redistest.Standalone(t)
			return s.URL("db=1"), []*redistest.Server{s}
		}},
		{"cluster", " +cluster|slots +cluster|shards +asking", func(t *testing.T) (string, []*redistest.Server) {
			r := redistest.SharedCluster(t)
			return r.URL(), r.Masters[:]
		}},
		{"sentinel", " +role", func(t *testing.T) (string, []*redistest.Server) {
			r := redistest.Sentinel(t)
			return r.URL(), r.Servers
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			url, servers := test.start(t)
			for _, server := range servers {
				server.Do(t, slices.Concat([]string{"ACL", "SETUSER", "app", "on", ">pw"}, strings.Fields(enoughRights+test.more))...)
				server.Do(t, "ACL", "LOG", "RESET")
			}
			s := openStore(t, Config{URL: strings.Replace(url, "redis://", "redis://app:pw@", 1)})
			l := ten(t)
			if !allowed(t, s, l, 10) || allowed(t, s, l, 1) {
				t.Error("the bucket does not hold ten tokens")
			}
			several := prepare(t, headgate.PerHour(10).WithName("another"))
			for _, op := range []headgate.Op{headgate.Take, headgate.Debit, headgate.Reset} {
				b := batchOf(t, op, headgate.Charge{Limit: l, Owner: "alice", Cost: 1}, headgate.Charge{Limit: several, Owner: "alice", Cost: 1})
				if err := s.Apply(t.Context(), b); err != nil {
					t.Errorf("%v: %v", op, err)
				}
			}
			for _, ttl := range []time.Duration{time.Second, 0} {
				if _, err := s.Nodes(t.Context(), [2]uint64{1, 2}, ttl); err != nil {
					t.Error(err)
				}
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			for _, server := range servers {
				if text, _ := server.Do(t, "ACL", "LOG").([]any); len(text) > 0 {
					t.Errorf("the user wanted more: %v", text)
				}
			}
		})
	}
}

func TestDatabase(t *testing.T) {
	server := redistest.Standalone(t)
	l := ten(t)
	for _, db := range []string{"/0", "/3"} {
		s := openStore(t, Config{URL: server.URL() + db})
		if !allowed(t, s, l, 10) {
			t.Errorf("database %s shares state with another", db)
		}
	}
}

// Open gives up with its context.
func TestOpenCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if s, err := Open(ctx, Config{URL: redistest.Shared(t).URL()}); err == nil {
		_ = s.Close()
		t.Error("opened")
	}
}

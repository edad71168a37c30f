package main

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

const testSecret = "0123456789abcdef01234567"

// readTestConfig reads a configuration, in which SECRET is a file with a secret and SHORT
// one with a short one. Its faults come without the name of the file.
func readTestConfig(t *testing.T, text string) (*configFile, string) {
	t.Helper()
	dir := t.TempDir()
	write(t, dir+"/secret", testSecret+"\n")
	write(t, dir+"/short", testSecret[:23]+"\n")
	write(t, dir+"/c.yaml", strings.NewReplacer("SECRET", dir+"/secret", "SHORT", dir+"/short").Replace(text))
	c, err := readConfig(dir + "/c.yaml")
	if err == nil {
		return c, ""
	}
	if strings.Contains(err.Error(), testSecret[:23]) {
		t.Errorf("a secret in %v", err)
	}
	return c, strings.ReplaceAll(strings.ReplaceAll("\n"+err.Error(), "\n"+dir+"/c.yaml:", "\n"), dir+"/", "")
}

func TestConfigFaults(t *testing.T) {
	tests := []struct{ name, file, want string }{
		{"good", "version: 1\nlisten:\n  http: unix:/run/headgate\nlog: {level: debug, format: json}\nstore: memory\n", ""},
		{"json", `{"version": 1, "listen": {"http": "", "admin": "auto"}}`, ""},
		{"many", "version: 2\nlisten: {http: 5.5, grpc: x, htpp: y}\ntls: {}\nauth: 1\nlog: {level: loud, format: xml}\nqueue: 1\ncolour: red\n", `
1:10: version: "2": must be 1
2:16: listen.http: must be a string
2:27: listen.grpc: "x": must be HOST:PORT or unix:PATH
2:30: listen.htpp: unknown key; there are http, admin, grpc, resp
3:1: tls.cert: is required
3:1: tls.key: is required
4:7: auth: must be a mapping of keys to values
5:14: log.level: "loud": must be one of debug, info, warn, error
5:28: log.format: "xml": must be one of text, json
6:1: queue: not supported yet
7:1: colour: unknown key; there are version, listen, proxy, tls, envoy, auth, store, records, upstreams, webhooks, retention, metrics, log`},
		{"values", "version: 1\nlisten: {http: '8080', admin: 'unix:'}\nauth: {decision: maybe}\nstore: 'redsi://:0123456789abcdef01234567@h'\n", `
2:16: listen.http: "8080": must be HOST:PORT or unix:PATH
2:31: listen.admin: unix: needs a path, such as unix:/run/headgate.sock
3:18: auth.decision: "maybe": must be one of open, token
4:8: store: must be embedded, memory, or a URL that begins with redis://, rediss://, postgres://, postgresql:// or dynamodb://`},
		{"networks", "version: 1\nauth:\n  allow_from:\n    - 10.0.0.0/8\n    - 10.0.0.1/8\n    - ::1\n    - 10.0.0.0/8\n    - proxy.example\n    - fe80::1%eth0\n    - ::ffff:0:0/90\n    - [::1]\n", `
5:7: auth.allow_from[1]: "10.0.0.1/8": has bits beyond its length: write 10.0.0.0/8 or the single address
7:7: auth.allow_from[3]: is there twice
8:7: auth.allow_from[4]: "proxy.example": must be an address or network such as 10.0.0.0/8 or ::1
9:7: auth.allow_from[5]: "fe80::1%eth0": must be an address or network such as 10.0.0.0/8 or ::1
10:7: auth.allow_from[6]: "::ffff:0:0/90": must be an address or network such as 10.0.0.0/8 or ::1
11:7: auth.allow_from[7]: must be a string`},
		{"one network", "version: 1\nauth: {allow_from: 10.0.0.0/8}\n", "\n2:20: auth.allow_from: must be a list of strings"},
		{"retention", "version: 1\nretention: {audit: 23h, usage_hours: 90m, usage_days: -1d, usage_months: 36501d, usage_years: 1d}\n", `
2:20: retention.audit: "23h": must be hours or days such as 90d, from 1d to 36500d, or forever
2:38: retention.usage_hours: "90m": must be hours or days such as 90d, from 1d to 36500d, or forever
2:55: retention.usage_days: "-1d": must be hours or days such as 90d, from 1d to 36500d, or forever
2:74: retention.usage_months: "36501d": must be hours or days such as 90d, from 1d to 36500d, or forever
2:82: retention.usage_years: unknown key; there are audit, usage_hours, usage_days, usage_months`},
		{"webhooks", "version: 1\nwebhooks:\n  a:\n    url: http://billing.example/x\n    secret_file: SHORT\n    events: [quota.threshold, ban]\n  b: {}\n  c/d: {}\n  e: https://x\n  f: {url: 'https://u:p@h/', secret_file: NOWHERE, secret: x}\n", `
4:10: webhooks.a.url: must begin with https://; http:// is for this machine only
5:18: webhooks.a.secret_file: short: a secret of 23 bytes: must be 24 to 4096
6:31: webhooks.a.events[1]: "ban": must be quota.threshold
7:3: webhooks.b.url: is required
7:3: webhooks.b.secret_file: is required
8:3: webhooks: name "c/d": '/' is not one of a-z, A-Z, 0-9, '_', '.', '-'
9:6: webhooks.e: must be a mapping of keys to values
10:12: webhooks.f.url: must not hold a password: what is sent is signed with the secret instead
10:43: webhooks.f.secret_file: open NOWHERE: no such file or directory
10:52: webhooks.f.secret: unknown key; there are url, secret_file, events`},
		{"list of webhooks", "version: 1\nwebhooks: [a]\n", "\n2:11: webhooks: must be a mapping of names to mappings"},
		{"empty", "", "\n1:1: must be one document that begins with version: 1"},
		{"no version", "store: memory\n", "\n1:1: version: is required: version: 1"},
		{"list", "- version\n", "\n1:1: must be a mapping of keys to values"},
		{"proxy", `version: 1
upstreams:
  app: {servers: ["http://h:1", "ftp://h", "http://h/x"], balance: any, connect_timeout: none, response_timeout: 1, idle_timeout: none, max_idle: 0}
  api: {health: {interval: 1d, path: x}}
proxy:
  listen: "8000"
  max_body: 5
  client_timeout: 800h
  application: a/b
  routes:
    - {prefix: api, upstream: app}
    - {application: x}
    - 7
`, `
3:33: upstreams.app.servers[1]: "ftp://h": must begin with http://, https:// or h2c://
3:44: upstreams.app.servers[2]: "http://h/x": must not have a path or query: paths are forwarded as they are
3:68: upstreams.app.balance: "any": must be one of least_requests, round_robin
3:90: upstreams.app.connect_timeout: "none": there must be a bound, such as 5s
3:114: upstreams.app.response_timeout: "1": must be a time such as 500ms, 5s or 1h, from 1ms to 720h, or none
3:147: upstreams.app.max_idle: "0": must be a whole number from 1 to 100000
4:28: upstreams.api.health.interval: "1d": must be a time such as 500ms, 5s or 1h, from 1ms to 720h
4:38: upstreams.api.health.path: "x": must be a path such as /healthz
4:3: upstreams.api.servers: is required
6:11: proxy.listen: "8000": must be HOST:PORT or unix:PATH
7:13: proxy.max_body: "5": must be a whole number with a unit, such as 256MiB: B, KiB, MiB or GiB, or none
8:19: proxy.client_timeout: "800h": must be a time such as 500ms, 5s or 1h, from 1ms to 720h
9:16: proxy.application: name "a/b": '/' is not one of a-z, A-Z, 0-9, '_', '.', '-'
11:16: proxy.routes[0].prefix: "api": must begin and end with a slash, without '//', '.' and '..'
10:3: proxy.routes[1].prefix: is required
10:3: proxy.routes[1].upstream: is required
13:7: proxy.routes[2]: must be a mapping of keys to values`},
		{"routes", "version: 1\nproxy: {routes: {}}\n", "\n2:17: proxy.routes: must be a list of mappings"},
		{"twice", "version: 1\nstore: memory\nstore: memory\n", "\n3:1: mapping key \"store\" already defined at [2:1]"},
		{"broken", "version: [1\n", "\n1:10: sequence end token ']' not found"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, got := readTestConfig(t, tt.file); got != tt.want {
				t.Errorf("got%s\nwant%s", got, tt.want)
			}
		})
	}
}

// What may change while the server runs, as it is read.
func TestReadLive(t *testing.T) {
	const day = 24 * time.Hour
	for _, tt := range []struct {
		name, file string
		want       live
	}{
		{"nothing", "version: 1\n", live{retention: retention{400 * day, 31 * day, 800 * day, 0}, aliases: true, subjects: "plain"}},
		{"all", `version: 1
log: {level: warn}
auth: {allow_from: [192.0.2.1, "::ffff:10.0.0.0/104", "2001:db8::/32"]}
retention: {audit: forever, usage_hours: 48h, usage_days: 0, usage_months: 36500d}
webhooks:
  b: {url: "https://billing.example/x?y=z", secret_file: SECRET}
  a:
    url: http://127.0.0.1:9/x
    secret_file: SECRET
    events: []
`, live{
			level: slog.LevelWarn,
			allowFrom: []netip.Prefix{
				netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32"),
			},
			retention: retention{0, 2 * day, 0, 36500 * day},
			webhooks: []webhook{
				{"b", "https://billing.example/x?y=z", testSecret, []string{"quota.threshold"}},
				{"a", "http://127.0.0.1:9/x", testSecret, []string{}},
			},
			aliases: true, subjects: "plain",
		}},
	} {
		c, faults := readTestConfig(t, tt.file)
		if faults != "" {
			t.Errorf("%s:%s", tt.name, faults)
			continue
		}
		if got := readLive(c); !reflect.DeepEqual(*got, tt.want) {
			t.Errorf("%s: got\n%+v\nwant\n%+v", tt.name, *got, tt.want)
		}
	}
	if got := (&retention{audit: day, usageHours: 2 * day}).records(); got.Audit != day {
		t.Errorf("records keep the audit log for %v", got.Audit)
	}
}

// A secret may be as long as it may be, and no longer.
func TestReadSecret(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	for n, want := range map[int]bool{minSecret - 1: false, minSecret: true, maxSecret: true, maxSecret + 1: false, 10 * maxSecret: false} {
		if err := os.WriteFile(file, []byte(strings.Repeat("s", n)+"\r\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		secret, err := readSecret(file)
		if (err == nil) != want || err == nil && len(secret) != n || err != nil && strings.Contains(err.Error(), "sss") {
			t.Errorf("%d bytes: %d, %v", n, len(secret), err)
		}
	}
}

func TestBadWebhook(t *testing.T) {
	for url, want := range map[string]string{
		"https://h/x": "", "http://localhost/": "", "http://[::1]:9/": "", "http://127.1.2.3/": "",
		"http://127.0.0.1.example/": "must begin with https://", "ftp://127.0.0.1/": "must begin with https://", "https:///x": "must be a URL",
		"https://:443/x": "must be a URL", "https:h": "must be a URL", "": "must be a URL", "\x7f": "must be a URL", "https://h/#x": "#fragment", "https://u@h/": "password",
	} {
		err := badWebhook(url)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", url, err, want)
		}
	}
}

package redisstore

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestParseURL(t *testing.T) {
	for _, test := range []struct {
		url  string
		want target
	}{
		{"redis://localhost", target{addrs: []string{"localhost:6379"}}},
		{"redis://", target{addrs: []string{"127.0.0.1:6379"}}},
		{"redis://:7000", target{addrs: []string{"127.0.0.1:7000"}}},
		{"redis://h:7000/3", target{addrs: []string{"h:7000"}, db: 3}},
		{"redis://h/?db=4", target{addrs: []string{"h:6379"}, db: 4}},
		{"redis://[::1]:7000", target{addrs: []string{"[::1]:7000"}}},
		{"redis://[::1]", target{addrs: []string{"[::1]:6379"}}},
		{"redis://:s3cret@h", target{addrs: []string{"h:6379"}, password: "s3cret"}},
		{"redis://app:a%3Ab%40c%2Fd%3Fe%23f%25@h", target{addrs: []string{"h:6379"}, user: "app", password: "a:b@c/d?e#f%"}},
		{"redis://app:a@b+c@h", target{addrs: []string{"h:6379"}, user: "app", password: "a@b+c"}},
		{"redis://a:1,b,[::2]:3?cluster=true", target{addrs: []string{"a:1", "b:6379", "[::2]:3"}, cluster: true}},
		{"redis://a,b:1?sentinel=mymaster&sentinel_user=u&sentinel_password=p", target{addrs: []string{"a:26379", "b:1"}, sentinel: "mymaster", sentinelUser: "u", sentinelPassword: "p"}},
		{"redis://h?prefix=x:&strict=false&eviction=accept", target{addrs: []string{"h:6379"}, prefix: "x:", lenient: true, evicting: true}},
		{"redis://h?leases=false&strict=true", target{addrs: []string{"h:6379"}, unleased: true}},
		{"redis://h?leases=true", target{addrs: []string{"h:6379"}}},
	} {
		if test.want.prefix == "" {
			test.want.prefix = "hg:"
		}
		got, err := parseURL(test.url)
		if err != nil {
			t.Errorf("%s: %v", test.url, err)
		} else if !reflect.DeepEqual(*got, test.want) {
			t.Errorf("%s:\n got %+v\nwant %+v", test.url, *got, test.want)
		}
	}
}

func TestParseURLWithTLS(t *testing.T) {
	got, err := parseURL("rediss://h?servername=redis.example")
	if err != nil || got.tls == nil || got.tls.ServerName != "redis.example" || got.tls.InsecureSkipVerify || got.tls.RootCAs != nil {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err = parseURL("redis://h"); err != nil || got.tls != nil {
		t.Errorf("%+v, %v", got, err)
	}
}

// Every fault has one sentence that names it, and none shows what may be a
// password.
func TestURLFaults(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ url, want string }{
		{"", "must begin with redis://"},
		{"localhost:6379", "must begin with redis://"},
		{"http://h", "must begin with redis://"},
		{"redis://:hunter2/x@h", "write %23 for #, %2F for /"},
		{"redis://:hunter2#x@h", "write %23 for #, %2F for /"},
		{"redis://:a?hunter2@h", "write %23 for #"},
		{"redis://:hunter2%@h", "write %23 for #, %2F for /"},
		{"redis://hunter2:%zz@h", "write %23 for #, %2F for /"},
		{"redis://hunter2%zz:a@h", "write %23 for #, %2F for /"},
		{"redis://user@h", `a user without a password`},
		{"redis://h:0", "must be 1 to 65535"},
		{"redis://h:hunter2", "must be 1 to 65535"},
		{"redis://h:70000", "must be 1 to 65535"},
		{"redis://a:b:1", "write %23 for #"},
		{"redis://[::1", "write %23 for #"},
		{"redis://a,b", "?cluster=true, or ?sentinel=NAME"},
		{"redis://h/x", "the database must be a number"},
		{"redis://h/-1", "the database must be a number"},
		{"redis://h/1?db=2", "db: is in the URL twice"},
		{"redis://h?db=1&db=1", "db: is in the URL twice"},
		{"redis://h?%zz", "NAME=VALUE"},
		{"redis://h?cluster=maybe", `cluster: must be true or false, not "maybe"`},
		{"redis://h?strict=maybe", `strict: must be true or false, not "maybe"`},
		{"redis://h?cluster=true&sentinel=m", "servers are one or the other"},
		{"redis://h/1?cluster=true", "a cluster has no databases"},
		{"redis://h?sentinel=", "sentinel: must be the name"},
		{"redis://h?sentinel_password=hunter2", "need ?sentinel=NAME"},
		{"redis://h?leases=maybe", `leases: must be true or false, not "maybe"`},
		{"redis://h?leases=true&leases=true", "leases: is in the URL twice"},
		{"redis://h?prefix=", "prefix: must not be empty: leave it out for hg:"},
		{"redis://h?prefix={a}", "prefix: must be printable ASCII without spaces and braces, so without '{'"},
		{"redis://h?prefix=a%20b", "prefix: must be printable ASCII without spaces and braces, so without ' '"},
		{"redis://h?prefix=%C3%A4", "so without 'ä'"},
		{"redis://h?prefix=%ff", "prefix: must be printable ASCII"},
		{"redis://h?prefix=" + strings.Repeat("x", 65), "prefix: must have at most 64 bytes, not 65"},
		{"redis://h?eviction=yes", `eviction: must be accept`},
		{"redis://h?password=hunter2", `"password" is no option of the URL: there are ca, cert, cluster, db, eviction, key, leases, prefix, sentinel, sentinel_password, sentinel_user, servername and strict`},
		{"redis://h?ca=x", "must begin with rediss://"},
		{"rediss://h?ca=", "ca: must not be empty"},
		{"rediss://h?ca=/nowhere", "ca: open /nowhere"},
		{"rediss://h?ca=" + empty, "has no certificate in PEM"},
		{"rediss://h?cert=x", "one needs the other"},
		{"rediss://h?cert=/nowhere&key=/nowhere", "cert and key: open /nowhere"},
	} {
		got, err := parseURL(test.url)
		switch {
		case err == nil:
			t.Errorf("%s is %+v", test.url, got)
		case !strings.Contains(err.Error(), test.want):
			t.Errorf("%s: %v; want %q", test.url, err, test.want)
		case strings.Contains(err.Error(), "hunter2"):
			t.Errorf("%s: %v shows the password", test.url, err)
		}
	}
}

// Users can read of every option, each of which is read, and of no other.
func TestURLOptions(t *testing.T) {
	doc, err := os.ReadFile("../../docs/shared-store.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(doc), "\n## The URL\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var table strings.Builder
	for line := range strings.Lines(section) {
		row, found := strings.CutPrefix(line, "|")
		if !found {
			continue
		}
		table.WriteString(row)
		first, _, _ := strings.Cut(row, "|")
		for _, m := range regexp.MustCompile(`([a-z_]+)=`).FindAllStringSubmatch(first, -1) {
			if !slices.Contains(urlOptions, m[1]) {
				t.Errorf("docs/shared-store.md tells of %s, which is no option", m[1])
			}
		}
	}
	for _, name := range urlOptions {
		told := name
		if name == "db" {
			told = "/DB"
		}
		if !regexp.MustCompile("[`?[]" + told + "[`=\\]]").MatchString(table.String()) {
			t.Errorf("docs/shared-store.md does not tell of %s", name)
		}
		if _, err := parseURL("rediss://h?" + name + "="); err != nil && strings.Contains(err.Error(), "is no option") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestURLLeases(t *testing.T) {
	for url, want := range map[string]bool{
		"redis://h": true, "redis://h?leases=true": true, "redis://h?leases=1&db=2": true, "redis://h?db=2&leases=false": false, "redis://h?leases=0": false,
	} {
		if got, err := Leases(url); got != want || err != nil {
			t.Errorf("%s: %v, %v", url, got, err)
		}
	}
	if _, err := Leases("redis://:hunter2@h?leases=maybe"); err == nil || err.Error() != `redis: leases: must be true or false, not "maybe"` {
		t.Error(err)
	}
}

func FuzzParseURL(f *testing.F) {
	for _, seed := range []string{"redis://:hunter2@h:1/2?prefix=x", "rediss://a,b?cluster=true", "redis://[::1]:1", "redis://h?sentinel=m&db=1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, url string) {
		got, err := parseURL(url)
		if err != nil {
			return
		}
		if len(got.addrs) == 0 || got.prefix == "" || strings.ContainsAny(got.prefix, "{} ") || got.cluster && got.sentinel != "" {
			t.Errorf("%q is %+v", url, got)
		}
		_ = got.String()
		_ = got.clientOption()
	})
}

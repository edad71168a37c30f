package main

import (
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
)

func hangUp(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
}

func TestServeReloadsConfiguration(t *testing.T) {
	dir := t.TempDir()
	config := dir + "/config.yaml"
	write(t, dir+"/secret", testSecret)
	t.Setenv("HEADGATE_ADMIN", "auto")
	const rest = "listen: {http: '127.0.0.1:0'}\n"
	replace(t, config, "version: 1\nlog: {level: info}\n"+rest)
	s := startServe(t, "--config", config, "--store", "memory")
	address := s.address(t)

	replace(t, config, "version: 1\nlog: {level: debug}\n"+rest)
	s.await(t, `level=INFO msg="configuration in force" file=`+config+` changed=log.level because="file changed"`)
	hangUp(t)
	s.await(t, `level=DEBUG msg="configuration unchanged" because=SIGHUP`)
	s.await(t, `level=DEBUG msg="policy unchanged" because=SIGHUP`)

	// A bad file changes nothing, and every fault is said.
	replace(t, config, "version: 1\nlog: {level: error}\nauth: {allow_from: [x]}\nretention: {audit: 1s}\n"+rest)
	s.await(t, `level=ERROR msg="configuration fault" fault="`+config+`:3:21: auth.allow_from[0]: `)
	s.await(t, `level=ERROR msg="configuration fault" fault="`+config+`:4:20: retention.audit: `)
	s.await(t, `level=ERROR msg="configuration not reloaded, the old one stays in force" because="file changed" error="2 faults"`)
	replace(t, config, "version: 1\nlog: {level: debug}\n"+rest)
	s.await(t, `level=DEBUG msg="configuration unchanged" because="file changed"`)
	if _, metrics := get(t, "http://"+address+"/metrics"); !strings.Contains(metrics, "\nheadgate_config_reload_failures_total 1\n") {
		t.Errorf("the failure was not counted:\n%s", metrics)
	}

	// What is read at the start only is said; what a flag or a variable said stays.
	replace(t, config, "version: 1\nlog: {level: debug, format: json}\nlisten: {http: '127.0.0.1:1', admin: ''}\nstore: embedded\nauth: {decision: token}\nretention: {audit: 2d}\n")
	s.await(t, `level=WARN msg="takes a restart: listen.http, auth.decision, log.format" because="file changed"`)
	s.await(t, `level=INFO msg="configuration in force" file=`+config+` changed=retention`)
	verb(t, exitDone, "take", "--server", address, "default", "o", "alice")

	replace(t, config, "version: 1\nwebhooks: {billing: {url: 'https://billing.example', secret_file: "+dir+"/secret}}\n"+rest)
	s.await(t, `changed="log.level, webhooks, retention"`)

	// SIGHUP also reads a file again that stands in the same way, and the secrets that it names.
	write(t, dir+"/secret", testSecret+"x")
	hangUp(t)
	s.await(t, `changed=webhooks because=SIGHUP`)

	// The last word before the log falls silent is what made it so.
	replace(t, config, "version: 1\nlog: {level: error}\n"+rest)
	s.await(t, `level=INFO msg="configuration in force" file=`+config+` changed="log.level, webhooks" because="file changed"`)
	if err := os.Remove(config); err != nil {
		t.Fatal(err)
	}
	hangUp(t)
	s.await(t, `level=ERROR msg="configuration not reloaded, the old one stays in force" because=SIGHUP error="--config: open `)
	replace(t, config, "version: 1\n"+rest)
	s.await(t, `level=INFO msg="configuration in force"`)
	s.stop(t)
	for line := range s.lines {
		if strings.Contains(line, testSecret) {
			t.Errorf("a secret was logged: %s", line)
		}
	}
}

// What may change is put in force together, where each part is.
func TestApply(t *testing.T) {
	h := newHouse(t, scriptPolicy)
	h.log = slog.New(slog.DiscardHandler)
	end, err := h.openGuard(&settings{data: filepath.Join(t.TempDir(), "data")})
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	c, faults := readTestConfig(t, "version: 1\nauth: {allow_from: [192.0.2.1]}\n")
	if faults != "" {
		t.Fatal(faults)
	}
	l := readLive(c)
	h.apply(l)
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = "192.0.2.1:5"
	if !h.guard.Allowed(r.RemoteAddr) || h.live.Load() != l {
		t.Error("not in force")
	}
	h.apply(&live{})
	if h.guard.Allowed(r.RemoteAddr) {
		t.Error("still in force")
	}
}

// Each part of live that differs is named.
func TestLiveChanged(t *testing.T) {
	var names []string
	for field := range reflect.TypeFor[live]().Fields() {
		names = append(names, field.Name)
	}
	if want := []string{"level", "allowFrom", "retention", "webhooks", "aliases", "subjects"}; !reflect.DeepEqual(names, want) {
		t.Fatalf("live has %v: changed must compare each", names)
	}
	base, faults := readTestConfig(t, "version: 1\n")
	if faults != "" {
		t.Fatal(faults)
	}
	for text, want := range map[string][]string{
		"": nil, "log: {level: info}\n": nil, "log: {level: error}\n": {"log.level"}, "auth: {allow_from: []}\n": nil,
		"auth: {allow_from: [10.1.2.3]}\n": {"auth.allow_from"}, "retention: {usage_months: 9d}\n": {"retention"}, "retention: {audit: 400d}\n": nil,
		"webhooks: {a: {url: 'https://h', secret_file: SECRET}}\n": {"webhooks"}, "webhooks: {}\n": nil,
	} {
		c, faults := readTestConfig(t, "version: 1\n"+text)
		if got := readLive(base).changed(readLive(base)); got != nil {
			t.Errorf("the same: %v", got)
		}
		if faults != "" {
			t.Fatal(faults)
		}
		if got := readLive(c).changed(readLive(base)); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

package redistest_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/headgate/headgate/internal/servertest"
	"github.com/headgate/headgate/store/redisstore/redistest"
)

func TestStandalone(t *testing.T) {
	s := redistest.Standalone(t, redistest.Options{Config: []string{"maxmemory 20mb", "maxmemory-policy noeviction"}})
	s.Do(t, "SET", "a", "1")
	if got := s.Do(t, "INCR", "a"); got != int64(2) {
		t.Errorf("INCR: %v", got)
	}
	if got := s.Do(t, "GET", "missing"); got != nil {
		t.Errorf("GET of nothing: %v", got)
	}
	if got := s.Do(t, "CONFIG", "GET", "maxmemory").([]any); got[1] != "20971520" {
		t.Errorf("maxmemory: %v", got)
	}
	if _, err := s.Try("HGET", "a", "b"); !strings.HasPrefix(err.Error(), "WRONGTYPE") {
		t.Errorf("HGET of a string: %v", err)
	} else if _, ok := errors.AsType[redistest.Error](err); !ok {
		t.Errorf("%T is not the server's error", err)
	}
	s.FlushAll(t)
	if got := s.Do(t, "DBSIZE"); got != int64(0) {
		t.Errorf("%v keys after FlushAll", got)
	}
	if want := "redis://" + s.Addr() + "?prefix=hg%3A"; s.URL("prefix=hg:") != want {
		t.Errorf("URL %s, want %s", s.URL("prefix=hg:"), want)
	}
}

func TestPauseKillRestart(t *testing.T) {
	t.Parallel()
	s := redistest.Standalone(t)
	s.Do(t, "SET", "a", "1")
	run := s.Info(t, "run_id")
	s.Pause(t)
	if _, err := s.Try("PING"); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a paused server: %v", err)
	}
	s.Resume(t)
	if got := s.Do(t, "GET", "a"); got != "1" {
		t.Errorf("a is %v after the pause", got)
	}
	s.Kill(t)
	if _, err := s.Try("PING"); err == nil {
		t.Error("a killed server answers")
	}
	s.Restart(t)
	if got := s.Do(t, "GET", "a"); got != nil {
		t.Errorf("a is %v after the restart", got)
	}
	if s.Info(t, "run_id") == run {
		t.Error("the run id has not changed")
	}
	// A server that stands still restarts as well.
	s.Pause(t)
	s.Restart(t)
	s.Do(t, "PING")
}

func TestAppendOnly(t *testing.T) {
	s := redistest.Standalone(t, redistest.Options{AppendOnly: true})
	s.Do(t, "SET", "a", "1")
	s.Restart(t)
	if got := s.Do(t, "GET", "a"); got != "1" {
		t.Errorf("a is %v after the restart", got)
	}
}

func TestLogins(t *testing.T) {
	s := redistest.Standalone(t, redistest.Options{Password: "pass word/@", ACL: []string{
		"user default off", "user app on >secret ~hg:* +get",
	}})
	if got := s.Do(t, "ACL", "WHOAMI"); got != "redistest" {
		t.Errorf("logged in as %v", got)
	}
	s = redistest.Standalone(t, redistest.Options{Password: "pass word/@"})
	s.Do(t, "PING")
	u, err := url.Parse(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	if pw, _ := u.User.Password(); pw != "pass word/@" || u.User.Username() != "" {
		t.Errorf("URL %s", s.URL())
	}
}

func TestTLS(t *testing.T) {
	for _, asks := range []bool{false, true} {
		s := redistest.Standalone(t, redistest.Options{TLS: true, ClientCertificate: asks})
		s.Do(t, "PING")
		if !strings.HasPrefix(s.URL(), "rediss://") {
			t.Errorf("URL %s", s.URL())
		}
		pem, err := os.ReadFile(s.CAFile)
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		c, err := tls.Dial("tcp", strings.Replace(s.Addr(), "127.0.0.1", "localhost", 1), &tls.Config{RootCAs: roots})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Write([]byte("PING\r\n"))
		if err == nil {
			_, err = c.Read(make([]byte, 16))
		}
		if (err != nil) != asks {
			t.Errorf("client certificate asked for: %v; without one: %v", asks, err)
		}
		_ = c.Close()
		if _, err := tls.Dial("tcp", s.Addr(), nil); err == nil {
			t.Error("a stranger trusts the certificate")
		}
		if _, err := os.Stat(s.KeyFile); err != nil {
			t.Error(err)
		}
	}
}

func TestShared(t *testing.T) {
	a, b := redistest.Shared(t), redistest.Shared(t)
	if a != b {
		t.Error("two shared servers")
	}
	if first, second := redistest.Prefix(), redistest.Prefix(); first == second {
		t.Errorf("prefix %s twice", first)
	}
	a.Do(t, "PING")
}

// A process that dies leaves neither servers nor files behind.
func TestNothingStays(t *testing.T) {
	t.Parallel()
	if os.Getenv("REDISTEST_DIE") != "" {
		s := redistest.Shared(t)
		file := s.Do(t, "CONFIG", "GET", "dir").([]any)[1].(string)
		_, _ = os.Stdout.WriteString("\naddr " + s.Addr() + "\ndir " + file + "\n")
		s.Pause(t)
		p, err := os.FindProcess(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		_ = p.Kill()
		select {}
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestNothingStays$")
	cmd.Env = append(os.Environ(), "REDISTEST_DIE=1")
	out, err := cmd.Output()
	if err == nil {
		t.Fatalf("the process has not died:\n%s", out)
	}
	var addr, dir string
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		if v, ok := strings.CutPrefix(line, "addr "); ok {
			addr = v
		}
		if v, ok := strings.CutPrefix(line, "dir "); ok {
			dir = v
		}
	}
	if addr == "" || dir == "" {
		t.Fatalf("the process said\n%s", out)
	}
	if err := servertest.Await("the end", func() error {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			return errors.New("its files are there")
		}
		c, err := tls.Dial("tcp", addr, nil)
		if err == nil {
			_ = c.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "refused") {
			return errors.New("its server is there")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

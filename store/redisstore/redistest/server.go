package redistest

import (
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/headgate/headgate/internal/servertest"
)

// Options says what kind of server is wanted. The zero value is one that
// everybody may use, keeps nothing on disk and evicts nothing.
type Options struct {
	// Password is that of the user "default"; "" asks for none.
	Password string
	// ACL lists lines of an ACL file, such as "user app on >secret ~hg:* +@all".
	// Without a line for it the user "default" may do everything.
	ACL []string
	// TLS makes the server speak TLS only, with a certificate for 127.0.0.1 and
	// localhost by an authority of its own. With ClientCertificate it asks
	// clients for theirs.
	TLS, ClientCertificate bool
	// AppendOnly keeps every write on disk before it is answered, so that
	// [Server.Restart] finds it again.
	AppendOnly bool
	// Config lists further lines of the configuration file, such as
	// "maxmemory 10mb".
	Config []string

	sentinel []string // lines that make it a sentinel
	cluster  bool
}

// Server is one running server. Methods that take a [testing.TB] fail the test
// where the server does not do what is asked.
type Server struct {
	process  process
	port     int
	bus      int // the port on which cluster nodes talk, 0 outside of clusters
	options  Options
	secure   *tls.Config // nil without TLS
	password string      // of the tests' own user where there is an ACL, else the default user's

	// CAFile, CertFile and KeyFile are the authority, and a client's certificate
	// and key; "" without TLS.
	CAFile, CertFile, KeyFile string
}

// admin is the user of the tests' own, where there is an ACL.
const admin = "redistest"

// Standalone starts one server, with the last of options if there are any.
func Standalone(t testing.TB, options ...Options) *Server {
	t.Helper()
	var o Options
	if n := len(options); n > 0 {
		o = options[n-1]
	}
	s, err := start(o)
	if err != nil {
		t.Fatalf("start redis: %v", err)
	}
	t.Cleanup(func() { s.end(t) })
	return s
}

var shared = sync.OnceValues(func() (*Server, error) { return start(Options{}) })

// Shared returns the process's server, which it starts where it is the first to
// ask: one without options.
func Shared(t testing.TB) *Server {
	t.Helper()
	s, err := shared()
	if err != nil {
		t.Fatalf("start redis: %v", err)
	}
	return s
}

var prefixes atomic.Int64

// Prefix returns a prefix of keys that nothing else in the process uses.
func Prefix() string { return fmt.Sprintf("t%d:", prefixes.Add(1)) }

// end stops the server, and shows its log if the test has failed.
func (s *Server) end(t testing.TB) {
	if t.Failed() {
		t.Logf("log of the server at %s:\n%s", s.Addr(), s.process.Tail())
	}
	s.process.Remove()
}

// start starts a server on a free port and waits until it answers.
func start(o Options) (*Server, error) {
	var s *Server
	err := servertest.StartAt(func() error {
		port, err := servertest.FreePort()
		if err != nil {
			return err
		}
		s, err = startOn(port, o)
		return err
	})
	return s, err
}

func startOn(port int, o Options) (*Server, error) {
	s := &Server{port: port, options: o, password: o.Password}
	var args []string
	if o.sentinel != nil {
		args = []string{"--sentinel"}
	}
	var err error
	if s.process, err = newProcess(args); err != nil {
		return nil, err
	}
	config, err := s.config()
	if err == nil {
		err = s.process.configure(config)
	}
	if err == nil {
		err = s.launch()
	}
	if err != nil {
		s.process.Remove()
		return nil, err
	}
	return s, nil
}

// config returns the lines of the configuration file, and writes the files that
// they name.
func (s *Server) config() ([]string, error) {
	o := &s.options
	lines := []string{"bind 127.0.0.1", "protected-mode no"}
	if o.sentinel != nil {
		return append(append(lines, "port "+s.portText()), o.sentinel...), nil
	}
	lines = append(lines, "enable-debug-command yes",
		// Replicas synchronise at once, and count as such after the first ping.
		"repl-diskless-sync-delay 0", "repl-ping-replica-period 1")
	if o.cluster {
		var err error
		if s.bus, err = servertest.FreePort(); err != nil {
			return nil, err
		}
		lines = append(lines, "cluster-enabled yes", "cluster-node-timeout 1000", fmt.Sprintf("cluster-port %d", s.bus),
			// Each replica stays with its master.
			"cluster-allow-replica-migration no")
	}
	if o.AppendOnly {
		lines = append(lines, "appendonly yes", "appendfsync always")
	} else {
		lines = append(lines, `save ""`)
	}
	if o.Password != "" {
		lines = append(lines, "requirepass "+strconv.Quote(o.Password), "masterauth "+strconv.Quote(o.Password))
	}
	if len(o.ACL) > 0 {
		s.password = rand.Text()
		file := filepath.Join(s.process.Dir, "users.acl")
		users := append([]string{"user " + admin + " on >" + s.password + " ~* &* +@all"}, o.ACL...)
		if err := os.WriteFile(file, []byte(strings.Join(users, "\n")+"\n"), 0o600); err != nil {
			return nil, err
		}
		lines = append(lines, "aclfile "+strconv.Quote(file))
	}
	if !o.TLS {
		return append(append(lines, "port "+s.portText()), o.Config...), nil
	}
	c, err := newCertificates(s.process.Dir)
	if err != nil {
		return nil, err
	}
	s.CAFile, s.CertFile, s.KeyFile, s.secure = c.ca, c.clientCert, c.clientKey, c.client
	clients := "no"
	if o.ClientCertificate {
		clients = "yes"
	}
	lines = append(lines, "port 0", "tls-port "+s.portText(),
		"tls-ca-cert-file "+strconv.Quote(c.ca), "tls-cert-file "+strconv.Quote(c.serverCert), "tls-key-file "+strconv.Quote(c.serverKey),
		"tls-auth-clients "+clients)
	return append(lines, o.Config...), nil
}

// launch starts the program and waits until it is this program that answers.
func (s *Server) launch() error {
	if err := s.process.start(); err != nil {
		return err
	}
	return servertest.Await("wait for the server at "+s.Addr(), func() error {
		if err := s.process.Running(); err != nil {
			return err
		}
		info, err := s.Try("INFO", "server")
		if err != nil {
			return err
		}
		if id := strconv.Itoa(s.process.Pid()); infoField(info.(string), "process_id") != id {
			return fmt.Errorf("not process %s answers", id)
		}
		_, err = s.Try("PING") // refused while it loads
		return err
	})
}

// infoField returns a field of a reply to INFO, "" if it has none.
func infoField(info, name string) string {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// Addr returns the server's host and port.
func (s *Server) Addr() string { return servertest.Address(s.port) }

// Port returns the server's port.
func (s *Server) Port() int { return s.port }

func (s *Server) portText() string { return strconv.Itoa(s.port) }

// Pid returns the process id of the server's present run.
func (s *Server) Pid() int { return s.process.Pid() }

// URL returns the server's URL with the password of the user "default", if any.
// Each query is a pair such as "prefix=hg:".
func (s *Server) URL(query ...string) string {
	u := url.URL{Scheme: "redis", Host: s.Addr(), RawQuery: encode(query)}
	if s.options.TLS {
		u.Scheme = "rediss"
	}
	if s.options.Password != "" {
		u.User = url.UserPassword("", s.options.Password)
	}
	return u.String()
}

func encode(query []string) string {
	values := url.Values{}
	for _, q := range query {
		name, value, _ := strings.Cut(q, "=")
		values.Add(name, value)
	}
	return values.Encode()
}

// Try sends a command on a connection of its own, as a user who may do
// everything, and returns the reply: a string, an int64, a []any or nil. The
// error is an [Error] if it is the server's answer.
func (s *Server) Try(args ...string) (any, error) {
	c, err := s.dial()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.do(args...)
}

func (s *Server) dial() (*conn, error) {
	user := "default"
	if len(s.options.ACL) > 0 {
		user = admin
	}
	return dial(s.Addr(), user, s.password, s.secure)
}

// Do is Try for commands that must succeed.
func (s *Server) Do(t testing.TB, args ...string) any {
	t.Helper()
	reply, err := s.Try(args...)
	if err != nil {
		t.Fatalf("%s at %s: %v", strings.Join(args, " "), s.Addr(), err)
	}
	return reply
}

// Info returns a field of INFO, "" if there is no such field.
func (s *Server) Info(t testing.TB, field string) string {
	t.Helper()
	return infoField(s.Do(t, "INFO", "everything").(string), field)
}

// FlushAll empties the server; its scripts stay.
func (s *Server) FlushAll(t testing.TB) {
	t.Helper()
	s.Do(t, "FLUSHALL", "SYNC")
}

// Replicate waits until so many replicas have everything that was written.
func (s *Server) Replicate(t testing.TB, replicas int) {
	t.Helper()
	c, err := s.dial()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// WAIT waits for the connection's own writes, and for all before them.
	if _, err := c.do("PUBLISH", "redistest", ""); err != nil {
		t.Fatal(err)
	}
	if n, err := c.do("WAIT", strconv.Itoa(replicas), "4000"); err != nil || n.(int64) < int64(replicas) {
		t.Fatalf("%v of %d replicas of %s have everything: %v", n, replicas, s.Addr(), err)
	}
}

// Pause halts the server: it keeps its connections and takes new ones, and
// answers nobody.
func (s *Server) Pause(t testing.TB) {
	t.Helper()
	if err := s.process.Pause(); err != nil {
		t.Fatalf("pause the server at %s: %v", s.Addr(), err)
	}
}

// Resume lets a paused server go on.
func (s *Server) Resume(t testing.TB) {
	t.Helper()
	if err := s.process.Resume(); err != nil {
		t.Fatalf("resume the server at %s: %v", s.Addr(), err)
	}
}

// Kill ends the server at once; what is not on disk is lost.
func (s *Server) Kill(t testing.TB) {
	t.Helper()
	if err := s.process.Kill(); err != nil {
		t.Fatalf("kill the server at %s: %v", s.Addr(), err)
	}
}

// Restart starts the server again at the same address, killing it where it
// runs, and waits until it answers.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.Kill(t)
	err := servertest.Await("start the server at "+s.Addr()+" again", func() error {
		err := s.launch()
		if err != nil && !errors.Is(err, servertest.ErrPort) {
			return servertest.Final(err)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

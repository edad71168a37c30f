package dynamotest

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/headgate/headgate/internal/servertest"
)

// Region is the region that the server's URLs name. There, any credentials do.
const Region = "eu-west-1"

// Environment lists what a process needs to be let in.
func Environment() []string {
	return []string{"AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test", "AWS_EC2_METADATA_DISABLED=true"}
}

var keep = sync.OnceValues(func() (*servertest.Keeper, error) {
	for _, e := range Environment() {
		name, value, _ := strings.Cut(e, "=")
		if err := os.Setenv(name, value); err != nil {
			return nil, err
		}
	}
	return servertest.NewKeeper("dynamotest-", nil)
})

// program returns the paths of node and of what runs dynalite.
func program() (node, script string, err error) {
	if node, err = exec.LookPath("node"); err != nil {
		return "", "", fmt.Errorf("%w: run scripts/test-deps.sh", err)
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", "", err
	}
	const room = "store/dynamostore/dynamotest"
	for {
		if _, err := os.Stat(filepath.Join(dir, room, "package-lock.json")); err == nil {
			break
		}
		if dir == filepath.Dir(dir) {
			return "", "", fmt.Errorf("no %s in any directory above", room)
		}
		dir = filepath.Dir(dir)
	}
	if _, err := os.Stat(filepath.Join(dir, room, "node_modules/dynalite/cli.js")); err != nil {
		return "", "", fmt.Errorf("dynalite is not installed: run scripts/test-deps.sh: %w", err)
	}
	return node, filepath.Join(dir, room, "run.cjs"), nil
}

// Server is one running server, whose tables are in memory. Methods that take a
// [testing.TB] fail the test where the server does not do what is asked.
type Server struct {
	process *servertest.Process
	port    int
}

// Standalone starts one server for a test.
func Standalone(t testing.TB) *Server {
	t.Helper()
	s, err := start()
	if err != nil {
		t.Fatalf("start dynalite: %v", err)
	}
	t.Cleanup(s.process.Remove)
	s.show(t)
	return s
}

// show logs what the server says if the test fails.
func (s *Server) show(t testing.TB) {
	t.Cleanup(func() {
		if err := s.process.Running(); t.Failed() && err != nil {
			t.Logf("the server at %d: %v", s.port, err)
		}
	})
}

var shared = sync.OnceValues(start)

// Shared returns the process's server, which it starts where it is the first to ask.
func Shared(t testing.TB) *Server {
	t.Helper()
	s, err := shared()
	if err != nil {
		t.Fatalf("start dynalite: %v", err)
	}
	s.show(t)
	return s
}

func start() (*Server, error) {
	k, err := keep()
	if err != nil {
		return nil, err
	}
	p, err := k.NewProcess()
	if err != nil {
		return nil, err
	}
	s := &Server{process: p}
	err = servertest.StartAt(func() (err error) {
		if s.port, err = servertest.FreePort(); err != nil {
			return err
		}
		return s.launch()
	})
	if err != nil {
		p.Remove()
		return nil, err
	}
	return s, nil
}

// launch starts the program and waits until it answers.
func (s *Server) launch() error {
	node, script, err := program()
	if err != nil {
		return err
	}
	err = s.process.Start(node, script, "--host", "127.0.0.1", "--port", strconv.Itoa(s.port), "--createTableMs", "1", "--deleteTableMs", "1")
	if err != nil {
		return err
	}
	return servertest.Await(fmt.Sprintf("wait for the server at %d", s.port), func() error {
		if err := s.process.Running(); err != nil {
			if strings.Contains(s.process.Tail(), "EADDRINUSE") {
				return servertest.Final(servertest.ErrPort)
			}
			return err
		}
		answer, err := http.Get(s.Endpoint())
		if err != nil {
			return err
		}
		if answer.Header.Get("Date") == "" {
			err = errors.New("it tells no date")
		}
		return errors.Join(err, answer.Body.Close())
	})
}

// Addr returns the server's address.
func (s *Server) Addr() string { return servertest.Address(s.port) }

// Endpoint returns the URL of the server.
func (s *Server) Endpoint() string { return "http://" + s.Addr() }

// URL returns the URL of a table for dynamostore. Each query is a pair such as
// "leases=false"; an endpoint among them is used instead of the server's.
func (s *Server) URL(table string, query ...string) string {
	values := url.Values{"region": {Region}, "endpoint": {s.Endpoint()}}
	for _, q := range query {
		name, value, _ := strings.Cut(q, "=")
		values.Set(name, value)
	}
	return "dynamodb://" + table + "?" + values.Encode()
}

var tables atomic.Int64

// Table returns the name of a table that nothing else in the process uses. It is not
// there yet.
func Table() string { return fmt.Sprintf("table-%d", tables.Add(1)) }

// Stop ends the server at once. Its tables are lost.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	if err := s.process.Kill(); err != nil {
		t.Fatal(err)
	}
}

// Start starts the server again at the same address, without tables.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	if err := servertest.Await("start the server again", s.launch); err != nil {
		t.Fatal(err)
	}
}

// Pause halts the server: it keeps its connections and answers nobody.
func (s *Server) Pause(t testing.TB) {
	t.Helper()
	if err := s.process.Pause(); err != nil {
		t.Fatalf("pause the server: %v", err)
	}
}

// Resume lets a paused server go on.
func (s *Server) Resume(t testing.TB) {
	t.Helper()
	if err := s.process.Resume(); err != nil {
		t.Fatalf("resume the server: %v", err)
	}
}

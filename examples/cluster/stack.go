package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"text/template"
	"time"

	"github.com/headgate/headgate/examples/stage"
)

//go:embed nginx.conf.tmpl
var nginxConf string

//go:embed policy.yaml
var policyFile []byte

// instances is how many instances of the application there are, each with a
// Headgate of its own.
const instances = 3

// stack is Redis, the instances with their Headgates, and nginx before them, on
// free ports of the loopback address, with all their files in one temporary
// directory.
type stack struct {
	dir       string
	url       string // of nginx, without a slash at the end
	nodes     [instances]string
	redis     *stage.Process
	processes []*stage.Process // in the order in which they were started
}

// startStack starts everything and waits until it answers.
func startStack(ctx context.Context, headgate string) (_ *stack, err error) {
	s := new(stack)
	defer func() {
		if err != nil {
			s.stop() // what went wrong is in err
		}
	}()
	if s.dir, err = os.MkdirTemp("", "headgate-cluster-"); err != nil {
		return nil, err
	}
	// nginx started by root works as another user.
	if err = os.Chmod(s.dir, 0o755); err != nil {
		return nil, err
	}
	if err = os.WriteFile(filepath.Join(s.dir, "policy.yaml"), policyFile, 0o644); err != nil {
		return nil, err
	}
	free, err := stage.FreePorts(2 + 2*instances)
	if err != nil {
		return nil, err
	}
	redis, front, nodes, applications := free[0], free[1], free[2:2+instances], free[2+instances:]
	if err = s.startRedis(ctx, redis); err != nil {
		return nil, err
	}
	for i := range instances {
		if err = s.startNode(ctx, headgate, i, nodes[i], "redis://"+redis); err != nil {
			return nil, err
		}
		if err = s.startApplication(ctx, i, applications[i]); err != nil {
			return nil, err
		}
	}
	return s, s.startNginx(ctx, front, applications)
}

// start starts a program and waits until it is ready.
func (s *stack) start(ctx context.Context, name string, ready func() bool, program string, args ...string) error {
	p, err := stage.Start(filepath.Join(s.dir, name+".log"), program, args...)
	if err != nil {
		return err
	}
	s.processes = append(s.processes, p)
	return p.WaitUntil(ctx, ready)
}

func (s *stack) startRedis(ctx context.Context, address string) error {
	program, err := stage.Find("redis-server", packages)
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	err = s.start(ctx, "redis", func() bool { return stage.Listens(address) },
		program, "--bind", "127.0.0.1", "--port", port, "--dir", s.dir, "--save", "")
	if err == nil {
		s.redis = s.processes[0]
	}
	return err
}

func (s *stack) startNode(ctx context.Context, headgate string, i int, address, store string) error {
	s.nodes[i] = "http://" + address
	name := "headgate-" + strconv.Itoa(i+1)
	return s.start(ctx, name, func() bool { return stage.OK(s.nodes[i] + "/readyz") },
		headgate, "serve", "--policy", filepath.Join(s.dir, "policy.yaml"), "--store", store, "--http", address, "--grpc", "", "--resp", "",
		"--data", filepath.Join(s.dir, name))
}

// startApplication starts this program again, as an instance of the shop.
func (s *stack) startApplication(ctx context.Context, i int, address string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	name := "instance-" + strconv.Itoa(i+1)
	return s.start(ctx, name, func() bool { return stage.Listens(address) }, self, instanceFlag, name, address, s.nodes[i])
}

// instanceFlag makes this program an instance of the shop.
const instanceFlag = "-instance"

// runInstance serves an instance named name until it is told to stop.
func runInstance(name, address, headgate string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	server := &http.Server{Addr: address, Handler: newApplication(name, headgate), ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (s *stack) startNginx(ctx context.Context, address string, applications []string) error {
	program, err := stage.Find("nginx", packages)
	if err != nil {
		return err
	}
	t, err := template.New("nginx.conf").Parse(nginxConf)
	if err != nil {
		return err
	}
	var conf bytes.Buffer
	if err := t.Execute(&conf, map[string]any{"Listen": address, "Instances": applications}); err != nil {
		return err
	}
	file := filepath.Join(s.dir, "nginx.conf")
	if err := os.WriteFile(file, conf.Bytes(), 0o644); err != nil {
		return err
	}
	s.url = "http://" + address
	return s.start(ctx, "nginx", func() bool { return stage.Listens(address) }, program, "-e", "stderr", "-p", s.dir, "-c", file)
}

const packages = "nginx-light redis-server"

// stop ends everything that was started, the last first, and removes the
// directory.
func (s *stack) stop() error {
	var errs []error
	for i := range s.processes {
		p := s.processes[len(s.processes)-1-i]
		p.Resume() // a paused one could not end
		if err := p.Stop(); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

// answer is what a client of nginx got.
type answer struct {
	status                     int
	instance, reason, degraded string
	retryAfter                 string
}

// get asks nginx for a path with a key.
func (s *stack) get(ctx context.Context, path, key string) (answer, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+path, nil)
	if err != nil {
		return answer{}, err
	}
	r.Header.Set("X-Api-Key", key)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return answer{}, err
	}
	res.Body.Close()
	h := res.Header
	if h.Get("X-Unlimited") != "" {
		return answer{}, fmt.Errorf("%s could not ask its Headgate", h.Get("X-Instance"))
	}
	return answer{res.StatusCode, h.Get("X-Instance"), h.Get("Headgate-Reason"), h.Get("Headgate-Degraded"), h.Get("Retry-After")}, nil
}

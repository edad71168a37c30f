package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/headgate/headgate/examples/stage"
)

//go:embed nginx.conf.tmpl policy.yaml
var files embed.FS

// instances is how many instances of the application there are, each with a
// Headgate of its own.
const instances = 3

// stack is Redis, the instances with their Headgates, and nginx before them.
type stack struct {
	*stage.Stack
	url   string // of nginx, without a slash at the end
	nodes [instances]string
	redis *stage.Process
}

// startStack starts everything and waits until it answers.
func startStack(ctx context.Context, headgate string) (_ *stack, err error) {
	s := new(stack)
	if s.Stack, err = stage.NewStack("nginx-light redis-server", files); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.Stop() // what went wrong is in err
		}
	}()
	free, err := stage.FreePorts(2 + 2*instances)
	if err != nil {
		return nil, err
	}
	redis, front, nodes, applications := free[0], free[1], free[2:2+instances], free[2+instances:]
	if s.redis, err = s.Redis(ctx, redis); err != nil {
		return nil, err
	}
	for i, node := range nodes {
		s.nodes[i] = "http://" + node
		if _, err = s.Headgate(ctx, headgate, "headgate-"+strconv.Itoa(i+1), node, "--store", "redis://"+redis); err != nil {
			return nil, err
		}
		if err = s.startApplication(ctx, i, applications[i]); err != nil {
			return nil, err
		}
	}
	s.url = "http://" + front
	_, err = s.Nginx(ctx, front, map[string]any{"Instances": applications, "Listen": front})
	return s, err
}

// startApplication starts this program again, as an instance of the shop.
func (s *stack) startApplication(ctx context.Context, i int, address string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	name := "instance-" + strconv.Itoa(i+1)
	_, err = s.Start(ctx, name, func() bool { return stage.Listens(address) }, self, instanceFlag, name, address, s.nodes[i])
	return err
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

// answer is what a client of nginx got.
type answer struct {
	status                     int
	instance, reason, degraded string
	retryAfter                 string
}

// get asks nginx for a path with a key.
func (s *stack) get(ctx context.Context, path, key string) (answer, error) {
	a, err := stage.Ask(ctx, http.DefaultTransport, "GET", s.url+path, "", http.Header{"X-Api-Key": {key}})
	if err != nil {
		return answer{}, err
	}
	h := a.Header
	if h.Get("X-Unlimited") != "" {
		return answer{}, fmt.Errorf("%s could not ask its Headgate", h.Get("X-Instance"))
	}
	return answer{a.StatusCode, h.Get("X-Instance"), h.Get("Headgate-Reason"), h.Get("Headgate-Degraded"), h.Get("Retry-After")}, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/policy"
	"github.com/headgate/headgate/server/front/forwardauth"
	"github.com/headgate/headgate/server/front/httpapi"
	"github.com/headgate/headgate/server/observe"
	"github.com/headgate/headgate/store/memstore"
)

// drain is how long requests may take to end after a stop was asked for.
const drain = 10 * time.Second

func newServe() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve decisions",
		Long: `Serve decisions until SIGTERM or SIGINT. Every flag has an environment variable,
named after it; the flag wins, then the variable, then the --config file. What
may hold a password can also stand in a file: HEADGATE_STORE_FILE names it.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := readSettings(cmd)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, os.Interrupt)
			defer stop()
			context.AfterFunc(ctx, stop) // a second signal ends the process at once
			return serve(ctx, s, s.logger(cmd.ErrOrStderr()))
		},
	}
	addServeFlags(cmd)
	cmd.Flags().SortFlags = false
	return cmd
}

// serve runs until ctx ends or a listener fails.
func serve(ctx context.Context, s *settings, log *slog.Logger) error {
	listener, err := listen("http", s.http, s.open)
	if err != nil {
		return err
	}
	defer listener.Close()
	store := memstore.New(memstore.Config{MaxBytes: s.memory})
	defer store.Close()
	g, err := gate.Open(ctx, gate.Config{PolicyFile: s.policy, Store: store, Logger: log})
	if err != nil {
		if faults, ok := errors.AsType[policy.Faults](err); ok {
			return fmt.Errorf("the policy has %s:\n%w", count(len(faults), "fault"), faults)
		}
		return err
	}
	defer g.Close()
	metrics := newMetrics(g, store)
	server := httpapi.NewServer(newDoor(g, metrics, log), log)

	log.Warn("store memory: state is lost at stop", "budget_bytes", s.memory)

	background, end := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer end()
	r := &reloader{gate: g, metrics: metrics, log: log}
	// Also without a file: left alone, the signal would end the process.
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	tasks.Go(func() { r.onSignal(background, hup) })
	if s.policy != "" {
		tasks.Go(func() {
			changed := func() { r.reload(background, "file changed") }
			ok := func() bool { return g.Status().LastReloadOK }
			if err := watch(background, s.policy, log, changed, ok); err != nil {
				log.Error("the policy is only read again on SIGHUP", "error", err)
			}
		})
	}
	tasks.Go(func() { sweep(background, store) })
	return serveUntil(ctx, server, listener, log)
}

// sweepEvery is how often state that has run out is dropped. The store drops it
// by itself where new keys come in; this gives memory back when they stop.
const sweepEvery = time.Minute

func sweep(ctx context.Context, store *memstore.Store) {
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			store.Sweep()
		}
	}
}

// serveUntil serves until ctx ends, then sends clients away and lets requests
// end.
func serveUntil(ctx context.Context, server *http.Server, l net.Listener, log *slog.Logger) error {
	conns := newConnections(server)
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	address := l.Addr().String()
	if l.Addr().Network() == "unix" {
		address = "unix:" + address
	}
	log.Info("listening", "door", "http", "address", address)
	select {
	case err := <-failed:
		return fmt.Errorf("http: %w", err)
	case <-ctx.Done():
	}
	log.Info("stopping", "because", context.Cause(ctx))
	conns.sendAway(farewell)
	if err := turnAway(l); err != nil {
		log.Warn("clients that connect now may be cut off", "error", err)
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	if err := server.Shutdown(ending); err != nil {
		log.Warn("requests were cut off", "error", err)
		server.Close()
	}
	<-failed
	log.Info("stopped")
	return nil
}

func newMetrics(g *gate.Gate, store *memstore.Store) *observe.Metrics {
	name, commit := buildVersion()
	return observe.New(observe.Build{Version: name, Commit: commit, GoVersion: runtime.Version()}, func() observe.State {
		st := g.Status()
		return observe.State{
			Keys: store.Stats().Keys, StoreUp: g.Ready() == nil, UnknownPlans: g.UnknownPlans(),
			Revision: st.Revision, ReloadOK: st.LastReloadOK, ReloadAt: st.LastReloadAt,
		}
	})
}

// newDoor wires the HTTP door.
func newDoor(g *gate.Gate, metrics *observe.Metrics, log *slog.Logger) http.Handler {
	decided := func(door string) func(*gate.Decision, time.Duration) {
		return func(d *gate.Decision, took time.Duration) {
			metrics.Decided(&observe.Decision{
				Application: d.Application, Rule: d.Rule, Plan: d.Plan, Reason: d.Reason, Allowed: d.Allowed, Door: door, Cost: d.Cost,
			}, took)
		}
	}
	return httpapi.New(httpapi.Config{
		Gate: g, Decided: decided("http"), Panicked: metrics.Panicked, Logger: log,
		Routes: map[string]http.Handler{
			forwardauth.Pattern: forwardauth.New(forwardauth.Config{Gate: g, Decided: decided("forward_auth"), Logger: log}),
			"/metrics":          httpapi.ReadOnly(metrics.Handler()),
		},
	})
}

// reloader reads the policy again.
type reloader struct {
	gate    *gate.Gate
	metrics *observe.Metrics
	log     *slog.Logger
}

// onSignal reloads at each signal until ctx ends.
func (r *reloader) onSignal(ctx context.Context, hup <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
			r.reload(ctx, "SIGHUP")
		}
	}
}

// reload keeps the policy in force if the file is bad.
func (r *reloader) reload(ctx context.Context, why string) {
	before := r.gate.Status().Revision
	err := r.gate.Reload(ctx)
	if err == nil {
		if r.gate.Status().Revision == before { // else the gate has said so
			r.log.Debug("policy unchanged", "because", why, "revision", before)
		}
		return
	}
	r.metrics.ReloadFailed()
	faults, ok := errors.AsType[policy.Faults](err)
	for _, f := range faults {
		r.log.Error("policy fault", "fault", f.Error())
	}
	if ok {
		err = errors.New(count(len(faults), "fault"))
	}
	r.log.Error("policy not reloaded, the old one stays in force", "because", why, "revision", before, "error", err)
}

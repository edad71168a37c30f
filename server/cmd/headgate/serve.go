package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/policy"
	"github.com/headgate/headgate/server/observe"
	"github.com/headgate/headgate/server/records"
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
may hold a password can also stand in a file: HEADGATE_STORE_FILE names it.

  headgate serve --policy policy.yaml
  headgate serve --http 127.0.0.1:9080 --store redis://127.0.0.1:6379`,
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
func serve(ctx context.Context, s *settings, log *slog.Logger) (err error) {
	ls, err := openListeners(s)
	if err != nil {
		return err
	}
	defer ls.close()
	h := &house{log: log, settings: s, name: nodeName(ls.all()[0].Addr()), at: ls, started: time.Now()}
	h.metrics = newMetrics(h)
	if h.certs, err = openCertificates(s, log); err != nil {
		return err
	}
	b, err := openBackend(ctx, s, h.metrics.StoreCalled, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	h.backend = b
	starting := &startHandler{Handler: log.Handler()}
	c := gate.Config{PolicyFile: s.policy, Store: b.store, Local: b.local, Patience: b.patience, Now: b.now, Away: b.away, Logger: slog.New(starting)}
	if s.envoy != "" {
		c.Read = func() (gate.Source, error) { return s.readEnvoy(log) }
	}
	g, err := gate.Open(ctx, c)
	if err != nil {
		if faults, ok := errors.AsType[policy.Faults](err); ok {
			return fmt.Errorf("the policy has %s:\n%w", count(len(faults), "fault"), faults)
		}
		return err
	}
	defer g.Close()
	h.gate = g
	tokens := slices.ContainsFunc([]net.Listener{ls.http, ls.grpc, ls.resp}, func(l net.Listener) bool { return l != nil && s.wantsTokens(l.Addr()) })
	if tokens || s.admin != "" {
		end, err := h.openGuard(s)
		if err != nil {
			return err
		}
		defer end()
	}
	if tokens {
		log.Info("decisions need a token where others can ask: headgate token create makes one", "scope", records.Decide)
	}
	if !tokens && len(s.live.allowFrom) > 0 {
		log.Warn("auth.allow_from changes nothing: decisions need no token here")
	}
	if s.proxy != "" {
		if h.proxy, err = h.openProxy(s); err != nil {
			return err
		}
		defer h.proxy.Close()
	}
	h.apply(s.live)
	var db *records.DB // nil where nobody can write anything down
	if tokens || s.admin != "" || s.records != "" {
		if db, err = h.openRecords(ctx, s); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, db.Close()) }()
	}
	starting.over.Store(true)
	logPolicy(log, g)

	// They go on while requests drain: those count too, and may meet a ban.
	background, end := context.WithCancel(context.WithoutCancel(ctx))
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer end()
	if db != nil {
		tasks.Go(func() { h.follower.Run(background) })
		tasks.Go(func() { h.meter.Run(background) })
		tasks.Go(func() { h.announce(background, db) })
		tasks.Go(func() { h.sweepRecords(background, db) })
	}
	configs := &configReloader{settings: s, metrics: h.metrics, log: log, last: s.live, apply: func(l *live) {
		s.level.Set(l.level)
		h.apply(l)
	}}
	r := &reloader{config: configs, certs: h.certs, gate: g, records: db, metrics: h.metrics, log: log}
	// Also without a file: left alone, the signal would end the process.
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	tasks.Go(func() { r.onSignal(background, hup) })
	if s.config != "" {
		tasks.Go(func() {
			watch(background, "configuration", s.config, log, func() { configs.reload("file changed") }, configs.ok)
		})
	}
	if h.certs != nil {
		for _, file := range h.certs.files(s) {
			tasks.Go(func() {
				watch(background, "certificate", file, log, func() { h.certs.reload("file changed") }, h.certs.ok)
			})
		}
	}
	if s.policy != "" {
		tasks.Go(func() {
			changed := func() { r.reload(background, "file changed") }
			watch(background, "policy", s.policy, log, changed, func() bool { return g.Status().LastReloadOK })
		})
	}
	if s.envoy != "" {
		tasks.Go(func() {
			watchEnvoy(background, s.envoy, func() { r.reload(background, "files changed") }, func() bool { return g.Status().LastReloadOK })
		})
	}
	if h.proxy != nil {
		tasks.Go(func() { h.proxy.Run(background) })
	}
	if b.memory != nil {
		tasks.Go(func() { sweep(background, b.memory, log) })
	}
	return serveUntil(ctx, h.doors(), drain, log)
}

// startHandler keeps quiet until the start is over: what a gate says of the policy that
// it opens with is void where another one, or another revision of it, is on record.
type startHandler struct {
	slog.Handler
	over atomic.Bool
}

func (s *startHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return s.over.Load() && s.Handler.Enabled(ctx, level)
}

// logPolicy says which policy a gate has started with, as the gate says it of later ones.
func logPolicy(log *slog.Logger, g *gate.Gate) {
	p := g.Source()
	_, warnings, _ := policy.Parse(p.Name, p.Data, nil) // it has no faults, as it rules
	for _, w := range warnings {
		log.Warn("policy: " + w.String())
	}
	log.Info("policy in force", "file", p.Name, "revision", p.Revision, "applications", len(g.Policy().Applications))
}

// sweepEvery is how often state that has run out is dropped. The store drops it
// by itself where new keys come in; this gives memory back when they stop.
const sweepEvery = time.Minute

// sweep also says when the memory is full: keys then get less than their due.
func sweep(ctx context.Context, store *memstore.Store, log *slog.Logger) {
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	full := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			store.Sweep()
		}
		st := store.Stats()
		if is := st.Overflow > 0; is != full {
			full = is
			if full {
				log.Warn("the memory for state is full, new keys share budgets: raise --memory", "bytes", st.Bytes, "budget_bytes", st.MaxBytes, "keys", st.Keys)
			} else {
				log.Info("the memory for state is no longer full", "bytes", st.Bytes, "keys", st.Keys)
			}
		}
	}
}

// reloader reads the policy again.
type reloader struct {
	config  *configReloader
	certs   *certReloader // nil for none
	gate    *gate.Gate
	records *records.DB // nil where there are none
	metrics *observe.Metrics
	log     *slog.Logger

	mu sync.Mutex // one reload at a time, with what it puts on record
}

// onSignal reloads the configuration, the certificates and the policy at each signal until ctx ends.
func (r *reloader) onSignal(ctx context.Context, hup <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
			r.config.reload("SIGHUP")
			if r.certs != nil {
				r.certs.reload("SIGHUP")
			}
			r.reload(ctx, "SIGHUP")
		}
	}
}

// reload keeps the policy in force if the file is bad.
func (r *reloader) reload(ctx context.Context, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.gate.Status().Revision
	err := r.gate.Reload(ctx)
	if err == nil {
		if r.gate.Status().Revision == before { // else the gate has said so
			r.log.Debug("policy unchanged", "because", why, "revision", before)
		} else if r.records != nil {
			if err := recordPolicy(ctx, r.records, r.gate, true); err != nil {
				r.log.Warn("the policy is in force, and could not be put on record", "error", err)
			}
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

package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/gate/httpgate"
	"github.com/headgate/headgate/internal/faultlog"
	"github.com/headgate/headgate/server/front/problem"
	"github.com/headgate/headgate/server/front/proxy"
	"github.com/headgate/headgate/server/observe"
)

// proxyName is what the reverse proxy is called.
const proxyName = "proxy"

// proxyAddress is where the verb proxy listens.
const proxyAddress = "127.0.0.1:8000"

func newProxy() *cobra.Command {
	cmd := &cobra.Command{
		Use:   proxyName,
		Short: "Forward requests that the policy lets pass",
		Long: `Stand before an application and forward the requests that the policy lets pass,
until SIGTERM or SIGINT. It serves decisions too, as serve does and with the same
flags: so other verbs can look at the state that they share.

  headgate proxy --upstream http://127.0.0.1:3000 --policy policy.yaml`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := readSettings(cmd)
			if err != nil {
				return err
			}
			if s.proxy == "" {
				return usageError{errors.New("--listen is empty: say where the proxy listens, or use serve")}
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

// openProxy makes what forwards.
func (h *house) openProxy(s *settings) (*proxy.Proxy, error) {
	c := s.forward.config()
	c.Limit = h.limit
	c.Trusted = func(application string) []netip.Prefix {
		trusted, _ := h.gate.TrustedProxies(application)
		return trusted
	}
	c.Forwarded = h.metrics.Forwarded
	c.Failed = func(name string) { h.metrics.Failed(proxyName, name) }
	c.Logger = h.log
	for _, r := range c.Routes {
		if _, known := h.gate.TrustedProxies(r.Application); !known {
			h.log.Warn("the policy has no such application: requests to it fail", "door", proxyName, "application", r.Application, "prefix", r.Prefix)
		}
	}
	return proxy.New(c)
}

// limit lets the gate decide the requests of an application at the proxy.
func (h *house) limit(application string) func(http.Handler) http.Handler {
	var faults faultlog.Faults
	return httpgate.New(h.gate, httpgate.Config{
		Application: application, Decided: h.decided(proxyName), Ended: h.passed,
		OnError: func(r *http.Request, err error) {
			p := problem.Of(err)
			if r.Context().Err() != nil {
				p = problem.Of(&headgate.Error{Code: headgate.Closed, Err: err})
			}
			h.metrics.Failed(proxyName, p.Name)
			if p.Status >= http.StatusInternalServerError && r.Context().Err() == nil {
				code := headgate.CodeOf(err).String()
				faults.Log(h.log, slog.LevelError, code, "no decision", "door", proxyName, "code", code, "error", err)
			}
		},
	})
}

// passed measures a request that a rule let pass at the proxy.
func (h *house) passed(r *http.Request, by httpgate.Passed, status int, took time.Duration) {
	if status == http.StatusInternalServerError && r.Context().Err() != nil {
		status = 0 // the client left, which ended the handler
	}
	h.metrics.Passed(by.Application, by.Rule, status, took)
}

// proxyService is the server of the proxy.
type proxyService struct {
	*httpServer
	proxy *proxy.Proxy
}

// stop also ends WebSockets, of which net/http knows nothing.
func (s proxyService) stop(ctx context.Context) error {
	tunnels := make(chan error, 1)
	go func() { tunnels <- s.proxy.Stop(ctx) }()
	err := s.Shutdown(ctx)
	return errors.Join(err, <-tunnels)
}

func (s proxyService) close() {
	s.proxy.Close()
	s.httpServer.close()
}

// proxyDoor puts a server before it.
func (h *house) proxyDoor(l net.Listener) door {
	server := newHTTPServer(proxy.NewServer(h.proxy, h.log))
	return h.encrypted(door{name: proxyName, listener: l, service: proxyService{server, h.proxy}}, "h2", "http/1.1")
}

// observeProxy adds what there is to see of upstreams.
func (h *house) observeProxy(s *observe.State) {
	if h.proxy == nil {
		return
	}
	for _, u := range h.proxy.Upstreams() {
		o := observe.Upstream{Name: u.Name, InFlight: u.InFlight, Latency: u.Latency, ErrorShare: u.ErrorShare}
		for _, server := range u.Servers {
			o.Servers = append(o.Servers, observe.UpstreamServer(server))
		}
		s.Upstreams = append(s.Upstreams, o)
	}
}

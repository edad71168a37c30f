package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/envoy"
)

// envoyOptions are those of the configuration file, under envoy.
type envoyOptions struct {
	headers, metadata, afterTheFact bool
	mergeDomains, calendar          bool
}

// readEnvoyOptions returns what a file without faults says. Hits after the fact are what
// envoyproxy/ratelimit's configuration is written for, so they are on with it.
func readEnvoyOptions(c *configFile, configured bool) (o envoyOptions) {
	for key, to := range map[string]*bool{
		"headers": &o.headers, "dynamic_metadata": &o.metadata, "after_the_fact": &o.afterTheFact, "merge_domains": &o.mergeDomains, "calendar": &o.calendar,
	} {
		value, said := c.one("envoy." + key)
		*to = value == "true" || !said && key == "after_the_fact" && configured
	}
	return o
}

// readEnvoy returns the policy that a directory of envoyproxy/ratelimit's configuration
// amounts to. Warnings go to log.
func (s *settings) readEnvoy(log *slog.Logger) (gate.Source, error) {
	files, err := envoy.ReadDir(s.envoy)
	if err != nil {
		return gate.Source{}, fmt.Errorf("--envoy-config: %w", err)
	}
	data, warnings, err := envoy.Convert(files, envoy.Options{MergeDomains: s.envoyOptions.mergeDomains, Calendar: s.envoyOptions.calendar})
	for _, w := range warnings {
		log.Warn("policy: " + w.String())
	}
	return gate.Source{Name: s.envoy, Data: data}, err
}

// watchEnvoy calls changed when the files of a directory have become other ones, until
// ctx ends. Directories have too many ways to change to wait for word of each, and their
// files are small: they are read again every two seconds.
func watchEnvoy(ctx context.Context, dir string, changed func(), ok func() bool) {
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	last := contentOf(dir)
	changed() // as of what was read now
	was := ok()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if now := contentOf(dir); !bytes.Equal(now, last) || was != ok() {
			last = now
			changed()
			was = ok()
		}
	}
}

// contentOf is all that a directory holds, or why it cannot be read.
func contentOf(dir string) []byte {
	var b bytes.Buffer
	files, err := envoy.ReadDir(dir)
	if err != nil {
		b.WriteString(err.Error())
	}
	for _, f := range files {
		fmt.Fprintf(&b, "%q %q\n", f.Name, f.Data)
	}
	return b.Bytes()
}

// Command pm2 shows Headgate under PM2, twice: as the bucket that the instances of
// one cluster share, with the interface of pm2-token-bucket, and as limits and bans
// that several clusters behind nginx share through Redis. On the way servers are
// killed, and applications reloaded under load.
//
// It exits 1 if anything but what the limits allow passes, or a request fails.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/headgate/headgate/examples/stage"
)

func main() {
	packages := flag.String("packages", "examples/pm2", "the directory of this example, with its packages of npm")
	stage.Main("pm2 [-headgate FILE] [-packages DIR]", func(ctx context.Context, w io.Writer, headgate string) error {
		return run(ctx, w, headgate, *packages)
	})
}

// run shows both. Example is the directory of this example.
func run(ctx context.Context, w io.Writer, headgate, example string) error {
	s, err := newStack(ctx, headgate, example)
	if err != nil {
		return err
	}
	return errors.Join(s.show(ctx, w), s.stop())
}

func (s *stack) show(ctx context.Context, w io.Writer) error {
	if err := s.showBucket(ctx, w); err != nil {
		return fmt.Errorf("one bucket for a cluster: %w", err)
	}
	if err := s.showShop(ctx, w); err != nil {
		return fmt.Errorf("limits for several clusters: %w", err)
	}
	return nil
}

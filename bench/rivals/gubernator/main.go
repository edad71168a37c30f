// Command gubernator serves gubernator on two addresses, for gRPC and for HTTP, alone:
// its own command looks for others on all networks.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/mailgun/gubernator/v2"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "gubernator:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 3 {
		return fmt.Errorf("usage: gubernator GRPC-ADDRESS HTTP-ADDRESS")
	}
	d, err := gubernator.SpawnDaemon(context.Background(), gubernator.DaemonConfig{GRPCListenAddress: os.Args[1], HTTPListenAddress: os.Args[2]})
	if err != nil {
		return err
	}
	d.SetPeers([]gubernator.PeerInfo{{GRPCAddress: os.Args[1], HTTPAddress: os.Args[2]}})
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	<-ctx.Done()
	d.Close()
	return nil
}

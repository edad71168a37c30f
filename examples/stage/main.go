package stage

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// ErrUsage says that the flags of an example are wrong.
var ErrUsage = errors.New("wrong usage")

// Main is the main function of an example, which runs with the Headgate that the
// flag names until it is told to stop. The program exits 64 on wrong flags, 1 on
// any other error.
func Main(usage string, run func(ctx context.Context, w io.Writer, headgate string) error) {
	headgate := flag.String("headgate", "bin/headgate", "the headgate to run")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := ErrUsage
	if flag.NArg() == 0 {
		err = run(ctx, os.Stdout, *headgate)
	}
	if errors.Is(err, ErrUsage) {
		fmt.Fprintln(os.Stderr, "usage: "+usage)
		os.Exit(64)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

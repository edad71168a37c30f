package dynamostore

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/headgate/headgate/store/cas"
)

// MostSkew is how far the node's clock may certainly be from the service's.
const MostSkew = 250 * time.Millisecond

// Config says where the table is and what is told about it. Only URL is required.
type Config struct {
	// URL names the table:
	//
	//	dynamodb://TABLE[?NAME=VALUE&...]
	//
	// Options are region, which else is that of the environment or of the shared
	// configuration; endpoint, the URL of another service that speaks the protocol;
	// and strict: false takes the state of a table that was deleted and restored as
	// it is, though it may lack charges. Credentials are those of the AWS SDK's usual
	// chain: environment, shared configuration, container, instance.
	URL string
	// Logger is told of what operators should know; nil discards.
	Logger *slog.Logger
	// Observe, if not nil, is told of every operation when it has ended: its
	// name, how long it took, and what kind of failure it met, "" for none. It is
	// called concurrently and must be fast.
	Observe func(op string, took time.Duration, failure string)
	// ManualClockForTest decides at Batch.Now where it is not 0, and takes no notice
	// of skew. Everybody who shares the table must do the same.
	ManualClockForTest bool
}

// Store is a [headgate.Authority] and a [headgate.Census] in DynamoDB. Make one with
// [Open].
type Store struct {
	*cas.Store
	table *table
	quit  context.CancelFunc
	jobs  sync.WaitGroup
}

// Close waits for what is on its way. Apply fails from then on.
func (s *Store) Close() error {
	s.quit()
	s.jobs.Wait()
	return s.Store.Close()
}

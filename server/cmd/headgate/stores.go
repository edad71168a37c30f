package main

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/dynamostore"
	"github.com/headgate/headgate/store/pgstore"
	"github.com/headgate/headgate/store/pgstore/pgopen"
	"github.com/headgate/headgate/store/redisstore"
)

// sharedKind is a kind of store that nodes share: whoever names one is asked by URL.
type sharedKind struct {
	// name is that in metrics and messages.
	name string
	// schemes are what its URLs begin with.
	schemes []string
	// open connects to the store that a URL names. leases is whether the URL wants
	// them. Errors are one sentence and do not show a password.
	open func(ctx context.Context, url string, o openOptions) (store headgate.Authority, leases bool, err error)
	// patience is how long open may take: longer where it may have tables to make.
	patience time.Duration
	// passwordWanted is what errors of open wrap where the URL lacks a password; nil
	// where it never has one.
	passwordWanted error
	// warning is what operators must know, "" for nothing.
	warning string
}

// openOptions are the same for all kinds.
type openOptions struct {
	log *slog.Logger
	// called is told of every call of the store.
	called func(op string, took time.Duration, failure string)
}

var sharedKinds = []sharedKind{
	{name: "redis", schemes: []string{"redis", "rediss"}, open: openRedis, patience: 10 * time.Second, passwordWanted: redisstore.ErrPasswordWanted},
	{name: "postgres", schemes: []string{"postgres", "postgresql"}, open: openPostgres, patience: 90 * time.Second, passwordWanted: pgopen.ErrPasswordWanted},
	{
		name: "dynamodb", schemes: []string{"dynamodb"}, open: openDynamo, patience: 90 * time.Second,
		warning: "the clocks of the nodes decide, and must agree; it was tested on a local server and not on AWS",
	},
}

func openRedis(ctx context.Context, url string, o openOptions) (headgate.Authority, bool, error) {
	leases, err := redisstore.Leases(url)
	if err != nil {
		return nil, false, err
	}
	store, err := redisstore.Open(ctx, redisstore.Config{URL: url, Logger: o.log, Observe: o.called})
	return store, leases, err
}

func openPostgres(ctx context.Context, url string, o openOptions) (headgate.Authority, bool, error) {
	leases, err := pgstore.Leases(url)
	if err != nil {
		return nil, false, err
	}
	store, err := pgstore.Open(ctx, pgstore.Config{URL: url, Logger: o.log, Observe: o.called})
	return store, leases, err
}

func openDynamo(ctx context.Context, url string, o openOptions) (headgate.Authority, bool, error) {
	leases, err := dynamostore.Leases(url)
	if err != nil {
		return nil, false, err
	}
	store, err := dynamostore.Open(ctx, dynamostore.Config{URL: url, Logger: o.log, Observe: o.called})
	return store, leases, err
}

// kindOf returns the kind of the store that a URL names, nil for none.
func kindOf(url string) *sharedKind {
	for i := range sharedKinds {
		for _, scheme := range sharedKinds[i].schemes {
			if strings.HasPrefix(url, scheme+"://") {
				return &sharedKinds[i]
			}
		}
	}
	return nil
}

// sharedSchemes lists what the URLs of shared stores begin with.
func sharedSchemes() string {
	var all []string
	for _, k := range sharedKinds {
		for _, scheme := range k.schemes {
			all = append(all, scheme+"://")
		}
	}
	last := len(all) - 1
	return strings.Join(all[:last], ", ") + " or " + all[last]
}

package dynamostore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go/logging"

	"github.com/headgate/headgate/store/cas"
)

const (
	// lanes is how many groups are on their way at once.
	lanes = 16
	// connections is how many there may be at once.
	connections = 256
	dialTime    = time.Second
	// openTime is how long the service may take to say that the table can be used,
	// and createTime to create it.
	openTime   = 10 * time.Second
	createTime = time.Minute
	// watchEvery is how often the table's mark and the service's clock are looked at
	// while nobody asks for anything.
	watchEvery = 10 * time.Second
)

// Open makes sure that limits can be kept in the table of c.URL, and creates it if
// it is missing. It fails with one sentence where the region or credentials are
// missing, the service is away or does not let us do what that takes, the table is
// of another form, or the clocks are certainly more than [MostSkew] apart; to be
// certain it waits up to a second. Later failures are those of single calls.
func Open(ctx context.Context, c Config) (*Store, error) {
	s, err := open(ctx, c, newSkew())
	if err != nil {
		return nil, fmt.Errorf("dynamodb: %w", err)
	}
	return s, nil
}

func open(ctx context.Context, c Config, k *skew) (*Store, error) {
	at, err := parseURL(c.URL)
	if err != nil {
		return nil, err
	}
	t := &table{name: at.table, log: cmp.Or(c.Logger, slog.New(slog.DiscardHandler)), lenient: at.lenient, shaking: make(chan struct{}, 1)}
	if !c.ManualClockForTest {
		t.skew = k
	}
	if t.db, err = connect(ctx, at, k, t.log); err != nil {
		return nil, err
	}
	if err := t.prepare(ctx); err != nil {
		return nil, explain(at, err)
	}
	if t.skew != nil {
		if err := t.compare(ctx); err != nil {
			return nil, explain(at, err)
		}
	}
	life, quit := context.WithCancel(context.WithoutCancel(ctx))
	s := &Store{
		Store: cas.New(cas.Config{Table: t, Apart: true, Lanes: lanes, Observe: c.Observe, ManualClockForTest: c.ManualClockForTest}),
		table: t, quit: quit,
	}
	s.jobs.Go(func() { t.watch(life) })
	return s, nil
}

// connect makes the client of the service.
func connect(ctx context.Context, at *target, k *skew, log *slog.Logger) (*dynamodb.Client, error) {
	client := awshttp.NewBuildableClient().WithDialerOptions(func(d *net.Dialer) { d.Timeout = dialTime }).WithTransportOptions(func(t *http.Transport) {
		t.TLSHandshakeTimeout = dialTime
		t.MaxIdleConns, t.MaxIdleConnsPerHost, t.MaxConnsPerHost = connections, connections, connections
		t.IdleConnTimeout = 50 * time.Second // the service closes after a minute
	})
	options := []func(*config.LoadOptions) error{config.WithHTTPClient(client), config.WithLogger(logging.LoggerFunc(func(_ logging.Classification, format string, v ...any) {
		log.Debug("dynamodb: the SDK says: " + fmt.Sprintf(format, v...))
	}))}
	if at.region != "" {
		options = append(options, config.WithRegion(at.region))
	}
	c, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("cannot read the AWS configuration: %w", err)
	}
	if c.Region == "" {
		return nil, errors.New("the region is not known: write it into the URL, as in dynamodb://TABLE?region=eu-west-1, or set AWS_REGION")
	}
	return dynamodb.NewFromConfig(c, func(o *dynamodb.Options) {
		if at.endpoint != "" {
			o.BaseEndpoint = &at.endpoint
		}
		// What is tried again is known here: it must be within the callers' time, and
		// what may have been done must be asked for differently.
		o.Retryer = aws.NopRetryer{}
		o.HTTPClient = listener{c.HTTPClient, k}
	}), nil
}

// prepare makes sure that the table is there and can be read and written.
func (t *table) prepare(ctx context.Context) error {
	made, err := t.ensure(ctx)
	if err != nil {
		return err
	}
	asked, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	if made {
		_, err := t.db.UpdateTimeToLive(asked, &dynamodb.UpdateTimeToLiveInput{
			TableName: &t.name, TimeToLiveSpecification: &types.TimeToLiveSpecification{AttributeName: aws.String(attrExpires), Enabled: aws.Bool(true)},
		})
		if err != nil {
			t.log.Warn("dynamodb: created the table, but could not enable its time to live: items that are over stay in it", "table", t.name, "attribute", attrExpires, "error", plain(err))
		} else {
			t.log.Info("dynamodb: created the table", "table", t.name)
		}
	}
	_, err = t.Read(asked, nil)
	if f, ok := errors.AsType[*cas.Failure](err); ok && f.Kind == "clock" {
		return nil // which is looked at closely
	}
	return err
}

// creation is an error of creating the table.
type creation struct{ error }

func (e creation) Unwrap() error { return e.error }

// ensure waits until the table can be used, and creates it where it is not there.
func (t *table) ensure(ctx context.Context) (made bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, createTime)
	defer cancel()
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		asked, cancel := context.WithTimeout(ctx, openTime)
		d, err := t.db.DescribeTable(asked, &dynamodb.DescribeTableInput{TableName: &t.name})
		switch {
		case isCode(err, codeNoTable):
			_, err := t.db.CreateTable(asked, &dynamodb.CreateTableInput{
				TableName: &t.name, BillingMode: types.BillingModePayPerRequest,
				AttributeDefinitions: []types.AttributeDefinition{{AttributeName: aws.String(attrKey), AttributeType: types.ScalarAttributeTypeB}},
				KeySchema:            []types.KeySchemaElement{{AttributeName: aws.String(attrKey), KeyType: types.KeyTypeHash}},
			})
			if err != nil && !isCode(err, codeInUse) { // somebody else creates it
				cancel()
				return made, creation{err}
			}
			made = made || err == nil
		case err != nil:
			cancel()
			return made, err
		case d.Table.TableStatus != types.TableStatusCreating && d.Table.TableStatus != types.TableStatusDeleting:
			cancel()
			return made, checkSchema(d.Table)
		}
		cancel()
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return made, ctx.Err()
		}
	}
}

// compare compares the clocks until it is certain whether they are too far apart,
// or as certain as a round trip allows. It asks where a date tells: a clock that is
// ahead by as much as may be is a quarter of a second into its own second when the
// service's begins, and one behind three quarters.
func (t *table) compare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	const second, most, early = 1_000_000, int64(MostSkew / time.Microsecond), sloppy + 5_000
	for range 4 {
		asked := time.Now()
		if _, err := t.fetch(ctx, nil, true); err != nil {
			return err
		}
		trip := time.Since(asked).Microseconds()
		b := t.skew.now()
		if f := b.check(); f != nil {
			return f
		}
		within := most + 2*early + trip
		if b.least >= -within && b.most <= within {
			return nil
		}
		into, pause := time.Now().UnixMicro()%second, int64(second)
		if b.most > within {
			pause = min(pause, (second+most+early-into)%second)
		}
		if b.least < -within {
			pause = min(pause, (3*second-most-early-trip%second-into)%second)
		}
		timer := time.NewTimer(time.Duration(pause) * time.Microsecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
	return nil
}

// watch looks at the table's mark and the service's clock now and then until ctx
// ends, for the sake of the calls that come after a while without any.
func (t *table) watch(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			// What fails here is forgotten, and met by the next call.
			asked, cancel := context.WithTimeout(ctx, openTime)
			if _, err := t.fetch(asked, nil, true); err != nil {
				_ = t.diagnose(err)
			}
			cancel()
		}
	}
}

// explain puts an error of Open into one sentence.
func explain(at *target, err error) error {
	name := fmt.Sprintf("table %q", at.table)
	if at.region != "" {
		name += " in " + at.region
	}
	if at.endpoint != "" {
		name += " at " + at.endpoint
	}
	made, creating := errors.AsType[creation](err)
	f := diagnose(err)
	switch {
	case errors.Is(err, errSchema):
		return fmt.Errorf("%s: %w: name another table", name, errSchema)
	case f.Kind == "clock":
		return fmt.Errorf("%s: %w: set the node's clock, by NTP for example", name, trimmed(f.Err))
	case creating && f.Kind == "auth" && !uncredited(err):
		return fmt.Errorf("%s is not there and may not be created: create it with the partition key %q of type binary, or allow dynamodb:CreateTable: %w", name, attrKey, plain(made.error))
	case creating:
		return fmt.Errorf("%s is not there and cannot be created: %w", name, plain(made.error))
	case uncredited(err):
		return fmt.Errorf("%s: there are no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the instance or container a role", name)
	case f.Kind == "auth":
		return fmt.Errorf("%s: the service does not let us in, or lacks a right: %w", name, trimmed(f.Err))
	case f.Kind == "dial":
		return fmt.Errorf("cannot connect to the service for %s: %w", name, trimmed(f.Err))
	case f.Kind == "timeout":
		return fmt.Errorf("the service did not answer in time for %s", name)
	default:
		return fmt.Errorf("cannot use %s: %w", name, trimmed(f.Err))
	}
}

// trimmed is err without the package's name, which Open says.
func trimmed(err error) error {
	if inner := errors.Unwrap(err); inner != nil && err.Error() == "dynamodb: "+inner.Error() {
		return inner
	}
	return err
}

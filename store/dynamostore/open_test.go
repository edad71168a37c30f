package dynamostore

import (
	"errors"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/store/dynamostore/dynamotest"
)

// refused returns the error of Open, which must be one sentence.
func refused(t *testing.T, at string) string {
	t.Helper()
	s, err := Open(t.Context(), Config{URL: at})
	if err == nil {
		_ = s.Close()
		t.Fatalf("%s opens", at)
	}
	if text := err.Error(); !strings.HasPrefix(text, "dynamodb: ") || strings.Count(text, "dynamodb: ") > 1 || strings.Contains(text, "\n") || strings.Contains(text, "hunter2") || len(text) > 400 {
		t.Errorf("error %q", text)
	}
	return err.Error()
}

func expect(t *testing.T, got string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(got, w) {
			t.Errorf("error %q has no %q", got, w)
		}
	}
}

func TestURLs(t *testing.T) {
	for at, words := range map[string]string{
		"redis://x":                                "must begin with dynamodb://",
		"dynamodb://":                              "3 to 255 letters",
		"dynamodb://a/b":                           "3 to 255 letters",
		"dynamodb://key:hunter2@limits":            "takes no credentials",
		"dynamodb://limits?region=Europe!":         "region: must be",
		"dynamodb://limits?endpoint=127.0.0.1:8":   "endpoint: must be a URL",
		"dynamodb://limits?strict=perhaps":         "strict: must be true or false",
		"dynamodb://limits?lease=1":                `"lease" is no option of the URL: there are endpoint, leases, region and strict`,
		"dynamodb://limits?region=a-1&region=b-1":  "region: is in the URL twice",
		"dynamodb://limits?region=eu-west-1;x=%zz": "NAME=VALUE pairs",
	} {
		expect(t, refused(t, at), words)
	}
	for at, want := range map[string]bool{"dynamodb://limits": true, "dynamodb://limits?leases=false": false, "dynamodb://limits?leases=1&region=x": true} {
		if got, err := Leases(at); got != want || err != nil {
			t.Errorf("%s: %v, %v", at, got, err)
		}
	}
	if _, err := Leases("dynamodb://x"); err == nil {
		t.Error("no error")
	}
}

// noEnvironment hides what the machine knows of AWS.
func noEnvironment(t *testing.T) {
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_WEB_IDENTITY_TOKEN_FILE"} {
		t.Setenv(name, "")
	}
	none := filepath.Join(t.TempDir(), "none")
	t.Setenv("AWS_CONFIG_FILE", none)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", none)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
}

func TestNoCredentials(t *testing.T) {
	at := dynamotest.Shared(t).URL(dynamotest.Table())
	noEnvironment(t)
	expect(t, refused(t, at), "there are no AWS credentials", "AWS_ACCESS_KEY_ID")
	expect(t, refused(t, "dynamodb://limits"), "the region is not known", "AWS_REGION")
}

func TestRefusals(t *testing.T) {
	p := newProxy(t)
	at := p.url(t, dynamotest.Table())
	answer := func(op string, code int, kind string) {
		p.meddleWith(always(op, fate{code: code, kind: kind}))
	}
	answer("DescribeTable", http.StatusBadRequest, "UnrecognizedClientException")
	expect(t, refused(t, at), "does not let us in", "UnrecognizedClient: as the test says")
	answer("DescribeTable", http.StatusBadRequest, "AccessDeniedException")
	expect(t, refused(t, at), "lacks a right", "AccessDenied")
	answer("DescribeTable", http.StatusInternalServerError, "InternalServerError")
	expect(t, refused(t, at), "cannot use table", "InternalServerError")
	answer("CreateTable", http.StatusBadRequest, "AccessDeniedException")
	expect(t, refused(t, at), "is not there and may not be created", `partition key "k" of type binary`, "dynamodb:CreateTable")
	answer("CreateTable", http.StatusBadRequest, "LimitExceededException")
	expect(t, refused(t, at), "is not there and cannot be created")
	answer("GetItem", http.StatusBadRequest, "AccessDeniedException")
	expect(t, refused(t, at), "lacks a right")
	answer("PutItem", http.StatusBadRequest, "AccessDeniedException")
	expect(t, refused(t, at), "lacks a right")
	p.meddleWith(func(string) fate { return fate{drop: true} })
	expect(t, refused(t, at), "cannot use table")
	expect(t, refused(t, dynamotest.Shared(t).URL("limits", "endpoint=http://127.0.0.1:1")), "cannot connect", "refused")
}

func TestForeignTable(t *testing.T) {
	name := dynamotest.Table()
	s := openStore(t, Config{}) // for its client
	if _, err := s.table.db.CreateTable(t.Context(), &dynamodb.CreateTableInput{
		TableName: &name, BillingMode: types.BillingModePayPerRequest,
		AttributeDefinitions: []types.AttributeDefinition{{AttributeName: aws.String("id"), AttributeType: types.ScalarAttributeTypeS}},
		KeySchema:            []types.KeySchemaElement{{AttributeName: aws.String("id"), KeyType: types.KeyTypeHash}},
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := (&table{db: s.table.db, name: name}).ensure(t.Context()); !errors.Is(err, errSchema) {
		t.Fatal(err)
	}
	expect(t, refused(t, dynamotest.Shared(t).URL(name)), `must have the partition key "k" of type binary`)
}

// Many that open a table that is not there at once find it created once.
func TestOpenAtOnce(t *testing.T) {
	at := dynamotest.Shared(t).URL(dynamotest.Table())
	var wait sync.WaitGroup
	for range 6 {
		wait.Go(func() {
			s, err := open(t.Context(), Config{URL: at}, heardOfAll)
			if err == nil {
				err = s.Close()
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
}

func TestNodes(t *testing.T) {
	at := dynamotest.Shared(t).URL(dynamotest.Table())
	stores := []*Store{openStore(t, Config{URL: at}), openStore(t, Config{URL: at})}
	nodes := func(s *Store, id uint64, ttl time.Duration, want int) {
		t.Helper()
		if n, err := s.Nodes(t.Context(), [2]uint64{id, 1 << 63}, ttl); n != want || err != nil {
			t.Errorf("%d nodes, %v; want %d", n, err, want)
		}
	}
	nodes(stores[0], 1, time.Minute, 1)
	nodes(stores[1], 2, time.Minute, 2)
	nodes(stores[0], 1, time.Minute, 2)
	nodes(stores[1], 2, 0, 1)
	var wait sync.WaitGroup
	for i := range uint64(8) {
		wait.Go(func() {
			if _, err := stores[i%2].Nodes(t.Context(), [2]uint64{10 + i, 1}, time.Minute); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	nodes(stores[0], 1, time.Minute, 9)
	if _, err := stores[0].Nodes(t.Context(), [2]uint64{1, 1}, time.Hour); headgate.CodeOf(err) != headgate.InvalidRequest {
		t.Errorf("error %v", err)
	}
	if err := stores[0].Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := stores[0].Nodes(t.Context(), [2]uint64{1, 1}, time.Second); headgate.CodeOf(err) != headgate.Closed {
		t.Errorf("error %v", err)
	}
}

func TestLive(t *testing.T) {
	const now = 1_000_000_000_000
	list, n := live(nil, [16]byte{1}, time.Second, now)
	list, m := live(list, [16]byte{2}, time.Minute, now)
	if n != 1 || m != 2 {
		t.Errorf("%d, %d", n, m)
	}
	if _, n = live(list, [16]byte{3}, time.Minute, now+1_000_000); n != 2 {
		t.Errorf("%d live when one's time is over", n)
	}
	if _, n = live(list, [16]byte{3}, time.Minute, now-3_600_000_000); n != 1 {
		t.Errorf("%d live when the clock was set back by an hour", n) // the others claim too much
	}
}

// An item that is over is one that the service may delete, an hour later.
func TestTimeToLive(t *testing.T) {
	s := openStore(t, Config{})
	l := prepared(t, headgate.Window(5, time.Minute).WithName("w"))
	b, err := take(t, s, headgate.Charge{Limit: l, Owner: "a", Cost: 1})
	if err != nil {
		t.Fatal(err)
	}
	all, err := s.table.db.Scan(t.Context(), &dynamodb.ScanInput{TableName: &s.table.name})
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, a := range all.Items {
		r := reader{a: a}
		if len(r.bytes(attrKey)) != 16 {
			continue
		}
		found = true
		end := b.At + b.Outcomes()[0].ResetAfter.Microseconds()
		if x := int64(r.number(attrExpires)); x < end/1_000_000+afterlife || x > end/1_000_000+afterlife+1 {
			t.Errorf("may be deleted at %d, is over at %d", x, end/1_000_000)
		}
	}
	if !found {
		t.Error("there is no item")
	}
}

func TestWarnsOfNoTimeToLive(t *testing.T) {
	var log strings.Builder
	s, err := open(t.Context(), Config{URL: dynamotest.Shared(t).URL(dynamotest.Table()), Logger: slog.New(slog.NewTextHandler(&log, nil))}, heardOfAll)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	expect(t, log.String(), "could not enable its time to live")
}

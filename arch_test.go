package headgate_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/headgate/headgate"

// layers says what the production code of a room may import besides the
// standard library and itself: rooms of this repository by their path, others
// by a prefix of their import path. A room that is not listed may not exist.
var layers = map[string]struct {
	may    []string
	reason string
}{
	".":                             {nil, "the words: everything else speaks them, so they depend on nothing"},
	"algo":                          {[]string{"."}, "arithmetic over the words"},
	"internal/clientip":             {nil, "addresses of HTTP clients, for every HTTP door"},
	"internal/certtest":             {nil, "makes certificates for tests"},
	"internal/servertest":           {nil, "runs other programs"},
	"internal/ratefield":            {[]string{"."}, "rate limit header fields, for every HTTP door"},
	"internal/racetest":             {nil, "for tests that mind the race detector"},
	"internal/limittest":            {[]string{".", "middleware/httplimit", "store/memstore"}, "the suite for HTTP middleware over a Limiter"},
	"internal/pause":                {nil, "waiting, and keys that servers have stopped, for outgoing calls"},
	"internal/faultlog":             {nil, "logs faults without being flooded, for middleware and doors"},
	"internal/refusal":              {[]string{".", "internal/ratefield"}, "what HTTP middleware and the reverse proxy answer to those who do not pass"},
	"store/memstore":                {[]string{".", "algo"}, "state in memory"},
	"lease":                         {[]string{".", "algo"}, "spends locally what an Authority granted"},
	"guard":                         {[]string{".", "algo", "store/memstore"}, "deadlines, breaker and fallback around a store that may be away"},
	"store/record":                  {[]string{".", "algo"}, "how stores that outlive the process write budgets down"},
	"store/cas":                     {[]string{".", "algo", "store/record"}, "decides in Go on state that a table compares and swaps"},
	"store/pgstore":                 {[]string{".", "store/cas", "store/pgstore/pgopen", "github.com/jackc/pgx"}, "a table in PostgreSQL"},
	"store/pgstore/pgopen":          {[]string{"github.com/jackc/pgx", "github.com/pressly/goose"}, "URLs, checks and migrations, for whoever keeps tables in PostgreSQL"},
	"store/pgstore/pgtest":          {[]string{"internal/servertest", "github.com/jackc/pgx"}, "starts real servers for tests"},
	"store/dynamostore":             {[]string{".", "store/cas", "github.com/aws/aws-sdk-go-v2", "github.com/aws/smithy-go"}, "the only room that knows DynamoDB"},
	"store/dynamostore/dynamotest":  {[]string{"internal/servertest"}, "starts real servers for tests"},
	"store/redisstore":              {[]string{".", "algo", "github.com/redis/rueidis"}, "the only room that knows Redis"},
	"store/redisstore/redistest":    {[]string{"internal/servertest"}, "starts real servers for tests"},
	"store/sqlitestore":             {[]string{".", "algo", "store/memstore", "store/record", "modernc.org/sqlite", "github.com/pressly/goose"}, "the only room that knows SQLite"},
	"store/storetest":               {[]string{".", "algo"}, "the suite for stores: it compares them with algo"},
	"store/lintest":                 {[]string{".", "github.com/anishathalye/porcupine", "github.com/Shopify/toxiproxy", "github.com/rs/zerolog"}, "checks that stores are linearizable, with faults on the way"},
	"middleware/echolimit":          {[]string{".", "middleware/httplimit", "github.com/labstack/echo/v5"}, "httplimit in an echo chain"},
	"middleware/ginlimit":           {[]string{".", "middleware/httplimit", "github.com/gin-gonic/gin"}, "httplimit in a gin chain"},
	"middleware/wraptest":           {nil, "tests of gates in the chains of frameworks"},
	"middleware/grpclimit":          {[]string{".", "internal/clientip", "internal/pause", "internal/ratefield", "middleware/grpclimit/answer", "google.golang.org/grpc", "google.golang.org/genproto/googleapis/rpc"}, "a Limiter around calls of gRPC"},
	"middleware/grpclimit/answer":   {[]string{".", "google.golang.org/grpc", "google.golang.org/protobuf", "google.golang.org/genproto/googleapis/rpc"}, "what callers of gRPC are told of decisions"},
	"middleware/grpclimit/grpctest": {[]string{"middleware/grpclimit/answer", "google.golang.org/grpc", "google.golang.org/genproto/googleapis/rpc"}, "a server in memory, and the suite for interceptors"},
	"middleware/grpcgate":           {[]string{".", "gate", "gate/httpgate", "gate/inlet", "gate/policy", "internal/pause", "internal/ratefield", "middleware/grpclimit", "middleware/grpclimit/answer", "google.golang.org/grpc"}, "a gate around calls of gRPC"},
	"gate/inlet":                    {[]string{".", "gate", "internal/clientip", "internal/ratefield"}, "what middleware over a gate has in common"},
	"middleware/httplimit":          {[]string{".", "internal/clientip", "internal/pause", "internal/ratefield", "internal/refusal"}, "a Limiter in front of net/http"},
	"gate/policy":                   {[]string{".", "github.com/goccy/go-yaml"}, "the only room that knows YAML policies"},
	"gate/expr":                     {[]string{"cel.dev/cel-go"}, "the only room that knows CEL"},
	"gate":                          {[]string{".", "internal/clientip", "gate/policy", "gate/expr"}, "the engine: policy, expressions and a Store"},
	"gate/httpgate":                 {[]string{".", "gate", "gate/inlet", "gate/policy", "internal/clientip", "internal/faultlog", "internal/pause", "internal/ratefield", "internal/refusal", "middleware/httplimit"}, "a gate around net/http"},
	"gate/envoy":                    {[]string{"gate/policy", ".", "github.com/goccy/go-yaml"}, "configuration of envoyproxy/ratelimit, as policies"},
	"gate/envoy/envoytest":          {[]string{"gate"}, "configurations of envoyproxy/ratelimit for tests"},
	"gate/gatetest":                 {[]string{".", "gate"}, "the contract as one table, run through every door"},
	"server/front":                  {[]string{"."}, "what all doors have in common"},
	"server/front/problem":          {[]string{"."}, "problem+json, for every HTTP door"},
	"server/front/httpapi":          {[]string{".", "gate", "gate/inlet", "gate/policy", "internal/clientip", "internal/faultlog", "internal/ratefield", "server/front", "server/front/problem"}, "the decision API over net/http"},
	"server/front/forwardauth":      {[]string{".", "gate", "gate/httpgate", "gate/policy", "internal/clientip", "internal/faultlog", "server/front", "server/front/problem"}, "decisions for proxies over net/http"},
	"server/front/resp":             {[]string{".", "gate", "gate/inlet", "gate/policy", "internal/clientip", "internal/faultlog", "internal/ratefield", "server/front", "server/front/problem"}, "the Redis protocol, by hand"},
	"server/front/grpcapi":          {[]string{".", "gate", "gate/policy", "api/headgate/v1", "internal/faultlog", "server/front", "server/front/problem", "google.golang.org/grpc", "google.golang.org/protobuf", "google.golang.org/genproto/googleapis/rpc"}, "the decision API over gRPC"},
	"server/front/envoyrls":         {[]string{".", "gate", "gate/policy", "internal/faultlog", "internal/ratefield", "server/front", "server/front/problem", "google.golang.org/grpc", "google.golang.org/protobuf", "github.com/envoyproxy/go-control-plane/envoy"}, "Envoy's rate limit service"},
	"server/front/proxy":            {[]string{"server/front", "server/front/problem", "internal/clientip", "internal/ratefield", "internal/refusal"}, "forwards HTTP requests to upstreams"},
	"server/front/fronttest":        {[]string{".", "gate", "gate/gatetest", "gate/httpgate", "gate/policy", "store/memstore", "api/headgate/v1", "client", "google.golang.org/grpc", "google.golang.org/protobuf", "google.golang.org/genproto/googleapis/rpc", "github.com/envoyproxy/go-control-plane/envoy"}, "asks doors as their clients do, for the tests of all of them"},
	"api/headgate/v1":               {[]string{"google.golang.org/grpc", "google.golang.org/protobuf"}, "generated from the protocol of the gRPC door"},
	"client":                        {[]string{".", "gate", "gate/policy", "api/headgate/v1", "google.golang.org/grpc", "google.golang.org/protobuf", "google.golang.org/genproto/googleapis/rpc"}, "a gate over the wire"},
	"server/observe":                {[]string{".", "github.com/prometheus/client_golang", "github.com/puzpuzpuz/xsync"}, "metrics; it only reads decisions"},
	"server/journal":                {[]string{"."}, "recent decisions; it only reads them"},
	"server/records":                {[]string{"store/pgstore/pgopen", "github.com/jackc/pgx", "github.com/pressly/goose", "modernc.org/sqlite"}, "what people write down, in SQLite or PostgreSQL"},
	"server/meter":                  {[]string{".", "algo", "gate", "gate/policy", "server/records", "github.com/puzpuzpuz/xsync"}, "usage on its way to the records; it only reads decisions"},
	"server/follow":                 {[]string{".", "gate", "gate/policy", "server/records"}, "brings the records to a gate"},
	"server/certs":                  {nil, "certificates of listeners"},
	"server/access":                 {[]string{".", "internal/clientip", "server/front/problem", "server/records"}, "tokens and what they permit"},
	"server/admin":                  {[]string{".", "gate", "gate/policy", "server/access", "server/front/problem", "server/journal", "server/meter", "server/records"}, "the management API over net/http"},
	"server/openapi":                {nil, "the document that describes the HTTP API"},
	"server/cmd/headgate": {[]string{
		".", "gate", "gate/httpgate", "gate/policy", "guard", "lease", "store/memstore", "store/dynamostore", "store/pgstore", "store/pgstore/pgopen", "store/redisstore", "store/sqlitestore", "server/front", "server/front/problem", "server/front/httpapi", "server/front/forwardauth", "server/front/resp", "server/front/grpcapi", "server/front/envoyrls", "server/front/proxy", "server/observe", "gate/envoy", "google.golang.org/grpc",
		"server/journal", "server/access", "server/admin", "server/certs", "server/follow", "server/meter", "server/records", "server/openapi", "internal/clientip", "internal/faultlog",
		"github.com/spf13/cobra", "github.com/spf13/pflag", "github.com/fsnotify/fsnotify", "github.com/goccy/go-yaml", "github.com/rogpeppe/go-internal/diff",
		"github.com/schollz/progressbar", "golang.org/x/term",
	}, "wires everything; the only room that reads flags and the environment"},
	"examples/stage":                       {nil, "starts other programs, and asks them"},
	"examples/stage/stagetest":             {[]string{"examples/stage"}, "runs examples in tests"},
	"examples/stage/webproxy":              {[]string{"examples/stage"}, "the examples of proxies that ask about every request"},
	"examples/stage/webproxy/webproxytest": {[]string{"examples/stage", "examples/stage/stagetest", "examples/stage/webproxy"}, "the suite for those"},
	"examples/nginx":                       {[]string{"examples/stage"}, "runs other programs"},
	"examples/caddy":                       {[]string{"examples/stage/webproxy"}, "runs other programs"},
	"examples/cluster":                     {[]string{"examples/stage"}, "runs other programs"},
	"examples/haproxy":                     {[]string{"examples/stage/webproxy"}, "runs other programs"},
	"examples/pm2":                         {[]string{"examples/stage"}, "runs other programs"},
}

// packages parses the imports of every Go file of the repository but those of
// bench and tools, which have rules of their own.
func packages(t *testing.T) map[string][]*ast.File {
	t.Helper()
	found := make(map[string][]*ast.File)
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || d.Name() == "node_modules" || name != "." && strings.HasPrefix(d.Name(), ".") || name == "bench" || name == "tools"):
			return filepath.SkipDir
		case !strings.HasSuffix(name, ".go"):
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		key := path.Dir(filepath.ToSlash(name))
		if strings.HasSuffix(name, "_test.go") {
			key += " (tests)"
		}
		found[key] = append(found[key], f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestImportsRunDownward(t *testing.T) {
	for room, files := range packages(t) {
		if strings.HasSuffix(room, " (tests)") {
			continue
		}
		layer, ok := layers[room]
		if !ok {
			t.Errorf("%s is not in the import table: say what it may import, and why", room)
			continue
		}
		for _, f := range files {
			for _, spec := range f.Imports {
				name, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					t.Fatal(err)
				}
				if !allowed(room, name, layer.may) {
					t.Errorf("%s imports %s; it may import %v: %s", room, name, layer.may, layer.reason)
				}
			}
		}
	}
}

func allowed(room, name string, may []string) bool {
	if name == "testing" || strings.HasPrefix(name, "testing/") {
		return strings.HasSuffix(room, "test")
	}
	if inside, ok := strings.CutPrefix(name, module); ok {
		inside = strings.TrimPrefix(inside, "/")
		if inside == "" {
			inside = "."
		}
		return slices.Contains(may, inside)
	}
	if first, _, _ := strings.Cut(name, "/"); !strings.Contains(first, ".") {
		return true // standard library
	}
	return slices.ContainsFunc(may, func(prefix string) bool {
		return strings.Contains(prefix, ".") && prefix != "." && strings.HasPrefix(name, prefix)
	})
}

// Every room has one package comment.
func TestPackageComments(t *testing.T) {
	for room, files := range packages(t) {
		if strings.HasSuffix(room, " (tests)") {
			continue
		}
		n := 0
		for _, f := range files {
			if f.Doc != nil {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%s has %d package comments, want 1", room, n)
		}
	}
}

// The library adds nothing to the build of those who use it.
func TestRootRequiresNothing(t *testing.T) {
	data, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(data), "require") {
		t.Error("go.mod of the root module has a requirement: put what needs it into a module of its own")
	}
}

// Tests that are left out under the race detector are in packages that `make test` runs
// without it, too.
func TestAlone(t *testing.T) {
	makefile, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	var both []string
	for line := range strings.Lines(string(makefile)) {
		if rest, ok := strings.CutPrefix(line, "BOTH"); ok {
			_, list, _ := strings.Cut(rest, ":=")
			both = strings.Fields(list)
		}
	}
	found := make(map[string]bool)
	err = filepath.WalkDir(".", func(file string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(file, "_test.go") || file == "arch_test.go" {
			return err
		}
		text, err := os.ReadFile(file)
		if strings.Contains(string(text), "racetest.Alone(") {
			found[filepath.ToSlash(filepath.Dir(file))] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := slices.Sorted(maps.Keys(found)); len(got) == 0 || !slices.Equal(got, slices.Sorted(slices.Values(both))) {
		t.Errorf("racetest.Alone is called in %q, BOTH of the Makefile has %q", got, both)
	}
}

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/server/admin"
)

var (
	logLevels  = []string{"debug", "info", "warn", "error"}
	logFormats = []string{"text", "json"}
)

// settings is what serve was told, by flags, environment and configuration
// file together.
type settings struct {
	policy string
	http   string
	admin  string // "" for none, autoAdmin for the usual
	data   string
	token  string // of the administration, "" for that of the data directory
	store  string // "embedded", "memory" or a URL, which may hold a password
	// storeFrom is who said so: a flag, a variable or a key of the configuration.
	storeFrom string
	// records is where people's records are, which may hold a password, "" for the data
	// directory; recordsFrom is who said so.
	records, recordsFrom string
	memory               int64
	open                 bool // --decision-auth=open was said
	log                  configFile
}

// autoAdmin stands for --http while that is on this machine, else
// adminAddress.
const (
	autoAdmin    = "auto"
	adminAddress = "127.0.0.1:8082"
	// adminToken is the variable of a token that the operator chose. There is
	// no flag for it: every user of the machine can read those.
	adminToken = "HEADGATE_ADMIN_TOKEN"
	// storeFile is the variable of a file that holds the value of --store.
	storeFile = "HEADGATE_STORE_FILE"
)

// setting is one flag of serve.
type setting struct {
	name, value, usage string
	// key is the place in the configuration file, "" if it has none.
	key string
	// secret values may stand in a file that HEADGATE_..._FILE names.
	secret bool
	// later are flags for what is not built yet.
	later bool
}

var serveSettings = []setting{
	{name: "policy", usage: "policy `FILE`, read again when it changes and on SIGHUP (default: built-in policy)"},
	{name: "config", usage: "configuration `FILE`"},
	{name: "data", value: defaultData, usage: "`DIR` for the embedded store and the admin token, made at the first start"},
	{name: "store", value: embeddedStore, usage: "`STORE` of state: embedded, in the data directory; memory, which is lost at stop; or a URL that all nodes share: redis://[USER:PASSWORD@]HOST:PORT (rediss:// for TLS), postgres://[USER:PASSWORD@]HOST:PORT/DATABASE, or dynamodb://TABLE?region=REGION", key: "store", secret: true},
	{name: "records", usage: "`URL` of what people write down, such as subjects and tokens: sqlite:PATH, or postgres://[USER:PASSWORD@]HOST:PORT/DATABASE for several nodes (default: " + recordsFile + " in the data directory)", key: "records", secret: true},
	{name: "http", value: "127.0.0.1:8080", usage: "`ADDRESS` of the HTTP door: HOST:PORT, unix:PATH, or empty for none", key: "listen.http"},
	{name: "grpc", usage: "`ADDRESS` of the gRPC door (not supported yet)", later: true},
	{name: "resp", usage: "`ADDRESS` of the Redis door (not supported yet)", later: true},
	{name: "admin", value: autoAdmin, usage: "`ADDRESS` of the administration, or empty for none; auto is that of --http while it is on this machine, else " + adminAddress, key: "listen.admin"},
	{name: "memory", value: "256MiB", usage: "`SIZE` that limit state may take: B, KiB, MiB, GiB"},
	{name: "decision-auth", usage: "who may ask: open is everybody (default: open on loopback and unix sockets; token is not supported yet)"},
	{name: "envoy-config", usage: "`DIR` of envoyproxy/ratelimit configuration (not supported yet)", later: true},
}

func addServeFlags(cmd *cobra.Command) {
	for _, s := range serveSettings {
		cmd.Flags().String(s.name, s.value, s.usage+" ["+envName(s.name)+"]")
	}
}

func envName(flag string) string {
	return "HEADGATE_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// readSettings resolves every setting: flag, else environment, else
// configuration file, else default.
func readSettings(cmd *cobra.Command) (*settings, error) {
	file, _, err := lookUp(cmd, setting{name: "config"})
	if err != nil {
		return nil, err
	}
	config := configFile{}
	if file != "" {
		if config, err = readConfig(file); err != nil {
			return nil, err
		}
	}
	if f := cmd.Flags().Lookup("policy"); f.Changed && f.Value.String() == "" {
		// Most likely a variable of a script that is not set.
		return nil, usageError{errors.New("--policy is empty: name a file, or leave the flag out for the built-in policy")}
	}
	v, from := map[string]string{}, map[string]string{}
	for _, s := range serveSettings {
		value, who, err := lookUp(cmd, s)
		if err != nil {
			return nil, err
		}
		if c, ok := config[s.key]; ok && who == "" {
			value, who = c, file+": "+s.key
		}
		if s.later && value != "" {
			return nil, fmt.Errorf("--%s: not supported yet", s.name)
		}
		v[s.name], from[s.name] = value, cmp.Or(who, "--"+s.name)
	}
	s, err := check(v, from, config)
	if err != nil {
		return nil, err
	}
	token, said, err := environment(adminToken, true)
	if err == nil && said {
		err = admin.CheckToken(token)
		if err != nil {
			err = fmt.Errorf("%s: %w", adminToken, err)
		}
	}
	s.token = token
	return s, err
}

// check turns the values into settings. from says where each comes from.
func check(v, from map[string]string, config configFile) (*settings, error) {
	s := &settings{policy: v["policy"], http: v["http"], admin: v["admin"], data: v["data"], storeFrom: from["store"], records: v["records"], recordsFrom: from["records"], log: config}
	var err error
	if s.store, err = checkStore(v["store"], s.storeFrom); err != nil {
		return nil, err
	}
	switch v["decision-auth"] {
	case "":
	case "open":
		s.open = true
	case "token":
		return nil, errors.New("--decision-auth=token: not supported yet")
	default:
		return nil, usageError{fmt.Errorf("--decision-auth %q: must be open or token", v["decision-auth"])}
	}
	if s.memory, err = parseSize(v["memory"]); err != nil {
		return nil, usageError{fmt.Errorf("--memory %q: %w", v["memory"], err)}
	}
	if s.memory < 1<<20 {
		return nil, usageError{fmt.Errorf("--memory %q: must be at least 1MiB", v["memory"])}
	}
	for _, flag := range []string{"http", "admin"} {
		if err := checkAddress(flag, v[flag]); err != nil {
			return nil, usageError{err}
		}
	}
	if s.data == "" {
		return nil, usageError{errors.New("--data is empty: name a directory, or leave the flag out for " + defaultData)}
	}
	if s.http == "" {
		return nil, usageError{errors.New("nothing to serve: --http is empty and there is no other door yet")}
	}
	return s, nil
}

// checkStore looks at which store is meant by a value that comes from who. No
// error repeats the value: it may hold a password.
func checkStore(value, who string) (string, error) {
	switch {
	case value == embeddedStore, value == "memory", kindOf(value) != nil:
		return value, nil
	}
	return "", usageError{fmt.Errorf("%s: must be embedded, memory, or a URL that begins with %s", who, sharedSchemes())}
}

// checkAddress looks at how an address is written; whether it can be had shows
// when it is opened.
func checkAddress(flag, address string) error {
	path, unix := strings.CutPrefix(address, "unix:")
	switch {
	case address == "" || flag == "admin" && address == autoAdmin:
		return nil
	case unix && path == "":
		return fmt.Errorf("--%s unix: needs a path, such as unix:/run/headgate.sock", flag)
	case unix:
		return nil
	}
	_, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil {
		return fmt.Errorf("--%s %q: must be HOST:PORT or unix:PATH", flag, address)
	}
	return nil
}

// lookUp returns what flag or environment say, and which of them, or the default
// and "".
func lookUp(cmd *cobra.Command, s setting) (value, who string, err error) {
	flag := cmd.Flags().Lookup(s.name)
	if flag.Changed {
		return flag.Value.String(), "--" + s.name, nil
	}
	who = envName(s.name)
	value, said, err := environment(who, s.secret)
	switch {
	case err != nil:
		return "", "", err
	case !said:
		return flag.DefValue, "", nil
	}
	file := os.Getenv(who + "_FILE")
	if !s.secret || file == "" {
		return value, who, nil
	}
	who += "_FILE"
	switch {
	case strings.TrimSpace(value) == "":
		return "", "", usageError{fmt.Errorf("%s: %s is empty: it must hold what --%s would be told", who, file, s.name)}
	case strings.ContainsAny(value, "\r\n"):
		return "", "", fmt.Errorf("%s: %s has more than one line: it must hold one, what --%s would be told", who, file, s.name)
	}
	return value, who, nil
}

// parseSize reads a number of bytes such as 256MiB.
func parseSize(s string) (int64, error) {
	number := strings.TrimRight(s, "BKMGi")
	shift := slices.Index([]string{"B", "KiB", "MiB", "GiB"}, s[len(number):])
	n, err := strconv.ParseInt(number, 10, 64)
	if shift < 0 || err != nil || n < 1 || n > math.MaxInt64>>(10*shift) {
		return 0, errors.New("must be a whole number with a unit, such as 256MiB: B, KiB, MiB or GiB")
	}
	return n << (10 * shift), nil
}

// logger writes to w as the configuration says.
func (s *settings) logger(w io.Writer) *slog.Logger {
	var options slog.HandlerOptions
	switch s.log["log.level"] {
	case "debug":
		options.Level = slog.LevelDebug
	case "warn":
		options.Level = slog.LevelWarn
	case "error":
		options.Level = slog.LevelError
	}
	if s.log["log.format"] == "json" {
		return slog.New(slog.NewJSONHandler(w, &options))
	}
	return slog.New(slog.NewTextHandler(w, &options))
}

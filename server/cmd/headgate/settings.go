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
	"github.com/headgate/headgate/server/certs"
)

var (
	logLevels  = []string{"debug", "info", "warn", "error"}
	logFormats = []string{"text", "json"}
)

// settings is what serve was told, by flags, environment and configuration
// file together.
type settings struct {
	policy string
	envoy  string // the directory of --envoy-config, "" for none

	envoyOptions envoyOptions

	http  string // "" for none
	grpc  string
	resp  string
	proxy string
	// proxyFlag is what the verb calls proxy.
	proxyFlag string
	admin     string // "" for none, autoAdmin for the usual
	tls       certs.Files
	data      string
	token     string // of the administration, "" for that of the data directory
	store     string // "embedded", "memory" or a URL, which may hold a password
	// storeFrom is who said so: a flag, a variable or a key of the configuration.
	storeFrom string
	// records is where people's records are, which may hold a password, "" for the data
	// directory; recordsFrom is who said so.
	records, recordsFrom string
	memory               int64
	auth                 string // --decision-auth
	logFormat            string // "" for text

	forward forwarding    // what the proxy does
	live    *live         // as the configuration file said when it was last read
	level   slog.LevelVar // of the logger

	// config is the configuration file, "" for none; values are those of the flags, from
	// words and that file.
	config string
	words  map[string]word
	values map[string]string
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
	// several is for flags that may be there more than once; their values are put together
	// with spaces between.
	several bool
}

var serveSettings = []setting{
	{name: "policy", usage: "policy `FILE`, read again when it changes and on SIGHUP (default: built-in policy)"},
	{name: "config", usage: "configuration `FILE`, read again when it changes and on SIGHUP"},
	{name: "data", value: defaultData, usage: "`DIR` for the embedded store and the admin token, made at the first start"},
	{name: "store", value: embeddedStore, usage: "`STORE` of state: embedded, in the data directory; memory, which is lost at stop; or a URL that all nodes share: redis://[USER:PASSWORD@]HOST:PORT (rediss:// for TLS), postgres://[USER:PASSWORD@]HOST:PORT/DATABASE, or dynamodb://TABLE?region=REGION", key: "store", secret: true},
	{name: "records", usage: "`URL` of what people write down, such as subjects and tokens: sqlite:PATH, or postgres://[USER:PASSWORD@]HOST:PORT/DATABASE for several nodes (default: " + recordsFile + " in the data directory)", key: "records", secret: true},
	{name: "http", value: "127.0.0.1:8080", usage: "`ADDRESS` of the HTTP door: HOST:PORT, unix:PATH, or empty for none", key: "listen.http"},
	{name: "grpc", value: "127.0.0.1:8081", usage: "`ADDRESS` of the gRPC door, which Envoy asks too, or empty for none", key: "listen.grpc"},
	{name: "resp", value: "127.0.0.1:6380", usage: "`ADDRESS` of the door that speaks the Redis protocol, or empty for none", key: "listen.resp"},
	{name: proxyName, usage: "`ADDRESS` of the reverse proxy, or empty for none", key: "proxy.listen"},
	{name: "upstream", usage: "`URL` of a server behind the proxy, http://HOST:PORT, https:// or h2c:// (HTTP/2 without TLS); may be there several times, in the variable with spaces between", several: true},
	{name: "application", value: "default", usage: "`NAME` of the policy's application that decides the requests at the proxy", key: "proxy.application"},
	{name: "admin", value: autoAdmin, usage: "`ADDRESS` of the administration, or empty for none; auto is that of --http while it is on this machine, else " + adminAddress, key: "listen.admin"},
	{name: "memory", value: "256MiB", usage: "`SIZE` that limit state may take: B, KiB, MiB, GiB"},
	{name: "decision-auth", usage: "`open|token`: everybody may ask for decisions, or who has a token with the scope decide (default: open where only this machine can ask, else token)", key: "auth.decision"},
	{name: "envoy-config", usage: "`DIR` of envoyproxy/ratelimit configuration, which is the policy then; read again when it changes and on SIGHUP"},
}

func addServeFlags(cmd *cobra.Command) {
	for _, s := range serveSettings {
		name, value := flagOf(cmd, s)
		usage := s.usage + " [" + envName(s.name) + "]"
		if s.several {
			cmd.Flags().Var(new(spaced), name, usage)
			continue
		}
		cmd.Flags().String(name, value, usage)
	}
}

func envName(flag string) string {
	return "HEADGATE_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// word is what a flag or its variable said, or the default; who is "" for that.
type word struct{ value, who string }

// readSettings resolves every setting: flag, else environment, else
// configuration file, else default.
func readSettings(cmd *cobra.Command) (*settings, error) {
	file, _, err := lookUp(cmd, setting{name: "config"})
	if err != nil {
		return nil, err
	}
	if f := cmd.Flags().Lookup("policy"); f.Changed && f.Value.String() == "" {
		// Most likely a variable of a script that is not set.
		return nil, usageError{errors.New("--policy is empty: name a file, or leave the flag out for the built-in policy")}
	}
	words := map[string]word{}
	for _, s := range serveSettings {
		value, who, err := lookUp(cmd, s)
		if err != nil {
			return nil, err
		}
		words[s.name] = word{value, who}
	}
	s, err := resolve(words, file)
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
	s.proxyFlag, _ = flagOf(cmd, setting{name: proxyName})
	return s, err
}

// resolve turns words into settings, with what a configuration file says where they say
// nothing; file is "" for none.
func resolve(words map[string]word, file string) (*settings, error) {
	config := &configFile{}
	if file != "" {
		var err error
		if config, err = readConfig(file); err != nil {
			return nil, err
		}
	}
	v, from := map[string]string{}, map[string]string{}
	for _, s := range serveSettings {
		w := words[s.name]
		if value, said := config.one(s.key); said && w.who == "" {
			w = word{value, file + ": " + s.key}
		}
		v[s.name], from[s.name] = w.value, cmp.Or(w.who, "--"+s.name)
	}
	s, err := check(v, from)
	if err != nil {
		return nil, err
	}
	s.config, s.words, s.values = file, words, v
	s.logFormat, _ = config.one("log.format")
	s.envoyOptions = readEnvoyOptions(config, s.envoy != "")
	s.tls.Cert, _ = config.one("tls.cert")
	s.tls.Key, _ = config.one("tls.key")
	s.tls.ClientCA, _ = config.one("tls.client_ca")
	s.live = readLive(config)
	s.forward, err = readForwarding(config, v["upstream"], v["application"])
	if err == nil && s.proxy != "" {
		err = s.forward.check()
	}
	return s, err
}

// check turns the values into settings. from says where each comes from.
func check(v, from map[string]string) (*settings, error) {
	s := &settings{policy: v["policy"], envoy: v["envoy-config"], http: v["http"], grpc: v["grpc"], resp: v["resp"], proxy: v[proxyName], admin: v["admin"], data: v["data"], store: v["store"], storeFrom: from["store"], records: v["records"], recordsFrom: from["records"], auth: v["decision-auth"]}
	if err := badStore(s.store); err != nil {
		return nil, usageError{fmt.Errorf("%s: %w", s.storeFrom, err)}
	}
	if s.auth != "" && s.auth != authOpen && s.auth != authToken {
		return nil, usageError{fmt.Errorf("--decision-auth %q: must be open or token", s.auth)}
	}
	var err error
	if s.memory, err = parseSize(v["memory"]); err != nil {
		return nil, usageError{fmt.Errorf("--memory %q: %w", v["memory"], err)}
	}
	if s.memory < 1<<20 {
		return nil, usageError{fmt.Errorf("--memory %q: must be at least 1MiB", v["memory"])}
	}
	for _, name := range []string{"http", "grpc", "resp", proxyName} {
		if err := badAddress(v[name]); err != nil {
			return nil, usageError{fmt.Errorf("%s %w", flagIn(name, from[name]), err)}
		}
	}
	if err := badAdminAddress(s.admin); err != nil {
		return nil, usageError{fmt.Errorf("--admin %w", err)}
	}
	if s.data == "" {
		return nil, usageError{errors.New("--data is empty: name a directory, or leave the flag out for " + defaultData)}
	}
	if s.http == "" && s.grpc == "" && s.resp == "" && s.proxy == "" {
		return nil, usageError{errors.New("nothing to serve: --http, --grpc, --resp and --proxy are empty")}
	}
	if s.proxy == "" && v["upstream"] != "" {
		return nil, usageError{fmt.Errorf("%s: there is no proxy: say where it listens with %s", from["upstream"], from[proxyName])}
	}
	if s.policy != "" && s.envoy != "" {
		return nil, usageError{errors.New("--policy and --envoy-config: keep one; 'headgate convert envoy' makes a policy of the other, which can be merged")}
	}
	return s, nil
}

// pinned is the file or directory that holds the policy, "" where the records do.
func (s *settings) pinned() string { return cmp.Or(s.policy, s.envoy) }

// badStore looks at which store is meant. The error does not repeat the value: it
// may hold a password.
func badStore(value string) error {
	if value == embeddedStore || value == "memory" || kindOf(value) != nil {
		return nil
	}
	return fmt.Errorf("must be embedded, memory, or a URL that begins with %s", sharedSchemes())
}

// badAddress looks at how an address is written; whether it can be had shows
// when it is opened.
func badAddress(address string) error {
	path, unix := strings.CutPrefix(address, "unix:")
	switch {
	case address == "":
		return nil
	case unix && path == "":
		return errors.New("unix: needs a path, such as unix:/run/headgate.sock")
	case unix:
		return nil
	}
	_, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil {
		return fmt.Errorf("%q: must be HOST:PORT or unix:PATH", address)
	}
	return nil
}

func badAdminAddress(address string) error {
	if address == autoAdmin {
		return nil
	}
	return badAddress(address)
}

// lookUp returns what flag or environment say, and which of them, or the default
// and "".
func lookUp(cmd *cobra.Command, s setting) (value, who string, err error) {
	name, _ := flagOf(cmd, s)
	flag := cmd.Flags().Lookup(name)
	if flag.Changed {
		return flag.Value.String(), "--" + name, nil
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

// logger writes to w as the configuration says. Its level may change later.
func (s *settings) logger(w io.Writer) *slog.Logger {
	s.level.Set(s.live.level)
	options := slog.HandlerOptions{Level: &s.level}
	if s.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, &options))
	}
	return slog.New(slog.NewTextHandler(w, &options))
}

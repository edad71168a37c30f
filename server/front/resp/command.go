package resp

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// command is something that clients can ask for.
type command struct {
	name     string // in lower case
	min, max int    // how many arguments it takes, its name included
	run      func(c *conn, w *work)
	who      who
	usage    string
	summary  string
}

// who may ask for a command.
type who uint8

const (
	callers    who = iota // who has shown a token, where that is needed
	strangers             // everybody
	everywhere            // callers that reach all applications
)

// notEverywhere refuses callers that are for some applications: the keys of
// throttles are everybody's.
const notEverywhere = "-NOPERM the keys of this command belong to no application, and this token is not for all of them\r\n"

// commands are all, in the order in which COMMAND lists them.
var commands []*command

// byName finds a command by its name in lower case.
var byName = make(map[string]*command)

func init() {
	commands = []*command{
		{"cl.throttle", 1, MaxArgs, (*conn).clThrottle, everywhere, "key max_burst count period [quantity]", "Takes from a token bucket, with the replies of redis-cell"},
		{"throttle", 5, 6, (*conn).crabThrottle, everywhere, "key max_burst count period [quantity]", "Takes from a token bucket, with the replies of throttlecrab"},
		{"hg.throttle", 5, 6, (*conn).hgThrottle, everywhere, "key burst count period_ms [cost]", "Takes from a token bucket, with a whole decision as reply"},
		{"hg.take", 4, MaxArgs, (*conn).take, callers, "application operation subject " + takeOptions, "Decides a request by the policy"},
		{"hg.peek", 4, MaxArgs, (*conn).peek, callers, "application operation subject " + takeOptions, "Answers what HG.TAKE would, and charges nothing"},
		{"hg.reserve", 4, MaxArgs, (*conn).reserve, callers, "application operation subject [TTL ms] " + takeOptions, "Takes at an estimated cost, to be settled"},
		{"hg.settle", 2, MaxArgs, (*conn).settle, callers, "ticket [COST n] [COSTS unit n ...] [APPLICATION a] [BRIEF]", "Ends a reservation at its real cost"},
		{"hg.renew", 2, 7, (*conn).renew, callers, "ticket [TTL ms] [APPLICATION a] [BRIEF]", "Holds a reservation for another while"},
		{"hg.release", 2, 5, (*conn).release, callers, "ticket [APPLICATION a] [BRIEF]", "Gives a reservation back, or frees slots"},
		{"hg.reset", 3, MaxArgs, (*conn).forget, callers, "application subject [LIMIT id ...]", "Forgets what a subject has used"},
		{"ping", 1, 2, (*conn).ping, callers, "[message]", "Answers PONG, or the message"},
		{"echo", 2, 2, (*conn).echo, callers, "message", "Answers the message"},
		{"hello", 1, MaxArgs, (*conn).hello, strangers, "[2|3 [AUTH user token] [SETNAME name]]", "Chooses the version of the protocol"},
		{"auth", 2, 3, (*conn).auth, strangers, "[user] token", "Shows a token"},
		{"select", 2, 2, (*conn).selects, callers, "0", "Chooses the only database"},
		{"client", 2, MaxArgs, (*conn).client, callers, "SETNAME|GETNAME|ID|INFO|SETINFO|NO-EVICT|NO-TOUCH|TRACKING ...", "Says things about the connection"},
		{"command", 1, MaxArgs, (*conn).command, callers, "[COUNT|LIST|INFO|DOCS [name ...]]", "Lists the commands"},
		{"config", 2, MaxArgs, (*conn).config, callers, "GET name ...", "Answers what benchmarks ask about"},
		{"info", 1, MaxArgs, (*conn).info, callers, "[section ...]", "Says what this server is"},
		{"dbsize", 1, 1, (*conn).dbsize, callers, "", "Answers 0"},
		{"reset", 1, 1, (*conn).reset, strangers, "", "Makes the connection as new"},
		{"quit", 1, MaxArgs, (*conn).quit, strangers, "", "Closes the connection"},
	}
	for _, x := range commands {
		byName[x.name] = x
	}
}

// do answers the command in w.args.
func (c *conn) do(w *work) {
	x := lookup(w.args[0])
	switch {
	case x == nil:
		c.unknown(w)
	case c.caller == nil && x.who != strangers:
		w.out = append(w.out, "-NOAUTH Authentication required.\r\n"...)
	case x.who == everywhere && !c.caller.Everywhere():
		w.out = append(w.out, notEverywhere...)
	case len(w.args) < x.min || len(w.args) > x.max:
		w.out = appendError(w.out, "ERR", "wrong number of arguments for '"+x.name+"' command: "+strings.ToUpper(x.name)+" "+x.usage)
	default:
		x.run(c, w)
	}
}

// lookup finds a command by its name in any case.
func lookup(name string) *command {
	var lower [16]byte
	if len(name) > len(lower) {
		return nil
	}
	for i := range len(name) {
		b := name[i]
		if b >= 'A' && b <= 'Z' {
			b += 'a' - 'A'
		}
		lower[i] = b
	}
	return byName[string(lower[:len(name)])]
}

// unknown answers what is no command. What a web browser would send, whoever made
// it, ends the connection before it comes to the body.
func (c *conn) unknown(w *work) {
	if fold(w.args[0], "POST") || fold(w.args[0], "HOST:") {
		c.s.Logger.Debug("a client speaks HTTP: its connection is closed", "peer", c.peer)
		c.over = true
		return
	}
	var room [768]byte // for the longest there is
	text := appendQuoted(append(room[:0], "unknown command "...), w.args[0], 64)
	if len(w.args) > 1 && c.caller != nil {
		text = append(text, ", with args beginning with:"...)
		for _, a := range w.args[1:min(len(w.args), 4)] {
			text = appendQuoted(append(text, ' '), a, 32)
		}
	}
	w.out = appendError(w.out, "ERR", view(text))
}

// appendQuoted appends the first bytes of what a client has said.
func appendQuoted(b []byte, s string, most int) []byte {
	return strconv.AppendQuote(b, s[:min(len(s), most)])
}

// text returns an error if an argument is not UTF-8: dashboards and databases
// could not name what it says.
func (w *work) text() error {
	for i, a := range w.args {
		if !utf8.ValidString(a) {
			return invalid("", "argument %d is not UTF-8", i)
		}
	}
	return nil
}

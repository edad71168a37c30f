package resp

import (
	"strconv"
	"strings"
)

func (c *conn) ping(w *work) {
	if len(w.args) == 2 {
		w.out = appendBulk(w.out, w.args[1])
		return
	}
	w.out = append(w.out, "+PONG\r\n"...)
}

func (c *conn) echo(w *work) { w.out = appendBulk(w.out, w.args[1]) }

func (c *conn) selects(w *work) {
	if w.args[1] != "0" {
		w.out = appendError(w.out, "ERR", "DB index is out of range: there is only 0")
		return
	}
	w.out = append(w.out, okReply...)
}

func (c *conn) dbsize(w *work) { w.out = appendInt(w.out, 0) }

func (c *conn) quit(w *work) {
	w.out = append(w.out, okReply...)
	c.over = true
}

// reset makes the connection as new. It gives a stranger no more time.
func (c *conn) reset(w *work) {
	c.resp3, c.name, c.token = false, "", ""
	if c.caller != nil {
		c.identify()
	}
	w.out = append(w.out, "+RESET\r\n"...)
}

// auth answers AUTH token, or with a user's name before it, which is nobody's
// business.
func (c *conn) auth(w *work) {
	if c.login(w, w.args[len(w.args)-1]) {
		w.out = append(w.out, okReply...)
	}
}

// maxToken is longer than tokens are.
const maxToken = 512

// login reports whether the client is now who the token says; if it is not, it stays
// who it was, and is told.
func (c *conn) login(w *work, token string) bool {
	switch {
	case c.s.Login == nil:
		w.out = appendError(w.out, "ERR", "AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?")
		return false
	case token == "" || len(token) > maxToken:
		w.out = appendError(w.out, "WRONGPASS", "a token has 1 to "+strconv.Itoa(maxToken)+" bytes")
		return false
	}
	token = strings.Clone(token)
	caller, err := c.s.Login(c, c.peer, token)
	c.later() // it may have taken a while
	if err != nil {
		w.out = appendError(w.out, "WRONGPASS", err.Error())
		return false
	}
	c.caller, c.token, c.checked = caller, token, c.uptime()
	return true
}

// hello answers HELLO [2|3 [AUTH user token] [SETNAME name]].
func (c *conn) hello(w *work) {
	resp3, name, said := c.resp3, "", false
	var token *string
	args := w.args[1:]
	if len(args) > 0 {
		switch args[0] {
		case "2", "3":
			resp3 = args[0] == "3"
		default:
			w.out = append(w.out, "-NOPROTO unsupported protocol version\r\n"...)
			return
		}
		args = args[1:]
	}
	for len(args) > 0 {
		switch {
		case fold(args[0], "AUTH") && len(args) > 2:
			token, args = &args[2], args[3:]
		case fold(args[0], "SETNAME") && len(args) > 1:
			name, said, args = args[1], true, args[2:]
		default:
			w.out = appendError(w.out, "ERR", "Syntax error in HELLO option "+quoted(args[0]))
			return
		}
	}
	if said && !isName(name) {
		w.out = append(w.out, badName...)
		return
	}
	if token != nil && !c.login(w, *token) {
		return
	}
	if c.caller == nil {
		w.out = append(w.out, "-NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time\r\n"...)
		return
	}
	c.resp3 = resp3
	if said {
		c.name = strings.Clone(name)
	}
	version := int64(2)
	if resp3 {
		version = 3
	}
	b := c.appendMap(w.out, 7)
	b = appendPair(b, "server", "headgate")
	b = appendPair(b, "version", redisVersion)
	b = appendInt(appendBulk(b, "proto"), version)
	b = appendInt(appendBulk(b, "id"), int64(c.number))
	b = appendPair(b, "mode", "standalone")
	b = appendPair(b, "role", "master")
	w.out = append(appendBulk(b, "modules"), "*0\r\n"...)
}

func appendPair(b []byte, name, value string) []byte { return appendBulk(appendBulk(b, name), value) }

const badName = "-ERR Client names cannot contain spaces, newlines or special characters, and have at most 128 bytes\r\n"

// isName is what a connection may be called: "" for nothing.
func isName(s string) bool {
	for i := range len(s) {
		if s[i] < '!' || s[i] > '~' {
			return false
		}
	}
	return len(s) <= 128
}

// client answers the parts of CLIENT that client libraries ask for. TRACKING is
// granted as it promises nothing: there is no key that could change.
func (c *conn) client(w *work) {
	sub, args := w.args[1], w.args[2:]
	is := func(name string, n int) bool { return fold(sub, name) && len(args) == n }
	switch {
	case is("SETNAME", 1):
		if !isName(args[0]) {
			w.out = append(w.out, badName...)
			return
		}
		c.name = strings.Clone(args[0])
		w.out = append(w.out, okReply...)
	case is("GETNAME", 0):
		if c.name == "" {
			w.out = c.appendNull(w.out)
			return
		}
		w.out = appendBulk(w.out, c.name)
	case is("ID", 0):
		w.out = appendInt(w.out, int64(c.number))
	case is("INFO", 0):
		w.out = appendBulk(w.out, c.describe())
	case is("SETINFO", 2):
		c.setInfo(w, args[0], args[1])
	case is("NO-EVICT", 1), is("NO-TOUCH", 1), fold(sub, "TRACKING") && len(args) > 0:
		w.out = append(w.out, okReply...)
	default:
		w.out = appendError(w.out, "ERR", "unknown subcommand or wrong number of arguments for "+quoted(sub))
	}
}

func (c *conn) setInfo(w *work, what, value string) {
	at := -1
	switch {
	case fold(what, "LIB-NAME"):
		at = 0
	case fold(what, "LIB-VER"):
		at = 1
	}
	switch {
	case at < 0:
		w.out = appendError(w.out, "ERR", "Unrecognized option "+quoted(what))
	case !isName(value):
		w.out = append(w.out, badName...)
	default:
		c.lib[at] = strings.Clone(value)
		w.out = append(w.out, okReply...)
	}
}

// describe is a line about the connection.
func (c *conn) describe() string {
	proto := "2"
	if c.resp3 {
		proto = "3"
	}
	return "id=" + strconv.FormatUint(c.number, 10) + " addr=" + c.peer + " name=" + c.name + " db=0 resp=" + proto +
		" lib-name=" + c.lib[0] + " lib-ver=" + c.lib[1] + "\n"
}

// quoted is a piece of what a client sent, for its own eyes.
func quoted(s string) string { return strconv.Quote(s[:min(len(s), 64)]) }

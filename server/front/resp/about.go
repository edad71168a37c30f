package resp

import (
	"slices"
	"strconv"
	"strings"
)

// redisVersion is the version of Redis whose connection commands these are. Clients
// ask for it to know what they may send; ours is in INFO.
const redisVersion = "7.2.0"

// info answers INFO. loading is what clients wait for.
func (c *conn) info(w *work) {
	age := strconv.Itoa(int(c.uptime().Seconds()))
	w.out = appendBulk(w.out, "# Server\r\n"+
		"redis_version:"+redisVersion+"\r\nredis_mode:standalone\r\nserver_name:headgate\r\nheadgate_version:"+c.s.Version+
		"\r\nuptime_in_seconds:"+age+"\r\n\r\n# Clients\r\nconnected_clients:"+strconv.Itoa(c.s.Open())+
		"\r\nmaxclients:"+strconv.Itoa(c.s.MaxConns)+"\r\n\r\n# Persistence\r\nloading:0\r\n\r\n# Replication\r\nrole:master\r\nconnected_slaves:0\r\n")
}

// settings are what benchmarks ask for, as they are where nothing is kept on disk.
var settings = map[string]string{"save": "", "appendonly": "no", "databases": "1"}

// config answers CONFIG GET. There is nothing to set from here.
func (c *conn) config(w *work) {
	if !fold(w.args[1], "GET") || len(w.args) < 3 {
		w.out = appendError(w.out, "ERR", "there is CONFIG GET name only: Headgate is configured by its own file")
		return
	}
	var found []string
	for _, name := range w.args[2:] {
		name = strings.ToLower(name)
		if value, known := settings[name]; known {
			found = append(found, name, value)
		}
	}
	w.out = c.appendMap(w.out, len(found)/2)
	for _, s := range found {
		w.out = appendBulk(w.out, s)
	}
}

// command answers COMMAND [COUNT|LIST|INFO|DOCS [name ...]].
func (c *conn) command(w *work) {
	var sub string
	var names []string
	if len(w.args) > 1 {
		sub, names = w.args[1], w.args[2:]
	}
	switch {
	case sub == "" || fold(sub, "INFO"):
		list := named(names)
		w.out = appendArray(w.out, len(list))
		for _, x := range list {
			if x == nil {
				w.out = c.appendNull(w.out)
				continue
			}
			w.out = appendSpec(w.out, x)
		}
	case fold(sub, "COUNT") && len(names) == 0:
		w.out = appendInt(w.out, int64(len(commands)))
	case fold(sub, "LIST") && len(names) == 0:
		w.out = appendArray(w.out, len(commands))
		for _, x := range commands {
			w.out = appendBulk(w.out, x.name)
		}
	case fold(sub, "DOCS"):
		list := slices.DeleteFunc(named(names), func(x *command) bool { return x == nil })
		w.out = c.appendMap(w.out, len(list))
		for _, x := range list {
			w.out = c.appendDocs(w.out, x)
		}
	default:
		w.out = appendError(w.out, "ERR", "unknown subcommand or wrong number of arguments for "+quoted(sub))
	}
}

// named are the commands of the names, nil for those that there are not, or all if
// there are no names.
func named(names []string) []*command {
	if len(names) == 0 {
		return slices.Clone(commands)
	}
	list := make([]*command, len(names))
	for i, name := range names {
		list[i] = lookup(name)
	}
	return list
}

// appendSpec appends what COMMAND INFO says of a command: its name, how many
// arguments it has, negative for at least that many, its flags, and where its keys
// are, which is nowhere.
func appendSpec(b []byte, x *command) []byte {
	b = append(b, "*6\r\n"...)
	b = appendBulk(b, x.name)
	if x.min == x.max {
		b = appendInt(b, int64(x.min))
	} else {
		b = appendInt(b, -int64(x.min))
	}
	return append(b, "*1\r\n+fast\r\n:0\r\n:0\r\n:0\r\n"...)
}

// appendDocs appends what COMMAND DOCS says of a command.
func (c *conn) appendDocs(b []byte, x *command) []byte {
	b = c.appendMap(appendBulk(b, x.name), 3)
	b = appendPair(b, "summary", strings.TrimSpace(x.summary+": "+strings.ToUpper(x.name)+" "+x.usage))
	b = appendPair(b, "since", "1.0.0")
	return appendPair(b, "group", "headgate")
}

package redisstore

import (
	"embed"
	"strings"
)

// The script is made of Lua files. All but fast, record and engine are the body of
// a function that returns a table, a module: use(name) returns that table, and makes
// it the first time that a run of the script wants it. Redis runs the text of a
// script from its top every time, so what a run does not need must cost nothing:
// even making a function takes time.
//
// Modules may use the locals of prelude, and no global of their own.
//
// An algorithm's module has
//
//	init(l, now) -> s             a state that was never seen
//	apply(c, l, s, o)             does the call on the state
//	absent(l, s) -> µs            the instant from which s equals "never seen", reservations included
//	seen(l, s) -> µs              the latest instant that s shows to have been seen
//	carry(old, l, src, now) -> s  the state src, kept under old, under l of the same algorithm; without reservations
//	tag(l, s, at) -> tag          under which a charge at the instant is held; -HUGE if that window does not count any more
//	credit(l, s, now, tag, n)     gives back n tokens that were charged under the tag, as a Settle does; what is reserved stays
//
// and, if its state is not a plain array of numbers,
//
//	pack(s) -> three strings      that are, one after the other, the state without s.h
//	unpack(string, at) -> s       the state that begins at that place of the string
//
// where l is a limit, c a call, s a state and o an outcome:
//
//	l = {a=algorithm, count=, n=, p=, cap=, burst=, w=window µs, slice=, k=slices, ttl=, soft=bool, roll=, zone=calendar, cal={{label, start, end}, ...}}
//	c = {op=, now=, cost=, hold=8 bytes or false, holdfor=, maxdelay=}
//	s = the words of package algo, counted from 1; s.h the list of holds (module holds) or nil
//	o = {ok=, never=, limit=, used=, remaining=, overage=, retry=, reset=, delay=, resets=}, as outcome(l) makes it
//
// Times are microseconds; retry, reset and delay may be below 0, which says 0, or
// HUGE. All quantities are whole numbers below 2^53, which doubles hold exactly.

// prelude is what every module may use.
const prelude = `
local floor, min, max, HUGE = math.floor, math.min, math.max, math.huge
local TAKE, PEEK, REFUND, DEBIT, RELEASE, RENEW, RESET, SETTLE = 0, 1, 2, 3, 4, 5, 6, 7
local names, made, use = { [0] = 'bucket', 'bucket', 'fixed', 'sliding', 'log', 'quota', 'concurrency', 'ban', 'idempotency' }, {}, nil
local function algorithm(l)
  if l.a == 3 and l.k == 1 then return use('classic') end
  return use(names[l.a])
end
local function call(op, now) return { op = op, now = now, cost = 0, hold = false, holdfor = 0, maxdelay = 0 } end
local function outcome(l)
  return { ok = true, never = false, limit = l.count, used = 0, remaining = 0, overage = 0, retry = 0, reset = 0, delay = 0, resets = 0, leased = false }
end
`

//go:embed lua/*.lua
var files embed.FS

// lua returns the text of a file.
func lua(name string) string {
	text, err := files.ReadFile("lua/" + name + ".lua")
	if err != nil {
		panic(err) // embedded
	}
	return strings.TrimSpace(string(text)) + "\n"
}

// library returns the text that makes the modules of the files known to use.
func library(names ...string) string {
	var b strings.Builder
	b.WriteString(prelude + "use = function(name)\nlocal m = made[name]\nif m then return m end\n")
	for i, name := range names {
		if i > 0 {
			b.WriteString("else")
		}
		b.WriteString("if name == '" + name + "' then\nm = (function()\n" + lua(name) + "end)()\n")
	}
	b.WriteString("end\nmade[name] = m\nreturn m\nend\n")
	return b.String()
}

// library's files.
var modules = []string{
	"holds", "arith", "bucket", "fixed", "classic", "sliding", "log", "quota", "concurrency", "ban", "idempotency",
	"convert", "lease",
}

// source returns the script for one incarnation of a server. The incarnation is in
// its text, so that every incarnation has another SHA, and does not know those of
// others: a client that was silently connected to a server which has lost writes
// learns of it before anything is decided.
func source(runID string) string {
	return "-- headgate " + runID + "\n" + lua("fast") + library(modules...) + lua("record") + lua("engine")
}

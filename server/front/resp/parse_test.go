package resp

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// script is a connection that brings what a client sends in given pieces, and keeps
// what it is answered.
type script struct {
	pieces [][]byte
	out    bytes.Buffer
	look   func() // before each read
}

func (s *script) Read(b []byte) (int, error) {
	if s.look != nil {
		s.look()
	}
	for len(s.pieces) > 0 && len(s.pieces[0]) == 0 {
		s.pieces = s.pieces[1:]
	}
	if len(s.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(b, s.pieces[0])
	s.pieces[0] = s.pieces[0][n:]
	return n, nil
}

func (s *script) Write(b []byte) (int, error)      { return s.out.Write(b) }
func (s *script) Close() error                     { return nil }
func (s *script) LocalAddr() net.Addr              { return nil }
func (s *script) RemoteAddr() net.Addr             { return nil }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// talk returns what a door answers to pieces. It fails if a connection holds more
// than a command and what was read behind it.
func talk(tb testing.TB, s *Server, pieces ...[]byte) string {
	tb.Helper()
	sc := &script{pieces: pieces}
	c := newConn(s, sc)
	c.number = 1
	sc.look = func() {
		if c.w != nil && (len(c.w.in) > 2*MaxCommand || cap(c.w.out) > 4*outSize) {
			tb.Fatalf("a connection holds %d and %d bytes", len(c.w.in), cap(c.w.out))
		}
	}
	c.serve()
	c.cancel()
	return sc.out.String()
}

// conversation is a pipeline of everything that may be said.
const conversation = "*1\r\n$4\r\nPING\r\n" +
	"*0\r\n*-1\r\n\r\n\n" +
	"PING\r\n" +
	"ping \"a b\\x41\\n\\\"\" \n" +
	"ECHO 'it\\'s'\r\n" +
	"*2\r\n$4\r\nECHO\r\n$6\r\na\r\n*1\r\r\n" +
	"*2\r\n$4\r\nECHO\r\n$0\r\n\r\n" +
	"*6\r\n$7\r\nHG.TAKE\r\n$1\r\na\r\n$1\r\no\r\n$5\r\nalice\r\n$4\r\nCOST\r\n$1\r\n2\r\n" +
	"*5\r\n$11\r\nCL.THROTTLE\r\n$1\r\nk\r\n$1\r\n1\r\n$1\r\n1\r\n$1\r\n1\r\n" +
	"HELLO 3\r\nHG.TAKE a o bob ATTR x y ATTR z z\r\nnonsense\r\nCLIENT GETNAME\r\n"

// TestSplit: a conversation is understood in whatever pieces it comes.
func TestSplit(t *testing.T) {
	s := New(Config{Gate: new(fakeGate)})
	want := talk(t, s, []byte(conversation))
	for _, part := range []string{"+PONG\r\n+PONG\r\n$6\r\na bA\n\"\r\n$4\r\nit's\r\n$6\r\na\r\n*1\r\r\n$0\r\n\r\n*50\r\n$7\r\nallowed\r\n:1\r\n", "*5\r\n:1\r\n:2\r\n", "%25\r\n$7\r\nallowed", "-ERR unknown command \"nonsense\"\r\n_\r\n"} {
		if !strings.Contains(want, part) {
			t.Fatalf("%q lacks %q", want, part)
		}
	}
	for at := range len(conversation) {
		if got := talk(t, s, []byte(conversation[:at]), []byte(conversation[at:])); got != want {
			t.Fatalf("split at %d: %q\nwant %q", at, got, want)
		}
	}
	for size := 1; size < 40; size++ {
		var pieces [][]byte
		for piece := range slices.Chunk([]byte(conversation), size) {
			pieces = append(pieces, slices.Clone(piece))
		}
		if got := talk(t, s, pieces...); got != want {
			t.Fatalf("pieces of %d: %q\nwant %q", size, got, want)
		}
	}
}

// TestProtocolFaults: what cannot be understood is told, and ends the connection.
func TestProtocolFaults(t *testing.T) {
	long := strings.Repeat("x", MaxCommand)
	for _, tt := range []struct{ name, in, want string }{
		{"count no number", "*x\r\n", "invalid multibulk length"},
		{"count empty", "*\r\n", "invalid multibulk length"},
		{"count a sign", "*-\r\n", "invalid multibulk length"},
		{"count without a line feed", "*1\rx", "invalid multibulk length"},
		{"count too long", "*1000000000\r\n", "invalid multibulk length"},
		{"too many", fmt.Sprintf("*%d\r\n", MaxArgs+1), "invalid multibulk length: 257 arguments are more than 256"},
		{"no length", "*1\r\n:1\r\n", "expected '$', got ':'"},
		{"negative length", "*1\r\n$-1\r\n", "invalid bulk length: a command has at most 65536 bytes"},
		{"length no number", "*1\r\n$1x\r\n", "invalid bulk length"},
		{"too large", fmt.Sprintf("*1\r\n$%d\r\n", MaxCommand+1), "invalid bulk length: a command has at most 65536 bytes"},
		{"too large together", fmt.Sprintf("*2\r\n$4\r\nECHO\r\n$%d\r\n", MaxCommand-3), "invalid bulk length: a command has at most 65536 bytes"},
		{"longer than said", "*1\r\n$4\r\nPINGS\r\n", "an argument is not as long as it was said to be"},
		{"no carriage return", "*1\r\n$4\r\nPINGx\n", "an argument is not as long as it was said to be"},
		{"shorter than said", "*1\r\n$5\r\nPING\r\n*1", "an argument is not as long as it was said to be"},
		{"inline too long", long + "x\r\n", "too big inline request"},
		{"inline without end", long + "xx", "too big inline request"},
		{"quote left open", "PING \"a\r\n", "unbalanced quotes in request"},
		{"quote in a word", "PING \"a\"b\r\n", "unbalanced quotes in request"},
		{"quote that ends in an escape", "PING \"a\\\r\n", "unbalanced quotes in request"},
		{"too many words", strings.Repeat("x ", MaxArgs+1) + "\r\n", "more than 256 arguments"},
	} {
		s := New(Config{Gate: new(fakeGate)})
		want := "+PONG\r\n-ERR Protocol error: " + tt.want + "\r\n"
		if got := talk(t, s, []byte("PING\r\n"+tt.in), []byte("PING\r\nPING\r\n")); got != want {
			t.Errorf("%s: %q, want %q", tt.name, got, want)
		}
	}
}

// TestStrangers: who has not said who he is has less to say.
func TestStrangers(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"*11\r\n", "invalid multibulk length: 11 arguments are more than 10"},
		{"*2\r\n$4\r\nAUTH\r\n$16381\r\n", "invalid bulk length: a command has at most 16384 bytes"},
		{strings.Repeat("x", maxStrangerCommand+1), "too big inline request"},
		{strings.Repeat("x ", 11) + "\r\n", "more than 10 arguments"},
	} {
		c := tokens(known)
		c.Gate = new(fakeGate)
		want := "-ERR Protocol error: " + tt.want + "\r\n"
		if got := talk(t, New(c), []byte(tt.in)); got != want {
			t.Errorf("%.20q: %q, want %q", tt.in, got, want)
		}
	}
	c := tokens(known)
	c.Gate = new(fakeGate)
	if got, want := talk(t, New(c), []byte("AUTH all\r\n"+wire(append([]string{"HG.TAKE"}, strings.Split("a o s ATTR a 1 ATTR b 2 ATTR c 3", " ")...)...))), "+OK\r\n*50\r\n"; !strings.HasPrefix(got, want) {
		t.Errorf("%q", got)
	}
}

// TestLargest: commands of the largest size are taken, in one piece or a few.
func TestLargest(t *testing.T) {
	s := New(Config{Gate: new(fakeGate)})
	text := strings.Repeat("x", MaxCommand-4)
	whole := wire("ECHO", text) + "ECHO " + text[:MaxCommand-10] + "\r\n" + wire("PING")
	want := fmt.Sprintf("$%d\r\n%s\r\n$%d\r\n%s\r\n+PONG\r\n", len(text), text, MaxCommand-10, text[:MaxCommand-10])
	for _, size := range []int{1000, 16 << 10, len(whole)} {
		var pieces [][]byte
		for piece := range slices.Chunk([]byte(whole), size) {
			pieces = append(pieces, slices.Clone(piece))
		}
		if got := talk(t, s, pieces...); got != want {
			t.Errorf("pieces of %d: %d bytes, want %d", size, len(got), len(want))
		}
	}
}

// TestManyReplies: replies that are many times as long as what asked for them are sent
// piece by piece.
func TestManyReplies(t *testing.T) {
	const n = 3000
	got := talk(t, New(Config{Gate: new(fakeGate)}), []byte(strings.Repeat("HG.TAKE a o s\r\n", n)))
	if found := strings.Count(got, "decision_id"); found != n {
		t.Errorf("%d replies, want %d", found, n)
	}
}

func TestInteger(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "-0": 0, "007": 7, "-12": -12, "999999999999999999": 999999999999999999} {
		if n, ok := integer(s); n != want || !ok {
			t.Errorf("%q: %d %v", s, n, ok)
		}
	}
	for _, s := range []string{"", "-", "+1", " 1", "1 ", "1.0", "0x1", "1e3", "--1", "1000000000000000000", "\xb9"} {
		if n, ok := integer(s); ok {
			t.Errorf("%q: %d", s, n)
		}
	}
}

// FuzzParse: whatever comes, nothing panics or grows, and the answers do not depend on
// the pieces in which it came.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		conversation, wire("COMMAND", "DOCS"), wire("INFO"), wire("HELLO", "3", "AUTH", "a", "all", "SETNAME", "n"), wire("AUTH", "all") + wire("HG.TAKE", "a", "o", "s", "COSTS", "t", "1"),
		wire("HG.TAKE", "a", "o", "s", "HEADER", "x-a", "b", "HEADER", "X-A", "c", "IP", "::1", "WAIT", "0"), wire("HG.SETTLE", "open", "COST", "1"), wire("HG.RESET", "a", "s", "LIMIT", "x"),
		"*3\r\n$4\r\nECHO\r\n$-1\r\n", "*257\r\n", "$1\r\na\r\n", "PING \"\\x0\"\r\n", "'\\''\n\x00", "\"\\\n", "*1\r\n$00004\r\nPING\r\n", "POST x\r\nPING\r\n", "QUIT\r\nPING\r\n",
		"THROTTLE k 5 1 1\nCL.THROTTLE k 1 0 1\nHG.THROTTLE k 1 1 1 9\n",
	} {
		f.Add([]byte(s), uint16(3), false)
		f.Add([]byte(s), uint16(17), true)
	}
	f.Fuzz(func(t *testing.T, in []byte, size uint16, stranger bool) {
		if bytes.Contains(bytes.ToLower(in), []byte("waits")) || bytes.Contains(in, []byte("bug")) {
			return // of the fake gate
		}
		c := Config{}
		if stranger {
			c = tokens(known)
		}
		c.Gate = new(fakeGate)
		whole := talk(t, New(c), slices.Clone(in))
		var pieces [][]byte
		for piece := range slices.Chunk(in, max(1, int(size))) {
			pieces = append(pieces, slices.Clone(piece))
		}
		if got := talk(t, New(c), pieces...); got != whole {
			t.Fatalf("in pieces of %d: %q\nin one: %q", size, got, whole)
		}
		for r := bufio.NewReader(strings.NewReader(whole)); ; {
			if _, err := readReply(r); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%q: no reply: %v", whole, err)
			}
		}
		if stranger && strings.Contains(whole, "allowed") && !bytes.Contains(in, []byte("all")) && !bytes.Contains(in, []byte("op")) && !bytes.Contains(in, []byte("of-a")) {
			t.Fatalf("a stranger got a decision: %q", whole)
		}
	})
}

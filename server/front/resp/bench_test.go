package resp

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// floor is the least that a server of Go can do: it counts commands by their first
// byte, and answers each with the same reply.
func floor(l net.Listener, reply []byte) {
	for {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer nc.Close()
			in, out := make([]byte, inSize), make([]byte, 0, outSize)
			for {
				n, err := nc.Read(in)
				if err != nil {
					return
				}
				out = out[:0]
				for range bytes.Count(in[:n], []byte{'*'}) {
					out = append(out, reply...)
				}
				if _, err := nc.Write(out); err != nil {
					return
				}
			}
		}()
	}
}

// BenchmarkPipeline compares the door, and the engine behind it, with a server that
// does nothing: over the loopback device, with a client that does as little as it can,
// and keys that differ. An operation is a command.
func BenchmarkPipeline(b *testing.B) {
	g, store := realGate(b, threePolicy)
	_, door := start(b, Config{Gate: g, Now: store.Now})
	cell := func(i int) string { return wire("CL.THROTTLE", fmt.Sprintf("k%05d", i), "1000000", "1000000", "1") }
	take := func(i int) string { return wire("HG.TAKE", "a", "three", fmt.Sprintf("s%05d", i)) }
	brief := func(i int) string { return wire("HG.TAKE", "a", "three", fmt.Sprintf("s%05d", i), "BRIEF") }
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go floor(l, []byte("*5\r\n:0\r\n:1000001\r\n:1000000\r\n:-1\r\n:1\r\n"))
	for _, depth := range []int{1, 16, 64} {
		for _, tt := range []struct {
			name, address string
			command       func(int) string
		}{
			{"floor", l.Addr().String(), cell}, {"cl.throttle", door, cell}, {"hg.take", door, take}, {"hg.take.brief", door, brief},
		} {
			b.Run(fmt.Sprintf("depth=%d/%s", depth, tt.name), func(b *testing.B) { pipeline(b, tt.address, depth, tt.command) })
		}
	}
}

// pipeline sends commands, so many at a time, on 16 connections for each processor.
func pipeline(b *testing.B, address string, depth int, command func(int) string) {
	const keys = 4096
	var script [keys]string
	for i := range script {
		script[i] = command(i)
	}
	lines := linesOf(b, address, script[0])
	b.ReportAllocs()
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		nc, err := net.Dial("tcp", address)
		if err != nil {
			b.Error(err)
			return
		}
		defer nc.Close()
		in := make([]byte, 256<<10)
		at := 0
		for more := true; more; {
			var out strings.Builder
			n := 0
			for ; n < depth; n++ {
				if more = pb.Next(); !more {
					break
				}
				out.WriteString(script[at%keys])
				at += 7
			}
			if n == 0 {
				return
			}
			if _, err := io.WriteString(nc, out.String()); err != nil {
				b.Error(err)
				return
			}
			for want := n * lines; want != 0; {
				nc.SetReadDeadline(time.Now().Add(patienceOfTests))
				got, err := nc.Read(in)
				if want -= bytes.Count(in[:got], []byte{'\n'}); err != nil || want < 0 || in[0] == '-' {
					b.Errorf("%.100q, %d lines left: %v", in[:got], want, err)
					return
				}
			}
		}
	})
}

// linesOf returns how many lines the reply to a command has.
func linesOf(b *testing.B, address, command string) int {
	b.Helper()
	p := dial(b, "tcp", address)
	var read bytes.Buffer
	p.write(command)
	if v, err := readReply(bufio.NewReaderSize(io.TeeReader(p.Conn, &read), 1)); err != nil {
		b.Fatalf("%v %v", v, err)
	}
	return bytes.Count(read.Bytes(), []byte{'\n'})
}

// BenchmarkAnswer is the door and the engine behind it without the network: 64 commands
// that one read has brought. An operation is a command.
func BenchmarkAnswer(b *testing.B) {
	for _, tt := range []struct {
		name    string
		command func(int) string
	}{
		{"ping", func(int) string { return wire("PING") }},
		{"cl.throttle", func(i int) string { return wire("CL.THROTTLE", fmt.Sprintf("k%05d", i), "1000000", "1000000", "1") }},
		{"hg.take", func(i int) string { return wire("HG.TAKE", "a", "three", fmt.Sprintf("s%05d", i)) }},
		{"hg.take.brief", func(i int) string { return wire("HG.TAKE", "a", "three", fmt.Sprintf("s%05d", i), "BRIEF") }},
	} {
		b.Run(tt.name, func(b *testing.B) {
			c, sc := threeLimits(b)
			var in []byte
			const batch = 64
			for i := range batch {
				in = append(in, tt.command(i)...)
			}
			c.w = works.Get().(*work)
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				if n%batch != 0 {
					continue
				}
				sc.out.Reset()
				c.w.at, c.w.end = 0, copy(c.w.in, in)
				c.later()
				if c.answer(); c.flush() != nil || c.w.at != len(in) {
					b.Fatalf("%q", sc.out.String())
				}
			}
		})
	}
}

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2 speaks HTTP/2 by hand.
type h2 struct {
	net.Conn
	framer *http2.Framer
	block  bytes.Buffer
	hpack  *hpack.Encoder
	next   uint32
	mu     sync.Mutex // of what is written, where somebody reads at the same time
}

func (s *siege) speakH2(within time.Duration, settings ...http2.Setting) (*h2, error) {
	nc, err := s.dial("grpc", within)
	if err != nil {
		return nil, err
	}
	c := &h2{Conn: nc, framer: http2.NewFramer(nc, nc), next: 1}
	c.hpack = hpack.NewEncoder(&c.block)
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err = io.WriteString(nc, http2.ClientPreface); err == nil {
		err = c.framer.WriteSettings(settings...)
	}
	if err == nil { // for the answers of many calls
		err = c.framer.WriteWindowUpdate(0, 1<<30)
	}
	return c, err
}

// headers begins a call of a method.
func (c *h2) headers(method string, more ...hpack.HeaderField) (id uint32, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id = c.next
	c.next += 2
	block := c.encode(method, more...)
	for first := true; err == nil && (first || len(block) > 0); first = false {
		part := block[:min(len(block), 16<<10)]
		block = block[len(part):]
		if first {
			err = c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: part, EndHeaders: len(block) == 0})
		} else {
			err = c.framer.WriteContinuation(id, len(block) == 0, part)
		}
	}
	return id, err
}

func (c *h2) encode(method string, more ...hpack.HeaderField) []byte {
	c.block.Reset()
	for _, f := range append([]hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "localhost"}, {Name: ":path", Value: method},
		{Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"},
	}, more...) {
		c.hpack.WriteField(f) // a Buffer takes all
	}
	return c.block.Bytes()
}

// call sends a whole call.
func (c *h2) call(method, message string) (id uint32, err error) {
	if id, err = c.headers(method); err != nil {
		return id, err
	}
	return id, c.data(id, binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message)
}

// data sends a message and ends what is said in a call.
func (c *h2) data(id uint32, prefix []byte, message string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.framer.WriteData(id, true, append(prefix, message...))
}

// ends reads until the call ends and returns its status, "reset" with a code, or where
// the connection ended, "goaway" with one or "closed".
func (c *h2) ends(id uint32) (string, error) {
	how := "closed"
	for {
		f, err := c.framer.ReadFrame()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return "", errOpen
		}
		if err != nil {
			return how, nil
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				c.mu.Lock()
				err = c.framer.WriteSettingsAck()
				c.mu.Unlock()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				c.mu.Lock()
				err = c.framer.WritePing(true, f.Data)
				c.mu.Unlock()
			}
		case *http2.GoAwayFrame:
			how = "goaway " + f.ErrCode.String()
		case *http2.RSTStreamFrame:
			if f.StreamID == id {
				return "reset " + f.ErrCode.String(), nil
			}
		case *http2.MetaHeadersFrame:
			if f.StreamID != id || !f.StreamEnded() {
				continue
			}
			for _, h := range f.Fields {
				if h.Name == "grpc-status" {
					return h.Value, nil
				}
			}
			return f.PseudoValue("status"), nil
		}
		if err != nil {
			return how, nil // what we say is not heard
		}
	}
}

// over waits until the server closes the connection. That takes a minute since it was last
// told something whole, in which it asks whether we are there: the short form does not wait
// for it.
func (c *h2) over() error {
	if !*hostileTimed {
		return nil
	}
	for some := make([]byte, 64<<10); ; {
		if err := c.SetReadDeadline(time.Now().Add(silence)); err != nil {
			return err
		}
		_, err := c.Read(some)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return errOpen
		}
		if err != nil {
			return nil
		}
	}
}

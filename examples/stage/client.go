package stage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Answer is what a client got.
type Answer struct {
	*http.Response
	Body string // all of it
}

// Ask sends a request and reads the answer. A nil header is none.
func Ask(ctx context.Context, by http.RoundTripper, method, url, body string, header http.Header) (Answer, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return Answer{}, err
	}
	if header != nil {
		r.Header = header
	}
	res, err := by.RoundTrip(r)
	if err != nil {
		return Answer{}, fmt.Errorf("%s %.60q: %w", method, url, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return Answer{res, string(b)}, err
}

// Print writes those of the fields that the answer has, and its body.
func (a Answer) Print(w io.Writer, fields ...string) {
	for _, field := range fields {
		if v := a.Header.Get(field); v != "" {
			fmt.Fprintf(w, "    %s: %s\n", field, v)
		}
	}
	fmt.Fprintf(w, "    %s\n", strings.TrimSpace(a.Body))
}

// From returns a transport that connects from a loopback address, which makes it
// a client of its own.
func From(address string) *http.Transport {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	return &http.Transport{DialContext: dialer.DialContext, MaxIdleConnsPerHost: 100, ResponseHeaderTimeout: 10 * time.Second}
}

// Each calls do with 0 to n-1, several at once, and returns all errors.
func Each(n, atOnce int, do func(i int) error) error {
	work := make(chan int, n)
	for i := range n {
		work <- i
	}
	close(work)
	errs := make([]error, n)
	var all sync.WaitGroup
	for range atOnce {
		all.Go(func() {
			for i := range work {
				errs[i] = do(i)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

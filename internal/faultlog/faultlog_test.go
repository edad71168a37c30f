package faultlog

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestFaults: a line of each kind in five seconds, with the number of those that were none.
func TestFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}}))
		var f Faults
		check := func(want ...string) {
			t.Helper()
			if got := strings.TrimSuffix(out.String(), "\n"); got != strings.Join(want, "\n") {
				t.Errorf("logged\n%s\nwant\n%s", got, strings.Join(want, "\n"))
			}
			out.Reset()
		}
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() { f.Log(l, slog.LevelError, "a", "no decision", "code", "a") })
		}
		all.Wait()
		f.Log(l, slog.LevelWarn, "b", "no decision", "code", "b")
		check(`level=ERROR msg="no decision" code=a`, `level=WARN msg="no decision" code=b`)
		<-time.After(DefaultPause - time.Nanosecond)
		f.Log(l, slog.LevelError, "a", "no decision", "code", "a")
		check("")
		<-time.After(time.Nanosecond)
		f.Log(l, slog.LevelError, "a", "no decision", "code", "a")
		f.Log(l, slog.LevelError, "b", "no decision", "code", "b")
		check(`level=ERROR msg="no decision" code=a more=100`, `level=ERROR msg="no decision" code=b`)
		<-time.After(DefaultPause)
		f.Log(l, slog.LevelError, "a", "no decision", "code", "a")
		check(`level=ERROR msg="no decision" code=a`)
		f.Pause = 2 * DefaultPause
		<-time.After(DefaultPause)
		f.Log(l, slog.LevelError, "a", "no decision", "code", "a")
		check("")
		<-time.After(DefaultPause)
		f.Log(l, slog.LevelError, "a", "no decision", "code", "a")
		check(`level=ERROR msg="no decision" code=a more=1`)
	})
}

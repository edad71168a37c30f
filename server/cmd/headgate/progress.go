package main

import (
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// isTerminal is whether somebody sees what is written there.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// progress shows how far long work is: how much of it is done, how fast, and how long it
// will take.
type progress struct {
	bar *progressbar.ProgressBar // nil where nobody looks
}

// newProgress returns a bar on w, if that is a terminal. Only then is total asked how
// much there is to do; -1 stands for nobody knows.
func newProgress(w io.Writer, total func() int64) *progress {
	if !isTerminal(w) {
		return new(progress)
	}
	return showProgress(w, total())
}

// showProgress returns a bar for so much work, on w.
func showProgress(w io.Writer, total int64) *progress {
	if total == 0 {
		return new(progress)
	}
	return &progress{progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(w), progressbar.OptionSetWidth(20), progressbar.OptionShowCount(), progressbar.OptionShowIts(),
		progressbar.OptionSetItsString("rows"), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionSetPredictTime(true),
		progressbar.OptionClearOnFinish(), progressbar.OptionSetRenderBlankState(true),
		progressbar.OptionSetSpinnerChangeInterval(0), // or it would draw by itself, also after the end
	)}
}

// add says that n more are done.
func (p *progress) add(n int) {
	if p.bar == nil || n == 0 {
		return
	}
	p.bar.Add(n) // an error says that there is more than was counted, or that the terminal has gone
}

// end takes the bar away.
func (p *progress) end() {
	if p.bar != nil {
		p.bar.Clear()
	}
}

package observe

import (
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/puzpuzpuz/xsync/v4"
)

// other stands for the labels of all sets beyond MaxSets.
const other = "other"

// key is the values of a family's labels; the rest is empty.
type key [3]string

// family is a metric with at most about so many sets of labels. Its map spares
// the vector's lock and hash.
type family[M any] struct {
	vec prometheus.Collector
	// with makes the metric of a set of vec.
	with func(...string) M
	// open is how many labels, the first ones, may take any number of values.
	open, labels int
	known        *xsync.Map[key, M]
	sets         atomic.Int64
	most         int64 // sets
}

// counters is a family of them.
type counters = family[prometheus.Counter]

func newFamily(name, help string, open int, labels ...string) *counters {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	return &counters{vec: vec, with: vec.WithLabelValues, open: open, labels: len(labels), most: MaxSets, known: xsync.NewMap[key, prometheus.Counter]()}
}

// histograms is a family of them.
type histograms = family[prometheus.Observer]

func newHistograms(opts prometheus.HistogramOpts, open int, labels ...string) *histograms {
	vec := prometheus.NewHistogramVec(opts, labels)
	return &histograms{vec: vec, with: vec.WithLabelValues, open: open, labels: len(labels), most: MaxSets, known: xsync.NewMap[key, prometheus.Observer]()}
}

// of returns the metric of a set. It keeps no string of k.
func (f *family[M]) of(k key) M {
	if c, ok := f.known.Load(k); ok {
		return c
	}
	return f.add(k)
}

// add returns the metric of a set that is new, or was a moment ago. It is a function of its
// own as k escapes here.
func (f *family[M]) add(k key) M {
	if f.sets.Load() >= f.most {
		for i := range f.open {
			k[i] = other
		}
	}
	for i := range k {
		k[i] = strings.Clone(k[i]) // what it points to belongs to the request
	}
	c, loaded := f.known.LoadOrCompute(k, func() (M, bool) {
		return f.with(k[:f.labels]...), false
	})
	if !loaded {
		f.sets.Add(1)
	}
	return c
}

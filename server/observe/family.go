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

// family is a counter with at most about so many sets of labels. Its map spares
// the vector's lock and hash.
type family struct {
	vec *prometheus.CounterVec
	// open is how many labels, the first ones, may take any number of values.
	open, labels int
	known        *xsync.Map[key, prometheus.Counter]
	sets         atomic.Int64
	most         int64 // sets
}

func newFamily(name, help string, open int, labels ...string) *family {
	return &family{
		vec:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels),
		open: open, labels: len(labels), most: MaxSets, known: xsync.NewMap[key, prometheus.Counter](),
	}
}

// of returns the counter of a set. It keeps no string of k.
func (f *family) of(k key) prometheus.Counter {
	if c, ok := f.known.Load(k); ok {
		return c
	}
	if f.sets.Load() >= f.most {
		for i := range f.open {
			k[i] = other
		}
	}
	for i := range k {
		k[i] = strings.Clone(k[i]) // what it points to belongs to the request
	}
	c, loaded := f.known.LoadOrCompute(k, func() (prometheus.Counter, bool) {
		return f.vec.WithLabelValues(k[:f.labels]...), false
	})
	if !loaded {
		f.sets.Add(1)
	}
	return c
}

package admin

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headgate/headgate/server/access"
	"github.com/headgate/headgate/server/front/problem"
	"github.com/headgate/headgate/server/meter"
	"github.com/headgate/headgate/server/records"
)

// counting is what the routes need of a meter.
type counting interface {
	Rates(window time.Duration) meter.Rates
	Top(by meter.By, application string, n int) (list []meter.Top, since time.Time)
	Stats() meter.Stats
	Usage(ctx context.Context, q records.UsageQuery) (rows []meter.Row, last *records.Usage, more bool, err error)
}

// statsItem is what this node has decided lately.
type statsItem struct {
	Node string `json:"node"`
	// Since is from when on reasons and applications are counted: by whole minutes.
	Since    time.Time `json:"since"`
	WindowMS int64     `json:"window_ms"`
	// Allowed and Denied are of the window; for tokens that are not for all applications
	// they are the sums of Applications.
	Allowed int64 `json:"allowed"`
	Denied  int64 `json:"denied"`
	// PerSecond is their mean, of the seconds that have ended if there are such.
	PerSecond float64 `json:"per_second"`
	// Series is null for tokens that are not for all applications: seconds are not told
	// apart by application.
	Series       []secondItem      `json:"series"`
	Reasons      []reasonItem      `json:"reasons"`
	Applications []applicationRate `json:"applications"`
	Usage        usageState        `json:"usage"`
}

type secondItem struct {
	At      time.Time `json:"at"`
	Allowed int64     `json:"allowed"`
	Denied  int64     `json:"denied"`
}

type reasonItem struct {
	Reason string `json:"reason"`
	Count  int64  `json:"count"`
}

// applicationRate is what was decided for an application; "" are limits that callers have
// described.
type applicationRate struct {
	Application string `json:"application"`
	Allowed     int64  `json:"allowed"`
	Denied      int64  `json:"denied"`
}

type usageState struct {
	Rows         int64 `json:"rows"`
	Unattributed int64 `json:"unattributed"`
	Failures     int64 `json:"failures"`
}

// stats tells what this node has decided lately.
func (a *api) stats(w http.ResponseWriter, r *http.Request, who *access.Identity) {
	values, p := query(r.URL.RawQuery, "window")
	window := time.Minute
	if said := values["window"]; p == nil && said != "" {
		var err error
		if window, err = time.ParseDuration(said); err != nil || window < time.Second || window > meter.MaxWindow || window%time.Second != 0 {
			p = problem.BadRequest("window", fmt.Sprintf(`window %.64q: must be whole seconds of 1s to %.0fm, such as "1m"`, said, meter.MaxWindow.Minutes()))
		}
	}
	if p != nil {
		p.ServeHTTP(w, r)
		return
	}
	rates, state := a.Meter.Rates(window), a.Meter.Stats()
	item := statsItem{
		Node: a.self(), Since: rates.Since, WindowMS: window.Milliseconds(), Reasons: []reasonItem{}, Applications: []applicationRate{},
		Usage: usageState{state.Rows, state.Unattributed, state.Failures},
	}
	item.kinds(rates.Kinds, who)
	if who.Everywhere() {
		item.seconds(rates.Seconds)
	} else {
		item.sums(&rates)
	}
	writeJSON(w, &item)
}

// kinds fills in what was decided in the applications that somebody reaches.
func (s *statsItem) kinds(kinds []meter.Kind, who *access.Identity) {
	reasons := make(map[string]int64)
	applications := make(map[string]*applicationRate)
	for i := range kinds {
		k := &kinds[i]
		if !who.Reaches(k.Application) {
			continue
		}
		reasons[k.Reason.String()] += k.Count
		rate := applications[k.Application]
		if rate == nil {
			rate = &applicationRate{Application: k.Application}
			applications[k.Application] = rate
		}
		if k.Allowed {
			rate.Allowed += k.Count
		} else {
			rate.Denied += k.Count
		}
	}
	for reason, n := range reasons {
		s.Reasons = append(s.Reasons, reasonItem{reason, n})
	}
	slices.SortFunc(s.Reasons, func(a, b reasonItem) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), strings.Compare(a.Reason, b.Reason))
	})
	for _, rate := range applications {
		s.Applications = append(s.Applications, *rate)
	}
	slices.SortFunc(s.Applications, func(a, b applicationRate) int {
		return cmp.Or(cmp.Compare(b.Allowed+b.Denied, a.Allowed+a.Denied), strings.Compare(a.Application, b.Application))
	})
}

// seconds fills in what was decided in the window, the last second of which goes on.
func (s *statsItem) seconds(seconds []meter.Second) {
	for _, x := range seconds {
		s.Allowed, s.Denied = s.Allowed+x.Allowed, s.Denied+x.Denied
		s.Series = append(s.Series, secondItem(x))
	}
	last := &seconds[len(seconds)-1]
	ended, n := s.Allowed+s.Denied, len(seconds)
	if n > 1 {
		ended, n = ended-last.Allowed-last.Denied, n-1
	}
	s.PerSecond = float64(ended) / float64(n)
}

// sums fills in the sums of the applications.
func (s *statsItem) sums(r *meter.Rates) {
	for i := range s.Applications {
		s.Allowed, s.Denied = s.Allowed+s.Applications[i].Allowed, s.Denied+s.Applications[i].Denied
	}
	now := r.Seconds[len(r.Seconds)-1].At.Add(time.Second)
	s.PerSecond = float64(s.Allowed+s.Denied) / now.Sub(r.Since).Seconds()
}

// topItem is a subject among the first, on the wire.
type topItem struct {
	Application string `json:"application"`
	Subject     string `json:"subject"`
	// Count is at most Over too high.
	Count int64 `json:"count"`
	Over  int64 `json:"over"`
}

// topList is a list that is never continued.
type topList struct {
	Items []topItem `json:"items"`
	Since time.Time `json:"since"`
	Node  string    `json:"node"`
	Next  *string   `json:"next"`
}

// topRanks are the values of by.
var topRanks = map[string]meter.By{"requests": meter.ByRequests, "denied": meter.ByDenied, "cost": meter.ByCost}

// top lists the subjects that did most on this node lately.
func (a *api) top(w http.ResponseWriter, r *http.Request, who *access.Identity) {
	values, p := query(r.URL.RawQuery, "by", "application", "limit")
	application := values["application"]
	if p == nil {
		p = outside(who, application)
	}
	by, known := topRanks[cmp.Or(values["by"], "requests")]
	if p == nil && !known {
		p = problem.BadRequest("by", fmt.Sprintf("by %.64q: must be requests, denied or cost", values["by"]))
	}
	limit := 20
	if said := values["limit"]; p == nil && said != "" {
		var err error
		if limit, err = strconv.Atoi(said); err != nil || limit < 1 || limit > records.MaxPage {
			p = problem.BadRequest("limit", fmt.Sprintf("limit %.64q: must be 1 to %d", said, records.MaxPage))
		}
	}
	if p != nil {
		p.ServeHTTP(w, r)
		return
	}
	list, since := a.Meter.Top(by, application, limit)
	if len(list) == 0 && application != "" {
		if _, known := a.Gate.TrustedProxies(application); !known {
			problem.Of(unknownApplication(application)).ServeHTTP(w, r)
			return
		}
	}
	items := make([]topItem, len(list))
	for i := range list {
		items[i] = topItem(list[i])
	}
	writeJSON(w, &topList{Items: items, Since: since, Node: a.self()})
}

package admin

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/headgate/headgate/server/access"
	"github.com/headgate/headgate/server/front/problem"
	"github.com/headgate/headgate/server/meter"
	"github.com/headgate/headgate/server/records"
)

// usageItem is what was used of a unit in an hour, day or month, on the wire.
type usageItem struct {
	Application string `json:"application"`
	Subject     string `json:"subject"`
	Operation   string `json:"operation"`
	Plan        string `json:"plan"`
	Unit        string `json:"unit"`
	// From and To are when it begins and ends, in Timezone.
	From     string `json:"from"`
	To       string `json:"to"`
	Timezone string `json:"timezone"`
	Allowed  int64  `json:"allowed"`
	Denied   int64  `json:"denied"`
	Cost     int64  `json:"cost"`
	Overage  int64  `json:"overage"`
	// Revision grows with every change. Two rows of one revision are the same, but for
	// Final, which becomes true when there are no more changes to come.
	Revision int64 `json:"revision"`
	Final    bool  `json:"final"`
}

// The media types of usage.
const (
	typeJSON  = "application/json"
	typeLines = "application/x-ndjson"
	typeCSV   = "text/csv"
)

// usageFormats are the values of format.
var usageFormats = map[string]string{"json": typeJSON, "jsonl": typeLines, "csv": typeCSV}

// usageSpans are the values of period.
var usageSpans = map[string]records.Span{"hour": records.Hour, "day": records.Day, "month": records.Month}

// usageWish is what a request wants to know of usage.
type usageWish struct {
	records.UsageQuery
	format string // a media type
	total  bool
}

// usage lists what was used, page by page, or sends all of it.
func (a *api) usage(w http.ResponseWriter, r *http.Request, who *access.Identity) {
	wish, p := readUsage(r, time.Now())
	if p == nil {
		p = outside(who, wish.Application)
	}
	if p != nil {
		p.ServeHTTP(w, r)
		return
	}
	w.Header().Set("Vary", "Accept")
	e := &usageExport{api: a, w: w, r: r, q: wish.UsageQuery, zones: make(map[string]*time.Location)}
	if wish.format == typeJSON {
		e.list(wish.total)
		return
	}
	e.send(wish.format)
}

// readUsage reads the parameters.
func readUsage(r *http.Request, now time.Time) (*usageWish, *problem.Problem) {
	values, p := query(r.URL.RawQuery, "application", "subject", "operation", "plan", "unit", "period", "from", "to", "format", "limit", "cursor", "total")
	if p != nil {
		return nil, p
	}
	wish := &usageWish{UsageQuery: records.UsageQuery{Limit: records.MaxPage}}
	for name, to := range map[string]*string{
		"application": &wish.Application, "subject": &wish.Subject, "operation": &wish.Operation, "plan": &wish.Plan, "unit": &wish.Unit,
	} {
		if *to = values[name]; !isText(*to) {
			return nil, problem.BadRequest(name, fmt.Sprintf("%s %.64q: is no UTF-8, or has NUL", name, *to))
		}
	}
	var known bool
	if wish.Span, known = usageSpans[cmp.Or(values["period"], "day")]; !known {
		return nil, problem.BadRequest("period", fmt.Sprintf("period %.64q: must be hour, day or month", values["period"]))
	}
	from, byDay, err := ParseBound("from", values["from"], now)
	if err != nil {
		return nil, problem.BadRequest("from", err.Error())
	}
	if wish.From = from; byDay {
		wish.From, wish.FromDay = time.Time{}, daysOf(from)
	}
	to, byDay, err := ParseBound("to", values["to"], now)
	if err != nil {
		return nil, problem.BadRequest("to", err.Error())
	}
	if wish.To = to; byDay {
		wish.To, wish.ToDay = time.Time{}, daysOf(to)
	}
	if !from.IsZero() && !to.IsZero() && !from.Before(to) {
		return nil, problem.BadRequest("to", fmt.Sprintf("to %.64q: must be later than from %.64q: what begins at to is left out", values["to"], values["from"]))
	}
	if said := values["format"]; said == "" {
		wish.format = acceptedUsage(r.Header.Values("Accept"))
	} else if wish.format, known = usageFormats[said]; !known {
		return nil, problem.BadRequest("format", fmt.Sprintf("format %.64q: must be json, jsonl or csv", said))
	}
	return wish, wish.page(values)
}

// page reads what only pages have.
func (q *usageWish) page(values map[string]string) (p *problem.Problem) {
	if q.format != typeJSON {
		for _, name := range []string{"limit", "cursor", "total"} {
			if values[name] != "" {
				return problem.BadRequest(name, name+" is for format=json: the other formats send everything")
			}
		}
		return nil
	}
	if q.Limit, p = limitOfPage(values["limit"]); p != nil {
		return p
	}
	switch said := values["total"]; said {
	case "", "true", "false":
		q.total = said == "true"
	default:
		return problem.BadRequest("total", fmt.Sprintf("total %.64q: must be true or false", said))
	}
	q.After, p = readUsageCursor(values["cursor"], q.Span)
	return p
}

// isText reports whether a database can look for it.
func isText(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// ParseBound reads an end of a range of usage: an instant, how long ago it is, or a day
// or month, which is that of each subject's own calendar and is returned as its first
// instant in UTC; zero for "". The error names the parameter.
func ParseBound(name, s string, now time.Time) (at time.Time, byDay bool, err error) {
	if s == "" {
		return time.Time{}, false, nil
	}
	if at, err = ParseSince(s, now); err != nil {
		byDay = true
		if at, err = time.Parse(time.DateOnly, s); err != nil {
			at, err = time.Parse("2006-01", s)
		}
	}
	if err != nil || at.Unix() < 24*60*60 {
		return time.Time{}, false, fmt.Errorf("%s %.64q: must be an instant such as 2026-03-09T12:00:00Z, a day such as 2026-03-09, a month such as 2026-03, or how long ago, such as 24h; from 1970-01-02 on", name, s)
	}
	return at, byDay, nil
}

// daysOf counts the days from 1970-01-01 to an instant in UTC.
func daysOf(t time.Time) int64 { return t.Unix() / (24 * 60 * 60) }

// acceptedUsage chooses the format that a client likes best; JSON where it does not say.
func acceptedUsage(accept []string) string {
	best, most := typeJSON, 0.0
	for part := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		kind, parameters, err := mime.ParseMediaType(part)
		if err != nil || kind != typeJSON && kind != typeLines && kind != typeCSV {
			continue
		}
		weight := 1.0
		if q, said := parameters["q"]; said {
			if weight, err = strconv.ParseFloat(q, 64); err != nil {
				continue
			}
		}
		if weight > most {
			best, most = kind, weight
		}
	}
	return best
}

// usageCursor is the row behind which a page begins. It goes over the wire as JSON in
// base64, which clients take as it is.
type usageCursor struct {
	Span        records.Span `json:"span"`
	Application string       `json:"application"`
	Subject     string       `json:"subject"`
	Label       int64        `json:"label"` // of the hour, day or month
	Operation   string       `json:"operation"`
	Plan        string       `json:"plan"`
	Unit        string       `json:"unit"`
	Timezone    string       `json:"timezone"`
	Anchor      int          `json:"anchor"`
}

func writeUsageCursor(span records.Span, u *records.Usage) (string, error) {
	c := usageCursor{span, u.Application, u.Subject, u.Period.UnixMicro(), u.Operation, u.Plan, u.Unit, u.Timezone, u.Anchor}
	switch span {
	case records.Day:
		c.Label = u.Day
	case records.Month:
		c.Label = u.Month
	}
	raw, err := json.Marshal(&c)
	return base64.RawURLEncoding.EncodeToString(raw), err
}

func readUsageCursor(said string, span records.Span) (*records.Usage, *problem.Problem) {
	if said == "" {
		return nil, nil
	}
	var c usageCursor
	raw, err := base64.RawURLEncoding.DecodeString(said)
	if err == nil {
		d := json.NewDecoder(bytes.NewReader(raw))
		d.DisallowUnknownFields()
		err = d.Decode(&c)
	}
	switch {
	case err != nil || c.Unit == "" || !isText(c.Application+c.Subject+c.Operation+c.Plan+c.Unit+c.Timezone):
		return nil, problem.BadRequest("cursor", fmt.Sprintf("cursor %.64q: must be the next of an answer", said))
	case c.Span != span:
		return nil, problem.BadRequest("cursor", "cursor: is the next of an answer about another period")
	}
	u := &records.Usage{Application: c.Application, Subject: c.Subject, Operation: c.Operation, Plan: c.Plan, Unit: c.Unit, Timezone: c.Timezone, Anchor: c.Anchor}
	switch span {
	case records.Day:
		u.Day = c.Label
	case records.Month:
		u.Month = c.Label
	default:
		u.Period = time.UnixMicro(c.Label)
	}
	return u, nil
}

// usageExport is an answer with usage.
type usageExport struct {
	*api
	w     http.ResponseWriter
	r     *http.Request
	q     records.UsageQuery
	zones map[string]*time.Location // by name
}

// usageList is a page, on the wire.
type usageList struct {
	Items []usageItem `json:"items"`
	Next  *string     `json:"next"`
	// Total is how many rows there are on all pages, where that was asked for; about so
	// many where from or to falls within rows.
	Total *int64 `json:"total,omitempty"`
}

// list answers with a page.
func (e *usageExport) list(total bool) {
	l := usageList{Items: []usageItem{}}
	first, limit := e.q.After == nil, e.q.Limit
	for more := true; more && len(l.Items) < limit; {
		e.q.Limit = limit - len(l.Items)
		items, again, err := e.page()
		if err != nil {
			e.lost(e.w, e.r, err)
			return
		}
		l.Items = append(l.Items, items...)
		if more = again; more && len(l.Items) == limit {
			next, err := writeUsageCursor(e.q.Span, e.q.After)
			if err != nil {
				e.lost(e.w, e.r, err)
				return
			}
			l.Next = &next
		}
	}
	if first && len(l.Items) == 0 && e.unknown() {
		return
	}
	if total {
		n, err := e.Records.CountUsage(e.r.Context(), e.q)
		if err != nil {
			e.lost(e.w, e.r, err)
			return
		}
		l.Total = &n
	}
	writeJSON(e.w, &l)
}

// unknown answers where the application of which nothing is on record is not in the
// policy either.
func (e *usageExport) unknown() bool {
	if e.q.Application == "" {
		return false
	}
	_, known := e.Gate.TrustedProxies(e.q.Application)
	if !known {
		problem.Of(unknownApplication(e.q.Application)).ServeHTTP(e.w, e.r)
	}
	return !known
}

// page reads the rows of a page, of which there may be none, and goes on behind it. more
// says that there are others.
func (e *usageExport) page() (items []usageItem, more bool, err error) {
	rows, last, more, err := e.Meter.Usage(e.r.Context(), e.q)
	if err != nil {
		return nil, false, err
	}
	if last != nil {
		e.q.After = last
	}
	items = make([]usageItem, len(rows))
	for i := range rows {
		if items[i], err = e.item(&rows[i]); err != nil {
			return nil, false, err
		}
	}
	return items, more, nil
}

func (e *usageExport) item(u *meter.Row) (usageItem, error) {
	zone := e.zones[u.Timezone]
	if zone == nil {
		var err error
		if zone, err = time.LoadLocation(u.Timezone); err != nil {
			return usageItem{}, err
		}
		e.zones[u.Timezone] = zone
	}
	return usageItem{
		u.Application, u.Subject, u.Operation, u.Plan, u.Unit, u.From.In(zone).Format(time.RFC3339), u.To.In(zone).Format(time.RFC3339), u.Timezone,
		u.Allowed, u.Denied, u.Cost, u.Overage, u.Revision, u.Final,
	}, nil
}

// send answers with all rows, page by page. Where it fails on the way it breaks the
// connection off, or what was sent would pass for all.
func (e *usageExport) send(format string) {
	items, more, err := e.page()
	if err != nil {
		e.lost(e.w, e.r, err)
		return
	}
	if len(items) == 0 && !more && e.unknown() {
		return
	}
	h := e.w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	write := usageLines
	if format == typeCSV {
		format, write = typeCSV+"; charset=utf-8; header=present", usageTable()
	}
	h.Set("Content-Type", format)
	if e.r.Method == http.MethodHead {
		return
	}
	conn := http.NewResponseController(e.w)
	for {
		// However many pages there are, each of them has its time.
		if err := conn.SetWriteDeadline(time.Now().Add(stalled)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			panic(http.ErrAbortHandler) // the client has gone
		}
		if write(e.w, items) != nil || conn.Flush() != nil {
			panic(http.ErrAbortHandler)
		}
		if !more {
			return
		}
		if items, more, err = e.page(); err != nil {
			if e.r.Context().Err() == nil {
				e.Logger.Error("usage was not sent to its end: the records failed", "error", err)
			}
			panic(http.ErrAbortHandler)
		}
	}
}

package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/headgate/headgate/gate"
	"github.com/headgate/headgate/gate/policy"
	"github.com/headgate/headgate/server/access"
	"github.com/headgate/headgate/server/front/problem"
	"github.com/headgate/headgate/server/records"
)

// revisionItem is a revision of the policy, on the wire.
type revisionItem struct {
	Revision int64     `json:"revision"`
	At       time.Time `json:"at"`
	Author   string    `json:"author"`
	Via      string    `json:"via"`
	Note     string    `json:"note"`
}

func revisionOf(p *records.Policy) revisionItem {
	return revisionItem{p.Revision, p.At, p.Author, p.Via, p.Note}
}

// changeItem is a revision that a request has made.
type changeItem struct {
	revisionItem
	Warnings []warningItem `json:"warnings"`
}

type warningItem struct {
	Pointer string `json:"pointer"`
	Detail  string `json:"detail"`
}

func warningsOf(list []policy.Warning) []warningItem {
	items := make([]warningItem, len(list))
	for i, w := range list {
		items[i] = warningItem{problem.Pointer(w.Path), fmt.Sprintf("line %d: %s", w.Line, w.Message)}
	}
	return items
}

// policyTypes are the media types of a policy.
var policyTypes = []string{"application/yaml", "application/json", "text/yaml", "application/x-yaml"}

// policy answers with the policy, or an earlier revision of it, or takes another one.
func (a *api) policy(w http.ResponseWriter, r *http.Request, who *access.Identity) {
	if p := a.wholly(who); p != nil {
		p.ServeHTTP(w, r)
		return
	}
	if r.Method == http.MethodPut {
		a.putPolicy(w, r, who)
		return
	}
	values, p := query(r.URL.RawQuery, "revision")
	var revision int64
	if said := values["revision"]; p == nil && said != "" {
		revision, p = readRevision("revision", said)
	}
	if p != nil {
		p.ServeHTTP(w, r)
		return
	}
	document, revision, err := a.document(r, revision)
	if err != nil {
		a.lost(w, r, err)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/yaml")
	if strings.HasPrefix(strings.TrimLeft(document, " \t\r\n"), "{") {
		h.Set("Content-Type", "application/json")
	}
	h.Set("ETag", strconv.Quote(strconv.FormatInt(revision, 10)))
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	io.WriteString(w, document) // an error says that the client has gone
}

// document returns a revision of the policy, 0 for the one in force.
func (a *api) document(r *http.Request, revision int64) (string, int64, error) {
	if revision == 0 {
		s := a.Gate.Source()
		head, err := a.Records.Policy(r.Context(), 0)
		if errors.Is(err, records.ErrNotFound) || a.Pinned != "" && err == nil {
			return string(s.Data), head.Revision, nil // it is not on record, or rules in spite of it
		}
		return head.Document, head.Revision, err
	}
	p, err := a.Records.Policy(r.Context(), revision)
	return p.Document, p.Revision, err
}

// wholly is the problem of a token that is not for all applications, where what is asked
// is about all of them.
func (a *api) wholly(who *access.Identity) *problem.Problem {
	if who.Everywhere() {
		return nil
	}
	return &problem.Problem{Name: "forbidden", Status: http.StatusForbidden, Detail: "this token is not for all applications, and what is asked is about all of them"}
}

// pinned is the problem of a policy that a file rules.
func (a *api) pinned() *problem.Problem {
	if a.Pinned == "" {
		return nil
	}
	return &problem.Problem{
		Name: "pinned", Status: http.StatusConflict,
		Detail: fmt.Sprintf("the server was started with --policy %s, which rules: change that file, or start the server without it", a.Pinned),
	}
}

func readRevision(field, said string) (int64, *problem.Problem) {
	n, err := strconv.ParseInt(said, 10, 64)
	if err != nil || n < 1 {
		return 0, problem.BadRequest(field, fmt.Sprintf("%s %.64q: must be the number of a revision", field, said))
	}
	return n, nil
}

// readPolicy reads a policy and checks it.
func readPolicy(w http.ResponseWriter, r *http.Request) (document string, warnings []policy.Warning, p *problem.Problem) {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || !slices.Contains(policyTypes, kind) {
		return "", nil, &problem.Problem{
			Name: "unsupported_media_type", Status: http.StatusUnsupportedMediaType,
			Detail: "the body must be a policy, sent as Content-Type: application/yaml or application/json",
		}
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, policy.MaxSize))
	if err != nil {
		return "", nil, unread(err)
	}
	warnings, err = gate.Validate("policy", data)
	if faults, ok := errors.AsType[policy.Faults](err); ok {
		return "", warnings, faulty(faults)
	}
	if err != nil {
		return "", warnings, problem.Of(err)
	}
	return string(data), warnings, nil
}

// checkNote is the problem of a note that is no text or too long.
func checkNote(note string, most int) *problem.Problem {
	if len(note) > most || !utf8.ValidString(note) || strings.ContainsRune(note, 0) {
		return problem.BadRequest("note", fmt.Sprintf("note: must be a text of at most %d bytes", most))
	}
	return nil
}

func (a *api) putPolicy(w http.ResponseWriter, r *http.Request, who *access.Identity) {
	values, p := query(r.URL.RawQuery, "note")
	var base int64
	var document string
	var warnings []policy.Warning
	if p == nil {
		p = a.pinned()
	}
	if p == nil {
		p = checkNote(values["note"], records.MaxNote)
	}
	if p == nil {
		base, p = version(r)
	}
	if p == nil {
		document, warnings, p = readPolicy(w, r)
	}
	if p != nil {
		p.ServeHTTP(w, r)
		return
	}
	a.append(w, r, base, records.Policy{Document: document, Note: values["note"]}, entry(r, who, "policy.put"), warnings)
}

// append makes a policy the newest revision, and answers when it is in force here.
func (a *api) append(w http.ResponseWriter, r *http.Request, base int64, p records.Policy, e records.Entry, warnings []policy.Warning) {
	before, _, err := a.document(r, 0)
	if err != nil && !errors.Is(err, records.ErrNotFound) {
		a.lost(w, r, err)
		return
	}
	e.Detail = changeOf(before, p.Document, p.Note)
	orphans, err := a.orphans(r, before, p.Document)
	if err != nil {
		a.lost(w, r, err)
		return
	}
	warnings = append(warnings, orphans...)
	made, err := a.Records.AppendPolicy(r.Context(), base, p, e)
	if err != nil {
		a.lost(w, r, err)
		return
	}
	a.reach(r, made.Version)
	w.Header().Set("ETag", strconv.Quote(strconv.FormatInt(made.Revision, 10)))
	writeJSON(w, changeItem{revisionOf(&made), warningsOf(warnings)})
}

// orphans warns of plans that another document does not have any more, and subjects on
// record still have: those get the default plan, or are refused.
func (a *api) orphans(r *http.Request, before, after string) (list []policy.Warning, err error) {
	was, err := policy.Parts([]byte(before), plans.key)
	if err != nil {
		return nil, nil // it has faults of its own, and rules nevertheless
	}
	is, err := policy.Parts([]byte(after), plans.key)
	if err != nil {
		return nil, nil // as above
	}
	for _, plan := range was {
		if slices.ContainsFunc(is, func(p policy.Part) bool { return p.Name == plan.Name }) {
			continue
		}
		n, err := a.Records.CountSubjects(r.Context(), "", plan.Name)
		if err != nil {
			return nil, err
		}
		if n > 0 {
			list = append(list, policy.Warning{Line: 1, Column: 1, Path: plans.key, Message: fmt.Sprintf(
				"plan %s is gone, and %s: they get the default plan of their application, or are refused where there is none", plan.Name, subjectOnRecord.count(n)+" named it")})
		}
	}
	return list, nil
}

// changeOf says how much of a document another one changes, for the audit log.
func changeOf(before, after, note string) string {
	lines := func(s string) map[string]int {
		all := make(map[string]int)
		for line := range strings.Lines(s) {
			all[strings.TrimRight(line, "\r\n")]++
		}
		return all
	}
	was, is := lines(before), lines(after)
	added, removed := 0, 0
	for line, n := range is {
		added += max(0, n-was[line])
	}
	for line, n := range was {
		removed += max(0, n-is[line])
	}
	detail, err := json.Marshal(map[string]any{"lines_added": added, "lines_removed": removed, "note": note})
	if err != nil {
		panic(err) // numbers and a text always encode
	}
	return string(detail)
}

// validatePolicy checks a policy and changes nothing.
func (a *api) validatePolicy(w http.ResponseWriter, r *http.Request, _ *access.Identity) {
	_, warnings, p := readPolicy(w, r)
	if p != nil {
		p.ServeHTTP(w, r)
		return
	}
	writeJSON(w, struct {
		Valid    bool          `json:"valid"`
		Warnings []warningItem `json:"warnings"`
	}{true, warningsOf(warnings)})
}

// revisions lists revisions, the newest first.
func (a *api) revisions(w http.ResponseWriter, r *http.Request, who *access.Identity) {
	p := a.wholly(who)
	var values map[string]string
	if p == nil {
		values, p = query(r.URL.RawQuery, "limit", "cursor")
	}
	var limit int
	if p == nil {
		limit, p = limitOfPage(values["limit"])
	}
	var before int64
	if said := values["cursor"]; p == nil && said != "" {
		before, p = readRevision("cursor", said)
	}
	if p != nil {
		p.ServeHTTP(w, r)
		return
	}
	list, more, err := a.Records.Policies(r.Context(), before, limit)
	if err != nil {
		a.lost(w, r, err)
		return
	}
	items := make([]revisionItem, len(list))
	for i := range list {
		items[i] = revisionOf(&list[i])
	}
	next := ""
	if more {
		next = strconv.FormatInt(list[len(list)-1].Revision, 10)
	}
	writeList(w, items, next)
}

// MaxRollbackNote is the longest note of a rollback in bytes: there is room for what is
// written before it.
const MaxRollbackNote = records.MaxNote - 50

// rollback makes an earlier revision the newest one again.
func (a *api) rollback(w http.ResponseWriter, r *http.Request, who *access.Identity) {
	p := a.wholly(who)
	if p == nil {
		p = a.pinned()
	}
	var base, revision int64
	var note string
	if p == nil {
		base, p = version(r)
	}
	if p == nil {
		var said struct {
			Revision *int64 `json:"revision"`
			Note     string `json:"note"`
		}
		if p = readStrict(w, r, &said); p == nil {
			if said.Revision == nil || *said.Revision < 1 {
				p = problem.BadRequest("revision", "revision is required: the number of an earlier revision")
			} else {
				revision, note = *said.Revision, said.Note
				p = checkNote(note, MaxRollbackNote)
			}
		}
	}
	if p != nil {
		p.ServeHTTP(w, r)
		return
	}
	earlier, err := a.Records.Policy(r.Context(), revision)
	if err != nil {
		a.lost(w, r, err)
		return
	}
	warnings, err := gate.Validate("policy", []byte(earlier.Document))
	if faults, ok := errors.AsType[policy.Faults](err); ok {
		p := faulty(faults) // this program does not take what an earlier one did
		p.Detail = fmt.Sprintf("revision %d has faults: %s", revision, p.Detail)
		p.ServeHTTP(w, r)
		return
	}
	e := entry(r, who, "policy.rollback")
	e.Target = fmt.Sprintf("revision %d", revision)
	why := e.Target
	if note != "" {
		why += ": " + note
	}
	a.append(w, r, base, records.Policy{Document: earlier.Document, Note: "rollback to " + why}, e, warnings)
}

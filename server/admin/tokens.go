package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/server/access"
	"github.com/headgate/headgate/server/front/problem"
	"github.com/headgate/headgate/server/records"
)

// tokenItem is what is on record of a token, on the wire.
type tokenItem struct {
	ID           string          `json:"id"`
	Name         string          `json:"name"`
	Scopes       []records.Scope `json:"scopes"`
	Applications []string        `json:"applications"`
	CreatedAt    time.Time       `json:"created_at"`
	CreatedBy    string          `json:"created_by"`
	ExpiresAt    *time.Time      `json:"expires_at"`
	RevokedAt    *time.Time      `json:"revoked_at"`
	// Token is the token itself, in the answer to its creation alone.
	Token string `json:"token,omitempty"`
}

func tokenOf(t *records.Token) tokenItem {
	item := tokenItem{ID: t.ID, Name: t.Name, Scopes: t.Scopes, Applications: t.Applications, CreatedAt: t.Created, CreatedBy: t.Author}
	if t.Applications == nil {
		item.Applications = []string{"*"}
	}
	if !t.Expires.IsZero() {
		item.ExpiresAt = &t.Expires
	}
	if !t.Revoked.IsZero() {
		item.RevokedAt = &t.Revoked
	}
	return item
}

// Bounds of a token.
const (
	maxTokenName         = 64
	maxTokenApplications = 64
	minTokenLife         = time.Minute
	maxTokenLife         = 10 * 365 * 24 * time.Hour
)

// tokens lists tokens, makes one, or revokes one.
func (a *api) tokens(w http.ResponseWriter, r *http.Request, who *access.Identity) {
	if p := a.wholly(who); p != nil {
		p.ServeHTTP(w, r)
		return
	}
	switch r.Method {
	case http.MethodPost:
		a.createToken(w, r, who)
	case http.MethodDelete:
		a.revokeToken(w, r, who)
	default:
		a.listTokens(w, r)
	}
}

func (a *api) listTokens(w http.ResponseWriter, r *http.Request) {
	values, p := query(r.URL.RawQuery, "limit", "cursor")
	if p == nil {
		p = texts(values)
	}
	var limit int
	if p == nil {
		limit, p = limitOfPage(values["limit"])
	}
	if p != nil {
		p.ServeHTTP(w, r)
		return
	}
	list, more, err := a.Records.Tokens(r.Context(), values["cursor"], limit)
	if err != nil {
		a.lost(w, r, err)
		return
	}
	items := make([]tokenItem, len(list))
	for i := range list {
		items[i] = tokenOf(&list[i])
	}
	next := ""
	if more {
		next = list[len(list)-1].ID
	}
	writeList(w, items, next)
}

// tokenWish is the body of POST /v1/tokens.
type tokenWish struct {
	Name         string          `json:"name"`
	Scopes       []records.Scope `json:"scopes"`
	Applications []string        `json:"applications"`
	For          string          `json:"for"`
}

// check says what is wrong with a wish. It returns until when the token holds, zero for
// no end.
func (t *tokenWish) check() (expires time.Time, p *problem.Problem) {
	known := []records.Scope{records.Decide, records.Read, records.Operate, records.Admin}
	switch {
	case t.Name == "" || len(t.Name) > maxTokenName || !utf8.ValidString(t.Name) || strings.ContainsFunc(t.Name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return expires, problem.BadRequest("name", fmt.Sprintf("name: must be a text of 1 to %d bytes, without control characters: whose token it is", maxTokenName))
	case len(t.Scopes) == 0:
		return expires, problem.BadRequest("scopes", "scopes is required: some of decide, read, operate, admin")
	case len(t.Applications) > maxTokenApplications:
		return expires, problem.BadRequest("applications", fmt.Sprintf("applications: at most %d; leave it out for all", maxTokenApplications))
	}
	for _, s := range t.Scopes {
		if !slices.Contains(known, s) {
			return expires, problem.BadRequest("scopes", fmt.Sprintf("scopes: %.64q: must be decide, read, operate or admin", s))
		}
	}
	for _, name := range t.Applications {
		if name != "*" && headgate.CheckName(name) != nil {
			return expires, problem.BadRequest("applications", fmt.Sprintf("applications: %.64q is no name of an application", name))
		}
	}
	if t.Applications == nil || slices.Contains(t.Applications, "*") {
		t.Applications = nil
	} else if len(t.Applications) == 0 {
		return expires, problem.BadRequest("applications", `applications: is empty: leave it out, or write ["*"], for all`)
	}
	if t.For == "" {
		return expires, nil
	}
	d, err := time.ParseDuration(t.For)
	if err != nil || d < minTokenLife || d > maxTokenLife {
		return expires, problem.BadRequest("for", fmt.Sprintf(`for %.64q: must be a time of %v to %v, such as "720h"`, t.For, minTokenLife, maxTokenLife))
	}
	return time.Now().UTC().Add(d), nil
}

func (a *api) createToken(w http.ResponseWriter, r *http.Request, who *access.Identity) {
	var wish tokenWish
	p := readStrict(w, r, &wish)
	var expires time.Time
	if p == nil {
		expires, p = wish.check()
	}
	if p != nil {
		p.ServeHTTP(w, r)
		return
	}
	slices.Sort(wish.Scopes)
	token, id, digest := access.NewToken()
	e := entry(r, who, "token.create")
	e.Target = id
	detail, err := json.Marshal(struct {
		Name         string          `json:"name"`
		Scopes       []records.Scope `json:"scopes"`
		Applications []string        `json:"applications"`
		For          string          `json:"for,omitempty"`
	}{wish.Name, wish.Scopes, wish.Applications, wish.For})
	if err != nil {
		panic(err) // texts always encode
	}
	e.Detail = string(detail)
	t, err := a.Records.CreateToken(r.Context(), records.Token{
		ID: id, Name: wish.Name, Scopes: slices.Compact(wish.Scopes), Applications: wish.Applications, Digest: digest, Expires: expires.Truncate(time.Microsecond),
	}, e)
	if err != nil {
		a.lost(w, r, err)
		return
	}
	a.reach(r, t.Version)
	item := tokenOf(&t)
	item.Token = token
	writeStatus(w, http.StatusCreated, item)
}

func (a *api) revokeToken(w http.ResponseWriter, r *http.Request, who *access.Identity) {
	values, p := query(r.URL.RawQuery, "id")
	if p == nil {
		p = texts(values)
	}
	switch id := values["id"]; {
	case p != nil:
	case id == "":
		p = problem.BadRequest("id", "id is required: that of a token, as GET /v1/tokens lists it")
	case id == access.Bootstrap:
		p = problem.BadRequest("id", "the token that the server was started with is not on record: remove DATA/admin-token and start the server anew for another one")
	}
	if p != nil {
		p.ServeHTTP(w, r)
		return
	}
	e := entry(r, who, "token.revoke")
	e.Target = values["id"]
	t, err := a.Records.RevokeToken(r.Context(), values["id"], e)
	if err != nil {
		a.lost(w, r, err)
		return
	}
	a.reach(r, t.Version)
	writeJSON(w, tokenOf(&t))
}

package records

import (
	"encoding/json"
	"errors"
	"time"
)

// Bounds of what is kept. They are checked by whoever takes it in; see
// [Subject.Check].
const (
	// MaxNote is the longest note or reason in bytes.
	MaxNote = 256
	// MaxPage is how many items a list has at most.
	MaxPage = 500
)

// ErrNotFound says that there is no such record.
var ErrNotFound = errors.New("records: not found")

// ErrStale says that the record has been changed since it was read.
var ErrStale = errors.New("records: changed by somebody else since it was read")

// Whatever is the present version of a record, as a write expects it.
const Whatever = -1

// Actor is who writes.
type Actor struct {
	// Name is that of a token, or of a part of this program.
	Name string
	// Via is how the write came in, such as api or file.
	Via string
	// Address is the client's; "" for none.
	Address string
}

// Entry is a line of the audit log.
type Entry struct {
	// ID and At are set where it is written.
	ID int64
	At time.Time
	Actor
	// Action says what was done, such as subject.put.
	Action string
	// Application, Subject and Target are what it was done to; each may be "".
	Application, Subject, Target string
	// Refused says why nothing was done; "" if it was.
	Refused string
	// Detail is a JSON object, or "".
	Detail string
}

// Policy is a revision of the policy.
type Policy struct {
	// Revision counts from 1.
	Revision int64
	At       time.Time
	Author   string
	// Via is how it came in, such as api, file or rollback.
	Via  string
	Note string
	// Document is the policy file; "" in lists.
	Document string
	// Version is the number of the write that made it.
	Version int64
}

// Subject is what is on record of one subject of an application.
type Subject struct {
	Application, Name string
	// Known tells a record from a mere ban.
	Known bool
	// Plan is "" for none of its own.
	Plan string
	// Timezone is the IANA name of the zone of its quotas; "" for the limits' own.
	Timezone string
	// Anchor is the day of the month on which its monthly quotas begin, 1 to 31; 0
	// for the limits' own.
	Anchor int
	Note   string
	// Overrides is a JSON array, as a policy has it, with ids of limits; nil for none.
	Overrides json.RawMessage
	Ban       Ban

	// Version is the number of the write that made it so, Changed its instant and
	// Author its actor.
	Version int64
	Changed time.Time
	Author  string
}

// Ban refuses a subject until an instant; the zero value is none.
type Ban struct {
	Until  time.Time
	Reason string
}

// gone reports whether nothing is on record.
func (s *Subject) gone() bool { return !s.Known && s.Ban.Until.IsZero() }

// Scope is what a token permits.
type Scope string

// The scopes. Each but Decide includes Read.
const (
	Decide  Scope = "decide"  // ask for decisions
	Read    Scope = "read"    // see everything but secrets
	Operate Scope = "operate" // change subjects and modes, reset, ban
	Admin   Scope = "admin"   // and policies and tokens
)

// Token is what is on record of a token, which itself is not.
type Token struct {
	ID, Name string
	Scopes   []Scope
	// Applications are those that it is for; nil for all.
	Applications []string
	// Digest is the SHA-256 of the token.
	Digest  [32]byte
	Created time.Time
	Author  string
	// Expires and Revoked are zero for never.
	Expires, Revoked time.Time
	// Version is the number of the write that made it so.
	Version int64
}

// Mode overrules the modes of the policy for a time.
type Mode struct {
	// Application and Rule are whose requests it is for; "" for all.
	Application, Rule string
	Shadow            bool
	// Until is when it ends.
	Until  time.Time
	Author string
}

package gatetest

import (
	"fmt"
	"strings"
	"time"

	"github.com/headgate/headgate/gate"
)

// Reset is a quota of two requests, and where its period ends.
type Reset struct {
	Name string
	// Limit is the quota as a policy says it, but for its name and algorithm.
	Limit string
	// Timezone and Anchor are what is on record of the subject: "" and 0 for nothing.
	Timezone string
	Anchor   int
	// At is an instant of the period, and End the first one of the next, on the clock
	// of the quota's zone: RFC 3339.
	At, End string
}

// ResetSubject is the subject of resets, an address; every request is for ResetPath of
// application a.
const (
	ResetSubject = "198.51.100.9"
	ResetPath    = "/x"
)

// Times returns At and End.
func (r Reset) Times() (at, end time.Time) {
	at, err := time.Parse(time.RFC3339, r.At)
	if err != nil {
		panic(err)
	}
	if end, err = time.Parse(time.RFC3339, r.End); err != nil {
		panic(err)
	}
	return at, end
}

// Policy returns a policy with the limit r/q, in which the subject's record stands.
func (r Reset) Policy() string {
	return r.policy() + "subjects:\n  a/" + ResetSubject + ": " + r.record() + "\n"
}

func (r Reset) policy() string {
	return fmt.Sprintf(`version: 1
applications:
  a:
    identity: [ip]
    rules: [{name: r, match: {path: %s}, limits: [{name: q, algorithm: quota, %s}]}]
`, ResetPath, r.Limit)
}

func (r Reset) record() string {
	var said []string
	if r.Timezone != "" {
		said = append(said, "timezone: "+r.Timezone)
	}
	if r.Anchor != 0 {
		said = append(said, fmt.Sprintf("anchor: %d", r.Anchor))
	}
	return "{" + strings.Join(said, ", ") + "}"
}

// Recorded returns the policy without the subject's record, and the record.
func (r Reset) Recorded() (policy string, record *gate.Record) {
	record = &gate.Record{Application: "a", Subject: ResetSubject, Known: true, Anchor: r.Anchor}
	if r.Timezone != "" {
		loc, err := time.LoadLocation(r.Timezone)
		if err != nil {
			panic(err)
		}
		record.Timezone = loc
	}
	return r.policy(), record
}

// Resets are the ends of periods where clocks change, months have fewer days than the
// anchor says, and subjects have zones and anchors of their own.
var Resets = []Reset{
	{"UTC", "rate: 2/day", "", 0, "2026-03-09T12:00:00Z", "2026-03-10T00:00:00Z"},
	{"Kathmandu", "rate: 2/day, timezone: Asia/Kathmandu", "", 0, "2026-03-09T12:00:00+05:45", "2026-03-10T00:00:00+05:45"},
	{"Kathmandu, hour", "rate: 2/hour, timezone: Asia/Kathmandu", "", 0, "2026-03-09T12:20:00+05:45", "2026-03-09T13:00:00+05:45"},
	{"Paris, forward", "rate: 2/day, timezone: Europe/Paris", "", 0, "2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00"},
	{"Paris, back", "rate: 2/day, timezone: Europe/Paris", "", 0, "2026-10-25T00:00:00+02:00", "2026-10-26T00:00:00+01:00"},
	{"Paris, an hour that comes twice", "rate: 2/hour, timezone: Europe/Paris", "", 0, "2026-10-25T02:30:00+02:00", "2026-10-25T02:00:00+01:00"},
	{"Paris, week", "rate: 2/week, timezone: Europe/Paris", "", 0, "2026-03-23T00:00:00+01:00", "2026-03-30T00:00:00+02:00"},
	{"Paris, week from Sunday", "rate: 2/week, timezone: Europe/Paris, anchor: sunday", "", 0, "2026-03-28T23:00:00+01:00", "2026-03-29T00:00:00+01:00"},
	{"Paris, month", "rate: 2/month, timezone: Europe/Paris", "", 0, "2026-03-01T00:00:00+01:00", "2026-04-01T00:00:00+02:00"},
	{"Havana, the day before one without midnight", "rate: 2/day, timezone: America/Havana", "", 0, "2026-03-07T12:00:00-05:00", "2026-03-08T01:00:00-04:00"},
	{"Havana, one without midnight", "rate: 2/day, timezone: America/Havana", "", 0, "2026-03-08T01:00:00-04:00", "2026-03-09T00:00:00-04:00"},
	{"Beirut", "rate: 2/day, timezone: Asia/Beirut", "", 0, "2026-03-28T12:00:00+02:00", "2026-03-29T01:00:00+03:00"},
	{"Cairo", "rate: 2/day, timezone: Africa/Cairo", "", 0, "2026-04-23T12:00:00+02:00", "2026-04-24T01:00:00+03:00"},
	{"Cairo, a month to a day without midnight", "rate: 2/month, timezone: Africa/Cairo, anchor: 24", "", 0, "2026-03-24T00:00:00+02:00", "2026-04-24T01:00:00+03:00"},
	{"Lord Howe, back by half an hour", "rate: 2/day, timezone: Australia/Lord_Howe", "", 0, "2026-04-05T00:00:00+11:00", "2026-04-06T00:00:00+10:30"},
	{"Lord Howe, forward", "rate: 2/day, timezone: Australia/Lord_Howe", "", 0, "2026-10-04T00:00:00+10:30", "2026-10-05T00:00:00+11:00"},
	{"Lord Howe, half an hour that comes twice", "rate: 2/hour, timezone: Australia/Lord_Howe", "", 0, "2026-04-05T01:45:00+11:00", "2026-04-05T01:30:00+10:30"},
	{"Lord Howe, its second time", "rate: 2/hour, timezone: Australia/Lord_Howe", "", 0, "2026-04-05T01:30:00+10:30", "2026-04-05T02:00:00+10:30"},
	{"St John's, at 00:01 back to 23:01", "rate: 2/day, timezone: America/St_Johns", "", 0, "2010-11-06T12:00:00-02:30", "2010-11-07T00:00:00-02:30"},
	{"St John's, the evening that came back", "rate: 2/day, timezone: America/St_Johns", "", 0, "2010-11-06T23:30:00-03:30", "2010-11-08T00:00:00-03:30"},
	{"Apia, 30 December never was", "rate: 2/day, timezone: Pacific/Apia", "", 0, "2011-12-29T12:00:00-10:00", "2011-12-31T00:00:00+14:00"},
	{"Apia, a month to a day that never was", "rate: 2/month, timezone: Pacific/Apia, anchor: 30", "", 0, "2011-11-30T00:00:00-10:00", "2011-12-31T00:00:00+14:00"},
	{"anchor 31, to February", "rate: 2/month, anchor: 31", "", 0, "2026-01-31T00:00:00Z", "2026-02-28T00:00:00Z"},
	{"anchor 31, from February", "rate: 2/month, anchor: 31", "", 0, "2026-02-28T00:00:00Z", "2026-03-31T00:00:00Z"},
	{"anchor 31, to February of a leap year", "rate: 2/month, anchor: 31", "", 0, "2028-01-31T00:00:00Z", "2028-02-29T00:00:00Z"},
	{"anchor 30, from February", "rate: 2/month, anchor: 30", "", 0, "2026-02-28T00:00:00Z", "2026-03-30T00:00:00Z"},
	{"anchor 29, to February", "rate: 2/month, anchor: 29", "", 0, "2026-01-29T00:00:00Z", "2026-02-28T00:00:00Z"},
	{"anchor 28", "rate: 2/month, anchor: 28", "", 0, "2028-01-28T00:00:00Z", "2028-02-28T00:00:00Z"},
	{"a year from 29 February", `rate: 2/year, anchor: "02-29"`, "", 0, "2027-02-28T00:00:00Z", "2028-02-29T00:00:00Z"},
	{"a year in Paris", "rate: 2/year, timezone: Europe/Paris", "", 0, "2026-07-01T00:00:00+02:00", "2027-01-01T00:00:00+01:00"},

	{"the subject's zone", "rate: 2/day", "America/Havana", 0, "2026-03-07T12:00:00-05:00", "2026-03-08T01:00:00-04:00"},
	{"the subject's zone instead of the limit's", "rate: 2/day, timezone: Europe/Paris", "Asia/Kathmandu", 0, "2026-03-29T12:00:00+05:45", "2026-03-30T00:00:00+05:45"},
	{"the subject's anchor", "rate: 2/month, timezone: Europe/Paris", "", 31, "2026-02-28T00:00:00+01:00", "2026-03-31T00:00:00+02:00"},
	{"the subject's anchor instead of the limit's", "rate: 2/month, anchor: 5", "", 30, "2026-02-10T00:00:00Z", "2026-02-28T00:00:00Z"},
	{"the subject's zone and anchor", "rate: 2/month, anchor: 5", "Asia/Kathmandu", 31, "2026-02-10T00:00:00+05:45", "2026-02-28T00:00:00+05:45"},
	{"the subject's anchor is for months", "rate: 2/week", "Asia/Kathmandu", 31, "2026-03-11T00:00:00+05:45", "2026-03-16T00:00:00+05:45"},
}

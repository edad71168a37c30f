package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestPrint(t *testing.T) {
	const limits = `"limits":[
		{"id":"plan/daily","algorithm":"quota","owner":"subject","allowed":false,"limit":1000,"used":997,"remaining":3,"reset_after_ms":41000,"resets_at":"2026-03-10T00:00:00+01:00","mode":"enforce"},
		{"id":"sendEmail/burst","algorithm":"token_bucket","allowed":true,"limit":10,"used":0,"remaining":10,"reset_after_ms":0,"resets_at":null,"mode":"enforce"},
		{"id":"app/all","algorithm":"fixed_window","allowed":false,"limit":10,"used":10,"remaining":0,"reset_after_ms":90000,"resets_at":null,"mode":"shadow"}]`
	tests := []struct{ name, in, want string }{
		{"denied", `{"allowed":false,"reason":"quota_exceeded","bound_by":"plan/daily","retryable":true,"application":"email","rule":"sendEmail","operation":"sendEmail",
			"subject":"alice","plan":"free","cost":5,"limit":1000,"remaining":3,"retry_after_ms":41000,"would_deny":"rate_limited","degraded":null,` + limits + `}`, `
denied: quota_exceeded by plan/daily, would pass in 41 s
email sendEmail · subject alice · cost 5 · plan free · rule sendEmail · shadow limits would refuse: rate_limited

LIMIT            STATE         ALGORITHM     USED         LEFT  FULL AGAIN
plan/daily       refuses       quota         997 of 1000  3     in 41 s (00:00 +0100)
sendEmail/burst  passes        token_bucket  0 of 10      10    now
app/all          would refuse  fixed_window  10 of 10     0     in 1 min 30 s
`},
		{"never", `{"allowed":false,"reason":"cost_exceeds_limit","bound_by":"a/b","retryable":false,"application":"a","operation":"o","subject":"s","cost":500,"limit":100,
			"remaining":3,"retry_after_ms":null,"limits":[]}`, `
denied: cost_exceeds_limit by a/b: cost 500 can never pass a limit of 100
a o · subject s · cost 500 · no rule
`},
		{"no rule", `{"allowed":false,"reason":"no_rule","bound_by":null,"retryable":false,"application":"a","operation":"o","subject":"s","cost":1,"limit":null,"limits":[]}`, `
denied: no_rule, it cannot pass as it stands
a o · subject s · cost 1 · no rule
`},
		{"no limit", `{"allowed":true,"reason":"ok","bound_by":null,"retryable":true,"application":"a","operation":"o","subject":"s","rule":"r","cost":1,"degraded":"local","limits":[]}`, `
allowed: no limit applies
a o · subject s · cost 1 · rule r · decided without the store: local
`},
		{"skipped", `{"allowed":true,"reason":"skipped","bound_by":null,"application":"a","operation":"o","subject":"s","rule":"r","cost":1,"limits":[]}`, `
allowed: skipped
a o · subject s · cost 1 · rule r
`},
		{"delayed", `{"allowed":true,"reason":"ok","bound_by":"r/b","limit":3,"remaining":1,"application":"a","operation":"o","subject":"s","rule":"r","cost":1,"delay_ms":1500,"limits":[]}`, `
allowed: start in 1.5 s
a o · subject s · cost 1 · rule r
`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var a answer
			if err := json.Unmarshal([]byte(tt.in), &a); err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			b.WriteByte('\n')
			a.print(&b, outcome{allowed: "allowed", denied: "denied"}, time.Date(2026, 3, 9, 22, 59, 19, 0, time.UTC))
			if b.String() != tt.want {
				t.Errorf("got%s\nwant%s", b.String(), tt.want)
			}
		})
	}
}

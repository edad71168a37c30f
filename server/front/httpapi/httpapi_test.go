package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/gate"
)

func TestTake(t *testing.T) {
	var doors []string
	s, _ := serve(t, Config{Decided: func(d *gate.Decision, took time.Duration) {
		doors = append(doors, d.Application)
	}})
	body := ` { "application" : "email","operation":"sendEmail","subject":"al\"ice\u00e9","cost":5,"costs":{"tokens":3},"plan":"p","attributes":{"org":"acme"},
	 "request":{"method":"POST","path":"/api/x","headers":{"x-a":"b"},"ip":"203.0.113.9"},"idempotency_key":"","max_wait_ms":0} `
	const want = `{"decision_id":"0123456789abcdef000000000000000f","allowed":true,"reason":"ok","bound_by":null,"retryable":true,` +
		`"application":"email","rule":"","operation":"sendEmail","subject":"al\"iceé","plan":"p","cost":5,"costs":{},` +
		`"limit":null,"remaining":null,"retry_after_ms":null,"reset_after_ms":null,"limits":[],` +
		`"mode":"enforce","would_deny":null,"candidate":null,"degraded":null,"replayed":false,"waited_ms":0,"ticket":null,"policy_revision":7}` + "\n"
	for _, path := range []string{"/v1/take", "/v1/peek"} {
		resp, got := send(t, post1(t, s.URL+path, body))
		if resp.StatusCode != 200 || got != want {
			t.Errorf("%s: %d\n%s\nwant\n%s", path, resp.StatusCode, got, want)
		}
	}
	if len(doors) != 1 {
		t.Errorf("%d decisions were reported, want that of take only", len(doors))
	}
}

// TestAsked: everything that a body says reaches the gate.
func TestAsked(t *testing.T) {
	s, f := serve(t, Config{})
	const take = `"application":"a","operation":"o","subject":"s","cost":5,"costs":{"tokens":3,"bytes":0},"plan":"p","idempotency_key":"k","max_wait_ms":250`
	want := gate.Request{
		Application: "a", Operation: "o", Subject: "s", Cost: 5, CostSaid: true, Costs: map[string]int64{"tokens": 3, "bytes": 0}, Plan: "p",
		IdempotencyKey: "k", MaxWait: 250 * time.Millisecond, MaxWaitSaid: true, Releases: true,
	}
	for _, tt := range []struct {
		path, body string
		ttl        time.Duration
	}{
		{"take", "{" + take + "}", 0},
		{"peek", "{" + take + "}", 0},
		{"explain", "{" + take + "}", 0},
		{"reserve", "{" + take + "}", 0},
		{"reserve", "{" + take + `,"ttl_ms":86400000}`, 24 * time.Hour},
	} {
		f.ttl = 0
		resp, body := send(t, post1(t, s.URL+"/v1/"+tt.path, tt.body))
		// The maps are used again for the next request; they are full at the call.
		if f.request.Costs = map[string]int64{"tokens": 3, "bytes": 0}; resp.StatusCode != 200 || !reflect.DeepEqual(f.request, want) || f.ttl != tt.ttl {
			t.Errorf("%s: %d %s: asked %+v for %v\nwant %+v for %v", tt.path, resp.StatusCode, body, f.request, f.ttl, want, tt.ttl)
		}
	}
	for atomic, releases := range map[string]bool{"true": false, "false": true} {
		send(t, post1(t, s.URL+"/v1/take/batch", `{"items":[{"subject":"s"}],"atomic":`+atomic+`}`))
		if want := (gate.Request{Subject: "s", NoWait: true, Releases: releases}); !reflect.DeepEqual(f.request, want) {
			t.Errorf("atomic: %s: asked %+v, want %+v", atomic, f.request, want)
		}
	}
	for _, tt := range []struct {
		path, body string
		want       gate.Claim
		held       string
	}{
		{"settle", `{"ticket":"open","cost":0,"costs":{"tokens":9},"application":"a"}`, gate.Claim{Application: "a", Ticket: "open", CostSaid: true, Costs: map[string]int64{"tokens": 9}}, `"held":true}`},
		{"settle", `{"ticket":"over"}`, gate.Claim{Ticket: "over"}, `"held":false}`},
		{"renew", `{"ticket":"open","ttl_ms":1}`, gate.Claim{Ticket: "open", TTL: time.Millisecond}, `"held":true}`},
		{"release", `{"ticket":"open"}`, gate.Claim{Ticket: "open"}, `"held":true}`},
	} {
		resp, body := send(t, post1(t, s.URL+"/v1/"+tt.path, tt.body))
		if resp.StatusCode != 200 || !reflect.DeepEqual(f.claim, tt.want) || !strings.HasSuffix(body, tt.held+"\n") {
			t.Errorf("%s %s: %d %s: asked %+v", tt.path, tt.body, resp.StatusCode, body, f.claim)
		}
	}
}

func TestExplain(t *testing.T) {
	var decided int
	s, _ := serve(t, Config{Decided: func(*gate.Decision, time.Duration) { decided++ }})
	resp, body := send(t, post1(t, s.URL+"/v1/explain", `{"application":"a"}`))
	var got struct {
		Decision    answer `json:"decision"`
		Explanation struct {
			Verdict string                         `json:"verdict"`
			Steps   []struct{ About, Text string } `json:"steps"`
		} `json:"explanation"`
	}
	dec := json.NewDecoder(strings.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&got); err != nil || resp.StatusCode != 200 {
		t.Fatalf("%d %s: %v", resp.StatusCode, body, err)
	}
	if e := got.Explanation; got.Decision.Application != "a" || e.Verdict != "Allowed." || len(e.Steps) != 1 || e.Steps[0].Text != `No rule "o".` || decided != 0 {
		t.Errorf("%s, %d decisions reported", body, decided)
	}
}

func TestIdempotencyKeyOfHeader(t *testing.T) {
	s, f := serve(t, Config{})
	for _, tt := range []struct{ header, body, want, detail string }{
		{"k", `{}`, "k", ""},
		{`"k"`, `{}`, `"k"`, ""},
		{"k", `{"idempotency_key":"k"}`, "k", ""},
		{"k", `{"idempotency_key":""}`, "k", ""},
		{"", `{"idempotency_key":"k"}`, "k", ""},
		{"K", `{"idempotency_key":"k"}`, "", "idempotency_key: differs from the header Idempotency-Key"},
	} {
		r := post1(t, s.URL+"/v1/take", tt.body)
		r.Header.Set("Idempotency-Key", tt.header)
		before := f.asked.Load()
		resp, body := send(t, r)
		switch {
		case tt.detail != "":
			wantProblem(t, resp, body, 400, "idempotency_key", tt.detail)
			if f.asked.Load() != before {
				t.Error("the gate was asked")
			}
		case resp.StatusCode != 200 || f.request.IdempotencyKey != tt.want:
			t.Errorf("header %s, body %s: %d, key %s, want %s", tt.header, tt.body, resp.StatusCode, f.request.IdempotencyKey, tt.want)
		}
	}
}

// TestRoutes: the table says what the door does.
func TestRoutes(t *testing.T) {
	s, _ := serve(t, Config{})
	all := map[string]bool{}
	for _, r := range Routes() {
		if all[r.Path] || (r.Body == "") != (r.Method == "GET") || (r.Body == "") != (len(r.Fields) == 0) {
			t.Errorf("%+v", r)
		}
		all[r.Path] = true
		for _, method := range []string{"GET", "POST"} {
			req := post1(t, s.URL+r.Path, "{}")
			req.Method = method
			resp, body := send(t, req)
			if allowed := resp.StatusCode != 405; allowed != (method == r.Method) || resp.StatusCode == 404 {
				t.Errorf("%s %s: %d %s", method, r.Path, resp.StatusCode, body)
			}
		}
		for _, field := range r.Fields {
			if _, body := send(t, post1(t, s.URL+r.Path, `{"`+field+`":[{}],"x":1}`)); strings.Contains(body, "unknown field") != (field == "items") {
				t.Errorf("%s: %s: %s", r.Path, field, body)
			}
		}
	}
	if len(all) != 11 {
		t.Errorf("%d routes", len(all))
	}
}

func TestThrottle(t *testing.T) {
	s, f := serve(t, Config{})
	resp, body := send(t, post1(t, s.URL+"/v1/throttle", `{"key":"k","rate":"5/1500ms","burst":9}`))
	want := gate.Throttle{Key: "k", Count: 5, Period: 1500 * time.Millisecond, Burst: 9, Cost: 1}
	if f.throttle != want {
		t.Errorf("asked for %+v, want %+v", f.throttle, want)
	}
	if resp.StatusCode != 200 || !strings.Contains(body, `"allowed":false,"reason":"rate_limited"`) || !strings.Contains(body, `"retry_after_ms":2,`) {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

func TestHealth(t *testing.T) {
	s, f := serve(t, Config{})
	for _, path := range []string{"/healthz", "/readyz"} {
		resp, err := http.Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
	f.ready = errors.New("store away")
	r, _ := http.NewRequest("GET", s.URL+"/readyz", nil)
	resp, body := send(t, r)
	wantProblem(t, resp, body, 503, "", "the server cannot decide at the moment")
}

func TestShortBody(t *testing.T) {
	s, f := serve(t, Config{})
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /v1/take HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 90\r\n\r\n{}")
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil || !bytes.Contains(answer, []byte("the body ended before it was complete")) {
		t.Errorf("%s %v", answer, err)
	}
	if n := f.asked.Load(); n != 0 {
		t.Errorf("the gate was asked %d times", n)
	}
}

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// application is one instance of the shop. It asks the Headgate beside it about
// every request; it knows neither Redis nor the other instances.
type application struct {
	name     string
	headgate string // base URL
	client   *http.Client
}

func newApplication(name, headgate string) *application {
	return &application{name, headgate, &http.Client{Timeout: time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
}

// decision is what the shop reads of Headgate's answer.
type decision struct {
	Allowed      bool   `json:"allowed"`
	Reason       string `json:"reason"`
	BoundBy      string `json:"bound_by"`
	RetryAfterMS *int64 `json:"retry_after_ms"`
	Degraded     string `json:"degraded"`
}

// ServeHTTP answers a request that may pass, and says why another may not.
func (a *application) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Instance", a.name)
	d, err := a.decide(r)
	if err != nil {
		// No Headgate: this shop would rather be up than limited. That is its
		// own choice, not Headgate's.
		w.Header().Set("X-Unlimited", "1")
	} else {
		w.Header().Set("Headgate-Reason", d.Reason)
		if d.Degraded != "" {
			w.Header().Set("Headgate-Degraded", d.Degraded)
		}
		if !d.Allowed {
			refuse(w, d)
			return
		}
	}
	fmt.Fprintf(w, "%s from %s\n", r.URL.Path, a.name)
}

func refuse(w http.ResponseWriter, d *decision) {
	if d.RetryAfterMS != nil {
		w.Header().Set("Retry-After", strconv.FormatInt((*d.RetryAfterMS+999)/1000, 10))
	}
	status := http.StatusTooManyRequests
	if d.Reason == "store_unavailable" {
		status = http.StatusServiceUnavailable
	}
	http.Error(w, d.Reason, status)
}

func (a *application) decide(r *http.Request) (*decision, error) {
	var ask struct {
		Application string `json:"application"`
		Subject     string `json:"subject,omitempty"`
		Request     struct {
			Method string `json:"method"`
			Path   string `json:"path"`
		} `json:"request"`
	}
	ask.Application = "shop"
	ask.Subject = r.Header.Get("X-Api-Key")
	if ask.Subject == "" {
		ask.Subject = r.Header.Get("X-Real-IP")
	}
	ask.Request.Method, ask.Request.Path = r.Method, r.URL.Path
	body, err := json.Marshal(ask)
	if err != nil {
		return nil, err
	}
	q, err := http.NewRequestWithContext(r.Context(), http.MethodPost, a.headgate+"/v1/take", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	q.Header.Set("Content-Type", "application/json")
	res, err := a.client.Do(q)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("headgate: %s", res.Status)
	}
	d := new(decision)
	return d, json.NewDecoder(res.Body).Decode(d)
}

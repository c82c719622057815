package rules

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
)

// Canonical returns the rules as JSON with every default resolved: what a
// bucket holds. Equal rules have equal bytes, whatever the mode and the layout
// of the file they came from, and Parse makes an equal set of them. Tests are
// not part of it. The bytes must not be changed.
func (s *Set) Canonical() []byte { return s.canonical }

// Digest returns the SHA-256 of Canonical in hex. Sets with equal digests
// decide equally.
func (s *Set) Digest() string { return s.digest }

// The shapes of the canonical form. Its keys are those of the file.
type (
	fileJSON struct {
		Applied   *Applied             `json:"applied,omitempty"`
		Topics    []topicJSON          `json:"topics"`
		Limits    map[string]limitJSON `json:"limits"`
		Admission admissionJSON        `json:"admission"`
		Bridges   []bridgeJSON         `json:"bridges"`
		Calls     []callJSON           `json:"calls"`
		Groups    []groupJSON          `json:"groups"`
	}
	topicJSON struct {
		Name      string        `json:"name"`
		Match     string        `json:"match"`
		Subscribe string        `json:"subscribe"`
		Publish   string        `json:"publish"`
		History   string        `json:"history"`
		Wildcards bool          `json:"wildcards"`
		From      bool          `json:"from"`
		Replay    *replayJSON   `json:"replay,omitempty"`
		Presence  *presenceJSON `json:"presence,omitempty"`
		Cursors   *cursorsJSON  `json:"cursors,omitempty"`
		Rate      *rateJSON     `json:"rate,omitempty"`
		Class     string        `json:"class"`
		Slow      string        `json:"slow"`
	}
	replayJSON struct {
		Size            int    `json:"size"`
		TTL             string `json:"ttl"`
		Dedupe          string `json:"dedupe"`
		DedupeKeys      int    `json:"dedupeKeys"`
		MaxMessageBytes int64  `json:"maxMessageBytes"`
		MaxBytes        int64  `json:"maxBytes"`
		Replicas        int    `json:"replicas,omitempty"`
		Archive         bool   `json:"archive"`
	}
	presenceJSON struct {
		Enabled        bool   `json:"enabled"`
		Watch          string `json:"watch"`
		Join           string `json:"join"`
		LeaveDelay     string `json:"leaveDelay"`
		MaxMembers     int    `json:"maxMembers"`
		MaxDiffMembers int    `json:"maxDiffMembers"`
	}
	cursorsJSON struct {
		Enabled  bool   `json:"enabled"`
		Throttle string `json:"throttle"`
		TTL      string `json:"ttl"`
	}
	rateJSON struct {
		Publish takeJSON `json:"publish"`
	}
	takeJSON struct {
		Limit string `json:"limit"`
		Cost  int    `json:"cost"`
	}
	limitJSON struct {
		Capacity int    `json:"capacity"`
		Refill   int    `json:"refill"`
		Per      string `json:"per"`
		Block    string `json:"block"`
		Key      string `json:"key"`
		FailMode string `json:"failMode"`
		Shadow   bool   `json:"shadow"`
	}
	admissionJSON struct {
		Connect *takeJSON      `json:"connect,omitempty"`
		Classes map[string]any `json:"classes"`
	}
	bridgeJSON struct {
		Channel string   `json:"channel"`
		Topics  []string `json:"topics"`
	}
	callJSON struct {
		Match   string    `json:"match"`
		Allow   string    `json:"allow"`
		Timeout string    `json:"timeout"`
		Rate    *takeJSON `json:"rate,omitempty"`
	}
	groupJSON struct {
		Match      string   `json:"match"`
		Join       string   `json:"join"`
		MaxMembers int      `json:"maxMembers"`
		Roles      []string `json:"roles"`
		Meta       []string `json:"meta"`
	}
)

// Applied says who put rules into the bucket. It is for people: readers of the
// rules ignore it, and it is no part of the digest.
type Applied struct {
	By     string `json:"by"`   // the program and host
	AtMs   int64  `json:"atMs"` // ms since 1970
	Digest string `json:"digest"`
}

// Stored returns what a bucket holds for s: Canonical and who applied it when.
func (s *Set) Stored(by string, at time.Time) []byte {
	f := s.json()
	f.Applied = &Applied{By: by, AtMs: at.UnixMilli(), Digest: s.digest}
	return encode(f)
}

// seal makes what depends on the whole set.
func (s *Set) seal() {
	globs := make([]string, len(s.Topics))
	for i, t := range s.Topics {
		globs[i] = t.pattern.glob
	}
	s.topics = newLookup(globs)
	globs = make([]string, len(s.Calls))
	for i, c := range s.Calls {
		globs[i] = c.pattern.glob
	}
	s.calls = newLookup(globs)
	s.classes = make(map[string]*Class, len(s.Classes))
	for i := range s.Classes {
		s.classes[s.Classes[i].Name] = &s.Classes[i]
	}
	s.canonical = encode(s.json())
	sum := sha256.Sum256(s.canonical)
	s.digest = hex.EncodeToString(sum[:])
}

func encode(f fileJSON) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(f); err != nil {
		panic(fmt.Sprintf("encode rules: %v", err)) // plain structs
	}
	return b.Bytes()
}

func (s *Set) json() fileJSON {
	f := fileJSON{
		Topics:    []topicJSON{},
		Limits:    make(map[string]limitJSON),
		Admission: admissionJSON{Connect: s.Connect.json(), Classes: make(map[string]any)},
		Bridges:   []bridgeJSON{},
		Calls:     []callJSON{},
		Groups:    []groupJSON{},
	}
	for _, t := range s.Topics {
		f.Topics = append(f.Topics, t.json())
	}
	for _, l := range s.Limits {
		f.Limits[l.Name] = limitJSON{l.Capacity, l.Refill, formatDuration(l.Per), formatDuration(l.Block), l.Key.String(), l.FailMode.String(), l.Shadow}
	}
	for i := range s.Classes {
		f.Admission.Classes[s.Classes[i].Name] = s.Classes[i].json()
	}
	for _, b := range s.Bridges {
		f.Bridges = append(f.Bridges, bridgeJSON(b))
	}
	for _, c := range s.Calls {
		f.Calls = append(f.Calls, callJSON{c.Match, c.Allow.String(), formatDuration(c.Timeout), c.Rate.json()})
	}
	for _, g := range s.Groups {
		f.Groups = append(f.Groups, groupJSON{g.Match, g.Join.String(), g.MaxMembers, g.Roles, append([]string{}, g.Meta...)})
	}
	return f
}

func (t *Topic) json() topicJSON {
	j := topicJSON{
		Name: t.Name, Match: t.Match,
		Subscribe: t.Subscribe.String(), Publish: t.Publish.String(), History: t.History.String(),
		Wildcards: t.Wildcards, From: t.From,
		Class: t.Class, Slow: t.Slow.String(),
	}
	if r := t.Replay; r != nil {
		j.Replay = &replayJSON{r.Size, formatDuration(r.TTL), formatDuration(r.Dedupe), r.DedupeKeys, r.MaxMessageBytes, r.MaxBytes, r.Replicas, r.Archive}
	}
	if p := t.Presence; p != nil {
		j.Presence = &presenceJSON{true, p.Watch.String(), p.Join.String(), formatDuration(p.LeaveDelay), p.MaxMembers, p.MaxDiffMembers}
	}
	if c := t.Cursors; c != nil {
		j.Cursors = &cursorsJSON{true, formatDuration(c.Throttle), formatDuration(c.TTL)}
	}
	if take := t.PublishRate.json(); take != nil {
		j.Rate = &rateJSON{*take}
	}
	return j
}

func (t Take) json() *takeJSON {
	if t.Limit == "" {
		return nil
	}
	return &takeJSON{t.Limit, t.Cost}
}

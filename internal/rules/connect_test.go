package rules

import (
	"bytes"
	"strings"
	"testing"
)

const arrivals = `
limits:
  arrivals: {capacity: 5, refill: 1, key: address}
  users: {capacity: 5, refill: 1}
  topics: {capacity: 5, refill: 1, key: topic}
  connections: {capacity: 5, refill: 1, key: connection}
topics: [{match: ">"}]
`

func TestWhatANewConnectionTakes(t *testing.T) {
	for written, want := range map[string]Take{
		"":                               {},
		"admission: {}":                  {},
		"admission: {connect: arrivals}": {"arrivals", 1},
		"admission: {connect: users}":    {"users", 1},
		"admission: {connect: {limit: arrivals, cost: 3}}": {"arrivals", 3},
	} {
		s := mustParse(t, arrivals+written)
		if s.Connect != want {
			t.Errorf("%q: got %+v, want %+v", written, s.Connect, want)
		}
		again := mustParse(t, string(s.Canonical()))
		if again.Connect != want || !bytes.Equal(again.Canonical(), s.Canonical()) {
			t.Errorf("%q: read again from the bucket it is %+v", written, again.Connect)
		}
	}
}

// A limit that everybody finds full, a cost that no bucket holds or that is no
// whole number of tokens: none of them is meant.
func TestTakesThatCannotBeMeant(t *testing.T) {
	for written, want := range map[string]string{
		"admission: {connect: topics}":                              "a limit whose key is user, address or given",
		"admission: {connect: connections}":                         "a limit whose key is user, address or given",
		"admission: {connect: none}":                                "a name under limits",
		"admission: {connect: {limit: arrivals, cost: 6}}":          "a cost of at most 5",
		"admission: {connect: {limit: arrivals, cost: 0}}":          "a whole number from 1",
		"calls: [{match: a, rate: {limit: arrivals, cost: 1.5}}]":   "a whole number from 1",
		"calls: [{match: a, rate: {limit: arrivals, cost: -1}}]":    "a whole number from 1",
		"calls: [{match: a, rate: {limit: arrivals, cost: \"1\"}}]": "a whole number from 1",
	} {
		if _, err := Parse([]byte(arrivals+written), Dev); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", written, err, want)
		}
	}
}

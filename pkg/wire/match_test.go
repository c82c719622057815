package wire

import (
	"encoding/json"
	"maps"
	"strconv"
	"strings"
	"testing"
)

func TestParseMatch(t *testing.T) {
	for criteria, want := range map[string]map[string]string{
		`{"role":"admin"}`:                        {"role": "admin"},
		`{"role":"admin","region":"eu"}`:          {"role": "admin", "region": "eu"},
		` { "a" : 1 , "b" : true , "c" : false }`: {"a": "1", "b": "true", "c": "false"},
		`{"a":1.0,"b":-2e3,"c":""}`:               {"a": "1.0", "b": "-2e3", "c": ""},
		`{"näme":"\u00fc\"{}"}`:                   {"näme": `ü"{}`},
		`{"a":12345678901234567890}`:              {"a": "12345678901234567890"},
	} {
		if got, err := ParseMatch(criteria); err != nil || !maps.Equal(got, want) {
			t.Errorf("%s: got %v, %v; want %v", criteria, got, err, want)
		}
	}
}

func TestParseMatchRefuses(t *testing.T) {
	for _, criteria := range []string{
		``, ` `, `{}`, `null`, `[]`, `"role"`, `1`, `true`, `{`, `{"role"}`, `{"role":}`, `{"role":"admin"`, `{"role":"admin",}`,
		`{"role":null}`, `{"role":{"a":1}}`, `{"role":[]}`, `{"role":["admin"]}`, `{"a":1,"b":{}}`, `{"a":1}{}`, `{"a":1} x`,
		`{"a":1,"a":2}`, `{"a":1,"\u0061":1}`, `{"":1}`, `{"a\n":1}`, "{\"a\":\"\xff\"}", `{"` + strings.Repeat("n", 129) + `":1}`,
		`{"a":"` + strings.Repeat("v", MaxMatch) + `"}`, `role=admin`,
	} {
		got, err := ParseMatch(criteria)
		if err == nil || err.Code != InvalidArgument || err.Details["field"] != HeaderMatch || got != nil {
			t.Errorf("%.60s: got %v, %v; want INVALID_ARGUMENT of %s", criteria, got, err, HeaderMatch)
		}
	}
}

// Whatever is read is what the JSON says, and never nothing.
func FuzzParseMatch(f *testing.F) {
	for _, seed := range []string{`{"role":"admin","n":1,"b":true}`, `{}`, `{"a":null}`, `{"a":{"b":1}}`, `{"a":1,"a":2}`, `[1]`, "{\"\xff\":1}"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, criteria string) {
		got, bad := ParseMatch(criteria)
		if bad != nil {
			if got != nil {
				t.Fatalf("%q: refused, with %v", criteria, got)
			}
			return
		}
		var plain map[string]json.RawMessage
		if err := json.Unmarshal([]byte(criteria), &plain); err != nil || len(plain) == 0 || len(plain) != len(got) {
			t.Fatalf("%q: got %v; encoding/json says %v, %v", criteria, got, plain, err)
		}
		for name, value := range got {
			raw, there := plain[name]
			var s string
			if json.Unmarshal(raw, &s) != nil {
				if _, err := strconv.ParseFloat(string(raw), 64); err != nil && !strings.Contains(err.Error(), "range") && string(raw) != "true" && string(raw) != "false" {
					t.Fatalf("%q: %s is %s: neither string, number nor boolean", criteria, name, raw)
				}
				s = string(raw)
			}
			if !there || s != value {
				t.Fatalf("%q: %s: got %q, want %q", criteria, name, value, s)
			}
		}
	})
}

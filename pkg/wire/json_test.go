package wire

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// depthOf returns how deep arrays and objects nest in valid JSON.
func depthOf(b []byte) int {
	depth, deepest, inString := 0, 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			depth++
			deepest = max(deepest, depth)
		case c == '}' || c == ']':
			depth--
		}
	}
	return deepest
}

func checkValidJSON(t *testing.T, b []byte) {
	t.Helper()
	want := json.Valid(b) && utf8.Valid(b)
	if want && depthOf(b) > maxDepth {
		want = false
	}
	if got := ValidJSON(b); got != want {
		t.Errorf("ValidJSON(%.200q) = %v, want %v", b, got, want)
	}
}

var jsonSamples = []string{
	"", " ", "null", "true", "false", "nul", "nulll", "True", "0", "-0", "00", "01", "-", "+1", "1.", ".5", "1.5", "1e5", "1E+5", "1e", "1e-",
	"-1.25e-10", "1 2", `""`, `"`, `"a`, `"\`, `"\"`, `"\\"`, `"\x"`, `"\u12"`, `"\u12G4"`, `"\uD800"`, `"\ud83d\ude00"`, "\"\t\"", "\"\x7f\"",
	"\"\u2028\"", "\"\xff\"", "\xff", "[]", "[", "]", "[1,]", "[,1]", "[1 2]", "[1,2]", " [ 1 , [ ] , {} ] ", "{}", "{", "}", `{"a"}`, `{"a":}`,
	`{"a":1,}`, `{,}`, `{a:1}`, `{"a":1 "b":2}`, `{"a":1,"b":[{"c":null}]}`, `{"a":1}}`, `{"a":1}x`, "\ufeff1", "\v1", "\f1", "\u00a01", "[\"a\\\"]\"]",
}

func TestValidJSON(t *testing.T) {
	for _, s := range jsonSamples {
		checkValidJSON(t, []byte(s))
	}
}

func TestValidJSONDepth(t *testing.T) {
	nest := func(open, inner, shut string, n int) []byte {
		return []byte(strings.Repeat(open, n) + inner + strings.Repeat(shut, n))
	}
	for _, test := range []struct {
		name string
		at   func(n int) []byte
	}{
		{"arrays", func(n int) []byte { return nest("[", "", "]", n) }},
		{"arrays around a value", func(n int) []byte { return nest("[", "1", "]", n) }},
		{"objects", func(n int) []byte { return nest(`{"a":`, "1", "}", n) }},
		{"objects around an empty one", func(n int) []byte { return nest(`{"a":`, "{}", "}", n-1) }},
		{"brackets in strings count nothing", func(n int) []byte { return nest("[", `"[[[{{{"`, "]", n) }},
	} {
		if !ValidJSON(test.at(512)) {
			t.Errorf("%s: 512 levels are refused", test.name)
		}
		if ValidJSON(test.at(513)) {
			t.Errorf("%s: 513 levels are accepted", test.name)
		}
	}
}

func FuzzValidJSON(f *testing.F) {
	for _, s := range jsonSamples {
		f.Add([]byte(s))
	}
	f.Fuzz(checkValidJSON)
}

func checkAppendString(t *testing.T, s string) {
	t.Helper()
	b := AppendString([]byte("x"), s)[1:]
	if !ValidJSON(b) {
		t.Fatalf("AppendString(%q) = %q, no JSON", s, b)
	}
	var got string
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	want := strings.ToValidUTF8(s, "\ufffd")
	if utf8.ValidString(s) && got != want {
		t.Errorf("AppendString(%q) = %s, read as %q", s, b, got)
	}
	if own, ok := unquote(b); !ok || own != got {
		t.Errorf("unquote(%s) = %q, %v, want %q", b, own, ok, got)
	}
}

func TestAppendString(t *testing.T) {
	for _, test := range []struct{ s, want string }{
		{"", `""`}, {"abc", `"abc"`}, {`a"b\c`, `"a\"b\\c"`}, {"\n\r\t", `"\n\r\t"`}, {"\x00\x1f\x7f", "\"\\u0000\\u001F\x7f\""},
		{"äöü😀", `"äöü😀"`}, {"a\xffb", "\"a\ufffdb\""}, {"\xff\xfe", "\"\ufffd\ufffd\""}, {"\ufffd", "\"\ufffd\""}, {"<&>", `"<&>"`}, {"\xed\xa0\x80", "\"\ufffd\ufffd\ufffd\""},
	} {
		if got := string(AppendString(nil, test.s)); got != test.want {
			t.Errorf("AppendString(%q) = %s, want %s", test.s, got, test.want)
		}
		checkAppendString(t, test.s)
	}
}

func TestUnquote(t *testing.T) {
	for _, test := range []struct {
		raw, want string
		ok        bool
	}{
		{`""`, "", true}, {`"a"`, "a", true}, {`"\"\\\/\b\f\n\r\t"`, "\"\\/\b\f\n\r\t", true}, {`"x\u00E9y"`, "xéy", true},
		{`"\ud83d\ude00"`, "😀", true}, {`"\uD83D\uDE00z"`, "😀z", true}, {`"\ufffd"`, "\ufffd", true}, {`"\u0000"`, "\x00", true},
		{`"\ud800"`, "", false}, {`"\udc00"`, "", false}, {`"\ud800x"`, "", false}, {`"\ud800\n23456"`, "", false},
		{`"\ud800\ud800"`, "", false}, {`"\udc00\ud800"`, "", false}, {`"a\ud800\u0061"`, "", false},
	} {
		if got, ok := unquote([]byte(test.raw)); got != test.want || ok != test.ok {
			t.Errorf("unquote(%s) = %q, %v, want %q, %v", test.raw, got, ok, test.want, test.ok)
		}
	}
}

func FuzzAppendString(f *testing.F) {
	for _, s := range append(jsonSamples, "\xff", "äöü", "\u2028") {
		f.Add(s)
	}
	f.Fuzz(checkAppendString)
}

// FuzzUnquote compares unquote with encoding/json, which replaces halves of
// surrogate pairs where unquote refuses them.
func FuzzUnquote(f *testing.F) {
	for _, s := range []string{`""`, `"\ud83d\ude00"`, `"\ud800"`, `"\ufffd"`, `"a\n\/"`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) == 0 || raw[0] != '"' || raw[len(raw)-1] != '"' || !ValidJSON(raw) {
			return
		}
		var want string
		if err := json.Unmarshal(raw, &want); err != nil {
			t.Fatal(err)
		}
		got, ok := unquote(raw)
		if ok && got != want || !ok && !strings.Contains(want, "\ufffd") {
			t.Errorf("unquote(%q) = %q, %v, want %q", raw, got, ok, want)
		}
	})
}

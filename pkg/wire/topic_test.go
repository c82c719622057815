package wire

import (
	"errors"
	"strings"
	"testing"
)

var badTopics = []struct{ name, topic string }{
	{"empty", ""},
	{"256 bytes", strings.Repeat("a", 256)},
	{"256 bytes of two-byte letters", strings.Repeat("é", 128)},
	{"empty first token", ".a"},
	{"empty last token", "a."},
	{"empty token", "a..b"},
	{"a dot", "."},
	{"space", "a b"},
	{"leading space", " a"},
	{"trailing space", "a "},
	{"tab", "a\tb"},
	{"line feed", "a\nb"},
	{"carriage return", "a\rb"},
	{"NUL", "a\x00b"},
	{"DEL", "a\x7f"},
	{"next line", "a\u0085b"},
	{"no-break space", "a\u00a0b"},
	{"ideographic space", "a\u3000b"},
	{"zero-width joiner", "a\u200db"},
	{"zero-width space", "a\u200bb"},
	{"right-to-left override", "a\u202eb"},
	{"soft hyphen", "a\u00adb"},
	{"byte order mark", "\ufeffa"},
	{"line separator", "a\u2028b"},
	{"paragraph separator", "a\u2029b"},
	{"family emoji, which is joined", "👨\u200d👩"},
	{"tag character", "a\U000e0041"},
	{"decomposed", "cafe\u0301"},
	{"angstrom sign", "\u212b"},
	{"Hangul in parts", "\u1112\u1161"},
	{"invalid UTF-8", "a\xffb"},
	{"cut-off UTF-8", "a\xc3"},
	{"surrogate in UTF-8", "\xed\xa0\x80"},
	{"overlong slash", "\xc0\xaf"},
	{"dollar first", "$SYS"},
	{"dollar first of many", "$JS.API"},
	{"underscore first", "_INBOX.x"},
}

// Pieces of a topic that are allowed only as whole tokens of a pattern.
var badWildcards = []string{"a*", "*a", "a.b*", "a.*b.c", "**", "a.**", ">.a", "a.>.b", "a>", ">a", "a.b>", ">>", "*>", "a.*>", "*.", ".*", "a..*", "a. .>", "é*", "*é"}

var goodTopics = []string{
	"a", "chat.lobby", "chat.room-7", "org:42:items", "a.b.c.d.e", "a.$b", "a._b", "a$", "a_", "-", "!", "~", "#", "0", "A.B",
	"café", "δωμάτιο.επτά", "部屋", "😀", "a.😀.b", "한국", "\u0301", "q\u0323", "a/b", "a\\b", `"a"`, "<b", "a=b", "a,b;c", "%20",
	strings.Repeat("a", 255), strings.Repeat("é", 127) + "a", strings.Repeat("a.", 127) + "a", "\ufe0f", "\ue000",
}

func TestCheckTopic(t *testing.T) {
	for _, topic := range goodTopics {
		for name, check := range map[string]func(string) error{"topic": CheckTopic, "pattern": CheckPattern, "method": CheckMethod} {
			if err := check(topic); err != nil {
				t.Errorf("%s %q: %v", name, topic, err)
			}
		}
	}
	for _, test := range badTopics {
		t.Run(test.name, func(t *testing.T) {
			checkRefused(t, CheckTopic, "topic", test.topic)
			checkRefused(t, CheckPattern, "topic", test.topic)
			checkRefused(t, CheckMethod, "method", test.topic)
		})
	}
	for _, topic := range append(append([]string{"*", ">", "a.*", "a.>", "*.b", "a.*.c"}, badWildcards...), "a.*.>") {
		checkRefused(t, CheckTopic, "topic", topic)
		checkRefused(t, CheckMethod, "method", topic)
	}
}

func TestCheckPattern(t *testing.T) {
	for _, pattern := range []string{"*", ">", "*.*", "*.>", "a.*", "a.>", "*.b", "a.*.c", "a.*.*.>", "café.*", "*.$b", "*._b", strings.Repeat("*.", 127) + ">"} {
		if err := CheckPattern(pattern); err != nil {
			t.Errorf("%q: %v", pattern, err)
		}
		if !IsPattern(pattern) {
			t.Errorf("IsPattern(%q) = false", pattern)
		}
	}
	for _, pattern := range append(badWildcards, "$a.*", "_a.>", "*.cafe\u0301", ">\u200d", strings.Repeat("*.", 127)+">.") {
		checkRefused(t, CheckPattern, "topic", pattern)
	}
	for _, topic := range goodTopics {
		if IsPattern(topic) {
			t.Errorf("IsPattern(%q) = true", topic)
		}
	}
}

func checkRefused(t *testing.T, check func(string) error, field, s string) {
	t.Helper()
	err := check(s)
	var e *Error
	if !errors.As(err, &e) || e.Code != InvalidArgument || e.Details["field"] != field || !strings.HasPrefix(e.Message, field+": ") {
		t.Errorf("%q: got %v, want %s that names %s", s, err, InvalidArgument, field)
		return
	}
	if !ValidJSON(AppendErrorReply(nil, 0, e)) || len(e.Message) > 600 {
		t.Errorf("%q: message %q", s, e.Message)
	}
}

func TestCheckLabels(t *testing.T) {
	for name, check := range map[string]func(string) error{"event": CheckEvent, "role": CheckRole} {
		for _, s := range []string{"a", "message", "user.joined", "a:b/c_d-e.f", "0", ".", "-", "A-Z", strings.Repeat("x", 64)} {
			if err := check(s); err != nil {
				t.Errorf("%s %q: %v", name, s, err)
			}
		}
		for _, s := range []string{"", " ", "a b", "a\n", "a\x00", "é", "a*", "a>", "$a", "a=b", "a,b", "a|b", `a"`, "a\\b", "\xff", strings.Repeat("x", 65)} {
			checkRefused(t, check, name, s)
		}
	}
}

func TestCheckIDs(t *testing.T) {
	for name, check := range map[string]func(string) error{"user": CheckUser, "key": CheckKey, "group": CheckGroup} {
		for _, s := range []string{"a", "u 42", "ann@example.com", "é", "a.b", "*", ">", "$x", "_x", "cafe\u0301", "👨\u200d👩", "|", strings.Repeat("x", 128), strings.Repeat("é", 64), "\u00a0"} {
			if err := check(s); err != nil {
				t.Errorf("%s %q: %v", name, s, err)
			}
		}
		for _, s := range []string{"", "a\x00", "a\n", "a\r", "\t", "\x1f", "\x7f", "\u0080", "\u0085", "\u009f", "\xff", "a\xc3", "\xed\xa0\x80", strings.Repeat("x", 129), strings.Repeat("é", 64) + "x"} {
			checkRefused(t, check, name, s)
		}
	}
	for _, s := range []string{" ", " ann", "ann "} {
		checkRefused(t, CheckUser, "user", s) // NATS would trim it: another user
	}
}

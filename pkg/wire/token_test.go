package wire

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestEscapeToken(t *testing.T) {
	for _, test := range []struct{ id, want string }{
		{"", ""}, {"u42", "u42"}, {"A-Z_09", "A-Z_09"}, {"a.b", "a=2Eb"}, {"a b", "a=20b"}, {"=", "=3D"}, {"a=2E", "a=3D2E"}, {"*", "=2A"},
		{">", "=3E"}, {"$x", "=24x"}, {"é", "=C3=A9"}, {"\x00", "=00"}, {"\xff", "=FF"}, {"ann@example.com", "ann=40example=2Ecom"}, {"_x", "_x"},
	} {
		got := EscapeToken(test.id)
		if got != test.want {
			t.Errorf("EscapeToken(%q) = %q, want %q", test.id, got, test.want)
		}
		if back, err := UnescapeToken(got); back != test.id || err != nil {
			t.Errorf("UnescapeToken(%q) = %q, %v, want %q", got, back, err, test.id)
		}
	}
}

func TestUnescapeTokenRefuses(t *testing.T) {
	for _, tok := range []string{
		"a.b", "a b", "*", ">", "é", "a\x00", "=", "a=", "=2", "a=2", "==", "=2e", "=c3=a9", "=3d", "=G0", "=0G", "=41", "=61", "=30", "=5F", "=2D",
		"a=2E.b", "=2E=", "=2E=2", "= 2", "=+2", "=2Eé", "%2E",
	} {
		if got, err := UnescapeToken(tok); !errors.Is(err, ErrInvalidArgument) || got != "" {
			t.Errorf("UnescapeToken(%q) = %q, %v, want %s", tok, got, err, InvalidArgument)
		}
	}
}

// checkEscape holds of every id: its token is one token, and comes back as the id.
func checkEscape(t interface {
	Helper()
	Errorf(string, ...any)
}, id string) {
	t.Helper()
	tok := EscapeToken(id)
	for i := 0; i < len(tok); i++ {
		if !plainTokenByte(tok[i]) && tok[i] != '=' {
			t.Errorf("EscapeToken(%q) = %q holds %q", id, tok, tok[i])
		}
	}
	if len(tok) > 3*len(id) {
		t.Errorf("EscapeToken(%q) has %d bytes", id, len(tok))
	}
	if back, err := UnescapeToken(tok); err != nil || back != id {
		t.Errorf("UnescapeToken(%q) = %q, %v, want %q", tok, back, err, id)
	}
}

func drawBytes(t *rapid.T, name string) string {
	return rapid.OneOf(rapid.String(), rapid.StringOfN(rapid.RuneFrom([]rune("ab=.2E3D*> ")), 0, 8, -1),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 12), func(b []byte) string { return string(b) })).Draw(t, name)
}

func TestEscapeTokenProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawBytes(t, "a"), drawBytes(t, "b")
		checkEscape(t, a)
		if (EscapeToken(a) == EscapeToken(b)) != (a == b) {
			t.Errorf("%q and %q meet in token %q", a, b, EscapeToken(a))
		}
		// What is accepted is what EscapeToken makes.
		if id, err := UnescapeToken(b); err == nil && EscapeToken(id) != b {
			t.Errorf("UnescapeToken accepts %q, but %q has the token %q", b, id, EscapeToken(id))
		}
	})
}

func FuzzEscapeToken(f *testing.F) {
	for _, id := range []string{"", "u42", "a.b", "=", "\xff", "é"} {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, id string) { checkEscape(t, id) })
}

func FuzzUnescapeToken(f *testing.F) {
	for _, tok := range []string{"", "u42", "a=2Eb", "=", "=2e", "=41", "a.b", strings.Repeat("=FF", 3)} {
		f.Add(tok)
	}
	f.Fuzz(func(t *testing.T, tok string) {
		id, err := UnescapeToken(tok)
		if err != nil {
			if id != "" || !errors.Is(err, ErrInvalidArgument) {
				t.Errorf("UnescapeToken(%q) = %q, %v", tok, id, err)
			}
			return
		}
		if got := EscapeToken(id); got != tok {
			t.Errorf("UnescapeToken(%q) = %q, whose token is %q", tok, id, got)
		}
	})
}

package wire

import (
	"bytes"
	"encoding/json"
	"io"
	"reflect"
	"unicode/utf8"
)

// longestSecret is the length of the longest name that secretName knows.
const longestSecret = 13

// secretName reports whether an object's member of that lower-case name holds
// a secret.
func secretName(name []byte) bool {
	switch string(name) {
	case "token", "secret", "password", "passwd", "pwd", "passphrase",
		"auth", "authorization", "session", "sessionid", "session_id", "cookie", "cookies",
		"jwt", "credential", "credentials", "apikey", "api_key",
		"accesstoken", "access_token", "refreshtoken", "refresh_token", "idtoken", "id_token",
		"privatekey", "private_key":
		return true
	}
	return false
}

// PublicData returns what a member says of itself as others may see it: raw as
// compact JSON, without the object members, at any depth, whose name says that
// they hold a secret (`token`, `password`, `session` and their like, in any
// case) or is no name to give to strangers' code (`constructor`, `prototype`,
// and whatever begins with `__`). All else is as it was written. The result is
// a copy; absent data stays absent.
//
// raw that [ValidJSON] does not accept is refused with [InvalidArgument]. How
// large it may be is the caller's to check.
func PublicData(raw []byte) ([]byte, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	if !ValidJSON(raw) {
		return nil, InvalidField("data", "must be JSON in valid UTF-8")
	}
	dst, _ := appendPublic(make([]byte, 0, len(raw)), raw, skipSpace(raw, 0))
	return dst, nil
}

// appendPublic appends the value at b[i] and returns the index behind it.
func appendPublic(dst, b []byte, i int) ([]byte, int) {
	open := b[i]
	if open != '{' && open != '[' {
		end := skipValue(b, i)
		return append(dst, b[i:end]...), end
	}
	dst = append(dst, open)
	first := true
	for i = skipSpace(b, i+1); b[i] != '}' && b[i] != ']'; {
		var name []byte
		if open == '{' {
			end := skipString(b, i)
			name = b[i:end]
			i = skipSpace(b, skipSpace(b, end)+1)
		}
		if name != nil && privateName(name) {
			i = skipValue(b, i)
		} else {
			if !first {
				dst = append(dst, ',')
			}
			first = false
			if name != nil {
				dst = append(append(dst, name...), ':')
			}
			dst, i = appendPublic(dst, b, i)
		}
		if i = skipSpace(b, i); b[i] == ',' {
			i = skipSpace(b, i+1)
		}
	}
	return append(dst, b[i]), i + 1
}

// privateName reports whether the member of that name, a JSON string, is to be
// left out.
func privateName(raw []byte) bool {
	name, ok := unquoteBytes(raw)
	if !ok { // half a surrogate pair: in none of the names, but it may come behind two underscores
		var s string
		if json.Unmarshal(raw, &s) != nil {
			return true
		}
		name = []byte(s)
	}
	if len(name) >= 2 && name[0] == '_' && name[1] == '_' {
		return true
	}
	if s := string(name); s == "constructor" || s == "prototype" {
		return true
	}
	var folded [longestSecret]byte
	n := 0
	for i := 0; i < len(name); n++ {
		r, size := utf8.DecodeRune(name[i:])
		i += size
		if n == len(folded) {
			return false
		}
		switch {
		case r >= 'A' && r <= 'Z':
			r += 'a' - 'A'
		case r == '\u212a': // the two letters that case folding makes ASCII of
			r = 'k'
		case r == '\u017f':
			r = 's'
		case r >= utf8.RuneSelf:
			return false
		}
		folded[n] = byte(r)
	}
	return secretName(folded[:n])
}

// EqualJSON reports whether a and b are the same value, whatever the order of
// their objects' members, their white space and their escapes. Numbers are
// compared as they are written: 1 and 1.0 differ. Absent equals absent only,
// and what is no JSON equals only the same bytes.
func EqualJSON(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	if len(a) == 0 || len(b) == 0 {
		return false
	}
	x, ok := decodeAny(a)
	if !ok {
		return false
	}
	y, ok := decodeAny(b)
	return ok && reflect.DeepEqual(x, y)
}

// decodeAny decodes one JSON value. Numbers stay text: as floating-point
// numbers two large ones that differ would become one.
func decodeAny(raw []byte) (v any, ok bool) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if d.Decode(&v) != nil {
		return nil, false
	}
	_, err := d.Token()
	return v, err == io.EOF
}

package wire

import (
	"encoding/json"
	"io"
	"strings"
	"unicode/utf8"
)

// MaxMatch is the most bytes that the criteria of a match have.
const MaxMatch = 4 << 10

// ParseMatch reads what [HeaderMatch] says: the attributes that a connection
// must have, all of them. It is a flat JSON object of strings, numbers and
// booleans with at least one pair. Numbers and booleans are their JSON text, as
// they are in an attribute: 1 is equal to "1", and not to 1.0.
//
// What is empty, nested, null or twice there is an INVALID_ARGUMENT: criteria
// that somebody got wrong must reach nobody, rather than everybody.
func ParseMatch(criteria string) (map[string]string, *Error) {
	allowed := "a JSON object of strings, numbers and booleans, at least one, such as {\"role\":\"admin\"}"
	switch {
	case len(criteria) > MaxMatch:
		return nil, InvalidField(HeaderMatch, "at most 4096 bytes")
	case !utf8.ValidString(criteria) || !json.Valid([]byte(criteria)):
		return nil, InvalidField(HeaderMatch, allowed)
	}
	in := json.NewDecoder(strings.NewReader(criteria))
	in.UseNumber()
	if open, err := in.Token(); err != nil || open != json.Delim('{') {
		return nil, InvalidField(HeaderMatch, allowed)
	}
	pairs := map[string]string{}
	for in.More() {
		name, err := in.Token()
		if err != nil {
			return nil, InvalidField(HeaderMatch, allowed)
		}
		key := name.(string) // nothing else can stand there in valid JSON
		if err := CheckKey(key); err != nil {
			return nil, InvalidField(HeaderMatch, "names of attributes have 1-128 bytes without control characters")
		}
		if _, twice := pairs[key]; twice {
			return nil, InvalidField(HeaderMatch, "each attribute once: one connection has one value of it")
		}
		value, err := in.Token()
		if err != nil {
			return nil, InvalidField(HeaderMatch, allowed)
		}
		switch v := value.(type) {
		case string:
			pairs[key] = v
		case json.Number:
			pairs[key] = v.String()
		case bool:
			pairs[key] = "false"
			if v {
				pairs[key] = "true"
			}
		default: // null, or something nested
			return nil, InvalidField(HeaderMatch, allowed)
		}
	}
	if _, err := in.Token(); err != nil && err != io.EOF || len(pairs) == 0 {
		return nil, InvalidField(HeaderMatch, allowed)
	}
	return pairs, nil
}

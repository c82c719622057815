package bus

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// parser is a reply that reads itself, faster than encoding/json does. The data
// is its own from then on.
type parser interface{ ParseJSON(data []byte) error }

// decode reads a request or reply. Unknown fields are ignored, an empty body
// counts as {}. What is wrong comes back as INVALID_ARGUMENT that names the
// field, or "request" where it is the whole.
func decode(data []byte, v any) error {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil
	}
	// Raw fields travel on to browsers, where a WebSocket may end on a text
	// frame that is not UTF-8; encoding/json lets such bytes pass.
	if !utf8.Valid(data) {
		return wire.InvalidField("request", "must be UTF-8")
	}
	if p, ok := v.(parser); ok {
		return p.ParseJSON(data)
	}
	err := json.Unmarshal(data, v)
	if err == nil {
		return nil
	}
	var wrong *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	var coded *wire.Error
	switch {
	case errors.As(err, &coded):
		return coded
	case errors.As(err, &syntax):
		return wire.InvalidField("request", "must be JSON; the error is at byte "+strconv.FormatInt(syntax.Offset, 10))
	case errors.As(err, &wrong):
		field := wrong.Field
		if field == "" {
			field = "request"
		}
		return wire.InvalidField(field, "must be "+describe(wrong.Type))
	}
	// A type of its own refused its value, and encoding/json does not say where.
	return wire.InvalidField(culprit(data, reflect.TypeOf(v).Elem()), err.Error())
}

// culprit finds the first field of a struct that cannot be decoded by itself.
func culprit(data []byte, t reflect.Type) string {
	var raw map[string]json.RawMessage
	if t.Kind() != reflect.Struct || json.Unmarshal(data, &raw) != nil {
		return "request"
	}
	for _, f := range fields(t) {
		value, ok := raw[f.name]
		if ok && json.Unmarshal(value, reflect.New(f.typ).Interface()) != nil {
			return f.name
		}
	}
	return "request"
}

// describe says what a Go type looks like in JSON.
func describe(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "a whole number of " + strconv.Itoa(t.Bits()) + " bits"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return "a whole number, not negative, of " + strconv.Itoa(t.Bits()) + " bits"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			return "a base64 string"
		}
		return "an array"
	case reflect.Pointer:
		return describe(t.Elem())
	}
	return "an object"
}

// Appender is a reply or request that writes its own JSON: fast, and without
// touching the bytes of raw fields.
type Appender interface{ AppendJSON(dst []byte) []byte }

// encode writes a reply or request. Raw fields keep their bytes but for
// whitespace: nothing is escaped for HTML. An [Appender] writes itself.
func encode(v any) ([]byte, error) {
	if a, ok := v.(Appender); ok {
		return a.AppendJSON(nil), nil
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// errorBody is what of an error does not fit into the two headers; nil when
// that is nothing.
func errorBody(e *wire.Error) []byte {
	body := struct {
		RetryAfterMs json.RawMessage `json:"retryAfterMs,omitempty"`
		Details      map[string]any  `json:"details,omitempty"`
	}{Details: e.Details}
	switch ms, null, present := e.RetryAfterMs(); {
	case null:
		body.RetryAfterMs = json.RawMessage("null")
	case present:
		body.RetryAfterMs = strconv.AppendInt(nil, ms, 10)
	case len(e.Details) == 0:
		return nil
	}
	data, err := encode(body)
	if err != nil { // details that are no JSON: the headers still say it all
		return nil
	}
	return data
}

// replyError returns the error that a reply carries, or nil.
func replyError(headers map[string][]string, body []byte) *wire.Error {
	e := wire.ParseErrorHeader(headers, body)
	if e == nil {
		return nil
	}
	var more struct {
		Details map[string]any `json:"details"`
	}
	if json.Unmarshal(body, &more) == nil {
		for k, v := range more.Details {
			e = e.With(k, v)
		}
	}
	return e
}

// field is a struct field as JSON sees it.
type field struct {
	name     string
	typ      reflect.Type
	optional bool
}

// fields lists what encoding/json would write of a struct, embedded ones
// included.
func fields(t reflect.Type) []field {
	var list []field
	for f := range t.Fields() {
		tag, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case tag == "-" && options == "":
			continue
		case f.Anonymous && tag == "" && f.Type.Kind() == reflect.Struct:
			list = append(list, fields(f.Type)...)
			continue
		case !f.IsExported():
			continue
		}
		if tag == "" {
			tag = f.Name
		}
		optional := strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero") || f.Type.Kind() == reflect.Pointer
		list = append(list, field{name: tag, typ: f.Type, optional: optional})
	}
	return list
}

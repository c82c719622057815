package wire

import (
	"bytes"
	"encoding/json"
)

// EncodeData returns the JSON of what a caller in Go wants sent. A
// json.RawMessage or []byte is JSON already and stays as it is, byte for byte; nil
// is null. What is none is an INVALID_ARGUMENT that names the field.
func EncodeData(field string, data any) ([]byte, error) {
	var raw []byte
	switch v := data.(type) {
	case nil:
	case json.RawMessage:
		raw = v
	case []byte:
		raw = v
	default:
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if err := e.Encode(data); err != nil {
			return nil, InvalidField(field, err.Error())
		}
		return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
	}
	if len(raw) == 0 {
		return []byte("null"), nil
	}
	if !ValidJSON(raw) {
		return nil, InvalidField(field, "one JSON value in valid UTF-8")
	}
	return raw, nil
}

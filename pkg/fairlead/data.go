package fairlead

import (
	"encoding/json"
	"errors"
	"unicode/utf8"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// decode reads a client's data into what a handler asks for. What does not fit
// is an INVALID_ARGUMENT that names the field.
func decode(data []byte, v any) error {
	switch v := v.(type) {
	case *json.RawMessage:
		*v = data
		return nil
	case *[]byte:
		*v = data
		return nil
	}
	if len(data) == 0 {
		data = []byte("null")
	}
	if !utf8.Valid(data) {
		return wire.InvalidField("data", "must be JSON in valid UTF-8")
	}
	err := json.Unmarshal(data, v)
	var coded *wire.Error
	var syntax *json.SyntaxError
	var wrong *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &coded):
		return coded
	case errors.As(err, &syntax):
		return wire.InvalidField("data", "must be JSON")
	case errors.As(err, &wrong):
		field := "data"
		if wrong.Field != "" {
			field = wrong.Field
		}
		return wire.InvalidField(field, "can't be a JSON "+wrong.Value)
	}
	return wire.InvalidField("data", err.Error())
}

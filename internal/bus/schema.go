package bus

import (
	"encoding"
	"encoding/json"
	"reflect"
	"time"
)

// schema describes a Go type as JSON Schema, for the metadata of an endpoint.
// It says what a caller needs to write a request: names, types, what may be
// left out. A type that contains itself is an object without properties where
// it comes up again.
func schema(t reflect.Type) string {
	data, err := json.Marshal(describeSchema(t, map[reflect.Type]bool{}))
	if err != nil {
		panic(err) // strings, maps and bools only: cannot fail
	}
	return string(data)
}

type object = map[string]any

func describeSchema(t reflect.Type, within map[reflect.Type]bool) object {
	switch t {
	case reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case reflect.TypeFor[json.RawMessage]():
		return object{}
	}
	if t.Kind() == reflect.Pointer {
		return describeSchema(t.Elem(), within)
	}
	if p := reflect.PointerTo(t); p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return object{"type": "string"}
	} else if p.Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return object{}
	}
	switch t.Kind() {
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return object{"type": "integer"}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return object{"type": "integer", "minimum": 0}
	case reflect.Float32, reflect.Float64:
		return object{"type": "number"}
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			return object{"type": "string", "contentEncoding": "base64"}
		}
		return object{"type": "array", "items": describeSchema(t.Elem(), within)}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": describeSchema(t.Elem(), within)}
	case reflect.Struct:
		return describeStruct(t, within)
	}
	return object{}
}

func describeStruct(t reflect.Type, within map[reflect.Type]bool) object {
	o := object{"type": "object"}
	if within[t] {
		return o
	}
	within[t] = true
	defer delete(within, t)
	properties := object{}
	var required []string
	for _, f := range fields(t) {
		properties[f.name] = describeSchema(f.typ, within)
		if !f.optional {
			required = append(required, f.name)
		}
	}
	if len(properties) > 0 {
		o["properties"] = properties
	}
	if len(required) > 0 {
		o["required"] = required
	}
	return o
}

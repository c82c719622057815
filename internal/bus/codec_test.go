package bus

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// everything has a field of each kind that requests are made of.
type everything struct {
	embedded
	S    string                     `json:"s"`
	B    bool                       `json:"b,omitempty"`
	N    int64                      `json:"n"`
	U    uint16                     `json:"u"`
	F    float64                    `json:"f"`
	Raw  json.RawMessage            `json:"raw,omitempty"`
	Data []byte                     `json:"data"`
	List []embedded                 `json:"list"`
	Map  map[string]json.RawMessage `json:"map"`
	At   *time.Time                 `json:"at"`
	Any  any                        `json:"any"`
	Self *everything                `json:"self"`
	Hour hourOnly                   `json:"hour,omitzero"`
	Skip chan int                   `json:"-"`
	none int                        //lint:ignore U1000 unexported fields are left out of a schema
}

type embedded struct {
	E string `json:"e"`
}

func TestSchema(t *testing.T) {
	const want = `{"properties":{"any":{},"at":{"format":"date-time","type":"string"},"b":{"type":"boolean"},` +
		`"data":{"contentEncoding":"base64","type":"string"},"e":{"type":"string"},"f":{"type":"number"},"hour":{"type":"string"},` +
		`"list":{"items":{"properties":{"e":{"type":"string"}},"required":["e"],"type":"object"},"type":"array"},` +
		`"map":{"additionalProperties":{},"type":"object"},"n":{"type":"integer"},"raw":{},"s":{"type":"string"},` +
		`"self":{"type":"object"},"u":{"minimum":0,"type":"integer"}},` +
		`"required":["e","s","n","u","f","data","list","map","any"],"type":"object"}`
	if got := schema(reflect.TypeFor[everything]()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := schema(reflect.TypeFor[struct{}]()); got != `{"type":"object"}` {
		t.Errorf("schema of nothing = %s", got)
	}
}

// FuzzDecode: no request panics, every refusal is an INVALID_ARGUMENT with a
// field, and what is accepted can be written again.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"s":"x","list":[{"e":1}],"at":"2026-01-02T03:04:05Z","hour":"1h","self":{"n":1}}`))
	f.Add([]byte(`{"s":`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var v everything
		if err := decode(data, &v); err != nil {
			var e *wire.Error
			if !errors.As(err, &e) || e.Code != wire.InvalidArgument || e.Details["field"] == "" {
				t.Errorf("refused with %v", err)
			}
			return
		}
		if _, err := encode(v); err != nil {
			t.Errorf("accepted %q and cannot write it: %v", data, err)
		}
	})
}

// FuzzReplyError: no reply of a peer panics, and a code that comes out is one
// of ours.
func FuzzReplyError(f *testing.F) {
	f.Add("NOT_FOUND", "no such user", []byte(`{"retryAfterMs":null,"details":{"a":1}}`))
	f.Add("418", "teapot", []byte(`[]`))
	f.Fuzz(func(t *testing.T, code, message string, body []byte) {
		e := replyError(map[string][]string{"nats-service-error-code": {code}, "nats-service-error": {message}}, body)
		if (e == nil) != (code == "") || e != nil && !e.Code.Known() {
			t.Errorf("error = %v for code %q", e, code)
		}
	})
}

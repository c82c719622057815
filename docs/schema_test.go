package docs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const schemaFile = "protocol.schema.json"

func schema(t *testing.T, def string) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	s, err := c.Compile(schemaFile + "#/$defs/" + def)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func validate(t *testing.T, s *jsonschema.Schema, document []byte) error {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(document))
	if err != nil {
		t.Fatalf("%s: %v", document, err)
	}
	return s.Validate(v)
}

// Every golden frame is a frame by the schema, alone, in an array, and of its
// own side only.
func TestSchemaTakesTheGoldenFrames(t *testing.T) {
	files, err := filepath.Glob("../pkg/wire/testdata/golden/*.json")
	if err != nil {
		t.Fatal(err)
	}
	sides := map[string]*jsonschema.Schema{"client": schema(t, "clientMessage"), "server": schema(t, "serverMessage")}
	seen := map[string]int{}
	for _, file := range files {
		frame, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		side, _, _ := strings.Cut(filepath.Base(file), "-")
		if sides[side] == nil {
			t.Errorf("%s: neither client- nor server-", file)
			continue
		}
		seen[side]++
		for _, message := range [][]byte{frame, fmt.Appendf(nil, "[%s,%s]", frame, frame)} {
			if err := validate(t, sides[side], message); err != nil {
				t.Errorf("%s: %s\n%v", filepath.Base(file), message, err)
			}
		}
		for other, s := range sides {
			if other != side && validate(t, s, frame) == nil {
				t.Errorf("%s also passes for a %s frame: %s", filepath.Base(file), other, frame)
			}
		}
	}
	if seen["client"] == 0 || seen["server"] == 0 {
		t.Errorf("got %v golden frames", seen)
	}
}

// What the decoder refuses, the schema refuses too.
func TestSchemaRefusesWhatTheDecoderRefuses(t *testing.T) {
	s := schema(t, "clientMessage")
	long := strings.Repeat("a", 256)
	for _, frame := range []string{
		`1`, `"hello"`, `{}`, `{"op":1}`, `{"op":"greet","id":1}`,
		`{"op":"hello"}`, `{"op":"hello","id":0}`, `{"op":"hello","id":"1"}`, `{"op":"hello","id":1.5}`,
		`{"op":"hello","id":9007199254740992}`, `{"op":"hello","id":1,"token":7}`,
		`{"op":"refresh","id":1}`, `{"op":"subscribe","id":1}`, `{"op":"subscribe","id":1,"topic":""}`,
		`{"op":"subscribe","id":1,"topic":"a..b"}`, `{"op":"subscribe","id":1,"topic":".a"}`, `{"op":"subscribe","id":1,"topic":"a."}`,
		`{"op":"subscribe","id":1,"topic":"a b"}`, `{"op":"subscribe","id":1,"topic":"a\n"}`, `{"op":"subscribe","id":1,"topic":"$JS.x"}`,
		`{"op":"subscribe","id":1,"topic":"_INBOX.x"}`, `{"op":"subscribe","id":1,"topic":"a*"}`, `{"op":"subscribe","id":1,"topic":"a.>.b"}`,
		`{"op":"subscribe","id":1,"topic":"` + long + `"}`,
		`{"op":"subscribe","id":1,"topic":"a","last":0}`, `{"op":"subscribe","id":1,"topic":"a","last":1001}`,
		`{"op":"subscribe","id":1,"topic":"a","after":-1}`, `{"op":"subscribe","id":1,"topic":"a","after":1,"last":1}`,
		`{"op":"subscribe","id":1,"topic":"a","presence":"lurk"}`, `{"op":"subscribe","id":1,"topic":"a","cursors":1}`,
		`{"op":"publish","id":1}`, `{"op":"publish","topic":"a.*"}`, `{"op":"publish","topic":"a","event":"a b"}`, `{"op":"publish","topic":"a","event":""}`,
		`{"op":"publish","topic":"a","key":""}`, `{"op":"publish","topic":"a","echo":"no"}`,
		`{"op":"batch","id":1}`, `{"op":"batch","id":1,"messages":{}}`, `{"op":"batch","id":1,"messages":[{}]}`, `{"op":"batch","id":1,"messages":[1]}`,
		`{"op":"call","id":1}`, `{"op":"call","id":1,"method":">"}`, `{"op":"call","id":1,"method":"a","timeoutMs":60001}`,
		`{"op":"cancel"}`, `{"op":"cancel","ref":"r"}`, `{"op":"reply","ref":1}`, `{"op":"reply"}`,
		`{"op":"presence.update","id":1,"topic":"a"}`, `{"op":"group.join","id":1,"group":"\u0001"}`, `{"op":"group.send","id":1,"group":"g","event":"e"}`,
		"[" + strings.Repeat(`{"op":"pong"},`, wire.MaxFrames) + `{"op":"pong"}]`,
	} {
		refused := false
		var f wire.Frame
		wire.DecodeFrames([]byte(frame), &f, func(err *wire.Error) bool { refused = refused || err != nil; return true })
		if !refused {
			t.Errorf("the decoder takes %.80s", frame)
		}
		if validate(t, s, []byte(frame)) == nil {
			t.Errorf("the schema takes %.80s", frame)
		}
	}
}

func TestSchemaRefusesBadServerFrames(t *testing.T) {
	s := schema(t, "serverFrame")
	for _, frame := range []string{
		`{}`, `{"id":1}`, `{"id":-1,"ok":{}}`, `{"id":1,"ok":{},"error":{"code":"INTERNAL","message":""}}`, `{"ok":{}}`,
		`{"id":1,"error":{"code":"OOPS","message":""}}`, `{"id":1,"error":{"code":"INTERNAL"}}`,
		`{"id":1,"error":{"code":"UNAVAILABLE","message":""}}`, `{"id":1,"error":{"code":"INTERNAL","message":"","retryAfterMs":5}}`,
		`{"topic":"a","event":"e"}`, `{"topic":"a","data":1}`, `{"event":"e","data":1}`, `{"topic":"a","event":"e","data":1,"text":""}`,
		`{"topic":"a","group":"g","event":"e","data":1}`, `{"topic":"a","event":"e","data":1,"seq":4}`, `{"topic":"a","event":"e","data":1,"direct":false}`,
		`{"op":"presence","topic":"a","rev":1}`, `{"op":"presence","topic":"a","state":{}}`, `{"op":"presence","topic":"a.*","rev":1,"state":{}}`,
		`{"op":"presence","topic":"a","rev":1,"state":{},"joins":{}}`, `{"op":"presence","topic":"a","rev":1,"joins":{},"more":true}`,
		`{"op":"presence","topic":"a","rev":1,"count":3}`, `{"op":"presence","topic":"a","rev":1,"state":{"ann":1}}`,
		`{"op":"group","joined":{}}`, `{"op":"group","group":"g","joined":{"c1":{}}}`, `{"op":"group","group":"g","closed":false}`,
		`{"op":"drain"}`, `{"op":"system","event":"sunny","what":"nats","at":1}`, `{"op":"request","ref":"r","event":"e","timeoutMs":1}`,
	} {
		if validate(t, s, []byte(frame)) == nil {
			t.Errorf("the schema takes %s", frame)
		}
	}
}

// The schema and the page know every op, error code and close code.
func TestProtocolPageIsComplete(t *testing.T) {
	page := read(t, "protocol.md")
	var file struct {
		Defs map[string]struct {
			Enum []string `json:"enum"`
		} `json:"$defs"`
	}
	if err := json.Unmarshal([]byte(read(t, schemaFile)), &file); err != nil {
		t.Fatal(err)
	}
	for _, op := range wire.Ops[wire.OpHello:] {
		if _, ok := file.Defs["op."+op.Name]; !ok {
			t.Errorf("the schema lacks op %s", op.Name)
		}
		if !strings.Contains(page, "\n| `"+op.Name+"` |") {
			t.Errorf("the page lacks op %s", op.Name)
		}
	}
	codes := file.Defs["code"].Enum
	if len(codes) == 0 {
		t.Fatal("the schema has no error codes")
	}
	for _, code := range codes {
		if !wire.Code(code).Known() {
			t.Errorf("%s is no error code", code)
		}
		if !strings.Contains(page, "\n| `"+code+"` |") {
			t.Errorf("the page lacks error code %s", code)
		}
	}
	for _, code := range []wire.CloseCode{
		wire.CloseNormal, wire.CloseGoingAway, wire.CloseTooBig, wire.CloseTryAgain, wire.CloseProtocol,
		wire.CloseUnauthenticated, wire.CloseForbidden, wire.CloseHeartbeat, wire.CloseTooMany,
	} {
		if !strings.Contains(page, fmt.Sprintf("\n| %d |", code)) {
			t.Errorf("the page lacks close code %d", code)
		}
	}
}

// What the page shows of presence and groups is sent like that, byte for byte.
func TestProtocolPageShowsGoldenFrames(t *testing.T) {
	files, err := filepath.Glob("../pkg/wire/testdata/golden/*.json")
	if err != nil {
		t.Fatal(err)
	}
	golden := map[string]bool{}
	for _, file := range files {
		golden[read(t, file)] = true
	}
	_, sections, found := strings.Cut(read(t, "protocol.md"), "\n## Presence\n")
	if !found {
		t.Fatal("the page has no section Presence")
	}
	sections, _, _ = strings.Cut(sections, "\n## What you can rely on\n")
	shown := 0
	for _, m := range block.FindAllStringSubmatch(sections, -1) {
		for line := range strings.Lines(m[2]) {
			shown++
			if frame := strings.TrimSpace(line); !golden[frame] {
				t.Errorf("no golden frame: %s", frame)
			}
		}
	}
	if shown < 5 {
		t.Errorf("%d frames shown, want more", shown)
	}
}

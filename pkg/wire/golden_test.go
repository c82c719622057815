package wire

import (
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// The golden frames are the protocol as other clients read it: each file holds
// one frame, byte for byte as it is sent.
const goldenDir = "testdata/golden"

var update = flag.Bool("update", false, "rewrite the golden server frames")

// goldenNames returns the names of the golden files that begin with prefix.
func goldenNames(t *testing.T, prefix string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(goldenDir, prefix+"*.json"))
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool, len(files))
	for _, file := range files {
		names[strings.TrimSuffix(filepath.Base(file), ".json")] = true
	}
	return names
}

func readGolden(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(goldenDir, name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestGoldenNames(t *testing.T) {
	for name := range goldenNames(t, "") {
		if !strings.HasPrefix(name, "client-") && !strings.HasPrefix(name, "server-") {
			t.Errorf("%s: a golden frame is sent by a client or by a server", name)
		}
	}
}

func TestGoldenServer(t *testing.T) {
	files := goldenNames(t, "server-")
	for _, test := range goldenServer() {
		t.Run(test.name, func(t *testing.T) {
			if *update {
				if err := os.WriteFile(filepath.Join(goldenDir, test.name+".json"), test.frame, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got, want := string(test.frame), string(readGolden(t, test.name)); got != want {
				t.Errorf("encoder:\ngot  %s\nwant %s", got, want)
			}
			if !ValidJSON(test.frame) {
				t.Errorf("%s is no JSON", test.frame)
			}
			frames, err := DecodeServer(test.frame)
			if err != nil {
				t.Fatal(err)
			}
			want := test.want
			want.Raw = test.frame
			if len(frames) != 1 || !reflect.DeepEqual(frames[0], want) {
				t.Errorf("DecodeServer(%s):\ngot  %+v\nwant %+v", test.frame, frames, want)
			}
		})
		delete(files, test.name)
	}
	if len(files) > 0 && !*update {
		t.Errorf("files without a test: %v", files)
	}
}

func TestGoldenClient(t *testing.T) {
	files := goldenNames(t, "client-")
	tested := make(map[Op]bool)
	for _, test := range goldenClient {
		t.Run(test.name, func(t *testing.T) {
			got := decodeOne(t, readGolden(t, test.name))
			if got.err != nil {
				t.Fatal(got.err)
			}
			if !reflect.DeepEqual(got.Frame, test.want) {
				t.Errorf("got  %+v\nwant %+v", got.Frame, test.want)
			}
		})
		tested[test.want.Op] = true
		delete(files, test.name)
	}
	if len(files) > 0 {
		t.Errorf("files without a test: %v", files)
	}
	for op := OpUnknown + 1; op < numOps; op++ {
		if !tested[op] {
			t.Errorf("no golden frame of op %s", op)
		}
	}
}

func TestGoldenCoversEveryCode(t *testing.T) {
	seen := make(map[Code]bool)
	for _, test := range goldenServer() {
		if test.want.Error != nil {
			seen[test.want.Error.Code] = true
		}
	}
	for code := range codes {
		if !seen[code] {
			t.Errorf("no golden error of code %s", code)
		}
	}
}

// FuzzDecodeServer checks that no gateway can make a client panic, and that
// what is decoded holds JSON.
func FuzzDecodeServer(f *testing.F) {
	for _, test := range goldenServer() {
		f.Add(test.frame)
		f.Add([]byte("[" + string(test.frame) + " , " + string(test.frame) + "]"))
	}
	for _, s := range []string{
		"", " ", "null", "[null]", "[]", "[[]]", "1", `{"id":null}`, `{"id":"7","ok":1}`, `{"id":7,"error":3}`,
		`{"id":7,"error":{"code":"MINE","retryAfterMs":-1}}`, `{"base64":"%","event":"e"}`, `{"ID":7,"Ok":{}}`, "{} {}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		frames, err := DecodeServer(data)
		if err != nil {
			if frames != nil {
				t.Errorf("DecodeServer(%q): frames with error %v", data, err)
			}
			return
		}
		for _, frame := range frames {
			again, err := DecodeServer(frame.Raw)
			if err != nil || len(again) != 1 {
				t.Fatalf("DecodeServer(%q) = %v, %v, decoded from %q", frame.Raw, again, err, data)
			}
			again[0].Raw = frame.Raw
			if !reflect.DeepEqual(again[0], frame) {
				t.Errorf("decoded again:\ngot  %+v\nwant %+v", again[0], frame)
			}
			if frame.Error != nil && !frame.Error.Code.Known() {
				t.Errorf("%q: code %q", frame.Raw, frame.Error.Code)
			}
			if frame.Kind != KindReply && (frame.ID != 0 || frame.Error != nil) {
				t.Errorf("%q: kind %d with id or error", frame.Raw, frame.Kind)
			}
			_, _ = frame.Payload()
		}
	})
}

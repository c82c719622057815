package wire

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// decoded is what one call of DecodeFrames' callback saw.
type decoded struct {
	Frame
	err *Error
}

func decodeAll(data []byte) []decoded {
	var f Frame
	var all []decoded
	DecodeFrames(data, &f, func(err *Error) bool {
		all = append(all, decoded{f, err})
		return true
	})
	return all
}

func decodeOne(t *testing.T, data []byte) decoded {
	t.Helper()
	all := decodeAll(data)
	if len(all) != 1 {
		t.Fatalf("DecodeFrames(%.200s) called back %d times, want once", data, len(all))
	}
	return all[0]
}

// describe says of every frame whether it was accepted, and the id it is answered with.
func describe(all []decoded) string {
	var words []string
	for _, d := range all {
		if d.err != nil {
			words = append(words, fmt.Sprintf("%d:%v", d.ID, d.err.Details["field"]))
		} else {
			words = append(words, fmt.Sprintf("%d:ok", d.ID))
		}
	}
	return strings.Join(words, " ")
}

func TestDecodeFramesArray(t *testing.T) {
	pongs := func(n int) string { return "[" + strings.TrimSuffix(strings.Repeat(`{"op":"pong"},`, n), ",") + "]" }
	for _, test := range []struct{ name, data, want string }{
		{"empty", `[]`, ""},
		{"empty, spaced", " [ \n ] ", ""},
		{"one", ` [ {"op":"pong","id":1} ] `, "1:ok"},
		{"order is kept among good and bad", `[{"op":"pong","id":1},{"op":"nope","id":2}, 3 ,{"op":"call","id":4},{"id":5,"op":"pong"}]`,
			"1:ok 2:op 0:frame 4:method 5:ok"},
		{"nothing stays from the frame before", `[{"op":"publish","id":9,"topic":"a","key":"k"},{"op":"pong"}]`, "9:ok 0:ok"},
		{"nested array", `[[{"op":"pong","id":1}],{"op":"pong","id":2}]`, "0:frame 2:ok"},
		{"nested empty array", `[[]]`, "0:frame"},
		{"null", `[null]`, "0:frame"},
		{"as many as allowed", pongs(256), strings.TrimSuffix(strings.Repeat("0:ok ", 256), " ")},
		{"one too many", pongs(257), "0:frame"},
		{"far too many", pongs(5000), "0:frame"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := describe(decodeAll([]byte(test.data))); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestDecodeFramesStops(t *testing.T) {
	var f Frame
	calls := 0
	DecodeFrames([]byte(`[{"op":"pong"},{"op":"nope"},{"op":"pong"}]`), &f, func(*Error) bool {
		calls++
		return calls < 2
	})
	if calls != 2 {
		t.Errorf("each was called %d times, want 2: it returned false", calls)
	}
}

func TestDecodeFramesEachIsItsOwn(t *testing.T) {
	all := decodeAll([]byte(`[{"op":"subscribe","id":1,"topic":"a","after":3,"presence":"join","data":1},{"op":"hello","id":2}]`))
	if got, want := all[1].Frame, (Frame{ID: 2, Op: OpHello}); !reflect.DeepEqual(got, want) {
		t.Errorf("second frame: got %+v, want %+v", got, want)
	}
}

func TestDecodeFramesGarbage(t *testing.T) {
	deep := func(n int) string {
		return `{"op":"publish","id":1,"topic":"a","data":` + strings.Repeat("[", n) + strings.Repeat("]", n) + "}"
	}
	for _, test := range []struct{ name, data string }{
		{"nothing", ""},
		{"white space", " \n"},
		{"text", "hello"},
		{"cut off", `{"op":"pong"`},
		{"two values", `{"op":"pong"}{"op":"pong"}`},
		{"trailing comma", `[{"op":"pong"},]`},
		{"trailing comma in the object", `{"op":"pong",}`},
		{"single quotes", `{'op':'pong'}`},
		{"comment", `{"op":"pong"} // hi`},
		{"byte order mark", "\ufeff" + `{"op":"pong"}`},
		{"invalid UTF-8 in a value", "{\"op\":\"pong\",\"x\":\"\xff\"}"},
		{"invalid UTF-8 in a name", "{\"op\":\"pong\",\"\xc3\":1}"},
		{"surrogate in UTF-8", "{\"op\":\"pong\",\"x\":\"\xed\xa0\x80\"}"},
		{"control byte in a string", "{\"op\":\"pong\",\"x\":\"\n\"}"},
		{"513 levels", deep(512)},
		{"100,000 levels", strings.Repeat("[", 100_000)},
		{"NaN", `{"op":"pong","x":NaN}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := decodeOne(t, []byte(test.data))
			if got.err == nil || got.err.Code != InvalidArgument || got.ID != 0 {
				t.Errorf("got id %d, error %v, want id 0 and %s", got.ID, got.err, InvalidArgument)
			}
		})
	}
	if got := decodeOne(t, []byte(deep(511))); got.err != nil {
		t.Errorf("512 levels: %v", got.err)
	}
}

func TestDecodeFramesOddButRight(t *testing.T) {
	want := Frame{ID: 7, Op: OpPublish, Topic: "chat.lobby", Event: "message", Data: []byte(`{"a":[1,"]}\""]}`)}
	for _, test := range []struct{ name, data string }{
		{"white space", " {\r\n\t\"op\" : \"publish\" , \"id\" : 7 , \"topic\" : \"chat.lobby\" , \"data\" : {\"a\":[1,\"]}\\\"\"]} } \n"},
		{"any order", `{"data":{"a":[1,"]}\""]},"topic":"chat.lobby","id":7,"op":"publish"}`},
		{"unknown fields", `{"op":"publish","id":7,"topic":"chat.lobby","data":{"a":[1,"]}\""]},"x":{"op":"pong"},"trace":null,"":0}`},
		{"fields of other ops, of wrong types", `{"op":"publish","id":7,"topic":"chat.lobby","data":{"a":[1,"]}\""]},"method":1,"after":"x","presence":[],"messages":3,"group":{},"timeoutMs":-1}`},
		{"null optional fields", `{"op":"publish","id":7,"topic":"chat.lobby","data":{"a":[1,"]}\""]},"event":null,"key":null,"echo":null}`},
		{"the last of two members counts", `{"op":"pong","op":"publish","id":3,"id":7,"topic":5,"topic":"chat.lobby","data":0,"data":{"a":[1,"]}\""]}}`},
		{"escaped member names", `{"\u006fp":"publish","i\u0064":7,"\u0074opic":"chat.lobby","data":{"a":[1,"]}\""]}}`},
		{"escaped values", `{"op":"\u0070ublish","id":7,"topic":"chat\u002elobby","data":{"a":[1,"]}\""]}}`},
		{"a name no UTF-8 can hold", `{"op":"publish","id":7,"topic":"chat.lobby","data":{"a":[1,"]}\""]},"\ud800":1}`},
		{"half a surrogate pair in data", `{"op":"publish","id":7,"topic":"chat.lobby","data":{"a":[1,"]}\""]},"x":"\ud800"}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := decodeOne(t, []byte(test.data))
			if got.err != nil || !reflect.DeepEqual(got.Frame, want) {
				t.Errorf("got  %+v (error %v)\nwant %+v", got.Frame, got.err, want)
			}
		})
	}
}

func TestDecodeFramesNames(t *testing.T) {
	if got := decodeOne(t, []byte(`{"Op":"pong"}`)); got.err == nil {
		t.Error("member names are matched with regard to case")
	}
	if got := decodeOne(t, []byte(`{"op":"Pong"}`)); got.err == nil {
		t.Error("op names are matched with regard to case")
	}
}

func TestDecodeFramesStringsAreTheirOwn(t *testing.T) {
	data := []byte(`{"op":"publish","id":7,"topic":"chat.lobby","event":"said","key":"k1"}`)
	got := decodeOne(t, data)
	for i := range data {
		data[i] = 'X'
	}
	if want := (Frame{ID: 7, Op: OpPublish, Topic: "chat.lobby", Event: "said", Key: "k1"}); !reflect.DeepEqual(got.Frame, want) {
		t.Errorf("after the buffer was used again: got %+v, want %+v", got.Frame, want)
	}
}

func TestDecodeFramesAllocations(t *testing.T) {
	var f Frame
	each := func(err *Error) bool { return err == nil }
	got := testing.AllocsPerRun(100, func() { DecodeFrames(publishFrame, &f, each) })
	if got > 3 {
		t.Errorf("a publish costs %v allocations, want at most 3", got)
	}
}

// FuzzDecodeFrames checks that no client can make a gateway panic and that
// what the decoder lets through is as the protocol allows.
func FuzzDecodeFrames(f *testing.F) {
	for _, test := range goldenClient {
		b, err := readGoldenSeed(test.name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add([]byte("[" + string(b) + ",[], " + string(b) + "]"))
	}
	for _, s := range []string{"", "[]", "{}", "null", `{"op":"\ud83d\ude00"}`, `{"op":"publish","topic":"\ud800"}`, `{"id":1e3}`, `{"op":"batch","id":1,"messages":[{"topic":"a","topic":1}]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		calls := 0
		var frame Frame
		DecodeFrames(data, &frame, func(err *Error) bool {
			calls++
			if frame.ID < 0 || frame.ID > MaxID {
				t.Errorf("%q: id %d", data, frame.ID)
			}
			if err != nil {
				if err.Code != InvalidArgument || err.Message == "" || !ValidJSON(AppendErrorReply(nil, frame.ID, err)) {
					t.Errorf("%q: error %+v", data, err)
				}
				return true
			}
			checkAccepted(t, data, &frame)
			return true
		})
		if calls > MaxFrames || calls == 0 && bytes.TrimSpace(data)[0] != '[' {
			t.Errorf("%q: %d calls", data, calls)
		}
	})
}

package wire

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

var publicData = []struct{ name, raw, want string }{
	{"absent", ``, ``},
	{"scalar", ` "token" `, `"token"`},
	{"number as written", `1.50e+2`, `1.50e+2`},
	{"null", `null`, `null`},
	{"white space", " { \"a\" : [ 1 , { } , [ ] ] ,\n\t\"b\" : \" x \" } ", `{"a":[1,{},[]],"b":" x "}`},
	{"order and duplicates", `{"b":1,"a":2,"b":3}`, `{"b":1,"a":2,"b":3}`},
	{"only a secret", `{"token":"x"}`, `{}`},
	{"first", `{"token":"x","a":1}`, `{"a":1}`},
	{"middle", `{"a":1, "token":{"deep":[1,2]} ,"b":2}`, `{"a":1,"b":2}`},
	{"last", `{"a":1,"token":[{}]}`, `{"a":1}`},
	{"twice", `{"token":1,"a":1,"token":2}`, `{"a":1}`},
	{"deep", `[{"a":{"password":1,"b":[{"Secret":1},"secret"]}}]`, `[{"a":{"b":[{},"secret"]}}]`},
	{"any case", `{"ToKeN":1,"API_KEY":2,"AccessToken":3,"Authorization":4}`, `{}`},
	{"escaped", `{"\u0074oken":1,"pass\u0057ord":2,"a\/b":3}`, `{"a\/b":3}`},
	{"letters that fold to ASCII", `{"to\u212aen":1,"paſſword":2,"ſession":3}`, `{}`},
	{"underscores", `{"__proto__":{},"__x":1,"\u005f\u005fy":2,"_z":3,"__":4,"__\ud800":5}`, `{"_z":3}`},
	{"names of objects", `{"constructor":1,"prototype":2,"Constructor":3}`, `{"Constructor":3}`},
	{"names that only look so", `{"author":1,"tokenCount":2,"authority":3,"sessions":4,"":5,"tokens":6,"authorization2":7,"tökën":8,"token\ud800":9}`,
		`{"author":1,"tokenCount":2,"authority":3,"sessions":4,"":5,"tokens":6,"authorization2":7,"tökën":8,"token\ud800":9}`},
	{"values", `{"name":"token","a":["password","__proto__"]}`, `{"name":"token","a":["password","__proto__"]}`},
}

const secrets = `token secret password passwd pwd passphrase auth authorization session sessionid session_id
	cookie cookies jwt credential credentials apikey api_key accesstoken access_token refreshtoken refresh_token
	idtoken id_token privatekey private_key`

func TestPublicData(t *testing.T) {
	for _, test := range publicData {
		t.Run(test.name, func(t *testing.T) {
			raw := []byte(test.raw)
			got, err := PublicData(raw)
			if err != nil || string(got) != test.want {
				t.Errorf("PublicData(%s) = %s, %v, want %s", test.raw, got, err, test.want)
			}
			if string(raw) != test.raw {
				t.Errorf("the input became %s", raw)
			}
		})
	}
}

func TestPublicDataLeavesOutEveryOne(t *testing.T) {
	for _, name := range strings.Fields(secrets) {
		for _, name := range []string{name, strings.ToUpper(name), strings.ToUpper(name[:1]) + name[1:]} {
			if got, err := PublicData([]byte(`{"` + name + `":1}`)); err != nil || string(got) != "{}" {
				t.Errorf("%s: got %s, %v, want {}", name, got, err)
			}
			kept := `{"` + name + `x":1}`
			if got, err := PublicData([]byte(kept)); err != nil || string(got) != kept {
				t.Errorf("%sx: got %s, %v, want %s", name, got, err, kept)
			}
		}
	}
}

func TestPublicDataRefuses(t *testing.T) {
	for _, raw := range []string{
		" ", "{", `{"a"}`, `{"a":1,}`, "1 2", "nul", "{\"\xff\":1}", `{"token":}`,
		strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1),
	} {
		if got, err := PublicData([]byte(raw)); got != nil || CodeOf(err) != InvalidArgument {
			t.Errorf("PublicData(%.20q) = %q, %v, want %s", raw, got, err, InvalidArgument)
		}
	}
	deepest := strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth)
	if got, err := PublicData([]byte(deepest)); err != nil || string(got) != deepest {
		t.Errorf("%d levels: got %.20s…, %v", maxDepth, got, err)
	}
}

// FuzzPublicData checks that what comes out is JSON, has no secret in it by
// another decoder's reading, lacks nothing else and does not change again.
func FuzzPublicData(f *testing.F) {
	for _, test := range publicData {
		f.Add([]byte(test.raw))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := PublicData(raw)
		if err != nil {
			if got != nil || ValidJSON(raw) {
				t.Errorf("PublicData(%q) = %q, %v", raw, got, err)
			}
			return
		}
		if len(raw) == 0 {
			return
		}
		if !ValidJSON(got) || len(got) > len(raw) {
			t.Fatalf("PublicData(%q) = %q", raw, got)
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, got); err != nil || !bytes.Equal(compact.Bytes(), got) {
			t.Errorf("PublicData(%q) = %q: not compact, %v", raw, got, err)
		}
		if again, err := PublicData(got); err != nil || !bytes.Equal(again, got) {
			t.Errorf("PublicData(%q) = %q, %v", got, again, err)
		}
		before, ok := decodeAny(raw)
		after, _ := decodeAny(got)
		if ok && !reflect.DeepEqual(after, withoutSecrets(before)) {
			t.Errorf("PublicData(%q) = %q, want what %v is", raw, got, withoutSecrets(before))
		}
	})
}

// withoutSecrets does to decoded JSON what PublicData does to its text.
func withoutSecrets(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			if isSecret(name) || strings.HasPrefix(name, "__") || name == "constructor" || name == "prototype" {
				delete(v, name)
			} else {
				v[name] = withoutSecrets(value)
			}
		}
	case []any:
		for i := range v {
			v[i] = withoutSecrets(v[i])
		}
	}
	return v
}

func isSecret(name string) bool {
	for _, secret := range strings.Fields(secrets) {
		if strings.EqualFold(name, secret) {
			return true
		}
	}
	return false
}

var equalJSON = []struct {
	a, b string
	want bool
}{
	{``, ``, true},
	{``, `null`, false},
	{`null`, `null`, true},
	{`{"a":1,"b":[1,2]}`, ` { "b" : [ 1 , 2 ] , "a" : 1 } `, true},
	{`{"a":1}`, `{"a":1,"b":null}`, false},
	{`[1,2]`, `[2,1]`, false},
	{`{"a":{}}`, `{"a":[]}`, false},
	{`"\u0061"`, `"a"`, true},
	{`"1"`, `1`, false},
	{`1`, `1.0`, false},
	{`9007199254740992`, `9007199254740993`, false},
	{`1e999`, ` 1e999 `, true},
	{`{"a":1,"a":2}`, `{"a":2}`, true},
	{`{`, `{`, true},
	{`{`, ` {`, false},
	{`1`, `1 2`, false},
	{`{"a":1}`, `{"A":1}`, false},
}

func TestEqualJSON(t *testing.T) {
	if !EqualJSON(nil, nil) || EqualJSON(nil, []byte("null")) || EqualJSON([]byte("{}"), nil) {
		t.Error("absent equals absent only")
	}
	for _, test := range equalJSON {
		for _, swap := range []bool{false, true} {
			a, b := test.a, test.b
			if swap {
				a, b = b, a
			}
			if got := EqualJSON([]byte(a), []byte(b)); got != test.want {
				t.Errorf("EqualJSON(%s, %s) = %t, want %t", a, b, got, test.want)
			}
		}
	}
}

// FuzzEqualJSON checks that EqualJSON says what comparing decoded values says.
func FuzzEqualJSON(f *testing.F) {
	for _, test := range equalJSON {
		f.Add([]byte(test.a), []byte(test.b))
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		got := EqualJSON(a, b)
		if got != EqualJSON(b, a) || !EqualJSON(a, a) {
			t.Errorf("EqualJSON(%q, %q): not the same both ways, or not of itself", a, b)
		}
		if !ValidJSON(a) || !ValidJSON(b) {
			return
		}
		var x, y any
		dx, dy := json.NewDecoder(bytes.NewReader(a)), json.NewDecoder(bytes.NewReader(b))
		dx.UseNumber()
		dy.UseNumber()
		if err := dx.Decode(&x); err != nil {
			t.Fatal(err)
		}
		if err := dy.Decode(&y); err != nil {
			t.Fatal(err)
		}
		if want := reflect.DeepEqual(x, y); got != want {
			t.Errorf("EqualJSON(%q, %q) = %t, want %t", a, b, got, want)
		}
	})
}

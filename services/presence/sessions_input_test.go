package presence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestSessionRequestsAreChecked(t *testing.T) {
	s := newSessionTest(t)
	type ask = func(context.Context, wire.SessionRequest) error
	asks := map[string]ask{
		"set":    func(ctx context.Context, r wire.SessionRequest) error { _, err := s.set(ctx, r); return err },
		"get":    func(ctx context.Context, r wire.SessionRequest) error { _, err := s.get(ctx, r); return err },
		"touch":  func(ctx context.Context, r wire.SessionRequest) error { _, err := s.touch(ctx, r); return err },
		"delete": func(ctx context.Context, r wire.SessionRequest) error { _, err := s.delete(ctx, r); return err },
	}
	expect := func(what, field, secret string, err error) {
		t.Helper()
		var coded *wire.Error
		if !errors.As(err, &coded) || coded.Code != wire.InvalidArgument || coded.Details["field"] != field {
			t.Errorf("%s: got %v, want INVALID_ARGUMENT for %s", what, err, field)
		} else if secret != "" && strings.Contains(fmt.Sprint(coded.Message, coded.Details), secret) {
			t.Errorf("%s: the token is in %v %v", what, coded, coded.Details)
		}
	}
	data := json.RawMessage(`1`)
	for name, ask := range asks {
		for _, token := range []string{"", "fifteen bytes !", strings.Repeat("x", 513)} {
			expect(name+" of a token", "token", token, ask(t.Context(), wire.SessionRequest{Token: token, Data: data}))
		}
		for _, token := range []string{"sixteen bytes !!", strings.Repeat("x", 512)} {
			if err := ask(t.Context(), wire.SessionRequest{Token: token, Data: data}); err != nil && !errors.Is(err, wire.ErrNotFound) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	for _, ttl := range []string{"0s", "999ms", "-1h", "720h0m0.001s", "1", "1d", "forever", "9999999h"} {
		expect("set with a TTL of "+ttl, "ttl", "", asks["set"](t.Context(), wire.SessionRequest{Token: testToken, Data: data, TTL: ttl}))
		expect("touch with a TTL of "+ttl, "ttl", "", asks["touch"](t.Context(), wire.SessionRequest{Token: testToken, TTL: ttl}))
	}
	large := func(n int) json.RawMessage { return json.RawMessage(`"` + strings.Repeat("x", n-2) + `"`) }
	for _, bad := range []json.RawMessage{nil, json.RawMessage(``), json.RawMessage(`{`), json.RawMessage("\"\xff\""), large(64<<10 + 1)} {
		expect("set", "data", "", asks["set"](t.Context(), wire.SessionRequest{Token: testToken, Data: bad}))
	}
	s.mustSet(string(large(64<<10)), "")
	s.expect(string(large(64<<10)), false)
}

// What a bucket holds that nobody of ours wrote is no session.
func TestSessionThatIsCorruptIsNotFound(t *testing.T) {
	s := newSessionTest(t)
	later := s.clock.now().Add(time.Hour).UnixMilli()
	for _, value := range []string{
		"", "garbage", "{}", "null", "[]", `{"data":1}`,
		fmt.Sprintf(`{"expires":%d,"ttl":3600000}`, later),
		fmt.Sprintf(`{"expires":%d,"ttl":0,"data":1}`, later),
		fmt.Sprintf(`{"expires":%d,"ttl":9223372036854775807,"data":1}`, later),
		fmt.Sprintf(`{"expires":"%d","ttl":3600000,"data":1}`, later),
		fmt.Sprintf("{\"expires\":%d,\"ttl\":3600000,\"data\":\"\xff\"}", later),
		fmt.Sprintf(`{"expires":%d,"ttl":3600000,"data":1`, later),
	} {
		if _, err := s.store.Put(t.Context(), kv.Write{Key: sessionKey(testToken), Value: []byte(value), Expect: kv.AnyRevision}); err != nil {
			t.Fatal(err)
		}
		s.expect("", false)
		s.expectOK("touch of "+value, s.touch, false)
		s.expectOK("delete of "+value, s.delete, false)
	}
	s.mustSet(`1`, "")
	s.expect(`1`, false)
}

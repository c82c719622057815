package wire

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

var controlNow = time.UnixMilli(1_760_000_000_000)

func TestParseControl(t *testing.T) {
	for _, test := range []struct {
		target ControlTarget
		body   string
		want   Control
	}{
		{ControlOfUser, `{"action":"disconnect"}`, Control{Action: "disconnect"}},
		{ControlOfConn, `{"action":"disconnect","code":4999,"reason":"bye"}`, Control{Action: "disconnect", Code: 4999, Reason: "bye"}},
		{ControlOfConn, `{"action":"disconnect","code":1000}`, Control{Action: "disconnect", Code: 1000}},
		{ControlOfUser, `{"action":"revoke"}`, Control{Action: "revoke"}},
		{ControlOfUser, `{"action":"revoke","before":1759999999999,"reason":"stolen","later":{"unknown":1}}`, Control{Action: "revoke", Before: 1759999999999, Reason: "stolen"}},
		{ControlOfUser, `{"action":"revoke","before":1760000060000}`, Control{Action: "revoke", Before: 1760000060000}},
		{ControlOfUser, `{"action":"subscribe","topic":"a.b"}`, Control{Action: "subscribe", Topic: "a.b"}},
		{ControlOfConn, `{"action":"unsubscribe","topic":"a.*"}`, Control{Action: "unsubscribe", Topic: "a.*"}},
		{ControlOfUser, `{"action":"refresh"}`, Control{Action: "refresh"}},
		{ControlOfGateway, `{"action":"drain"}`, Control{Action: "drain"}},
		{ControlOfGateway, `{"action":"renew"}`, Control{Action: "renew"}},
		{ControlOfGateway, `{"action":"audit"}`, Control{Action: "audit"}},
	} {
		if got, err := ParseControl(test.target, []byte(test.body), controlNow); err != nil || got != test.want {
			t.Errorf("%s %s: got %+v, %v; want %+v", test.target, test.body, got, err, test.want)
		}
	}
}

func TestParseControlNamesTheField(t *testing.T) {
	for _, test := range []struct {
		target      ControlTarget
		body, field string
		says        string
	}{
		{ControlOfUser, ``, "action", "object"},
		{ControlOfUser, `kick`, "action", "object"},
		{ControlOfUser, `[]`, "action", "object"},
		{ControlOfUser, `null`, "action", "disconnect"},
		{ControlOfUser, `{}`, "action", "disconnect"},
		{ControlOfUser, `{"action":"explode"}`, "action", "revoke"},
		{ControlOfUser, `{"action":7}`, "action", "string"},
		{ControlOfUser, `{"action":"drain"}`, "action", "of a user"},
		{ControlOfUser, `{"action":"renew"}`, "action", "of a user"},
		{ControlOfConn, `{"action":"revoke"}`, "action", "of a conn"},
		{ControlOfGateway, `{"action":"disconnect"}`, "action", "drain"},
		{ControlOfUser, `{"action":"disconnect","code":1005}`, "code", "1000"},
		{ControlOfUser, `{"action":"disconnect","code":2999}`, "code", "3000"},
		{ControlOfUser, `{"action":"disconnect","code":5000}`, "code", "4999"},
		{ControlOfUser, `{"action":"disconnect","code":-1}`, "code", "4999"},
		{ControlOfUser, `{"action":"disconnect","code":"4403"}`, "code", "number"},
		{ControlOfUser, `{"action":"disconnect","code":4403.5}`, "code", "number"},
		{ControlOfUser, `{"action":"revoke","code":4001}`, "code", "disconnect"},
		{ControlOfUser, `{"action":"disconnect","reason":[1]}`, "reason", "string"},
		{ControlOfUser, `{"action":"refresh","reason":"x"}`, "reason", "revoke"},
		{ControlOfUser, `{"action":"revoke","before":1760000000}`, "before", "millis"},
		{ControlOfUser, `{"action":"revoke","before":-1}`, "before", "millis"},
		{ControlOfUser, `{"action":"revoke","before":1760000060001}`, "before", "ahead"},
		{ControlOfUser, `{"action":"revoke","before":"now"}`, "before", "millis"},
		{ControlOfUser, `{"action":"disconnect","before":1759999999999}`, "before", "revoke"},
		{ControlOfUser, `{"action":"subscribe"}`, "topic", "topic"},
		{ControlOfUser, `{"action":"subscribe","topic":"a..b"}`, "topic", "topic"},
		{ControlOfUser, `{"action":"unsubscribe","topic":"$SYS.x"}`, "topic", "topic"},
		{ControlOfConn, `{"action":"disconnect","topic":"a"}`, "topic", "unsubscribe"},
	} {
		_, err := ParseControl(test.target, []byte(test.body), controlNow)
		if err == nil || err.Code != InvalidArgument || err.Details["field"] != test.field || !strings.Contains(err.Message, test.says) {
			t.Errorf("%s %s: got %v, want INVALID_ARGUMENT of %s with %q", test.target, test.body, err, test.field, test.says)
		}
	}
}

func TestControlSubjects(t *testing.T) {
	const ns = Namespace("fl")
	for subject, want := range map[string]string{
		"fl.control.user.ann":       "user ann true",
		"fl.control.user.a=40b":     "user a@b true",
		"fl.control.conn.c-1":       "conn c-1 true",
		"fl.control.gateway.g1":     "gateway g1 true",
		"fl.control.user.a.b":       "user  false",
		"fl.control.user.a@b":       "user  false",
		"fl.control.user.":          "user  false",
		"fl.control.group.g":        "group g false",
		"fl.control.user":           "  false",
		"fl.controls.user.ann":      "  false",
		"other.control.user.ann":    "  false",
		"fl.control.user.=C3=BCser": "user üser true",
	} {
		target, id, ok := ns.ParseControl(subject)
		if got := fmt.Sprint(target, " ", id, " ", ok); got != want {
			t.Errorf("%s: got %q, want %q", subject, got, want)
		}
	}
	user, err := ns.ControlUser("a b*>")
	if err != nil {
		t.Fatal(err)
	}
	if _, id, ok := ns.ParseControl(user); !ok || id != "a b*>" {
		t.Errorf("%s: got %q, %t", user, id, ok)
	}
}

func FuzzParseControl(f *testing.F) {
	f.Add("user", []byte(`{"action":"disconnect","code":4403}`))
	f.Add("gateway", []byte(`{"action":"drain"}`))
	f.Add("conn", []byte(`{"action":"subscribe","topic":"a"}`))
	f.Fuzz(func(t *testing.T, target string, body []byte) {
		c, err := ParseControl(ControlTarget(target), body, controlNow)
		switch {
		case err != nil && (err.Code != InvalidArgument || err.Details["field"] == nil):
			t.Fatalf("%s %q: %v names no field", target, body, err)
		case err == nil && (c.Action == "" || c.Code != 0 && !MayCloseWith(c.Code) || c.Topic != "" && CheckPattern(c.Topic) != nil):
			t.Fatalf("%s %q: accepted as %+v", target, body, c)
		}
	})
}

package main

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Where nobody says that it was done, kick fails; nobody to send to is none.
func TestKickThatNobodyHears(t *testing.T) {
	env, out, nc := busEnv(t)
	for _, revoke := range []bool{false, true} {
		if err := (&KickCmd{User: "ann", Revoke: revoke, Wait: time.Second}).Run(t.Context(), env); wire.CodeOf(err) != wire.Unavailable {
			t.Errorf("revoke %t without a gateway: got %q %v, want UNAVAILABLE", revoke, out.String(), err)
		}
	}
	if _, err := nc.SubscribeSync("fl.control.user.ann"); err != nil { // silent
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := (&KickCmd{User: "ann", Wait: 100 * time.Millisecond}).Run(t.Context(), env); wire.CodeOf(err) != wire.DeadlineExceeded {
		t.Errorf("a silent gateway: got %q %v, want DEADLINE_EXCEEDED", out.String(), err)
	}
	if err := (&SendCmd{Args: []string{"ann", "e"}, Wait: time.Second}).Run(t.Context(), env); err != nil || out.String() != "0 connections reached\n" {
		t.Errorf("send to nobody: got %q %v, want 0", out.String(), err)
	}
}

// A revoke is waited for beyond --wait, and leaves the time to the gateways.
func TestKickWaitsUntilARevocationIsStored(t *testing.T) {
	env, out, nc := busEnv(t)
	told := make(chan []byte, 1)
	_, err := nc.Subscribe("fl.control.user.ann", func(m *nats.Msg) {
		told <- m.Data
		time.AfterFunc(500*time.Millisecond, func() { _ = m.Respond([]byte(`{"reached":3}`)) })
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := (&KickCmd{User: "ann", Revoke: true, Wait: 50 * time.Millisecond}).Run(t.Context(), env); err != nil || out.String() != "3 connections reached\n" {
		t.Errorf("got %q %v, want 3", out.String(), err)
	}
	var control wire.Control
	if err := json.Unmarshal(<-told, &control); err != nil || control != (wire.Control{Action: wire.ControlRevoke}) {
		t.Errorf("gateways are told %+v, %v", control, err)
	}
}

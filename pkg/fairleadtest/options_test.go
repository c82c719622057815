package fairleadtest

import (
	"strings"
	"testing"
	"time"
)

func TestSettingsAreThoseOfProduction(t *testing.T) {
	t.Parallel()
	s, err := Options{Settings: map[string]string{"FAIRLEAD_HEARTBEAT": "150ms", "FAIRLEAD_AUTH": "jwt", "FAIRLEAD_REPLAY_INDEX_BYTES": "2000000"}}.read()
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Gateway.Heartbeat; got != 150*time.Millisecond {
		t.Errorf("heartbeat: got %v", got)
	}
	if got := s.Gateway.Auth.Mode; got != "jwt" {
		t.Errorf("auth: got %q, want what was set", got)
	}
	if got := s.Replay.IndexBytes; got != 2_000_000 {
		t.Errorf("index: got %d", got)
	}
	if got := s.Gateway.Limits.OutboundBytes; got != 1<<20 {
		t.Errorf("a setting left alone: got %d, want production's", got)
	}
	if got := s.Gateway.GatewayLease; got != 2*time.Second {
		t.Errorf("lease: got %v, want the test kit's", got)
	}
}

func TestSettingsThatAreNone(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]string{
		"FAIRLEAD_HEARTBEET": "1s", "HEARTBEAT": "1s", "FAIRLEAD_HEARTBEAT": "soon", "FAIRLEAD_HTTP_ADDR": ":80", "FAIRLEAD_NATS_URL": "nats://other",
	} {
		if _, err := (Options{Settings: map[string]string{name: value}}).read(); err == nil || !strings.Contains(strings.ToUpper(err.Error()), strings.TrimPrefix(name, prefix)) {
			t.Errorf("%s=%s: got %v, want an error that names it", name, value, err)
		}
	}
	if _, err := (Options{Gateways: -1}).read(); err == nil {
		t.Error("-1 gateways: got no error")
	}
}

package fairleadtest_test

import (
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/fairleadtest"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestTokensSayWhatTheyAreTold(t *testing.T) {
	t.Parallel()
	s := fairleadtest.Start(t, fairleadtest.Options{Rules: `
topics:
  - {match: "team.{attr.team}.>", subscribe: user, publish: user, presence: {watch: user, join: user, leaveDelay: 0s}}
`})
	ann := s.Client("ann", fairleadtest.Attributes{"team": "red"}, fairleadtest.Info{Value: map[string]string{"name": "Ann"}}, fairleadtest.Claims{Publish: []string{"team.red.a"}})
	view := watching(t, ann, "team.red.a", "join")
	sees(t, view, "ann")
	if got, want := string(view.Now().Users["ann"].Info), `{"name":"Ann"}`; got != want {
		t.Errorf("info: got %s, want %s", got, want)
	}
	publish(t, ann, "team.red.a", 1)
	for topic, why := range map[string]string{"team.red.b": "the claim does not name it", "team.blue.a": "another team's"} {
		if _, err := ann.Publish(within(t), topic, "", 1, client.PublishOptions{}); wire.CodeOf(err) != wire.PermissionDenied {
			t.Errorf("publish to %s: got %v, want %s: %s", topic, err, wire.PermissionDenied, why)
		}
	}
}

func TestATokenThatExpires(t *testing.T) {
	t.Parallel()
	s := fairleadtest.Start(t)
	ann := s.Client("ann", fairleadtest.Claims{Life: 2 * time.Second})
	receive(t, "the end", ann.Done())
	if e := ann.CloseError(); e.Code != wire.CloseUnauthenticated {
		t.Errorf("ended with %v, want 4401", e)
	}
}
